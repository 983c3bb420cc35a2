//! The log and the default store under one roof: what commits, and what reads see.
//!
//! ```text
//! begin ── reads at inserted ──> commit: validate, append, insert (one at a time, in log order)
//!                                   └──> wait for the level ──> visible = min(commit, inserted)
//! ```
//!
//! A transaction is decided, gets its place in the log and goes into the store under one lock, so
//! the store sees transactions in log order and a conflict is found against everything that was
//! decided before, committed or not: a commit that waits for a standby never causes a lost update.
//! Readers see only what is committed. Waiting happens outside the lock, except for a transaction
//! larger than memory, which holds back the ones after it until it is committed.
//!
//! This room does not know whether there are standbys: it is told the commit position.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use mainstay_replication::protocol::level::Level;
use mainstay_storage::{
    Applicator, CATALOG, Change, ConflictWindow, Disk, Draft, EntrySource, FlushGate, LogSource,
    LsmOptions, LsmReader, LsmStore, Lsn, OsDisk, ReadAt, Signal, Store, TableId, Timeline,
    Transaction, Wal, WalEntry, WalEntryType, WriteSet, remove_spills,
};
use parking_lot::{Mutex, RwLock};

use crate::commit::RemotePositions;
use crate::error::{Error, Result};
use crate::transaction::Snapshot;

/// Longest table name in bytes.
pub const TABLE_NAME_MAX: usize = 255;

/// Entries appended to the log at once while a large transaction is written.
const CHUNK_ENTRIES_MAX: usize = 1024;

/// Bytes of changes appended to the log at once while a large transaction is written.
const CHUNK_BYTES_MAX: u64 = 4 << 20;

/// The log, the store, and the lock that commits go through.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) wal: Wal,
    pub(crate) store: LsmStore,
    reader: LsmReader,
    commits: Mutex<Commits>,
    tables: RwLock<HashMap<String, TableId>>,
    writable: AtomicBool,
    /// A commit holds the lock and waits for something slow.
    stalled: AtomicBool,
    remote: RwLock<RemotePositions>,
    /// Climbs by one whenever write transactions end, because this node stops or is no primary any
    /// more: who waits for standbys then waits for nothing.
    endings: Signal,
    /// Whether a synchronous policy is in force, so that commits wait for it by default.
    synchronous: AtomicBool,
}

#[derive(Debug)]
struct Commits {
    window: ConflictWindow,
    next_tx: u64,
    /// A large transaction that failed half-way and must be rolled back in the log first, unless
    /// its timeline ended, which does it too.
    abandoned: Option<(u64, Timeline)>,
}

/// A transaction that has its place in the log.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// End of its last record.
    pub(crate) end: Lsn,
}

impl Engine {
    /// Opens the store that belongs to `wal` and replays the log into it up to `upto`.
    ///
    /// # Errors
    /// The log's or the store's; both are closed then.
    pub(crate) fn open(wal: Wal, options: LsmOptions, upto: Lsn) -> Result<Arc<Self>> {
        let dir = store_dir(wal.dir());
        let spills = spill_dir(wal.dir());
        OsDisk
            .create_dir(&spills)
            .map_err(|source| mainstay_storage::Error::Io {
                op: "create",
                path: spills.clone(),
                source,
            })?;
        remove_spills(&OsDisk, &spills)?;
        let bound = wal.clone();
        let gate = FlushGate {
            flushed: wal.flushed().clone(),
            commit: wal.commit().clone(),
            raise_bound: Box::new(move |to| {
                bound.update_control(|control| control.flush_bound = control.flush_bound.max(to))
            }),
        };
        let must_exist = wal.control().store_created;
        let store = LsmStore::open(&dir, must_exist, gate, options)?;
        wal.update_control(|control| control.store_created = true)?;
        let reader = store.reader();
        let engine = Arc::new(Self {
            commits: Mutex::new(Commits {
                window: ConflictWindow::new(store.applied()),
                next_tx: 1,
                abandoned: None,
            }),
            wal,
            store,
            reader,
            tables: RwLock::default(),
            writable: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            remote: RwLock::new(RemotePositions::none()),
            endings: Signal::new(Lsn::ZERO),
            synchronous: AtomicBool::new(false),
        });
        engine.replay(upto)?;
        Ok(engine)
    }

    /// Applies the log up to `upto` that the store does not hold yet.
    ///
    /// # Errors
    /// The log's or the store's.
    pub(crate) fn replay(&self, upto: Lsn) -> Result<()> {
        let mut store = self.store.clone();
        let mut applicator = Applicator::new(&self.wal, &store)?;
        applicator.apply_upto(&mut store as &mut dyn Store, upto)?;
        Ok(())
    }

    /// Accepts write transactions from now on. Everything in the log must be in the store.
    pub(crate) fn open_for_writes(&self) {
        let mut commits = self.commits.lock();
        let inserted = self.store.applied();
        // The log's own end is above every transaction id ever given on this log.
        commits.next_tx = commits.next_tx.max(self.wal.appended().get());
        commits.window = ConflictWindow::new(inserted);
        self.tables.write().clear();
        self.writable.store(true, Ordering::Release);
    }

    /// Refuses write transactions from now on, waits for the one that is being decided, and ends
    /// the waits for standbys.
    pub(crate) fn close_for_writes(&self) {
        self.writable.store(false, Ordering::Release);
        drop(self.commits.lock());
        self.endings.raise(self.endings.get() + 1);
    }

    /// Climbs by one whenever write transactions end.
    pub(crate) fn endings(&self) -> &Signal {
        &self.endings
    }

    /// Whether write transactions are accepted.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// Whether a commit would wait for something slow, so that it should not be called from a
    /// thread that others need.
    pub(crate) fn would_block(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
            || self.store.status().sealed_memtables > 2
            || self.wal.appended().bytes_since(self.wal.flushed().get()) > 16 << 20
    }

    /// The position that readers see now.
    pub(crate) fn visible(&self) -> Lsn {
        self.wal.commit().get().min(self.store.applied())
    }

    /// What is readable now, kept readable until it is dropped.
    pub(crate) fn snapshot(self: &Arc<Self>) -> Result<Snapshot> {
        Snapshot::open(self.clone(), self.visible())
    }

    /// A write transaction that reads everything decided so far.
    pub(crate) fn begin(&self) -> Result<Draft<LsmReader>> {
        if !self.is_writable() {
            return Err(Error::NotPrimary { primary: None });
        }
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let writes = WriteSet::new(disk, spill_dir(self.wal.dir()));
        let mut commits = self.commits.lock();
        let at = self.store.applied();
        let draft = Draft::new(self.reader.clone(), at, writes)?;
        commits.window.open(at);
        Ok(draft)
    }

    /// Forgets a transaction that read at `at`, committed or not. Called once for each begun.
    pub(crate) fn end(&self, at: Lsn) {
        self.commits.lock().window.close(at);
    }

    /// The number of `table` as of a position, or `None` when there was no such table.
    pub(crate) fn table(&self, table: &str, at: Lsn) -> Result<Option<TableId>> {
        if let Some(&id) = self.tables.read().get(table) {
            return Ok(Some(id));
        }
        let Some(id) = self.reader.get(CATALOG, table.as_bytes(), at)? else {
            return Ok(None);
        };
        let id = table_id(&id)?;
        // Numbers are never given twice, so a cached one is right at every later position, and at
        // earlier ones the table is simply empty.
        self.tables.write().insert(table.to_owned(), id);
        Ok(Some(id))
    }

    /// The number for a table that is about to be created: one above the highest of the catalog
    /// and of the transaction's own.
    pub(crate) fn next_table(&self, draft: &Draft<LsmReader>) -> Result<TableId> {
        let rows = draft.scan(
            CATALOG,
            std::ops::Bound::Unbounded,
            std::ops::Bound::Unbounded,
        )?;
        let mut highest = CATALOG;
        for row in rows {
            highest = highest.max(table_id(&row?.1)?);
        }
        highest
            .checked_add(1)
            .ok_or_else(|| Error::Usage("no table numbers are left".to_owned()))
    }

    /// Decides `draft`, gives it its place in the log and inserts it. Does not wait for its level.
    ///
    /// # Errors
    /// [`Error::NotPrimary`], conflicts, limits, a full disk: nothing happened then. An error of
    /// the store after the log took the transaction stops all further commits.
    pub(crate) fn commit(&self, draft: &Draft<LsmReader>) -> Result<Placed> {
        let mut commits = self.commits.lock();
        if !self.is_writable() {
            return Err(Error::NotPrimary { primary: None });
        }
        draft.validate(&commits.window)?;
        let writes = draft.writes();
        if writes.is_empty() {
            return Ok(Placed {
                end: draft.snapshot(),
            });
        }
        let end = if writes.has_spilled() {
            self.commit_large(&mut commits, writes)?
        } else {
            self.commit_small(&mut commits, writes)?
        };
        commits.window.record(writes.keys(), end);
        commits.window.advance(self.store.applied());
        Ok(Placed { end })
    }

    fn commit_small(&self, commits: &mut Commits, writes: &WriteSet) -> Result<Lsn> {
        let changes = writes.changes().collect::<Result<Vec<_>, _>>()?;
        let mut entries = Vec::with_capacity(changes.len() + 3);
        let unit = self.wal.unit();
        entries.extend(commits.roll_back(self.wal.timeline()));
        if let [change] = &changes[..] {
            entries.push(WalEntry::new(change.entry_type(), None, change.encode()));
        } else {
            let id = commits.next_id();
            entries.push(WalEntry::new(WalEntryType::TxBegin, Some(id), Bytes::new()));
            let entry =
                |change: &Change| WalEntry::new(change.entry_type(), Some(id), change.encode());
            entries.extend(changes.iter().map(entry));
            entries.push(WalEntry::new(
                WalEntryType::TxCommit,
                Some(id),
                Bytes::new(),
            ));
        }
        let end = self.while_stalled(|| self.wal.append(&entries))?.end;
        drop(unit);
        commits.abandoned = None;
        let inserted = self.while_stalled(|| self.store.insert(end, &changes));
        inserted.inspect_err(|_| self.writable.store(false, Ordering::Release))?;
        Ok(end)
    }

    /// Writes a transaction that does not fit in memory to the log in pieces, waits until it is
    /// committed, and inserts it from there.
    fn commit_large(&self, commits: &mut Commits, writes: &WriteSet) -> Result<Lsn> {
        let id = commits.next_id();
        let unit = self.wal.unit();
        let timeline = self.wal.timeline();
        let entries = commits.roll_back(timeline);
        let begin = WalEntry::new(WalEntryType::TxBegin, Some(id), Bytes::new());
        let entries = entries.into_iter().chain([begin]).collect::<Vec<_>>();
        let first = self.while_stalled(|| self.wal.append(&entries))?;
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
                self.while_stalled(|| self.wal.append(&chunk))?;
                chunk.clear();
                chunk_bytes = 0;
            }
        }
        chunk.push(WalEntry::new(
            WalEntryType::TxCommit,
            Some(id),
            Bytes::new(),
        ));
        let end = self.while_stalled(|| self.wal.append(&chunk))?.end;
        drop(unit);
        commits.abandoned = None;
        let wal = self.wal.clone();
        let source = FromLog {
            wal,
            from: first.start,
            to: end,
            id,
        };
        let transaction = Transaction::new(id, first.start, end, bytes, Box::new(source));
        let inserted = self.while_stalled(|| self.store.apply(&transaction));
        inserted.inspect_err(|_| self.writable.store(false, Ordering::Release))?;
        Ok(end)
    }

    fn while_stalled<T>(&self, run: impl FnOnce() -> T) -> T {
        self.stalled.store(true, Ordering::Release);
        let result = run();
        self.stalled.store(false, Ordering::Release);
        result
    }

    /// Returns when every transaction that has its place in the log is in the store too.
    pub(crate) fn settle(&self) {
        drop(self.commits.lock());
    }

    /// Writes a copy of the store's durable state into the empty directory `into`.
    pub(crate) fn copy_store(&self, into: &Path) -> mainstay_storage::Result<Lsn> {
        if self.store.durable().is_zero() {
            // A store that was never written out has nothing to copy yet.
            self.store.checkpoint(self.visible())?;
        }
        self.store.snapshot(into)
    }

    /// The positions that remote levels wait for.
    pub(crate) fn remote(&self) -> RemotePositions {
        self.remote.read().clone()
    }

    /// Sets whether commits wait for standbys by default, and what to wait for.
    pub(crate) fn set_remote(&self, remote: RemotePositions, synchronous: bool) {
        *self.remote.write() = remote;
        self.synchronous.store(synchronous, Ordering::Release);
    }

    /// What a commit waits for unless it says otherwise.
    pub(crate) fn default_level(&self) -> Level {
        match self.synchronous.load(Ordering::Acquire) {
            true => Level::RemoteFlush,
            false => Level::Local,
        }
    }

    pub(crate) fn reader(&self) -> &LsmReader {
        &self.reader
    }
}

impl Commits {
    fn next_id(&mut self) -> u64 {
        self.next_tx += 1;
        self.next_tx
    }

    /// What must come first in the log while `timeline` is its current one.
    fn roll_back(&self, timeline: Timeline) -> Option<WalEntry> {
        let open = self.abandoned.filter(|(_, begun)| *begun == timeline);
        open.map(|(id, _)| WalEntry::new(WalEntryType::TxRollback, Some(id), Bytes::new()))
    }
}

fn table_id(value: &[u8]) -> Result<TableId> {
    let bytes = value.try_into().map_err(|_| {
        Error::Usage("the catalog holds a table number that is not four bytes long".to_owned())
    })?;
    Ok(TableId::from_le_bytes(bytes))
}

/// Where a node's store lies in its data directory.
pub(crate) fn store_dir(dir: &Path) -> PathBuf {
    dir.join("store")
}

/// Where large transactions are kept while they are written.
fn spill_dir(dir: &Path) -> PathBuf {
    dir.join("spill")
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
    use super::*;

    #[test]
    fn an_abandoned_transaction_is_rolled_back_unless_a_new_timeline_did_it() {
        let timeline = |number| Timeline {
            number,
            id: uuid::Uuid::from_u128(7),
        };
        let commits = Commits {
            window: ConflictWindow::new(Lsn::ZERO),
            next_tx: 5,
            abandoned: Some((4, timeline(1))),
        };
        let first = commits.roll_back(timeline(1)).unwrap();
        let found = (first.entry_type, first.tx_id);
        assert_eq!(found, (WalEntryType::TxRollback, Some(4)));
        assert!(commits.roll_back(timeline(2)).is_none());
    }
}
