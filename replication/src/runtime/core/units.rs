//! Transactions that appenders have open in the log, and what a new timeline does to them.
//!
//! A timeline's first entry rolls back what is open. An appender that goes on with such a
//! transaction is refused, because its entries would be refused wherever the log is applied. Ids
//! are noted from `TxBegin` to `TxCommit` or `TxRollback`.
//!
//! It refuses to know contents, and engines that write to the log themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use mainstay_storage::{Lsn, WalEntry, WalEntryType};

use super::Core;
use crate::error::{Error, Result};

/// Most transactions that may be open at once.
const OPEN_UNITS_MAX: usize = 65_536;

/// Open transactions by id, with the number of the timeline on which each began.
#[derive(Debug, Default)]
pub(super) struct OpenUnits(BTreeMap<u64, u32>);

impl OpenUnits {
    /// Whether all of `entries` may be appended on timeline `current`.
    fn check(&self, entries: &[WalEntry], started_on: u32, current: u32) -> Result<()> {
        let mut begun = BTreeSet::new();
        for entry in entries {
            let Some(id) = entry.tx_id.filter(|id| *id != 0) else {
                continue;
            };
            let known = self.0.get(&id).copied().unwrap_or(started_on);
            if entry.entry_type == WalEntryType::TxBegin {
                begun.insert(id);
            } else if known != current && !begun.contains(&id) {
                return Err(Error::Refused(format!(
                    "transaction {id} was rolled back when timeline {current} began; begin it again"
                )));
            }
        }
        match self.0.len() + begun.len() > OPEN_UNITS_MAX {
            true => Err(Error::Refused(format!(
                "more than {OPEN_UNITS_MAX} transactions would be open"
            ))),
            false => Ok(()),
        }
    }

    /// Notes what `entries`, which were appended on timeline `current`, begin and end.
    fn note(&mut self, entries: &[WalEntry], current: u32) {
        for entry in entries {
            let Some(id) = entry.tx_id else { continue };
            match entry.entry_type {
                WalEntryType::TxBegin => {
                    self.0.insert(id, current);
                }
                WalEntryType::TxCommit | WalEntryType::TxRollback => {
                    self.0.remove(&id);
                }
                _ => {}
            }
        }
    }
}

impl Core {
    /// Appends entries of transactions that may be open across calls.
    ///
    /// # Errors
    /// [`Error::Refused`] for a transaction that was rolled back by a new timeline, for too many,
    /// and while the policy failed; [`Error::NotRunning`] when this node stops; the log's. Nothing
    /// was appended then.
    pub(crate) fn append(&self, entries: &[WalEntry]) -> Result<Range<Lsn>> {
        let _appending = self.appending()?;
        // Of one piece with the timeline that it is appended on.
        let _unit = self.wal.unit();
        if let Some(why) = self.standing.borrow().refusal() {
            return Err(Error::Refused(format!("nothing was appended: {why}")));
        }
        let current = self.wal.timeline().number;
        let started_on = self.started_on.number;
        self.units.lock().check(entries, started_on, current)?;
        let appended = self.wal.append(entries)?;
        self.units.lock().note(entries, current);
        Ok(appended)
    }
}

#[cfg(test)]
mod tests {
    use WalEntryType::{Insert, TxBegin, TxCommit};

    use super::*;

    fn entry(id: u64, entry_type: WalEntryType) -> WalEntry {
        WalEntry::new(entry_type, Some(id), "")
    }

    #[test]
    fn a_transaction_of_an_older_timeline_does_not_go_on() {
        let mut units = OpenUnits::default();
        let mut append = |id, entry_type, current| {
            let entries = [entry(id, entry_type)];
            units.check(&entries, 1, current)?;
            units.note(&entries, current);
            Ok::<_, Error>(())
        };
        append(1, TxBegin, 1).unwrap();
        append(1, Insert, 1).unwrap();
        for entry_type in [Insert, TxCommit] {
            assert!(append(1, entry_type, 2).is_err(), "{entry_type:?}");
            assert!(
                append(7, entry_type, 2).is_err(),
                "it began before the start"
            );
        }
        append(2, TxBegin, 2).unwrap();
        append(2, TxCommit, 2).unwrap();
        append(1, TxBegin, 2).unwrap();
        append(1, TxCommit, 2).unwrap();
        assert!(units.0.is_empty(), "{units:?}");
    }

    #[test]
    fn a_whole_transaction_is_appended_on_any_timeline() {
        let units = OpenUnits::default();
        let whole = [entry(1, TxBegin), entry(1, Insert), entry(1, TxCommit)];
        units.check(&whole, 1, 3).unwrap();
        units
            .check(&[WalEntry::new(Insert, None, "")], 1, 3)
            .unwrap();
        let many = (1..=65_537)
            .map(|id| entry(id, TxBegin))
            .collect::<Vec<_>>();
        assert!(units.check(&many, 1, 1).is_err());
    }
}
