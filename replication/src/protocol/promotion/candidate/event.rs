//! What goes into a [`Candidate`](super::Candidate) and what comes out. No decisions here.

use std::ops::Range;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, TimelineHistory};
use uuid::Uuid;

use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::protocol::promotion::{LogEnd, Notice, ProbeAnswer, Promise, PromiseRequest};
use crate::protocol::promotion::{Purpose, Refusal};
use crate::protocol::vote::Lives;

/// What a [`Candidate`](super::Candidate) starts from.
#[derive(Debug, Clone)]
pub struct CandidateConfig {
    /// This node's name.
    pub name: NodeName,
    /// Why it wants a timeline.
    pub purpose: Purpose,
    /// Where its log ends.
    pub end: LogEnd,
    /// All timelines opened in its log.
    pub opened: TimelineHistory,
    /// The policies that bind in its log, oldest first.
    pub policies: Vec<BoundPolicy>,
    /// The lives of data that have a vote in its log.
    pub lives: Lives,
    /// The life of its own.
    pub life: Uuid,
    /// Nodes to probe besides those the policies count: the last primary, for one.
    pub also_probe: Vec<NodeName>,
    /// The highest timeline number it ever saw or accepted.
    pub highest_seen: u32,
    /// The number to open, drawn by a leadership engine; else the lowest that is free.
    pub number: Option<u32>,
    /// Random, drawn for this attempt.
    pub id: Uuid,
    /// How long ago this node itself heard from a primary, if it has a connection.
    pub primary_heard: Option<Duration>,
    /// A primary heard within this time is alive.
    pub heartbeat_timeout: Duration,
    /// The most it may lack; `None` for any amount.
    pub lag_max: Option<LagLimit>,
    /// Skip the checks for a living primary and for lag.
    pub force: bool,
    /// Give the policy up: own acceptance is enough.
    pub without_policy: bool,
    /// Whether a primary under this policy may have degraded.
    pub may_degrade: bool,
    /// How long each phase may take.
    pub phase_timeout: Duration,
}

/// How much log a candidate may lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LagLimit {
    /// In bytes.
    pub bytes: u64,
    /// The primary, and the end of its log as it announced it last.
    pub primary: Option<(NodeName, Lsn)>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Begin.
    Begin,
    /// A node answered the probe.
    ProbeAnswered(NodeName, ProbeAnswer),
    /// A node could not be probed.
    ProbeFailed(NodeName),
    /// This node's own acceptor answered.
    OwnAnswered {
        /// What it says; accepting, it also says where own log ends now.
        promise: Promise,
        /// The policies that bind in own log now.
        policies: Vec<BoundPolicy>,
        /// The lives of data that have a vote in it.
        lives: Lives,
    },
    /// A member answered.
    PromiseAnswered {
        /// Who.
        name: NodeName,
        /// What was asked for.
        timeline: Timeline,
        /// The life of its data.
        life: Uuid,
        /// What it says.
        promise: Promise,
    },
    /// A member could not be asked.
    PromiseFailed(NodeName),
    /// This node's own acceptor is bound by a newer timeline now, because it promised it to another
    /// candidate or because the node begins to follow it. To be brought before either shows.
    Overtaken(Timeline),
    /// The log was fetched and is flushed here.
    Fetched {
        /// Where own log ends now.
        end: LogEnd,
        /// The policies that bind in it.
        policies: Vec<BoundPolicy>,
        /// The lives of data that have a vote in it.
        lives: Lives,
    },
    /// The log could not be fetched.
    FetchFailed,
    /// The NewTimeline record is flushed here.
    Opened {
        /// Where it begins.
        fork: Lsn,
        /// Its end.
        end: Lsn,
    },
    /// The deadline passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Probe this node.
    AskProbe(NodeName),
    /// Ask own acceptor for a promise. A standby stops receiving with it.
    AskOwn(PromiseRequest),
    /// Ask this node for a promise.
    AskPromise(NodeName, PromiseRequest),
    /// Make own log the same as that of `name` up to its `end`, at least; `range` is what is
    /// missing if both have the same history.
    FetchFrom {
        /// Whose.
        name: NodeName,
        /// Where that log ends.
        end: LogEnd,
        /// From own end to there.
        range: Range<Lsn>,
    },
    /// Write NewTimeline at the end of own log and flush it. The log of a running primary may have
    /// grown meanwhile, by anything but a policy. Timelines that own history adopted and own log
    /// never reached leave the history first.
    OpenTimeline(Timeline),
    /// It is open; nothing is committed before its `end` satisfies the policy.
    Done {
        /// The new timeline.
        timeline: Timeline,
        /// Where it begins.
        fork: Lsn,
        /// The end of NewTimeline.
        end: Lsn,
        /// This node was bound by a newer timeline while this one was being written:
        /// confirm nothing, and ask for a higher number at once.
        overtaken: Option<Timeline>,
        /// What to tell the operator.
        notices: Vec<Notice>,
    },
    /// Nothing was opened.
    Refuse(Refusal),
}

/// How far it is.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not begun.
    New,
    /// Waits for answers that promise nothing.
    Probing,
    /// Waits for promises.
    Promising,
    /// Waits for log.
    Fetching,
    /// Waits for NewTimeline to be flushed.
    Opening,
    /// The timeline is open.
    Open,
    /// It is over, and nothing was opened.
    Refused,
}

/// A look at a [`Candidate`](super::Candidate).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateStatus {
    /// How far it is.
    pub phase: Phase,
    /// The timeline it asks for; meaningless while probing.
    pub timeline: Timeline,
    /// Who promised.
    pub promised: Vec<NodeName>,
    /// Why nothing was opened.
    pub refusal: Option<Refusal>,
}
