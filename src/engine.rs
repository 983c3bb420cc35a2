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
//! larger than memory, and for one that comes when memory is full: these hold back the commits
//! after them. Beginning, reading and giving up a transaction wait for no commit.
//!
//! This room does not know whether there are standbys: it is told the commit position.

mod commit;
mod contents;
mod hold;
mod replay;
mod standing;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_replication::protocol::level::Level;
use mainstay_storage::{
    Applicator, CATALOG, ConflictWindow, Disk, Draft, Error as StorageError, FlushGate, LsmOptions,
    LsmReader, LsmStore, Lsn, OsDisk, ReadAt, Signal, Store, TableId, Timeline, Wal, WriteSet,
    remove_spills,
};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::commit::RemotePositions;
use crate::error::{Error, Result};
use crate::transaction::Snapshot;

pub(crate) use contents::AllRows;

/// Longest table name in bytes.
pub const TABLE_NAME_MAX: usize = 255;

/// The log, the store, and the lock that commits go through.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) wal: Wal,
    pub(crate) store: LsmStore,
    reader: LsmReader,
    /// Held by a commit until it is in the store.
    commits: Mutex<Commits>,
    /// Held for moments only. Locked after `commits`.
    window: Mutex<ConflictWindow>,
    tables: RwLock<HashMap<String, TableId>>,
    writable: AtomicBool,
    /// Closed for good.
    closed: AtomicBool,
    /// Who takes writes instead, once that is somebody else.
    successor: Mutex<Option<String>>,
    /// The end of the log is on its way into the store, or about to be.
    replaying: AtomicBool,
    /// Tells that it is there, or never will be. Goes with `commits`.
    replayed: Condvar,
    /// All of the log was in the store once; since then only writes of its own came.
    has_all: AtomicBool,
    limits: Limits,
    /// Whoever waited last for `commits` did so in vain: its holder waits for something slow.
    stalled: AtomicBool,
    pub(crate) remote: RwLock<RemotePositions>,
    /// Climbs by one whenever write transactions end, because this node stops or is no primary any
    /// more: who waits for standbys then waits for nothing.
    endings: Signal,
    /// Whether a synchronous policy is in force, so that commits wait for it by default.
    synchronous: AtomicBool,
    /// Climbs by one whenever a synchronous policy comes into force.
    turns: Signal,
    /// Why writes are refused while the policy failed.
    refusal: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Commits {
    next_tx: u64,
    /// A large transaction that failed half-way and must be rolled back in the log first, unless
    /// its timeline ended, which does it too.
    abandoned: Option<(u64, Timeline)>,
}

/// From where on an insert into the store waits for something.
#[derive(Debug)]
struct Limits {
    memtable_bytes: u64,
    sealed_max: usize,
    level0_slow: usize,
}

/// A transaction that has its place in the log.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// End of its last record.
    pub(crate) end: Lsn,
}

impl Engine {
    /// Opens the store that belongs to `wal` and replays the log into it up to `upto`, which must
    /// be committed: what is not may have to wait for standbys. Also returns what replays the rest.
    ///
    /// # Errors
    /// The log's or the store's; both are closed then.
    pub(crate) fn open(
        wal: Wal,
        options: LsmOptions,
        upto: Lsn,
    ) -> Result<(Arc<Self>, Applicator)> {
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
        let limits = Limits {
            memtable_bytes: options.memtable_bytes,
            sealed_max: options.sealed_max,
            level0_slow: options.level0_slow,
        };
        let store = LsmStore::open(&dir, must_exist, gate, options)?;
        wal.update_control(|control| control.store_created = true)?;
        let reader = store.reader();
        let engine = Arc::new(Self {
            commits: Mutex::new(Commits {
                next_tx: 1,
                abandoned: None,
            }),
            window: Mutex::new(ConflictWindow::new(store.applied())),
            remote: RwLock::new(RemotePositions::nobody(&wal)),
            wal,
            store,
            reader,
            tables: RwLock::default(),
            writable: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            successor: Mutex::new(None),
            replaying: AtomicBool::new(false),
            replayed: Condvar::new(),
            has_all: AtomicBool::new(false),
            limits,
            stalled: AtomicBool::new(false),
            endings: Signal::new(Lsn::ZERO),
            synchronous: AtomicBool::new(false),
            turns: Signal::new(Lsn::ZERO),
            refusal: Mutex::new(None),
        });
        let mut applicator = Applicator::new(&engine.wal, &engine.store)?;
        applicator.apply_upto(&mut engine.store.clone() as &mut dyn Store, upto)?;
        Ok((engine, applicator))
    }

    /// Accepts write transactions from now on. Everything in the log must be in the store.
    pub(crate) fn open_for_writes(&self) {
        let mut commits = self.commits.lock();
        let inserted = self.store.applied();
        // The log's own end is above every transaction id ever given on this log.
        commits.next_tx = commits.next_tx.max(self.wal.appended().get());
        *self.window.lock() = ConflictWindow::new(inserted);
        self.tables.write().clear();
        self.writable.store(true, Ordering::Release);
    }

    /// Refuses write transactions from now on, and ends the waits for standbys. The one that is
    /// being decided goes on.
    pub(crate) fn refuse_writes(&self) {
        self.writable.store(false, Ordering::Release);
        self.endings.raise(self.endings.get() + 1);
    }

    /// Climbs by one whenever write transactions end.
    pub(crate) fn endings(&self) -> &Signal {
        &self.endings
    }

    /// Climbs by one whenever a synchronous policy comes into force.
    pub(crate) fn turns(&self) -> &Signal {
        &self.turns
    }

    /// As [`refuse_writes`](Self::refuse_writes), for good and in favour of `successor`.
    pub(crate) fn give_way(&self, successor: String) {
        *self.successor.lock() = Some(successor);
        self.refuse_writes();
    }

    /// Refuses everything from now on, and waits at most `within`, if given, for the transaction
    /// that is being decided.
    pub(crate) fn close_for_writes(&self, within: Option<Duration>) {
        self.closed.store(true, Ordering::Release);
        self.refuse_writes();
        match within {
            Some(within) => drop(self.commits.try_lock_for(within)),
            None => drop(self.commits.lock()),
        }
        self.replayed.notify_all();
    }

    /// Whether write transactions are accepted.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// Whether it was closed for good.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// # Errors
    /// Why write transactions are not accepted, when they are not.
    fn check_writable(&self) -> Result<()> {
        if self.is_writable() && !self.is_closed() {
            return self.check_policy();
        }
        if let Some(successor) = self.successor.lock().clone() {
            let primary = Some(successor);
            return Err(Error::NotPrimary { primary });
        }
        if self.is_closed() {
            return Err(Error::Stopped);
        }
        if self.replaying.load(Ordering::Acquire) {
            return Err(Error::Refused(replay::REPLAYING.to_owned()));
        }
        // A log or store that failed says so itself.
        if let Some(error) = self.wal.poisoned() {
            return Err(error.into());
        }
        self.reader.get(CATALOG, b"?", Lsn::MAX)?;
        Err(Error::NotPrimary { primary: None })
    }

    /// Says of an error that came from closing who takes writes instead, where somebody does.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let closed = matches!(error, Error::Storage(StorageError::Closed) | Error::Stopped);
        match self.successor.lock().clone().filter(|_| closed) {
            Some(successor) => Error::NotPrimary {
                primary: Some(successor),
            },
            None => error,
        }
    }

    /// The position that readers see now.
    pub(crate) fn visible(&self) -> Lsn {
        self.wal.commit().get().min(self.store.applied())
    }

    /// What is readable now, kept readable until it is dropped.
    pub(crate) fn snapshot(self: &Arc<Self>) -> Result<Snapshot> {
        Snapshot::open(self.clone())
    }

    /// A write transaction that reads everything decided so far.
    pub(crate) fn begin(&self) -> Result<Draft<LsmReader>> {
        self.check_writable()?;
        loop {
            let disk: Arc<dyn Disk> = Arc::new(OsDisk);
            let writes = WriteSet::new(disk, spill_dir(self.wal.dir()));
            let mut window = self.window.lock();
            let at = self.store.applied();
            match Draft::new(self.reader.clone(), at, writes) {
                Ok(draft) => {
                    window.open(at);
                    return Ok(draft);
                }
                // A commit and a flush came between.
                Err(StorageError::SnapshotTooOld { .. }) if self.store.applied() > at => {}
                Err(error) => return Err(self.explain(error.into())),
            }
        }
    }

    /// Forgets a transaction that read at `at`, committed or not. Called once for each begun.
    pub(crate) fn end(&self, at: Lsn) {
        self.window.lock().close(at);
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
        match self.is_synchronous() {
            true => Level::RemoteFlush,
            false => Level::Local,
        }
    }

    /// Whether a synchronous policy is in force.
    pub(crate) fn is_synchronous(&self) -> bool {
        self.synchronous.load(Ordering::Acquire)
    }

    pub(crate) fn reader(&self) -> &LsmReader {
        &self.reader
    }
}

pub(crate) fn table_id(value: &[u8]) -> Result<TableId> {
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
