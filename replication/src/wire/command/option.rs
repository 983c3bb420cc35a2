//! Options as they are written, before a command says what they mean.
//!
//! A name, folded, and perhaps a value; read as text, number or boolean with PostgreSQL's rules
//! and words. The options of slots, which are few, are given their meaning here as well.

use super::{OPTIONS_MAX, SlotKind, SnapshotAction};
use crate::wire::{Result, WireError, sqlstate};

/// An option as it was written: a folded name and perhaps a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawOption {
    pub(super) name: String,
    pub(super) value: Option<RawValue>,
}

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RawValue {
    Text(String),
    Number(u64),
}

impl RawOption {
    pub(super) fn flag(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: None,
        }
    }

    /// The value as text; an option without one is refused.
    pub(super) fn text(&self) -> Result<String> {
        match &self.value {
            Some(RawValue::Text(text)) => Ok(text.clone()),
            Some(RawValue::Number(number)) => Ok(number.to_string()),
            None => Err(self.refuse("requires a parameter")),
        }
    }

    /// The value as a boolean; an option without one is true.
    pub(super) fn boolean(&self) -> Result<bool> {
        let yes = match &self.value {
            None | Some(RawValue::Number(1)) => Some(true),
            Some(RawValue::Number(0)) => Some(false),
            Some(RawValue::Number(_)) => None,
            Some(RawValue::Text(text)) => match text.to_ascii_lowercase().as_str() {
                "true" | "on" => Some(true),
                "false" | "off" => Some(false),
                _ => None,
            },
        };
        yes.ok_or_else(|| self.refuse("requires a Boolean value"))
    }

    /// The value as a number.
    pub(super) fn number(&self) -> Result<u64> {
        match self.value {
            Some(RawValue::Number(number)) => Ok(number),
            _ => Err(self.refuse("requires a numeric value")),
        }
    }

    fn refuse(&self, why: &str) -> WireError {
        refused(format!("{} {why}", self.name))
    }
}

/// The kind of slot that `options` ask for; logical if there is a plugin.
pub(super) fn slot_kind(plugin: Option<String>, options: &[RawOption]) -> Result<SlotKind> {
    let (mut snapshot, mut reserve_wal) = (None, None);
    let (mut two_phase, mut failover) = (None, None);
    let logical = plugin.is_some();
    for option in options {
        let (allowed, repeated) = match option.name.as_str() {
            "snapshot" => (
                logical,
                snapshot.replace(snapshot_action(option)?).is_some(),
            ),
            "reserve_wal" => (!logical, reserve_wal.replace(option.boolean()?).is_some()),
            "two_phase" => (logical, two_phase.replace(option.boolean()?).is_some()),
            "failover" => (logical, failover.replace(option.boolean()?).is_some()),
            name => return Err(unrecognised(name)),
        };
        if repeated || !allowed {
            return Err(refused("conflicting or redundant options".to_owned()));
        }
    }
    Ok(match plugin {
        None => SlotKind::Physical {
            reserve_wal: reserve_wal.unwrap_or(false),
        },
        Some(plugin) => SlotKind::Logical {
            plugin,
            snapshot: snapshot.unwrap_or(SnapshotAction::Export),
            two_phase: two_phase.unwrap_or(false),
            failover: failover.unwrap_or(false),
        },
    })
}

fn snapshot_action(option: &RawOption) -> Result<SnapshotAction> {
    match option.text()?.as_str() {
        "export" => Ok(SnapshotAction::Export),
        "use" => Ok(SnapshotAction::Use),
        "nothing" => Ok(SnapshotAction::Nothing),
        value => Err(refused(format!(
            "unrecognized value for CREATE_REPLICATION_SLOT option \"snapshot\": \"{value}\""
        ))),
    }
}

/// PostgreSQL has no better code for an unknown slot option.
pub(super) fn unrecognised(name: &str) -> WireError {
    WireError::refused(
        sqlstate::INTERNAL_ERROR,
        format!("unrecognized option: {name}"),
    )
}

/// A refusal of a command that parses and cannot be meant.
pub(super) fn refused(message: String) -> WireError {
    WireError::refused(sqlstate::SYNTAX_ERROR, message)
}

/// Adds to a list of options, which is bounded.
pub(super) fn push_bounded<T>(list: &mut Vec<T>, item: T) -> Result<()> {
    if list.len() == OPTIONS_MAX {
        return Err(refused(format!("more than {OPTIONS_MAX} options")));
    }
    list.push(item);
    Ok(())
}
