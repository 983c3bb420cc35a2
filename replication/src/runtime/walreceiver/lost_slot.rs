//! What a standby does whose slot was given up by its upstream: it drops it, so that the next
//! connection makes another, and goes on from there if the log is still to be had. Where it is not,
//! a base backup is needed, and is kept for by the new slot.

use super::Driver;
use crate::error::Result;
use crate::wire::command::Command;

impl Driver {
    /// Drops the slot through which this node follows and which can never stream again. One of
    /// another kind under its name is somebody else's, and stays.
    pub(super) async fn drop_lost_slot(&mut self) -> Result<()> {
        let Some(slot) = self.core.config.follow_slot.clone() else {
            return Ok(());
        };
        let client = self.client()?;
        let read = Command::ReadReplicationSlot { slot: slot.clone() };
        let answer = client.rows(&read).await?;
        let kind = answer.sets.first().and_then(|set| set.rows.first());
        if kind.and_then(|row| row.text(0)) == Some("physical") {
            let drop = Command::DropReplicationSlot {
                slot: slot.clone(),
                wait: false,
            };
            client.rows(&drop).await?;
            tracing::warn!(%slot, "the upstream gave up this node's slot; making another");
        }
        Ok(())
    }
}
