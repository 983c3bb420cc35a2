//! The commit LSN, and what happens while the policy cannot be met.
//!
//! The commit LSN is the highest position flushed here and on the standbys that the policy counts.
//! It is computed from flushed positions on the current timeline only, and never regresses. While
//! a change of policy is not known committed, the old and the new policy both bind. After a
//! promotion nothing counts until the NewTimeline record itself satisfies the policy of the log.
//!
//! ```text
//!            no progress for `after`, on_miss = degrade
//!     Met ────────────────────────────────────────────▶ Degraded   commit LSN = own flushed
//!      ▲ │   no progress for `after`, on_miss = fail
//!      │ └────────────────────────────────────────────▶ Failing    writes are refused
//!      └──────────────── standbys have caught up ◀───────────┘
//! ```
//!
//! Only native connections are brought here; a stock client cannot cut what it wrote and therefore
//! never counts. What a waiter wants is a condition of its own: [`Committer::released`]. This room
//! knows no waiters, no connections and no Config record.

use std::collections::BTreeMap;

use mainstay_storage::{Lsn, Timeline, canary};

use super::level::{Level, OnMiss};
use super::name::NodeName;
use super::policy::{BoundPolicy, ChangeRule, with_rules};
use super::progress::Positions;
use crate::time::Moment;

mod confirmed;
mod event;
mod quorum;
mod standbys;

pub use confirmed::Confirmation;
pub use event::{Action, CommitConfig, CommitStatus, Condition, Event, StandbyPart};
pub use quorum::SyncState;
use quorum::{Members, Standby};

/// While so many policies bind, no other is logged; see [`Committer::may_change_policy`]. A node
/// that takes over may find more that it does not know to be committed.
pub const POLICIES_MAX: usize = 8;
/// How far behind, in bytes, the standbys may still be when a degraded primary waits for them
/// again. Under load they are never at the very end.
pub const RECOVERY_LAG_MAX: u64 = 1 << 20;

/// The machine. Invariants: commit and applied never pass own flushed, nothing regresses.
#[derive(Debug, Clone)]
pub struct Committer {
    name: NodeName,
    timeline: Timeline,
    flushed: Lsn,
    commit: Lsn,
    written: Lsn,
    applied: Lsn,
    /// What the policies really confirmed; lower than the three above after a degraded spell.
    confirmed: Positions,
    /// How far each standby's data ever were on this timeline, while it counted.
    reached: BTreeMap<NodeName, Positions>,
    hold_until: Lsn,
    /// Oldest first, never empty; the rule says how each retires the ones before it.
    policies: Vec<(BoundPolicy, ChangeRule)>,
    on_miss: OnMiss,
    condition: Condition,
    suspended: bool,
    met: bool,
    waiting_since: Option<Moment>,
    standbys: BTreeMap<NodeName, Standby>,
}

impl Committer {
    /// A primary as its log and control file describe it; nobody is connected.
    ///
    /// # Panics
    /// When the commit LSN lies above own flushed.
    pub fn new(config: CommitConfig, now: Moment) -> Self {
        let mut policies = with_rules(config.policies);
        if policies.is_empty() {
            policies.push((BoundPolicy::off(), ChangeRule::Both));
        }
        let mut committer = Self {
            name: config.name,
            timeline: config.timeline,
            flushed: config.flushed,
            commit: config.commit,
            written: config.commit,
            applied: Lsn::ZERO,
            confirmed: Positions::default(),
            reached: BTreeMap::new(),
            hold_until: config.hold_until,
            policies,
            on_miss: config.on_miss,
            condition: Condition::Met,
            suspended: false,
            met: false,
            waiting_since: None,
            standbys: BTreeMap::new(),
        };
        // What this settles is asked for with `released`; there is nobody to tell yet.
        committer.settle(now, &mut Vec::new());
        committer.check();
        committer
    }

    /// Takes one event and appends what it leads to.
    pub fn on(&mut self, event: Event, now: Moment, out: &mut Vec<Action>) {
        let before = (self.commit, self.written, self.applied);
        match event {
            Event::Flushed(to) => self.flushed = self.flushed.max(to),
            Event::Suspended(suspended) => self.suspended = suspended,
            Event::PolicyLogged { policy, rule } => self.policies.push((policy, rule)),
            Event::OnMissChanged(on_miss) => {
                self.on_miss = on_miss;
                if self.condition != Condition::Met {
                    self.condition = Condition::Met;
                    out.push(Action::Recovered);
                }
            }
            Event::Tick => {}
            event => self.on_standby(event),
        }
        self.settle(now, out);
        let after = (self.commit, self.written, self.applied);
        let never = before.0 <= after.0 && before.1 <= after.1 && before.2 <= after.2;
        assert!(never, "positions regressed: {before:?} to {after:?}");
        self.check();
    }

    /// The next moment at which `Tick` may change something.
    pub fn deadline(&self) -> Option<Moment> {
        let after = match self.on_miss {
            OnMiss::Block => return None,
            OnMiss::Degrade { after } | OnMiss::Fail { after } => after,
        };
        let patient = self.condition == Condition::Met && !self.suspended;
        self.waiting_since
            .filter(|_| patient)
            .map(|since| since + after)
    }

    /// A look at it.
    pub fn status(&self) -> CommitStatus {
        let newest = self.newest();
        let members = self.members();
        let part = |(name, standby): (&NodeName, &Standby)| {
            let (state, priority) = members.part(newest, name);
            StandbyPart {
                name: name.clone(),
                state,
                priority,
                counts: standby.counts(),
                reported: standby.reported,
            }
        };
        CommitStatus {
            flushed: self.flushed,
            commit: self.commit,
            condition: self.condition,
            waiting_since: self.waiting_since,
            suspended: self.suspended,
            met: self.met,
            policies: self
                .policies
                .iter()
                .map(|(policy, _)| policy.clone())
                .collect(),
            standbys: self.standbys.iter().map(part).collect(),
        }
    }

    /// The commit LSN.
    pub const fn commit(&self) -> Lsn {
        self.commit
    }

    /// What it was told last that is flushed here.
    pub const fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// The position up to which waiters of `level` are released; never regresses. `Async` does not
    /// wait at all.
    pub const fn released(&self, level: Level) -> Lsn {
        match level {
            Level::Async => Lsn::MAX,
            Level::Local => self.flushed,
            Level::RemoteWrite => self.written,
            Level::RemoteFlush => self.commit,
            Level::RemoteApply => self.applied,
        }
    }

    fn newest(&self) -> &BoundPolicy {
        &self.policies.last().expect("a policy always binds").0
    }

    fn members(&self) -> Members<'_> {
        Members {
            standbys: &self.standbys,
            own: (&self.name, self.flushed),
        }
    }

    /// What all binding policies confirm at this moment; `None` while one lacks standbys.
    fn confirmed_now(&self, stage: fn(&Positions) -> Lsn) -> Option<Lsn> {
        let members = self.members();
        let mut lowest = self.flushed;
        for (policy, _) in &self.policies {
            lowest = lowest.min(members.confirmed(policy, stage)?);
        }
        Some(lowest).filter(|at| *at >= self.hold_until || canary("commit-before-new-timeline"))
    }

    fn settle(&mut self, now: Moment, out: &mut Vec<Action>) {
        let before = (self.commit, self.written, self.applied);
        self.note_reached();
        self.confirm();
        while self.retire_policy(out) {
            self.confirm();
        }
        self.settle_votes(out);
        self.note_waiting(before.0, now);
        self.settle_condition(now, out);
        if matches!(self.condition, Condition::Degraded(_)) && !self.suspended {
            self.commit = self.flushed;
            self.applied = self.flushed;
        }
        self.written = self.written.max(self.confirmed.write).max(self.commit);
        self.applied = self.applied.max(self.confirmed.apply);
        self.note_waiting(before.0, now);
        self.settle_presence(out);
        if self.commit > before.0 {
            out.push(Action::CommitMoved(self.commit));
        }
        if self.written > before.1 {
            out.push(Action::WrittenMoved(self.written));
        }
        if self.applied > before.2 {
            out.push(Action::AppliedMoved(self.applied));
        }
    }

    /// Raises what is confirmed, and the commit LSN with it.
    fn confirm(&mut self) {
        if self.suspended {
            return;
        }
        let now = |stage| self.confirmed_now(stage).unwrap_or_default();
        let (write, flush) = (now(|at| at.write), now(|at| at.flush));
        let apply = now(|at| at.apply);
        let before = self.confirmed;
        self.confirmed.write = before.write.max(write);
        self.confirmed.flush = before.flush.max(flush);
        self.confirmed.apply = before.apply.max(apply).min(self.confirmed.flush);
        self.commit = self.commit.max(self.confirmed.flush);
    }

    /// Drops a policy that no longer binds; true if one was dropped.
    fn retire_policy(&mut self, out: &mut Vec<Action>) -> bool {
        for at in (1..self.policies.len()).rev() {
            let Some((policy, rule)) = self.policies.get(at) else {
                break;
            };
            let own = self.flushed >= policy.config_end();
            let from = match rule {
                ChangeRule::Both if self.confirmed.flush >= policy.config_end() => 0,
                ChangeRule::Forced if own => 0,
                ChangeRule::OwnFlush if own => at - 1,
                ChangeRule::NewOnly => at - 1,
                _ => continue,
            };
            // One that takes the place of its predecessor alone also takes over what that needed.
            let rule = self.policies.get(from).map(|(_, rule)| *rule);
            self.policies.drain(from..at);
            if let (Some((policy, old)), Some(rule)) = (self.policies.get_mut(from), rule) {
                *old = rule;
                if from == 0 {
                    out.push(Action::PolicySettled(policy.clone()));
                }
            }
            return true;
        }
        false
    }

    fn note_waiting(&mut self, before: Lsn, now: Moment) {
        self.waiting_since = match self.flushed > self.commit {
            false => None,
            true if self.commit > before => Some(now),
            true => self.waiting_since.or(Some(now)),
        };
    }

    fn settle_condition(&mut self, now: Moment, out: &mut Vec<Action>) {
        let confirmed = self.confirmed_now(|at| at.flush).filter(|at| !at.is_zero());
        let behind = confirmed.map(|confirmed| self.flushed.bytes_since(confirmed));
        match self.condition {
            Condition::Met if self.deadline().is_some_and(|deadline| deadline <= now) => {
                let degrade = matches!(self.on_miss, OnMiss::Degrade { .. });
                let (condition, action) = match degrade {
                    true => (Condition::Degraded(now), Action::Degraded),
                    false => (Condition::Failing(now), Action::Failing),
                };
                self.condition = condition;
                out.push(action);
            }
            Condition::Degraded(_) if behind.is_some_and(|bytes| bytes <= RECOVERY_LAG_MAX) => {
                self.condition = Condition::Met;
                out.push(Action::Recovered);
            }
            Condition::Failing(_) if behind == Some(0) => {
                self.condition = Condition::Met;
                out.push(Action::Recovered);
            }
            _ => {}
        }
    }

    fn settle_presence(&mut self, out: &mut Vec<Action>) {
        let members = self.members();
        let policies = self.policies.iter().map(|(policy, _)| policy);
        let short = policies
            .map(|policy| (policy.needed(), members.present(policy)))
            .find(|(needed, present)| present < needed);
        match short {
            None if !self.met && self.newest().needed() > 0 => out.push(Action::PolicyMet),
            Some((needed, present)) if self.met => {
                out.push(Action::PolicyUnmet { needed, present });
            }
            _ => {}
        }
        self.met = short.is_none();
    }

    fn check(&self) {
        let flushed = self.flushed;
        assert!(
            self.commit <= flushed,
            "commit {} beyond flushed {flushed}",
            self.commit
        );
        assert!(
            self.written <= flushed,
            "written {} beyond flushed {flushed}",
            self.written
        );
        assert!(
            self.applied <= self.commit,
            "applied {} beyond commit",
            self.applied
        );
        assert!(
            self.confirmed.flush <= self.commit,
            "confirmed but not committed"
        );
        assert!(!self.policies.is_empty(), "a policy always binds");
    }
}

#[cfg(test)]
mod tests;
