//! What goes into a [`Committer`](super::Committer) and what comes out. No decisions here.

use std::time::Duration;

use mainstay_storage::{Lsn, Timeline};

use super::quorum::SyncState;
use crate::protocol::level::OnMiss;
use crate::protocol::name::NodeName;
use crate::protocol::policy::{BoundPolicy, ChangeRule};
use crate::protocol::progress::Positions;
use crate::protocol::vote::Vote;
use crate::time::Moment;

/// What a [`Committer`](super::Committer) starts from.
#[derive(Debug, Clone)]
pub struct CommitConfig {
    /// This node's name.
    pub name: NodeName,
    /// The current timeline.
    pub timeline: Timeline,
    /// Own flushed position.
    pub flushed: Lsn,
    /// The highest position known committed.
    pub commit: Lsn,
    /// End of the NewTimeline record after a promotion, else zero: below it nothing is confirmed.
    pub hold_until: Lsn,
    /// The policies that bind, oldest first; empty is no policy.
    pub policies: Vec<BoundPolicy>,
    /// What to do when they are not met.
    pub on_miss: OnMiss,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Own log is flushed up to here.
    Flushed(Lsn),
    /// A native standby connected. An earlier session of the same name, one with a lower number,
    /// is displaced; while a later one lasts, this changes nothing.
    Connected {
        /// Who.
        name: NodeName,
        /// Names the connection in later events.
        session: u64,
        /// Whether and from when on it counts.
        vote: Vote,
    },
    /// It has caught up; from now on it counts, if it has a vote.
    Streaming {
        /// Who.
        name: NodeName,
        /// Which connection.
        session: u64,
    },
    /// It reported positions, already checked against what was sent.
    Reported {
        /// Who.
        name: NodeName,
        /// Which connection.
        session: u64,
        /// On which timeline; others than the current one are ignored.
        timeline: Timeline,
        /// How far it is.
        positions: Positions,
    },
    /// Its connection ended.
    Disconnected {
        /// Who.
        name: NodeName,
        /// Which connection.
        session: u64,
    },
    /// The log says, in an entry that ends here, that the life of its data that asked has the vote.
    VoteLogged {
        /// Whose.
        name: NodeName,
        /// End (exclusive) of that entry: it counts when it has that.
        end: Lsn,
    },
    /// A Config entry that changes policy or voters is in the log.
    PolicyLogged {
        /// The new policy.
        policy: BoundPolicy,
        /// What the change needs.
        rule: ChangeRule,
    },
    /// The operator chose anew.
    OnMissChanged(OnMiss),
    /// Stop or resume confirming: a higher timeline was accepted somewhere, but not opened.
    Suspended(bool),
    /// The deadline passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The commit LSN climbed.
    CommitMoved(Lsn),
    /// The position that is flushed here and written on the counted standbys climbed.
    WrittenMoved(Lsn),
    /// The committed position that is applied on the counted standbys climbed.
    AppliedMoved(Lsn),
    /// The newest policy is known committed and binds alone, or with those logged after it.
    PolicySettled(BoundPolicy),
    /// The standby's new life may have the vote of its name; the log must say so first.
    VoteGranted {
        /// Whose.
        name: NodeName,
        /// Which connection's.
        session: u64,
    },
    /// The standby, whose data were copied or rolled back, counts again.
    CountsAgain(NodeName),
    /// As many standbys are there as every policy needs.
    PolicyMet,
    /// Fewer are there than some policy needs.
    PolicyUnmet {
        /// How many it needs.
        needed: usize,
        /// How many are there.
        present: usize,
    },
    /// Commits go on with own flush only.
    Degraded,
    /// Waiters end with an unknown outcome, and writes are refused before they append.
    Failing,
    /// The policy holds again.
    Recovered,
}

/// Whether commits wait for the policy.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Condition {
    /// They do.
    Met,
    /// They do not, since then.
    Degraded(Moment),
    /// New ones are refused, since then.
    Failing(Moment),
}

/// A look at a [`Committer`](super::Committer).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitStatus {
    /// Own flushed position.
    pub flushed: Lsn,
    /// The commit LSN.
    pub commit: Lsn,
    /// Whether commits wait for the policy.
    pub condition: Condition,
    /// Since when flushed log waits without progress.
    pub waiting_since: Option<Moment>,
    /// Whether confirming is suspended.
    pub suspended: bool,
    /// Whether as many standbys are caught up as every policy needs.
    pub met: bool,
    /// The policies that bind, oldest first.
    pub policies: Vec<BoundPolicy>,
    /// The connected native standbys by name.
    pub standbys: Vec<StandbyPart>,
}

impl CommitStatus {
    /// For how long commits have not waited for the policy, or were refused.
    pub fn missed_for(&self, now: Moment) -> Option<Duration> {
        match self.condition {
            Condition::Met => None,
            Condition::Degraded(since) | Condition::Failing(since) => Some(now - since),
        }
    }
}

/// One standby's part in the newest policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyPart {
    /// Who.
    pub name: NodeName,
    /// In what role.
    pub state: SyncState,
    /// From 1, 0 for none.
    pub priority: usize,
    /// Whether it has caught up and has a vote.
    pub counts: bool,
    /// What it reported on this timeline.
    pub reported: Positions,
}
