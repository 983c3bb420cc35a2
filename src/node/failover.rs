//! Replacing a primary that is gone: this node chooses who, and promotes itself or orders the
//! other one to.
//!
//! Nothing is held here meanwhile: the node that is chosen asks this one for its promise.

use mainstay_replication::Successor;

use super::promotion::NotPromoted;
use super::{Node, order};
use crate::error::Result;
use crate::orders::{FailedOver, FailoverOptions, PossibleLoss};

impl Node {
    /// Replaces a primary that is gone by the standby with the newest log of all members that
    /// answer, or by the one that is named; asked of any standby. The primary must be found dead,
    /// and enough members must agree, as for a [`promote`](Self::promote) of that node.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) with the reason and how to go on: on a primary or
    /// a fenced node, when nobody can be chosen, and when the chosen one is refused; nothing has
    /// changed then. Connection errors, after which only the chosen node's status can tell. Giving
    /// up this call does not end it.
    pub async fn failover(&self, options: &FailoverOptions) -> Result<FailedOver> {
        let failed_over = self.fail_over_or_say(options).await;
        failed_over.map_err(|refused| refused.error)
    }

    pub(crate) async fn fail_over_or_say(
        &self,
        options: &FailoverOptions,
    ) -> std::result::Result<FailedOver, NotPromoted> {
        let (node, options) = (self.clone(), options.clone());
        order::to_its_end(async move { node.fail_over(&options).await }).await
    }

    async fn fail_over(
        &self,
        options: &FailoverOptions,
    ) -> std::result::Result<FailedOver, NotPromoted> {
        let replicator = self.inner.life().replicator.clone();
        let promote = &options.promote;
        let successor = replicator.successor(options.to.as_deref(), promote).await?;
        if options.dry_run {
            return Ok(looked(successor));
        }
        tracing::warn!(name = %successor.name, why = %successor.why, "failing over");
        let promotion = match successor.own {
            true => self.taken_over(promote, Some(&successor.why)).await?,
            false => {
                let promotion = replicator.order_failover(&successor, promote).await?;
                self.follow_instead(&successor.address).await;
                promotion
            }
        };
        Ok(FailedOver {
            failed_over: true,
            timeline: Some(promotion.timeline.number),
            lsn: Some(promotion.end.to_string()),
            notices: promotion.notices,
            possible_loss: PossibleLoss::of(&promotion.possible_loss),
            ..looked(successor)
        })
    }

    /// Looks for the primary at `address` first from now on. Who promised it something follows it
    /// already.
    async fn follow_instead(&self, address: &str) {
        let mut addresses = vec![address.to_owned()];
        let configured = self.inner.plan.lock().config.follow.clone();
        addresses.extend(configured.into_iter().filter(|known| known != address));
        let replicator = self.inner.life().replicator.clone();
        if let Err(error) = replicator.follow(addresses).await {
            tracing::warn!(%error, %address, "cannot follow the new primary yet");
        }
    }
}

fn looked(successor: Successor) -> FailedOver {
    FailedOver {
        failed_over: false,
        new_primary_name: successor.name,
        why: successor.why,
        timeline: None,
        lsn: None,
        notices: Vec::new(),
        possible_loss: PossibleLoss::of(&successor.possible_loss),
    }
}
