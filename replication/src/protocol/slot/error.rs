//! Why a request for a slot is refused, in PostgreSQL's words and codes.

use super::{SLOT_NAME_BYTES_MAX, SlotKind};

/// Why a request for a slot is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// A name without a letter.
    #[error("replication slot name \"{0}\" is too short")]
    NameTooShort(String),
    /// A name over [`SLOT_NAME_BYTES_MAX`]; its beginning.
    #[error("replication slot name \"{0}\" is too long")]
    NameTooLong(String),
    /// A name with more than lower-case letters, digits and underscores.
    #[error("replication slot name \"{0}\" contains invalid character")]
    Name(String),
    /// Taken name.
    #[error("replication slot \"{0}\" already exists")]
    Exists(String),
    /// Unknown name.
    #[error("replication slot \"{0}\" does not exist")]
    Missing(String),
    /// Another session has it.
    #[error("replication slot \"{name}\" is active for session {session}")]
    Active {
        /// Which slot.
        name: String,
        /// Who.
        session: u64,
    },
    /// It was given up.
    #[error(
        "replication slot \"{0}\" was invalidated because it held back too much log, or nobody \
         used it for too long; drop it and take a new base backup"
    )]
    Invalidated(String),
    /// It reads the other kind.
    #[error("replication slot \"{name}\" is {}", .kind.as_str())]
    WrongKind {
        /// Which slot.
        name: String,
        /// What it is.
        kind: SlotKind,
    },
    /// Too many.
    #[error("all replication slots are in use")]
    Full(usize),
}

impl SlotError {
    /// PostgreSQL's code for it; one too many is told as one too many streams is.
    pub const fn sqlstate(&self) -> &'static str {
        match self {
            Self::NameTooShort(_) | Self::Name(_) => "42602",
            Self::NameTooLong(_) => "42622",
            Self::Exists(_) => "42710",
            Self::Missing(_) => "42704",
            Self::Active { .. } => "55006",
            Self::Invalidated(_) | Self::WrongKind { .. } => "55000",
            Self::Full(_) => "53300",
        }
    }
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Name(_) => Some(
                "Replication slot names may only contain lower case letters, numbers, and the \
                 underscore character."
                    .to_owned(),
            ),
            Self::Full(max) => Some(format!(
                "Free one or increase max_replication_slots (currently {max})."
            )),
            _ => None,
        }
    }
}

/// Checks the name of a slot.
///
/// # Errors
/// In PostgreSQL's words.
pub fn check_slot_name(name: &str) -> Result<(), SlotError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let shown = || name.chars().take(SLOT_NAME_BYTES_MAX).collect::<String>();
    if name.is_empty() {
        Err(SlotError::NameTooShort(shown()))
    } else if name.len() > SLOT_NAME_BYTES_MAX {
        Err(SlotError::NameTooLong(shown()))
    } else if !name.bytes().all(plain) {
        Err(SlotError::Name(shown()))
    } else {
        Ok(())
    }
}
