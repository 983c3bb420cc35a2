//! The network: connections that delay, stall and break, and what travels on them.
//!
//! What is sent on one connection in one direction arrives in order or not at all, and what is said
//! while log is streamed arrives as bytes, in pieces of any size (`wire.rs`). A link that is cut
//! loses what is sent over it, and the connection is stalled from then on, as TCP is that gets no
//! answer: either end finds out by its timeouts. It may also break at once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mainstay_replication::Member;
use mainstay_replication::protocol::progress::Positions;
use mainstay_replication::protocol::promotion::{CandidateAction, CandidateEvent};
use mainstay_storage::{Lsn, SimDisk, Timeline, TimelineHistory};

use super::random::Random;

/// What a standby and its upstream say to each other.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Identify,
    Identified {
        primary: bool,
        timeline: Timeline,
        flushed: Lsn,
        oldest: Lsn,
    },
    FetchHistory(Timeline),
    History(TimelineHistory),
    /// Who it is, and from where on it wants log.
    Start {
        from: Lsn,
        timeline: Timeline,
        member: Member,
    },
    Started,
    Refused {
        removed: bool,
    },
    NextTimeline,
    Ended,
    Wal {
        at: Lsn,
        bytes: Bytes,
    },
    Advance {
        flushed: Lsn,
        commit: Lsn,
        timeline: Timeline,
        reply_requested: bool,
    },
    Status {
        positions: Positions,
        timeline: Timeline,
        reply_requested: bool,
    },
    CopyDone,
    Fence {
        timeline: Timeline,
        opened: bool,
    },
    /// Some of what is said while log is streamed.
    Bytes(Bytes),
}

/// What arrives at a node.
#[derive(Debug)]
pub(super) enum Packet {
    /// On a connection, from the standby that made it or from its upstream.
    On {
        conn: u64,
        from: usize,
        standby: bool,
        body: Body,
    },
    /// The connection is gone.
    Broken { conn: u64 },
    /// A candidate asks.
    Ask {
        from: usize,
        attempt: u64,
        action: CandidateAction,
    },
    /// A member answers a candidate.
    Answer { attempt: u64, event: CandidateEvent },
    /// A primary tells of its timeline.
    Opened(Timeline),
    /// A node wants a copy of another's data.
    AskCopy { from: usize, attempt: u64 },
    /// The copy.
    Copy { attempt: u64, copy: Box<Copy> },
    /// A primary whose log ends there hands its place over.
    TakeOver {
        from: usize,
        timeline: Timeline,
        end: Lsn,
    },
    /// Whether the standby opened a timeline for that.
    TookOver { opened: bool },
    /// A member's log, from `at` on.
    Log {
        attempt: u64,
        history: TimelineHistory,
        at: Lsn,
        log: Bytes,
    },
}

impl Packet {
    /// The connection on which it arrives, zero for none.
    pub(super) fn conn(&self) -> u64 {
        match self {
            Self::On { conn, .. } | Self::Broken { conn } => *conn,
            _ => 0,
        }
    }
}

/// A base backup: what a store holds, and log up to what was committed.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) store: SimDisk,
    pub(super) system_id: u64,
    pub(super) history: TimelineHistory,
    pub(super) begin: Lsn,
    pub(super) replay: Lsn,
    pub(super) log: Bytes,
    pub(super) end: Lsn,
}

#[derive(Debug)]
struct Connection {
    client: usize,
    server: usize,
    /// Nothing arrives any more, in either direction.
    stalled: bool,
    /// When the last thing sent arrives, by direction.
    last: [u64; 2],
}

/// Who is connected to whom, and which links are cut.
#[derive(Debug, Default)]
pub(super) struct Net {
    connections: BTreeMap<u64, Connection>,
    /// From, to.
    cut: BTreeSet<(usize, usize)>,
    next: u64,
    /// Whether single messages get lost.
    pub(super) lossy: bool,
    /// Longest delay in microseconds.
    pub(super) delay_max: u64,
}

impl Net {
    /// A network that loses single messages, and takes up to `delay_max` microseconds.
    pub(super) fn new(delay_max: u64) -> Self {
        Self {
            lossy: true,
            delay_max,
            ..Self::default()
        }
    }

    /// A connection from `client` to `server`, or none when no word gets through.
    pub(super) fn connect(&mut self, client: usize, server: usize) -> Option<u64> {
        let cut = |from, to| self.cut.contains(&(from, to));
        if cut(client, server) || cut(server, client) {
            return None;
        }
        self.next += 1;
        let connection = Connection {
            client,
            server,
            stalled: false,
            last: [0; 2],
        };
        self.connections.insert(self.next, connection);
        Some(self.next)
    }

    /// When something sent now by `from` arrives, and at whom; `None` when it never does.
    pub(super) fn send(
        &mut self,
        conn: u64,
        from: usize,
        now: u64,
        random: &mut Random,
    ) -> Option<(u64, usize, bool)> {
        let delay = self.delay(random);
        let connection = self.connections.get_mut(&conn)?;
        let from_client = connection.client == from;
        let to = match from_client {
            true => connection.server,
            false => connection.client,
        };
        if self.cut.contains(&(from, to)) {
            connection.stalled = true;
        }
        if connection.stalled {
            return None;
        }
        let last = &mut connection.last[usize::from(from_client)];
        *last = (now + delay).max(*last);
        Some((*last, to, from_client))
    }

    /// When a message without a connection arrives, unless it is lost.
    pub(super) fn cast(&self, from: usize, to: usize, random: &mut Random) -> Option<u64> {
        let lost = self.cut.contains(&(from, to)) || (self.lossy && random.one_in(20));
        (!lost).then(|| self.delay(random))
    }

    fn delay(&self, random: &mut Random) -> u64 {
        // Mostly quick, at times as slow as can be.
        match random.one_in(20) {
            true => 1 + random.below(self.delay_max),
            false => 20 + random.below(200),
        }
    }

    /// Ends a connection from the side of `node`; the other end, if there was a connection.
    pub(super) fn close(&mut self, conn: u64, node: usize) -> Option<usize> {
        let connection = self.connections.remove(&conn)?;
        let heard = !connection.stalled;
        let other = match connection.client == node {
            true => connection.server,
            false => connection.client,
        };
        heard.then_some(other)
    }

    /// Any connection, if there is one.
    pub(super) fn any(&self, random: &mut Random) -> Option<(u64, usize, usize)> {
        let at = random.index(self.connections.len().max(1));
        let (id, conn) = self.connections.iter().nth(at)?;
        Some((*id, conn.client, conn.server))
    }

    /// All connections of `node`.
    pub(super) fn of(&self, node: usize) -> Vec<u64> {
        let connections = self.connections.iter();
        let mine = connections.filter(|(_, conn)| conn.client == node || conn.server == node);
        mine.map(|(id, _)| *id).collect()
    }

    /// Nothing gets from `from` to `to` any more.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Every link works. What was stalled stays so until somebody notices.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }
}
