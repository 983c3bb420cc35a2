//! The upstream, seen from a standby: dial, find what is common, stream, report, dial again.
//!
//! ```text
//!              deadline             up               common log known          opened
//!   Waiting ─────────▶ Connecting ─────▶ Identifying ────────────────▶ Starting ─────▶ Streaming
//!      ▲                   │                │  ▲                          │             │   │
//!      │                   ▼                ▼  └───── timeline ended ─────┼─────────────┘   │
//!      └── backoff ──── Closing ◀─────── refused, silent, a gap ──────────┴─────────────────┘
//! ```
//!
//! `Stopped` is reached when this log cannot follow this upstream ([`GiveUp`]), or on `Stop`. A
//! standby never takes a gap, never follows a timeline older than one it accepted or opened, never
//! lets its store pass the commit LSN or the log that came, and reports facts only: whether they
//! count is the primary's decision. That nothing is shown before it is flushed is up to the log.
//! The commit LSN it heard never regresses, except with log that is cut, or that never came before
//! it turned to an upstream anew.
//! This room knows no sockets and never sees log bytes.

use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, TimelineHistory, canary};

use super::progress::Positions;
use crate::time::Moment;

mod approach;
mod event;
mod stream;
mod way;

pub use event::{Action, CloseReason, Event, GiveUp, ReceiverConfig, ReceiverStatus, State};
pub use way::{OwnLog, TheirLog, Way, is_stale, newest_known, way_forward};

/// The first retry comes within this time.
pub const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// Every retry comes within this time.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Time before connection attempt number `attempt` (from 0): evenly spread from zero to a bound
/// that doubles up to [`BACKOFF_MAX`].
pub fn backoff(attempt: u32, random: u64) -> Duration {
    let factor = 1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX);
    let bound = BACKOFF_BASE.saturating_mul(factor).min(BACKOFF_MAX);
    let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random % (micros + 1))
}

/// The machine. Invariants: flushed <= written <= received, what is told as applied <= flushed,
/// what may be applied never passes min(commit, received).
#[derive(Debug, Clone)]
pub struct Receiver {
    system_id: u64,
    history: TimelineHistory,
    accepted: Option<Timeline>,
    heartbeat_timeout: Duration,
    status_interval: Duration,
    state: State,
    /// End of the log that was received without a gap.
    received: Lsn,
    own: Positions,
    commit: Lsn,
    may_apply: Lsn,
    /// Own log is being cut to here.
    cutting: Option<Lsn>,
    upstream: Option<Upstream>,
    attempts: u32,
    caught_up: bool,
    asked: bool,
    /// When to dial next, in `Waiting`.
    dial_at: Moment,
    /// When the current wait for the peer began, or it was last heard.
    heard: Moment,
    last_status: Moment,
    last_heard: Option<Moment>,
    closed: Option<CloseReason>,
    gave_up: Option<GiveUp>,
}

#[derive(Debug, Clone)]
struct Upstream {
    timeline: Timeline,
    flushed: Lsn,
    oldest: Lsn,
    /// Known once it was fetched, or is our own.
    history: Option<TimelineHistory>,
}

impl Receiver {
    /// A standby with this log; the first `Tick`, due at once, dials.
    ///
    /// # Panics
    /// When more is applied than flushed.
    pub fn new(config: ReceiverConfig, now: Moment) -> Self {
        let receiver = Self {
            system_id: config.system_id,
            history: config.history,
            accepted: config.accepted,
            heartbeat_timeout: config.heartbeat_timeout,
            status_interval: config.status_interval,
            state: State::Waiting,
            received: config.flushed,
            own: Positions {
                write: config.flushed,
                flush: config.flushed,
                apply: config.applied,
            },
            commit: config.commit.max(config.applied),
            may_apply: config.applied,
            cutting: None,
            upstream: None,
            attempts: 0,
            caught_up: false,
            asked: false,
            dial_at: now,
            heard: now,
            last_status: now,
            last_heard: None,
            closed: None,
            gave_up: None,
        };
        receiver.check();
        receiver
    }

    /// Takes one event and appends what it leads to.
    ///
    /// # Panics
    /// When this node's own positions break the ladder.
    pub fn on(&mut self, event: Event, now: Moment, out: &mut Vec<Action>) {
        match event {
            Event::Written(to) => self.on_own(now, out, |own| own.write = own.write.max(to)),
            Event::Flushed(to) => self.on_own(now, out, |own| own.flush = own.flush.max(to)),
            Event::Applied(to) => self.on_own(now, out, |own| own.apply = own.apply.max(to)),
            Event::Accepted(timeline) => self.on_accepted(timeline, out),
            Event::Disconnected { random, appended } => {
                self.received = self.received.min(appended);
                let says_again = self.cutting.is_none() && self.state != State::Stopped;
                self.may_apply = match says_again {
                    // Some of it may not have been carried out.
                    true => self.own.apply,
                    false => self.may_apply.min(self.received),
                };
                self.on_disconnected(random, now);
            }
            Event::Tick => self.on_tick(now, out),
            Event::Stop if self.state != State::Stopped => {
                self.give_up(GiveUp::Stopped, CloseReason::Stopping, out);
            }
            Event::Stop => {}
            Event::LogCut => self.on_cut(out),
            from_peer if self.hears() => {
                (self.heard, self.last_heard, self.asked) = (now, Some(now), false);
                self.on_peer(from_peer, now, out);
            }
            // Crossed with our closing the connection.
            _ => {}
        }
        self.release(out);
        self.check();
    }

    fn hears(&self) -> bool {
        !matches!(self.state, State::Waiting | State::Closing | State::Stopped)
    }

    fn on_peer(&mut self, event: Event, now: Moment, out: &mut Vec<Action>) {
        match (self.state, event) {
            (State::Connecting, Event::Connected) => self.identify(out),
            (State::Identifying, Event::NextTimeline) => self.identify(out),
            (
                State::Identifying,
                Event::Identified {
                    system_id,
                    timeline,
                    flushed,
                    oldest,
                },
            ) => {
                let history = (timeline == self.history.current()).then(|| self.history.clone());
                let upstream = Upstream {
                    timeline,
                    flushed,
                    oldest,
                    history,
                };
                self.on_identified(system_id, upstream, out);
            }
            (State::Identifying, Event::HistoryFetched(history)) => match &mut self.upstream {
                Some(upstream) if upstream.timeline == history.current() => {
                    upstream.history = Some(history);
                    self.choose_way(out);
                }
                _ => self.close(CloseReason::Protocol("a history nobody asked for"), out),
            },
            (State::Starting, Event::Started) => {
                self.state = State::Streaming;
                self.caught_up = false;
                self.report(false, now, out);
            }
            (State::Starting | State::Streaming, Event::StartRefused { removed: true }) => {
                let oldest = self.upstream.as_ref().map(|up| up.oldest);
                self.need_backup(oldest.unwrap_or_default(), out);
            }
            // Exactly at the switch point there is no stream, only the row.
            (State::Starting, Event::NextTimeline) => self.identify(out),
            (_, Event::StartRefused { .. } | Event::StreamEnded) => {
                self.close(CloseReason::Ended, out);
            }
            (_, Event::FenceReceived { timeline, opened }) => {
                out.push(Action::TimelineClaimed { timeline, opened });
                self.close(CloseReason::Fenced(timeline), out);
            }
            (State::Streaming, event) => self.on_stream(event, now, out),
            _ => self.close(CloseReason::Protocol("a message out of turn"), out),
        }
    }

    fn on_own(&mut self, now: Moment, out: &mut Vec<Action>, raise: impl FnOnce(&mut Positions)) {
        let before = self.own;
        raise(&mut self.own);
        // Flushed is written too; the log need not say both.
        self.own.write = self.own.write.max(self.own.flush);
        if self.own != before && self.state == State::Streaming {
            self.report(false, now, out);
        }
    }

    fn on_accepted(&mut self, timeline: Timeline, out: &mut Vec<Action>) {
        self.accepted = Some(newest_known(&self.history, Some(timeline)));
        if self.hears() {
            self.refuse_stale(out);
        }
    }

    fn on_disconnected(&mut self, random: u64, now: Moment) {
        if self.state != State::Stopped {
            self.state = State::Waiting;
            self.upstream = None;
            self.dial_at = now + backoff(self.attempts, random);
        }
    }

    fn on_tick(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        if self.state == State::Waiting {
            self.state = State::Connecting;
            (self.heard, self.asked) = (now, false);
            self.attempts = self.attempts.saturating_add(1);
            out.push(Action::Connect);
        } else if self.silence_ends().is_some_and(|end| end <= now) {
            self.close(CloseReason::Silent, out);
        } else {
            let ask = self.must_ask().is_some_and(|at| at <= now);
            self.report(ask, now, out);
        }
    }

    fn silence_ends(&self) -> Option<Moment> {
        let patient = self.heartbeat_timeout.is_zero() || canary("wait-for-a-silent-upstream");
        (self.hears() && !patient).then(|| self.heard + self.heartbeat_timeout)
    }

    fn must_ask(&self) -> Option<Moment> {
        let timed = !self.asked && !self.heartbeat_timeout.is_zero();
        timed.then(|| self.heard + self.heartbeat_timeout / 2)
    }

    /// When to bring the next `Tick`.
    pub fn deadline(&self) -> Option<Moment> {
        match self.state {
            // What is common is not known before own log has its new end.
            _ if self.cutting.is_some() => None,
            State::Waiting => Some(self.dial_at),
            State::Streaming => {
                let report = self.last_status + self.status_interval;
                let timers = [self.silence_ends(), self.must_ask(), Some(report)];
                timers.into_iter().flatten().min()
            }
            _ => self.silence_ends(),
        }
    }

    fn report(&mut self, reply_requested: bool, now: Moment, out: &mut Vec<Action>) {
        let Some(upstream) = &self.upstream else {
            return;
        };
        self.last_status = now;
        self.asked |= reply_requested;
        out.push(Action::SendStatus {
            positions: self.own,
            timeline: upstream.timeline,
            reply_requested,
        });
    }

    /// Lets the store go on, as far as it may.
    fn release(&mut self, out: &mut Vec<Action>) {
        let may = self.commit.min(self.received);
        if may > self.may_apply && self.cutting.is_none() && self.state != State::Stopped {
            self.may_apply = may;
            out.push(Action::ApplyUpTo(may));
        }
    }

    fn close(&mut self, reason: CloseReason, out: &mut Vec<Action>) {
        self.state = State::Closing;
        self.closed = Some(reason.clone());
        out.push(Action::Close(reason));
    }

    fn give_up(&mut self, why: GiveUp, reason: CloseReason, out: &mut Vec<Action>) {
        if self.hears() {
            self.close(reason, out);
        }
        self.state = State::Stopped;
        self.gave_up = Some(why.clone());
        out.push(Action::GiveUp(why));
    }

    /// A look at it.
    pub fn status(&self) -> ReceiverStatus {
        ReceiverStatus {
            state: self.state,
            timeline: self.history.current(),
            positions: self.own,
            commit: self.commit,
            upstream: self
                .upstream
                .as_ref()
                .map(|up| up.flushed)
                .unwrap_or_default(),
            last_heard: self.last_heard,
            attempts: self.attempts,
            closed: self.closed.clone(),
            gave_up: self.gave_up.clone(),
        }
    }

    fn check(&self) {
        let own = self.own;
        assert!(
            own.write <= self.received,
            "{own:?} beyond received {}",
            self.received
        );
        assert!(own.flush <= own.write, "flushed beyond written: {own:?}");
        assert!(
            own.apply <= self.may_apply.min(own.flush),
            "{own:?} beyond what may be applied"
        );
        assert!(
            self.may_apply <= self.received,
            "may apply what was not received: {own:?}"
        );
        assert!(
            self.may_apply <= self.commit,
            "may apply beyond commit {}",
            self.commit
        );
    }
}

#[cfg(test)]
mod tests;
