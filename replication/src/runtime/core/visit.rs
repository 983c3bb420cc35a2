//! Standbys that are connected and receive no log: they begin, or take a base backup.
//!
//! It is only shown to people; nobody counts by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Core;
use crate::config::StreamState;
use crate::protocol::name::NodeName;

/// Who is here, by session, and what for.
#[derive(Debug, Default)]
pub(super) struct Visits(Mutex<BTreeMap<u64, (NodeName, StreamState)>>);

/// Shows a standby as being here until it is dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    visits: Arc<Visits>,
    session: u64,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.visits.0.lock().remove(&self.session);
    }
}

impl Core {
    /// Shows the standby `name` in `state`, unless it streams.
    pub(crate) fn visit(&self, name: &NodeName, session: u64, state: StreamState) -> Visit {
        let mut visits = self.peers.visits.0.lock();
        visits.insert(session, (name.clone(), state));
        Visit {
            visits: self.peers.visits.clone(),
            session,
        }
    }

    /// What the standby `name` is here for, if it is; a base backup says more than a beginning.
    pub(super) fn visiting(&self, name: &NodeName) -> Option<StreamState> {
        let visits = self.peers.visits.0.lock();
        let here = visits.values().filter(|(visitor, _)| visitor == name);
        here.map(|(_, state)| *state)
            .max_by_key(|state| *state == StreamState::Backup)
    }
}
