//! What clients called and were answered, in two accounts, since what is promised of a read depends
//! on where it is asked.
//!
//! * By real time: all writes, and reads of the primary that name the end of its promotion. They
//!   are linearizable as long as nobody was promoted in its place. A read is left out when that has
//!   happened before its answer was there: a primary that was replaced may show old data. Reads in
//!   transactions that write are validated by their commit, and always count.
//! * By position in the log: all reads of all nodes, however old what they show. Each shows what
//!   the writes up to its position made of its key, and nothing that comes later.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{History, Op, OpId, Outcome, Verdict};
use crate::support::until;

/// Steps for each key of a history.
const STEPS_MAX: u64 = 1_000_000;

/// A node's time as the primary.
#[derive(Debug, Clone)]
pub(super) struct Reign {
    pub(super) number: u64,
    pub(super) address: String,
    /// Where it takes transactions that read, if it does.
    pub(super) transactions: Option<String>,
    /// Where its promotion ended; a node shows everything that was acknowledged before once it
    /// shows this.
    pub(super) from: u64,
}

/// What was done at a known position of the log.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) at: u64,
    pub(super) client: usize,
    pub(super) key: String,
    pub(super) op: Op,
    pub(super) outcome: Outcome,
}

/// What all clients called and were answered.
#[derive(Debug)]
pub(super) struct Account {
    begun: Instant,
    history: Mutex<History>,
    placed: Mutex<Vec<Placed>>,
    /// Writes that may have taken effect anywhere.
    unplaced: Mutex<Vec<(usize, String, Op)>>,
    reign: Mutex<Reign>,
    changed: Condvar,
    stopped: AtomicBool,
    done: AtomicU64,
}

/// What a check of an account found, and how much there was.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) by_time: Verdict,
    pub(super) by_position: Verdict,
    pub(super) operations: usize,
    pub(super) positions: usize,
    pub(super) unknown: usize,
    /// Values that were set by comparing.
    pub(super) swapped: usize,
}

impl Account {
    pub(super) fn new(first: Reign) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            history: Mutex::default(),
            placed: Mutex::default(),
            unplaced: Mutex::default(),
            reign: Mutex::new(first),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            done: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).expect("a test is short")
    }

    /// From now on clients turn to another primary.
    pub(super) fn reigns(&self, next: Reign) {
        *self.reign.lock().expect("nobody panics with it") = next;
        self.changed.notify_all();
    }

    pub(super) fn reign(&self) -> Reign {
        self.reign.lock().expect("nobody panics with it").clone()
    }

    /// Waits until another reigns than `number`, clients are to stop, or the time is up.
    pub(super) fn wait_for_another(&self, number: u64, within: Duration) {
        let reign = self.reign.lock().expect("nobody panics with it");
        let waits = |reign: &mut Reign| reign.number == number && !self.is_stopped();
        let waited = self.changed.wait_timeout_while(reign, within, waits);
        drop(waited.expect("nobody panics with it"));
    }

    /// Waits until `more` further operations were answered.
    #[track_caller]
    pub(super) fn until_done(&self, more: u64) {
        let goal = self.done.load(Ordering::Acquire) + more;
        until("clients make progress", || {
            self.done.load(Ordering::Acquire) >= goal
        });
    }

    pub(super) fn invoke(&self, client: usize, key: &str, op: &Op) -> OpId {
        let mut history = self.history.lock().expect("nobody panics with it");
        history.invoke(client, key, op.clone(), self.now())
    }

    pub(super) fn returned(&self, id: OpId, outcome: Outcome) {
        let mut history = self.history.lock().expect("nobody panics with it");
        history.returned(id, outcome, self.now());
        self.done.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn never(&self, id: OpId) {
        self.history
            .lock()
            .expect("nobody panics with it")
            .never(id);
    }

    pub(super) fn unknown(&self, id: OpId) {
        self.history
            .lock()
            .expect("nobody panics with it")
            .unknown(id);
    }

    pub(super) fn place(&self, placed: Placed) {
        self.placed
            .lock()
            .expect("nobody panics with it")
            .push(placed);
    }

    pub(super) fn unplace(&self, client: usize, key: &str, op: &Op) {
        let mut unplaced = self.unplaced.lock().expect("nobody panics with it");
        unplaced.push((client, key.to_owned(), op.clone()));
    }

    /// Clients end after what they are about.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Checks both accounts.
    pub(super) fn check(&self) -> Found {
        let mut placed = self.placed.lock().expect("nobody panics with it");
        let unplaced = self.unplaced.lock().expect("nobody panics with it");
        placed.sort_by_key(|one| (one.at, one.op.only_reads()));
        // Positions serve as times: each operation is over before the one behind it begins.
        let mut by_position = History::new();
        for (client, key, op) in unplaced.iter() {
            let id = by_position.invoke(*client, key, op.clone(), 0);
            by_position.unknown(id);
        }
        for one in placed.iter() {
            let id = by_position.invoke(one.client, &one.key, one.op.clone(), one.at);
            by_position.returned(id, one.outcome.clone(), one.at);
        }
        let history = self.history.lock().expect("nobody panics with it");
        Found {
            by_time: history.check(STEPS_MAX),
            by_position: by_position.check(STEPS_MAX),
            operations: history.operations.len(),
            positions: placed.len(),
            unknown: unplaced.len(),
            swapped: placed
                .iter()
                .filter(|one| one.outcome == Outcome::Swapped(true))
                .count(),
        }
    }
}
