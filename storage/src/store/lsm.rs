//! The default store: an LSM-tree without a log of its own, under ours.
//!
//! It stands on the `lsm-tree` crate, pinned to one version because much of what is used here is
//! not promised by it; all uses are in this room, and `assumptions.rs` tests each of them.
//!
//! ```text
//! insert ──> active memtable ──seal──> sealed memtables ──gate──> tables ──merge──> tables
//!            (a transaction whole)     (oldest first)     │
//!                                                         └ min(own flushed, commit LSN)
//! ```
//!
//! # Promises
//! * **A read at P sees exactly the transactions that end at or below P.** Rows carry the version
//!   `end - 1`; positions that merges may have thinned out are refused, never answered.
//! * **What is on disk can never be lost by the cluster.** A memtable is flushed only when the
//!   [`FlushGate`] has passed its highest version, without exception; when memory is full of what
//!   may not be flushed, inserts wait. So going back to a fork is opening the store again and
//!   replaying less.
//! * **Up to where it is on disk is on disk.** The newest version in the tables says up to where
//!   everything is in them; where it only removes rows, a row of the store's own says it too.
//! * **No silent loss.** A missing or damaged manifest is refused before the library sees it, a
//!   damaged block is an error when it is read.
//!
//! # Where the plan did not hold
//! * The library's counter is not raised at insert: an idle tree would overtake the log, and
//!   committed rows would be invisible for a while. It is set just above the versions in tables
//!   before each edit, under a lock shared by flusher and compactor.
//! * A large transaction is not inserted in parts. Rows of one version in several memtables keep
//!   each of them in memory until the last has come, and a merge in between drops what they
//!   replace. Instead its rows go straight to tables, which one edit adds; they have to come sorted
//!   by key, each key once, and are refused otherwise.
//! * That edit is numbered below its rows: the first position that sees them must see it, and no
//!   memtable shows them before.
//! * The highest version in tables goes back when a merge drops what removes a row. It never drops
//!   the newest row that is set; where the newest removes, the store's own row is set beside it.
//! * An iterator that outlives the tree may delete a table of the next instance. Closing takes
//!   the iterators away from their scans.
//!
//! # What it costs
//! Sequential loads write their tables once, since merges move them down unread. A merge holds the
//! memtables of the moment when it began until it ends. Each flush and merge stops readers and
//! writers for a millisecond or two while the table list is synced. Freeing a memtable takes tens
//! of milliseconds under glibc's allocator; binaries do well to choose another, without huge
//! pages: the first touch of one may take 5 ms (`PR_SET_THP_DISABLE`).

#[cfg(test)]
mod assumptions;
mod copy;
mod engine;
mod fault;
#[cfg(test)]
mod fixture;
mod gate;
mod horizon;
mod keys;
mod manifest;
mod opened;
mod options;
mod reader;
mod space;
#[cfg(test)]
mod tests;
mod whole;
mod work;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub use copy::verify as verify_lsm_copy;
pub use gate::FlushGate;
pub use options::LsmOptions;
pub use reader::LsmReader;
pub use whole::{MEND_ROOM, MendedRow, WHOLE_KEY_MAX, table_of_whole_key};

use super::{Change, Store, Transaction};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::signal::Signal;
use engine::{Edits, Shared};
use horizon::Horizon;
use keys::Op;
use opened::Opened;
use work::Work;
use writer::{Writer, check_order, ops_of};

/// The default store. Clones are handles on the same one; it is closed by
/// [`close`](Store::close), or with the last handle.
///
/// One thread at a time inserts, in climbing order of the transactions' ends; everything else may
/// be called from anywhere.
#[derive(Clone)]
pub struct LsmStore {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop_merges: Arc<AtomicBool>,
}

/// What a store is busy with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LsmStatus {
    /// Memtables that wait for the gate or for their turn.
    pub sealed_memtables: usize,
    /// Runs in level 0.
    pub level0_runs: usize,
    /// Whether tables are being merged, or about to be.
    pub merging: bool,
    /// Bytes of flushed memtables that open snapshots hold in memory.
    pub pinned_bytes: u64,
    /// The oldest open snapshot.
    pub oldest_snapshot: Option<Lsn>,
    /// How often an insert had to wait because memory was full.
    pub stalls: u64,
}

impl LsmStore {
    /// Opens the store in `dir`. Whether there must be one already is what the control file says:
    /// a store whose files went missing looks like no store at all.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it must exist and does not, or is damaged; nothing was changed
    /// then. [`Error::Locked`] when it is open already, [`Error::Invalid`] on options that make
    /// no sense, disk errors.
    pub fn open(
        dir: &Path,
        must_exist: bool,
        gate: FlushGate,
        options: LsmOptions,
    ) -> Result<LsmStore> {
        options.check()?;
        let dir = std::path::absolute(dir).map_err(|error| Error::io("find", dir, error))?;
        let lock = manifest::prepare(&dir, must_exist)?;
        let stop_merges = Arc::new(AtomicBool::new(false));
        let opened = Opened::open(&dir, &options, &stop_merges)?;
        let tree = &opened.tree;
        let shared = Arc::new(Shared {
            horizon: Horizon::new(tree.clone(), opened.durable),
            work: Arc::new(Work::new(tree)),
            inserting: Mutex::default(),
            writer: Mutex::new(Writer::new(tree.clone(), opened.durable)),
            flushing: Mutex::default(),
            applied: Signal::new(opened.durable),
            durable: Signal::new(opened.durable),
            edits: Edits::new(opened.counter.clone(), opened.durable),
            retired: Mutex::default(),
            lock: Mutex::new(Some(lock)),
            dir,
            options,
            gate,
        });
        let store = LsmStore {
            handle: Arc::new(Handle {
                shared: shared.clone(),
                threads: Mutex::default(),
                stop_merges,
            }),
        };
        engine::start(&shared, tree, &mut store.handle.threads.lock())?;
        Ok(store)
    }

    /// Inserts the changes of a transaction that ends at `end`. Later changes of a key replace
    /// earlier ones. More than [`LsmOptions::memtable_bytes`] of keys and values are written to
    /// tables at once, when the gate has reached `end`: such a call waits for it.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::Invalid`] on keys and values outside the limits: nothing
    /// was inserted. [`Error::Closed`], or what stopped the store.
    ///
    /// # Panics
    /// When `end` is not above [`applied`](Self::applied).
    pub fn insert(&self, end: Lsn, changes: &[Change]) -> Result<()> {
        let ops = changes.iter().map(keys::op).collect::<Result<Vec<_>>>()?;
        let _inserting = self.shared().inserting.lock();
        self.insert_ops(end, ops)
    }

    /// Applies a transaction from the log; one at or below [`applied`](Self::applied) is skipped.
    /// One of more than [`LsmOptions::memtable_bytes`] is read twice and never held in memory.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), and [`Error::Refused`] on entries that are not changes, or
    /// that do not come in climbing order of table and key in a transaction that large.
    pub fn apply(&self, transaction: &Transaction) -> Result<()> {
        let (shared, end) = (self.shared(), transaction.end);
        let _inserting = shared.inserting.lock();
        if end <= shared.applied.get() {
            return Ok(());
        }
        if transaction.bytes <= shared.options.memtable_bytes {
            let ops = ops_of(transaction).collect::<Result<Vec<_>>>()?;
            return self.insert_ops(end, ops);
        }
        // Refused before anything is written, since the library does not look at the order.
        check_order(end, ops_of(transaction))?;
        shared.insert_large(end, transaction.bytes, || Box::new(ops_of(transaction)))
    }

    fn insert_ops(&self, end: Lsn, ops: Vec<Op>) -> Result<()> {
        let shared = self.shared();
        let ops = writer::in_key_order(ops);
        let bytes = writer::bytes_of(&ops);
        if bytes <= shared.options.memtable_bytes {
            return shared.insert_whole(end, ops);
        }
        shared.insert_large(end, bytes, || Box::new(ops.iter().cloned().map(Ok)))
    }

    /// End of the last transaction inserted. On a standby it may be above what the gate says is
    /// committed, which is not to be shown yet.
    pub fn applied(&self) -> Lsn {
        self.shared().applied.get()
    }

    /// [`applied`](Self::applied), to wait for.
    pub fn applied_signal(&self) -> &Signal {
        &self.shared().applied
    }

    /// Up to where the store survives a crash by itself. [`Lsn::ZERO`] when nothing is on disk.
    pub fn durable(&self) -> Lsn {
        self.shared().durable.get()
    }

    /// [`durable`](Self::durable), to wait for.
    pub fn durable_signal(&self) -> &Signal {
        &self.shared().durable
    }

    /// The lowest position that can be read; [`durable`](Self::durable) after opening.
    pub fn oldest(&self) -> Lsn {
        self.shared().horizon.floor()
    }

    /// A handle for reading.
    pub fn reader(&self) -> LsmReader {
        LsmReader::new(self.handle.shared.clone())
    }

    /// The error that every later call ends with, if a failed edit stopped the store.
    pub fn stopped(&self) -> Option<Error> {
        self.shared().work.fault.check().err()
    }

    /// What the store is busy with.
    pub fn status(&self) -> LsmStatus {
        let shared = self.shared();
        // Not under the work's lock, which the log's threads take.
        let pinned_bytes = shared.pinned_bytes();
        let oldest_snapshot = shared.horizon.oldest();
        shared.work.look(|state| LsmStatus {
            sealed_memtables: state.sealed.len(),
            level0_runs: state.level0,
            merging: state.compact || state.merging,
            pinned_bytes,
            oldest_snapshot,
            stalls: state.stalls,
        })
    }

    /// Makes durable what the gate allows at or below `upto`, and returns
    /// [`durable`](Self::durable). What is above either is sealed at most, so that it follows by
    /// itself once the gate has passed it.
    ///
    /// # Errors
    /// [`Error::Closed`], or what stopped the store.
    pub fn checkpoint(&self, upto: Lsn) -> Result<Lsn> {
        let shared = self.shared();
        shared.drain(upto)?;
        let limit = upto.min(shared.gate.reached());
        let idle = shared.work.look(|state| state.sealed.is_empty());
        shared.seal_if(|applied| applied <= limit || idle)?;
        shared.drain(upto)?;
        Ok(self.durable())
    }

    /// Writes a copy of the durable state into the empty directory `into`, by hard links where
    /// both lie on one file system, and returns its position. It is installed by renaming it to
    /// where the store should be; [`verify_lsm_copy`] checks one that was sent somewhere.
    ///
    /// # Errors
    /// Disk errors; the copy is then incomplete and must be thrown away.
    pub fn snapshot(&self, into: &Path) -> Result<Lsn> {
        self.shared().copy(into)
    }

    /// Flushes nothing, releases everything: reads and inserts that are under way end, scans
    /// answer [`Error::Closed`] from now on. Afterwards the directory may be opened again.
    pub fn close(&self) {
        self.handle.close();
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

impl Handle {
    fn close(&self) {
        let shared = &self.shared;
        // In this order, so that a merge that fails knows why.
        shared.work.stop();
        self.stop_merges.store(true, Ordering::Relaxed);
        for thread in self.threads.lock().drain(..) {
            // A panic of it stopped the store already.
            let _ = thread.join();
        }
        let _inserting = shared.inserting.lock();
        let _flushing = shared.flushing.lock();
        shared.writer.lock().shut();
        shared.horizon.shut();
        let sealed = shared
            .work
            .change(|state| std::mem::take(&mut state.sealed));
        let retired = std::mem::take(&mut *shared.retired.lock());
        drop((sealed, retired));
        *shared.lock.lock() = None;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for LsmStore {
    fn applied(&self) -> Lsn {
        self.applied()
    }

    fn durable(&self) -> Lsn {
        self.durable()
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<()> {
        LsmStore::apply(self, transaction)
    }

    fn runs_ahead(&self) -> bool {
        true
    }

    fn checkpoint(&mut self, upto: Lsn) -> Result<Lsn> {
        LsmStore::checkpoint(self, upto)
    }

    fn snapshot(&mut self, into: &Path) -> Result<Lsn> {
        LsmStore::snapshot(self, into)
    }

    fn close(&mut self) -> Result<()> {
        LsmStore::close(self);
        Ok(())
    }
}

impl fmt::Debug for LsmStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dir, applied) = (self.shared().dir.display(), self.applied());
        write!(f, "LsmStore {dir} at {applied}, durable {}", self.durable())
    }
}
