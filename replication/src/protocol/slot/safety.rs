//! How safe the log is that a slot needs, in PostgreSQL's words.
//!
//! A look at one slot and at what is kept. It changes neither; whether a slot is given up is
//! decided by [`SlotSet`](super::SlotSet).

use mainstay_storage::Lsn;

use super::Slot;

/// What decides how safe the log is that a slot needs, in bytes.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Keep {
    /// The end of the log.
    pub end: Lsn,
    /// The oldest position still there.
    pub oldest: Lsn,
    /// What is kept in any case.
    pub reserve: u64,
    /// What a slot may hold back, if that is limited.
    pub slot_max: Option<u64>,
}

/// How safe the log is that a slot needs.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum WalStatus {
    /// Kept in any case.
    Reserved,
    /// Kept for the slot.
    Extended,
    /// About to go, because the slot holds back too much.
    Unreserved,
    /// Gone, or given up.
    Lost,
}

impl WalStatus {
    /// PostgreSQL's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Extended => "extended",
            Self::Unreserved => "unreserved",
            Self::Lost => "lost",
        }
    }
}

impl Slot {
    /// How safe its log is; `None` when it needs none yet.
    pub fn wal_status(&self, keep: &Keep) -> Option<WalStatus> {
        if self.invalidated {
            return Some(WalStatus::Lost);
        }
        if self.restart_lsn.is_zero() {
            return None;
        }
        let holds = keep.end.bytes_since(self.restart_lsn);
        Some(if self.restart_lsn < keep.oldest {
            WalStatus::Lost
        } else if keep.slot_max.is_some_and(|max| holds > max) {
            WalStatus::Unreserved
        } else if holds > keep.reserve {
            WalStatus::Extended
        } else {
            WalStatus::Reserved
        })
    }
}
