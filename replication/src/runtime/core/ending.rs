//! How a node's log comes to its end when the node stops cleanly.
//!
//! First nothing is appended any more, then what was appended reaches the disk, and only then do
//! the streams hear that there is no more to come: whoever follows has the whole log, and a standby
//! that is promoted next leaves this node none of its own.
//!
//! It refuses to know streams, and what an engine appends to a log that it opened itself: that
//! must have ended before.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLockReadGuard;
use tokio::time::timeout;

use super::Core;
use crate::error::{Error, Result};
use crate::protocol::commit::Event;

impl Core {
    /// Lets the caller append while it holds what this returns.
    ///
    /// # Errors
    /// [`Error::NotRunning`] once the log has come to its end.
    pub(crate) fn appending(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let ended = self.ended.read();
        match *ended {
            true => Err(Error::NotRunning),
            false => Ok(ended),
        }
    }

    /// Ends appending, and waits until all of the log is on disk; each `within` a time.
    pub(crate) async fn end_log(self: &Arc<Self>, within: Duration) {
        let core = self.clone();
        // An append may be waiting for room.
        let ended = tokio::task::spawn_blocking(move || {
            let ended = core.ended.try_write_for(within);
            ended.map(|mut ended| *ended = true).is_some()
        });
        if !ended.await.unwrap_or(false) {
            tracing::warn!("an append does not end; standbys may lack what it appends");
        }
        let end = self.wal.appended();
        if let Ok(Ok(flushed)) = timeout(within, self.wal.flushed().wait(end)).await {
            // Whoever told the commit machine so far may be about to end.
            self.commit_event(Event::Flushed(flushed));
        }
    }
}
