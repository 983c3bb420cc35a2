//! How this node gets onto its upstream's log, as somebody may have asked to be told, and whether
//! it replays that log at all.

use mainstay_storage::Lsn;
use tokio::sync::oneshot;

use super::{Driver, Ended};
use crate::error::Result;
use crate::event::ReplicationEvent;
use crate::protocol::rebuild::{Verdict, Weighing};
use crate::protocol::receiver::GiveUp;
use crate::runtime::identify;

/// The way that a standby goes.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Way {
    /// It continues by the log.
    Log,
    /// Log and store go back to here, where the two logs part.
    Rewind {
        /// The end of what they have in common.
        to: Lsn,
    },
    /// Its data are replaced by a copy.
    BaseBackup,
}

impl Way {
    /// The word that operators see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Rewind { .. } => "rewind",
            Self::BaseBackup => "base_backup",
        }
    }
}

/// The way that was chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayChosen {
    /// The way.
    pub way: Way,
    /// Why, in words.
    pub reason: String,
    /// Log between this node's end and the upstream's, in bytes.
    pub log_bytes: u64,
    /// What a copy would be, in bytes, where that was asked.
    pub copy_bytes: Option<u64>,
}

/// What is to be told of the way, and to whom.
#[derive(Debug, Default)]
pub(super) struct Telling {
    asked: Option<oneshot::Sender<WayChosen>>,
    /// The end of the upstream's log, as it said when it was identified.
    pub(super) upstream_end: Lsn,
    /// Log from here on was set aside on the way.
    pub(super) cut: Option<Lsn>,
    /// This node was far behind, so what it does about it is worth a record.
    far: bool,
    /// Why the log is continued, how much of it there is, and what a copy would be.
    chosen: Option<(String, u64, Option<u64>)>,
    /// It has caught up since it was copied, or was not copied just now.
    pub(super) may_copy: bool,
}

impl Telling {
    pub(super) fn new(may_copy: bool) -> Self {
        Self {
            may_copy,
            ..Self::default()
        }
    }
}

impl Driver {
    /// Leaves the upstream, and tells `asked` how it is followed again.
    pub(super) fn anew(&mut self, asked: oneshot::Sender<WayChosen>) {
        tracing::info!("finding the way to the upstream anew, as told");
        self.telling.asked = Some(asked);
        self.client = None;
        self.core.set_upstream(None);
        self.drop_incoming();
    }

    /// Whether to copy the upstream's data instead of replaying its log from `from` on. Asks it
    /// where that may be.
    pub(super) async fn weigh(&mut self, from: Lsn) -> Result<Option<GiveUp>> {
        let log_bytes = self.telling.upstream_end.bytes_since(from);
        let mut weighing = Weighing {
            log_bytes,
            rebuild_from: self.core.config.rebuild_from,
            own_end: from,
            needed: self.core.is_needed_to_promote(),
            offer: None,
        };
        self.telling.far = weighing.is_far();
        if weighing.is_far() && self.telling.may_copy {
            weighing.offer = identify::offer(self.client()?).await?;
        }
        let copy_bytes = weighing.offer.map(|offer| offer.copy_bytes);
        Ok(match weighing.decide() {
            Verdict::Copy(why) => Some(GiveUp::CopyIsCheaper {
                log_bytes,
                copy_bytes: copy_bytes.unwrap_or_default(),
                why,
            }),
            Verdict::Log(why) => {
                self.telling.chosen = Some((why.to_string(), log_bytes, copy_bytes));
                None
            }
        })
    }

    /// The stream was granted.
    pub(super) fn continues(&mut self) {
        let Some((mut reason, log_bytes, copy_bytes)) = self.telling.chosen.take() else {
            return;
        };
        if let Some(at) = self.telling.cut.take() {
            reason = format!("log from {at} on, which nobody saw, was set aside; {reason}");
        }
        self.tell(WayChosen {
            way: Way::Log,
            reason,
            log_bytes,
            copy_bytes,
        });
    }

    /// Everything that the upstream had is here.
    pub(super) fn caught_up(&mut self) {
        self.telling.may_copy = true;
        self.core.upstream_caught_up();
    }

    /// This log cannot be continued, or is better not.
    pub(super) fn gives_up(&mut self, why: GiveUp) {
        self.tell_why(&why);
        let addresses = self.upstreams.addresses().to_vec();
        self.ended = Some(Ended::GaveUp(why, addresses));
    }

    fn tell_why(&mut self, why: &GiveUp) {
        let own = self.core.wal.flushed().get();
        let mut chosen = WayChosen {
            way: Way::BaseBackup,
            reason: why.to_string(),
            log_bytes: self.telling.upstream_end.bytes_since(own),
            copy_bytes: None,
        };
        match why {
            GiveUp::NeedsRewind { to } => chosen.way = Way::Rewind { to: *to },
            GiveUp::NeedsBackup { .. } => {}
            GiveUp::CopyIsCheaper { copy_bytes, .. } => chosen.copy_bytes = Some(*copy_bytes),
            // Whoever asked learns that there is no answer.
            _ => {
                self.telling.asked = None;
                return;
            }
        }
        self.telling.far = true;
        self.tell(chosen);
    }

    /// Tells whoever asked, and the record, if there is something to tell.
    fn tell(&mut self, chosen: WayChosen) {
        let asked = self.telling.asked.take();
        if asked.is_none() && !std::mem::take(&mut self.telling.far) {
            return;
        }
        let (way, reason) = (chosen.way.as_str(), &chosen.reason);
        tracing::info!(way, %reason, "the way to the upstream's log");
        self.core.observer.tell(ReplicationEvent::WayChosen {
            way,
            reason: reason.clone(),
            log_bytes: chosen.log_bytes,
            copy_bytes: chosen.copy_bytes,
        });
        if let Some(asked) = asked {
            // Whoever asked may have given up waiting.
            let _ = asked.send(chosen);
        }
    }
}
