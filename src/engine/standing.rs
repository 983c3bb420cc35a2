//! What the engine is told of the synchronous policy: whether there is one, and whether it failed.
//!
//! It comes from replication by a task of the node's life. This room decides nothing; it keeps what
//! commits must know at once.

use std::sync::atomic::Ordering;

use mainstay_replication::SyncStanding;

use super::Engine;
use crate::error::{Error, Result};

impl Engine {
    /// Takes over how the policy stands: from now on writes are refused, with the reason, while it
    /// failed, and who waits for standbys then learns that the outcome is unknown.
    pub(crate) fn set_standing(&self, standing: &SyncStanding) {
        let was = self
            .synchronous
            .swap(standing.synchronous, Ordering::AcqRel);
        if !was && standing.synchronous {
            // Who waits for own disk alone must not wait for standbys now.
            self.turns.raise(self.turns.get() + 1);
        }
        let refusal = standing.refusal();
        let ends = refusal.is_some();
        *self.refusal.lock() = refusal;
        if ends {
            self.endings.raise(self.endings.get() + 1);
        }
    }

    /// Why write transactions are refused although this node is the primary.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal.lock().clone()
    }

    /// # Errors
    /// [`Error::Refused`] while the policy failed.
    pub(super) fn check_policy(&self) -> Result<()> {
        match self.refusal() {
            Some(why) => Err(Error::Refused(format!("nothing was written: {why}"))),
            None => Ok(()),
        }
    }
}
