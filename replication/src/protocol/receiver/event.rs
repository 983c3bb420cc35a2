//! What goes into a [`Receiver`](super::Receiver) and what comes out. No decisions here.

use std::ops::Range;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, TimelineHistory};

use crate::protocol::progress::Positions;
use crate::protocol::rebuild::Reason;
use crate::time::Moment;

/// What a [`Receiver`](super::Receiver) starts from.
#[derive(Debug, Clone)]
pub struct ReceiverConfig {
    /// The cluster this node belongs to.
    pub system_id: u64,
    /// Own timelines.
    pub history: TimelineHistory,
    /// End of own log.
    pub flushed: Lsn,
    /// What is in the store.
    pub applied: Lsn,
    /// The highest commit LSN known.
    pub commit: Lsn,
    /// The timeline this node promised to be the next, if any.
    pub accepted: Option<Timeline>,
    /// Silence after which the upstream is given up; half of it asks for a sign of life.
    pub heartbeat_timeout: Duration,
    /// How often to report when nothing moves.
    pub status_interval: Duration,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The connection is up and authenticated, and the upstream speaks the extension.
    Connected,
    /// The upstream said who it is, in answer to `Identify`.
    Identified {
        /// Its cluster.
        system_id: u64,
        /// Its current timeline.
        timeline: Timeline,
        /// The end of its log.
        flushed: Lsn,
        /// The oldest position it still has; zero if it does not say.
        oldest: Lsn,
    },
    /// The upstream's history, in answer to `FetchHistory`.
    HistoryFetched(TimelineHistory),
    /// Own log was cut, in answer to `CutLog`, and what was cut saved aside.
    LogCut,
    /// The upstream opened the stream.
    Started,
    /// The upstream refused the stream, or ended it with an error.
    StartRefused {
        /// Whether it says that the log asked for is gone.
        removed: bool,
    },
    /// The upstream sent log. The driver hands the bytes on only after `WriteWal`.
    Received {
        /// Where they belong.
        range: Range<Lsn>,
    },
    /// The upstream told its positions, as heartbeat or because they moved.
    Advance {
        /// The end of its log.
        flushed: Lsn,
        /// The commit LSN.
        commit: Lsn,
        /// The timeline it streams.
        timeline: Timeline,
        /// Whether it wants a status at once.
        reply_requested: bool,
    },
    /// Own log is written up to here.
    Written(Lsn),
    /// Own log is flushed up to here.
    Flushed(Lsn),
    /// The store has everything below this.
    Applied(Lsn),
    /// The upstream ended its half of the stream: the timeline ended there.
    CopyDoneReceived,
    /// The row that names the next timeline came.
    NextTimeline,
    /// The upstream ended the stream because it stops.
    StreamEnded,
    /// The upstream tells of a timeline that it or somebody accepted or opened.
    FenceReceived {
        /// Which.
        timeline: Timeline,
        /// Whether it was opened.
        opened: bool,
    },
    /// This node durably promised that timeline; older ones are refused from now on.
    Accepted(Timeline),
    /// The connection is gone, or could not be made, or `Close` was carried out.
    Disconnected {
        /// Any random number: spreads reconnections.
        random: u64,
        /// Where own log ends. What came of a record whose rest did not is forgotten, and asked
        /// for again.
        appended: Lsn,
    },
    /// Stop for good.
    Stop,
    /// The deadline passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Dial the upstream.
    Connect,
    /// Ask who it is.
    Identify,
    /// Ask for the history of this timeline.
    FetchHistory(Timeline),
    /// Save own log from here aside and cut it off; then bring `LogCut`.
    CutLog(Lsn),
    /// Make this history ours, durably, before any byte of its newest timeline is written.
    AdoptHistory(TimelineHistory),
    /// Ask for the stream.
    Start {
        /// First byte wanted.
        from: Lsn,
        /// On which timeline.
        timeline: Timeline,
    },
    /// Append the bytes just received to own log.
    WriteWal(Range<Lsn>),
    /// The primary has committed up to here: the store may apply what of it is in the log, and show
    /// what is flushed.
    ApplyUpTo(Lsn),
    /// Report to the upstream.
    SendStatus {
        /// How far this node is.
        positions: Positions,
        /// On the stream's timeline.
        timeline: Timeline,
        /// Ask for an answer.
        reply_requested: bool,
    },
    /// End our half of the stream.
    SendCopyDone,
    /// Tell the upstream of a newer timeline.
    SendFence {
        /// Which.
        timeline: Timeline,
        /// Whether this node's log has it, or it was only promised.
        opened: bool,
    },
    /// The upstream knows of a timeline that this node may not.
    TimelineClaimed {
        /// Which.
        timeline: Timeline,
        /// Whether it is known to be opened.
        opened: bool,
    },
    /// Everything the upstream has is here, for the first time since the stream started.
    CaughtUp,
    /// Close the connection, then bring `Disconnected`.
    Close(CloseReason),
    /// No way forward on this log; nothing more happens here until a new machine is made.
    GiveUp(GiveUp),
}

/// Why a connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// It said nothing for the heartbeat timeout.
    #[error("nothing was heard from the upstream for too long")]
    Silent,
    /// It is on a timeline older than one this node knows.
    #[error("the upstream is on an older timeline than {0}")]
    Stale(Timeline),
    /// It tells of a timeline and follows no stream.
    #[error("the upstream tells of timeline {0}")]
    Fenced(Timeline),
    /// Own log is ahead; it will come.
    #[error("this node's log ends at {ours}, ahead of the upstream's at {theirs}; waiting for it")]
    Ahead {
        /// Own end.
        ours: Lsn,
        /// Its end.
        theirs: Lsn,
    },
    /// Log arrived that does not continue ours.
    #[error("the upstream sent log at {got} where {expected} is next")]
    Gap {
        /// What comes next.
        expected: Lsn,
        /// What came.
        got: Lsn,
    },
    /// Something else that the protocol does not allow.
    #[error("the upstream broke the protocol: {0}")]
    Protocol(&'static str),
    /// It refused the stream for a reason of its own, or ended it.
    #[error("the upstream ended the stream")]
    Ended,
    /// This node stops.
    #[error("this node is stopping")]
    Stopping,
}

/// Why this log cannot follow this upstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GiveUp {
    /// Another cluster.
    #[error("the upstream belongs to cluster {theirs}, this node to {ours}")]
    Foreign {
        /// Own system id.
        ours: u64,
        /// Its system id.
        theirs: u64,
    },
    /// The same cluster, and no common log.
    #[error("the upstream's history and this node's have no timeline in common")]
    NoCommonHistory,
    /// The store must be taken back first.
    #[error("log from {to} on was applied here but is not the upstream's; rewind to it")]
    NeedsRewind {
        /// Where the two logs part.
        to: Lsn,
    },
    /// The log in between is gone.
    #[error("the upstream has no log {} any more; a base backup is needed", missing(*wanted, *oldest))]
    NeedsBackup {
        /// What this node needs next.
        wanted: Lsn,
        /// What there is; zero if the upstream did not say.
        oldest: Lsn,
    },
    /// The log could be continued, and a copy of the upstream's data is clearly cheaper.
    #[error("{why}")]
    CopyIsCheaper {
        /// The log to replay, in bytes.
        log_bytes: u64,
        /// The copy, in bytes.
        copy_bytes: u64,
        /// Why.
        why: Reason,
    },
    /// Asked to.
    #[error("stopped")]
    Stopped,
}

/// Names log that is gone.
fn missing(wanted: Lsn, oldest: Lsn) -> String {
    match oldest.is_zero() {
        true => format!("from {wanted} on"),
        false => format!("from {wanted} to {oldest}"),
    }
}

/// Where a receiver stands.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No connection; dials at the deadline.
    Waiting,
    /// Dialling.
    Connecting,
    /// Finding out who the upstream is, and what is common.
    Identifying,
    /// The stream was asked for.
    Starting,
    /// Log comes in.
    Streaming,
    /// The connection is being closed.
    Closing,
    /// Over.
    Stopped,
}

/// A look at a [`Receiver`](super::Receiver).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverStatus {
    /// Where it stands.
    pub state: State,
    /// The newest timeline of own log.
    pub timeline: Timeline,
    /// Own positions.
    pub positions: Positions,
    /// The highest commit LSN known.
    pub commit: Lsn,
    /// The end of the upstream's log, as last heard.
    pub upstream: Lsn,
    /// When the upstream was last heard.
    pub last_heard: Option<Moment>,
    /// Connections in a row that came to nothing.
    pub attempts: u32,
    /// Why the last connection was closed by this node.
    pub closed: Option<CloseReason>,
    /// Why it gave up.
    pub gave_up: Option<GiveUp>,
}
