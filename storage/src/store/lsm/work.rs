//! What the store's threads tell each other: memtables on their way to disk, runs in level 0,
//! and when to stop.
//!
//! One lock and one condition for everything, since everything here changes a few times a second.
//! The lock is held for moments only: the log's threads come by to say that the gate has moved.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use lsm_tree::{AbstractTree, Memtable, SeqNo, Tree};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::fault::Fault;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::signal::{Signal, WaitError};

/// How long an insert pauses while level 0 is long.
const SLOW_PAUSE: Duration = Duration::from_millis(1);

/// A memtable that takes no more rows and waits for its turn and the gate.
#[derive(Clone)]
pub(super) struct Sealed {
    pub(super) memtable: Arc<Memtable>,
    /// The highest version in it.
    pub(super) highest: SeqNo,
}

impl Sealed {
    /// Where its last transaction ends: everything up to here is in it or in older ones, and the
    /// gate must have reached it.
    pub(super) fn end(&self) -> Lsn {
        Lsn::new(self.highest + 1)
    }
}

/// See the module.
pub(super) struct Work {
    state: Mutex<State>,
    changed: Condvar,
    /// For who waits for time to pass, and not for changes.
    stopped: Condvar,
    pub(super) fault: Fault,
}

/// What the threads work on.
#[derive(Default)]
pub(super) struct State {
    /// Oldest first; the one that is being flushed stays in front until it is registered.
    pub(super) sealed: VecDeque<Sealed>,
    /// Runs in level 0 after the last edit.
    pub(super) level0: usize,
    /// Whether tables came in that compaction has not looked at.
    pub(super) compact: bool,
    /// Whether compaction is looking at them now.
    pub(super) merging: bool,
    /// How often an insert had to wait for memory.
    pub(super) stalls: u64,
    stop: bool,
}

/// Where a wait looks: the state, and how to wait for more.
pub(super) struct Turn<'a> {
    work: &'a Arc<Work>,
    pub(super) state: MutexGuard<'a, State>,
}

impl Turn<'_> {
    /// Gives way until something has changed.
    pub(super) fn wait(&mut self) {
        self.work.changed.wait(&mut self.state);
    }

    /// Gives way until something has changed, or one of `signals` has reached `target`. Does not
    /// where one of them is closed below it, and answers `false`: that will not climb.
    pub(super) fn wait_for(&mut self, signals: &[&Signal], target: Lsn) -> bool {
        let waker = Waker::from(self.work.clone());
        let mut context = Context::from_waker(&waker);
        let mut registered = Vec::with_capacity(signals.len());
        for signal in signals {
            let mut wait = Box::pin(signal.wait(target));
            match wait.as_mut().poll(&mut context) {
                Poll::Pending => registered.push(wait),
                Poll::Ready(Ok(_)) => {}
                // Looked at anew: what lies there is other log now.
                Poll::Ready(Err(WaitError::SetBack)) => return true,
                Poll::Ready(Err(_)) => return false,
            }
        }
        let reached = signals.iter().all(|signal| signal.get() >= target);
        if !reached {
            self.work.changed.wait(&mut self.state);
        }
        true
    }
}

impl Wake for Work {
    fn wake(self: Arc<Self>) {
        self.notify();
    }
}

impl Work {
    /// The state of a tree that was just opened: compaction looks at it first.
    pub(super) fn new(tree: &Tree) -> Self {
        let state = State {
            level0: tree.l0_run_count(),
            compact: true,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            stopped: Condvar::new(),
            fault: Fault::default(),
        }
    }

    /// Changes the state and tells everybody.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.lock());
        self.changed.notify_all();
        changed
    }

    /// Reads the state.
    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    /// Calls `ready` each time something may have changed until it returns a value.
    ///
    /// # Errors
    /// The store's failure, or [`Error::Closed`].
    pub(super) fn until<T>(
        self: &Arc<Self>,
        mut ready: impl FnMut(&mut Turn<'_>) -> Option<T>,
    ) -> Result<T> {
        let mut turn = Turn {
            work: self,
            state: self.state.lock(),
        };
        loop {
            self.fault.check()?;
            if turn.state.stop {
                return Err(Error::Closed);
            }
            if let Some(value) = ready(&mut turn) {
                return Ok(value);
            }
        }
    }

    /// Pauses an insert for a moment, so that compaction gets ahead.
    pub(super) fn pause(&self) {
        let mut state = self.state.lock();
        self.changed.wait_for(&mut state, SLOW_PAUSE);
    }

    /// Waits for `pause`, or until the work ends.
    pub(super) fn pause_for(&self, pause: Duration) {
        let mut state = self.state.lock();
        if !state.stop {
            self.stopped.wait_for(&mut state, pause);
        }
    }

    /// Ends every wait, present and future.
    pub(super) fn stop(&self) {
        self.change(|state| state.stop = true);
        self.stopped.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Wakes whoever waits, so that they look again.
    pub(super) fn notify(&self) {
        // Taking the lock closes the gap between looking and waiting.
        drop(self.state.lock());
        self.changed.notify_all();
    }
}
