//! Waiters of a position: each ends when its position is reached, none before, nobody is forgotten.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use shuttle::future::block_on;

use super::explore;
use crate::lsn::Lsn;
use crate::signal::{Signal, WaitError};
use crate::sync::thread;

/// Raises `signal` to each of `to` in turn; it never stands lower than it stood.
fn raise(signal: &Signal, to: &[u64]) {
    for &to in to {
        let before = signal.get();
        signal.raise(Lsn::new(to));
        assert!(signal.get() >= Lsn::new(to).max(before));
    }
}

fn wait(signal: &Signal, target: u64, blocking: bool) -> Result<Lsn, WaitError> {
    let target = Lsn::new(target);
    let waited = match blocking {
        true => signal.wait_blocking(target, None),
        false => block_on(signal.wait(target)),
    };
    if let Ok(at) = waited {
        assert!(at >= target && signal.get() >= at, "{target} ended at {at}");
    }
    waited
}

#[test]
fn a_wait_ends_when_its_position_is_reached_and_not_before() {
    explore(|| {
        let signal = Signal::new(Lsn::ZERO);
        let waiters = [(8, true), (16, false), (24, true)].map(|(target, blocking)| {
            let signal = signal.clone();
            thread::spawn(move || wait(&signal, target, blocking).unwrap())
        });
        let raisers = [&[8, 24], &[16, 20]].map(|to| {
            let signal = signal.clone();
            thread::spawn(move || raise(&signal, to))
        });
        for raiser in raisers {
            raiser.join().unwrap();
        }
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!((signal.get(), signal.waiters()), (Lsn::new(24), 0));
    });
}

#[test]
fn a_close_ends_every_wait_but_none_that_was_reached() {
    explore(|| {
        let signal = Signal::new(Lsn::ZERO);
        let reached = [true, false].map(|blocking| {
            let signal = signal.clone();
            thread::spawn(move || wait(&signal, 16, blocking))
        });
        let beyond = [true, false].map(|blocking| {
            let signal = signal.clone();
            thread::spawn(move || wait(&signal, 24, blocking))
        });
        signal.raise(Lsn::new(16));
        signal.close();
        assert_eq!(wait(&signal, 24, true), Err(WaitError::Closed));
        for waiter in reached {
            assert_eq!(waiter.join().unwrap(), Ok(Lsn::new(16)));
        }
        for waiter in beyond {
            assert_eq!(waiter.join().unwrap(), Err(WaitError::Closed));
        }
        assert_eq!(signal.waiters(), 0);
    });
}

/// As a commit waits for its level, and for the end of all such waits.
#[test]
fn one_of_two_positions_ends_a_wait_for_either() {
    explore(|| {
        let (one, two) = (Signal::new(Lsn::ZERO), Signal::new(Lsn::ZERO));
        let waiters = [false, true].map(|hurried| {
            let (one, two) = (one.clone(), two.clone());
            thread::spawn(move || {
                let mut waits = [one.wait(Lsn::new(16)), two.wait(Lsn::new(1))];
                let timeout = hurried.then_some(Duration::from_secs(1));
                let over = Signal::wait_any_within(&mut waits, timeout);
                let reached = one.get() >= Lsn::new(16) || two.get() >= Lsn::new(1);
                assert!(reached || !over, "it ended although nothing was reached");
                assert!(over || hurried, "it gave up although there is no hurry");
            })
        });
        let raisers = [(&one, 8), (&two, 1)].map(|(signal, to)| {
            let signal = signal.clone();
            thread::spawn(move || raise(&signal, &[to]))
        });
        for thread in raisers.into_iter().chain(waiters) {
            thread.join().unwrap();
        }
        assert_eq!((one.waiters(), two.waiters()), (0, 0));
    });
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_wait_that_is_given_up_takes_nobodys_wake_up_with_it() {
    explore(|| {
        let signal = Signal::new(Lsn::ZERO);
        let waiter = thread::spawn({
            let signal = signal.clone();
            move || wait(&signal, 8, false).unwrap()
        });
        let fickle = thread::spawn({
            let signal = signal.clone();
            move || {
                let waker = Waker::from(Arc::new(Nobody));
                let mut given_up = signal.wait(Lsn::new(8));
                let polled = Pin::new(&mut given_up).poll(&mut Context::from_waker(&waker));
                assert!(polled.is_pending() || signal.get() >= Lsn::new(8));
                drop(given_up);
                match signal.wait_blocking(Lsn::new(8), Some(Duration::from_secs(1))) {
                    Ok(at) => assert!(at >= Lsn::new(8)),
                    Err(why) => assert_eq!(why, WaitError::TimedOut),
                }
            }
        });
        raise(&signal, &[4, 8]);
        fickle.join().unwrap();
        waiter.join().unwrap();
        assert_eq!(signal.waiters(), 0);
    });
}

/// A wait may be polled by whoever holds it; only the last one who asked is woken.
#[test]
fn a_wait_that_moves_to_another_thread_is_woken_there() {
    explore(|| {
        let signal = Signal::new(Lsn::ZERO);
        let mut moving = signal.wait(Lsn::new(8));
        let waker = Waker::from(Arc::new(Nobody));
        let here = Pin::new(&mut moving).poll(&mut Context::from_waker(&waker));
        assert_eq!(here, Poll::Pending);
        let there = thread::spawn(move || block_on(moving).unwrap());
        raise(&signal, &[8]);
        assert_eq!(there.join().unwrap(), Lsn::new(8));
    });
}
