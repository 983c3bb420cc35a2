//! The two threads that keep the tree small: one flushes sealed memtables, one merges tables.
//!
//! Everything that makes data durable is here, so the two rules of it are here too: no memtable
//! reaches disk before the gate has passed its highest version and the caller has durably noted
//! how far it goes; and the library's counter stands just above the versions in tables before
//! each edit, no more (an idle tree would overtake the log and hide rows) and no less (an old
//! snapshot would read a new table list). A large transaction is the exception: its edit adds
//! rows that no memtable shows, so it is numbered below them, and they count right after it.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::{io, iter};

use lsm_tree::compaction::Leveled;
use lsm_tree::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use lsm_tree::{AbstractTree, InternalValue, Memtable, SeqNo, SequenceNumberCounter, Tree};
use parking_lot::Mutex;

use super::fault::convert;
use super::horizon::{EDIT_SLACK, Horizon};
use super::keys;
use super::work::{Sealed, Work};
use super::writer::{Ops, Writer};
use super::{FlushGate, LsmOptions};
use crate::canary;
use crate::disk::DiskLock;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::signal::Signal;

/// One open store, as its threads and handles share it.
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) options: LsmOptions,
    pub(super) gate: FlushGate,
    pub(super) horizon: Horizon,
    pub(super) work: Arc<Work>,
    /// Held by whoever inserts, for a whole transaction.
    pub(super) inserting: Mutex<()>,
    pub(super) writer: Mutex<Writer>,
    /// Held while a memtable becomes durable, so that a copy sees the state before or after.
    pub(super) flushing: Mutex<()>,
    pub(super) applied: Signal,
    pub(super) durable: Signal,
    pub(super) edits: Edits,
    /// Flushed memtables that old table lists may still show, oldest first.
    pub(super) retired: Mutex<Vec<Sealed>>,
    pub(super) lock: Mutex<Option<Box<dyn DiskLock>>>,
}

/// The library's counter and what it has to stand above.
pub(super) struct Edits {
    counter: SequenceNumberCounter,
    flushed_max: Mutex<SeqNo>,
}

impl Edits {
    pub(super) fn new(counter: SequenceNumberCounter, durable: Lsn) -> Self {
        Self {
            counter,
            flushed_max: Mutex::new(durable.get().saturating_sub(1)),
        }
    }

    /// To be called before each edit, with the highest version of whole transactions that it adds
    /// to the tables.
    fn prepare(&self, highest: SeqNo) {
        let mut flushed_max = self.flushed_max.lock();
        *flushed_max = flushed_max.max(highest);
        self.counter.set(*flushed_max + 1);
    }

    /// Runs an edit that adds rows which nothing shows yet, with versions up to `highest`. It is
    /// numbered below them, so that the first position that sees them sees the edit too; a merge
    /// that includes them is numbered above them.
    fn number_below<E>(
        &self,
        highest: SeqNo,
        edit: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut flushed_max = self.flushed_max.lock();
        // The merge that is under way may take a number as well.
        assert!(
            *flushed_max + EDIT_SLACK <= highest,
            "no room below {highest}"
        );
        self.counter.set(*flushed_max + 1);
        edit()?;
        *flushed_max = highest;
        Ok(())
    }
}

impl Shared {
    fn convert(&self, op: &'static str) -> impl Fn(lsm_tree::Error) -> Error + '_ {
        move |error| convert(op, &self.dir, error)
    }

    /// The newest position that is both committed and applied.
    pub(super) fn visible(&self) -> Lsn {
        self.applied.get().min(self.gate.commit.get())
    }

    /// Raises the floor under reads, ends snapshots that are too old, and returns the watermark
    /// for an edit.
    fn raise_horizon(&self) -> SeqNo {
        let applied = self.applied.get();
        let by_age = applied.get().saturating_sub(self.options.snapshot_age);
        let by_memory = self
            .pinned_above_limit()
            .map_or(0, |highest| highest + EDIT_SLACK);
        let too_old = Lsn::new(by_age.max(by_memory));
        self.horizon.raise(self.visible(), too_old).get()
    }

    /// Bytes of memtables that are flushed, but still shown to some snapshot.
    pub(super) fn pinned_bytes(&self) -> u64 {
        let retired = self.retired.lock();
        retired.iter().map(|sealed| sealed.memtable.size()).sum()
    }

    /// The highest version of the flushed memtables that must go to keep the rest within the
    /// limit, or `None` when all are within.
    fn pinned_above_limit(&self) -> Option<SeqNo> {
        let mut pinned = self.pinned_bytes();
        let retired = self.retired.lock();
        let mut oldest = retired.iter();
        let mut highest = None;
        while pinned > self.options.snapshot_bytes {
            let sealed = oldest.next()?;
            pinned = pinned.saturating_sub(sealed.memtable.size());
            highest = Some(sealed.highest);
        }
        highest
    }

    /// Frees flushed memtables that nothing shows any more. Freeing one takes tens of
    /// milliseconds; the library would do it under the lock that every read takes.
    fn free_retired(&self) {
        let free = {
            let mut retired = self.retired.lock();
            let unused = |sealed: &mut Sealed| Arc::strong_count(&sealed.memtable) == 1;
            retired.extract_if(.., unused).collect::<Vec<_>>()
        };
        drop(free);
    }

    fn flush(&self, tree: &Tree, sealed: &Sealed) -> Result<()> {
        if !canary("flush-without-a-bound") {
            (self.gate.raise_bound)(sealed.end())?;
        }
        let watermark = self.raise_horizon();
        let _flushing = self.flushing.lock();
        {
            let _flush = tree.get_flush_lock();
            let rows = visible_only(&sealed.memtable, watermark).map(Ok);
            let written = tree.flush_to_tables(rows);
            let written = written.map_err(self.convert("flush"))?;
            let (tables, blobs) = written.expect("a tree without blobs always answers");
            self.edits.prepare(sealed.highest);
            let id = sealed.memtable.id();
            tree.register_tables(&tables, blobs.as_deref(), None, &[id], watermark)
                .map_err(self.convert("register tables"))?;
        }
        self.durable.raise(sealed.end());
        Ok(())
    }

    /// Writes the rows of a transaction that ends at `end` to tables of their own, with the row of
    /// the applied position behind them if it sets none, and adds all of them to the tree at once.
    pub(super) fn write_tables(&self, tree: &Tree, end: Lsn, ops: Ops<'_>) -> Result<()> {
        (self.gate.raise_bound)(end)?;
        let version = end.get() - 1;
        let mut failed = None;
        let set = Cell::new(false);
        let ops = ops.inspect(|op| set.set(set.get() | matches!(op, Ok((_, Some(_))))));
        let last = iter::from_fn(|| (!set.replace(true)).then(|| Ok(keys::applied(end))));
        let rows = ops.chain(last).map(|op| {
            let op = match self.work.is_stopped() {
                true => Err(Error::Closed),
                false => op,
            };
            op.map(|op| keys::internal(op, version)).map_err(|error| {
                failed = Some(error);
                // Only tells the library to give up.
                io::Error::from(io::ErrorKind::Interrupted).into()
            })
        });
        let _flush = tree.get_flush_lock();
        let written = tree.flush_to_tables(rows);
        if let Some(error) = failed {
            return Err(error);
        }
        let written = written.map_err(self.convert("write a large transaction"))?;
        let (tables, blobs) = written.expect("a tree without blobs always answers");
        let watermark = self.raise_horizon();
        let _flushing = self.flushing.lock();
        self.edits
            .number_below(version, || {
                tree.register_tables(&tables, blobs.as_deref(), None, &[], watermark)
            })
            .map_err(self.convert("register tables"))?;
        // Inside the lock, so that a copy never holds the tables without knowing it.
        self.applied.raise(end);
        self.durable.raise(end);
        self.work.change(|state| {
            state.level0 = tree.l0_run_count();
            state.compact = true;
        });
        Ok(())
    }

    /// The oldest sealed memtable, once it may be flushed.
    fn next_to_flush(&self) -> Result<Sealed> {
        let gate = [&self.gate.flushed, &self.gate.commit];
        self.work.until(|turn| {
            let crowded = turn.state.level0 >= self.options.level0_stop;
            match turn.state.sealed.front().cloned() {
                Some(sealed) if !crowded => {
                    let ready = self.gate.reached() >= sealed.end();
                    if ready || canary("flush-above-the-gate") {
                        return Some(sealed);
                    }
                    // Behind a log that has ended only a stop ends this wait.
                    if !turn.wait_for(&gate, sealed.end()) {
                        turn.wait();
                    }
                }
                _ => turn.wait(),
            }
            None
        })
    }

    /// Waits until no sealed memtable is left that may be flushed at or below `upto`.
    pub(super) fn drain(&self, upto: Lsn) -> Result<()> {
        self.work.until(|turn| {
            let limit = upto.min(self.gate.reached());
            let pending = |sealed: &Sealed| sealed.end() <= limit;
            if !turn.state.sealed.front().is_some_and(pending) {
                return Some(());
            }
            turn.wait();
            None
        })
    }

    fn run_flusher(&self, tree: &Tree) {
        while let Ok(sealed) = self.next_to_flush() {
            if let Err(error) = self.flush(tree, &sealed) {
                // Its rows, and what comes around them in a table.
                let bytes = sealed.memtable.size().saturating_mul(2);
                if self.wait_for_space(tree, &error, bytes, "flush") {
                    continue;
                }
                self.fail(&error);
                return;
            }
            self.retired.lock().push(sealed);
            self.work.change(|state| {
                state.sealed.pop_front();
                state.level0 = tree.l0_run_count();
                state.compact = true;
            });
            self.free_retired();
        }
    }

    fn run_compactor(&self, tree: &Tree) {
        let strategy = Leveled::default()
            .with_table_target_size(self.options.table_bytes)
            .with_l0_threshold(self.options.level0_merge);
        let strategy = Arc::new(strategy);
        let wanted = || {
            self.work.until(|turn| {
                turn.state.merging = std::mem::take(&mut turn.state.compact);
                if !turn.state.merging {
                    turn.wait();
                }
                turn.state.merging.then_some(())
            })
        };
        while wanted().is_ok() {
            let mut before = None;
            // One more round than needed when a flush comes between costs microseconds.
            while before != Some(tree.current_version().id()) && !self.work.is_stopped() {
                before = Some(tree.current_version().id());
                let watermark = self.raise_horizon();
                self.edits.prepare(0);
                if let Err(error) = tree.compact(strategy.clone(), watermark) {
                    let error = self.convert("compact")(error);
                    let bytes = self.options.table_bytes.saturating_mul(2);
                    if !self.work.is_stopped() && self.wait_for_space(tree, &error, bytes, "merge")
                    {
                        before = None;
                        continue;
                    }
                    if !self.work.is_stopped() {
                        self.fail(&error);
                    }
                    return;
                }
                self.work.change(|state| state.level0 = tree.l0_run_count());
                self.free_retired();
            }
        }
    }

    /// Stops the store for good.
    pub(super) fn fail(&self, error: &Error) {
        self.work.fault.set(&self.dir, error);
        self.work.notify();
    }
}

/// Starts the store's threads and adds them to `threads`.
///
/// # Errors
/// [`Error::Io`] when the system gives no thread.
pub(super) fn start(
    shared: &Arc<Shared>,
    tree: &Tree,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<()> {
    type Run = fn(&Shared, &Tree);
    let runs: [(&str, Run); 2] = [
        ("store-flush", Shared::run_flusher),
        ("store-compact", Shared::run_compactor),
    ];
    for (name, run) in runs {
        let (own, tree) = (shared.clone(), tree.clone());
        let body = move || {
            let _guard = Guard(&own);
            run(&own, &tree);
        };
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
        threads.push(spawned.map_err(|error| Error::io("start a thread for", &shared.dir, error))?);
    }
    Ok(())
}

/// Whoever waits for a thread must not wait for ever when it panics.
struct Guard<'a>(&'a Shared);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let why = "a thread of the store panicked".to_owned();
            self.0.fail(&Error::Invalid(why));
        }
    }
}

/// The rows of a memtable without those that no position at or above `watermark` shows: where
/// the next newer version of a key is below it. Stricter than the library's own rule, which also
/// drops what a position between the two needs.
fn visible_only(memtable: &Memtable, watermark: SeqNo) -> impl Iterator<Item = InternalValue> + '_ {
    let mut newer: Option<(lsm_tree::Slice, SeqNo)> = None;
    memtable.iter().filter(move |row| {
        let hidden = newer
            .as_ref()
            .is_some_and(|(key, version)| *version < watermark && *key == row.key.user_key);
        newer = Some((row.key.user_key.clone(), row.key.seqno));
        !hidden
    })
}

/// Stops a merge that is under way when the store closes: a filter that fails is the only lever
/// the library has. What the merge has written so far is removed at the next open.
pub(super) struct StopMerges(pub(super) Arc<AtomicBool>);

impl Factory for StopMerges {
    fn name(&self) -> &str {
        "stop"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(StopMerges(self.0.clone()))
    }
}

impl CompactionFilter for StopMerges {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(std::io::Error::from(std::io::ErrorKind::Interrupted).into()),
            false => Ok(Verdict::Keep),
        }
    }
}
