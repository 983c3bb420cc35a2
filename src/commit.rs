//! Waiting for a commit: levels, receipts, and the honest "unknown".

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use mainstay_replication::protocol::level::Level;
use mainstay_storage::{Lsn, Signal, SignalWait, Timeline, WaitError, Wal};

use crate::engine::{Engine, Placed};
use crate::error::{Error, Result};
use crate::transaction::WriteTransaction;

/// Why a wait for standbys ended when this node stopped writing.
const ENDED: &str =
    "this node stopped, or is no primary any more, before enough standbys confirmed";

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

/// What a commit waits for, from before it has its place in the log.
struct Awaited {
    reached: Signal,
    /// Beyond own disk a wait ends when the engine's endings climb past the number.
    ended: Option<(Signal, Lsn)>,
}

impl Awaited {
    /// Waits for `end`.
    ///
    /// # Errors
    /// Why it will not be reached, as far as anybody can tell.
    async fn reach(&self, end: Lsn) -> Result<(), String> {
        let mut reached = self.reached.wait(end);
        let mut ended = self.ended();
        poll_fn(|context| {
            if let Poll::Ready(waited) = Pin::new(&mut reached).poll(context) {
                return Poll::Ready(settled(waited));
            }
            match ended.as_mut().map(|ended| Pin::new(ended).poll(context)) {
                Some(Poll::Ready(_)) => Poll::Ready(Err(ENDED.to_owned())),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// As [`reach`](Self::reach), on this thread.
    fn reach_blocking(&self, end: Lsn) -> Result<(), String> {
        let Some(ended) = self.ended() else {
            return settled(self.reached.wait_blocking(end, None));
        };
        Signal::wait_any_blocking(&mut [self.reached.wait(end), ended]);
        match self.reached.is_closed() {
            _ if self.reached.get() >= end => Ok(()),
            true => settled(Err(WaitError::Closed)),
            false => Err(ENDED.to_owned()),
        }
    }

    fn ended(&self) -> Option<SignalWait> {
        let ended = self.ended.as_ref();
        ended.map(|(endings, past)| endings.wait(*past + 1))
    }
}

fn settled(waited: Result<Lsn, WaitError>) -> Result<(), String> {
    waited.map(|_| ()).map_err(|error| error.to_string())
}

impl Engine {
    /// What a commit at `level` waits for. To be asked before it has its place in the log, so that
    /// no ending is missed between the two.
    fn awaited(&self, level: Level) -> Option<Awaited> {
        let reached = match level {
            Level::Async => return None,
            // The commit position follows a moment later, and a write that returned must be seen.
            Level::Local if !self.is_synchronous() => self.wal.commit().clone(),
            Level::Local => self.wal.flushed().clone(),
            Level::RemoteWrite => self.remote().written,
            Level::RemoteFlush => self.wal.commit().clone(),
            Level::RemoteApply => self.remote().applied,
        };
        let endings = self.endings();
        let ended = (level != Level::Local).then(|| (endings.clone(), endings.get()));
        Some(Awaited { reached, ended })
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

    fn unknown(&self, lsn: Lsn, why: String) -> Error {
        let why = match self.wal.poisoned() {
            Some(poisoned) => poisoned.to_string(),
            None => why,
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
    /// [`Error::Unknown`] when the log or the store stopped before the level was reached, or, for a
    /// level that waits for standbys, when this node stopped or was fenced.
    pub async fn commit_at(self, level: Level) -> Result<Receipt> {
        let engine = self.engine().clone();
        let awaited = engine.awaited(level);
        let Placed { end } = place_off_worker(self).await?;
        if let Some(awaited) = awaited {
            let waited = awaited.reach(end).await;
            waited.map_err(|why| engine.unknown(end, why))?;
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
        let awaited = engine.awaited(level);
        let Placed { end } = self.place()?;
        if let Some(awaited) = awaited {
            let waited = awaited.reach_blocking(end);
            waited.map_err(|why| engine.unknown(end, why))?;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Waker};

    use mainstay_storage::{LsmOptions, NewLog, OsDisk, SegmentSize, Wal, WalOptions};

    use super::*;

    /// An engine under a policy that nobody confirms.
    fn lonely(dir: &std::path::Path) -> Arc<Engine> {
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let wal = Wal::create(Arc::new(OsDisk), dir, new, &options).unwrap();
        let end = wal.appended();
        let (engine, _) = Engine::open(wal, LsmOptions::default(), end).unwrap();
        engine.wal.set_commit_follows(false);
        let (written, applied) = (Signal::new(Lsn::ZERO), Signal::new(Lsn::ZERO));
        engine.set_remote(RemotePositions { written, applied }, true);
        engine.open_for_writes();
        engine
    }

    fn writing(engine: &Arc<Engine>) -> WriteTransaction {
        let mut transaction = WriteTransaction::begin(engine.clone()).unwrap();
        transaction.put("t", b"key", b"value").unwrap();
        transaction
    }

    #[test]
    fn waits_for_standbys_end_as_unknown_when_the_node_is_no_primary_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let engine = lonely(dir.path());
        let remote = [Level::RemoteWrite, Level::RemoteFlush, Level::RemoteApply];
        let mut commits = remote.map(|level| Box::pin(writing_at(&engine, level)));
        let mut context = Context::from_waker(Waker::noop());
        for commit in &mut commits {
            assert!(commit.as_mut().poll(&mut context).is_pending());
        }
        let blocking = writing(&engine);
        let waiting = std::thread::spawn(move || blocking.commit_blocking());
        while engine.wal.commit().waiters() < 2 {
            std::thread::yield_now();
        }
        engine.close_for_writes(None);
        for commit in &mut commits {
            let Poll::Ready(Err(Error::Unknown { why, .. })) = commit.as_mut().poll(&mut context)
            else {
                panic!("it goes on waiting");
            };
            assert!(why.contains("no primary any more"), "{why}");
        }
        let blocked = waiting.join().unwrap();
        assert!(matches!(blocked, Err(Error::Unknown { .. })), "{blocked:?}");
        engine.store.close();
        engine.wal.close().unwrap();
    }

    async fn writing_at(engine: &Arc<Engine>, level: Level) -> Result<Receipt> {
        let mut transaction = WriteTransaction::begin(engine.clone())?;
        transaction.put("t", level.as_str().as_bytes(), b"value")?;
        transaction.commit_at(level).await
    }

    #[test]
    fn a_wait_for_own_disk_alone_outlasts_the_end_of_writing() {
        let dir = tempfile::tempdir().unwrap();
        let engine = lonely(dir.path());
        let awaited = engine.awaited(Level::Local).unwrap();
        let Placed { end } = writing(&engine).place().unwrap();
        engine.close_for_writes(None);
        assert_eq!(awaited.reach_blocking(end), Ok(()));
        let late = engine.awaited(Level::RemoteFlush).unwrap();
        engine.close_for_writes(None);
        assert!(late.reach_blocking(end).is_err());
        engine.wal.advance_commit(end);
        assert_eq!(
            late.reach_blocking(end),
            Ok(()),
            "it was reached all the same"
        );
        engine.store.close();
        engine.wal.close().unwrap();
    }
}
