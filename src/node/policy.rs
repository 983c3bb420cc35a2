//! The synchronous policy of a running node: looking at it, and changing it.

use mainstay_replication::Role;
use mainstay_replication::protocol::policy::SyncPolicy;

use super::{Inner, Node, order};
use crate::error::Result;
use crate::status::{PolicyChanged, PolicyReport};

impl Node {
    /// The synchronous policy, whom it counts, and how it stands.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped).
    pub fn policy(&self) -> Result<PolicyReport> {
        let status = self.inner.life().replicator.policy_status()?;
        Ok(PolicyReport::of(&status))
    }

    /// Sets who must confirm a commit, by an entry in the log that standbys and restarts keep. It
    /// counts from then on; until the entry is known committed, the old policy counts too, so that
    /// no promotion can miss what was acknowledged. `force` lets the new one take its place as soon
    /// as the entry is on this node's disk: the way out when a standby is gone for good. The answer
    /// then names the members that could still promote themselves without the change.
    ///
    /// A policy may count standbys that never came; commits then wait until they do. A node that is
    /// started with a policy of its own sets that one, when it begins as a primary or is promoted.
    ///
    /// # Errors
    /// [`Error::NotPrimary`](crate::Error::NotPrimary); [`Error::Config`](crate::Error::Config) for
    /// a policy that can never be met; [`Error::Refused`](crate::Error::Refused) with the way out.
    /// Nothing has changed then. Giving up this call does not end it.
    pub async fn set_policy(&self, policy: SyncPolicy, force: bool) -> Result<PolicyChanged> {
        let node = self.clone();
        order::to_its_end(async move { node.change_policy(policy, force).await }).await
    }

    async fn change_policy(&self, policy: SyncPolicy, force: bool) -> Result<PolicyChanged> {
        let _unchanged = self.inner.unchanged().await?;
        self.on_primary()?;
        let life = self.inner.life();
        let change = life.replicator.set_policy(policy.clone(), force).await?;
        self.inner.keep_policy(policy);
        life.engine
            .set_standing(&life.replicator.sync_standing()?.borrow());
        Ok(PolicyChanged::of(change))
    }

    /// Takes a standby that is gone for good out of the log, so that `*` does not count it any
    /// more. Otherwise as [`set_policy`](Self::set_policy).
    ///
    /// # Errors
    /// As [`set_policy`](Self::set_policy); [`Error::Refused`](crate::Error::Refused) while it is
    /// connected, [`Error::Config`](crate::Error::Config) when there is none of this name.
    pub async fn remove_standby(&self, name: &str, force: bool) -> Result<PolicyChanged> {
        let (node, name) = (self.clone(), name.to_owned());
        let removing = async move {
            let _unchanged = node.inner.unchanged().await?;
            node.on_primary()?;
            let life = node.inner.life();
            let change = life.replicator.remove_standby(&name, force).await?;
            Ok(PolicyChanged::of(change))
        };
        order::to_its_end(removing).await
    }

    fn on_primary(&self) -> Result<()> {
        match self.role() {
            Role::Primary => Ok(()),
            _ => Err(self.not_primary()),
        }
    }
}

impl Inner {
    /// A node with a policy of its own keeps the one that was set last, over its lives.
    fn keep_policy(&self, policy: SyncPolicy) {
        if let Some(own) = &mut self.plan.lock().config.sync {
            *own = policy;
        }
    }
}
