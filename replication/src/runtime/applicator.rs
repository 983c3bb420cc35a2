//! The thread that replays log into the store.
//!
//! It applies what is committed and flushed here, or on its way to the disk for a store that
//! [runs ahead](Store::runs_ahead); never more, not before the configured delay has passed, and not
//! while it is paused. It publishes how far it got. An engine that becomes primary takes over and
//! applies the rest itself. An error of the store is final; the log goes on, and the node says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use mainstay_storage::{Applicator, Error as StorageError, Lsn, Signal, Store, Wal};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::protocol::pace::Pace;
use crate::runtime::clock::Clock;

/// Bytes of log between two checkpoints of a store that is applied to here.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// A store, shared between who applies to it and who copies it.
pub(crate) type SharedStore = Arc<Mutex<Box<dyn Store>>>;

/// A running replay.
#[derive(Debug)]
pub(crate) struct Replay {
    thread: Option<JoinHandle<Option<Applicator>>>,
    orders: Arc<Orders>,
}

#[derive(Debug)]
struct Orders {
    stop: AtomicBool,
    /// Apply nothing for the time being.
    paused: AtomicBool,
    /// Stay behind no more, and never pause.
    freely: AtomicBool,
    /// Apply nothing that ends above this position.
    ceiling: AtomicU64,
    /// Climbs with each order, to wake the thread.
    given: Signal,
    /// The last order that the thread has heeded; closed with its end.
    heeded: Signal,
}

impl Orders {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            freely: AtomicBool::new(false),
            ceiling: AtomicU64::new(Lsn::MAX.get()),
            given: Signal::new(Lsn::ZERO),
            heeded: Signal::new(Lsn::ZERO),
        })
    }

    fn give(&self, order: &AtomicBool, on: bool) {
        order.store(on, Ordering::Release);
        self.wake();
    }

    /// Wakes the thread, which heeds what was said before.
    fn wake(&self) {
        self.given.raise(self.given.get() + 1);
    }
}

/// What holds a replay back; it applies freely again when this is dropped. One at a time.
#[derive(Debug)]
pub(crate) struct Held(Arc<Orders>);

impl Held {
    /// Lets it apply up to `ceiling`, and returns when it has applied all of that which it may by
    /// now, or stays behind on purpose.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when the replay has ended.
    pub(crate) async fn at(&self, ceiling: Lsn) -> Result<()> {
        self.0.ceiling.store(ceiling.get(), Ordering::Release);
        // An order given at the same moment by another may take the same number: one more makes
        // sure that this one was seen.
        self.0.wake();
        self.0.wake();
        let heeded = self.0.heeded.wait(self.0.given.get()).await;
        heeded.map(|_| ()).map_err(|_| Error::NotRunning)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.ceiling.store(Lsn::MAX.get(), Ordering::Release);
        self.0.wake();
    }
}

/// Ends the waits for a replay that has ended.
struct Ended {
    orders: Arc<Orders>,
    applied: Signal,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.orders.heeded.close();
        // As after an error: nothing more is applied.
        if std::thread::panicking() {
            self.applied.close();
        }
    }
}

/// Who may hold a replay back.
#[derive(Debug, Clone)]
pub(crate) struct Holder(Arc<Orders>);

impl Holder {
    /// Takes hold of it; nothing changes before [`Held::at`].
    pub(crate) fn hold(&self) -> Held {
        Held(self.0.clone())
    }
}

impl Replay {
    /// Starts replay of `wal` into `store`; `applied` climbs with it. `checkpoints` says whether
    /// this thread also makes the store durable and removes log that only it needed. `pace` says
    /// how far it stays behind.
    ///
    /// # Errors
    /// When the log that the store needs is gone, or no thread can be started.
    pub(crate) fn start(
        wal: Wal,
        store: SharedStore,
        applied: Signal,
        checkpoints: bool,
        pace: (Pace, Clock),
        retain: impl Fn() -> Lsn + Send + 'static,
    ) -> Result<Self> {
        let orders = Orders::new();
        let ended = Ended {
            orders: orders.clone(),
            applied: applied.clone(),
        };
        let (applicator, runs_ahead) = {
            let store = store.lock();
            (Applicator::new(&wal, &**store)?, store.runs_ahead())
        };
        let mut work = Work {
            wal,
            store,
            applied,
            applicator,
            orders: orders.clone(),
            runs_ahead,
            checkpoints,
            checkpointed: Lsn::ZERO,
            pace: pace.0,
            clock: pace.1,
            retain: Box::new(retain),
        };
        let thread = std::thread::Builder::new().name("applicator".to_owned());
        let thread = thread.spawn(move || {
            let _ended = ended;
            match work.run() {
                Ok(()) => Some(work.applicator),
                Err(error) => {
                    work.tell(error);
                    // Whoever waits for more to be applied waits for nothing.
                    work.applied.close();
                    None
                }
            }
        });
        let thread = thread.map_err(|source| Error::Connection {
            peer: "this node".to_owned(),
            op: "start a thread",
            source,
        })?;
        Ok(Self {
            thread: Some(thread),
            orders,
        })
    }

    /// Lets it apply whatever is committed from now on: neither delay nor pause counts any more.
    pub(crate) fn apply_freely(&self) {
        self.orders.give(&self.orders.freely, true);
    }

    /// Lets it apply nothing for the time being, or go on.
    pub(crate) fn pause(&self, paused: bool) {
        self.orders.give(&self.orders.paused, paused);
    }

    /// For who has to hold it back for a moment.
    pub(crate) fn holder(&self) -> Holder {
        Holder(self.orders.clone())
    }

    /// Ends it, after the transaction at hand, and returns what goes on from there; `None` when it
    /// failed.
    pub(crate) fn stop(mut self) -> Option<Applicator> {
        self.end()
    }

    fn end(&mut self) -> Option<Applicator> {
        self.orders.give(&self.orders.stop, true);
        // A panic in it was reported by the panic itself.
        self.thread.take()?.join().ok()?
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.end();
    }
}

struct Work {
    wal: Wal,
    store: SharedStore,
    applied: Signal,
    applicator: Applicator,
    orders: Arc<Orders>,
    /// The store takes what is not flushed yet.
    runs_ahead: bool,
    checkpoints: bool,
    checkpointed: Lsn,
    pace: Pace,
    clock: Clock,
    retain: Box<dyn Fn() -> Lsn + Send>,
}

impl Work {
    fn run(&mut self) -> Result<()> {
        loop {
            let given = self.orders.given.get();
            if self.orders.stop.load(Ordering::Acquire) {
                break;
            }
            let signal = match self.runs_ahead {
                true => self.wal.replayable().clone(),
                false => self.wal.commit().clone(),
            };
            let upto = signal.get();
            let freely = self.orders.freely.load(Ordering::Acquire);
            let at = match self.limit(upto, freely) {
                Some(limit) => {
                    let mut store = self.store.lock();
                    self.applicator.apply_upto(&mut **store, limit)?
                }
                None => self.applicator.position(),
            };
            self.applied.raise(at);
            self.orders.heeded.raise(given);
            if self.checkpoints && at.bytes_since(self.checkpointed) >= CHECKPOINT_BYTES {
                self.checkpoint(at)?;
            }
            // Waiting for the next byte: `at` may stop short of `upto` at a record's start.
            let next = signal.wait(upto + 1);
            let more = self.pace.deadline().filter(|_| !freely);
            let more = more.map(|at| at - self.clock.now());
            Signal::wait_any_within(&mut [next, self.orders.given.wait(given + 1)], more);
            if signal.is_closed() {
                return Ok(());
            }
        }
        if self.checkpoints {
            self.checkpoint(self.applicator.position())?;
        }
        Ok(())
    }

    /// Says why nothing is applied any more.
    fn tell(&self, error: Error) {
        // The store may have waited for a log that has ended.
        let closed = matches!(error, Error::Storage(StorageError::Closed));
        let error = match self.wal.poisoned() {
            Some(stopped) if closed => stopped.into(),
            None if closed && self.wal.commit().is_closed() => return,
            _ => error,
        };
        tracing::error!(%error, "cannot apply the log; restart this node, or rebuild it");
    }

    /// How far of `upto` may be applied; `None` while nothing may.
    fn limit(&mut self, upto: Lsn, freely: bool) -> Option<Lsn> {
        let now = self.clock.now();
        self.pace.heard(upto, now);
        let allowed = self.pace.allowed(now);
        if freely {
            return Some(upto);
        }
        let ceiling = Lsn::new(self.orders.ceiling.load(Ordering::Acquire));
        (!self.orders.paused.load(Ordering::Acquire)).then_some(allowed.min(upto).min(ceiling))
    }

    fn checkpoint(&mut self, at: Lsn) -> Result<()> {
        let upto = at.min(self.wal.commit().get());
        let durable = self.store.lock().checkpoint(upto)?;
        let restart = self.applicator.safe_restart(durable);
        if restart > self.wal.control().checkpoint {
            self.wal.checkpoint(restart)?;
        }
        self.wal.remove_below(restart.min((self.retain)()))?;
        self.checkpointed = at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use mainstay_storage::{
        Change, FlushGate, LsmOptions, LsmStore, MemoryStore, NewLog, ReadAt, SegmentSize, SimDisk,
        WalEntry, WalOptions,
    };

    use super::*;

    const TABLE: u32 = 1;

    /// A standby's log without threads, in which one row was committed by its primary and is not
    /// synced here; and where that ends.
    fn sealed() -> (Wal, Lsn) {
        let options = WalOptions {
            driven: true,
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let (disk, new) = (SimDisk::new(1), NewLog::new_cluster(SegmentSize::MIN));
        let wal = Wal::create(Arc::new(disk), Path::new("/node"), new, &options).unwrap();
        wal.set_commit_follows(false);
        let change = Change::Put {
            table: TABLE,
            key: "k".into(),
            value: "v".into(),
        };
        let entry = WalEntry::new(change.entry_type(), None, change.encode());
        let end = wal.append(&[entry]).unwrap().end;
        wal.follow_commit(end);
        while wal.sealed().get() < end {
            assert!(wal.drive(), "nothing to do");
        }
        (wal, end)
    }

    fn start(wal: &Wal, store: impl Store + 'static) -> (Replay, Signal) {
        let applied = Signal::new(Lsn::ZERO);
        let store: SharedStore = Arc::new(Mutex::new(Box::new(store)));
        let pace = (Pace::new(Duration::ZERO), Clock::new());
        let replay = Replay::start(wal.clone(), store, applied.clone(), false, pace, || {
            Lsn::MAX
        });
        (replay.unwrap(), applied)
    }

    #[tokio::test]
    async fn a_store_that_runs_ahead_has_what_is_not_flushed_and_shows_it_once_it_is() {
        let (wal, end) = sealed();
        let dir = tempfile::tempdir().unwrap();
        let gate = FlushGate {
            flushed: wal.flushed().clone(),
            commit: wal.commit().clone(),
            raise_bound: Box::new(|_| Ok(())),
        };
        let store = dir.path().join("store");
        let store = LsmStore::open(&store, false, gate, LsmOptions::default()).unwrap();
        let (_replay, applied) = start(&wal, store.clone());
        assert_eq!(applied.wait(end).await, Ok(end));
        let (flushed, commit) = (wal.flushed().get(), wal.commit().get());
        assert!(flushed < end && commit <= flushed, "{commit} of {flushed}");
        let reader = store.reader();
        let row = || {
            let at = reader.open_committed().unwrap();
            let row = reader.get(TABLE, b"k", at).unwrap();
            reader.close_snapshot(at);
            row
        };
        assert_eq!(row(), None);
        assert!(store.checkpoint(end).unwrap() <= flushed, "it kept it");
        while wal.drive() {}
        assert_eq!(wal.commit().get(), end);
        assert_eq!(row().as_deref(), Some(&b"v"[..]));
    }

    #[tokio::test]
    async fn a_store_that_does_not_run_ahead_gets_nothing_that_is_not_flushed() {
        let (wal, end) = sealed();
        let (replay, applied) = start(&wal, MemoryStore::new(Arc::new(SimDisk::new(2))));
        // When this returns it has applied all that it may.
        replay.holder().hold().at(Lsn::MAX).await.unwrap();
        assert!(applied.get() < end);
        while wal.drive() {}
        assert_eq!(applied.wait(end).await, Ok(end));
    }
}
