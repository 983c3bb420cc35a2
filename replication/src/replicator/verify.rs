//! Comparing a standby's rows with its primary's, and what is known of them.

use std::sync::Arc;

use mainstay_storage::BrokenMark;

use super::WalReplicator;
use super::running::Given;
use crate::error::{Error, Result};
use crate::protocol::verify::Span;
use crate::runtime::{self, Compared, Contents, Mended, Replay};

/// A comparison that this standby drives. One at a time; it ends when it is dropped.
pub struct Verification(runtime::Verification);

impl std::fmt::Debug for Verification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verification")
    }
}

impl Verification {
    /// Compares everything. A mismatch marks this node durably, and a clean result takes the mark
    /// away.
    ///
    /// # Errors
    /// [`Error::Refused`] where nothing can be compared, connection errors, the store's. Rows that
    /// cannot be read mark this node as well.
    pub async fn compare(&self) -> Result<Compared> {
        self.0.compare().await
    }

    /// Compares again what was mended, when everything else was found to be right.
    ///
    /// # Errors
    /// As [`compare`](Self::compare).
    pub async fn again(&self, mended: Vec<Span>) -> Result<Compared> {
        self.0.again(mended).await
    }

    /// Ships the rows of `bad` ranges from the primary, and sets those that differ, durably.
    /// Nothing is applied meanwhile; log is received and confirmed. The mark stays.
    ///
    /// # Errors
    /// As [`compare`](Self::compare); nothing was set then.
    pub async fn mend(&self, bad: &[Span]) -> Result<Mended> {
        self.0.mend(bad).await
    }
}

impl WalReplicator {
    /// Says how an engine's rows are read and mended, before the start. Without it they cannot be
    /// compared.
    pub fn set_contents(&self, contents: Arc<dyn Contents>) {
        if let Given::Engine { contents: kept, .. } = &self.inner.given {
            *kept.lock() = Some(contents);
        }
    }

    /// Begins to compare this standby's rows with its primary's.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Refused`] on a node that is no standby or keeps no rows, and
    /// while another comparison runs.
    pub async fn verification(&self) -> Result<Verification> {
        let running = self.inner.running.lock().await;
        let running = running.as_ref().ok_or(Error::NotRunning)?;
        let holder = running.replay.as_ref().map(Replay::holder);
        runtime::Verification::new(running.core.clone(), holder).map(Verification)
    }

    /// The mark on this node, if its rows were found to differ from the primary's.
    pub fn broken(&self) -> Option<BrokenMark> {
        let core = self.inner.core.read().clone();
        core.and_then(|core| core.broken())
    }
}
