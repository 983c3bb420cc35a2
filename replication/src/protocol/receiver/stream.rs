//! While log comes in: each piece continues the one before, and positions are of the stream's own
//! timeline.
//!
//! What breaks that costs the upstream the connection, and nothing of it is kept. What the store
//! may apply is decided where all positions are known, by the machine.

use mainstay_storage::canary;

use super::{Action, CloseReason, Event, Receiver, State};
use crate::time::Moment;

impl Receiver {
    pub(super) fn on_stream(&mut self, event: Event, now: Moment, out: &mut Vec<Action>) {
        match event {
            Event::Received { range } if range.start != self.received || range.is_empty() => {
                let (expected, got) = (self.received, range.start);
                self.close(CloseReason::Gap { expected, got }, out);
            }
            Event::Received { range } => {
                self.received = range.end;
                out.push(Action::WriteWal(range));
                self.attempts = 0;
                self.note_caught_up(out);
            }
            Event::Advance {
                flushed,
                commit,
                timeline,
                reply_requested,
            } => {
                let Some(upstream) = &mut self.upstream else {
                    return;
                };
                if timeline != upstream.timeline {
                    let why = "positions of another timeline than the stream's";
                    return self.close(CloseReason::Protocol(why), out);
                }
                if commit > flushed {
                    let why = "a commit LSN beyond the end of its log";
                    return self.close(CloseReason::Protocol(why), out);
                }
                upstream.flushed = upstream.flushed.max(flushed);
                let may = if canary("apply-above-the-commit") {
                    flushed
                } else {
                    commit
                };
                self.commit = self.commit.max(may);
                self.attempts = 0;
                self.note_caught_up(out);
                if reply_requested {
                    self.report(false, now, out);
                }
            }
            Event::CopyDoneReceived => {
                self.report(false, now, out);
                out.push(Action::SendCopyDone);
                // The row comes next, and is where we ask anew.
                self.state = State::Identifying;
                self.upstream = None;
            }
            _ => self.close(CloseReason::Protocol("a message out of turn"), out),
        }
    }

    fn note_caught_up(&mut self, out: &mut Vec<Action>) {
        let end = self.upstream.as_ref().map(|upstream| upstream.flushed);
        if !self.caught_up && end.is_some_and(|end| self.received >= end) {
            self.caught_up = true;
            out.push(Action::CaughtUp);
        }
    }
}
