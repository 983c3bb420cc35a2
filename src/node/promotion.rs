//! Making a standby the primary, because somebody asks for it or the primary does.

use mainstay_replication::Promotion;
use mainstay_storage::Timeline;

use super::{Node, record};
use crate::error::Result;
use crate::status::Promoted;

impl Node {
    /// Makes this standby the primary. `force` skips the checks for a living primary and for lag,
    /// never the rule that enough members must agree. The
    /// [crate's own page](crate#a-primary-and-a-standby) has an example.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) with the reason and how to go on; nothing has
    /// changed then.
    pub async fn promote(&self, force: bool) -> Result<Promoted> {
        let previous = self.inner.life().replicator.primary();
        let promotion = self.opened(force).await?;
        let previous = previous.map(|(name, _)| name);
        let previous = previous.filter(|name| *name != self.inner.name);
        let (me, timeline) = (&self.inner.name, promotion.timeline);
        let draft = record::failed_over(me, previous, timeline, &promotion.notices);
        self.inner.events.record(draft);
        for notice in &promotion.notices {
            tracing::warn!(%notice, "promoted");
        }
        Ok(Promoted {
            promoted: true,
            new_primary_name: self.inner.name.clone(),
            timeline: promotion.timeline.number,
            lsn: promotion.end.to_string(),
            notices: promotion.notices,
        })
    }

    /// Promotes this node, and returns the timeline that it opened.
    pub(super) async fn promoted(&self, force: bool) -> Result<Timeline> {
        Ok(self.opened(force).await?.timeline)
    }

    async fn opened(&self, force: bool) -> Result<Promotion> {
        let _unchanged = self.inner.unchanged().await?;
        let life = self.inner.life();
        life.promoted(force).await
    }
}
