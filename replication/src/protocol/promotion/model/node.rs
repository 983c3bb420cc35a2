//! One node of the model: its log, an entry of 8 bytes each, and what it promised.
//!
//! It moves no messages and knows no other node.

use mainstay_storage::{Lsn, Timeline, TimelineHistory};

use crate::protocol::commit::Committer;
use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::protocol::promotion::{Acceptor, Candidate, LogEnd};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Write(u64),
    Config(BoundPolicy),
    NewTimeline(Timeline),
}

pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) log: Vec<Entry>,
    pub(super) flushed: usize,
    pub(super) history: TimelineHistory,
    pub(super) acceptor: Acceptor,
    pub(super) known_commit: Lsn,
    pub(super) primary: Option<Committer>,
    pub(super) candidate: Option<(u64, Candidate)>,
    /// It was a primary, crashed, and means to be one again.
    pub(super) restarting: bool,
}

/// Each entry is 8 bytes, and the first begins at 8.
pub(super) fn end_of(entries: usize) -> Lsn {
    Lsn::new(8 * (u64::try_from(entries).unwrap() + 1))
}

pub(super) fn entries_to(end: Lsn) -> usize {
    usize::try_from(end.get() / 8).unwrap().saturating_sub(1)
}

impl Node {
    pub(super) fn log_end(&self) -> LogEnd {
        let flushed = end_of(self.flushed);
        let timeline = self.history.owner(Lsn::new(flushed.get() - 8));
        LogEnd { timeline, flushed }
    }

    /// The last policy known committed, and all after it.
    pub(super) fn policies(&self) -> Vec<BoundPolicy> {
        let logged = self
            .log
            .iter()
            .take(self.flushed)
            .filter_map(|entry| match entry {
                Entry::Config(policy) => Some(policy.clone()),
                _ => None,
            });
        let mut bound = logged.collect::<Vec<_>>();
        let settled = bound
            .iter()
            .rposition(|policy| policy.config_end() <= self.known_commit);
        bound.drain(..settled.unwrap_or(0));
        bound
    }

    pub(super) fn cut(&mut self, entries: usize) {
        self.log.truncate(entries);
        self.flushed = self.flushed.min(entries);
    }
}
