//! The thread that replays log into the store.
//!
//! It applies what is both flushed here and committed, never more, and publishes how far it got;
//! not before the configured delay has passed, and not while it is paused. An engine that becomes
//! primary takes over from it and applies the rest itself. An error of the store is final; the log
//! goes on, and the node says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use mainstay_storage::{Applicator, Lsn, Signal, Store, Wal};
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
    /// Climbs with each order, to wake the thread.
    given: Signal,
}

impl Orders {
    fn give(&self, order: &AtomicBool, on: bool) {
        order.store(on, Ordering::Release);
        self.given.raise(self.given.get() + 1);
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
        let orders = Arc::new(Orders {
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            freely: AtomicBool::new(false),
            given: Signal::new(Lsn::ZERO),
        });
        let applicator = Applicator::new(&wal, &**store.lock())?;
        let mut work = Work {
            wal,
            store,
            applied,
            applicator,
            orders: orders.clone(),
            checkpoints,
            checkpointed: Lsn::ZERO,
            pace: pace.0,
            clock: pace.1,
            retain: Box::new(retain),
        };
        let thread = std::thread::Builder::new().name("applicator".to_owned());
        let thread = thread.spawn(move || match work.run() {
            Ok(()) => Some(work.applicator),
            Err(error) => {
                tracing::error!(%error, "cannot apply the log; restart this node, or rebuild it");
                // Whoever waits for more to be applied waits for nothing.
                work.applied.close();
                None
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
            let signal = self.wal.commit().clone();
            let upto = signal.get().min(self.wal.flushed().get());
            let freely = self.orders.freely.load(Ordering::Acquire);
            let at = match self.limit(upto, freely) {
                Some(limit) => {
                    let mut store = self.store.lock();
                    self.applicator.apply_upto(&mut **store, limit)?
                }
                None => self.applicator.position(),
            };
            self.applied.raise(at);
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

    /// How far of `upto` may be applied; `None` while nothing may.
    fn limit(&mut self, upto: Lsn, freely: bool) -> Option<Lsn> {
        let now = self.clock.now();
        self.pace.heard(upto, now);
        let allowed = self.pace.allowed(now);
        if freely {
            return Some(upto);
        }
        (!self.orders.paused.load(Ordering::Acquire)).then_some(allowed.min(upto))
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
