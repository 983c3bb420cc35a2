//! One climbing position that others read or wait for.
//!
//! The flushed, commit and applied positions each are a [`Signal`]: one writer raises it, many
//! wait until it reaches a target, from threads ([`Signal::wait_blocking`]) or from any async
//! runtime ([`Signal::wait`]). Waiters are kept in order of their targets, so raising the signal
//! wakes exactly those it releases, whatever their number. This room knows no runtime.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::canary;
use crate::lsn::Lsn;
use crate::sync::{AtomicU64, Condvar, Mutex};

/// A shared, climbing position. Clones are handles on the same one.
///
/// ```
/// use mainstay_storage::{Lsn, Signal};
/// let signal = Signal::new(Lsn::new(8));
/// let waiter = std::thread::spawn({ let s = signal.clone(); move || s.wait_blocking(Lsn::new(16), None) });
/// signal.raise(Lsn::new(24));
/// assert_eq!(waiter.join().unwrap(), Ok(Lsn::new(24)));
/// ```
#[derive(Clone)]
pub struct Signal {
    shared: Arc<Shared>,
}

struct Shared {
    value: AtomicU64,
    /// How often the position was set back.
    set_back: AtomicU64,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    /// Keyed by target first, so that the released ones are a prefix.
    by_target: BTreeMap<(Lsn, u64), Waker>,
    next_id: u64,
    closed: bool,
}

/// Why a wait ended without its target.
#[derive(Debug, Copy, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The signal was closed; it will not climb any more.
    #[error("stopped before the position was reached")]
    Closed,
    /// The position was set back meanwhile: what lies there from now on is other log.
    #[error("the log was cut before the position was reached")]
    SetBack,
    /// The time given was over first.
    #[error("timed out before the position was reached")]
    TimedOut,
}

impl Signal {
    /// A signal that stands at `value`.
    pub fn new(value: Lsn) -> Self {
        let value = AtomicU64::new(value.get());
        Self {
            shared: Arc::new(Shared {
                value,
                set_back: AtomicU64::new(0),
                waiters: Mutex::default(),
            }),
        }
    }

    /// The position now.
    pub fn get(&self) -> Lsn {
        Lsn::new(self.shared.value.load(Ordering::Acquire))
    }

    /// Raises the position to `to` and wakes whom that releases; a lower `to` changes nothing.
    pub fn raise(&self, to: Lsn) {
        if self.shared.value.fetch_max(to.get(), Ordering::AcqRel) >= to.get() {
            return;
        }
        let released = {
            let mut waiters = self.shared.waiters.lock();
            let above = waiters.by_target.split_off(&(to + early(), u64::MAX));
            std::mem::replace(&mut waiters.by_target, above)
        };
        released.into_values().for_each(Waker::wake);
    }

    /// Sets the position back to `to`, because log is cut: every wait that has begun ends with
    /// [`WaitError::SetBack`].
    pub fn reset(&self, to: Lsn) {
        // In this order: whoever sees the position climb again sees that it was set back.
        self.shared.set_back.fetch_add(1, Ordering::AcqRel);
        self.shared.value.store(to.get(), Ordering::Release);
        let waiting = std::mem::take(&mut self.shared.waiters.lock().by_target);
        waiting.into_values().for_each(Waker::wake);
    }

    /// Ends every wait, present and future, that is not released already, with
    /// [`WaitError::Closed`].
    pub fn close(&self) {
        let waiting = {
            let mut waiters = self.shared.waiters.lock();
            waiters.closed = true;
            std::mem::take(&mut waiters.by_target)
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Waits, on any async runtime, until the position is at least `target`, and returns the
    /// position then. Dropping the future ends the wait and leaves nothing behind.
    ///
    /// # Errors
    /// [`WaitError::Closed`] when the signal is closed before, [`WaitError::SetBack`] when it is
    /// set back before this was polled at the target.
    pub fn wait(&self, target: Lsn) -> SignalWait {
        SignalWait {
            since: self.shared.set_back.load(Ordering::Acquire),
            signal: self.clone(),
            target,
            registered: None,
        }
    }

    /// As [`wait`](Self::wait), and goes on where log is cut meanwhile: for whoever asks for a
    /// position, and not for what lay there.
    ///
    /// # Errors
    /// [`WaitError::Closed`].
    pub async fn reached(&self, target: Lsn) -> Result<Lsn, WaitError> {
        loop {
            match self.wait(target).await {
                Err(WaitError::SetBack) => {}
                over => return over,
            }
        }
    }

    /// Waits on this thread until the position is at least `target`, at most for `timeout`.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`], or as [`wait`](Self::wait).
    pub fn wait_blocking(&self, target: Lsn, timeout: Option<Duration>) -> Result<Lsn, WaitError> {
        let parker = Arc::new(Parker::default());
        let waker = Waker::from(parker.clone());
        let mut context = Context::from_waker(&waker);
        let mut wait = self.wait(target);
        loop {
            if let Poll::Ready(result) = Pin::new(&mut wait).poll(&mut context) {
                return result;
            }
            if !parker.park(timeout) {
                return Err(WaitError::TimedOut);
            }
        }
    }

    /// Waits on this thread until one of `waits` is over, for at most `timeout` if given; says
    /// whether one was.
    pub fn wait_any_within(waits: &mut [SignalWait], timeout: Option<Duration>) -> bool {
        let parker = Arc::new(Parker::default());
        let waker = Waker::from(parker.clone());
        let mut context = Context::from_waker(&waker);
        while !waits
            .iter_mut()
            .any(|wait| Pin::new(wait).poll(&mut context).is_ready())
        {
            if !parker.park(timeout) {
                return false;
            }
        }
        true
    }

    /// Whether it was closed: it may stand where it is for ever.
    pub fn is_closed(&self) -> bool {
        self.shared.waiters.lock().closed
    }

    /// How many are waiting.
    pub fn waiters(&self) -> usize {
        self.shared.waiters.lock().by_target.len()
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signal({})", self.get())
    }
}

/// Drives `future`, which waits for signals, on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let parker = Arc::new(Parker::default());
    let waker = Waker::from(parker.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(over) = future.as_mut().poll(&mut context) {
            return over;
        }
        parker.park(None);
    }
}

/// A thread that sleeps until its waker fires. It fires only when the wait is over, so a timeout
/// never has to be split.
#[derive(Default)]
struct Parker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Parker {
    /// Whether the waker fired before `timeout`.
    fn park(&self, timeout: Option<Duration>) -> bool {
        let mut woken = self.woken.lock();
        match timeout {
            None => self.changed.wait_while(&mut woken, |woken| !*woken),
            Some(timeout) => {
                self.changed
                    .wait_while_for(&mut woken, |woken| !*woken, timeout);
            }
        }
        std::mem::take(&mut *woken)
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        *self.woken.lock() = true;
        self.changed.notify_one();
    }
}

/// How far below its target a wait ends: nothing, but in a build that is broken on purpose.
fn early() -> u64 {
    if canary("wake-waiters-early") { 64 } else { 0 }
}

/// The wait that [`Signal::wait`] returns.
#[derive(Debug)]
#[must_use = "a wait does nothing unless it is awaited"]
pub struct SignalWait {
    signal: Signal,
    target: Lsn,
    /// How often the signal had been set back when this began.
    since: u64,
    registered: Option<u64>,
}

impl SignalWait {
    /// What there is to answer, if anything.
    fn answer(&self, look_again: bool) -> Option<Result<Lsn, WaitError>> {
        let shared = &self.signal.shared;
        let value = self.signal.get();
        if shared.set_back.load(Ordering::Acquire) != self.since {
            return Some(Err(WaitError::SetBack));
        }
        (look_again && value + early() >= self.target).then_some(Ok(value))
    }
}

impl Future for SignalWait {
    type Output = Result<Lsn, WaitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(answer) = self.answer(true) {
            return Poll::Ready(answer);
        }
        let signal = self.signal.clone();
        let mut waiters = signal.shared.waiters.lock();
        // `raise` and `reset` store before they take the lock, so what is not seen here will be
        // followed by a wake.
        if let Some(answer) = self.answer(!canary("look-once")) {
            return Poll::Ready(answer);
        }
        if waiters.closed {
            return Poll::Ready(Err(WaitError::Closed));
        }
        let id = *self.registered.get_or_insert_with(|| {
            waiters.next_id += 1;
            waiters.next_id
        });
        waiters
            .by_target
            .insert((self.target, id), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for SignalWait {
    fn drop(&mut self) {
        if let Some(id) = self.registered {
            self.signal
                .shared
                .waiters
                .lock()
                .by_target
                .remove(&(self.target, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn raising_wakes_exactly_the_released_waiters() {
        let signal = Signal::new(Lsn::ZERO);
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        let mut waits = (1..=10_000u64)
            .map(|n| signal.wait(Lsn::new(n * 8)))
            .collect::<Vec<_>>();
        for wait in &mut waits {
            assert!(Pin::new(wait).poll(&mut context).is_pending());
        }
        signal.raise(Lsn::new(100 * 8 + 4));
        assert_eq!(count.0.load(Ordering::SeqCst), 100);
        signal.raise(Lsn::new(50)); // lower: nothing
        assert_eq!(signal.get(), Lsn::new(804));
        drop(waits.split_off(5_000)); // given-up waits leave nothing behind
        assert_eq!(signal.waiters(), 4_900);
        signal.close();
        assert_eq!(count.0.load(Ordering::SeqCst), 5_000);
        assert_eq!(
            Pin::new(&mut waits[0]).poll(&mut context),
            Poll::Ready(Ok(Lsn::new(804)))
        );
        assert_eq!(
            Pin::new(&mut waits[200]).poll(&mut context),
            Poll::Ready(Err(WaitError::Closed))
        );
    }

    #[test]
    fn one_of_several_waits_is_enough() {
        let (one, two) = (Signal::new(Lsn::ZERO), Signal::new(Lsn::ZERO));
        let waiting = std::thread::spawn({
            let mut waits = [one.wait(Lsn::new(8)), two.wait(Lsn::new(8))];
            move || Signal::wait_any_within(&mut waits, None)
        });
        two.raise(Lsn::new(8));
        waiting.join().unwrap();
        assert_eq!((one.waiters(), two.waiters()), (0, 0));
        two.close();
        let mut waits = [one.wait(Lsn::new(8)), two.wait(Lsn::new(16))];
        assert!(Signal::wait_any_within(&mut waits, None));
    }

    #[test]
    fn a_wait_for_what_is_cut_ends_and_one_that_begins_later_does_not() {
        let signal = Signal::new(Lsn::new(16));
        let (mut cut, mut was_there) = (signal.wait(Lsn::new(24)), signal.wait(Lsn::new(16)));
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut cut).poll(&mut context).is_pending());
        signal.reset(Lsn::new(8));
        assert_eq!((count.0.load(Ordering::SeqCst), signal.waiters()), (1, 0));
        // Other log may have come up to there by the time somebody looks.
        signal.raise(Lsn::new(32));
        let set_back = Poll::Ready(Err(WaitError::SetBack));
        assert_eq!(Pin::new(&mut cut).poll(&mut context), set_back);
        assert_eq!(Pin::new(&mut was_there).poll(&mut context), set_back);
        let mut later = signal.wait(Lsn::new(24));
        let reached = Poll::Ready(Ok(Lsn::new(32)));
        assert_eq!(Pin::new(&mut later).poll(&mut context), reached);
        let mut goes_on = pin!(signal.reached(Lsn::new(40)));
        assert!(goes_on.as_mut().poll(&mut context).is_pending());
        signal.reset(Lsn::new(8));
        assert!(goes_on.as_mut().poll(&mut context).is_pending());
        signal.raise(Lsn::new(40));
        assert_eq!(
            goes_on.as_mut().poll(&mut context),
            Poll::Ready(Ok(Lsn::new(40)))
        );
    }

    #[test]
    fn a_blocking_wait_times_out_and_leaves_nothing_behind() {
        let signal = Signal::new(Lsn::ZERO);
        let waited = signal.wait_blocking(Lsn::new(8), Some(Duration::from_millis(5)));
        assert_eq!(waited, Err(WaitError::TimedOut));
        assert_eq!(signal.waiters(), 0);
    }
}
