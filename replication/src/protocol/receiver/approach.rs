//! Before the stream: who the upstream is, whether it may be followed, and what has to happen to
//! own log first.
//!
//! Every stream begins here, and so does the next one after a timeline has ended. An upstream that
//! is older than what this node knows is told so and left. The way itself is decided by
//! [`way_forward`]; here it becomes actions.

use mainstay_storage::Lsn;

use super::{
    Action, CloseReason, GiveUp, OwnLog, Receiver, State, TheirLog, Upstream, Way, is_stale,
    newest_known, way_forward,
};

impl Receiver {
    pub(super) fn identify(&mut self, out: &mut Vec<Action>) {
        self.state = State::Identifying;
        self.upstream = None;
        // What lies above may be other log by now than what the last upstream spoke of.
        self.commit = self.commit.min(self.received);
        out.push(Action::Identify);
    }

    pub(super) fn on_identified(
        &mut self,
        system_id: u64,
        upstream: Upstream,
        out: &mut Vec<Action>,
    ) {
        if system_id != self.system_id {
            let (ours, theirs) = (self.system_id, system_id);
            return self.give_up(GiveUp::Foreign { ours, theirs }, CloseReason::Ended, out);
        }
        let (timeline, known) = (upstream.timeline, upstream.history.is_some());
        self.upstream = Some(upstream);
        if self.refuse_stale(out) {
            return;
        }
        match known {
            true => self.choose_way(out),
            false => out.push(Action::FetchHistory(timeline)),
        }
    }

    /// Refuses an upstream that is older than what this node promised or knows.
    pub(super) fn refuse_stale(&mut self, out: &mut Vec<Action>) -> bool {
        let newest = newest_known(&self.history, self.accepted);
        let stale = self
            .upstream
            .as_ref()
            .filter(|up| is_stale(up.timeline, newest));
        if stale.is_none() {
            return false;
        }
        let opened = self.history.contains(newest);
        out.push(Action::SendFence {
            timeline: newest,
            opened,
        });
        self.close(CloseReason::Stale(newest), out);
        true
    }

    pub(super) fn choose_way(&mut self, out: &mut Vec<Action>) {
        let upstream = self.upstream.clone().filter(|_| self.cutting.is_none());
        let Some((upstream, history)) = upstream.and_then(|up| Some((up.clone(), up.history?)))
        else {
            return;
        };
        // What was received and is not flushed yet is there too, and would have to be cut too.
        let ours = OwnLog {
            history: &self.history,
            flushed: self.received,
            // The store may be on its way there already.
            applied: self.may_apply,
            accepted: self.accepted,
        };
        let theirs = TheirLog {
            history: &history,
            flushed: upstream.flushed,
            oldest: upstream.oldest,
        };
        match way_forward(ours, theirs) {
            Way::Resume(from) => {
                if history != self.history {
                    out.push(Action::AdoptHistory(history.clone()));
                    self.history = history;
                }
                self.state = State::Starting;
                let timeline = upstream.timeline;
                out.push(Action::Start { from, timeline });
            }
            Way::Cut(to) => {
                self.cutting = Some(to);
                out.push(Action::CutLog(to));
            }
            Way::Rewind(to) => {
                self.give_up(GiveUp::NeedsRewind { to }, CloseReason::Ended, out);
            }
            Way::Backup => self.need_backup(upstream.oldest, out),
            Way::Wait => {
                let (ours, theirs) = (self.received, upstream.flushed);
                self.close(CloseReason::Ahead { ours, theirs }, out);
            }
            Way::Foreign => self.give_up(GiveUp::NoCommonHistory, CloseReason::Ended, out),
            Way::Stale(_) => {
                self.refuse_stale(out);
            }
        }
    }

    pub(super) fn on_cut(&mut self, out: &mut Vec<Action>) {
        let to = self.cutting.take().expect("LogCut without CutLog");
        self.received = to;
        (self.own.write, self.own.flush) = (to, to);
        self.commit = self.commit.min(to);
        if self.state == State::Identifying {
            self.choose_way(out);
        }
    }

    pub(super) fn need_backup(&mut self, oldest: Lsn, out: &mut Vec<Action>) {
        let wanted = self.received;
        let why = GiveUp::NeedsBackup { wanted, oldest };
        self.give_up(why, CloseReason::Ended, out);
    }
}
