//! What the node is told of its synchronous policy, and what becomes of an order to change it.
//!
//! Facts in plain types, and the sentences that people read about them. Who decides is
//! [`Committer`](crate::protocol::commit::Committer).

use std::time::Duration;

use mainstay_storage::Lsn;

pub use crate::protocol::commit::{Condition, Confirmation};
use crate::protocol::level::OnMiss;
use crate::protocol::name::NodeName;
pub use crate::protocol::outcome::{Outcome, WrittenOn};
use crate::protocol::policy::SyncPolicy;

/// How a primary's policy stands, told whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncStanding {
    /// Whether a policy that binds counts anybody.
    pub synchronous: bool,
    /// Whether commits wait for it.
    pub condition: Condition,
    /// What happens while it is not met.
    pub on_miss: OnMiss,
    /// The newest policy.
    pub policy: SyncPolicy,
    /// End of the entry that set the oldest policy that still binds.
    pub in_force_from: Option<Lsn>,
}

impl SyncStanding {
    /// Of a node that confirms nothing.
    pub(crate) const fn idle(policy: SyncPolicy, on_miss: OnMiss) -> Self {
        Self {
            synchronous: false,
            condition: Condition::Met,
            on_miss,
            policy,
            in_force_from: None,
        }
    }

    /// What a writer is told while writes are refused.
    pub fn refusal(&self) -> Option<String> {
        let Condition::Failing(_) = self.condition else {
            return None;
        };
        let (policy, on_miss) = (&self.policy, self.on_miss);
        Some(format!(
            "the synchronous policy {policy} is not met, and on_miss {on_miss} refuses writes until \
             its standbys have confirmed everything; start them, or change the policy: mainstay \
             policy set POLICY, with --force when one is gone for good"
        ))
    }
}

/// A policy with everything that an operator asks about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// The newest policy in the log.
    pub policy: SyncPolicy,
    /// What happens while it is not met.
    pub on_miss: OnMiss,
    /// On a primary, the policies that bind, oldest first: more than one while a change is not
    /// known committed.
    pub binding: Vec<SyncPolicy>,
    /// Whom it counts.
    pub counted: Vec<NodeName>,
    /// How many of them are caught up and have a vote.
    pub present: usize,
    /// Those of them that never registered.
    pub unknown: Vec<NodeName>,
    /// All registered standbys.
    pub registered: Vec<NodeName>,
    /// For how long flushed log has waited without progress.
    pub waiting: Option<Duration>,
    /// For how long commits have not waited for the policy any more, or were refused.
    pub missed_for: Option<Duration>,
    /// On a primary, whether commits wait for it.
    pub condition: Option<Condition>,
    /// Whether this primary must ask the members before it confirms anything.
    pub suspended: bool,
}

impl PolicyStatus {
    /// One word: `off`, `met`, `waiting`, `changing`, `degraded`, `failing`, `suspended`, or
    /// `standby` where another node decides.
    pub fn word(&self) -> &'static str {
        match self.condition {
            None => "standby",
            Some(Condition::Degraded(_)) => "degraded",
            Some(Condition::Failing(_)) => "failing",
            Some(Condition::Met) if self.suspended => "suspended",
            Some(Condition::Met) if self.binding.len() > 1 => "changing",
            Some(Condition::Met) if self.policy.needed() == 0 => "off",
            Some(Condition::Met) if self.present < self.policy.needed() => "waiting",
            Some(Condition::Met) => "met",
        }
    }

    /// What an operator should know, when commits do not go on as the policy says. `since` is the
    /// time of day at which that began.
    pub fn problem(&self, since: &str) -> Option<String> {
        let (policy, on_miss) = (&self.policy, self.on_miss);
        let (present, needed) = (self.present, self.policy.needed());
        let there = format!("{present} of {needed} standbys of {policy} are there");
        match self.condition? {
            Condition::Degraded(_) => Some(format!(
                "degraded: commits wait for this node's disk only since {since}, because {there} \
                 (on_miss {on_miss}); start the standbys, or change the policy"
            )),
            Condition::Failing(_) => Some(format!(
                "failing: writes are refused since {since}, because {there} (on_miss {on_miss}); \
                 start the standbys, or change the policy"
            )),
            Condition::Met if self.suspended || present >= needed => None,
            Condition::Met if self.unknown.is_empty() => None,
            Condition::Met => {
                let unknown = self.unknown.iter().map(NodeName::as_str);
                let unknown = unknown.collect::<Vec<_>>().join(", ");
                Some(format!(
                    "commits wait: {there}, and {unknown} never registered; start them with these \
                     names, or change the policy"
                ))
            }
        }
    }
}

/// What an order to change the policy, or the voters, led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChange {
    /// The newest policy.
    pub policy: SyncPolicy,
    /// End of the entry in the log.
    pub lsn: Lsn,
    /// Whether it binds alone by now; until then the earlier ones bind too.
    pub in_force: bool,
    /// After a forced change, the members that could still promote themselves without it.
    pub may_promote: Vec<NodeName>,
    /// What the operator should know, a sentence each.
    pub notices: Vec<String>,
}
