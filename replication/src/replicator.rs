//! The public face of replication: one node's log, its standbys, its primary.
//!
//! A [`WalReplicator`] opens a log, serves it to whoever follows, follows somebody itself if told
//! to, and drives a store on the way. It works without standbys, without subscribers and without
//! a store. Handles are cheap to clone.

mod apply;
mod failover;
mod handover;
mod outcome;
mod policy;
mod resync;
mod retention;
mod running;
mod segment;
mod state;
mod takeover;
mod verify;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{Applicator, Lsn, Signal, Store, WaitError, Wal, WalEntry};
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

pub use self::{failover::Successor, policy::Confirmer};
use crate::config::{Role, StandbyConfig, WalStreamingConfig};
use crate::error::{Error, Result};
use crate::event::{Observer, ReplicationEvent};
use crate::protocol::level::Level;
use crate::runtime::{self, CopyStore, Core, SubscribeSource, Subscription};
use running::{Given, Kept, Running};
pub use takeover::Promotion;
pub use verify::Verification;

/// Longest time that [`WalReplicator::stop`] takes in all.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes from which on computing a checksum is left to a thread that may block.
const BYTES_SLOW: usize = 1 << 20;

/// Bytes appended and not flushed from which on an append goes to a thread that may block.
const UNFLUSHED_BYTES_SLOW: u64 = 16 << 20;

/// The log of one node and everything that streams it.
///
/// ```no_run
/// use mainstay_replication::{WalReplicator, WalStreamingConfig};
/// use mainstay_storage::{WalEntry, WalEntryType};
/// # async fn example() -> Result<(), mainstay_replication::Error> {
/// let config = WalStreamingConfig { data_dir: "data".into(), ..WalStreamingConfig::default() };
/// let replicator = WalReplicator::new(config, vec![]);
/// replicator.start().await?;
/// let lsn = replicator.append(WalEntry::new(WalEntryType::Insert, None, "ada")).await?;
/// assert_eq!(replicator.current_lsn()?, lsn + 40);
/// replicator.stop().await
/// # }
/// ```
#[derive(Clone)]
pub struct WalReplicator {
    inner: Arc<Inner>,
}

struct Inner {
    config: WalStreamingConfig,
    standbys: Vec<StandbyConfig>,
    wall_clock: fn() -> i64,
    given: Given,
    /// Whom to follow since it was told so, nobody after a promotion; as configured before.
    upstreams: Mutex<Option<Vec<String>>>,
    observer: Mutex<Observer>,
    running: tokio::sync::Mutex<Option<Running>>,
    core: RwLock<Option<Arc<Core>>>,
    /// What an engine has to replay after a promotion.
    rest: Mutex<Option<Applicator>>,
}

impl WalReplicator {
    /// A replicator that is not running yet. `standbys` lists who is admitted and how they count;
    /// empty admits everybody who can authenticate.
    pub fn new(config: WalStreamingConfig, standbys: Vec<StandbyConfig>) -> Self {
        Self::build(
            config,
            standbys,
            Given::Directory(Mutex::new(Kept::Nothing)),
        )
    }

    /// As [`new`](Self::new), with a store that the log is applied to, on every role: on a primary
    /// as commits are confirmed, on a standby as the primary says they are. [`stop`](Self::stop)
    /// closes it, so a node that is to go on afterwards is made anew, with its store opened again.
    pub fn with_store(
        config: WalStreamingConfig,
        standbys: Vec<StandbyConfig>,
        store: Box<dyn Store>,
    ) -> Self {
        let store = Arc::new(Mutex::new(store));
        let given = Given::Directory(Mutex::new(Kept::Store(store)));
        Self::build(config, standbys, given)
    }

    /// For an engine that opened the log itself: `store` is applied to while this node is a
    /// standby, and on a primary the engine inserts what it commits; after a promotion it replays
    /// the [rest](Self::take_replay) first. `copy` writes a copy of the
    /// store's durable state into an empty directory and says where it stands.
    pub fn with_engine(
        config: WalStreamingConfig,
        wal: Wal,
        store: Box<dyn Store>,
        copy: impl Fn(&Path) -> mainstay_storage::Result<Lsn> + Send + Sync + 'static,
    ) -> Self {
        let store = Arc::new(Mutex::new(store));
        let copy = CopyStore(Arc::new(copy));
        Self::build(config, Vec::new(), Given::engine(wal, store, copy))
    }

    fn build(config: WalStreamingConfig, standbys: Vec<StandbyConfig>, given: Given) -> Self {
        let wall_clock = runtime::wall_clock;
        let running = tokio::sync::Mutex::new(None);
        let core = RwLock::new(None);
        let inner = Inner {
            config,
            standbys,
            wall_clock,
            given,
            upstreams: Mutex::new(None),
            observer: Mutex::default(),
            running,
            core,
            rest: Mutex::new(None),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Tells `observer` what happens from the next start on, in that order. It is called where
    /// things happen, at times with a lock held: it has to return at once, and may not call this
    /// replicator. A later observer takes its place.
    pub fn on_event(&self, observer: impl Fn(ReplicationEvent) + Send + Sync + 'static) {
        *self.inner.observer.lock() = Observer::new(observer);
    }

    /// Opens the log, listens, follows if configured, and serves. After a [`stop`](Self::stop) it
    /// goes on as what it was: a standby that was promoted as primary, one that was told to follow
    /// somebody else as a standby of that.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`]; [`Error::Refused`] when its store was closed by an earlier stop;
    /// the log's errors; an address that cannot be listened on, or that
    /// is refused because there are no credentials.
    pub async fn start(&self) -> Result<()> {
        let mut running = self.inner.running.lock().await;
        if running.is_some() {
            return Err(Error::AlreadyRunning);
        }
        let listener = runtime::listen(&self.inner.config).await?;
        let started = self.inner.open(listener).await?;
        *self.inner.core.write() = Some(started.core.clone());
        *running = Some(started);
        Ok(())
    }

    /// Ends every task. Nothing is appended any more, and each connected standby is sent the whole
    /// log and waited for until it has flushed it, for up to
    /// [`DRAIN_MAX`](crate::protocol::sender::DRAIN_MAX): if it is promoted next, this node has no
    /// log of its own. Connections are closed as a shutdown does, what does not end within the
    /// configured deadline is aborted, the store is closed, and everything takes [`STOP_DEADLINE`]
    /// at most. A second call does nothing.
    ///
    /// # Errors
    /// Disk errors while closing the store or the log; [`Error::Invalid`] when the store given does
    /// not return: the directory is then released when it does.
    pub async fn stop(&self) -> Result<()> {
        let mut running = self.inner.running.lock().await;
        match running.take() {
            Some(running) => {
                self.inner.given.closes();
                running.stop(&self.inner.config).await
            }
            None => Ok(()),
        }
    }

    /// Whether it was started and not stopped.
    pub fn is_running(&self) -> bool {
        self.inner
            .core
            .read()
            .as_ref()
            .is_some_and(|core| !core.is_stopping())
    }

    /// Appends an entry and returns where its record starts. It is durable when
    /// [`wait_for`](Self::wait_for) says so.
    ///
    /// An `lsn` of zero means assigned, any other must be the next position; a `checksum` of zero
    /// means computed, any other is verified.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::NotPrimary`], [`Error::Refused`] for a transaction that a
    /// new timeline rolled back, or while the policy failed, and the log's: `NotContiguous`,
    /// `Refused`, `TooLarge`, `Full`, `Poisoned`. Nothing was appended then.
    pub async fn append(&self, entry: WalEntry) -> Result<Lsn> {
        Ok(self.append_all(vec![entry]).await?.start)
    }

    /// How many subscriptions are being served.
    pub fn subscription_count(&self) -> usize {
        let core = self.inner.core.read().clone();
        core.map_or(0, |core| core.subscriptions.count())
    }

    /// Appends entries, contiguous and in order.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn append_all(&self, entries: Vec<WalEntry>) -> Result<std::ops::Range<Lsn>> {
        let core = self.core()?;
        if !core.is_primary() {
            return Err(Error::NotPrimary);
        }
        let wal = &core.wal;
        let bytes = entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        let slow = bytes > BYTES_SLOW
            || wal.appended().bytes_since(wal.flushed().get()) > UNFLUSHED_BYTES_SLOW;
        if !slow {
            return core.append(&entries);
        }
        let appended = tokio::task::spawn_blocking(move || core.append(&entries)).await;
        appended.map_err(|error| Error::Invalid(error.to_string()))?
    }

    /// Waits until the entry that starts at `lsn` has reached `level`.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when the log ends before. [`Error::Unknown`] when that log is cut,
    /// and for a level beyond own disk when this node is fenced, stops being the primary that it
    /// was, or ends waits because its policy is not met in time.
    pub async fn wait_for(&self, lsn: Lsn, level: Level) -> Result<()> {
        let core = self.core()?;
        let signal = match level {
            Level::Async => return Ok(()),
            Level::Local => core.wal.flushed().clone(),
            Level::RemoteWrite => core.remote_written.clone(),
            Level::RemoteFlush => core.wal.commit().clone(),
            Level::RemoteApply => core.remote_applied.clone(),
        };
        let reached = signal.wait(lsn + 1);
        let mut roles = core.role.subscribe();
        let primary = *roles.borrow() == Role::Primary;
        let ended = roles.wait_for(|role| match role {
            Role::Primary => false,
            Role::Standby => primary,
            Role::Fenced => true,
        });
        let mut standing = core.standing.subscribe();
        let failing = standing.wait_for(|standing| standing.refusal().is_some());
        tokio::select! {
            biased;
            reached = reached => match reached {
                Ok(_) => Ok(()),
                Err(WaitError::SetBack) => Err(Error::Unknown(lsn)),
                Err(_) => Err(Error::NotRunning),
            },
            Ok(_) = ended, if level != Level::Local => Err(Error::Unknown(lsn)),
            Ok(_) = failing, if level != Level::Local => Err(Error::Unknown(lsn)),
        }
    }

    /// The committed entries from `from` on, the log's own ones left out, then live. A slow reader
    /// is served from disk and loses nothing. The stream ends with an error when the log it wants
    /// is gone or damaged, or was poisoned, and without one when the replicator stops.
    ///
    /// `from` is where an entry starts, as [`append`](Self::append) returned it, or the position
    /// after one; the stream ends with `Invalid` when no record starts there.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; the log's `Gap` and `Ahead`.
    pub fn subscribe(&self, from: Lsn) -> Result<Subscription> {
        let core = self.core()?;
        let source = SubscribeSource::new(core, from)?;
        Ok(source.spawn())
    }

    /// An acknowledgement that reached the primary some other way: the connected standby `node_id`
    /// has flushed and applied everything below `lsn`. One that is lower than an earlier one
    /// changes nothing.
    ///
    /// # Errors
    /// [`Error::UnknownStandby`], [`Error::NotConnected`], [`Error::NotRunning`], and the log's
    /// `Ahead` beyond its end.
    pub fn acknowledge(&self, node_id: Uuid, lsn: Lsn) -> Result<()> {
        self.core()?.acknowledge(node_id, lsn)
    }

    /// The end of the log.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn current_lsn(&self) -> Result<Lsn> {
        Ok(self.core()?.wal.appended())
    }

    /// The positions that the remote levels wait for: written, and applied.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn remote_positions(&self) -> Result<(Signal, Signal)> {
        let core = self.core()?;
        Ok((core.remote_written.clone(), core.remote_applied.clone()))
    }

    /// Climbs as log is applied to the store here, on a standby. A store that
    /// [runs ahead](mainstay_storage::Store::runs_ahead) has it before it is flushed: whoever reads
    /// waits for the [commit position](mainstay_storage::Wal::commit) too.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn applied(&self) -> Result<Signal> {
        Ok(self.core()?.applied.clone())
    }

    /// The log.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn wal(&self) -> Result<Wal> {
        Ok(self.core()?.wal.clone())
    }

    fn core(&self) -> Result<Arc<Core>> {
        let core = self.inner.core.read().clone();
        core.filter(|core| !core.is_stopping())
            .ok_or(Error::NotRunning)
    }
}

impl std::fmt::Debug for WalReplicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "WalReplicator({}, {:?})",
            self.inner.config.name,
            self.role()
        )
    }
}
