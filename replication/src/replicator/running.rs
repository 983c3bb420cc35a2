//! A replicator that runs: how it is opened, and how everything it began ends again.
//!
//! Whatever was begun hangs from one [`Running`]; stopping it waits, dropping it does not.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{Lsn, NewLog, OsDisk, Signal, Wal, WalOptions};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Inner, STOP_DEADLINE};
use crate::config::{Role, WalStreamingConfig};
use crate::error::{Error, Result};
use crate::protocol::pace::Pace;
use crate::protocol::sender::DRAIN_MAX;
use crate::runtime::{self, Contents, CopyStore, Core, Follower, Replay, SharedStore, TcpListener};

/// Why a start after a stop is refused.
const STORE_CLOSED: &str = "the store given was closed when this replicator stopped; open it again \
                            and make a new replicator with it";

/// Why nobody follows another node who listens nowhere.
pub(super) const UNREACHABLE: &str = "a node that follows another must be reachable: who chooses a \
                                      new primary asks it. Say where it listens";

/// What the caller brought.
pub(super) enum Given {
    /// Nothing: the log is opened in the data directory. With a store, perhaps, which is kept
    /// applied on every role.
    Directory(Mutex<Kept>),
    /// An engine that opened the log itself, and applies its own writes while it is primary.
    Engine {
        wal: Wal,
        store: SharedStore,
        copy: CopyStore,
        contents: Mutex<Option<Arc<dyn Contents>>>,
    },
}

/// The store that was given with a directory.
pub(super) enum Kept {
    Nothing,
    Store(SharedStore),
    /// There was one, and stopping closed it.
    Closed,
}

impl Given {
    fn contents(&self) -> Option<Arc<dyn Contents>> {
        match self {
            Self::Directory(_) => None,
            Self::Engine { contents, .. } => contents.lock().clone(),
        }
    }

    pub(super) fn engine(wal: Wal, store: SharedStore, copy: CopyStore) -> Self {
        let contents = Mutex::new(None);
        Self::Engine {
            wal,
            store,
            copy,
            contents,
        }
    }

    pub(super) fn has_store(&self) -> bool {
        match self {
            Self::Directory(kept) => !matches!(*kept.lock(), Kept::Nothing),
            Self::Engine { .. } => true,
        }
    }

    /// What runs is about to be stopped, and its store closed with it.
    pub(super) fn closes(&self) {
        if let Self::Directory(kept) = self {
            let mut kept = kept.lock();
            if matches!(*kept, Kept::Store(_)) {
                *kept = Kept::Closed;
            }
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
    /// The store that is ours to close.
    store: Option<SharedStore>,
}

impl Inner {
    pub(super) async fn open(&self, listener: Option<TcpListener>) -> Result<Running> {
        if listener.is_none() && !self.upstreams().is_empty() {
            return Err(Error::Invalid(UNREACHABLE.to_owned()));
        }
        let (wal, store, copy, owned) = match &self.given {
            Given::Engine {
                wal, store, copy, ..
            } => (wal.clone(), Some(store.clone()), Some(copy.clone()), false),
            Given::Directory(kept) => {
                let store = match &*kept.lock() {
                    Kept::Nothing => None,
                    Kept::Store(store) => Some(store.clone()),
                    Kept::Closed => return Err(Error::Refused(STORE_CLOSED.to_owned())),
                };
                let copy = store.clone().map(copier);
                (self.open_log().await?, store, copy, true)
            }
        };
        check_node_id(&self.config, &wal)?;
        let applied = Signal::new(Lsn::ZERO);
        let config = WalStreamingConfig {
            follow: self.upstreams(),
            ..self.config.clone()
        };
        let observer = self.observer.lock().clone();
        let core = Core::new(config, self.standbys.clone(), wal, applied, copy, observer)?;
        // From here on whatever was begun ends when this is dropped.
        let mut running = Running {
            core: Arc::new(core),
            tasks: JoinSet::new(),
            replay: None,
            follower: None,
            owned,
            store: store.clone().filter(|_| owned),
        };
        let core = running.core.clone();
        core.verdict.set_contents(self.given.contents());
        core.check_role()?;
        runtime::remove_left_copies(&core.wal);
        if core.is_primary() {
            core.begin()?;
        }
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
            core.become_primary(&Role::Primary, Lsn::ZERO)?;
        } else {
            core.wal.set_commit_follows(false);
        }
        running.watch(store.is_none());
        let engine = !owned;
        running.replay = match store.filter(|_| !(engine && core.is_primary())) {
            Some(store) => Some(start_replay(&core, store, !engine)?),
            None => None,
        };
        if !core.is_primary() {
            running.follow_again(self.upstreams());
        }
        runtime::await_going_on(&core).await;
        Ok(running)
    }

    /// Whom to follow: nobody on a primary.
    pub(super) fn upstreams(&self) -> Vec<String> {
        let told = self.upstreams.lock().clone();
        told.unwrap_or_else(|| self.config.follow.clone())
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
    let delay = match core.is_primary() {
        true => Duration::ZERO,
        false => core.config.min_apply_delay,
    };
    let pace = Pace::new(delay);
    Replay::start(wal, store, applied, checkpoints, (pace, core.clock), retain)
}

/// Copies a store through its trait.
fn copier(store: SharedStore) -> CopyStore {
    CopyStore(Arc::new(move |into: &Path| store.lock().snapshot(into)))
}

impl Running {
    /// Begins what looks after a node for as long as it runs; `bare` is one without a store.
    fn watch(&mut self, bare: bool) {
        let (tasks, core) = (&mut self.tasks, &self.core);
        tasks.spawn(runtime::watch_commits(core.clone()));
        tasks.spawn(runtime::keep_going(core.clone()));
        tasks.spawn(runtime::remember_fences(core.clone()));
        tasks.spawn(runtime::watch_health(core.clone()));
        if bare {
            tasks.spawn(runtime::watch_applied(core.clone()));
        }
    }

    pub(super) fn follow_again(&mut self, upstreams: Vec<String>) {
        if self.follower.is_none() {
            self.follower = Some(Follower::start(self.core.clone(), upstreams));
        }
    }

    pub(super) async fn stop(mut self, config: &WalStreamingConfig) -> Result<()> {
        let end = Instant::now() + STOP_DEADLINE;
        let each = config.stop_timeout.min(STOP_DEADLINE / 3);
        if let Some(follower) = self.follower.take() {
            follower.stop(each).await;
        }
        self.core.end_log(each.min(DRAIN_MAX)).await;
        self.core.stopping.send_replace(true);
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
        let store = self.store.take();
        let closed = tokio::task::spawn_blocking(move || {
            if let Some(replay) = replay {
                replay.stop();
            }
            let store = store.map_or(Ok(()), |store| store.lock().close());
            let log = if owned { wal.close() } else { Ok(()) };
            store.and(log)
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
