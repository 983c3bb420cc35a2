//! Setting a node up, and the order in which its parts start.
//!
//! The log is opened first, filled from the primary if need be; then the store, which replays it;
//! then replication, which may need both. A step that fails closes what was opened before it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_replication::protocol::level::OnMiss;
use mainstay_replication::protocol::policy::SyncPolicy;
use mainstay_replication::wire::scram::Verifier;
use mainstay_replication::{Password, Role, WalReplicator, WalStreamingConfig, bootstrap};
use mainstay_storage::{Applicator, LsmOptions, Lsn, NewLog, OsDisk, SegmentSize, Wal, WalOptions};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{Inner, Node};
use crate::commit::RemotePositions;
use crate::database::{report, wall_clock};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::keeper;
use crate::upstream::Upstream;

/// Rounds of key derivation for a password that is configured in clear.
const SCRAM_ITERATIONS: u32 = 4096;

/// How long [`NodeBuilder::start`] waits until what was not committed is replayed.
const REPLAY_WAIT_MAX: Duration = Duration::from_secs(2);

/// How a node is set up. Made by [`Node::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct NodeBuilder {
    config: WalStreamingConfig,
    store: LsmOptions,
    upstream: Option<String>,
    password: Option<String>,
    cluster_name: Option<String>,
}

impl NodeBuilder {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            config: WalStreamingConfig {
                data_dir: dir.to_owned(),
                ..WalStreamingConfig::default()
            },
            store: LsmOptions::default(),
            upstream: None,
            password: None,
            cluster_name: None,
        }
    }

    /// The node's name, which a synchronous policy counts. Default `node`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Where standbys and stock PostgreSQL tools connect, `host:port`; port 0 takes a free one.
    /// Without it nobody can follow this node.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.config.listen = Some(address.into());
        self
    }

    /// The address that other nodes reach this one at; the one it listens on by default.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.config.advertise = Some(address.into());
        self
    }

    /// The primary to follow: `postgres://[user@]host:port[,host:port]`. An empty directory is
    /// filled from it first. A node started so never makes itself primary.
    pub fn follow(mut self, url: impl Into<String>) -> Self {
        self.upstream = Some(url.into());
        self
    }

    /// Who must confirm a commit; without it, what the log says.
    pub fn sync(mut self, policy: SyncPolicy) -> Self {
        self.config.sync = Some(policy);
        self
    }

    /// What happens while they cannot; waiting by default.
    pub fn on_miss(mut self, on_miss: OnMiss) -> Self {
        self.config.on_miss = on_miss;
        self
    }

    /// Accepts losing all log from exactly `lsn` on, although this node had flushed it: the way
    /// out of damage that no other node can repair.
    pub fn accept_loss_from(mut self, lsn: Lsn) -> Self {
        self.config.accept_loss_from = Some(lsn);
        self
    }

    /// The password that everybody who connects as user `mainstay` must prove.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The password to prove to the primary.
    pub fn upstream_password(mut self, password: impl Into<String>) -> Self {
        self.config.follow_password = Some(Password::new(password));
        self
    }

    /// Size of a log segment, for a new log.
    pub fn segment_size(mut self, size: SegmentSize) -> Self {
        self.config.segment_size = size;
        self
    }

    /// Log kept for standbys that are away, in bytes.
    pub fn wal_keep_size(mut self, bytes: u64) -> Self {
        self.config.wal_keep_size = bytes;
        self
    }

    /// Most log that a slot may hold back, in bytes; one that wants more is invalidated.
    pub fn slot_keep_size_max(mut self, bytes: u64) -> Self {
        self.config.max_slot_wal_keep_size = Some(bytes);
        self
    }

    /// The slot on the primary to follow through, created if it does not exist.
    pub fn slot(mut self, name: impl Into<String>) -> Self {
        self.config.follow_slot = Some(name.into());
        self
    }

    /// The cluster's name, for people.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = Some(name.into());
        self
    }

    /// Sizes and limits of the store.
    pub fn store(mut self, options: LsmOptions) -> Self {
        self.store = options;
        self
    }

    /// How often a peer hears from this node, and after how much silence one counts as gone.
    pub fn heartbeat(mut self, interval: Duration, timeout: Duration) -> Self {
        self.config.heartbeat_interval = interval;
        self.config.heartbeat_timeout = timeout;
        self
    }

    /// Opens the directory, creating or filling it if it is empty, and starts to serve.
    ///
    /// # Errors
    /// The directory is in use, damaged, of a newer version or another cluster; the primary cannot
    /// be reached to fill it; an address cannot be listened on. The text says what to do.
    pub async fn start(mut self) -> Result<Node> {
        if let Some(url) = &self.upstream {
            let upstream = Upstream::parse(url)?;
            self.config.follow = upstream.addresses;
            self.config.follow_user = upstream.user.unwrap_or(self.config.follow_user);
        }
        if let Some(password) = &self.password {
            let salt = uuid::Uuid::new_v4();
            let verifier = Verifier::from_password(password, salt.as_bytes(), SCRAM_ITERATIONS);
            self.config.users = vec![("mainstay".to_owned(), verifier)];
        }
        let (wal, primary) = self.open_log().await?;
        let store = self.store.clone();
        let end = wal.appended();
        let opened = tokio::task::spawn_blocking(move || {
            let upto = wal.commit().get();
            Engine::open(wal, store, upto)
        });
        let (engine, rest) = opened.await.map_err(|_| Error::Stopped)??;
        let copied = engine.clone();
        let replicator = WalReplicator::with_engine(
            self.config.clone(),
            engine.wal.clone(),
            Box::new(engine.store.clone()),
            move |into| copied.copy_store(into),
        );
        if let Err(error) = replicator.start().await {
            engine.store.close();
            engine.wal.stop();
            return Err(error.into());
        }
        let (written, applied) = replicator.remote_positions()?;
        let remote = RemotePositions { written, applied };
        engine.set_remote(remote, replicator.is_synchronous());
        if primary {
            let opened = open_for_writes(&engine, &replicator, rest, end).await;
            if let Err(error) = opened {
                // The error at hand says more than what ending brings up.
                let _ = replicator.stop().await;
                engine.store.close();
                engine.wal.stop();
                return Err(error);
            }
        }
        tokio::spawn(follow_role(engine.clone(), replicator.role_changes()?));
        let retaining = replicator.clone();
        let keeper = keeper::start(engine.clone(), move || retaining.retain_from())?;
        let inner = Inner {
            name: self.config.name,
            cluster_name: self.cluster_name,
            engine,
            replicator,
            keeper: Mutex::new(Some(keeper)),
            stopped: tokio::sync::Mutex::new(false),
        };
        Ok(Node {
            inner: Arc::new(inner),
        })
    }

    /// Opens the log, creating it or filling the directory first; also says whether this node is
    /// the primary.
    async fn open_log(&self) -> Result<(Wal, bool)> {
        let config = &self.config;
        let dir = config.data_dir.clone();
        let primary = config.follow.is_empty();
        let disk = Arc::new(OsDisk);
        if !Wal::exists(&*disk, &dir)? && !primary {
            let filled = bootstrap(config).await?;
            tracing::info!(bytes = filled.bytes, start = %filled.start, "took a base backup");
        }
        let options = WalOptions {
            segment_size: config.segment_size,
            accept_loss_from: config.accept_loss_from,
            ..WalOptions::new(wall_clock)
        };
        let opened = tokio::task::spawn_blocking(move || {
            if Wal::exists(&*disk, &dir)? {
                let (wal, recovered) = Wal::open(disk, &dir, &options)?;
                report(&dir, &recovered);
                return Ok(wal);
            }
            let new = NewLog::new_cluster(options.segment_size);
            Wal::create(disk, &dir, new, &options)
        });
        let wal = opened.await.map_err(|_| Error::Stopped)??;
        Ok((wal, primary))
    }
}

/// Replays what is in a primary's log up to `end` and was not committed, then lets it write.
/// Returns after a while in any case: what is not committed may need more memory than there is,
/// and wait for standbys that connect later.
async fn open_for_writes(
    engine: &Arc<Engine>,
    replicator: &WalReplicator,
    rest: Applicator,
    end: Lsn,
) -> Result<()> {
    let (sender, done) = tokio::sync::oneshot::channel();
    let (engine, replicator) = (engine.clone(), replicator.clone());
    let replay = move || {
        let replayed = engine.replay(rest, end);
        if replayed.is_ok() && replicator.role() == Role::Primary {
            engine.open_for_writes();
        }
        if let Err(Err(error)) = sender.send(replayed) {
            tracing::error!(%error, "cannot replay the end of the log; no writes are accepted");
        }
    };
    let thread = std::thread::Builder::new().name("mainstay-replay".to_owned());
    let started = thread.spawn(replay);
    started.map_err(|error| Error::Config(format!("cannot start a thread: {error}")))?;
    match timeout(REPLAY_WAIT_MAX, done).await {
        Ok(replayed) => replayed.unwrap_or(Err(Error::Stopped)),
        Err(_) => {
            tracing::warn!("commits from before the restart wait for standbys; no writes yet");
            Ok(())
        }
    }
}

/// Stops write transactions as soon as this node is no primary any more. Ends with the node.
async fn follow_role(engine: Arc<Engine>, mut roles: tokio::sync::watch::Receiver<Role>) {
    while roles.changed().await.is_ok() {
        if *roles.borrow_and_update() != Role::Primary && engine.is_writable() {
            engine.refuse_writes();
        }
    }
}
