//! A node: a database that is the primary of its standbys, or follows one.

mod discard;
mod life;
mod reseed;
mod rewind;
mod turn;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_replication::protocol::level::OnMiss;
use mainstay_replication::protocol::policy::SyncPolicy;
use mainstay_replication::wire::scram::Verifier;
use mainstay_replication::{Password, Role, WalStreamingConfig};
use mainstay_storage::{LsmOptions, Lsn, SegmentSize};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::commit::Receipt;
use crate::error::{Error, Result};
use crate::status::{NodeStatus, Promoted};
use crate::transaction::{Snapshot, WriteTransaction};
use crate::upstream::Upstream;
use life::{Life, Plan};

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
    /// What the next life is opened with.
    plan: Mutex<Plan>,
    life: watch::Sender<Arc<Life>>,
    /// What the node is busy with, or cannot get over by itself.
    trouble: Mutex<Option<String>>,
    /// Held while one life ends and another begins; true once the node was stopped.
    changing: tokio::sync::Mutex<bool>,
    closing: watch::Sender<bool>,
}

impl Inner {
    fn new(plan: Plan, life: Arc<Life>, cluster_name: Option<String>) -> Arc<Self> {
        let inner = Arc::new(Self {
            name: plan.config.name.clone(),
            cluster_name,
            plan: Mutex::new(plan),
            life: watch::Sender::new(life.clone()),
            trouble: Mutex::new(None),
            changing: tokio::sync::Mutex::new(false),
            closing: watch::Sender::new(false),
        });
        inner.keep_address(&life);
        turn::watch(&inner, &life);
        inner
    }

    fn life(&self) -> Arc<Life> {
        self.life.borrow().clone()
    }

    /// Goes on with the next life.
    fn live(self: &Arc<Self>, plan: Plan, next: Arc<Life>) {
        *self.plan.lock() = plan;
        self.life.send_replace(next.clone());
        self.say(None);
        self.keep_address(&next);
        turn::watch(self, &next);
    }

    /// Where others reach this node stays the same over its lives.
    fn keep_address(&self, life: &Life) {
        if let Some(address) = life.replicator.listen_addr() {
            self.plan.lock().config.listen = Some(address.to_string());
        }
    }

    /// Keeps this life the current one while the guard lives.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    async fn unchanged(&self) -> Result<tokio::sync::MutexGuard<'_, bool>> {
        let stopped = self.changing.lock().await;
        match *stopped {
            true => Err(Error::Stopped),
            false => Ok(stopped),
        }
    }

    fn say(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }
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
        let plan = Plan {
            config: self.config,
            store: self.store,
        };
        let life = plan.open().await?;
        Ok(Node {
            inner: Inner::new(plan, life, self.cluster_name),
        })
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
        WriteTransaction::begin(self.inner.life().engine.clone())
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
        self.inner.life().engine.snapshot()
    }

    /// Waits until everything that is committed below `lsn` can be read here: read your own writes
    /// on a standby by waiting for the `lsn` of their receipt.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::Stopped`].
    pub async fn wait_for(&self, lsn: Lsn, within: Duration) -> Result<()> {
        let mut lives = self.inner.life.subscribe();
        let reached = async {
            loop {
                let life = lives.borrow_and_update().clone();
                match life.reached(lsn).await {
                    // Only this life has ended; the next one goes on.
                    Err(Error::Stopped) if !*self.inner.closing.borrow() => {
                        lives.changed().await.map_err(|_| Error::Stopped)?;
                    }
                    reached => return reached,
                }
            }
        };
        let reached = timeout(within, reached).await;
        let at = self.inner.life().engine.visible();
        reached.unwrap_or(Err(Error::TimedOut { lsn, at }))
    }

    /// What the node is and how it fares.
    pub fn status(&self) -> NodeStatus {
        let (life, trouble) = (self.inner.life(), self.inner.trouble.lock().clone());
        let mut status = NodeStatus::of(&self.inner.name, &life.engine, &life.replicator);
        if trouble.is_some() {
            status.problem = trouble;
        }
        status
    }

    /// Makes this standby the primary. `force` skips the checks for a living primary and for lag,
    /// never the rule that enough members must agree.
    ///
    /// # Errors
    /// [`Error::Refused`] with the reason and how to go on; nothing has changed then.
    pub async fn promote(&self, force: bool) -> Result<Promoted> {
        let _unchanged = self.inner.unchanged().await?;
        let life = self.inner.life();
        let promotion = life.replicator.promote(force).await?;
        let synchronous = life.replicator.is_synchronous();
        life.engine.set_remote(life.engine.remote(), synchronous);
        life.engine.open_for_writes();
        for notice in &promotion.notices {
            tracing::warn!(%notice, "promoted");
        }
        Ok(Promoted {
            promoted: true,
            new_primary_name: self.inner.name.clone(),
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
        let _unchanged = self.inner.unchanged().await?;
        let life = self.inner.life();
        if life.replicator.role() != Role::Fenced {
            return Ok(life.replicator.follow(upstream.addresses).await?);
        }
        turn::step_down(&self.inner, upstream.addresses).await
    }

    /// Stops cleanly: connections end as a shutdown does, memory is written out, the log is marked
    /// as properly closed. A second call does nothing.
    ///
    /// # Errors
    /// Disk errors; the next start then recovers as after a crash.
    pub async fn stop(&self) -> Result<()> {
        self.inner.closing.send_replace(true);
        let mut stopped = self.inner.changing.lock().await;
        if std::mem::replace(&mut *stopped, true) {
            return Ok(());
        }
        self.inner.life().close(true).await
    }

    /// Where the node listens.
    pub fn listen_addr(&self) -> Option<SocketAddr> {
        self.inner.life().replicator.listen_addr()
    }

    /// The cluster's name, if it has one.
    pub fn cluster_name(&self) -> Option<&str> {
        self.inner.cluster_name.as_deref()
    }

    /// What the node is at the moment.
    pub fn role(&self) -> Role {
        self.inner.life().replicator.role()
    }

    fn not_primary(&self) -> Error {
        let primary = self.inner.life().replicator.primary();
        let primary = primary.filter(|(name, _)| *name != self.inner.name);
        Error::NotPrimary {
            primary: primary.map(|(name, address)| format!("{name} ({address})")),
        }
    }
}
