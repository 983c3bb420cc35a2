//! Changing what a node is while it runs: promotion, and following somebody else.
//!
//! One change at a time, and what it led to outlasts a restart of the same replicator. Who must
//! agree to a promotion is decided elsewhere; this room only puts its steps in order.

use std::time::Duration;

use mainstay_storage::{Applicator, Lsn};
use tokio::time::timeout;

use super::WalReplicator;
use super::running::{Given, UNREACHABLE};
use crate::error::{Error, Result};
use crate::event::ReplicationEvent;
use crate::protocol::promotion::PossibleLoss;
use crate::protocol::promotion::Standstill;
use crate::runtime::{Core, Follower, Outlook, PromoteOptions, look, promote, tell_members};

/// How long a promotion without a policy waits until the store given has all of the log.
const APPLY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Why a node does not serve that opened a timeline and whose replay failed meanwhile.
const NOT_APPLIED_BY_NOW: &str = "the log could not be applied to this node's store any more while \
                                  its timeline was opened; its messages say why. Promote another \
                                  node, or restart this one as the primary, without --follow";

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
    /// What may be lost with it.
    pub possible_loss: PossibleLoss,
}

impl WalReplicator {
    /// Makes this standby the primary of a new timeline: asks who must agree, fetches what it
    /// lacks, opens the timeline. `force` skips the checks for a living primary and for lag, never
    /// the rule that enough members must agree. Returns when the timeline is open and durable
    /// here. A store that was given goes on to apply what is committed; an engine finishes the
    /// replay itself, with [`take_replay`](Self::take_replay), before it commits anything.
    ///
    /// Under a policy it does not wait for standbys, so the commit position may still lie below
    /// commits that the old primary acknowledged last: until the standbys confirmed the new
    /// timeline, who reads what is committed may miss them. They are in the log, and none is lost.
    /// Once the commit position reaches [`end`](Promotion::end) they can all be read: that is what
    /// [`wait_for`](Self::wait_for) waits for, given `end - 1` and `RemoteFlush`.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::NotPromoted`] with the reason and the way to go on; nothing
    /// was opened then. [`Error::Invalid`] when the store failed after the timeline was opened.
    pub async fn promote(&self, force: bool) -> Result<Promotion> {
        let options = PromoteOptions {
            force,
            ..PromoteOptions::default()
        };
        self.promote_with(&options).await
    }

    /// As [`promote`](Self::promote), with limits of its own.
    ///
    /// # Errors
    /// As [`promote`](Self::promote).
    pub async fn promote_with(&self, options: &PromoteOptions) -> Result<Promotion> {
        let mut running = self.inner.running.lock().await;
        let running = running.as_mut().ok_or(Error::NotRunning)?;
        may_be_promoted(&running.core, options)?;
        let before = running.core.cluster();
        let was = running.core.role();
        let opened = promote::run(&running.core, options, &mut running.follower).await;
        let mut opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                running.follow_again(self.inner.upstreams());
                return Err(error);
            }
        };
        opened
            .promotion
            .notices
            .extend(running.core.broken_notice());
        *self.inner.upstreams.lock() = Some(Vec::new());
        if matches!(self.inner.given, Given::Engine { .. })
            && let Some(replay) = running.replay.take()
        {
            let rest = tokio::task::spawn_blocking(move || replay.stop()).await;
            let rest = rest.map_err(|error| Error::Invalid(error.to_string()))?;
            let rest = rest.ok_or_else(|| Error::Invalid(NOT_APPLIED_BY_NOW.to_owned()))?;
            *self.inner.rest.lock() = Some(rest);
        }
        if let Some(replay) = &running.replay {
            replay.apply_freely();
        }
        running.core.observer.tell(ReplicationEvent::Promoted {
            timeline: opened.promotion.timeline,
            end: opened.promotion.end,
            previous: before.primary.name.to_string(),
        });
        running.core.become_primary(&was, opened.promotion.end)?;
        if opened.overtaken {
            running.core.suspend(Standstill::Outbid);
        }
        running.core.switched.send_modify(|count| *count += 1);
        let (core, timeline) = (running.core.clone(), opened.promotion.timeline);
        running.tasks.spawn(tell_members(core, timeline, before));
        if running.replay.is_some() && running.core.cluster().policy.needed() == 0 {
            let applied = running.core.applied.wait(opened.promotion.end);
            // What takes longer goes on by itself.
            let _ = timeout(APPLY_WAIT_MAX, applied).await;
        }
        Ok(opened.promotion)
    }

    /// What a promotion would lead to; nothing is changed, and nobody is bound.
    ///
    /// # Errors
    /// [`Error::Refused`] on a primary, and on a node whose rows are marked as wrong.
    pub async fn promotion_outlook(&self, options: &PromoteOptions) -> Result<Outlook> {
        let core = self.core()?;
        may_be_promoted(&core, options)?;
        look(&core, options).await
    }

    /// What replays the rest of the log into an engine's store after a [`promote`](Self::promote),
    /// from where this node stopped as a standby. What is not committed may need more memory than
    /// there is, and so wait for standbys; the engine waits for it before it commits. Once only,
    /// and `None` when there is nothing to replay.
    pub fn take_replay(&self) -> Option<Applicator> {
        self.inner.rest.lock().take()
    }

    /// Follows other addresses from now on. On a primary that is refused.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Refused`]; [`Error::Invalid`] on a node that listens
    /// nowhere.
    pub async fn follow(&self, upstreams: Vec<String>) -> Result<()> {
        let mut running = self.inner.running.lock().await;
        let running = running.as_mut().ok_or(Error::NotRunning)?;
        if running.core.is_primary() {
            let text = "this node is the primary; another node must be promoted first";
            return Err(Error::Refused(text.to_owned()));
        }
        if running.core.listen().is_none() {
            return Err(Error::Invalid(UNREACHABLE.to_owned()));
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

fn may_be_promoted(core: &Core, options: &PromoteOptions) -> Result<()> {
    if core.is_primary() {
        let text = "this node is the primary already";
        return Err(Error::Refused(text.to_owned()));
    }
    // Whoever forces it accepts that rows are missing which nobody has, not all that come.
    core.check_applied()?;
    match options.force {
        true => Ok(()),
        false => core.check_rows(),
    }
}
