//! A node's slots: what log it keeps, for whom, and giving one up.

use chrono::{DateTime, SecondsFormat};
use mainstay_replication::SlotState;
use serde::Serialize;

use super::Node;
use crate::error::{Error, Result};

/// One replication slot, as `slots --json` and `/v1/slots` give it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// `physical` or `logical`.
    pub slot_type: String,
    /// Whether it ends with its session.
    pub temporary: bool,
    /// Whether it is streamed from.
    pub active: bool,
    /// Whether it is the primary's, and only kept here in case this node becomes the primary.
    pub carried: bool,
    /// Log from here on is still needed, a text like `0/16B3748`; `None` while it reserves nothing.
    pub restart_lsn: Option<String>,
    /// Bytes of log from there to the end.
    pub retained_bytes: u64,
    /// `reserved`, `extended`, `unreserved` or `lost`; `None` while it reserves nothing.
    pub wal_status: Option<String>,
    /// Since when nobody uses it, as RFC 3339 in UTC; at most since this node started.
    pub inactive_since: Option<String>,
}

impl From<SlotState> for SlotStatus {
    fn from(slot: SlotState) -> Self {
        let since = slot
            .inactive_since_us
            .and_then(DateTime::from_timestamp_micros);
        Self {
            name: slot.name,
            slot_type: slot.kind.as_str().to_owned(),
            temporary: slot.temporary,
            active: slot.active,
            carried: slot.carried,
            restart_lsn: slot.restart_lsn.map(|lsn| lsn.to_string()),
            retained_bytes: slot.retained_bytes,
            wal_status: slot.wal_status.map(str::to_owned),
            inactive_since: since.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
        }
    }
}

impl Node {
    /// The replication slots: this node's own, and on a standby those of its primary, by name.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn slots(&self) -> Result<Vec<SlotStatus>> {
        let slots = self.inner.life().replicator.slots()?;
        Ok(slots.into_iter().map(SlotStatus::from).collect())
    }

    /// Drops a slot, durably, so that no log is kept for it any more.
    ///
    /// # Errors
    /// [`Error::Replication`] when there is none of this name or it is in use; disk errors.
    pub async fn drop_slot(&self, name: &str) -> Result<()> {
        let (life, name) = (self.inner.life(), name.to_owned());
        let dropped = tokio::task::spawn_blocking(move || life.replicator.drop_slot(&name)).await;
        Ok(dropped.map_err(|_| Error::Stopped)??)
    }
}
