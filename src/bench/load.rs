//! The clients: threads that ask one thing after the other, each over its own connection.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::marks::Marks;
use super::nodes::{Nodes, Session};
use super::plan::Step;
use super::requests::Requests;
use super::tally::{Kind, Tally};
use super::{Length, Settings};
use crate::client::ClientError;

/// How long a client waits after an error, so that a node which is not there is not stormed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(20);

/// Between two looks at how far the load is.
const TICK: Duration = Duration::from_secs(1);

/// Operations of the warm-up are numbered from here on, and those of the run from 0.
const WARMUP_NUMBERS: u64 = 1 << 63;

/// A load, and what its clients share.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    settings: &'a Settings,
    nodes: &'a Nodes,
    marks: &'a Marks,
    tally: &'a Tally,
    stop: &'a AtomicBool,
    /// The number of the next operation, and of the next one of the warm-up.
    next: AtomicU64,
    next_of_warmup: AtomicU64,
}

/// How far a load is: in its warm-up, or since that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elapsed {
    WarmingUp(Duration),
    Measuring(Duration),
}

/// An operation's number, and whether its latency counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticket {
    number: u64,
    measured: bool,
}

impl<'a> Load<'a> {
    pub(crate) fn new(
        settings: &'a Settings,
        nodes: &'a Nodes,
        marks: &'a Marks,
        tally: &'a Tally,
        stop: &'a AtomicBool,
    ) -> Self {
        Self {
            settings,
            nodes,
            marks,
            tally,
            stop,
            next: AtomicU64::new(0),
            next_of_warmup: AtomicU64::new(WARMUP_NUMBERS),
        }
    }

    /// Runs until every client has its last answer; calls `tick` each second. Returns the time from
    /// the end of the warm-up to that last answer.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub(crate) fn run(&self, mut tick: impl FnMut(Elapsed)) -> io::Result<Duration> {
        let sessions = self.connected();
        let from = Instant::now() + self.settings.warmup;
        thread::scope(|scope| {
            let (ended, ends) = mpsc::channel();
            for session in sessions {
                let ended = ended.clone();
                let client = thread::Builder::new().name("bench-client".to_owned());
                let work = move || {
                    // Nobody waits for it any more where a later thread could not be had.
                    let _ = ended.send(self.work(session, from));
                };
                if let Err(error) = client.spawn_scoped(scope, work) {
                    self.stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            drop(ended);
            let (mut last, mut next) = (from, Instant::now() + TICK);
            loop {
                match ends.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(end) => last = last.max(end),
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        let now = Instant::now();
                        next = now + TICK;
                        match now.checked_duration_since(from) {
                            // The interval has hardly begun.
                            Some(measuring) if measuring < TICK / 2 => next = from + TICK,
                            Some(measuring) => tick(Elapsed::Measuring(measuring)),
                            None => {
                                let passed = self.settings.warmup.saturating_sub(from - now);
                                tick(Elapsed::WarmingUp(passed));
                            }
                        }
                    }
                }
            }
            Ok(last - from)
        })
    }

    /// The clients' sessions, with their connections where the node takes them, so that no
    /// operation has to wait for one.
    fn connected(&self) -> Vec<Session<'a>> {
        let mut answers = true;
        let sessions = (0..self.settings.clients).map(|_| {
            let mut session = self.nodes.session();
            // A node that does not answer is not waited for a thousand times.
            answers = answers && self.connect(&mut session);
            session
        });
        sessions.collect()
    }

    fn connect(&self, session: &mut Session<'_>) -> bool {
        let (table, key) = (&self.settings.table, self.settings.plan.key(0));
        match session.client().get(table, key.as_bytes(), None) {
            Ok(_) => true,
            Err(error) => self.failed(session, &error),
        }
    }

    /// What one client does; returns when it had its last answer.
    fn work(&self, mut session: Session<'_>, from: Instant) -> Instant {
        let Settings {
            plan, table, size, ..
        } = self.settings;
        let mut requests = Requests::new(plan, table, *size, self.settings.level);
        loop {
            let now = Instant::now();
            let Some(ticket) = self.ticket(now, from) else {
                return now;
            };
            let done = match plan.step(ticket.number) {
                Step::Put(row) => {
                    let body = requests.put(row, ticket.number);
                    self.put(&mut session, row, body, ticket.measured)
                }
                Step::Get(row) => self.get(&mut session, row, ticket.measured),
            };
            if !done && !self.stop.load(Ordering::Relaxed) {
                thread::sleep(PAUSE_AFTER_ERROR);
            }
        }
    }

    /// The next operation, or none when the run is over.
    fn ticket(&self, now: Instant, from: Instant) -> Option<Ticket> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        if now < from {
            let number = self.next_of_warmup.fetch_add(1, Ordering::Relaxed);
            let measured = false;
            return Some(Ticket { number, measured });
        }
        let count = match self.settings.length {
            Length::For(time) if now >= from + time => return None,
            Length::For(_) => WARMUP_NUMBERS,
            Length::Count(count) => count,
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let measured = true;
        (number < count).then_some(Ticket { number, measured })
    }

    fn put(&self, session: &mut Session<'_>, row: u64, body: Vec<u8>, measured: bool) -> bool {
        // Before it is asked for: what nobody answered may be there all the same.
        self.marks.set(row);
        let client = session.client();
        let began = Instant::now();
        match client.commit(body) {
            Ok(level) if measured => self.tally.commit(began.elapsed(), level),
            Ok(_) => {}
            Err(error) => return self.failed(session, &error),
        }
        true
    }

    fn get(&self, session: &mut Session<'_>, row: u64, measured: bool) -> bool {
        let (key, client) = (self.settings.plan.key(row), session.client());
        let began = Instant::now();
        let value = client.get(&self.settings.table, key.as_bytes(), None);
        let latency = began.elapsed();
        let found = match value {
            Ok(Some(value)) if value.len() == self.settings.size => {
                if measured {
                    self.tally.reads.record(latency);
                }
                return true;
            }
            Ok(found) => found,
            Err(error) => return self.failed(session, &error),
        };
        let size = self.settings.size;
        self.tally.error(Kind::Missing, || match found {
            Some(value) => format!("{key} has {} bytes and not {size}", value.len()),
            None => format!("{key} was written and is not there"),
        });
        false
    }

    fn failed(&self, session: &Session<'_>, error: &ClientError) -> bool {
        let kind = Kind::of(error);
        self.tally.error(kind, || error.to_string());
        if kind.is_about_the_node() {
            session.leave();
        }
        false
    }
}
