//! Waiting for a commit: levels, receipts, and the honest "unknown".

use mainstay_replication::protocol::level::Level;
use mainstay_storage::{Lsn, Signal, Timeline, WaitError, Wal};

use crate::engine::{Engine, Placed};
use crate::error::{Error, Result};
use crate::transaction::WriteTransaction;

/// What a successful commit is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// End of the commit in the log: readers at or above it see it.
    pub lsn: Lsn,
    /// The timeline it was written on.
    pub timeline: Timeline,
    /// The level that was reached: at most [`Level::Local`] without a synchronous policy.
    pub level: Level,
}

impl Receipt {
    /// Whether the commit is flushed on other nodes too, as many as the policy counts.
    pub fn is_durable_elsewhere(&self) -> bool {
        matches!(self.level, Level::RemoteFlush | Level::RemoteApply)
    }
}

/// The positions that the levels wait for, beside the log's own.
#[derive(Debug, Clone)]
pub(crate) struct RemotePositions {
    /// Flushed here, and written on the standbys that count.
    pub(crate) written: Signal,
    /// Committed, and applied on the standbys that count.
    pub(crate) applied: Signal,
}

impl RemotePositions {
    /// Without standbys: what is committed here is all there is to wait for.
    pub(crate) fn nobody(wal: &Wal) -> Self {
        Self {
            written: wal.commit().clone(),
            applied: wal.commit().clone(),
        }
    }
}

impl Engine {
    /// The position that releases a waiter of `level`.
    fn condition(&self, level: Level) -> Option<Signal> {
        match level {
            Level::Async => None,
            // The commit position follows a moment later, and a write that returned must be seen.
            Level::Local if !self.is_synchronous() => Some(self.wal.commit().clone()),
            Level::Local => Some(self.wal.flushed().clone()),
            Level::RemoteWrite => Some(self.remote().written),
            Level::RemoteFlush => Some(self.wal.commit().clone()),
            Level::RemoteApply => Some(self.remote().applied),
        }
    }

    fn receipt(&self, lsn: Lsn, level: Level) -> Receipt {
        let most = match self.is_synchronous() {
            true => level,
            false => Level::Local,
        };
        Receipt {
            lsn,
            timeline: self.wal.timeline(),
            level: level.min(most),
        }
    }

    fn unknown(&self, lsn: Lsn, error: WaitError) -> Error {
        let why = match self.wal.poisoned() {
            Some(poisoned) => poisoned.to_string(),
            None => error.to_string(),
        };
        Error::Unknown { lsn, why }
    }
}

impl WriteTransaction {
    /// Commits at the default level, on any async runtime: `RemoteFlush` under a synchronous
    /// policy, else `Local`. Dropping the future after it was polled leaves the outcome unknown,
    /// never half a transaction.
    ///
    /// # Errors
    /// As [`commit_at`](Self::commit_at).
    pub async fn commit(self) -> Result<Receipt> {
        let level = self.engine().default_level();
        self.commit_at(level).await
    }

    /// Commits, and waits until `level` is reached.
    ///
    /// ```
    /// use mainstay::Level;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> mainstay::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let node = mainstay::Node::builder(dir.path()).start().await?;
    /// let mut tx = node.begin()?;
    /// tx.put("visits", b"today", b"1")?;
    /// let receipt = tx.commit_at(Level::Local).await?; // whatever the policy says
    /// assert!(!receipt.is_durable_elsewhere());
    /// # node.stop().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// A conflict, [`Error::NotPrimary`], a full disk, limits: nothing happened.
    /// [`Error::Unknown`] when the log or the store stopped before the level was reached.
    pub async fn commit_at(self, level: Level) -> Result<Receipt> {
        let engine = self.engine().clone();
        let Placed { end } = place_off_worker(self).await?;
        if let Some(condition) = engine.condition(level) {
            let waited = condition.wait(end).await;
            waited.map_err(|error| engine.unknown(end, error))?;
        }
        Ok(engine.receipt(end, level))
    }

    /// As [`commit`](Self::commit), on this thread.
    ///
    /// # Errors
    /// As [`commit_at`](Self::commit_at).
    pub fn commit_blocking(self) -> Result<Receipt> {
        let level = self.engine().default_level();
        let engine = self.engine().clone();
        let Placed { end } = self.place()?;
        if let Some(condition) = engine.condition(level) {
            let waited = condition.wait_blocking(end, None);
            waited.map_err(|error| engine.unknown(end, error))?;
        }
        Ok(engine.receipt(end, level))
    }
}

/// Places a transaction without holding up an async worker: on this thread when that takes
/// microseconds, else on one that may block.
async fn place_off_worker(transaction: WriteTransaction) -> Result<Placed> {
    if let Some(placed) = transaction.place_at_once() {
        return placed;
    }
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            let placed = runtime.spawn_blocking(move || transaction.place()).await;
            placed.unwrap_or(Err(Error::Stopped))
        }
        // Some other runtime drives this future; its workers are its own business.
        Err(_) => transaction.place(),
    }
}
