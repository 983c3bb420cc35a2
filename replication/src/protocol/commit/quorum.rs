//! What a policy makes of the standbys' positions: the position it confirms, and each one's part.
//!
//! Pure functions of one moment; nothing here remembers or climbs.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_storage::{Lsn, canary};

use crate::protocol::name::NodeName;
use crate::protocol::policy::{BoundPolicy, SyncPolicy};
use crate::protocol::progress::Positions;
use crate::protocol::vote::Vote;

/// What a standby is for the policy, in the words of `pg_stat_replication.sync_state`.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum SyncState {
    /// One of the first `k`: commits wait for it.
    Sync,
    /// Takes the place of a `Sync` one that fails.
    Potential,
    /// One of those of whom any `k` are enough.
    Quorum,
    /// Not counted.
    Async,
}

impl SyncState {
    /// PostgreSQL's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Potential => "potential",
            Self::Quorum => "quorum",
            Self::Async => "async",
        }
    }
}

/// One connected native standby.
#[derive(Debug, Clone)]
pub(super) struct Standby {
    pub(super) session: u64,
    pub(super) streaming: bool,
    pub(super) vote: Vote,
    /// The log is to say that it has the vote. Still so with the next report, it could not.
    pub(super) asked: bool,
    /// Its data were copied or rolled back, and nobody was told yet that it counts again.
    pub(super) lost: bool,
    pub(super) reported: Positions,
}

impl Standby {
    pub(super) fn counts(&self) -> bool {
        let flushed = self.reported.flush;
        let votes = matches!(self.vote, Vote::From(at) | Vote::Again(at) if at <= flushed);
        self.streaming && (votes || canary("vote-without-catching-up"))
    }
}

/// Those whose positions a policy may count.
pub(super) struct Members<'a> {
    pub(super) standbys: &'a BTreeMap<NodeName, Standby>,
    /// This node, with its flushed position.
    pub(super) own: (&'a NodeName, Lsn),
}

impl Members<'_> {
    fn position(&self, name: &NodeName, stage: fn(&Positions) -> Lsn) -> Option<Lsn> {
        // Who set a policy is not counted by it: a node that finds itself there took over.
        if name == self.own.0 {
            return Some(self.own.1);
        }
        let standby = self.standbys.get(name).filter(|standby| standby.counts());
        standby.map(|standby| stage(&standby.reported))
    }

    /// How many of those that `policy` counts are there.
    pub(super) fn present(&self, policy: &BoundPolicy) -> usize {
        let names = policy.counted().iter();
        names
            .filter(|name| self.position(name, |at| at.flush).is_some())
            .count()
    }

    /// Whether `name`, whose data are another life, may have the vote under `policy`: enough others
    /// have confirmed up to `end`, by where the log says that no life has it. Whoever asked them
    /// for a promise before never gets it, and whoever asks later finds that there. All whom the
    /// policy counts are enough as well, whatever their data: nobody is left out then.
    pub(super) fn may_regain(&self, policy: &BoundPolicy, name: &NodeName, end: Lsn) -> bool {
        let has = |(name, standby): (&NodeName, &Standby)| {
            let has = standby.streaming && standby.reported.flush >= end;
            has.then(|| name.clone())
        };
        let have = self.standbys.iter().filter_map(has);
        let have = have.chain([self.own.0.clone()]);
        let have = have.collect::<BTreeSet<_>>();
        let counted = policy.counted();
        let confirmed = || self.confirmed(policy, |at| at.flush);
        !counted.contains(name)
            || counted.iter().all(|name| have.contains(name))
            || confirmed().is_some_and(|at| at >= end)
            || canary("vote-by-catching-up")
    }

    /// The highest position that `policy` confirms, never above own flushed; `None` while fewer
    /// than it needs are there.
    pub(super) fn confirmed(
        &self,
        policy: &BoundPolicy,
        stage: fn(&Positions) -> Lsn,
    ) -> Option<Lsn> {
        let needed = policy.needed();
        let Some(last) = needed.checked_sub(1) else {
            return Some(self.own.1);
        };
        let mut there = policy
            .counted()
            .iter()
            .filter_map(|name| self.position(name, stage))
            .collect::<Vec<_>>();
        if canary("count-async-standbys") {
            let others = self.standbys.iter();
            let others = others.filter(|(name, _)| !policy.counted().contains(name));
            there.extend(others.map(|(_, standby)| stage(&standby.reported)));
        }
        if let SyncPolicy::First { .. } = policy.policy() {
            there.truncate(needed);
        }
        there.sort_unstable_by(|a, b| b.cmp(a));
        there.get(last).map(|lowest| self.own.1.min(*lowest))
    }

    /// The part of `name` in `policy`, and its priority from 1; 0 for [`SyncState::Async`].
    pub(super) fn part(&self, policy: &BoundPolicy, name: &NodeName) -> (SyncState, usize) {
        let counted = policy.counted();
        let Some(at) = counted.iter().position(|counted| counted == name) else {
            return (SyncState::Async, 0);
        };
        let there = self.position(name, |at| at.flush).is_some();
        if let SyncPolicy::Any { .. } = policy.policy() {
            return match there {
                true => (SyncState::Quorum, 1),
                false => (SyncState::Potential, 1),
            };
        }
        let earlier = counted.iter().take(at);
        let before = earlier
            .filter(|name| self.position(name, |at| at.flush).is_some())
            .count();
        match there && before < policy.needed() {
            true => (SyncState::Sync, at + 1),
            false => (SyncState::Potential, at + 1),
        }
    }
}
