//! The round that promises nothing: who is there, who is alive, who has more.
//!
//! Nothing has changed when it ends in a refusal.

use std::collections::BTreeSet;

use mainstay_storage::{Lsn, Timeline};

use super::{Action, Candidate, Phase};
use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::protocol::promotion::{Notice, ProbeAnswer, Purpose, Refusal, Role};
use crate::time::Moment;

impl Candidate {
    pub(super) fn probe(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.enter(Phase::Probing, now);
        let also = self.config.also_probe.iter();
        let also = also.filter(|name| **name != self.config.name).cloned();
        // Whoever gives the policy up asks its members for nothing, and wants to be followed: its
        // number is to be above what they promised.
        let counted = self.config.policies.iter().flat_map(BoundPolicy::counted);
        let others = counted.filter(|name| **name != self.config.name).cloned();
        let asked = self.members().into_iter().chain(others);
        let nodes = asked.chain(also).collect::<BTreeSet<_>>();
        self.asked = nodes.clone();
        match nodes.is_empty() {
            true => self.judge(now, out),
            false => out.extend(nodes.into_iter().map(Action::AskProbe)),
        }
    }

    pub(super) fn note_probe(
        &mut self,
        name: NodeName,
        answer: Option<ProbeAnswer>,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        if self.asked.contains(&name) {
            self.probes.insert(name, answer);
            if self.probes.len() == self.asked.len() {
                self.judge(now, out);
            }
        }
    }

    /// The end of the probe: nothing has changed yet, and nothing will if the rule cannot be met.
    pub(super) fn judge(&mut self, now: Moment, out: &mut Vec<Action>) {
        let answers = self
            .probes
            .iter()
            .filter_map(|(name, answer)| Some((name, (*answer)?)));
        let answers = answers.collect::<Vec<_>>();
        let answered = |_: &BoundPolicy, name: &NodeName| {
            *name == self.config.name || answers.iter().any(|(there, _)| *there == name)
        };
        let checked = match self.config.force {
            true => None,
            false => self
                .living_primary(&answers)
                .or_else(|| self.too_far_behind(&answers))
                .or_else(|| self.lacks_too_much(&answers)),
        };
        if let Some(refusal) = checked.or_else(|| self.shortfall(answered)) {
            return self.refuse(refusal, out);
        }
        let highest = answers.iter().map(|(_, answer)| answer.highest).max();
        let highest = highest.unwrap_or(0).max(self.config.highest_seen);
        let highest = highest.max(self.config.opened.current().number);
        let Some(free) = highest.checked_add(1) else {
            return self.refuse(Refusal::NumbersExhausted(highest), out);
        };
        let number = self.config.number.unwrap_or(free);
        if number < free {
            return self.refuse(Refusal::NumberTaken { number, highest }, out);
        }
        let id = self.config.id;
        self.timeline = Timeline { number, id };
        self.asked = BTreeSet::new();
        self.enter(Phase::Promising, now);
        let request = self.request();
        out.push(Action::AskOwn(request));
    }

    fn living_primary(&self, answers: &[(&NodeName, ProbeAnswer)]) -> Option<Refusal> {
        // A primary that asks for a higher number is the living primary.
        if self.config.purpose == Purpose::Raise {
            return None;
        }
        let alive = answers
            .iter()
            .find(|(_, answer)| answer.role == Role::Primary);
        if let Some((name, answer)) = alive {
            let (name, timeline) = ((*name).clone(), answer.end.timeline);
            return Some(Refusal::PrimaryAlive { name, timeline });
        }
        // Who was heard last before a restart is this node.
        if self.config.purpose == Purpose::Restart {
            return None;
        }
        let own = (&self.config.name, self.config.primary_heard);
        let heard = answers
            .iter()
            .map(|(name, answer)| (*name, answer.primary_heard));
        heard.chain([own]).find_map(|(name, ago)| {
            let ago = ago.filter(|ago| *ago < self.config.heartbeat_timeout)?;
            let name = name.clone();
            Some(Refusal::PrimaryHeard { name, ago })
        })
    }

    fn too_far_behind(&self, answers: &[(&NodeName, ProbeAnswer)]) -> Option<Refusal> {
        let lag_max = self.config.lag_max.as_ref()?.bytes;
        let own = self.config.end;
        let ahead = answers
            .iter()
            .filter(|(_, answer)| answer.end.is_newer_than(&own));
        let (name, answer) = ahead.max_by_key(|(_, answer)| answer.end.flushed)?;
        let behind = answer.end.flushed.bytes_since(own.flushed);
        (behind > lag_max).then(|| Refusal::Behind {
            name: (*name).clone(),
            theirs: answer.end.flushed,
            behind,
        })
    }

    /// What the primary was known to have and nobody who answers can give is lost, where the rule
    /// of promises does not keep it.
    fn lacks_too_much(&self, answers: &[(&NodeName, ProbeAnswer)]) -> Option<Refusal> {
        let limit = self.config.lag_max.as_ref()?;
        let (name, theirs) = limit.primary.clone()?;
        if !self.notices().iter().any(Notice::loses) {
            return None;
        }
        let fetched = answers.iter().filter(|_| !self.policies().is_empty());
        let ours = fetched
            .filter(|(_, answer)| answer.end.is_newer_than(&self.config.end))
            .map(|(_, answer)| answer.end.flushed)
            .fold(self.config.end.flushed, Lsn::max);
        let behind = theirs.bytes_since(ours);
        (behind > limit.bytes).then_some(Refusal::Lacks {
            name,
            theirs,
            behind,
            max: limit.bytes,
        })
    }
}
