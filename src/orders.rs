//! What orders to a node led to, as the command line's `--json` and HTTP give it.

use mainstay_replication::{Outlook, PossibleLoss as Loss, Promotion};
use serde::Serialize;

/// What a promotion may lose, as far as the node that is promoted knows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PossibleLoss {
    /// Bytes of log that the primary announced and that are not to be had; `null` when the node
    /// has not heard the primary since it started. Zero where the policy rules a loss out.
    pub bytes: Option<u64>,
    /// At most so many transactions end in them.
    pub transactions: Option<u64>,
    /// How long ago the primary was last heard: what it acknowledged since is not known. `null`
    /// when it was not heard since this node started.
    pub primary_last_seen_seconds: Option<f64>,
    /// The same in a sentence.
    pub text: String,
}

/// What a promotion led to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Promoted {
    /// Always true; a promotion that was refused is an error.
    pub promoted: bool,
    /// The node that is the primary now.
    pub new_primary_name: String,
    /// The timeline it opened.
    pub timeline: u32,
    /// End of the entry that opened it.
    pub lsn: String,
    /// What the operator should know, a sentence each.
    pub notices: Vec<String>,
    /// What may be lost with it.
    pub possible_loss: PossibleLoss,
}

/// What a promotion would lead to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromotionOutlook {
    /// Always false: nothing was changed.
    pub promoted: bool,
    /// Why it would be refused; `null` when nothing speaks against it.
    pub refusal: Option<String>,
    /// What the operator should know, a sentence each.
    pub notices: Vec<String>,
    /// What may be lost with it.
    pub possible_loss: PossibleLoss,
}

/// How a primary that is gone is replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailoverOptions {
    /// The standby to promote; the one with the newest log of all that answer if `None`.
    pub to: Option<String>,
    /// How it is promoted.
    pub promote: mainstay_replication::PromoteOptions,
    /// Only say who would be promoted.
    pub dry_run: bool,
}

/// What a failover led to, or would.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailedOver {
    /// Whether it took place; false for a look at what would happen.
    pub failed_over: bool,
    /// The node that is the primary now, or would be.
    pub new_primary_name: String,
    /// Why this one, in words.
    pub why: String,
    /// The timeline it opened.
    pub timeline: Option<u32>,
    /// End of the entry that opened it.
    pub lsn: Option<String>,
    /// What the operator should know, a sentence each.
    pub notices: Vec<String>,
    /// What may be lost with it.
    pub possible_loss: PossibleLoss,
}

/// How a standby gets onto its upstream's log anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resynced {
    /// `log`, `rewind` or `base_backup`.
    pub resync: String,
    /// Why, in words.
    pub reason: String,
    /// Log between this node's end and the upstream's, in bytes.
    pub log_bytes: u64,
    /// What a copy would be, in bytes; `null` where that was not asked.
    pub copy_bytes: Option<u64>,
}

/// What a switchover led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SwitchedOver {
    /// Always true; a switchover that did not take place is an error.
    pub switched_over: bool,
    /// The node that is the primary now.
    pub new_primary_name: String,
    /// The timeline it opened.
    pub timeline: u32,
    /// How long writes were held, in milliseconds.
    pub pause_ms: u64,
}

impl PossibleLoss {
    pub(crate) fn of(loss: &Loss) -> Self {
        let seconds = loss.primary_last_seen.map(|ago| ago.as_secs_f64());
        Self {
            bytes: loss.bytes,
            transactions: loss.transactions,
            primary_last_seen_seconds: seconds.map(|seconds| (seconds * 1e3).round() / 1e3),
            text: loss.to_string(),
        }
    }
}

impl Promoted {
    pub(crate) fn of(name: &str, promotion: Promotion) -> Self {
        Self {
            promoted: true,
            new_primary_name: name.to_owned(),
            timeline: promotion.timeline.number,
            lsn: promotion.end.to_string(),
            possible_loss: PossibleLoss::of(&promotion.possible_loss),
            notices: promotion.notices,
        }
    }
}

impl PromotionOutlook {
    pub(crate) fn of(outlook: Outlook) -> Self {
        Self {
            promoted: false,
            refusal: outlook.refusal,
            notices: outlook.notices,
            possible_loss: PossibleLoss::of(&outlook.possible_loss),
        }
    }
}
