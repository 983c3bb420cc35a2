//! What an engine writes into the log and reads back: entries and their types.
//!
//! An entry is opaque here: this room knows its type, transaction and checksum, never what its
//! data mean. How an entry lies on disk is the record format's business.

use bytes::Bytes;

use crate::lsn::Lsn;

/// What a record of the log says. The numbers are the on-disk form and never change.
#[derive(Debug, Copy, Clone, Eq, PartialEq, Hash)]
#[repr(u8)]
pub enum WalEntryType {
    /// A row or key was inserted.
    Insert = 1,
    /// A row or key was changed.
    Update = 2,
    /// A row or key was deleted.
    Delete = 3,
    /// A transaction begins.
    TxBegin = 4,
    /// A transaction commits; only now may a standby apply it.
    TxCommit = 5,
    /// A transaction is rolled back.
    TxRollback = 6,
    /// The store made everything up to some position durable.
    Checkpoint = 7,
    /// A table was created, changed or dropped.
    SchemaChange = 8,
    /// A branch was created, merged or dropped.
    BranchOp = 9,
    /// The log's own: first record of every segment file.
    SegmentHeader = 64,
    /// The log's own: fills a segment up to its end; its payload is zeros.
    Filler = 65,
    /// The log's own: a timeline was opened here. Rolls back every open transaction.
    NewTimeline = 66,
    /// The log's own: voters with their advertised addresses, policy, slots.
    Config = 67,
}

impl WalEntryType {
    /// The type with on-disk number `number`, or `None` for one this version does not know.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Insert,
            2 => Self::Update,
            3 => Self::Delete,
            4 => Self::TxBegin,
            5 => Self::TxCommit,
            6 => Self::TxRollback,
            7 => Self::Checkpoint,
            8 => Self::SchemaChange,
            9 => Self::BranchOp,
            64 => Self::SegmentHeader,
            65 => Self::Filler,
            66 => Self::NewTimeline,
            67 => Self::Config,
            _ => return None,
        })
    }

    /// The on-disk number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether the log writes this type for itself; an engine may not append it.
    pub const fn is_internal(self) -> bool {
        self.number() >= 64
    }
}

/// One entry of the log.
///
/// ```
/// use mainstay_storage::{WalEntry, WalEntryType};
/// let entry = WalEntry::new(WalEntryType::Insert, None, "ada");
/// assert!(entry.lsn.is_zero()); // assigned when it is appended
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalEntry {
    /// Where the entry's record starts. [`Lsn::ZERO`] asks the log to assign it; any other value
    /// must be the next position of the log.
    pub lsn: Lsn,
    /// The transaction it belongs to; `None` is a transaction of its own.
    pub tx_id: Option<u64>,
    /// What it says.
    pub entry_type: WalEntryType,
    /// The engine's bytes, at most a quarter of the segment size.
    pub data: Bytes,
    /// CRC-32 (IEEE) of `data`. Zero asks the log to compute it; any other value is verified.
    pub checksum: u32,
}

impl WalEntry {
    /// An entry whose position and checksum the log fills in.
    pub fn new(entry_type: WalEntryType, tx_id: Option<u64>, data: impl Into<Bytes>) -> Self {
        Self {
            lsn: Lsn::ZERO,
            tx_id,
            entry_type,
            data: data.into(),
            checksum: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_maps_back_to_its_type() {
        let known = (0..=255u8)
            .filter_map(WalEntryType::from_number)
            .collect::<Vec<_>>();
        assert_eq!(known.len(), 13);
        for entry_type in known {
            assert_eq!(
                WalEntryType::from_number(entry_type.number()),
                Some(entry_type)
            );
        }
        assert_eq!(
            WalEntryType::from_number(0),
            None,
            "zeros must never read as a record"
        );
    }
}
