//! What was really confirmed, as opposed to what waiters were let through for.
//!
//! A degraded primary answers commits that nobody else holds, and so does one whose policy is off.
//! What it may say of them is decided here, at the moment of the answer, from what the standbys
//! reported on this timeline. A standby that left still holds what it reported; only a new
//! incarnation of it begins with nothing.

use mainstay_storage::{Lsn, canary};

use super::{BoundPolicy, Committer, Condition, POLICIES_MAX};
use crate::protocol::level::Level;
use crate::protocol::name::NodeName;
use crate::protocol::progress::Positions;

/// What can be said of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The level that it reached, at most the one asked for.
    pub level: Level,
    /// Of the standbys that the policies count, those that hold it at the level asked for, sorted.
    /// Nobody for a level that waits for none.
    pub standbys: Vec<NodeName>,
}

impl Committer {
    /// What a receipt may state for a commit that ends at `end` and was released at `wanted`: no
    /// more than `Local` for one let through while degraded, or without a policy.
    pub fn confirmation(&self, wanted: Level, end: Lsn) -> Confirmation {
        let Some(stage) = stage(wanted) else {
            let standbys = Vec::new();
            let level = wanted;
            return Confirmation { level, standbys };
        };
        let standbys = self.holders(end, stage);
        let confirmed = canary("receipt-states-what-was-asked")
            || end <= stage(&self.confirmed) && !standbys.is_empty();
        let level = match confirmed && self.is_synchronous() {
            true => wanted,
            false => Level::Local,
        };
        Confirmation { level, standbys }
    }

    /// The position up to which everything was really confirmed at `level`, own flush included;
    /// without a policy that is own flush. Never regresses.
    pub const fn confirmed(&self, level: Level) -> Lsn {
        match level {
            Level::Async | Level::Local => self.flushed,
            Level::RemoteWrite => self.confirmed.write,
            Level::RemoteFlush => self.confirmed.flush,
            Level::RemoteApply => self.confirmed.apply,
        }
    }

    /// Whether commits wait for the policy.
    pub const fn condition(&self) -> Condition {
        self.condition
    }

    /// Whether confirming is suspended.
    pub const fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Whether a policy that binds counts anybody.
    pub fn is_synchronous(&self) -> bool {
        self.policies.iter().any(|(policy, _)| policy.needed() > 0)
    }

    /// Whether another change of policy may be logged now: not while confirming is suspended, not
    /// before earlier ones are known committed, and not while one that binds counts too few nodes
    /// ever to be met, since that would hold up the change for good.
    pub fn may_change_policy(&self) -> bool {
        let met = self.unsatisfiable().is_none();
        self.policies.len() < POLICIES_MAX && !self.suspended && met
    }

    /// The oldest policy that binds and counts too few nodes to be met.
    pub fn unsatisfiable(&self) -> Option<&BoundPolicy> {
        let mut binding = self.binding();
        binding.find(|policy| !policy.is_satisfiable())
    }

    /// The policies that bind, oldest first.
    pub fn binding(&self) -> impl Iterator<Item = &BoundPolicy> {
        self.policies.iter().map(|(policy, _)| policy)
    }

    /// Whether the policy set by the Config entry that ends at `end`, or a later one, binds without
    /// the ones before it.
    pub fn is_in_force(&self, end: Lsn) -> bool {
        self.binding()
            .next()
            .is_some_and(|first| first.config_end() >= end)
    }

    /// Those whom the policies count and who flushed everything up to `end`, sorted.
    pub fn flushed_by(&self, end: Lsn) -> Vec<NodeName> {
        self.holders(end, |at| at.flush)
    }

    fn holders(&self, end: Lsn, stage: fn(&Positions) -> Lsn) -> Vec<NodeName> {
        let counted = |name: &NodeName| self.binding().any(|one| one.counted().contains(name));
        let there = self.reached.iter();
        there
            .filter(|(name, at)| stage(at) >= end && counted(name))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Notes how far those are who count now.
    pub(super) fn note_reached(&mut self) {
        let counting = self.standbys.iter().filter(|(_, standby)| standby.counts());
        for (name, standby) in counting {
            if let Some(known) = self.reached.get_mut(name) {
                known.write = known.write.max(standby.reported.write);
                known.flush = known.flush.max(standby.reported.flush);
                known.apply = known.apply.max(standby.reported.apply);
            } else {
                self.reached.insert(name.clone(), standby.reported);
            }
        }
        // Who is neither connected nor counted any more is forgotten, so that this stays as small
        // as the cluster is.
        let (policies, standbys) = (&self.policies, &self.standbys);
        self.reached.retain(|name, _| {
            let counted = |(policy, _): &(BoundPolicy, _)| policy.counted().contains(name);
            standbys.contains_key(name) || policies.iter().any(counted)
        });
    }
}

/// What a level looks at; `None` for one that waits for no standby.
fn stage(level: Level) -> Option<fn(&Positions) -> Lsn> {
    match level {
        Level::Async | Level::Local => None,
        Level::RemoteWrite => Some(|at| at.write),
        Level::RemoteFlush => Some(|at| at.flush),
        Level::RemoteApply => Some(|at| at.apply),
    }
}
