//! Own log is brought up to the newest of those who promised before anything is opened.
//!
//! Who is newest is judged by timeline first and position second. A primary that goes on needs
//! nothing of theirs. A member from which nothing can be fetched is not asked again. What was
//! fetched may count others, so it leads back to the promises.

use super::{Action, Candidate, Phase};
use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::protocol::promotion::{LogEnd, Purpose, Refusal};
use crate::time::Moment;

impl Candidate {
    /// Fetches from the newest of those who promised, or goes on if own log is as new.
    pub(super) fn fetch(&mut self, now: Moment, out: &mut Vec<Action>) {
        let own = self.config.end;

        let newest = self.promised.iter();
        let newest = newest.max_by_key(|(_, (end, _))| (end.timeline.number, end.flushed));
        let newest = newest.map(|(name, (end, _))| (name.clone(), *end));
        if let Some(conflict) = self.conflict() {
            return self.refuse(conflict, out);
        }
        match newest {
            // A primary has all it acknowledged: what others have beyond is not flushed here yet,
            // or theirs to cut. A newer timeline, though, was opened by somebody else.
            Some((name, end)) if self.config.purpose != Purpose::Promote => {
                match end.timeline.number > own.timeline.number {
                    true => self.refuse(
                        Refusal::Fenced {
                            name,
                            timeline: end.timeline,
                        },
                        out,
                    ),
                    false => self.open(out),
                }
            }
            Some((name, end)) if end.is_newer_than(&own) => {
                self.enter(Phase::Fetching, now);
                self.fetching = Some((name.clone(), end));
                let range = own.flushed.min(end.flushed)..end.flushed;
                out.push(Action::FetchFrom { name, end, range });
            }
            _ => self.open(out),
        }
    }

    pub(super) fn note_fetched(
        &mut self,
        end: LogEnd,
        policies: Vec<BoundPolicy>,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        let wanted = self.fetching.take();
        if wanted
            .as_ref()
            .is_some_and(|(_, wanted)| wanted.is_newer_than(&end))
        {
            self.fetching = wanted;
            return self.fetch_elsewhere(now, out);
        }
        self.config.end = end;
        self.config.policies = policies;
        // The log fetched may count others than ours did; their promises are needed too.
        self.enter(Phase::Promising, now);
        self.ask_members(out);
        self.count(false, now, out);
    }

    /// Another member with at least as much log, now that this one failed.
    pub(super) fn fetch_elsewhere(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Some((failed, wanted)) = self.fetching.take() else {
            return;
        };
        self.unfetched.insert(failed.clone());
        let usable = |name: &NodeName| !self.unfetched.contains(name);
        let mut others = self.promised.iter().filter(|(name, _)| usable(name));
        let other = others.rfind(|(_, (end, _))| !wanted.is_newer_than(end));
        match other.map(|(name, (end, _))| (name.clone(), *end)) {
            None => {
                let (name, upto) = (failed, wanted.flushed);
                self.refuse(Refusal::FetchFailed { name, upto }, out);
            }
            Some((name, end)) => {
                self.enter(Phase::Fetching, now);
                self.fetching = Some((name.clone(), end));
                let range = self.config.end.flushed.min(end.flushed)..end.flushed;
                out.push(Action::FetchFrom { name, end, range });
            }
        }
    }
}
