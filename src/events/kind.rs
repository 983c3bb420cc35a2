//! The kinds of events, and their words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What kind of thing happened.
        #[derive(Debug, Copy, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum EventType {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl EventType {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its word.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

kinds! {
    /// The node was started.
    Started = "started",
    /// It was stopped properly, or could not start.
    Stopped = "stopped",
    /// A standby was registered that was not known before.
    StandbyCreated = "standby_created",
    /// A standby has everything there is: for the first time, or again.
    SyncEstablished = "sync_established",
    /// A standby is behind by more than the warning, or than the critical bound.
    LagDetected = "lag_detected",
    /// A peer was not heard for longer than the heartbeat timeout, or cannot be followed.
    ReplicationUnhealthy = "replication_unhealthy",
    /// A standby took the place of a primary that did not hand it over.
    Failover = "failover",
    /// This node is the primary now, of a new timeline.
    Promoted = "promoted",
    /// A primary handed its place to a standby.
    SwitchedOver = "switched_over",
    /// This standby follows another primary, or another timeline of the same.
    PrimaryChanged = "primary_changed",
    /// A newer timeline was opened elsewhere; this node takes no writes.
    Fenced = "fenced",
    /// Confirming stopped, because a newer timeline was promised elsewhere.
    Suspended = "suspended",
    /// Fewer standbys are there than the policy needs.
    PolicyUnmet = "policy_unmet",
    /// As many are there as the policy needs.
    PolicyMet = "policy_met",
    /// Commits go on with this node's disk only.
    Degraded = "degraded",
    /// Waiting commits end as unknown, and writes are refused.
    Failing = "failing",
    /// The policy holds again, after either.
    Recovered = "recovered",
    /// A standby that is far behind, or was told to, chose how it gets onto its upstream's log.
    Resync = "resync",
    /// The data were taken back to where the new primary's log begins.
    Rewound = "rewound",
    /// The data were replaced by a copy of another node's, or filled from one.
    Reseeded = "reseeded",
    /// Log that nobody saw was set aside: a write that was never finished, or one that the new
    /// primary does not have.
    LogCut = "log_cut",
    /// A slot held back too much log and was invalidated.
    SlotLost = "slot_lost",
    /// This standby's rows were compared with its primary's, and are the same.
    Verified = "verified",
    /// They differ; this standby is marked as broken.
    VerifyMismatch = "verify_mismatch",
    /// Ranges that differed were taken anew from the primary.
    Repaired = "repaired",
    /// Damaged log was given up, because the owner said so.
    AcceptedLoss = "accepted_loss",
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for EventType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|kind| kind.as_str() == text);
        known.copied().ok_or_else(|| {
            let words = Self::ALL.iter().map(|kind| kind.as_str());
            let words = words.collect::<Vec<_>>().join(", ");
            format!("{text:?} is no type of event; there are {words}")
        })
    }
}
