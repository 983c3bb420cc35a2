//! One life of a node: its log, store and replication from opening them to closing them.
//!
//! A node has several when its log has to go back, or is replaced by a copy of another node's: the
//! old life is closed, and the next is opened on the same directory. What users hold on the old
//! one ends with [`Error::Stopped`].

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mainstay_replication::{
    PromoteOptions, Promotion, Role, SyncStanding, WalReplicator, WalStreamingConfig, adopt_backup,
    bootstrap, finish_bootstrap, holds_backup,
};
use mainstay_storage::{Applicator, LsmOptions, Lsn, NewLog, OsDisk, Wal, WalOptions};
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::commit::RemotePositions;
use crate::database::{report, wall_clock};
use crate::engine::{AllRows, Engine};
use crate::error::{Error, Result};
use crate::events::{self, Draft, EventLog};
use crate::keeper;
use crate::standby_signal;

use super::promotion::NotPromoted;
use super::{record, reseed};

/// Longest time that closing waits for a commit that is being decided: one that waits for a
/// standby may never end.
const DECIDING_MAX: Duration = Duration::from_secs(2);

/// How long opening waits until what was not committed is replayed.
const REPLAY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Why nobody follows another node who listens nowhere.
const UNREACHABLE: &str = "a node that follows another must be reachable, because who chooses a new \
                           primary asks it: say where with listen(\"host:port\")";

/// Why a node does not write that is the primary of a timeline.
const LACKS_THE_END: &str = "the end of the log is not in this node's store, because replaying it \
                             failed, so it takes no writes. Promote another node, or restart this \
                             one as the primary, without --follow";

/// What a life is opened with.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) config: WalStreamingConfig,
    pub(super) store: LsmOptions,
    pub(super) events: EventLog,
    /// Whether the node itself is starting, not just turning.
    pub(super) starting: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) engine: Arc<Engine>,
    pub(super) replicator: WalReplicator,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Plan {
    /// Whether it asks for a primary.
    pub(super) fn is_primary(&self) -> bool {
        self.config.follow.is_empty()
    }

    pub(super) fn wal_options(&self) -> WalOptions {
        WalOptions {
            segment_size: self.config.segment_size,
            accept_loss_from: self.config.accept_loss_from,
            ..WalOptions::new(wall_clock)
        }
    }

    /// Opens log and store, creating or filling the directory first, and starts to serve.
    ///
    /// # Errors
    /// As [`NodeBuilder::start`](crate::NodeBuilder::start).
    pub(super) async fn open(&mut self) -> Result<Arc<Life>> {
        // A directory may say whom to follow: known once it is filled.
        self.check_reachable()?;
        let filled = self.fill().await?;
        self.check_reachable()?;
        let wal = self.open_log(filled).await?;
        let (store, end) = (self.store.clone(), wal.appended());
        let delayed = !self.is_primary() && !self.config.min_apply_delay.is_zero();
        let opened = tokio::task::spawn_blocking(move || {
            // A standby that stays behind on purpose counts everything as just heard.
            let upto = match delayed {
                true => Lsn::ZERO,
                false => wal.commit().get(),
            };
            Engine::open(wal, store, upto)
        });
        let (engine, rest) = opened.await.map_err(|_| Error::Stopped)??;
        self.begin(engine, rest, end).await
    }

    fn check_reachable(&self) -> Result<()> {
        match self.is_primary() {
            true => Ok(()),
            false => self.may_follow(),
        }
    }

    /// Whether others can ask this node, which they must if it is to follow.
    ///
    /// # Errors
    /// [`Error::Config`] with what to do.
    pub(super) fn may_follow(&self) -> Result<()> {
        match self.config.listen.is_some() {
            true => Ok(()),
            false => Err(Error::Config(UNREACHABLE.to_owned())),
        }
    }

    /// Starts to serve what is open; a primary replays the `rest` of its log, up to `end`, first.
    ///
    /// # Errors
    /// Replication's, the log's and the store's; log and store are closed then.
    pub(super) async fn begin(
        &self,
        engine: Arc<Engine>,
        rest: Applicator,
        end: Lsn,
    ) -> Result<Arc<Life>> {
        if self.is_primary() {
            engine.await_replay();
        }
        let copied = engine.clone();
        let replicator = WalReplicator::with_engine(
            self.config.clone(),
            engine.wal.clone(),
            Box::new(engine.store.clone()),
            move |into| copied.copy_store(into),
        );
        replicator.set_contents(Arc::new(AllRows(engine.clone())));
        let (events, me) = (self.events.clone(), self.config.name.clone());
        replicator.on_event(events::recorder(events, me));
        if let Err(error) = replicator.start().await {
            engine.store.close();
            engine.wal.stop();
            return Err(error.into());
        }
        let (written, applied) = replicator.remote_positions()?;
        let confirmer = Some(replicator.confirmer()?);
        let remote = RemotePositions {
            written,
            applied,
            confirmer,
        };
        engine.set_remote(remote, replicator.is_synchronous());
        if self.is_primary()
            && let Err(error) = open_for_writes(&engine, &replicator, rest, end).await
        {
            // The error at hand says more than what ending brings up.
            let _ = replicator.stop().await;
            engine.store.close();
            engine.wal.stop();
            return Err(error);
        }
        tokio::spawn(follow_role(engine.clone(), replicator.role_changes()?));
        tokio::spawn(follow_policy(engine.clone(), replicator.sync_standing()?));
        let (retaining, reading, read) =
            (replicator.clone(), engine.clone(), replicator.applied()?);
        let retain = move || {
            let needed = retaining.retain_from();
            // A standby reads on from where it is, even what its store had when it was opened.
            match reading.is_writable() {
                true => needed,
                false => needed.min(read.get()),
            }
        };
        let keeper = keeper::start(engine.clone(), retain)?;
        Ok(Arc::new(Life {
            engine,
            replicator,
            keeper: Mutex::new(Some(keeper)),
        }))
    }

    /// Fills the directory if it holds no log yet, and finds out whom to follow.
    async fn fill(&mut self) -> Result<Option<Draft>> {
        let mut filled = None;
        let dir = self.config.data_dir.clone();
        let finishing = dir.clone();
        let finished = tokio::task::spawn_blocking(move || reseed::finish(&OsDisk, &finishing));
        finished.await.map_err(|_| Error::Stopped)??;
        if !Wal::exists(&OsDisk, &dir)? {
            if holds_backup(&dir)? {
                let adopted = adopt_backup(&self.config).await?;
                tracing::info!(label = %adopted.label, end = %adopted.end, "opened a base backup");
                filled = Some(record::adopted(
                    &self.config.name,
                    &adopted.label,
                    adopted.end,
                ));
            } else if !self.is_primary() {
                let copied = bootstrap(&self.config).await?;
                tracing::info!(bytes = copied.bytes, start = %copied.start, "took a base backup");
                filled = Some(record::reseeded(
                    &self.config.name,
                    copied.bytes,
                    "the directory was empty",
                ));
            }
        }
        finish_bootstrap(&dir)?;
        if self.is_primary() {
            standby_signal::follow(&mut self.config)?;
        }
        Ok(filled)
    }

    /// Opens the log, creating it if need be, and records how it was found.
    async fn open_log(&self, filled: Option<Draft>) -> Result<Wal> {
        let (dir, options) = (self.config.data_dir.clone(), self.wal_options());
        let opened = tokio::task::spawn_blocking(move || {
            let disk = Arc::new(OsDisk);
            if Wal::exists(&*disk, &dir)? {
                let (wal, recovered) = Wal::open(disk, &dir, &options)?;
                report(&dir, &recovered);
                return Ok((wal, Some(recovered)));
            }
            let new = NewLog::new_cluster(options.segment_size);
            Wal::create(disk, &dir, new, &options).map(|wal| (wal, None))
        });
        let (wal, recovered) = opened.await.map_err(|_| Error::Stopped)??;
        record::opened(self, &wal, recovered.as_ref(), filled);
        Ok(wal)
    }
}

impl Life {
    /// Returns when everything that is committed below `lsn` can be read.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the life ends before.
    pub(super) async fn reached(&self, lsn: Lsn) -> Result<()> {
        let (engine, replicator) = (&self.engine, &self.replicator);
        if engine.is_closed() {
            return Err(Error::Stopped);
        }
        if engine.visible() >= lsn {
            return Ok(());
        }
        let committed = engine.wal.commit().reached(lsn).await;
        committed.map_err(|_| Error::Stopped)?;
        let mut roles = replicator.role_changes()?;
        while *roles.borrow_and_update() != Role::Primary {
            tokio::select! {
                applied = async {
                    replicator.applied()?.reached(lsn).await.map_err(|_| Error::Stopped)
                } => return applied.map(|_| ()),
                // Whoever applied the log may have stopped doing so.
                changed = roles.changed() => changed.map_err(|_| Error::Stopped)?,
            }
        }
        let engine = engine.clone();
        let settled = tokio::task::spawn_blocking(move || engine.settle(lsn)).await;
        settled.map_err(|_| Error::Stopped)
    }

    /// Makes this standby the primary, and lets it write as soon as it may.
    ///
    /// # Errors
    /// As [`Node::promote`](crate::Node::promote).
    pub(super) async fn promoted(
        &self,
        options: &PromoteOptions,
    ) -> std::result::Result<Promotion, NotPromoted> {
        let (engine, replicator) = (&self.engine, &self.replicator);
        match replicator.role() {
            Role::Standby => engine.await_replay(),
            Role::Fenced if engine.lacks_the_end() => {
                return Err(Error::Refused(LACKS_THE_END.to_owned()).into());
            }
            _ => {}
        }
        let promoted = replicator.promote_with(options).await;
        // Left for the next attempt where this one failed.
        let rest = promoted.as_ref().ok();
        let rest = rest.and_then(|promotion| Some((promotion, replicator.take_replay()?)));
        engine.set_remote(engine.remote(), replicator.is_synchronous());
        if let Some((promotion, rest)) = rest {
            open_for_writes(engine, replicator, rest, promotion.end).await?;
        } else {
            let (engine, opened) = (engine.clone(), promoted.is_ok());
            let settled = tokio::task::spawn_blocking(move || {
                engine.await_no_replay();
                // It was the primary before, so all of its log is in the store, unless the replay
                // failed with which it began.
                let lacks = opened && engine.lacks_the_end();
                (opened && !lacks).then(|| engine.open_for_writes());
                lacks
            });
            if settled.await.map_err(|_| Error::Stopped)? {
                let failed = mainstay_storage::Error::Store(LACKS_THE_END.into());
                return Err(Error::from(failed).into());
            }
        }
        Ok(promoted?)
    }

    /// Ends it cleanly: connections end as a shutdown does. `save` writes out what is in memory
    /// and may be; without it the store stays as far back as it is. A second call does nothing.
    ///
    /// # Errors
    /// Disk errors; the next start then recovers as after a crash.
    pub(super) async fn close(&self, save: bool) -> Result<()> {
        let engine = self.engine.clone();
        let decided =
            tokio::task::spawn_blocking(move || engine.close_for_writes(Some(DECIDING_MAX)));
        decided.await.map_err(|_| Error::Stopped)?;
        let streams = self.replicator.stop().await;
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper {
            let engine = self.engine.clone();
            let closed = tokio::task::spawn_blocking(move || keeper::close(&engine, keeper, save));
            closed.await.map_err(|_| Error::Stopped)??;
        }
        Ok(streams?)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.engine.close_for_writes(Some(Duration::ZERO));
        self.engine.store.close();
        self.engine.wal.stop();
    }
}

/// Replays what is in a new primary's log up to `end` and was not committed, then lets it write.
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
            tracing::warn!("commits from before wait for standbys; no writes yet");
            Ok(())
        }
    }
}

/// Stops write transactions as soon as this node is no primary any more. Ends with the life.
async fn follow_role(engine: Arc<Engine>, mut roles: tokio::sync::watch::Receiver<Role>) {
    while roles.changed().await.is_ok() {
        if *roles.borrow_and_update() != Role::Primary && engine.is_writable() {
            engine.refuse_writes();
        }
    }
}

/// Tells the engine how the synchronous policy stands, on a primary. Ends with the life.
async fn follow_policy(
    engine: Arc<Engine>,
    mut standings: tokio::sync::watch::Receiver<SyncStanding>,
) {
    // What it stands at by now counts, too.
    standings.mark_changed();
    while standings.changed().await.is_ok() {
        let standing = standings.borrow_and_update().clone();
        engine.set_standing(&standing);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use mainstay_storage::SegmentSize;

    use crate::Node;
    use crate::transaction::WriteTransaction;

    use super::*;

    const ROWS: u64 = 4096;

    fn store() -> LsmOptions {
        LsmOptions {
            memtable_bytes: 64 << 10,
            ..LsmOptions::default()
        }
    }

    /// A node that died before it noted what its store had written out; where that begins.
    fn died(dir: &Path) -> Lsn {
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let wal = Wal::create(Arc::new(OsDisk), dir, new, &options).unwrap();
        let begin = wal.appended();
        let (engine, _) = Engine::open(wal, store(), begin).unwrap();
        engine.open_for_writes();
        for row in 0..ROWS {
            let mut transaction = WriteTransaction::begin(engine.clone()).unwrap();
            let set = transaction.put("rows", &row.to_be_bytes(), &[7; 1 << 10]);
            set.unwrap();
            transaction.commit_blocking().unwrap();
        }
        while engine.store.durable() < begin + 2 * SegmentSize::MIN.bytes() {
            std::thread::yield_now();
        }
        engine.close_for_writes(None);
        engine.store.close();
        engine.wal.stop();
        begin
    }

    #[tokio::test]
    async fn log_that_a_standby_reads_later_stays_though_its_store_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let begin = died(dir.path());
        let node = Node::builder(dir.path())
            .listen("127.0.0.1:0")
            .follow("postgres://mainstay@127.0.0.1:1")
            .min_apply_delay(Duration::from_secs(3600))
            .wal_keep_size(0)
            .store(store());
        let node = node.start().await.unwrap();
        let engine = node.inner.life().engine.clone();
        let begun = Instant::now();
        while engine.wal.control().checkpoint < engine.store.durable() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "it is noted soon"
            );
            tokio::task::yield_now().await;
        }
        // The look that noted it is over then.
        node.stop().await.unwrap();
        assert_eq!(engine.wal.oldest(), begin);
    }

    async fn pair(dirs: &[tempfile::TempDir; 2]) -> (Node, Node) {
        let node = |at: usize, name| {
            let dir = dirs[at].path();
            Node::builder(dir).name(name).listen("127.0.0.1:0")
        };
        let a = node(0, "a").start().await.unwrap();
        let url = format!("postgres://mainstay@{}", a.listen_addr().unwrap());
        let b = node(1, "b").follow(url).start().await.unwrap();
        let receipt = a.put("rows", b"k", b"v").await.unwrap();
        let soon = Duration::from_secs(20);
        b.wait_for(receipt.lsn, soon).await.unwrap();
        (a, b)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_standby_whose_store_stopped_is_not_promoted() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (a, b) = pair(&dirs).await;
        let life = b.inner.life();
        life.engine.store.close();
        a.put("rows", b"l", b"w").await.unwrap();
        let applied = life.replicator.applied().unwrap();
        let ended = timeout(Duration::from_secs(20), applied.wait(Lsn::MAX)).await;
        assert_eq!(ended, Ok(Err(mainstay_storage::WaitError::Closed)));
        let before = life.engine.wal.timeline();
        let refused = b.promote(true).await.unwrap_err().to_string();
        assert!(refused.contains("cannot be applied"), "{refused}");
        assert_eq!(life.engine.wal.timeline(), before, "nothing was opened");
        assert!(b.begin().is_err());
        let options = PromoteOptions::default();
        let outlook = life.replicator.promotion_outlook(&options).await;
        assert!(outlook.is_err());
        drop((a, b));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn writes_begin_only_where_the_store_has_all_of_the_log() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (a, b) = pair(&dirs).await;
        let life = b.inner.life();
        a.stop().await.unwrap();
        // Somebody takes what was to be replayed, as a replay does that fails.
        let options = PromoteOptions {
            force: true,
            ..PromoteOptions::default()
        };
        life.replicator.promote_with(&options).await.unwrap();
        drop(life.replicator.take_replay().expect("it was a standby"));
        life.replicator.fence().unwrap();
        let before = life.engine.wal.timeline();
        let refused = life.promoted(&options).await.unwrap_err();
        let refused = refused.error.to_string();
        assert!(refused.contains("takes no writes"), "{refused}");
        assert_eq!(life.engine.wal.timeline(), before, "nothing was opened");
        assert!(b.begin().is_err());
        b.stop().await.unwrap();
    }
}
