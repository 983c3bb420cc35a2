//! Telling a node whom to follow, and when to apply what it receives.
//!
//! How it turns to another upstream is not known here.

use mainstay_replication::Role;

use super::{Node, order, record, turn};
use crate::error::Result;
use crate::upstream::Upstream;

impl Node {
    /// Follows another primary from now on, `postgres://[user@]host:port[,host:port]`. Giving up
    /// this call does not end it.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) on a URL that cannot be read,
    /// [`Error::Refused`](crate::Error::Refused) on a primary.
    pub async fn follow(&self, url: &str) -> Result<()> {
        let upstream = Upstream::parse(url)?;
        if self.inner.redirected(&upstream.addresses) {
            return Ok(());
        }
        let node = self.clone();
        order::to_its_end(async move { node.follow_all(upstream.addresses).await }).await
    }

    async fn follow_all(&self, upstreams: Vec<String>) -> Result<()> {
        let _unchanged = self.inner.unchanged().await?;
        let life = self.inner.life();
        let told = record::told_to_follow(&self.inner.name, &upstreams);
        if life.replicator.role() != Role::Fenced {
            life.replicator.follow(upstreams).await?;
            self.inner.events.record(told);
            return Ok(());
        }
        self.inner.plan.lock().may_follow()?;
        self.inner.events.record(told);
        turn::step_down(&self.inner, upstreams).await
    }

    /// On a standby: applies nothing from now on, or goes on. What is received is kept and
    /// confirmed all the same. A promotion applies everything whatever was said here; a restart, a
    /// rewind or a copy of another node's data forgets it.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) on a primary;
    /// [`Error::Stopped`](crate::Error::Stopped).
    pub async fn pause_apply(&self, paused: bool) -> Result<()> {
        let _unchanged = self.inner.unchanged().await?;
        Ok(self.inner.life().replicator.pause_apply(paused).await?)
    }

    /// Makes this primary a standby of the node at `url`, which is to become the primary. Until it
    /// is, this cluster takes no writes; [`switchover`](Self::switchover) does both. Giving up this
    /// call does not end it.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) on a URL that cannot be read,
    /// [`Error::NotPrimary`](crate::Error::NotPrimary).
    pub async fn demote(&self, url: &str) -> Result<()> {
        let upstream = Upstream::parse(url)?;
        let node = self.clone();
        order::to_its_end(async move { node.step_down(upstream.addresses).await }).await
    }

    async fn step_down(&self, upstreams: Vec<String>) -> Result<()> {
        let _unchanged = self.inner.unchanged().await?;
        if self.role() != Role::Primary {
            return Err(self.not_primary());
        }
        self.inner.plan.lock().may_follow()?;
        let told = record::told_to_follow(&self.inner.name, &upstreams);
        self.inner.events.record(told);
        turn::step_down(&self.inner, upstreams).await
    }
}
