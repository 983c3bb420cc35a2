//! What a human is told: why nothing was opened, or what to know about what was.

use std::time::Duration;

use mainstay_storage::{Lsn, Timeline};

use super::PromiseRefusal;
use crate::protocol::level::duration_text;
use crate::protocol::name::NodeName;

/// Why a timeline was not opened, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody is the primary.
    #[error(
        "{name} is a primary on timeline {timeline}; \
         stop it, use switchover, or force the promotion"
    )]
    PrimaryAlive {
        /// Who.
        name: NodeName,
        /// On which timeline.
        timeline: Timeline,
    },
    /// Somebody hears the primary.
    #[error(
        "{name} heard from a primary {} ago; wait until it is silent, use switchover, \
         or force the promotion",
        duration_text(*.ago)
    )]
    PrimaryHeard {
        /// Who heard it.
        name: NodeName,
        /// How long ago.
        ago: Duration,
    },
    /// Too few members answer.
    #[error(
        "{have} of the {needed} nodes that must agree do; no answer or no agreement from: \
         {missing}; bring one of them back, or give the policy up (--without-policy) and \
         accept that acknowledged commits may be lost",
        missing = names(.missing)
    )]
    Unreachable {
        /// How many must agree.
        needed: usize,
        /// How many do, this node counted if it is one of them.
        have: usize,
        /// Who does not.
        missing: Vec<NodeName>,
    },
    /// This node lacks too much.
    #[error(
        "{name} has log up to {theirs}, {behind} bytes more than this node; promote {name} \
         instead, or force the promotion, which fetches what a member that agrees has"
    )]
    Behind {
        /// Who has more.
        name: NodeName,
        /// Where its log ends.
        theirs: Lsn,
        /// By how much, in bytes.
        behind: u64,
    },
    /// What the primary had and nobody can give is more than may be lost.
    #[error(
        "{name} had log up to {theirs} when it was heard last, {behind} bytes more than can be \
         had here, and max_lag is {max}; promote a node that has more, or force the promotion"
    )]
    Lacks {
        /// The primary.
        name: NodeName,
        /// The end of its log, as announced.
        theirs: Lsn,
        /// How much of it is missing, in bytes.
        behind: u64,
        /// How much may be missing.
        max: u64,
    },
    /// A higher number is about.
    #[error(
        "{name} already promised timeline {highest} to another candidate; \
         see whether that became primary, else try again"
    )]
    Outbid {
        /// Who says so.
        name: NodeName,
        /// The highest number it promised.
        highest: u32,
    },
    /// The number drawn by the leadership engine is not free.
    #[error("timeline number {number} is not free, {highest} was seen; draw one above that")]
    NumberTaken {
        /// The number drawn.
        number: u32,
        /// The highest seen.
        highest: u32,
    },
    /// The newest log could not be had.
    #[error(
        "{name} has log up to {upto} that this node lacks and that could not be fetched; \
         some of it may be acknowledged, so try again when {name} is reachable, or promote {name}"
    )]
    FetchFailed {
        /// Who has it.
        name: NodeName,
        /// Where its log ends.
        upto: Lsn,
    },
    /// Two logs cannot both be right.
    #[error(
        "{one} and {other} both have log of a timeline {number}, opened by different promotions; \
         decide which to keep and resync the other"
    )]
    Conflict {
        /// One of them.
        one: NodeName,
        /// The other.
        other: NodeName,
        /// The number both opened.
        number: u32,
    },
    /// Somebody opened a newer timeline, and this primary must follow it.
    #[error("{name} has log of timeline {timeline}, which is newer than this primary's; follow it")]
    Fenced {
        /// Who has it.
        name: NodeName,
        /// Which.
        timeline: Timeline,
    },
    /// This node's own acceptor refuses.
    #[error("this node cannot promise itself: {0}; follow that timeline, or try again")]
    OwnPromise(PromiseRefusal),
    /// This node's own acceptor does not answer.
    #[error("this node could not make its own promise durable in time; see its disk")]
    OwnSilent,
    /// Numbers are used up.
    #[error("there is no timeline number above {0}")]
    NumbersExhausted(u32),
}

/// What to know about a timeline that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// No policy was in force: commits that only the old primary had are lost.
    NoPolicy,
    /// The policy was given up; these were not asked and may have acknowledged more.
    PolicyGivenUp(Vec<NodeName>),
    /// The policy lets a primary degrade; commits acknowledged so cannot be ruled out.
    MayHaveDegraded,
    /// The checks for a living primary and for lag were skipped.
    Forced,
}

impl Notice {
    /// Whether it says that commits which were acknowledged may be lost.
    pub const fn loses(&self) -> bool {
        match self {
            Self::NoPolicy | Self::PolicyGivenUp(_) | Self::MayHaveDegraded => true,
            Self::Forced => false,
        }
    }
}

fn names(names: &[NodeName]) -> String {
    let names = names.iter().map(NodeName::as_str).collect::<Vec<_>>();
    names.join(", ")
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoPolicy => f.write_str(
                "no policy is in force, so commits that only the old primary had are lost",
            ),
            Self::PolicyGivenUp(missing) => write!(
                f,
                "the policy was given up; commits acknowledged by {} may be lost",
                names(missing)
            ),
            Self::MayHaveDegraded => f.write_str(
                "the policy lets a primary degrade; commits acknowledged while it was degraded \
                 cannot be ruled out and would be lost",
            ),
            Self::Forced => f.write_str("the checks for a living primary and for lag were skipped"),
        }
    }
}
