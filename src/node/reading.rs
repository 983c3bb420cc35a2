//! Which state a reader sees: what no failover takes back, or all that this node has on disk.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use mainstay_replication::Role;
use mainstay_storage::{Error as StorageError, LsmStatus, ReadAt as _};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::transaction::Snapshot;

use super::Node;

/// What a reader sees of a primary's data.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq, Hash)]
pub enum ReadLevel {
    /// What is committed: flushed here and by the standbys that the policy counts. It does not
    /// vanish in a failover, as far as the policy goes.
    #[default]
    Committed,
    /// All that is flushed here, also what no standby has confirmed yet: commits that wait, and
    /// those whose wait was given up. A failover may take it back. On a standby, which applies only
    /// what is committed, it is the same as `Committed`.
    Flushed,
}

impl ReadLevel {
    /// `committed` or `flushed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Flushed => "flushed",
        }
    }
}

impl fmt::Display for ReadLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ReadLevel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "committed" => Ok(Self::Committed),
            "flushed" => Ok(Self::Flushed),
            _ => Err(Error::Usage(format!(
                "{text:?} is no read level; use committed or flushed"
            ))),
        }
    }
}

impl Engine {
    /// What is readable at `level` now, kept readable until it is dropped.
    pub(crate) fn snapshot_at(self: &Arc<Self>, level: ReadLevel) -> Result<Snapshot> {
        if level == ReadLevel::Committed {
            return self.snapshot();
        }
        loop {
            let at = self.wal.flushed().get().min(self.store.applied());
            match self.reader().open_snapshot(at) {
                Ok(()) => return Ok(Snapshot::registered(self.clone(), at)),
                // More was flushed and committed in between, and the store has merged that.
                Err(StorageError::SnapshotTooOld { oldest, .. })
                    if self.wal.flushed().get().min(self.store.applied()) >= oldest => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Node {
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

    /// The data at `level`. [`ReadLevel::Flushed`] also shows what waits for standbys:
    ///
    /// ```
    /// use mainstay::{Level, Node, ReadLevel};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> mainstay::Result<()> {
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// let policy = "ANY 1 (b)".parse().expect("a policy"); // b never comes
    /// let node = Node::builder(dir.path()).sync(policy).start().await?;
    /// let mut tx = node.begin()?;
    /// tx.put("t", b"k", b"v")?;
    /// tx.commit_at(Level::Local).await?;
    /// assert_eq!(node.get("t", b"k")?, None);
    /// assert!(node.snapshot_at(ReadLevel::Flushed)?.get("t", b"k")?.is_some());
    /// # node.stop().await
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`snapshot`](Self::snapshot).
    pub fn snapshot_at(&self, level: ReadLevel) -> Result<Snapshot> {
        let life = self.inner.life();
        // A standby may have on disk, for a moment, what it has not noted as committed.
        match life.replicator.role() {
            Role::Standby => life.engine.snapshot(),
            _ => life.engine.snapshot_at(level),
        }
    }

    /// What the store is busy with, and what open snapshots hold.
    pub fn store_status(&self) -> LsmStatus {
        self.inner.life().engine.store.status()
    }
}
