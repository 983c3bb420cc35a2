//! Driving the log into a store: the one redo.
//!
//! Crash recovery, a standby's apply and restore all go through an [`Applicator`]: it reads the
//! log from the checkpoint, assembles whole transactions and hands them to the store, never beyond
//! the position it is given. It decides nothing about that position: whoever calls it knows what
//! is flushed and what is committed.

use std::fmt;
use std::sync::Arc;

use crate::canary;
use crate::entry::WalEntry;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::redo::{LogSource, RedoOptions, TransactionAssembler};
use crate::store::Store;
use crate::wal::{Wal, WalReader};

/// Replays a log into a store, in steps.
pub struct Applicator {
    reader: WalReader,
    assembler: TransactionAssembler,
}

impl Applicator {
    /// Replay of `wal` into `store`, from the checkpoint on. What the store made durable was
    /// committed, whatever of that the log remembers.
    ///
    /// # Errors
    /// [`Error::Gap`] when the log that the store needs was removed; [`Error::Corrupt`] when the
    /// store holds more than the log, which happens when one of them was replaced.
    pub fn new(wal: &Wal, store: &dyn Store) -> Result<Self> {
        let control = wal.control();
        let end = wal.appended();
        if store.durable() > end {
            return Err(Error::Corrupt {
                path: wal.dir().to_owned(),
                what: "the end of the log",
                at: end,
                proven: store.durable(),
                why: format!("the store already holds log up to {}", store.durable()),
            });
        }
        wal.advance_commit(store.durable());
        let reader = wal.reader(control.checkpoint)?;
        let log = Arc::new(wal.clone());
        let assembler = TransactionAssembler::new(store.applied(), log, RedoOptions::default());
        Ok(Self { reader, assembler })
    }

    /// Applies every transaction that ends at or below `upto`, and returns the position up to
    /// which the log was read.
    ///
    /// # Errors
    /// The log's or the store's; what was applied before stays applied, and calling again goes on
    /// from the failed transaction only for an error of the log.
    pub fn apply_upto(&mut self, store: &mut dyn Store, upto: Lsn) -> Result<Lsn> {
        while let Some((entry, end)) = self.reader.next_entry(upto)? {
            if let Some(transaction) = self.assembler.push(entry, end)? {
                store.apply(&transaction)?;
            }
        }
        Ok(self.reader.at())
    }

    /// Where a replay after a crash must begin, for a store that is durable up to `durable`: the
    /// position to checkpoint the log at.
    ///
    /// Never above what was read: a store that was opened again may be durable further on, where
    /// transactions may be open that nobody has seen begin.
    pub fn safe_restart(&mut self, durable: Lsn) -> Lsn {
        let known = match canary("checkpoint-what-is-unread") {
            true => durable,
            false => durable.min(self.position()),
        };
        self.assembler.safe_restart(known)
    }

    /// Up to where the log was read.
    pub fn position(&self) -> Lsn {
        self.reader.at()
    }
}

impl fmt::Debug for Applicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Applicator(at {})", self.position())
    }
}

impl LogSource for Wal {
    fn entries(
        &self,
        from: Lsn,
        to: Lsn,
    ) -> Box<dyn Iterator<Item = Result<(WalEntry, Lsn)>> + Send> {
        let mut reader = match self.reader(from) {
            Ok(reader) => reader,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        Box::new(std::iter::from_fn(move || {
            reader.next_entry(to).transpose()
        }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Change, MemoryStore, NewLog, OsDisk, SegmentSize, WalEntryType, WalOptions};
    use crate::{CrashMode, ReadAt, SimDisk, TableId};

    const TABLE: TableId = 1;

    fn put(key: &str) -> Change {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::new());
        Change::Put {
            table: TABLE,
            key,
            value,
        }
    }

    #[test]
    fn no_replay_begins_beyond_what_was_read_although_the_store_is_durable_further_on() {
        let dir = tempfile::tempdir().unwrap();
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let wal = Wal::create(Arc::new(OsDisk), dir.path(), new, &options).unwrap();
        let entry = |entry_type, id, data| WalEntry::new(entry_type, Some(id), data);
        let change = |id, key| {
            let change = put(key);
            entry(change.entry_type(), id, change.encode())
        };
        let begin = |id| entry(WalEntryType::TxBegin, id, Bytes::new());
        let commit = |id| entry(WalEntryType::TxCommit, id, Bytes::new());
        // The second transaction is open where the first one ends.
        let first = [
            begin(1),
            begin(2),
            change(2, "b"),
            change(1, "a"),
            commit(1),
        ];
        let durable = wal.append(&first).unwrap().end;
        let end = wal.append(&[commit(2)]).unwrap().end;
        wal.flushed().wait_blocking(end, None).unwrap();
        let disk = SimDisk::new(1);
        let mut store = MemoryStore::new(Arc::new(disk));
        let mut before = Applicator::new(&wal, &store).unwrap();
        before.apply_upto(&mut store, durable).unwrap();
        store.checkpoint(durable).unwrap();
        assert_eq!((store.applied(), store.durable()), (durable, durable));

        let mut after = Applicator::new(&wal, &store).unwrap();
        let restart = after.safe_restart(store.durable());
        assert_eq!(restart, after.position());
        wal.checkpoint(restart).unwrap();
        let mut again = Applicator::new(&wal, &store).unwrap();
        again.apply_upto(&mut store, end).unwrap();
        let row = store.reader().get(TABLE, b"b", end).unwrap();
        assert_eq!(row, Some(Bytes::new()));
    }

    #[test]
    fn what_the_store_made_durable_is_committed_after_a_power_cut_too() {
        let (disk, dir) = (SimDisk::new(1), std::path::Path::new("/node"));
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let wal = Wal::create(Arc::new(disk.clone()), dir, new, &options).unwrap();
        wal.set_commit_follows(false);
        let change = put("a");
        let entry = WalEntry::new(change.entry_type(), None, change.encode());
        let end = wal.append(&[entry]).unwrap().end;
        wal.flushed().wait_blocking(end, None).unwrap();
        wal.advance_commit(end);
        let mut store = MemoryStore::new(Arc::new(SimDisk::new(2)));
        let mut applicator = Applicator::new(&wal, &store).unwrap();
        applicator.apply_upto(&mut store, end).unwrap();
        store.checkpoint(end).unwrap();
        drop((applicator, wal));
        disk.crash(CrashMode::LoseUnsynced);
        let (wal, _) = Wal::open(Arc::new(disk), dir, &options).unwrap();
        wal.set_commit_follows(false);
        let mut applicator = Applicator::new(&wal, &store).unwrap();
        assert_eq!(wal.commit().get(), end);
        applicator.apply_upto(&mut store, end).unwrap();
        assert_eq!(store.applied(), end);
    }
}
