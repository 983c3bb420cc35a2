//! Opening a timeline: who must agree, and what happens to those who did not hear of it.
//!
//! `S` is who the policy in the candidate's log counts, `n` their number, `k` how many confirm a
//! commit. A candidate asks `n - k + 1` of `S` for a promise, itself counted if it is one of them,
//! so it meets every set that can have acknowledged; it fetches from the newest of them what its
//! own log lacks, and only then opens the timeline. While an old and a new policy both bind, both
//! rules must be met. See the [`Candidate`] and the [`Acceptor`], which every member runs.
//!
//! * A member durably accepts at most one id per number, and then refuses older numbers and the
//!   same number with another id: no acknowledgement, no stream, no acceptance.
//! * Logs are compared by the timeline of their last flushed record first, then by position.
//! * A running primary that meets a number only accepted stops acknowledging and asks for a higher
//!   one ([`Purpose::Raise`]); only an opened newer timeline fences it ([`fencing`]).
//! * A crashed primary that restarts only continues ([`Purpose::Restart`]): members accept it if
//!   the highest timeline they ever accepted lies in its own history, and `k` must.
//! * Without a policy the candidate's own acceptance is enough, and the answer states what may be
//!   lost.
//!
//! What this does not do: it elects nobody. Who becomes a candidate, and when, is the business of
//! an operator or of a leadership engine.

use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, TimelineHistory, canary};

mod acceptor;
mod candidate;
mod choice;
mod going_on;
mod loss;
mod refusal;

pub use acceptor::{
    Acceptor, Action as AcceptorAction, Event as AcceptorEvent, Promise, PromiseRefusal,
    PromiseRequest, Promises,
};
pub use candidate::{
    Action as CandidateAction, Candidate, CandidateConfig, CandidateStatus,
    Event as CandidateEvent, LagLimit, Phase,
};
pub use choice::{Choice, Contender, NoChoice, choose};
pub use going_on::{
    ATTEMPT_BACKOFF_BASE, ATTEMPT_BACKOFF_MAX, Beginning, Standstill, held_until, standstill,
};
pub use loss::{Announced, PossibleLoss};
pub use refusal::{Notice, Refusal};

/// Where a log ends.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// The timeline that owns its last flushed record; not one merely adopted or promised.
    pub timeline: Timeline,
    /// The end of that record.
    pub flushed: Lsn,
}

impl LogEnd {
    /// Whether this log has something that one ending at `other` lacks: timeline first, then
    /// position.
    pub fn is_newer_than(&self, other: &LogEnd) -> bool {
        if canary("compare-lsn-only") {
            return self.flushed > other.flushed;
        }
        (self.timeline.number, self.flushed) > (other.timeline.number, other.flushed)
    }
}

/// Why a timeline is opened.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A standby becomes primary.
    Promote,
    /// A running primary met a higher number that was only accepted.
    Raise,
    /// A crashed primary continues its own log.
    Restart,
}

/// What a node is, as it answers a probe.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Role {
    /// It acknowledges writes, or would.
    Primary,
    /// It follows.
    Standby,
    /// It was a primary and serves nobody.
    Fenced,
}

/// A member's answer to a probe; it promises nothing.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// What it is.
    pub role: Role,
    /// Where its log ends.
    pub end: LogEnd,
    /// The highest timeline number it ever saw or accepted.
    pub highest: u32,
    /// How long ago it heard from a primary; `None` if it has no connection to one.
    pub primary_heard: Option<Duration>,
}

/// What a primary does about a timeline that somebody claims.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Fencing {
    /// It is old, or its own.
    Ignore,
    /// Suspend acknowledgements, and ask for a number above this by [`Purpose::Raise`].
    AskAbove(u32),
    /// Stop being a primary.
    Fence(Timeline),
}

/// What a primary with `own` history does about `claimed`; `opened` says whether it is known to be
/// opened, and not only accepted.
///
/// An opened timeline of this primary's own number and another id is one whose owner cannot have
/// had the promises of everybody who counts for both, so this primary asks and lets the members
/// decide.
pub fn fencing(own: &TimelineHistory, claimed: Timeline, opened: bool) -> Fencing {
    let current = own.current();
    if canary("no-fencing") {
        return Fencing::Ignore;
    }
    if claimed.number < current.number || own.contains(claimed) {
        Fencing::Ignore
    } else if opened && claimed.number > current.number {
        Fencing::Fence(claimed)
    } else {
        Fencing::AskAbove(claimed.number)
    }
}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
