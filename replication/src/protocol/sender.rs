//! One connection that log is sent over, seen from the primary or from a cascading standby.
//!
//! ```text
//!              start              at the end once            timeline ended
//!   Startup ──────────▶ Catchup ────────────────▶ Streaming ───────────────▶ Draining
//!      ▲ ▲                 │ peer's CopyDone          │  │                       │
//!      │ └─────────────────┴──────────────────────────┘  │ stop                  │
//!      └─────────────────────────────────────────────────┼──── peer's CopyDone ──┘
//!                                                        ▼
//!                                                    Stopping ──all acknowledged──▶ Closed
//! ```
//!
//! A native peer is sent log up to what is flushed here (or sealed, where the driver overlaps) and
//! told the commit LSN; a stock client sees nothing above the commit LSN, in no byte and no
//! position. At most one `SendWal` of at most [`SEND_CHUNK_MAX`] is outstanding, so a slow peer
//! holds back itself only. What the peer says is checked against what it was sent; what breaks
//! that costs it the connection. This room knows no sockets and never holds log bytes.

use std::time::Duration;

use mainstay_storage::{Lsn, SegmentSize, Timeline, TimelineHistory, canary};

use super::progress::{Positions, Progress};
use crate::time::Moment;

mod event;
mod peer;
mod start;

pub use event::{Action, CloseReason, Event, SenderConfig, SenderStatus, State};
pub use start::Refusal;
use start::Served;

/// Most bytes of log asked for in one `SendWal`.
pub const SEND_CHUNK_MAX: u64 = 1 << 20;

/// Longest time that a clean stop waits for a peer to have everything.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);

/// The machine. Invariants: a stream exists exactly in `Catchup`, `Streaming`, `Draining` and
/// `Stopping`; nothing is sent beyond what the connection may see.
#[derive(Debug, Clone)]
pub struct Sender {
    native: bool,
    history: TimelineHistory,
    sendable: Lsn,
    flushed: Lsn,
    commit: Lsn,
    oldest: Lsn,
    segment_size: SegmentSize,
    timeout: Duration,
    heartbeat_interval: Duration,
    state: State,
    stream: Option<Stream>,
    last_heard: Moment,
    last_spoke: Moment,
    /// A reply was requested since the peer was last heard.
    asked: bool,
    /// Where the log ends for good, and until when its end is waited for.
    drain: Option<(Lsn, Moment)>,
}

#[derive(Debug, Clone)]
struct Stream {
    progress: Progress,
    /// A `SendWal` is outstanding.
    in_flight: bool,
    /// The highest position any `SendWal` so far may have reached: a peer may acknowledge bytes
    /// before the driver says that they were sent.
    ceiling: Lsn,
    /// The commit LSN last told.
    told: Lsn,
    /// The peer ended its half.
    peer_done: bool,
    /// The acknowledgement of everything was asked for at shutdown.
    last_asked: bool,
}

impl Sender {
    /// A session that may ask for a stream.
    pub fn new(config: SenderConfig, now: Moment) -> Self {
        Self {
            native: config.native,
            history: config.history,
            sendable: config.flushed,
            flushed: config.flushed,
            commit: config.commit,
            oldest: config.oldest,
            segment_size: config.segment_size,
            timeout: config.timeout,
            heartbeat_interval: config.heartbeat_interval,
            state: State::Startup,
            stream: None,
            last_heard: now,
            last_spoke: now,
            asked: false,
            drain: None,
        }
    }

    /// Takes one event and appends what it leads to.
    ///
    /// # Panics
    /// When the driver brings a `Sent` that no `SendWal` asked for.
    pub fn on(&mut self, event: Event, now: Moment, out: &mut Vec<Action>) {
        if self.state == State::Closed {
            return;
        }
        let from = out.len();
        match event {
            Event::Sendable(to) => self.sendable = self.sendable.max(to),
            Event::Flushed(to) => self.flushed = self.flushed.max(to),
            Event::CommitMoved(to) => self.commit = self.commit.max(to),
            Event::Removed(below) => self.oldest = self.oldest.max(below),
            Event::TimelineSwitched {
                history,
                flushed,
                commit,
            } => {
                (self.history, self.sendable) = (history, flushed);
                (self.flushed, self.commit) = (flushed, commit);
            }
            Event::Sent(to) => self.on_sent(to),
            Event::Stop { end } => self.on_stop(end, now, out),
            Event::Disconnected => self.end(State::Closed),
            Event::Tick => {}
            from_peer => self.on_peer(from_peer, now, out),
        }
        self.sendable = self.sendable.max(self.flushed);
        self.pump(out);
        self.keep_time(now, out);
        if out.iter().skip(from).any(Action::is_spoken) {
            self.last_spoke = now;
        }
        self.check();
    }

    fn on_sent(&mut self, to: Lsn) {
        let stream = self.stream.as_mut().expect("Sent outside a stream");
        let asked = std::mem::take(&mut stream.in_flight);
        assert!(asked, "Sent without SendWal");
        assert!(to <= stream.ceiling, "sent {to} beyond {}", stream.ceiling);
        stream.progress.sent_up_to(to);
    }

    fn on_stop(&mut self, end: Lsn, now: Moment, out: &mut Vec<Action>) {
        match self.state {
            State::Catchup | State::Streaming => {
                self.state = State::Stopping;
                self.drain = Some((end, now + DRAIN_MAX));
            }
            State::Startup | State::Draining => self.close(CloseReason::Stopping, out),
            State::Stopping | State::Closed => {}
        }
    }

    /// Sends what may be sent, and ends what has come to its end.
    fn pump(&mut self, out: &mut Vec<Action>) {
        let Some(stream) = &self.stream else { return };
        if !stream.in_flight && self.state != State::Draining {
            let end = match self.served().next(stream.progress.timeline()) {
                Some((_, begin)) => begin,
                None if self.served().knows(stream.progress.timeline()) => Lsn::MAX,
                // This node follows another history now: what was sent is nobody's log.
                None => Lsn::ZERO,
            };
            self.step(stream.progress.sent(), end, out);
        }
        self.tell_commit(out);
    }

    /// One step of a stream that stands at `sent` and has nothing on its way; `end` is where its
    /// timeline ends.
    fn step(&mut self, sent: Lsn, end: Lsn, out: &mut Vec<Action>) {
        let limit = self.shown().min(end);
        let stopping = self.state == State::Stopping;
        let comes = self.drain.is_some_and(|(end, _)| self.shown() < end);
        let Some(stream) = &mut self.stream else {
            return;
        };
        if stream.peer_done {
            out.extend([Action::SendCopyDone, Action::CompleteStream]);
            self.end(State::Startup);
            if stopping {
                self.close(CloseReason::Stopping, out);
            }
        } else if sent >= end && stopping {
            self.close(CloseReason::Stopping, out);
        } else if sent >= end {
            out.push(Action::SendCopyDone);
            self.state = State::Draining;
        } else if sent < self.oldest && sent < limit {
            let timeline = stream.progress.timeline();
            out.push(Action::FailStream(self.served().removed(timeline, sent)));
            self.end(State::Startup);
        } else if sent < limit {
            stream.in_flight = true;
            stream.ceiling = stream.ceiling.max(limit);
            let chunk = Lsn::new(sent.get().saturating_add(SEND_CHUNK_MAX));
            out.push(Action::SendWal(sent..limit.min(chunk)));
        } else if stopping && !comes {
            self.finish(out);
        } else if self.state == State::Catchup {
            self.state = State::Streaming;
            out.push(Action::CaughtUp);
        }
    }

    /// Ends a stream at shutdown, once the peer has all of it.
    fn finish(&mut self, out: &mut Vec<Action>) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let reported = stream.progress.reported();
        // A client that never flushes can only say what it wrote.
        let has = match reported.flush.is_zero() {
            true => reported.write,
            false => reported.flush,
        };
        if has >= stream.progress.sent() {
            out.push(Action::FinishAndClose);
            self.end(State::Closed);
        } else if !stream.last_asked {
            stream.last_asked = true;
            self.speak(true, out);
        }
    }

    fn tell_commit(&mut self, out: &mut Vec<Action>) {
        let commit = self.commit.min(self.flushed);
        let told = self.stream.as_ref().map(|stream| stream.told);
        if self.native && told.is_some_and(|told| told < commit) {
            self.speak(false, out);
        }
    }

    /// A keepalive or ADVANCE.
    fn speak(&mut self, reply_requested: bool, out: &mut Vec<Action>) {
        let commit = self.commit.min(self.flushed);
        let draining = self.state == State::Draining;
        // Between our CopyDone and the peer's nothing may be said.
        let Some(stream) = self.stream.as_mut().filter(|_| !draining) else {
            return;
        };
        self.asked |= reply_requested;
        if self.native {
            stream.told = stream.told.max(commit);
            out.push(Action::SendAdvance {
                flushed: self.flushed,
                commit,
                timeline: stream.progress.timeline(),
                reply_requested,
            });
        } else {
            out.push(Action::SendKeepalive {
                sent: stream.progress.sent(),
                reply_requested,
            });
        }
    }

    fn keep_time(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.stream.is_none() {
            return;
        }
        if self.silence_ends().is_some_and(|end| end <= now) {
            return self.close(CloseReason::TimedOut, out);
        }
        if self.drain.is_some_and(|(_, until)| until <= now) {
            out.push(Action::FinishAndClose);
            return self.end(State::Closed);
        }
        if self.must_ask().is_some_and(|at| at <= now) {
            self.speak(true, out);
        } else if self.must_speak().is_some_and(|at| at <= now) {
            self.speak(false, out);
        }
    }

    fn silence_ends(&self) -> Option<Moment> {
        (!self.timeout.is_zero()).then(|| self.last_heard + self.timeout)
    }

    fn must_ask(&self) -> Option<Moment> {
        let timed = !self.timeout.is_zero() && !self.asked;
        timed.then(|| self.last_heard + self.timeout / 2)
    }

    /// A peer that hears nothing for long gives up, even if it talks itself.
    fn must_speak(&self) -> Option<Moment> {
        let interval = match self.native {
            true => self.heartbeat_interval,
            false => self.timeout / 2,
        };
        (!interval.is_zero()).then(|| self.last_spoke + interval)
    }

    /// When to bring the next `Tick`.
    pub fn deadline(&self) -> Option<Moment> {
        self.stream.as_ref()?;
        let awake = self.state != State::Draining;
        let until = self.drain.map(|(_, until)| until);
        let timers = [self.must_ask(), self.must_speak(), until];
        let timers = timers.into_iter().flatten().filter(|_| awake);
        timers.chain(self.silence_ends()).min()
    }

    /// A look at it.
    pub fn status(&self) -> SenderStatus {
        let progress = self.stream.as_ref().map(|stream| stream.progress);
        SenderStatus {
            state: self.state,
            native: self.native,
            timeline: progress.map(|progress| progress.timeline()),
            sent: progress.map(|progress| progress.sent()).unwrap_or_default(),
            reported: progress
                .map(|progress| progress.reported())
                .unwrap_or_default(),
            last_heard: self.last_heard,
        }
    }

    /// The timeline and position that this connection may be told as the end of the log.
    pub fn end_shown(&self) -> (Timeline, Lsn) {
        (self.served().current(), self.shown())
    }

    /// The highest position this connection may see.
    fn shown(&self) -> Lsn {
        match self.native {
            true => self.sendable.max(self.flushed),
            false if canary("stock-clients-see-the-uncommitted") => self.flushed,
            false => self.commit.min(self.flushed),
        }
    }

    fn served(&self) -> Served<'_> {
        Served {
            history: &self.history,
            shown: self.shown(),
            oldest: self.oldest,
            native: self.native,
            segment_size: self.segment_size,
        }
    }

    fn close(&mut self, reason: CloseReason, out: &mut Vec<Action>) {
        self.end(State::Closed);
        out.push(Action::Close(reason));
    }

    fn end(&mut self, state: State) {
        self.stream = None;
        self.state = state;
    }

    fn check(&self) {
        let streams = !matches!(self.state, State::Startup | State::Closed);
        assert_eq!(streams, self.stream.is_some(), "state {:?}", self.state);
        let Some(stream) = &self.stream else { return };
        let (sent, ceiling) = (stream.progress.sent(), stream.ceiling);
        let reported = stream.progress.reported().write;
        assert!(sent <= ceiling, "sent {sent} beyond {ceiling}");
        assert!(
            !self.native || reported <= ceiling,
            "took {reported} beyond {ceiling}"
        );
    }
}

#[cfg(test)]
mod tests;
