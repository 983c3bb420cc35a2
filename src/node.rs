//! A node: a database that is the primary of its standbys, or follows one.

mod builder;
mod discard;
mod failover;
mod following;
mod life;
mod order;
mod outcome;
mod policy;
mod port;
pub(crate) mod promotion;
mod reading;
mod record;
mod reseed;
mod resync;
mod rewind;
mod slots;
mod switchover;
mod turn;
mod verify;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_replication::Role;
use mainstay_storage::Lsn;
use parking_lot::Mutex;
use tokio::{net::TcpSocket, sync::watch, time::timeout};

pub use builder::NodeBuilder;
pub use reading::ReadLevel;
pub use slots::SlotStatus;

use crate::commit::Receipt;
use crate::database::CONFLICT_RETRIES_MAX;
use crate::error::{Error, Result};
use crate::events::{Event, EventFilter, EventLog};
use crate::status::NodeStatus;
use crate::transaction::WriteTransaction;
use life::{Life, Plan};

/// How long an order waits for a change of role that is under way before it is refused.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(5);

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
    /// True while the data of another node are copied; and whom to copy from instead.
    copying: watch::Sender<bool>,
    redirect: watch::Sender<Vec<String>>,
    /// Where its lives listen, until it is stopped.
    port: Mutex<Option<TcpSocket>>,
    events: EventLog,
}

impl Inner {
    fn new(
        plan: Plan,
        life: Arc<Life>,
        cluster_name: Option<String>,
        port: Option<TcpSocket>,
    ) -> Arc<Self> {
        let inner = Arc::new(Self {
            name: plan.config.name.clone(),
            events: plan.events.clone(),
            cluster_name,
            plan: Mutex::new(plan),
            life: watch::Sender::new(life.clone()),
            trouble: Mutex::new(None),
            changing: tokio::sync::Mutex::new(false),
            closing: watch::Sender::new(false),
            copying: watch::Sender::new(false),
            redirect: watch::Sender::new(Vec::new()),
            port: Mutex::new(port),
        });
        inner.keep_address(&life);
        turn::watch(&inner, &life);
        switchover::serve(&inner, &life);
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
        switchover::serve(self, &next);
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
    /// [`Error::Stopped`]; [`Error::Refused`] while a change takes its time.
    async fn unchanged(&self) -> Result<tokio::sync::MutexGuard<'_, bool>> {
        let held = timeout(BUSY_WAIT_MAX, self.changing.lock()).await;
        let stopped = held.map_err(|_| {
            let busy = self.trouble.lock().clone();
            let busy = busy.as_deref().unwrap_or("changing its role");
            Error::Refused(format!(
                "this node is busy: {busy}; ask again when it is done"
            ))
        })?;
        match *stopped {
            true => Err(Error::Stopped),
            false => Ok(stopped),
        }
    }

    async fn stop(&self) -> Result<()> {
        let mut stopped = self.changing.lock().await;
        if std::mem::replace(&mut *stopped, true) {
            return Ok(());
        }
        let life = self.life();
        let primary = life.replicator.role() == Role::Primary;
        let closed = life.close(true).await;
        drop(self.port.lock().take());
        let ended = record::stopped(&self.name, primary, closed.as_ref().err());
        self.events.record(ended);
        self.events.settled().await;
        closed
    }

    fn say(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }
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
        if self.role() != Role::Primary && !*self.inner.closing.borrow() {
            return Err(self.not_primary());
        }
        WriteTransaction::begin(self.inner.life().engine.clone())
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
        let (life, trouble) = (self.inner.life(), self.inner.trouble.lock().clone());
        let mut status = NodeStatus::of(&self.inner.name, &life.engine, &life.replicator);
        if trouble.is_some() {
            status.problem = trouble;
        }
        status
    }

    /// What happened to this node, oldest first, as far as its record reaches: some 8 MB, over all
    /// restarts. It reads files.
    ///
    /// # Errors
    /// [`Error::Usage`] for a limit over [`EVENTS_MAX`](crate::EVENTS_MAX); disk errors.
    pub fn events(&self, filter: &EventFilter) -> Result<Vec<Event>> {
        self.inner.events.events(filter)
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
        inner.closing.send_replace(true);
        order::to_its_end(async move { inner.stop().await }).await
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
