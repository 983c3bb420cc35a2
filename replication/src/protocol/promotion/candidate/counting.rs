//! Whose promises count, and what lacks.
//!
//! A promise was given by a life of a name's data. It counts while the candidate's log, which may
//! have grown since, names that life; so what is fetched from one member may undo what another
//! one's old self said.

use std::collections::BTreeSet;

use mainstay_storage::canary;
use uuid::Uuid;

use super::Candidate;
use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::protocol::promotion::{Purpose, Refusal};
use crate::protocol::vote::promise_counts;

impl Candidate {
    /// Whether what `life` of the data of `name` promised counts under `policy`.
    fn speaks(&self, policy: &BoundPolicy, name: &NodeName, life: &Uuid) -> bool {
        let (purpose, named) = (self.config.purpose, self.config.lives.get(name));
        promise_counts(purpose, policy, named, life)
    }

    /// Whether `name` promised, and that counts under `policy`. A primary that goes on has all that
    /// it confirmed, whatever its log says of its data.
    fn agrees(&self, policy: &BoundPolicy, name: &NodeName) -> bool {
        let own = *name == self.config.name;
        if own && self.config.purpose != Purpose::Promote {
            return true;
        }
        let given = self.promised.get(name).map(|(_, life)| life);
        let life = given.or_else(|| own.then_some(&self.config.life));
        life.is_some_and(|life| self.speaks(policy, name, life))
    }

    /// What lacks so far.
    pub(super) fn lack(&self) -> Option<Refusal> {
        self.shortfall(|policy, name| self.agrees(policy, name))
    }

    /// What will lack even if all who have not answered yet promise.
    pub(super) fn hopeless(&self) -> Option<Refusal> {
        self.shortfall(|policy, name| {
            let answered = self.promised.contains_key(name) || self.declined.contains_key(name);
            !answered && *name != self.config.name || self.agrees(policy, name)
        })
    }

    /// Of whom `policy` asks promises, and how many.
    ///
    /// Under one that counts too few nothing can have been acknowledged. But if it is the newest
    /// that is known here, whoever set it may have registered more standbys since, and acknowledged
    /// with them, so it must know.
    fn rule<'a>(&self, policy: &'a BoundPolicy) -> (&'a [NodeName], usize) {
        let (counted, satisfiable) = (policy.counted(), policy.is_satisfiable());
        let newest = self.policies().last() == Some(policy);
        let author = policy.author().filter(|_| newest);
        let author = author.filter(|_| !canary("too-few-ask-nobody"));
        match (self.config.purpose, author) {
            (Purpose::Promote, Some(author)) if !satisfiable => (std::slice::from_ref(author), 1),
            (Purpose::Restart, _) if !satisfiable => (counted, 0),
            (Purpose::Restart, _) => (counted, policy.needed()),
            (Purpose::Promote | Purpose::Raise, _) => (counted, policy.promises_needed()),
        }
    }

    /// All of whom promises are asked, this node left out.
    pub(super) fn members(&self) -> BTreeSet<NodeName> {
        let asked = self
            .policies()
            .iter()
            .flat_map(|policy| self.rule(policy).0);
        let others = asked.filter(|name| **name != self.config.name);
        others.cloned().collect()
    }

    /// What lacks, if all of `agree` agreed.
    pub(super) fn shortfall(
        &self,
        agree: impl Fn(&BoundPolicy, &NodeName) -> bool,
    ) -> Option<Refusal> {
        if canary("promote-without-acceptance") {
            return None;
        }
        self.policies().iter().find_map(|policy| {
            let (asked, needed) = self.rule(policy);
            let (agreed, missing) = asked
                .iter()
                .cloned()
                .partition::<Vec<_>, _>(|name| agree(policy, name));
            let have = agreed.len();
            (have < needed).then_some(Refusal::Unreachable {
                needed,
                have,
                missing,
            })
        })
    }

    /// Two logs whose newest timelines have one number and two ids: neither is known to be newer.
    pub(super) fn conflict(&self) -> Option<Refusal> {
        let own = (&self.config.name, &self.config.end);
        let others = self.promised.iter().map(|(name, (end, _))| (name, end));
        let ends = others.chain([own]).collect::<Vec<_>>();
        let number = ends.iter().map(|(_, end)| end.timeline.number).max()?;
        let mut newest = ends.iter().filter(|(_, end)| end.timeline.number == number);
        let (one, first) = newest.next()?;
        let (other, _) = newest.find(|(_, end)| end.timeline != first.timeline)?;
        let (one, other) = ((*one).clone(), (*other).clone());
        Some(Refusal::Conflict { one, other, number })
    }
}
