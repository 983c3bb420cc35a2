//! Turning to another upstream when that takes a new life: by rewind, by a copy, or by stepping
//! down.
//!
//! A standby that is behind chooses by itself: it resumes where the log continues its own and cuts
//! what it never applied, without coming here. Here it comes when it applied log that the new
//! primary does not have, or when the log it needs is gone. One turn at a time; stopping the node
//! ends a turn that waits.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mainstay_replication::{Divergence, Role, WalStreamingConfig, WayBack, bootstrap};
use mainstay_storage::{Disk, Lsn, OsDisk};

use super::life::{Life, Plan};
use super::rewind::{self, Rewound};
use super::{Inner, record, reseed};
use crate::error::{Error, Result};

/// First pause between two attempts to copy another node's data; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(200);

/// Longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Watches a life of the node, and turns when it cannot follow.
pub(super) fn watch(inner: &Arc<Inner>, life: &Arc<Life>) {
    let Ok(mut diverged) = life.replicator.divergence() else {
        return;
    };
    let (inner, life) = (Arc::downgrade(inner), Arc::downgrade(life));
    tokio::spawn(async move {
        loop {
            let divergence = diverged.borrow_and_update().clone();
            if let Some(divergence) = divergence {
                return come_back(&inner, &life, divergence).await;
            }
            if diverged.changed().await.is_err() {
                return;
            }
        }
    });
}

async fn come_back(inner: &Weak<Inner>, life: &Weak<Life>, divergence: Divergence) {
    let (Some(inner), Some(life)) = (inner.upgrade(), life.upgrade()) else {
        return;
    };
    let stopped = inner.changing.lock().await;
    if *stopped || !Arc::ptr_eq(&inner.life(), &life) {
        return;
    }
    let mut plan = inner.plan.lock().clone();
    plan.config.follow = divergence.upstreams;
    plan.config.accept_loss_from = None;
    let turned = match divergence.way_back {
        WayBack::Rewind { to } => go_back(&inner, &life, &mut plan, to).await,
        WayBack::Backup { .. } => {
            let why = "the log it needs is gone";
            copy(&inner, &life, &mut plan, why, None).await
        }
        WayBack::Copy {
            log_bytes,
            copy_bytes,
        } => {
            let why = format!("{copy_bytes} bytes are clearly cheaper than {log_bytes} of log");
            let own_end = life.engine.wal.flushed().get();
            copy(&inner, &life, &mut plan, &why, Some(own_end)).await
        }
    };
    turn_out(&inner, plan, turned);
}

/// Copies the upstream's data, whatever this node has, because it was told to.
pub(super) fn copy_anew(inner: &Arc<Inner>, life: &Arc<Life>, why: &str) {
    let (inner, life, why) = (inner.clone(), life.clone(), why.to_owned());
    tokio::spawn(async move {
        let stopped = inner.changing.lock().await;
        let standby = life.replicator.role() == Role::Standby;
        if *stopped || !standby || !Arc::ptr_eq(&inner.life(), &life) {
            return;
        }
        let mut plan = inner.plan.lock().clone();
        plan.config.follow = life.replicator.upstreams();
        plan.config.accept_loss_from = None;
        let own_end = life.engine.wal.flushed().get();
        let turned = copy(&inner, &life, &mut plan, &why, Some(own_end)).await;
        turn_out(&inner, plan, turned);
    });
}

/// Goes on with the next life, or says why there is none.
fn turn_out(inner: &Arc<Inner>, plan: Plan, turned: Result<Arc<Life>>) {
    match turned {
        Ok(next) => inner.live(plan, next),
        Err(error) => inner.is_stuck(&error),
    }
}

/// Takes the data back to `to`, or copies the upstream's where they cannot go back so far.
async fn go_back(inner: &Inner, life: &Life, plan: &mut Plan, to: Lsn) -> Result<Arc<Life>> {
    let durable = life.engine.store.durable();
    let checkpoint = life.engine.wal.control().checkpoint;
    if let Some(why) = rewind::obstacle(to, checkpoint, durable) {
        return copy(inner, life, plan, &why, None).await;
    }
    inner.say(Some(format!(
        "going back to {to}, where its log left the new primary's"
    )));
    close(life).await;
    let (dir, options, store) = (
        plan.config.data_dir.clone(),
        plan.wal_options(),
        plan.store.clone(),
    );
    let taken =
        tokio::task::spawn_blocking(move || rewind::take_back(&dir, &options, store, to)).await;
    match taken.map_err(|_| Error::Stopped)?? {
        Rewound::Done(engine, rest, discarded) => {
            let saved = discarded.path.as_deref();
            tracing::warn!(
                %to, transactions = discarded.transactions, saved_to = ?saved,
                "rewound to where the new primary's log begins; the transactions that only this \
                 node had are saved"
            );
            plan.events
                .record(record::rewound(&inner.name, to, &discarded));
            plan.begin(engine, *rest, to).await
        }
        Rewound::TooFar(why) => copy(inner, life, plan, &why, None).await,
    }
}

/// Replaces the data by a copy of an upstream's, which may take its time; until it is complete the
/// old data can be read. Data that are as good as ever say by `at_least` up to where this node may
/// have confirmed log: a copy that ends below is not taken, and where none can be had the node goes
/// on with what it has.
async fn copy(
    inner: &Inner,
    life: &Life,
    plan: &mut Plan,
    why: &str,
    at_least: Option<Lsn>,
) -> Result<Arc<Life>> {
    tracing::warn!(%why, "a copy of the primary's data is needed; the old data stay readable");
    inner.say(Some(format!("copying the primary's data: {why}")));
    if let Err(error) = life.replicator.stop().await {
        tracing::warn!(%error, "while stopping replication");
    }
    let wal = &life.engine.wal;
    let (control, dir) = (wal.control(), plan.config.data_dir.clone());
    let mut config = plan.config.clone();
    config.data_dir = reseed::incoming(&dir);
    config.node_id = Some(wal.identity().node_id);
    // What was said during an earlier copy is over.
    inner.redirect.send_replace(Vec::new());
    inner.copying.send_replace(true);
    let copied = receive(inner, &mut config, at_least).await;
    inner.copying.send_replace(false);
    let copied = match copied {
        Err(error) if at_least.is_some() && !matches!(error, Error::Stopped) => {
            return stay(inner, life, plan, &error).await;
        }
        copied => copied?,
    };
    // Whoever was named last is followed, even if the copy was complete by then.
    let named = inner.redirect.borrow().clone();
    plan.config.follow = match named.is_empty() {
        true => config.follow,
        false => named,
    };
    let options = plan.wal_options();
    let binding = dir.clone();
    blocking(move || {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let (promised, attempted) = (control.promised(), control.attempted());
        reseed::accept(&disk, &binding, &options, promised, attempted)
    })
    .await?;
    plan.events
        .record(record::reseeded(&inner.name, copied, why));
    // It is not weighed again before it has caught up: that might never end.
    plan.config.weighs_copy = false;
    close(life).await;
    // Opening puts the copy in its place.
    plan.open().await
}

/// Goes on with the data that this node has, since no copy could be had.
async fn stay(inner: &Inner, life: &Life, plan: &mut Plan, error: &Error) -> Result<Arc<Life>> {
    tracing::warn!(%error, "no copy could be had; going on with the data that are here");
    inner.events.record(record::not_copied(&inner.name, error));
    plan.config.weighs_copy = false;
    close(life).await;
    // Opening forgets what had come.
    plan.open().await
}

impl Inner {
    /// Says why there is no next life.
    fn is_stuck(&self, error: &Error) {
        if matches!(error, Error::Stopped) {
            return;
        }
        tracing::error!(%error, "cannot follow the new primary; restart this node");
        self.events.record(record::stuck(&self.name, error));
        self.say(Some(format!("{error}; restart this node")));
    }

    /// Tells a copy that is under way whom to copy from, and to follow then; false when there is
    /// none.
    pub(super) fn redirected(&self, upstreams: &[String]) -> bool {
        // Held meanwhile, so that the copy does not end without having heard it.
        let copying = self.copying.borrow();
        if *copying {
            self.redirect.send_replace(upstreams.to_vec());
            let told = record::told_to_follow(&self.name, upstreams);
            self.events.record(told);
        }
        *copying
    }
}

/// Receives a copy, from whoever this node is told to follow meanwhile; returns its size in bytes.
async fn receive(
    inner: &Inner,
    config: &mut WalStreamingConfig,
    at_least: Option<Lsn>,
) -> Result<u64> {
    let mut closing = inner.closing.subscribe();
    let mut redirect = inner.redirect.subscribe();
    let mut pause = RETRY_FIRST;
    loop {
        let staging = config.data_dir.clone();
        let attempt = async {
            // A copy that was given up may still be ending, and have a file open here.
            blocking(move || reseed::clear(&OsDisk, &staging)).await?;
            Ok::<_, Error>(bootstrap(config).await?)
        };
        let failed = tokio::select! {
            done = attempt => match done {
                Ok(copied) if at_least.is_some_and(|at_least| copied.start < at_least) => {
                    let end = copied.start;
                    let why = format!("the copy ends at {end}, below what this node confirmed");
                    return Err(Error::Refused(why));
                }
                Err(error) if at_least.is_some() => return Err(error),
                Ok(copied) => {
                    let start = copied.start;
                    tracing::info!(bytes = copied.bytes, %start, "took a base backup");
                    return Ok(copied.bytes);
                }
                Err(error) => Some(error),
            },
            _ = redirect.changed() => None,
            _ = closing.wait_for(|closing| *closing) => return Err(Error::Stopped),
        };
        if let Some(error) = failed {
            tracing::warn!(%error, "no base backup; trying again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = redirect.changed() => {}
                _ = closing.wait_for(|closing| *closing) => return Err(Error::Stopped),
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
        let told = redirect.borrow_and_update().clone();
        if !told.is_empty() && told != config.follow {
            tracing::info!(upstreams = ?told, "copying from another node from now on");
            config.follow = told;
            pause = RETRY_FIRST;
        }
    }
}

/// Ends a life whose store is to stay as far back as it is.
async fn close(life: &Life) {
    if let Err(error) = life.close(false).await {
        tracing::warn!(%error, "while closing; the next start recovers as after a crash");
    }
}

/// Follows `upstreams` from now on with a new life, as a node does that is no primary any more.
///
/// # Errors
/// What opening leads to; the node must be restarted then.
pub(super) async fn step_down(inner: &Arc<Inner>, upstreams: Vec<String>) -> Result<()> {
    let mut plan = inner.plan.lock().clone();
    let life = inner.life();
    let successor = upstreams.join(", ");
    plan.config.follow = upstreams;
    plan.config.accept_loss_from = None;
    plan.may_follow()?;
    life.engine.give_way(successor);
    close(&life).await;
    let next = plan.open().await;
    let next = next.inspect_err(|error| inner.is_stuck(error))?;
    inner.live(plan, next);
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Stopped)?
}
