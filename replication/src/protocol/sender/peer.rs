//! What the peer says: it asks for a stream, reports, tells of a timeline, ends its half.
//!
//! Its positions are checked against what it was sent, and what it may not say costs it the
//! connection. What is sent to it, and when, is not decided here.

use mainstay_storage::{Lsn, Timeline};

use super::start::Admission;
use super::{Action, CloseReason, Event, Positions, Progress, Sender, State, Stream};
use crate::time::Moment;

impl Sender {
    pub(super) fn on_peer(&mut self, event: Event, now: Moment, out: &mut Vec<Action>) {
        self.last_heard = now;
        self.asked = false;
        match event {
            Event::StartRequested { .. } if self.stream.is_some() => {
                self.close(
                    CloseReason::Protocol("START_REPLICATION inside a stream"),
                    out,
                );
            }
            Event::StartRequested { from, timeline, id } => {
                let admission = self.served().admit(from, timeline, id);
                self.start(from, admission, out);
            }
            Event::StatusReceived {
                positions,
                timeline,
                reply_requested,
            } => {
                self.on_status(positions, timeline, out);
                if reply_requested {
                    self.speak(false, out);
                }
            }
            Event::FenceReceived { timeline, opened } => {
                out.push(Action::TimelineClaimed { timeline, opened });
                self.close(CloseReason::WrongTimeline(timeline), out);
            }
            Event::CopyDoneReceived => self.on_copy_done(out),
            _ => {}
        }
    }

    fn start(&mut self, from: Lsn, admission: Admission, out: &mut Vec<Action>) {
        match admission {
            Admission::Refuse(refusal) => out.push(Action::RefuseStart(refusal)),
            Admission::Unknown(timeline, refusal) => {
                if timeline.number >= self.history.current().number {
                    // It says so because it has log of it, but only its word is known here.
                    let opened = false;
                    out.push(Action::TimelineClaimed { timeline, opened });
                }
                out.push(Action::RefuseStart(refusal));
            }
            Admission::NextTimeline(timeline, begin) => {
                out.push(Action::SendNextTimeline { timeline, begin });
            }
            Admission::Fail(timeline, refusal) => {
                out.push(Action::StartStream(timeline));
                out.push(Action::FailStream(refusal));
            }
            Admission::Stream(timeline) => {
                out.push(Action::StartStream(timeline));
                self.state = State::Catchup;
                self.stream = Some(Stream {
                    progress: Progress::new(timeline, from),
                    in_flight: false,
                    ceiling: from,
                    told: Lsn::ZERO,
                    peer_done: false,
                    last_asked: false,
                });
            }
        }
    }

    fn on_status(
        &mut self,
        positions: Positions,
        timeline: Option<Timeline>,
        out: &mut Vec<Action>,
    ) {
        let shown = self.shown();
        let Some(stream) = &mut self.stream else {
            // A status may cross with the end of a stream; it says nothing about the next one.
            return;
        };
        let current = stream.progress.timeline();
        if let Some(other) = timeline.filter(|timeline| *timeline != current) {
            if other.number >= current.number && !self.history.contains(other) {
                out.push(Action::TimelineClaimed {
                    timeline: other,
                    opened: false,
                });
            }
            return self.close(CloseReason::WrongTimeline(other), out);
        }
        let climbed = match self.native {
            true => stream.progress.report(positions, stream.ceiling),
            false => stream.progress.report_stock(positions, shown),
        };
        match climbed {
            Ok(true) => out.push(Action::Reported {
                timeline: current,
                positions: stream.progress.reported(),
            }),
            Ok(false) => {}
            Err(error) => self.close(CloseReason::BadStatus(error), out),
        }
    }

    fn on_copy_done(&mut self, out: &mut Vec<Action>) {
        let Some(stream) = &mut self.stream else {
            // One that crossed with the end of a stream is ignored, as PostgreSQL does.
            return;
        };
        if self.state != State::Draining {
            stream.peer_done = true;
            return;
        }
        let ended = stream.progress.timeline();
        match self.served().next(ended) {
            Some((timeline, begin)) => {
                self.end(State::Startup);
                out.push(Action::SendNextTimeline { timeline, begin });
            }
            // The history was exchanged meanwhile; the peer finds its way by asking anew.
            None => {
                self.end(State::Startup);
                out.push(Action::CompleteStream);
            }
        }
    }
}
