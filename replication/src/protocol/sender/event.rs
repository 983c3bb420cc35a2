//! What goes into a [`Sender`](super::Sender) and what comes out. No decisions here.

use std::ops::Range;
use std::time::Duration;

use mainstay_storage::{Lsn, SegmentSize, Timeline, TimelineHistory};
use uuid::Uuid;

use super::start::Refusal;
use crate::protocol::progress::{Positions, ReportError};
use crate::time::Moment;

/// What a [`Sender`](super::Sender) starts from.
#[derive(Debug, Clone)]
pub struct SenderConfig {
    /// Whether the peer negotiated the extension.
    pub native: bool,
    /// This node's timelines.
    pub history: TimelineHistory,
    /// Own flushed position.
    pub flushed: Lsn,
    /// The commit LSN, as this node knows it.
    pub commit: Lsn,
    /// The oldest position still in the log.
    pub oldest: Lsn,
    /// For the name of a segment that is gone.
    pub segment_size: SegmentSize,
    /// Silence that ends the connection; half of it asks for a sign of life. Zero: never.
    pub timeout: Duration,
    /// How often a native peer hears from us when nothing happens.
    pub heartbeat_interval: Duration,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The peer sent `START_REPLICATION`, and its slot, if it names one, was acquired.
    StartRequested {
        /// First byte it wants.
        from: Lsn,
        /// On which timeline; the current one if absent.
        timeline: Option<u32>,
        /// The id of that timeline, from a native peer.
        id: Option<Uuid>,
    },
    /// Sealed log up to here may be sent to native peers before it is flushed; the durable mark
    /// that says so is set.
    Sendable(Lsn),
    /// Own log is flushed up to here.
    Flushed(Lsn),
    /// The commit LSN moved here.
    CommitMoved(Lsn),
    /// Log below this position was removed.
    Removed(Lsn),
    /// Everything below this position was written to the connection, in answer to `SendWal`. It
    /// may be below the range's end, or above it by the rest of one record.
    Sent(Lsn),
    /// The peer reported.
    StatusReceived {
        /// How far it is.
        positions: Positions,
        /// On which timeline, from a native peer.
        timeline: Option<Timeline>,
        /// Whether it wants an answer at once.
        reply_requested: bool,
    },
    /// The peer sent something else that is in order, hot-standby feedback for one.
    Heard,
    /// The peer tells of a timeline above this stream's.
    FenceReceived {
        /// Which.
        timeline: Timeline,
        /// Whether it was opened, or only accepted.
        opened: bool,
    },
    /// The peer ended its half of the stream.
    CopyDoneReceived,
    /// This node's history grew, or it follows another one now. Positions are set, not raised.
    TimelineSwitched {
        /// All timelines.
        history: TimelineHistory,
        /// Own flushed position.
        flushed: Lsn,
        /// The commit LSN.
        commit: Lsn,
    },
    /// This node stops cleanly: nothing more will be appended.
    Stop {
        /// Where its log ends; the last of it may still be on its way to the disk.
        end: Lsn,
    },
    /// The connection is gone.
    Disconnected,
    /// The deadline passed.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open the stream (CopyBothResponse).
    StartStream(Timeline),
    /// Answer with an error instead of a stream; the session stays usable.
    RefuseStart(Refusal),
    /// End the open stream with an error, without CopyDone; the session stays usable.
    FailStream(Refusal),
    /// Read and send whole records from this range, at least one, then bring `Sent`.
    SendWal(Range<Lsn>),
    /// Native: positions and heartbeat.
    SendAdvance {
        /// Own flushed position.
        flushed: Lsn,
        /// The commit LSN, never above `flushed`.
        commit: Lsn,
        /// The stream's timeline.
        timeline: Timeline,
        /// Ask for a status.
        reply_requested: bool,
    },
    /// Stock: keepalive.
    SendKeepalive {
        /// The position sent so far.
        sent: Lsn,
        /// Ask for a status.
        reply_requested: bool,
    },
    /// End our half of the stream.
    SendCopyDone,
    /// The row that names the next timeline, then both CommandCompletes and ReadyForQuery.
    SendNextTimeline {
        /// The next timeline.
        timeline: Timeline,
        /// Where it begins.
        begin: Lsn,
    },
    /// Both CommandCompletes and ReadyForQuery, after the peer ended the stream.
    CompleteStream,
    /// `COPY 0` and close, without CopyDone: everything is acknowledged and this node stops, or
    /// the peer took too long.
    FinishAndClose,
    /// The peer's positions climbed.
    Reported {
        /// On this timeline.
        timeline: Timeline,
        /// Its highest positions.
        positions: Positions,
    },
    /// The peer has everything there is to send, for the first time since the stream started.
    CaughtUp,
    /// The peer knows of a timeline that this node does not; see
    /// [`fencing`](crate::protocol::promotion::fencing).
    TimelineClaimed {
        /// Which.
        timeline: Timeline,
        /// Whether it is known to be opened.
        opened: bool,
    },
    /// Close the connection; nothing follows.
    Close(CloseReason),
}

impl Action {
    /// Whether the peer hears something.
    pub(super) fn is_spoken(&self) -> bool {
        match self {
            Self::Reported { .. } | Self::CaughtUp | Self::TimelineClaimed { .. } => false,
            Self::StartStream(_)
            | Self::RefuseStart(_)
            | Self::FailStream(_)
            | Self::SendWal(_)
            | Self::SendAdvance { .. }
            | Self::SendKeepalive { .. }
            | Self::SendCopyDone
            | Self::SendNextTimeline { .. }
            | Self::CompleteStream
            | Self::FinishAndClose
            | Self::Close(_) => true,
        }
    }
}

/// Why a connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Close without a word, as PostgreSQL does.
    #[error("nothing was heard from the peer for too long")]
    TimedOut,
    /// FATAL 57P01.
    #[error("this node is stopping")]
    Stopping,
    /// FATAL 08P01.
    #[error("the peer's status is refused: {0}")]
    BadStatus(#[from] ReportError),
    /// FATAL 08P01.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// Its timeline is not the stream's.
    #[error("the peer is on timeline {0}, which this stream is not")]
    WrongTimeline(Timeline),
}

/// Where a connection stands.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No stream: before the first, or between two.
    Startup,
    /// Streaming, and behind.
    Catchup,
    /// Streaming, and seen at the end once.
    Streaming,
    /// The timeline ended; waits for the peer to end its half.
    Draining,
    /// This node stops; sends the rest and waits until it is acknowledged.
    Stopping,
    /// Over.
    Closed,
}

/// A look at a [`Sender`](super::Sender).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderStatus {
    /// Where it stands.
    pub state: State,
    /// Whether the peer negotiated the extension.
    pub native: bool,
    /// The stream's timeline.
    pub timeline: Option<Timeline>,
    /// The position sent so far; zero without a stream.
    pub sent: Lsn,
    /// What the peer reported.
    pub reported: Positions,
    /// When it was last heard.
    pub last_heard: Moment,
}
