//! Waiting for a commit after the call that made it ended.

use std::time::Duration;

use mainstay_replication::{Outcome, WrittenOn};
use mainstay_storage::Lsn;
use tokio::time::timeout;

use super::Node;
use crate::Level;
use crate::commit::Receipt;
use crate::error::{Error, Result};

impl Node {
    /// What became of the commit that `receipt` is for, waiting up to `within` until it reached
    /// `level` or is known to be lost. It can be asked of any node, again and again, also after a
    /// promotion: [`Outcome::Lost`] is said only once a newer timeline that does not have the
    /// commit is itself committed, and until then [`Outcome::NotYetKnown`].
    ///
    /// On a primary a level beyond `Local` is reached when the policy's standbys really confirmed
    /// it, so a commit that was let through while degraded reaches it when they are back; without
    /// a policy own disk is enough. A standby answers from what its primary says is committed and
    /// it holds itself. After a crash of a primary without a policy, a position that never reached
    /// `Local` may have been given to another commit, which is then taken for it.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn wait_for_receipt(
        &self,
        receipt: &Receipt,
        level: Level,
        within: Duration,
    ) -> Result<Outcome> {
        let on = receipt.timeline.into();
        self.outcome(receipt.lsn, on, level, within).await
    }

    /// As [`wait_for_receipt`](Self::wait_for_receipt), for a commit that ends at `lsn` and was
    /// written on the timeline `on`. [`Error::Unknown`], which a wait for a commit that was cut off
    /// ends with, names both.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn outcome(
        &self,
        lsn: Lsn,
        on: WrittenOn,
        level: Level,
        within: Duration,
    ) -> Result<Outcome> {
        let mut lives = self.inner.life.subscribe();
        let decided = async {
            loop {
                let life = lives.borrow_and_update().clone();
                match life.replicator.outcome(lsn, on, level).await {
                    Ok(outcome) => return Ok(outcome),
                    Err(_) if *self.inner.closing.borrow() => return Err(Error::Stopped),
                    // Only this life has ended; the next one goes on.
                    Err(_) => lives.changed().await.map_err(|_| Error::Stopped)?,
                }
            }
        };
        timeout(within, decided)
            .await
            .unwrap_or(Ok(Outcome::NotYetKnown))
    }
}
