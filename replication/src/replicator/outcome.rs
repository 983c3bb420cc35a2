//! Asking what became of a commit, later, on any node.

use std::sync::Arc;

use mainstay_storage::{Lsn, Signal};

use super::WalReplicator;
use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::level::Level;
use crate::protocol::outcome::{Fate, Outcome, WrittenOn, fate};
use crate::runtime::Core;

impl WalReplicator {
    /// Waits until it is known what became of the commit that ends at `end` and was written on the
    /// timeline `on`: [`Outcome::Reached`] once it has reached `level`, [`Outcome::Lost`] once a
    /// newer timeline that does not have it is known committed. Give it a timeout of your own,
    /// after which the outcome is [`Outcome::NotYetKnown`]. It can be asked of any node, and again.
    ///
    /// On a primary a level beyond `Local` is reached when the standbys really confirmed it, also
    /// after it was let through while degraded. A standby answers from what its primary says is
    /// committed and it holds itself; a degraded primary says so of its own disk. A fenced node
    /// only knows what was committed before.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when this replicator stops.
    pub async fn outcome(&self, end: Lsn, on: WrittenOn, level: Level) -> Result<Outcome> {
        let core = self.core()?;
        let mut roles = core.role.subscribe();
        let mut switched = core.switched.subscribe();
        loop {
            let role = roles.borrow_and_update().clone();
            switched.mark_unchanged();
            let decided = decided(&core, &role, end, on, level);
            tokio::select! {
                biased;
                outcome = decided => return outcome,
                changed = roles.changed() => changed.map_err(|_| Error::NotRunning)?,
                changed = switched.changed() => changed.map_err(|_| Error::NotRunning)?,
            }
        }
    }
}

/// Waits for the outcome, as long as neither role nor history changes.
async fn decided(
    core: &Arc<Core>,
    role: &Role,
    end: Lsn,
    on: WrittenOn,
    level: Level,
) -> Result<Outcome> {
    let commit = core.wal.commit();
    match fate(&core.wal.history(), on, end) {
        Fate::Ours => {
            for signal in waited_for(core, role, level) {
                signal.reached(end).await.map_err(|_| Error::NotRunning)?;
            }
            Ok(Outcome::Reached)
        }
        Fate::LostAbove(fork) => {
            let committed = commit.reached(fork + 1).await;
            committed.map_err(|_| Error::NotRunning)?;
            Ok(Outcome::Lost)
        }
        Fate::Unheard => std::future::pending().await,
    }
}

/// What has to reach the end of a commit on this log's line.
fn waited_for(core: &Core, role: &Role, level: Level) -> Vec<Signal> {
    let [written, flushed, applied] = core.confirmed.clone();
    let own = core.wal.flushed().clone();
    match (role, level) {
        (Role::Primary, Level::Async) => vec![core.wal.written().clone()],
        (Role::Primary, Level::Local) => vec![own],
        (Role::Primary, Level::RemoteWrite) => vec![own, written],
        (Role::Primary, Level::RemoteFlush) => vec![own, flushed],
        (Role::Primary, Level::RemoteApply) => vec![own, applied],
        (Role::Standby, Level::RemoteApply) => {
            vec![own, core.wal.commit().clone(), core.applied.clone()]
        }
        (Role::Standby | Role::Fenced, _) => vec![own, core.wal.commit().clone()],
    }
}
