//! A node: a database that is the primary of its standbys, or follows one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use mainstay_replication::protocol::level::OnMiss;
use mainstay_replication::protocol::policy::SyncPolicy;
use mainstay_replication::wire::scram::Verifier;
use mainstay_replication::{
    Password, Role, WalReplicator, WalStreamingConfig, adopt_backup, bootstrap, finish_bootstrap,
    holds_backup,
};
use mainstay_storage::{LsmOptions, Lsn, NewLog, OsDisk, SegmentSize, Wal, WalOptions};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::commit::{Receipt, RemotePositions};
use crate::database::{report, wall_clock};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::keeper;
use crate::standby_signal;
use crate::status::{NodeStatus, Promoted};
use crate::transaction::{Snapshot, WriteTransaction};
use crate::upstream::Upstream;

/// Rounds of key derivation for a password that is configured in clear.
const SCRAM_ITERATIONS: u32 = 4096;

/// A running node. Clones are handles on the same one.
///
/// ```no_run
/// # async fn example() -> mainstay::Result<()> {
/// use mainstay::Node;
/// let node = Node::builder("data").name("a").listen("127.0.0.1:5433").start().await?;
/// let receipt = node.put("users", b"ada", b"1815").await?;
/// println!("durable up to {}", receipt.lsn);
/// node.stop().await
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    cluster_name: Option<String>,
    engine: Arc<Engine>,
    replicator: WalReplicator,
    keeper: Mutex<Option<JoinHandle<()>>>,
    stopped: tokio::sync::Mutex<bool>,
}

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
        self.fill().await?;
        let (wal, primary) = self.open_log().await?;
        let store = self.store.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let upto = if primary {
                wal.appended()
            } else {
                wal.commit().get()
            };
            Engine::open(wal, store, upto)
        });
        let engine = opened.await.map_err(|_| Error::Stopped)??;
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
            engine.open_for_writes();
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

    /// Fills the directory if it holds no log yet, and finds out whom to follow.
    async fn fill(&mut self) -> Result<()> {
        let dir = self.config.data_dir.clone();
        if !Wal::exists(&OsDisk, &dir)? {
            if holds_backup(&dir)? {
                let adopted = adopt_backup(&self.config).await?;
                tracing::info!(label = %adopted.label, end = %adopted.end, "opened a base backup");
            } else if !self.config.follow.is_empty() {
                let filled = bootstrap(&self.config).await?;
                tracing::info!(bytes = filled.bytes, start = %filled.start, "took a base backup");
            }
        }
        finish_bootstrap(&dir)?;
        if self.config.follow.is_empty() {
            standby_signal::follow(&mut self.config)?;
        }
        Ok(())
    }

    /// Opens the log, creating it if need be; also says whether this node is the primary.
    async fn open_log(&self) -> Result<(Wal, bool)> {
        let config = &self.config;
        let dir = config.data_dir.clone();
        let primary = config.follow.is_empty();
        let disk = Arc::new(OsDisk);
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

impl Node {
    /// A node with its data in directory `dir`.
    pub fn builder(dir: impl AsRef<Path>) -> NodeBuilder {
        let data_dir: PathBuf = dir.as_ref().to_owned();
        NodeBuilder {
            config: WalStreamingConfig {
                data_dir,
                ..WalStreamingConfig::default()
            },
            store: LsmOptions::default(),
            upstream: None,
            password: None,
            cluster_name: None,
        }
    }

    /// Sets the value of `key` in `table`, creating the table if needed, and waits for the default
    /// level: the policy's standbys, or own disk without one.
    ///
    /// # Errors
    /// As [`WriteTransaction::put`] and [`WriteTransaction::commit_at`].
    pub async fn put(&self, table: &str, key: &[u8], value: &[u8]) -> Result<Receipt> {
        let mut tx = self.begin()?;
        tx.put(table, key, value)?;
        tx.commit().await
    }

    /// Deletes `key` from `table`, if it is there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn delete(&self, table: &str, key: &[u8]) -> Result<Receipt> {
        let mut tx = self.begin()?;
        tx.delete(table, key)?;
        tx.commit().await
    }

    /// Begins a write transaction.
    ///
    /// # Errors
    /// [`Error::NotPrimary`], naming the primary.
    pub fn begin(&self) -> Result<WriteTransaction> {
        if self.role() != Role::Primary {
            return Err(self.not_primary());
        }
        WriteTransaction::begin(self.inner.engine.clone())
    }

    /// The committed value of `key` in `table`, as far as this node knows it.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>> {
        self.snapshot()?.get(table, key)
    }

    /// All committed data, as far as this node knows them.
    ///
    /// # Errors
    /// The node was stopped.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.inner.engine.snapshot()
    }

    /// Waits until everything that is committed below `lsn` can be read here: read your own writes
    /// on a standby by waiting for the `lsn` of their receipt.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::Stopped`].
    pub async fn wait_for(&self, lsn: Lsn, within: Duration) -> Result<()> {
        let engine = &self.inner.engine;
        let reached = async {
            engine
                .wal
                .commit()
                .wait(lsn)
                .await
                .map_err(|_| Error::Stopped)?;
            if self.role() == Role::Primary {
                engine.settle();
                return Ok(());
            }
            let applied = self.inner.replicator.applied()?;
            applied
                .wait(lsn)
                .await
                .map(|_| ())
                .map_err(|_| Error::Stopped)
        };
        let at = engine.visible();
        timeout(within, reached)
            .await
            .unwrap_or(Err(Error::TimedOut { lsn, at }))
    }

    /// What the node is and how it fares.
    pub fn status(&self) -> NodeStatus {
        NodeStatus::of(&self.inner.name, &self.inner.engine, &self.inner.replicator)
    }

    /// Makes this standby the primary. `force` skips the checks for a living primary and for lag,
    /// never the rule that enough members must agree.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason and how to go on; nothing has changed then.
    pub async fn promote(&self, force: bool) -> Result<Promoted> {
        let inner = &self.inner;
        let promotion = inner.replicator.promote(force).await?;
        let synchronous = inner.replicator.is_synchronous();
        inner.engine.set_remote(inner.engine.remote(), synchronous);
        inner.engine.open_for_writes();
        for notice in &promotion.notices {
            tracing::warn!(%notice, "promoted");
        }
        Ok(Promoted {
            promoted: true,
            new_primary_name: inner.name.clone(),
            timeline: promotion.timeline.number,
            lsn: promotion.end.to_string(),
            notices: promotion.notices,
        })
    }

    /// Follows another primary from now on, `postgres://[user@]host:port[,host:port]`.
    ///
    /// # Errors
    /// [`Error::Usage`] on a URL that cannot be read, [`Error::Refused`] on a primary.
    pub async fn follow(&self, url: &str) -> Result<()> {
        let upstream = Upstream::parse(url)?;
        Ok(self.inner.replicator.follow(upstream.addresses).await?)
    }

    /// Stops cleanly: connections end as a shutdown does, memory is written out, the log is marked
    /// as properly closed. A second call does nothing.
    ///
    /// # Errors
    /// Disk errors; the next start then recovers as after a crash.
    pub async fn stop(&self) -> Result<()> {
        let mut stopped = self.inner.stopped.lock().await;
        if *stopped {
            return Ok(());
        }
        *stopped = true;
        self.inner.engine.close_for_writes();
        let streams = self.inner.replicator.stop().await;
        let inner = self.inner.clone();
        let closed = tokio::task::spawn_blocking(move || {
            let keeper = inner.keeper.lock().take();
            keeper::close(&inner.engine, keeper)
        });
        closed.await.map_err(|_| Error::Stopped)??;
        Ok(streams?)
    }

    /// Where the node listens.
    pub fn listen_addr(&self) -> Option<SocketAddr> {
        self.inner.replicator.listen_addr()
    }

    /// The cluster's name, if it has one.
    pub fn cluster_name(&self) -> Option<&str> {
        self.inner.cluster_name.as_deref()
    }

    /// What the node is at the moment.
    pub fn role(&self) -> Role {
        self.inner.replicator.role()
    }

    fn not_primary(&self) -> Error {
        let primary = self.inner.replicator.primary();
        let primary = primary.filter(|(name, _)| *name != self.inner.name);
        Error::NotPrimary {
            primary: primary.map(|(name, address)| format!("{name} ({address})")),
        }
    }
}

/// Stops write transactions as soon as this node is no primary any more. Ends with the node.
async fn follow_role(engine: Arc<Engine>, mut roles: tokio::sync::watch::Receiver<Role>) {
    while roles.changed().await.is_ok() {
        if *roles.borrow_and_update() != Role::Primary && engine.is_writable() {
            let closing = engine.clone();
            // It only waits for the commit at hand; a panic there has said so itself.
            let _ = tokio::task::spawn_blocking(move || closing.close_for_writes()).await;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.engine.close_for_writes();
        self.engine.store.close();
        self.engine.wal.stop();
    }
}
