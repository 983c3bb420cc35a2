//! A replicator that runs: how it is opened, and how everything it began ends again.
//!
//! Whatever was begun hangs from one [`Running`]; stopping it waits, dropping it does not.

use std::path::Path;
use std::sync::Arc;

use mainstay_storage::{Lsn, NewLog, OsDisk, Signal, Wal, WalOptions};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Inner, STOP_DEADLINE};
use crate::config::WalStreamingConfig;
use crate::error::{Error, Result};
use crate::runtime::{self, CopyStore, Core, Follower, Replay, SharedStore};

/// What the caller brought.
pub(super) enum Given {
    /// Nothing: the log is opened in the data directory. With a store, perhaps, which is kept
    /// applied on every role.
    Directory(Mutex<Option<SharedStore>>),
    /// An engine that opened the log itself, and applies its own writes while it is primary.
    Engine {
        wal: Wal,
        store: SharedStore,
        copy: CopyStore,
    },
}

impl Given {
    pub(super) fn has_store(&self) -> bool {
        match self {
            Self::Directory(store) => store.lock().is_some(),
            Self::Engine { .. } => true,
        }
    }
}

/// What one start began.
pub(super) struct Running {
    pub(super) core: Arc<Core>,
    pub(super) tasks: JoinSet<()>,
    pub(super) replay: Option<Replay>,
    pub(super) follower: Option<Follower>,
    /// The log is ours to close.
    owned: bool,
}

impl Inner {
    pub(super) async fn open(&self, listener: Option<TcpListener>) -> Result<Running> {
        let (wal, store, copy, owned) = match &self.given {
            Given::Engine { wal, store, copy } => {
                (wal.clone(), Some(store.clone()), Some(copy.clone()), false)
            }
            Given::Directory(store) => {
                let store = store.lock().clone();
                let copy = store.clone().map(copier);
                (self.open_log().await?, store, copy, true)
            }
        };
        let applied = Signal::new(Lsn::ZERO);
        let config = self.config.clone();
        let core = Core::new(config, self.standbys.clone(), wal, applied, copy)?;
        // From here on whatever was begun ends when this is dropped.
        let mut running = Running {
            core: Arc::new(core),
            tasks: JoinSet::new(),
            replay: None,
            follower: None,
            owned,
        };
        let core = &running.core;
        core.check_role()?;
        check_node_id(&self.config, &core.wal)?;
        runtime::remove_left_copies(&core.wal);
        if let Some(listener) = listener {
            let at = listener.local_addr().map_err(|source| Error::Connection {
                peer: "this node".to_owned(),
                op: "listen",
                source,
            })?;
            core.set_listen(at);
            running.tasks.spawn(runtime::accept(core.clone(), listener));
        }
        if core.is_primary() {
            core.become_primary(Lsn::ZERO)?;
        } else {
            core.wal.set_commit_follows(false);
        }
        running.tasks.spawn(runtime::watch_commits(core.clone()));
        if store.is_none() {
            running.tasks.spawn(runtime::watch_applied(core.clone()));
        }
        let engine = !owned;
        running.replay = match store.filter(|_| !(engine && core.is_primary())) {
            Some(store) => Some(start_replay(core, store, !engine)?),
            None => None,
        };
        if !core.is_primary() {
            let upstreams = self.config.follow.clone();
            running.follower = Some(Follower::start(core.clone(), upstreams));
        }
        Ok(running)
    }

    async fn open_log(&self) -> Result<Wal> {
        let (config, wall_clock) = (self.config.clone(), self.wall_clock);
        let opened = tokio::task::spawn_blocking(move || open_log(&config, wall_clock));
        opened
            .await
            .map_err(|error| Error::Invalid(error.to_string()))?
    }
}

/// Opens the configured directory, or begins a log in it; takes as long as recovery takes.
fn open_log(config: &WalStreamingConfig, wall_clock: fn() -> i64) -> Result<Wal> {
    let disk = Arc::new(OsDisk);
    let options = WalOptions {
        segment_size: config.segment_size,
        accept_loss_from: config.accept_loss_from,
        ..WalOptions::new(wall_clock)
    };
    let dir = &config.data_dir;
    if Wal::exists(&*disk, dir)? {
        return Ok(Wal::open(disk, dir, &options)?.0);
    }
    if !config.follow.is_empty() {
        return Err(Error::Invalid(format!(
            "{} holds no log; take a base backup into it first",
            dir.display()
        )));
    }
    let mut new = NewLog::new_cluster(options.segment_size);
    new.node_id = config.node_id.unwrap_or(new.node_id);
    Ok(Wal::create(disk, dir, new, &options)?)
}

fn check_node_id(config: &WalStreamingConfig, wal: &Wal) -> Result<()> {
    let found = wal.identity().node_id;
    match config.node_id {
        Some(wanted) if wanted != found => Err(Error::Invalid(format!(
            "{} belongs to node {found}, the configuration names {wanted}; an id is given once, \
             when the directory is filled",
            wal.dir().display()
        ))),
        _ => Ok(()),
    }
}

fn start_replay(core: &Arc<Core>, store: SharedStore, checkpoints: bool) -> Result<Replay> {
    let (wal, applied, retaining) = (core.wal.clone(), core.applied.clone(), core.clone());
    let retain = move || retaining.retain_from();
    Replay::start(wal, store, applied, checkpoints, retain)
}

/// Copies a store through its trait.
fn copier(store: SharedStore) -> CopyStore {
    CopyStore(Arc::new(move |into: &Path| store.lock().snapshot(into)))
}

impl Running {
    pub(super) fn follow_again(&mut self) {
        if self.follower.is_none() {
            let upstreams = self.core.config.follow.clone();
            self.follower = Some(Follower::start(self.core.clone(), upstreams));
        }
    }

    pub(super) async fn stop(mut self, config: &WalStreamingConfig) -> Result<()> {
        let end = Instant::now() + STOP_DEADLINE;
        let each = config.stop_timeout.min(STOP_DEADLINE / 3);
        self.core.stopping.send_replace(true);
        if let Some(follower) = self.follower.take() {
            follower.stop(each).await;
        }
        let ended = timeout(each, async {
            while self.tasks.join_next().await.is_some() {}
            self.core.subscriptions.ended().await;
        });
        if ended.await.is_err() {
            tracing::warn!("tasks did not end in time and are aborted");
            self.tasks.abort_all();
            while self.tasks.join_next().await.is_some() {}
        }
        self.core.disconnect_all();
        let (replay, wal, owned) = (self.replay.take(), self.core.wal.clone(), self.owned);
        let closed = tokio::task::spawn_blocking(move || {
            if let Some(replay) = replay {
                replay.stop();
            }
            if owned { wal.close() } else { Ok(()) }
        });
        let Ok(closed) = timeout_at(end, closed).await else {
            // The thread goes on and closes the log when it can.
            self.owned = false;
            let text = "the store has not returned; its directory is released when it does";
            return Err(Error::Invalid(text.to_owned()));
        };
        Ok(closed.map_err(|error| Error::Invalid(error.to_string()))??)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.core.stopping.send_replace(true);
        if self.owned {
            self.core.wal.stop();
        }
    }
}
