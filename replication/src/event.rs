//! What happens to replication, told to whoever keeps a record of it.
//!
//! An [`Observer`] hears of each event in the order in which they happen. It is called where they
//! do, so it must return at once. Nothing here decides or remembers anything.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline};

use crate::protocol::commit::Action;

/// Something that happened, worth a line in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicationEvent {
    /// A standby was registered here that was not known before.
    StandbyCreated {
        /// Its name.
        standby: String,
        /// Where it can be reached; empty if nowhere.
        address: String,
    },
    /// A peer has everything there is: for the first time, or again.
    SyncEstablished {
        /// Who.
        peer: Peer,
        /// What it lacks all the same.
        lag_bytes: u64,
    },
    /// A peer fell behind, or further behind.
    LagDetected {
        /// Who.
        peer: Peer,
        /// Log that is not flushed there.
        lag_bytes: u64,
        /// Age of the oldest of it; on a standby, of the oldest that it has not applied.
        lag_time: Duration,
        /// Whether it is over the critical bound, not just the warning.
        critical: bool,
    },
    /// A peer was not heard for longer than the heartbeat timeout.
    Unhealthy {
        /// Who.
        peer: Peer,
        /// For how long.
        silence: Duration,
    },
    /// This standby's log can be continued by no upstream's, and there is no way back.
    CannotFollow {
        /// Why, and what to do.
        why: String,
    },
    /// This standby is the primary of a timeline that it opened.
    Promoted {
        /// That timeline.
        timeline: Timeline,
        /// End of the entry that opened it.
        end: Lsn,
        /// The primary before it, by its name.
        previous: String,
    },
    /// As many standbys are there as the policy needs.
    PolicyMet,
    /// Fewer are there than the policy needs.
    PolicyUnmet {
        /// How many it needs.
        needed: usize,
        /// How many are there.
        present: usize,
    },
    /// Commits go on with own flush only.
    Degraded,
    /// Waiters end with an unknown outcome, and writes are refused.
    Failing,
    /// The policy holds again after either.
    Recovered,
    /// A newer timeline was promised elsewhere, so this primary confirms nothing until it may.
    Suspended,
    /// This primary may go on, on a timeline of its own.
    WentOn {
        /// That timeline.
        timeline: Timeline,
    },
    /// This node is no primary any more.
    Fenced {
        /// The newer timeline that was opened elsewhere; `None` where that is not known.
        by: Option<Timeline>,
        /// Name and address of the primary that follows it, if that is known.
        successor: Option<(String, String)>,
    },
    /// This standby follows another timeline from now on.
    TimelineFollowed {
        /// That timeline.
        timeline: Timeline,
        /// The node that it is followed at.
        upstream: String,
    },
    /// Log that the new primary does not have, and nobody saw, was set aside.
    LogCut {
        /// From here on.
        at: Lsn,
        /// Bytes.
        bytes: u64,
        /// Where to.
        saved_to: PathBuf,
    },
    /// This standby, which is far behind or was told to find its way anew, chose how it gets onto
    /// its upstream's log.
    WayChosen {
        /// `log`, `rewind` or `base_backup`.
        way: &'static str,
        /// Why, in words.
        reason: String,
        /// Log between its end and the upstream's, in bytes.
        log_bytes: u64,
        /// What a copy would be, in bytes, where that was asked.
        copy_bytes: Option<u64>,
    },
    /// A slot held back too much log and was invalidated.
    SlotLost {
        /// Its name.
        slot: String,
    },
}

/// The other side of a stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// A standby of this node, by its name.
    Standby(String),
    /// The node that this one follows, by its name.
    Upstream(String),
}

/// Whom to tell.
#[derive(Clone, Default)]
pub(crate) struct Observer(Option<Arc<dyn Fn(ReplicationEvent) + Send + Sync>>);

impl Observer {
    pub(crate) fn new(told: impl Fn(ReplicationEvent) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(told)))
    }

    pub(crate) fn tell(&self, event: ReplicationEvent) {
        if let Some(told) = &self.0 {
            told(event);
        }
    }

    /// Tells what the commit machine said, where that is an event.
    pub(crate) fn commits(&self, action: &Action) {
        self.tell(match *action {
            Action::PolicyMet => ReplicationEvent::PolicyMet,
            Action::PolicyUnmet { needed, present } => {
                ReplicationEvent::PolicyUnmet { needed, present }
            }
            Action::Degraded => ReplicationEvent::Degraded,
            Action::Failing => ReplicationEvent::Failing,
            Action::Recovered => ReplicationEvent::Recovered,
            _ => return,
        });
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
