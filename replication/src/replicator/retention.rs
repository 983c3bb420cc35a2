//! What log is kept, and when it goes.

use mainstay_storage::Lsn;

use super::WalReplicator;
use crate::error::{Error, Result};

impl WalReplicator {
    /// For an engine that gave no store: it keeps everything below `durable` itself and needs no
    /// older log after a restart. Removes what no slot, backup or reserve needs either, and
    /// returns the oldest position that is kept. Log is removed in whole segments.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Refused`] where a store was given, which is asked instead;
    /// the log's `Ahead` beyond what is committed; disk errors.
    pub async fn checkpoint(&self, durable: Lsn) -> Result<Lsn> {
        let core = self.core()?;
        if self.inner.given.has_store() {
            let text = "the store given says itself what it keeps";
            return Err(Error::Refused(text.to_owned()));
        }
        let removed = tokio::task::spawn_blocking(move || {
            let end = core.wal.commit().get();
            if durable > end {
                let wanted = durable;
                return Err(mainstay_storage::Error::Ahead { wanted, end });
            }
            core.wal.checkpoint(durable)?;
            core.wal.remove_below(durable.min(core.retain_from()))
        });
        let removed = removed.await;
        Ok(removed.map_err(|error| Error::Invalid(error.to_string()))??)
    }

    /// Log from here on is needed by a slot, a backup, or the configured reserve.
    pub fn retain_from(&self) -> Lsn {
        let core = self.inner.core.read().clone();
        core.map_or(Lsn::ZERO, |core| core.retain_from())
    }
}
