//! A node: a database that is the primary of its standbys, or follows one.

mod builder;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use mainstay_replication::{Role, WalReplicator};
use mainstay_storage::Lsn;
use parking_lot::Mutex;
use tokio::time::timeout;

pub use builder::NodeBuilder;

use crate::commit::Receipt;
use crate::database::CONFLICT_RETRIES_MAX;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::keeper;
use crate::status::{NodeStatus, Promoted};
use crate::transaction::{Snapshot, WriteTransaction};
use crate::upstream::Upstream;

/// Longest time that [`Node::stop`] waits for a commit that is being decided: one that waits for a
/// standby may never end.
const DECIDING_MAX: Duration = Duration::from_secs(2);

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

impl Node {
    /// A node with its data in directory `dir`; the rest is optional.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> mainstay::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// use mainstay::Node;
    /// let node = Node::builder(dir.path()).name("a").listen("127.0.0.1:0").start().await?;
    /// assert!(node.listen_addr().is_some());
    /// # node.stop().await
    /// # }
    /// ```
    pub fn builder(dir: impl AsRef<Path>) -> NodeBuilder {
        NodeBuilder::new(dir.as_ref())
    }

    /// Sets the value of `key` in `table`, creating the table if needed, and waits for the default
    /// level: the policy's standbys, or own disk without one.
    ///
    /// # Errors
    /// As [`WriteTransaction::put`] and [`WriteTransaction::commit_at`].
    pub async fn put(&self, table: &str, key: &[u8], value: &[u8]) -> Result<Receipt> {
        self.write(|tx| tx.put(table, key, value)).await
    }

    /// Deletes `key` from `table`, if it is there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn delete(&self, table: &str, key: &[u8]) -> Result<Receipt> {
        self.write(|tx| tx.delete(table, key)).await
    }

    /// One write that reads nothing: it conflicts only with who creates a table at the same time.
    async fn write(&self, work: impl Fn(&mut WriteTransaction) -> Result<()>) -> Result<Receipt> {
        let mut retries = 0;
        loop {
            let mut tx = self.begin()?;
            work(&mut tx)?;
            match tx.commit().await {
                Err(error) if error.is_conflict() && retries < CONFLICT_RETRIES_MAX => retries += 1,
                committed => return committed,
            }
        }
    }

    /// Begins a write transaction.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> mainstay::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let node = mainstay::Node::builder(dir.path()).start().await?;
    /// let mut tx = node.begin()?;
    /// tx.put("users", b"ada", b"1815")?;
    /// tx.put("cities", b"london", b"ada")?;
    /// tx.commit().await?;
    /// # node.stop().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotPrimary`], naming the primary; [`Error::Stopped`].
    pub fn begin(&self) -> Result<WriteTransaction> {
        if self.role() != Role::Primary && !self.inner.engine.is_closed() {
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
    /// ```
    /// use std::time::Duration;
    /// use mainstay::Error;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> mainstay::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let node = mainstay::Node::builder(dir.path()).start().await?;
    /// let receipt = node.put("users", b"ada", b"1815").await?;
    /// node.wait_for(receipt.lsn, Duration::from_secs(10)).await?;
    /// let far = receipt.lsn + (1 << 30);
    /// let error = node.wait_for(far, Duration::from_millis(1)).await;
    /// assert!(matches!(error, Err(Error::TimedOut { .. })));
    /// # node.stop().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::TimedOut`]; [`Error::Stopped`].
    pub async fn wait_for(&self, lsn: Lsn, within: Duration) -> Result<()> {
        let reached = timeout(within, self.reach(lsn)).await;
        reached.unwrap_or_else(|_| {
            let at = self.inner.engine.visible();
            Err(Error::TimedOut { lsn, at })
        })
    }

    async fn reach(&self, lsn: Lsn) -> Result<()> {
        let (engine, replicator) = (&self.inner.engine, &self.inner.replicator);
        if engine.is_closed() {
            return Err(Error::Stopped);
        }
        if engine.visible() >= lsn {
            return Ok(());
        }
        let committed = engine.wal.commit().wait(lsn).await;
        committed.map_err(|_| Error::Stopped)?;
        let mut roles = replicator.role_changes()?;
        while *roles.borrow_and_update() != Role::Primary {
            tokio::select! {
                applied = async { replicator.applied()?.wait(lsn).await.map_err(|_| Error::Stopped) } => {
                    return applied.map(|_| ());
                }
                // Whoever applied the log may have stopped doing so.
                changed = roles.changed() => changed.map_err(|_| Error::Stopped)?,
            }
        }
        let engine = engine.clone();
        let settled = tokio::task::spawn_blocking(move || engine.settle(lsn)).await;
        settled.map_err(|_| Error::Stopped)
    }

    /// What the node is and how it fares.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> mainstay::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let node = mainstay::Node::builder(dir.path()).name("a").start().await?;
    /// let status = node.status();
    /// assert_eq!((&status.name[..], &status.role[..], status.timeline), ("a", "primary", 1));
    /// assert!(status.standbys.is_empty());
    /// # node.stop().await
    /// # }
    /// ```
    pub fn status(&self) -> NodeStatus {
        NodeStatus::of(&self.inner.name, &self.inner.engine, &self.inner.replicator)
    }

    /// Makes this standby the primary. `force` skips the checks for a living primary and for lag,
    /// never the rule that enough members must agree. The
    /// [crate's own page](crate#a-primary-and-a-standby) has an example.
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
    /// as properly closed. Everything else is [`Error::Stopped`] then, and the outcome of commits
    /// that still wait for standbys [`Error::Unknown`]. A second call does nothing; giving up this
    /// one does not end it.
    ///
    /// # Errors
    /// Disk errors; the next start then recovers as after a crash.
    pub async fn stop(&self) -> Result<()> {
        let inner = self.inner.clone();
        // A task of its own, so that a caller who gives up waiting leaves nothing half done.
        let stopped = tokio::spawn(async move { inner.stop().await }).await;
        stopped.unwrap_or(Err(Error::Stopped))
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

impl Inner {
    async fn stop(self: Arc<Self>) -> Result<()> {
        let mut stopped = self.stopped.lock().await;
        if *stopped {
            return Ok(());
        }
        *stopped = true;
        let engine = self.engine.clone();
        let decided =
            tokio::task::spawn_blocking(move || engine.close_for_writes(Some(DECIDING_MAX)));
        decided.await.map_err(|_| Error::Stopped)?;
        let streams = self.replicator.stop().await;
        let inner = self.clone();
        let closed = tokio::task::spawn_blocking(move || {
            let keeper = inner.keeper.lock().take();
            keeper.map_or(Ok(()), |keeper| keeper::close(&inner.engine, keeper))
        });
        closed.await.map_err(|_| Error::Stopped)??;
        Ok(streams?)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.engine.close_for_writes(Some(Duration::ZERO));
        self.engine.store.close();
        self.engine.wal.stop();
    }
}
