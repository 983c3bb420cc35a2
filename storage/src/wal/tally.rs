//! How many transactions ended in a log, by position, since it was opened.
//!
//! Whoever lacks the end of this log may ask how many transactions it lacks. Marks are kept at the
//! ends of what was appended together, at most [`MARKS_MAX`] of them; the older half is thinned
//! when there are more. A mark is always exact; between two of them nothing is known. A transaction
//! ends with its `TxCommit`, or is one entry without a transaction id.

use std::collections::VecDeque;

use crate::entry::WalEntryType;
use crate::lsn::Lsn;

/// Most marks that are kept.
const MARKS_MAX: usize = 4096;

/// How many transactions ended below a position of a log since it was opened.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct TallyMark {
    /// The position.
    pub at: Lsn,
    /// How many ended at or below it. Only differences mean something.
    pub transactions: u64,
}

/// The marks of one log, in order; never empty.
#[derive(Debug)]
pub(crate) struct Tally(VecDeque<TallyMark>);

impl Tally {
    /// A log that was opened with its end at `at`.
    pub(crate) fn new(at: Lsn) -> Self {
        let transactions = 0;
        Self(VecDeque::from([TallyMark { at, transactions }]))
    }

    /// Log up to `at` was appended, in which `ended` transactions end.
    pub(crate) fn note(&mut self, at: Lsn, ended: u64) {
        let before = self.newest().transactions;
        let transactions = before + ended;
        if self.0.len() >= MARKS_MAX {
            self.thin();
        }
        self.0.push_back(TallyMark { at, transactions });
    }

    /// The log ends at `to` now, and begins to count anew.
    pub(crate) fn restart(&mut self, to: Lsn) {
        let transactions = self.until(to).transactions;
        self.0.clear();
        self.0.push_back(TallyMark {
            at: to,
            transactions,
        });
    }

    /// The newest mark at or below `to`; the oldest if all are above.
    pub(crate) fn until(&self, to: Lsn) -> TallyMark {
        let above = self.0.partition_point(|mark| mark.at <= to);
        self.0[above.saturating_sub(1)]
    }

    fn newest(&self) -> TallyMark {
        self.0[self.0.len() - 1]
    }

    /// Drops every second mark of the older half.
    fn thin(&mut self) {
        let half = self.0.len() / 2;
        let mut at = 0;
        self.0.retain(|_| {
            at += 1;
            at > half || at % 2 == 1
        });
    }
}

/// Whether an entry of this type and transaction id ends a transaction.
pub(crate) fn ends(entry_type: WalEntryType, tx_id: u64) -> bool {
    use WalEntryType::{BranchOp, Delete, Insert, SchemaChange, TxCommit, Update};
    let alone = matches!(
        entry_type,
        Insert | Update | Delete | SchemaChange | BranchOp
    );
    entry_type == TxCommit || (alone && tx_id == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_exact_however_many_there_were() {
        let mut tally = Tally::new(Lsn::new(100));
        let many = 5 * MARKS_MAX as u64;
        for at in 1..=many {
            tally.note(Lsn::new(100 + 10 * at), 2);
        }
        assert!(tally.0.len() <= MARKS_MAX);
        for at in [1, 77, many / 2, many - 1, many] {
            let asked = Lsn::new(100 + 10 * at);
            let mark = tally.until(asked);
            assert!(mark.at <= asked);
            assert_eq!(mark.transactions, mark.at.bytes_since(Lsn::new(100)) / 5);
        }
        let newest = tally.until(Lsn::MAX);
        assert_eq!(newest.at, Lsn::new(100 + 10 * many));
        assert_eq!(
            tally.until(Lsn::new(100 + 10 * many - 10)).transactions,
            2 * many - 2
        );
        assert_eq!(tally.until(Lsn::ZERO).at, Lsn::new(100));
    }

    #[test]
    fn what_was_cut_is_not_counted() {
        let mut tally = Tally::new(Lsn::ZERO);
        for at in 1..=9 {
            tally.note(Lsn::new(at * 10), 1);
        }
        tally.restart(Lsn::new(45));
        tally.note(Lsn::new(60), 1);
        let mark = tally.until(Lsn::MAX);
        assert_eq!((mark.at, mark.transactions), (Lsn::new(60), 5));
    }

    #[test]
    fn a_transaction_ends_once() {
        use WalEntryType::{Checkpoint, Config, Insert, TxBegin, TxCommit, TxRollback};
        let ended = [(TxBegin, 7), (Insert, 7), (TxCommit, 7), (Insert, 0)];
        let ended = ended.map(|(entry_type, id)| ends(entry_type, id));
        assert_eq!(ended, [false, false, true, true]);
        for none in [Checkpoint, Config, TxRollback] {
            assert!(!ends(none, 0), "{none:?}");
        }
    }
}
