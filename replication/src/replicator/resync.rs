//! Finding the way onto the upstream's log anew, asked by hand.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::WalReplicator;
use crate::config::Role;
use crate::error::{Error, Result};
use crate::runtime::{Follower, WayChosen};

/// How long the upstream may take to answer.
const RESYNC_MAX: Duration = Duration::from_secs(30);

impl WalReplicator {
    /// Leaves the upstream, dials again, and returns how this standby gets onto its log: by the
    /// log, by a rewind, or by a copy. The way itself is then gone as always.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Refused`] on another than a standby, and when nobody could
    /// be followed in time.
    pub async fn resync(&self) -> Result<WayChosen> {
        let chosen = {
            let mut running = self.inner.running.lock().await;
            let running = running.as_mut().ok_or(Error::NotRunning)?;
            only_a_standby(&running.core.role())?;
            let (tell, chosen) = oneshot::channel();
            let unheard = match &running.follower {
                Some(follower) => follower.resync(tell).await.err(),
                None => Some(tell),
            };
            if let Some(tell) = unheard {
                // It had given up; a new one begins from nothing.
                let follower = Follower::start(running.core.clone(), self.inner.upstreams());
                let unheard = follower.resync(tell).await;
                running.follower = Some(follower);
                unheard.map_err(|_| Error::NotRunning)?;
            }
            chosen
        };
        let why = match timeout(RESYNC_MAX, chosen).await {
            Ok(Ok(chosen)) => return Ok(chosen),
            Ok(Err(_)) => self
                .problem()
                .unwrap_or_else(|| "it was stopped".to_owned()),
            Err(_) => format!("no primary answered within {} s", RESYNC_MAX.as_secs()),
        };
        Err(Error::Refused(format!(
            "no way to follow was found: {why}. The node goes on trying where it can; see its status"
        )))
    }

    /// Whether this standby may give up its data for a copy: that has no vote before a primary saw
    /// it catch up.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Refused`] on another than a standby, and where nobody could
    /// be promoted without this node's vote and no primary is there.
    pub fn may_copy(&self) -> Result<()> {
        let core = self.core()?;
        only_a_standby(&core.role())?;
        let primary = core.cluster().primary.name;
        let follows = core.upstream();
        let follows = follows.is_some_and(|(name, _)| name == primary.as_str());
        let silence = core.primary_silence().filter(|_| follows);
        let there = silence.is_some_and(|silence| silence < core.timeout());
        match core.is_needed_to_promote() && !there {
            true => Err(Error::Refused(
                "no primary is heard, and without this node's vote nobody could take its place; a \
                 copy has none before a primary has seen it catch up. Bring the primary back or \
                 replace it (mainstay failover), then resync"
                    .to_owned(),
            )),
            false => Ok(()),
        }
    }

    /// The addresses at which this node looks for its upstream, the one that it follows first.
    pub fn upstreams(&self) -> Vec<String> {
        let mut addresses = self.inner.upstreams();
        let followed = self.core().ok().and_then(|core| core.upstream());
        if let Some((_, address)) = followed {
            addresses.retain(|known| *known != address);
            addresses.insert(0, address);
        }
        addresses
    }
}

/// # Errors
/// [`Error::Refused`] on any other node, with what to do there.
fn only_a_standby(role: &Role) -> Result<()> {
    let why = match role {
        Role::Standby => return Ok(()),
        Role::Primary => "this node is the primary: others copy from it, it copies from nobody",
        Role::Fenced => "this node is fenced: tell it whom to follow, and it finds its way itself",
    };
    Err(Error::Refused(why.to_owned()))
}
