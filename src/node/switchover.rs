//! A planned change of primary: a standby takes over while both are well.
//!
//! Writes are held, not failed: a commit that comes meanwhile waits. When the standby has taken
//! over, what waits is refused with the new primary's name, and nothing of it was done, so it can
//! be sent there; when the standby refuses, what waits goes on here. Everything that was decided
//! before is on the standby, committed, before it is asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_replication::{HandedOver, Promotion, Role, TakeOverRequest};
use mainstay_storage::{Lsn, Timeline};
use tokio::time::timeout;

use super::life::Life;
use super::promotion::NotPromoted;
use super::{Inner, Node, order, record, turn};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::orders::SwitchedOver;

/// Lag beyond which a standby is not switched over to: writes would be held too long.
const LAG_BYTES_MAX: u64 = 16 << 20;

/// How long everything decided may take to be committed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long commits that wait for the standbys' stores are waited for.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1);

impl Node {
    /// Hands the primary's place to the standby `to`, or to the one that is furthest, and follows
    /// it. Writes are held meanwhile; see the [crate's documentation](crate) for what they end
    /// with. Giving up this call does not end it.
    ///
    /// # Errors
    /// [`Error::NotPrimary`]; [`Error::Refused`] with the reason, and this node goes on as
    /// primary.
    pub async fn switchover(&self, to: Option<&str>) -> Result<SwitchedOver> {
        let (node, to) = (self.clone(), to.map(str::to_owned));
        order::to_its_end(async move { node.switch_over(to.as_deref()).await }).await
    }

    async fn switch_over(&self, to: Option<&str>) -> Result<SwitchedOver> {
        let _unchanged = self.inner.unchanged().await?;
        let life = self.inner.life();
        if life.replicator.role() != Role::Primary {
            return Err(self.not_primary());
        }
        let target = life.replicator.switchover_target(to)?;
        if target.lag_bytes > LAG_BYTES_MAX {
            return Err(Error::Refused(format!(
                "standby {} is {} bytes behind, more than {LAG_BYTES_MAX}; wait until it has \
                 caught up",
                target.name, target.lag_bytes
            )));
        }
        let begun = Instant::now();
        let (timeline, address) = hand_over(&life, target.name.as_str()).await?;
        let pause = begun.elapsed();
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let (me, to) = (&self.inner.name, target.name.as_str());
        let draft = record::switched_over(me, to, timeline, pause_ms);
        self.inner.events.record(draft);
        let upstreams = vec![address];
        turn::step_down(&self.inner, upstreams).await?;
        Ok(SwitchedOver {
            switched_over: true,
            new_primary_name: to.to_owned(),
            timeline: timeline.number,
            pause_ms,
        })
    }
}

/// Holds writes until the standby has taken over, or has refused to.
async fn hand_over(life: &Life, to: &str) -> Result<(Timeline, String)> {
    let holding = life.engine.clone();
    let held = tokio::task::spawn_blocking(move || holding.hold_commits()).await;
    let held = held.map_err(|_| Error::Stopped)??;
    let end = life.replicator.until_flushed_by(to).await?;
    until_committed(&life.engine, end).await?;
    match life.replicator.hand_over(to).await? {
        HandedOver::Opened { timeline, address } => {
            life.engine.give_way(format!("{to} ({address})"));
            Ok((timeline, address))
        }
        HandedOver::Refused(why) => Err(Error::Refused(format!(
            "standby {to} does not take over: {why}. This node goes on as primary"
        ))),
        HandedOver::Unknown(why) => {
            if !life.engine.is_synchronous() {
                // Nothing else keeps two primaries from confirming writes.
                life.engine.refuse_writes();
                life.replicator.fence()?;
            }
            drop(held);
            Err(Error::Refused(format!(
                "it is not known whether standby {to} has taken over: {why}. Look at its status; \
                 if it is the primary, tell this node to follow it"
            )))
        }
    }
}

/// Waits until everything decided is committed, and visible where somebody waits for that.
async fn until_committed(engine: &Engine, end: Lsn) -> Result<()> {
    let committed = timeout(COMMIT_TIMEOUT, engine.wal.commit().wait(end)).await;
    let unmet = |_| {
        let seconds = COMMIT_TIMEOUT.as_secs();
        Error::Refused(format!(
            "the synchronous policy was not met within {seconds} s; this node goes on as primary"
        ))
    };
    committed.map_err(unmet)?.map_err(|_| Error::Stopped)?;
    if engine.is_synchronous() {
        // Who waits for it in vain learns that the outcome is unknown.
        let _ = timeout(APPLY_TIMEOUT, engine.remote().applied.wait(end)).await;
    }
    Ok(())
}

/// An error's text, without the word for its kind: whoever asked says that itself.
fn said(error: &Error) -> String {
    match error {
        Error::Refused(why) => why.clone(),
        error => error.to_string(),
    }
}

impl Node {
    /// Becomes the primary because another node asks for it.
    async fn take_over(
        &self,
        request: &TakeOverRequest,
    ) -> std::result::Result<Promotion, NotPromoted> {
        let options = request.options();
        if let Some(why) = request.why() {
            return self.taken_over(&options, Some(why)).await;
        }
        self.opened(&options).await
    }
}

/// Promotes the node when its primary asks it to take over, or another member because the primary
/// is gone.
pub(super) fn serve(inner: &Arc<Inner>, life: &Arc<Life>) {
    let Ok(mut requests) = life.replicator.take_over_requests() else {
        return;
    };
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let Some(inner) = inner.upgrade() else { return };
            let node = Node { inner };
            let promoted = node.take_over(&request).await;
            request.answer(promoted.map_err(|refused| said(&refused.error)));
        }
    });
}
