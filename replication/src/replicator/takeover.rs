//! Changing what a node is while it runs: promotion, and following somebody else.
//!
//! One change at a time, and what it led to outlasts a restart of the same replicator. Who must
//! agree to a promotion is decided elsewhere; this room only puts its steps in order.

use mainstay_storage::Lsn;

use super::WalReplicator;
use super::running::Given;
use crate::error::{Error, Result};
use crate::event::ReplicationEvent;
use crate::protocol::promotion::Standstill;
use crate::runtime::{Follower, promote, tell};

/// What a promotion led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// The timeline that was opened.
    pub timeline: mainstay_storage::Timeline,
    /// Where it begins.
    pub fork: Lsn,
    /// End of the entry that opened it.
    pub end: Lsn,
    /// What the operator should know, a sentence each.
    pub notices: Vec<String>,
}

impl WalReplicator {
    /// Makes this standby the primary of a new timeline: asks who must agree, fetches what it
    /// lacks, opens the timeline. `force` skips the checks for a living primary and for lag, never
    /// the rule that enough members must agree. Returns when the timeline is open and durable
    /// here, and everything in the log is in the store.
    ///
    /// Under a policy it does not wait for standbys, so the commit position may still lie below
    /// commits that the old primary acknowledged last: until the standbys confirmed the new
    /// timeline, who reads what is committed may miss them. They are in the log, and none is lost.
    /// Once the commit position reaches [`end`](Promotion::end) they can all be read: that is what
    /// [`wait_for`](Self::wait_for) waits for, given `end - 1` and `RemoteFlush`.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason and the way to go on; nothing was opened then.
    pub async fn promote(&self, force: bool) -> Result<Promotion> {
        let mut running = self.inner.running.lock().await;
        let running = running.as_mut().ok_or(Error::NotRunning)?;
        if running.core.is_primary() {
            return Err(Error::Refused(
                "this node is the primary already".to_owned(),
            ));
        }
        let old = running.core.cluster().primary;
        let was = running.core.role();
        let opened = promote::run(&running.core, force, &mut running.follower).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                running.follow_again(self.inner.upstreams());
                return Err(error);
            }
        };
        *self.inner.upstreams.lock() = Some(Vec::new());
        if let Some(replay) = &running.replay {
            replay.apply_everything();
            let applied = running.core.applied.wait(opened.promotion.end).await;
            applied.map_err(|_| Error::NotRunning)?;
        }
        if matches!(self.inner.given, Given::Engine { .. })
            && let Some(replay) = running.replay.take()
        {
            let stopped = tokio::task::spawn_blocking(move || replay.stop()).await;
            stopped.map_err(|error| Error::Invalid(error.to_string()))?;
        }
        running.core.observer.tell(ReplicationEvent::Promoted {
            timeline: opened.promotion.timeline,
            end: opened.promotion.end,
            previous: old.name.to_string(),
        });
        running.core.become_primary(&was, opened.promotion.end)?;
        if opened.overtaken {
            running.core.suspend(Standstill::Outbid);
        }
        running.core.switched.send_modify(|count| *count += 1);
        if old.name != running.core.name && !old.address.is_empty() {
            let (core, timeline) = (running.core.clone(), opened.promotion.timeline);
            running.tasks.spawn(tell(core, timeline, old.address));
        }
        Ok(opened.promotion)
    }

    /// Follows other addresses from now on. On a primary that is refused.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Refused`].
    pub async fn follow(&self, upstreams: Vec<String>) -> Result<()> {
        let mut running = self.inner.running.lock().await;
        let running = running.as_mut().ok_or(Error::NotRunning)?;
        if running.core.is_primary() {
            let text = "this node is the primary; another node must be promoted first";
            return Err(Error::Refused(text.to_owned()));
        }
        // A primary that is fenced may still be opening a timeline.
        let _changing = running.core.changing.lock().await;
        *self.inner.upstreams.lock() = Some(upstreams.clone());
        if let Some(follower) = &mut running.follower
            && follower.follow(upstreams.clone()).await
        {
            return Ok(());
        }
        running.follower = Some(Follower::start(running.core.clone(), upstreams));
        Ok(())
    }
}
