//! Waiting for a commit: levels, receipts, and the honest "unknown".

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use mainstay_replication::protocol::level::Level;
use mainstay_replication::{Confirmation, Confirmer};
use mainstay_storage::{Lsn, Signal, Timeline, WaitError, Wal, block_on, canary};

use crate::engine::{Engine, Placed};
use crate::error::{Error, Result};
use crate::transaction::WriteTransaction;

/// Why a wait for standbys ended when this node stopped writing.
const ENDED: &str = "this node stopped, is no primary any more, or gave up waiting, before enough standbys confirmed";

/// What a successful commit is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// End of the commit in the log: readers at or above it see it.
    pub lsn: Lsn,
    /// The timeline it was written on.
    pub timeline: Timeline,
    /// The level that was reached: at most [`Level::Local`] without a synchronous policy, and for a
    /// commit that was let through while the policy is degraded.
    pub level: Level,
    /// The names of the standbys that the policy counts and that held it, at the level asked for,
    /// when it was answered; sorted. Nobody for a level that waits for none.
    pub standbys: Vec<String>,
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
    /// Tells what was really confirmed, where there can be standbys.
    pub(crate) confirmer: Option<Confirmer>,
}

impl RemotePositions {
    /// Without standbys: what is committed here is all there is to wait for.
    pub(crate) fn nobody(wal: &Wal) -> Self {
        Self {
            written: wal.commit().clone(),
            applied: wal.commit().clone(),
            confirmer: None,
        }
    }
}

/// A signal, and where it stood.
type Past = (Signal, Lsn);

/// What a commit waits for, from before it has its place in the log.
struct Awaited {
    reached: Signal,
    /// The engine's endings: the wait ends when they climb.
    ended: Past,
    /// For a wait for own disk, the policies that came into force: the wait ends with one more.
    turned: Option<Past>,
    /// What is waited for then, if anything.
    instead: Option<Signal>,
}

impl Awaited {
    /// Waits for `end`.
    ///
    /// # Errors
    /// Why it will not be reached, as far as anybody can tell; `None` when the engine knows.
    async fn reach(&self, end: Lsn) -> Result<(), Option<WaitError>> {
        let mut reached = self.reached.wait(end);
        // Begun with the others: what is cut meanwhile must not be taken for what follows it.
        let instead = self.instead.as_ref().map(|instead| instead.wait(end));
        let climbs = |(signal, past): &Past| signal.wait(*past + 1);
        let (mut ended, mut turned) = (climbs(&self.ended), self.turned.as_ref().map(climbs));
        let waited = poll_fn(|context| {
            if let Poll::Ready(waited) = Pin::new(&mut reached).poll(context) {
                return Poll::Ready(Some(waited));
            }
            let turned = turned.as_mut().map(|turned| Pin::new(turned).poll(context));
            match Pin::new(&mut ended).poll(context) {
                Poll::Pending if !matches!(turned, Some(Poll::Ready(_))) => Poll::Pending,
                _ => Poll::Ready(None),
            }
        });
        match (waited.await, instead) {
            (Some(waited), _) => settled(waited),
            (None, Some(instead)) => settled(instead.await),
            (None, None) if canary("an-ended-wait-is-success") => Ok(()),
            (None, None) => Err(None),
        }
    }

    /// As [`reach`](Self::reach), on this thread.
    fn reach_blocking(&self, end: Lsn) -> Result<(), Option<WaitError>> {
        block_on(self.reach(end))
    }
}

fn settled(waited: Result<Lsn, WaitError>) -> Result<(), Option<WaitError>> {
    waited.map(|_| ()).map_err(Some)
}

impl Engine {
    /// What a commit at `level` waits for. To be asked before it has its place in the log, so that
    /// no ending is missed between the two.
    fn awaited(&self, level: Level) -> Option<Awaited> {
        let past = |signal: &Signal| (signal.clone(), signal.get());
        // Before it is asked whether there is a policy, so that none comes unseen.
        let (ended, turned) = (past(self.endings()), past(self.turns()));
        let reached = match level {
            Level::Async => return None,
            Level::Local => {
                let flushed = self.wal.flushed().clone();
                // The commit position follows a moment later, and a write that returned must be
                // seen.
                let reached = match self.is_synchronous() {
                    true => flushed.clone(),
                    false => self.wal.commit().clone(),
                };
                return Some(Awaited {
                    reached,
                    ended,
                    turned: Some(turned),
                    instead: Some(flushed),
                });
            }
            Level::RemoteWrite => self.remote().written,
            Level::RemoteFlush => self.wal.commit().clone(),
            Level::RemoteApply => self.remote().applied,
        };
        Some(Awaited {
            reached,
            ended,
            turned: None,
            instead: None,
        })
    }

    fn receipt(&self, lsn: Lsn, level: Level) -> Receipt {
        let remote = self.remote.read().confirmer.clone();
        let (level, standbys) = match remote.filter(|_| level > Level::Local) {
            Some(confirmer) => {
                let Confirmation { level, standbys } = confirmer.confirmation(level, lsn);
                let standbys = standbys.iter().map(|name| name.as_str().to_owned());
                (level, standbys.collect())
            }
            None if self.is_synchronous() => (level, Vec::new()),
            None => (level.min(Level::Local), Vec::new()),
        };
        Receipt {
            lsn,
            timeline: self.written_on(lsn),
            level,
            standbys,
        }
    }

    /// The timeline that a commit which ends at `lsn` was written on, which need not be the
    /// current one any more.
    pub(crate) fn written_on(&self, lsn: Lsn) -> Timeline {
        let last = Lsn::new(lsn.get().saturating_sub(1));
        self.wal.history().owner(last)
    }

    fn unknown(&self, lsn: Lsn, ended: Option<WaitError>) -> Error {
        let why = match (self.wal.poisoned(), ended, self.refusal()) {
            (Some(poisoned), ..) => poisoned.to_string(),
            (None, Some(error), _) => error.to_string(),
            (None, None, Some(refusal)) if self.is_writable() => refusal,
            (None, None, _) => ENDED.to_owned(),
        };
        let timeline = self.written_on(lsn);
        Error::Unknown { lsn, timeline, why }
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
    /// [`Error::Refused`] while the synchronous policy failed: nothing happened either.
    /// [`Error::Unknown`] when the log or the store stopped before the level was reached, or, for a
    /// level that waits for standbys, when this node stopped, was fenced, or failed the policy.
    pub async fn commit_at(self, level: Level) -> Result<Receipt> {
        let engine = self.engine().clone();
        let awaited = engine.awaited(level);
        let Placed { end } = place_off_worker(self).await?;
        if let Some(awaited) = awaited {
            let waited = awaited.reach(end).await;
            waited.map_err(|ended| engine.unknown(end, ended))?;
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
            waited.map_err(|ended| engine.unknown(end, ended))?;
        }
        Ok(engine.receipt(end, level))
    }
}

/// Places a transaction without holding up an async worker: on this thread when that takes
/// microseconds, else on one that may block.
async fn place_off_worker(mut transaction: WriteTransaction) -> Result<Placed> {
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
        let confirmer = None;
        let remote = RemotePositions {
            written,
            applied,
            confirmer,
        };
        engine.set_remote(remote, true);
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

    /// Notes the order in which commits are woken, by their number.
    struct Woken(usize, Arc<parking_lot::Mutex<Vec<usize>>>);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.1.lock().push(self.0);
        }
    }

    #[test]
    fn ten_thousand_commits_wait_and_each_is_woken_once_in_order_when_its_turn_comes() {
        const COMMITS: usize = 10_000;
        let dir = tempfile::tempdir().unwrap();
        let engine = lonely(dir.path());
        let woken = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut commits = (0..COMMITS)
            .map(|number| {
                let mut commit = Box::pin(writing(&engine).commit_at(Level::RemoteFlush));
                let waker = Waker::from(Arc::new(Woken(number, woken.clone())));
                let mut context = Context::from_waker(&waker);
                assert!(commit.as_mut().poll(&mut context).is_pending());
                (commit, engine.wal.appended())
            })
            .collect::<Vec<_>>();
        let signal = engine.wal.commit().clone();
        assert_eq!(signal.waiters(), COMMITS);
        let flushed = engine.wal.flushed();
        flushed.wait_blocking(engine.wal.appended(), None).unwrap();
        assert!(woken.lock().is_empty(), "nothing was confirmed yet");
        let mut released = 0;
        for step in [1, 2, 100, 4_000, COMMITS] {
            engine.wal.advance_commit(commits[step - 1].1);
            let expected = (released..step).collect::<Vec<_>>();
            assert_eq!(std::mem::take(&mut *woken.lock()), expected);
            assert_eq!(signal.waiters(), COMMITS - step);
            released = step;
        }
        let mut context = Context::from_waker(Waker::noop());
        for (commit, end) in &mut commits {
            let Poll::Ready(Ok(receipt)) = commit.as_mut().poll(&mut context) else {
                panic!("it was woken and is not done");
            };
            assert_eq!(receipt.lsn, *end);
        }
        engine.store.close();
        engine.wal.close().unwrap();
    }
}
