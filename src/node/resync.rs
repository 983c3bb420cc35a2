//! Finding the way onto the upstream's log anew, or copying its data, because somebody asks for it.

use mainstay_replication::Way;

use super::{Node, record, rewind, turn};
use crate::error::Result;
use crate::orders::Resynced;

impl Node {
    /// On a standby: forgets the present stream and gets onto its upstream's log anew, by the
    /// cheapest way: by the log, by a rewind, or by a copy of the upstream's data. With `full` it
    /// copies the data in any case. Returns when the way is known; the status says what it is busy
    /// with, and old data can be read until a copy is complete.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) on another than a standby, when no upstream
    /// answers, and for `full` without a primary where nobody could be promoted then; nothing has
    /// changed.
    pub async fn resync(&self, full: bool) -> Result<Resynced> {
        if full {
            return self.resync_full().await;
        }
        // Not held on while an upstream is looked for: a promotion may be what is needed.
        let life = {
            let _unchanged = self.inner.unchanged().await?;
            self.inner.life()
        };
        // Asked first: once the way is known, this life may end.
        let durable = life.engine.store.durable();
        let checkpoint = life.engine.wal.control().checkpoint;
        let mut chosen = life.replicator.resync().await?;
        if let Way::Rewind { to } = chosen.way
            && let Some(why) = rewind::obstacle(to, checkpoint, durable)
        {
            chosen.way = Way::BaseBackup;
            chosen.reason = format!("{}, but {why}", chosen.reason);
        }
        Ok(Resynced {
            resync: chosen.way.as_str().to_owned(),
            reason: chosen.reason,
            log_bytes: chosen.log_bytes,
            copy_bytes: chosen.copy_bytes,
        })
    }

    async fn resync_full(&self) -> Result<Resynced> {
        let unchanged = self.inner.unchanged().await?;
        let life = self.inner.life();
        life.replicator.may_copy()?;
        let log_bytes = life.replicator.upstream_state();
        let resynced = Resynced {
            resync: Way::BaseBackup.as_str().to_owned(),
            reason: "a whole copy was asked for".to_owned(),
            log_bytes: log_bytes.map_or(0, |upstream| upstream.lag_bytes),
            copy_bytes: None,
        };
        let draft = record::resync(&self.inner.name, &resynced);
        self.inner.events.record(draft);
        drop(unchanged);
        turn::copy_anew(&self.inner, &life, &resynced.reason);
        Ok(resynced)
    }
}
