//! Why bytes or a command are refused.
//!
//! Every refusal knows the SQLSTATE that belongs to it and whether the connection can go on:
//! a command that does not parse costs its sender that command, a frame that does not parse costs
//! it the connection, because nothing after it can be trusted to begin where it seems to.

use crate::wire::report::ErrorFields;
use crate::wire::sqlstate;

/// What the functions of this room return.
pub type Result<T> = std::result::Result<T, WireError>;

/// A refusal of something a peer sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A message out of order, or of a type that is not spoken here.
    #[error("{0}")]
    Protocol(String),
    /// A message longer than its type may be in the current phase.
    #[error("{what} of {len} bytes is longer than the {max} allowed")]
    TooLarge {
        /// The message or part of one.
        what: &'static str,
        /// Length announced by the peer, in bytes.
        len: u64,
        /// The limit, in bytes.
        max: usize,
    },
    /// A message whose body does not have the layout of its type.
    #[error("malformed {message}: {reason}")]
    Malformed {
        /// The message.
        message: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A protocol version other than 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0")]
    Version {
        /// Requested major version.
        major: u16,
        /// Requested minor version.
        minor: u16,
    },
    /// The session is refused and ends: startup parameters, authentication.
    #[error("{message}")]
    Fatal {
        /// One of [`sqlstate`].
        sqlstate: &'static str,
        /// What is wrong.
        message: String,
        /// How to mend it.
        hint: Option<&'static str>,
    },
    /// The command is refused, the session goes on.
    #[error("{message}")]
    Refused {
        /// One of [`sqlstate`].
        sqlstate: &'static str,
        /// What is wrong.
        message: String,
        /// How to mend it.
        hint: Option<&'static str>,
    },
}

impl WireError {
    /// The code to send with this refusal.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Protocol(_) | Self::TooLarge { .. } | Self::Malformed { .. } => {
                sqlstate::PROTOCOL_VIOLATION
            }
            Self::Version { .. } => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::Fatal { sqlstate, .. } | Self::Refused { sqlstate, .. } => sqlstate,
        }
    }

    /// Whether the connection has to be closed once the refusal is sent.
    pub fn closes(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    /// How to mend it, where there is something to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Fatal { hint, .. } | Self::Refused { hint, .. } => *hint,
            _ => None,
        }
    }

    /// The ErrorResponse for this refusal: FATAL if the connection closes, else ERROR.
    pub fn report(&self) -> ErrorFields {
        let new = if self.closes() {
            ErrorFields::fatal
        } else {
            ErrorFields::error
        };
        let report = new(self.sqlstate(), self.to_string());
        match self.hint() {
            Some(hint) => report.with_hint(hint),
            None => report,
        }
    }

    pub(super) fn malformed(message: &'static str, reason: &'static str) -> Self {
        Self::Malformed { message, reason }
    }

    pub(super) fn fatal(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::Fatal {
            sqlstate,
            message: message.into(),
            hint: None,
        }
    }

    pub(super) fn refused(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::Refused {
            sqlstate,
            message: message.into(),
            hint: None,
        }
    }

    /// PostgreSQL's whole answer to a command it cannot parse.
    pub(super) fn syntax() -> Self {
        Self::refused(sqlstate::SYNTAX_ERROR, "syntax error")
    }
}
