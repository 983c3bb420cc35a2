//! How replication stands: what this node is, whom it follows, who follows it and how far behind.
//!
//! A look at memory that waits for nobody and changes nothing. It answers at any time, also before
//! the start and after the end.

use std::net::SocketAddr;

use uuid::Uuid;

use super::WalReplicator;
use crate::config::{ReplicationLag, Role, StandbyState};
use crate::error::{Error, Result};
use crate::protocol::liveness::Health;
use crate::runtime::never_seen;

impl WalReplicator {
    /// The registered standbys, and the configured ones that never connected; those go by their
    /// id until they tell their name.
    pub fn standby_states(&self) -> Vec<StandbyState> {
        match self.inner.core.read().clone() {
            Some(core) => core.standby_states(),
            None => self.inner.standbys.iter().map(never_seen).collect(),
        }
    }

    /// How far the standby `node_id` is behind.
    ///
    /// # Errors
    /// [`Error::UnknownStandby`].
    pub fn get_lag(&self, node_id: Uuid) -> Result<ReplicationLag> {
        let states = self.standby_states();
        let state = states.iter().find(|state| state.node_id == node_id);
        state.map(lag_of).ok_or(Error::UnknownStandby(node_id))
    }

    /// How far each standby is behind, in the order of [`standby_states`](Self::standby_states).
    pub fn replication_lag(&self) -> Vec<ReplicationLag> {
        self.standby_states().iter().map(lag_of).collect()
    }

    /// What this node is.
    pub fn role(&self) -> Role {
        let core = self.inner.core.read().clone();
        core.map_or(Role::Standby, |core| core.role())
    }

    /// Where it listens.
    pub fn listen_addr(&self) -> Option<SocketAddr> {
        self.inner
            .core
            .read()
            .as_ref()
            .and_then(|core| core.listen())
    }

    /// Name and address of the node that this one follows, while it is connected; on a standby
    /// that is not, the primary that the log names.
    pub fn primary(&self) -> Option<(String, String)> {
        let core = self.inner.core.read().clone()?;
        core.upstream().or_else(|| core.successor()).or_else(|| {
            let primary = core.cluster().primary;
            Some((primary.name.as_str().to_owned(), primary.address))
        })
    }

    /// Whether this standby is connected to the node that it follows.
    pub fn is_connected(&self) -> bool {
        let core = self.inner.core.read().clone();
        core.is_some_and(|core| core.upstream().is_some())
    }

    /// The one word for how replication fares: for a primary the worst of what its standbys and its
    /// policy say, for a standby whether it is connected. `Broken` while nothing runs.
    pub fn health(&self) -> Health {
        let core = self.inner.core.read().clone();
        core.map_or(Health::Broken, |core| core.health())
    }

    /// Why this node cannot follow, when it cannot.
    pub fn problem(&self) -> Option<String> {
        let core = self.inner.core.read().clone();
        core.and_then(|core| core.problem())
    }
}

fn lag_of(state: &StandbyState) -> ReplicationLag {
    let time_ms = u64::try_from(state.replay_lag.as_millis()).unwrap_or(u64::MAX);
    ReplicationLag {
        bytes: state.lag_bytes,
        time_ms,
    }
}
