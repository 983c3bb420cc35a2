//! Committing: a transaction is decided, gets its place in the log, and goes into the store.
//!
//! One at a time, under the lock of [`Commits`]. This room knows what an insert may have to wait
//! for, so that a thread that others need is not held up; it waits for no level.

use std::mem;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use mainstay_storage::{
    Change, Draft, EntrySource, Error as StorageError, LogSource, LsmReader, Lsn, RowKey, Timeline,
    Transaction, Wal, WalEntry, WalEntryType, WriteSet,
};
use parking_lot::MutexGuard;

use super::{Commits, Engine, Placed};
use crate::error::{Error, Result};

/// Entries appended to the log at once while a large transaction is written.
const CHUNK_ENTRIES_MAX: usize = 1024;

/// Bytes of changes appended to the log at once while a large transaction is written.
const CHUNK_BYTES_MAX: u64 = 4 << 20;

/// What an encoded change takes beside its bytes: its variant, table and two lengths.
const CHANGE_HEAD_MAX: usize = 16;

/// Bytes of changes that are encoded into one allocation, which lives until the last of them is
/// written.
const ENCODED_BYTES: usize = 1 << 20;

/// Bytes appended and not flushed from which on an append may wait for the disk.
const UNFLUSHED_BYTES_SLOW: u64 = 16 << 20;

/// How long a thread that others need may wait for the commit before its own.
const TURN_WAIT_MAX: Duration = Duration::from_millis(1);

impl Engine {
    /// Decides `draft`, gives it its place in the log and inserts it. Does not wait for its level.
    ///
    /// # Errors
    /// [`Error::NotPrimary`], [`Error::Stopped`], conflicts, limits, a full disk: nothing happened
    /// then. [`Error::Unknown`] when the store failed after the log took the transaction; all
    /// further commits are refused then.
    pub(crate) fn commit(&self, draft: &mut Draft<LsmReader>) -> Result<Placed> {
        let commits = self.commits.lock();
        self.stalled.store(false, Ordering::Release);
        self.commit_next(commits, draft)
    }

    /// As [`commit`](Self::commit), or `None` when that would hold up this thread: for something
    /// slow, or for another commit that waits for something slow.
    pub(crate) fn commit_at_once(&self, draft: &mut Draft<LsmReader>) -> Option<Result<Placed>> {
        // A turn takes microseconds. Where one waited in vain, no more threads are held up.
        let commits = match self.stalled.load(Ordering::Acquire) {
            true => self.commits.try_lock(),
            false => self.commits.try_lock_for(TURN_WAIT_MAX),
        };
        self.stalled.store(commits.is_none(), Ordering::Release);
        let commits = commits?;
        let writes = draft.writes();
        let slow = writes.has_spilled() || self.would_block(writes.bytes());
        (!slow).then(|| self.commit_next(commits, draft))
    }

    fn commit_next(
        &self,
        mut commits: MutexGuard<'_, Commits>,
        draft: &mut Draft<LsmReader>,
    ) -> Result<Placed> {
        self.check_writable()?;
        draft.validate(&self.window.lock())?;
        let snapshot = draft.snapshot();
        if draft.writes().is_empty() {
            return Ok(Placed { end: snapshot });
        }
        if draft.writes().has_spilled() {
            let end = self.commit_large(&mut commits, draft.writes())?;
            self.committed(snapshot, draft.writes().keys(), end);
            return Ok(Placed { end });
        }
        let changes = draft.take_changes();
        let end = self.commit_small(&mut commits, &changes)?;
        let keys = changes.iter().map(|change| Ok(change.row_key()));
        self.committed(snapshot, keys, end);
        Ok(Placed { end })
    }

    /// Remembers what a transaction that read at `snapshot` wrote, for those that began before it.
    fn committed(
        &self,
        snapshot: Lsn,
        keys: impl Iterator<Item = mainstay_storage::Result<RowKey>>,
        end: Lsn,
    ) {
        let mut window = self.window.lock();
        window.advance(self.store.applied());
        window.record_own(snapshot, keys, end);
    }

    /// What became of a transaction that the log took and the store did not.
    fn not_inserted(&self, end: Lsn, error: &StorageError) -> Error {
        self.refuse_writes();
        // A store that waited in vain for a log that stopped says only that it ended.
        let stopped = self
            .wal
            .poisoned()
            .filter(|_| matches!(error, StorageError::Closed));
        let why = stopped.as_ref().unwrap_or(error).to_string();
        let timeline = self.written_on(end);
        Error::Unknown {
            lsn: end,
            timeline,
            why,
        }
    }

    fn commit_small(&self, commits: &mut Commits, changes: &[Change]) -> Result<Lsn> {
        let mut entries = Vec::with_capacity(changes.len() + 3);
        let unit = self.wal.unit();
        entries.extend(commits.roll_back(self.wal.timeline()));
        let id = (changes.len() > 1).then(|| commits.next_id());
        let mark = |entry_type| WalEntry::new(entry_type, id, Bytes::new());
        entries.extend(id.map(|_| mark(WalEntryType::TxBegin)));
        entries_of(changes, id, &mut entries);
        entries.extend(id.map(|_| mark(WalEntryType::TxCommit)));
        let end = self.wal.append(&entries)?.end;
        drop(unit);
        commits.abandoned = None;
        let inserted = self.store.insert(end, changes);
        inserted.map_err(|error| self.not_inserted(end, &error))?;
        Ok(end)
    }

    /// Writes a transaction that does not fit in memory to the log in pieces, waits until it can be
    /// read there, and inserts it from there.
    fn commit_large(&self, commits: &mut Commits, writes: &WriteSet) -> Result<Lsn> {
        let id = commits.next_id();
        let unit = self.wal.unit();
        let timeline = self.wal.timeline();
        let entries = commits.roll_back(timeline);
        let begin = WalEntry::new(WalEntryType::TxBegin, Some(id), Bytes::new());
        let entries = entries.into_iter().chain([begin]).collect::<Vec<_>>();
        let first = self.wal.append(&entries)?;
        // From here on the log holds an open transaction until it is committed or rolled back.
        commits.abandoned = Some((id, timeline));
        let mut chunk = Vec::new();
        let (mut chunk_bytes, mut bytes) = (0, 0);
        for change in writes.changes() {
            let change = change?;
            let entry = WalEntry::new(change.entry_type(), Some(id), change.encode());
            chunk_bytes += entry.data.len() as u64;
            bytes += entry.data.len() as u64;
            chunk.push(entry);
            if chunk.len() == CHUNK_ENTRIES_MAX || chunk_bytes >= CHUNK_BYTES_MAX {
                self.wal.append(&chunk)?;
                chunk.clear();
                chunk_bytes = 0;
            }
        }
        chunk.push(WalEntry::new(
            WalEntryType::TxCommit,
            Some(id),
            Bytes::new(),
        ));
        let end = self.wal.append(&chunk)?.end;
        drop(unit);
        commits.abandoned = None;
        let wal = self.wal.clone();
        let source = FromLog {
            wal,
            from: first.start,
            to: end,
            id,
        };
        let inserted = self.insert_logged(source, bytes);
        inserted.map_err(|error| self.not_inserted(end, &error))?;
        Ok(end)
    }

    /// Inserts a transaction of `bytes` from the log, once all of it can be read there: the end of
    /// what was appended is still queued while the disk is slow.
    fn insert_logged(&self, source: FromLog, bytes: u64) -> mainstay_storage::Result<()> {
        let (id, from, to) = (source.id, source.from, source.to);
        // Where the node lost its place meanwhile, this log may be cut.
        let readable = self.wal.sealed().wait_blocking(to, None);
        readable.map_err(|_| self.wal.poisoned().unwrap_or(StorageError::Closed))?;
        let transaction = Transaction::new(id, from, to, bytes, Box::new(source));
        self.store.apply(&transaction)
    }

    /// Whether inserting `bytes` would wait for something slow.
    fn would_block(&self, bytes: u64) -> bool {
        let (store, limits) = (self.store.status(), &self.limits);
        bytes > limits.memtable_bytes
            || store.sealed_memtables + 1 >= limits.sealed_max
            || store.level0_runs >= limits.level0_slow
            || self.wal.appended().bytes_since(self.wal.flushed().get()) > UNFLUSHED_BYTES_SLOW
    }
}

impl Commits {
    fn next_id(&mut self) -> u64 {
        self.next_tx += 1;
        self.next_tx
    }

    /// What must come first in the log while `timeline` is its current one.
    pub(super) fn roll_back(&self, timeline: Timeline) -> Option<WalEntry> {
        let open = self.abandoned.filter(|(_, begun)| *begun == timeline);
        open.map(|(id, _)| WalEntry::new(WalEntryType::TxRollback, Some(id), Bytes::new()))
    }
}

/// The entries of `changes`, whose data share few allocations.
fn entries_of(mut changes: &[Change], id: Option<u64>, entries: &mut Vec<WalEntry>) {
    while !changes.is_empty() {
        let mut bytes = 0;
        let fits = changes.iter().take_while(|change| {
            bytes += encoded_max(change);
            bytes <= ENCODED_BYTES
        });
        let (some, rest) = changes.split_at(fits.count().max(1));
        encode_together(some, id, entries);
        changes = rest;
    }
}

fn encode_together(changes: &[Change], id: Option<u64>, entries: &mut Vec<WalEntry>) {
    let mut encoded = Vec::with_capacity(changes.iter().map(encoded_max).sum());
    let mut ends = Vec::with_capacity(changes.len());
    for change in changes {
        change.encode_to(&mut encoded);
        ends.push(encoded.len());
    }
    let encoded = Bytes::from(encoded);
    let mut start = 0;
    for (change, end) in changes.iter().zip(ends) {
        let data = encoded.slice(mem::replace(&mut start, end)..end);
        entries.push(WalEntry::new(change.entry_type(), id, data));
    }
}

/// Most bytes that a change takes in the log.
fn encoded_max(change: &Change) -> usize {
    CHANGE_HEAD_MAX
        + match change {
            Change::Put { key, value, .. } => key.len() + value.len(),
            Change::Delete { key, .. } => key.len(),
            Change::CreateTable { name, .. } => name.len(),
        }
}

/// A large transaction's entries, read from the log.
#[derive(Debug)]
struct FromLog {
    wal: Wal,
    from: Lsn,
    to: Lsn,
    id: u64,
}

impl EntrySource for FromLog {
    fn entries(&self) -> Box<dyn Iterator<Item = mainstay_storage::Result<WalEntry>> + '_> {
        let ours = |entry: &WalEntry| {
            let marks = matches!(
                entry.entry_type,
                WalEntryType::TxBegin | WalEntryType::TxCommit
            );
            entry.tx_id == Some(self.id) && !marks
        };
        let entries = self
            .wal
            .entries(self.from, self.to)
            .map(|item| item.map(|(entry, _)| entry));
        Box::new(entries.filter(move |item| item.as_ref().map_or(true, ours)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use mainstay_storage::{LsmOptions, NewLog, OsDisk, ReadAt, SegmentSize, WalOptions};

    use super::*;
    use crate::transaction::WriteTransaction;

    #[test]
    fn changes_that_share_an_allocation_are_encoded_as_each_alone() {
        let put = |n: usize| Change::put(1, vec![b'k'; n % 9 + 1], vec![b'v'; n]);
        let sizes = [
            0,
            300_000,
            700_000,
            70_000,
            3 * ENCODED_BYTES,
            1,
            1_000_000,
            50_000,
        ];
        let mut changes = sizes.map(put).to_vec();
        changes.push(Change::delete(2, "gone"));
        let name = "t".into();
        changes.insert(0, Change::CreateTable { table: 3, name });
        for count in [0, 1, changes.len()] {
            let mut entries = Vec::new();
            entries_of(&changes[..count], Some(7), &mut entries);
            let alone = |change: &Change| {
                assert!(change.encode().len() <= encoded_max(change));
                WalEntry::new(change.entry_type(), Some(7), change.encode())
            };
            let alone = changes[..count].iter().map(alone).collect::<Vec<_>>();
            assert!(entries == alone, "{count}");
        }
    }

    #[test]
    fn a_transaction_is_read_back_from_the_log_only_once_it_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        // Such a log writes nothing by itself, as if the disk were slow.
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            driven: true,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let wal = Wal::create(Arc::new(OsDisk), dir.path(), new, &options).unwrap();
        while wal.flushed().get() < wal.appended() {
            wal.drive();
        }
        let end = wal.appended();
        let (engine, _) = Engine::open(wal.clone(), LsmOptions::default(), end).unwrap();
        let change = Change::Put {
            table: 1,
            key: Bytes::from_static(b"ada"),
            value: Bytes::from_static(b"1815"),
        };
        let id = 7;
        let entry = |entry_type, data| WalEntry::new(entry_type, Some(id), data);
        let entries = [
            entry(WalEntryType::TxBegin, Bytes::new()),
            entry(change.entry_type(), change.encode()),
            entry(WalEntryType::TxCommit, Bytes::new()),
        ];
        let placed = wal.append(&entries).unwrap();
        let source = FromLog {
            wal: wal.clone(),
            from: placed.start,
            to: placed.end,
            id,
        };
        let inserting = engine.clone();
        let inserted = std::thread::spawn(move || inserting.insert_logged(source, 4));
        while wal.sealed().waiters() == 0 && !inserted.is_finished() {
            std::thread::yield_now();
        }
        while wal.flushed().get() < placed.end {
            wal.drive();
        }
        inserted.join().unwrap().unwrap();
        let row = engine.reader().get(1, b"ada", placed.end).unwrap();
        assert_eq!(row.as_deref(), Some(&b"1815"[..]));
    }

    fn writing(engine: &Arc<Engine>) -> WriteTransaction {
        let mut transaction = WriteTransaction::begin(engine.clone()).unwrap();
        transaction.put("t", b"key", b"value").unwrap();
        transaction
    }

    /// How long a commit waits for its turn while another has it, and for nothing in the end.
    fn waits_in_vain(engine: &Arc<Engine>) -> Duration {
        let appended = engine.wal.appended();
        let mut transaction = writing(engine);
        let begun = Instant::now();
        assert!(transaction.place_at_once().is_none());
        let waited = begun.elapsed();
        assert_eq!(
            engine.wal.appended(),
            appended,
            "it did not wait for its turn"
        );
        waited
    }

    #[test]
    fn a_commit_waits_for_its_turn_unless_the_one_before_it_waited_in_vain() {
        let dir = tempfile::tempdir().unwrap();
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let wal = Wal::create(Arc::new(OsDisk), dir.path(), new, &options).unwrap();
        let end = wal.appended();
        let (engine, _) = Engine::open(wal, LsmOptions::default(), end).unwrap();
        engine.open_for_writes();
        let place_here = |mut transaction: WriteTransaction| {
            let placed = transaction.place_at_once();
            placed.expect("nobody else has a turn")
        };
        // Whoever gets a turn after that, on either way, lets the next one wait again.
        for place in [place_here, WriteTransaction::place, place_here] {
            let turn = engine.commits.lock();
            assert!(waits_in_vain(&engine) >= TURN_WAIT_MAX);
            // The quickest of many: a busy machine makes any one of them slow.
            let quickest = (0..200).map(|_| waits_in_vain(&engine)).min();
            assert!(quickest < Some(TURN_WAIT_MAX), "{quickest:?}");
            drop(turn);
            let appended = engine.wal.appended();
            assert!(place(writing(&engine)).unwrap().end > appended);
        }
        engine.close_for_writes(None);
        engine.store.close();
        engine.wal.close().unwrap();
    }
}
