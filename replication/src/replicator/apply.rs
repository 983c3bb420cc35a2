//! Holding a standby's store back, and letting it go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::WalReplicator;
use crate::error::{Error, Result};
use crate::runtime::Core;

impl WalReplicator {
    /// Applies nothing from now on, or goes on. What is received is flushed and confirmed all the
    /// same. A promotion applies everything whatever was said here, and a restart forgets it.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Refused`] where nothing is applied from the log: on a
    /// primary, and without a store.
    pub async fn pause_apply(&self, paused: bool) -> Result<()> {
        let running = self.inner.running.lock().await;
        let running = running.as_ref().ok_or(Error::NotRunning)?;
        let replay = running.replay.as_ref();
        let replay = replay
            .filter(|_| !running.core.is_primary())
            .ok_or_else(|| {
                Error::Refused(
                    "only a standby with a store applies log, and can be paused".to_owned(),
                )
            })?;
        replay.pause(paused);
        running.core.apply_paused.store(paused, Ordering::Release);
        tracing::info!(paused, "applying the log");
        Ok(())
    }

    /// Whether this standby was told to apply nothing.
    pub fn is_apply_paused(&self) -> bool {
        let core = self.inner.core.read().clone();
        let paused = |core: &Arc<Core>| core.apply_paused.load(Ordering::Acquire);
        core.is_some_and(|core| paused(&core) && !core.is_primary())
    }
}
