//! The thread that replays log into the store.
//!
//! It applies what is both flushed here and committed, never more, and publishes how far it got.
//! An engine that becomes primary takes over from it and applies the rest itself. An error of the
//! store is final; the log goes on, and the node says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use mainstay_storage::{Applicator, Lsn, Signal, Store, Wal};
use parking_lot::Mutex;

use crate::error::{Error, Result};

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
    /// Climbs with the order, to wake the thread.
    given: Signal,
}

impl Replay {
    /// Starts replay of `wal` into `store`; `applied` climbs with it. `checkpoints` says whether
    /// this thread also makes the store durable and removes log that only it needed.
    ///
    /// # Errors
    /// When the log that the store needs is gone, or no thread can be started.
    pub(crate) fn start(
        wal: Wal,
        store: SharedStore,
        applied: Signal,
        checkpoints: bool,
        retain: impl Fn() -> Lsn + Send + 'static,
    ) -> Result<Self> {
        let orders = Arc::new(Orders {
            stop: AtomicBool::new(false),
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

    /// Ends it, after the transaction at hand, and returns what goes on from there; `None` when it
    /// failed.
    pub(crate) fn stop(mut self) -> Option<Applicator> {
        self.end()
    }

    fn end(&mut self) -> Option<Applicator> {
        self.orders.stop.store(true, Ordering::Release);
        self.orders.given.raise(self.orders.given.get() + 1);
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
            let at = {
                let mut store = self.store.lock();
                self.applicator.apply_upto(&mut **store, upto)?
            };
            self.applied.raise(at);
            if self.checkpoints && at.bytes_since(self.checkpointed) >= CHECKPOINT_BYTES {
                self.checkpoint(at)?;
            }
            // Waiting for the next byte: `at` may stop short of `upto` at a record's start.
            let next = signal.wait(upto + 1);
            Signal::wait_any_blocking(&mut [next, self.orders.given.wait(given + 1)]);
            if signal.is_closed() {
                return Ok(());
            }
        }
        if self.checkpoints {
            self.checkpoint(self.applicator.position())?;
        }
        Ok(())
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
