//! Making a standby the primary, because somebody asks for it or another node does.

use mainstay_replication::{PromoteOptions, Promotion};

use super::{Node, order, record};
use crate::error::{Error, Result};
use crate::orders::{PossibleLoss, Promoted, PromotionOutlook};

/// Why a node was not promoted, and what going on all the same may cost.
#[derive(Debug)]
pub(crate) struct NotPromoted {
    pub(crate) error: Error,
    #[cfg_attr(not(feature = "node"), expect(dead_code, reason = "shown over HTTP"))]
    pub(crate) possible_loss: Option<PossibleLoss>,
}

impl From<mainstay_replication::Error> for NotPromoted {
    fn from(error: mainstay_replication::Error) -> Self {
        let possible_loss = match &error {
            mainstay_replication::Error::NotPromoted { loss, .. } => Some(PossibleLoss::of(loss)),
            _ => None,
        };
        Self {
            error: error.into(),
            possible_loss,
        }
    }
}

impl From<Error> for NotPromoted {
    fn from(error: Error) -> Self {
        Self {
            error,
            possible_loss: None,
        }
    }
}

impl Node {
    /// Makes this standby the primary. `force` skips the checks for a living primary and for lag,
    /// never the rule that enough members must agree. The
    /// [crate's own page](crate#a-primary-and-a-standby) has an example.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) with the reason and how to go on; nothing has
    /// changed then. Any other when its store or its disk failed after the timeline was opened.
    /// Giving up this call does not end it.
    pub async fn promote(&self, force: bool) -> Result<Promoted> {
        let options = PromoteOptions {
            force,
            ..PromoteOptions::default()
        };
        self.promote_with(&options).await
    }

    /// As [`promote`](Self::promote), with a limit on what it may lack, or giving the policy up.
    ///
    /// # Errors
    /// As [`promote`](Self::promote).
    pub async fn promote_with(&self, options: &PromoteOptions) -> Result<Promoted> {
        let promoted = self.promote_or_say(options).await;
        promoted.map_err(|refused| refused.error)
    }

    /// What a promotion would lead to: whether it would be refused, and what it may lose. Members
    /// are asked, and nothing is changed.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) on a primary.
    pub async fn promotion_outlook(&self, options: &PromoteOptions) -> Result<PromotionOutlook> {
        let _unchanged = self.inner.unchanged().await?;
        let life = self.inner.life();
        let outlook = life.replicator.promotion_outlook(options).await?;
        Ok(PromotionOutlook::of(outlook))
    }

    pub(crate) async fn promote_or_say(
        &self,
        options: &PromoteOptions,
    ) -> std::result::Result<Promoted, NotPromoted> {
        let (node, options) = (self.clone(), *options);
        let promoting = async move { node.taken_over(&options, None).await };
        let promotion = order::to_its_end(promoting).await?;
        Ok(Promoted::of(&self.inner.name, promotion))
    }

    /// Promotes this node in the place of a primary that did not hand it over, and records it;
    /// `why` says why this node was chosen.
    pub(super) async fn taken_over(
        &self,
        options: &PromoteOptions,
        why: Option<&str>,
    ) -> std::result::Result<Promotion, NotPromoted> {
        let previous = self.inner.life().replicator.primary();
        let promotion = self.opened(options).await?;
        let previous = previous.map(|(name, _)| name);
        let previous = previous.filter(|name| *name != self.inner.name);
        let draft = record::failed_over(&self.inner.name, previous, &promotion, why);
        self.inner.events.record(draft);
        for notice in &promotion.notices {
            tracing::warn!(%notice, "promoted");
        }
        tracing::warn!(loss = %promotion.possible_loss, "promoted");
        Ok(promotion)
    }

    /// Promotes this node.
    pub(super) async fn opened(
        &self,
        options: &PromoteOptions,
    ) -> std::result::Result<Promotion, NotPromoted> {
        let _unchanged = self.inner.unchanged().await?;
        let life = self.inner.life();
        life.promoted(options).await
    }
}
