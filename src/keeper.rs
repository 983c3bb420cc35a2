//! The thread that keeps the part of the log that a restart replays short.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mainstay_storage::{Lsn, Signal};

use crate::engine::Engine;
use crate::error::{Error, Result};

/// Bytes of log after which the store's memory is written out even if it is not full, so that a
/// restart never replays more than about this much.
const REPLAY_BYTES_MAX: u64 = 256 << 20;

/// Bytes of log between two looks at what can be checkpointed and removed. There is one as well
/// whenever the store has written something out: that may take until long after the last write,
/// and whoever restarts or copies this node then would replay what the store has.
const LOOK_EVERY: u64 = 16 << 20;

/// Longest between two looks: others may need less of the log meanwhile.
const LOOK_AFTER: Duration = Duration::from_secs(60);

/// Starts the thread. `retain` says from where on log is needed beyond what the store needs.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn start(
    engine: Arc<Engine>,
    retain: impl Fn() -> Lsn + Send + 'static,
) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name("mainstay-keeper".to_owned());
    let thread = thread.spawn(move || run(&engine, &retain));
    thread.map_err(|error| Error::Config(format!("cannot start a thread: {error}")))
}

fn run(engine: &Engine, retain: &dyn Fn() -> Lsn) {
    let mut known = engine.wal.control().checkpoint;
    loop {
        let next = engine.wal.flushed().get() + LOOK_EVERY;
        let more = engine.store.durable_signal().wait(known + 1);
        let mut waits = [engine.wal.flushed().wait(next), more];
        Signal::wait_any_within(&mut waits, Some(LOOK_AFTER));
        // Whoever closes it does what is left to do, after those who need log have gone.
        if engine.is_closed() || engine.wal.flushed().is_closed() {
            return;
        }
        // Taken before it is noted, and even if that fails: whoever tries again does so later.
        known = engine.store.durable();
        let behind = engine
            .wal
            .flushed()
            .get()
            .bytes_since(engine.store.durable());
        let upto = (behind > REPLAY_BYTES_MAX).then(|| engine.visible());
        if let Err(error) = checkpoint(engine, upto, retain) {
            tracing::warn!(%error, "could not checkpoint; trying again later");
        }
    }
}

/// Makes the store durable up to `upto`, if given, and removes the log that nobody needs then.
fn checkpoint(engine: &Engine, upto: Option<Lsn>, retain: &dyn Fn() -> Lsn) -> Result<()> {
    let durable = match upto {
        Some(upto) => engine.store.checkpoint(upto)?,
        None => engine.store.durable(),
    };
    if durable > engine.wal.control().checkpoint {
        engine.wal.checkpoint(durable)?;
    }
    engine.wal.remove_below(durable.min(retain()))?;
    Ok(())
}

/// Writes out what is in memory, if `save` says so, closes store and log, and ends the thread.
/// Nothing may be committing any more.
///
/// # Errors
/// Disk errors; the next open then recovers as after a crash.
pub(crate) fn close(engine: &Engine, keeper: JoinHandle<()>, save: bool) -> Result<()> {
    let flushed = engine
        .wal
        .flushed()
        .wait_blocking(engine.wal.appended(), None);
    let saved = match flushed {
        Ok(_) if save => checkpoint(engine, Some(engine.visible()), &|| Lsn::ZERO),
        _ => Ok(()),
    };
    engine.store.close();
    let closed = engine.wal.close();
    // It only returns; a panic in it was reported by the panic itself.
    let _ = keeper.join();
    saved?;
    Ok(closed?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use mainstay_storage::{LsmOptions, NewLog, OsDisk, SegmentSize, Wal, WalOptions};

    use crate::transaction::WriteTransaction;

    use super::*;

    /// Far less than until the next look for other reasons.
    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn what_the_store_wrote_out_is_noted_though_no_log_follows() {
        let dir = tempfile::tempdir().unwrap();
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let wal = Wal::create(Arc::new(OsDisk), dir.path(), new, &options).unwrap();
        let end = wal.appended();
        let store = LsmOptions {
            memtable_bytes: 64 << 10,
            ..LsmOptions::default()
        };
        let (engine, _) = Engine::open(wal, store, end).unwrap();
        engine.open_for_writes();
        let looks = Arc::new(AtomicUsize::new(0));
        let looked = looks.clone();
        let retain = move || {
            looked.fetch_add(1, Ordering::SeqCst);
            Lsn::MAX
        };
        let keeper = start(engine.clone(), retain).unwrap();
        for row in 0..200_u64 {
            let mut transaction = WriteTransaction::begin(engine.clone()).unwrap();
            let written = transaction.put("rows", &row.to_be_bytes(), &[7; 1 << 10]);
            written.unwrap();
            transaction.commit_blocking().unwrap();
        }
        let log = engine.wal.flushed().get().bytes_since(end);
        assert!(log < LOOK_EVERY, "or somebody looks anyway");
        let begun = Instant::now();
        let noted = || {
            let durable = engine.store.durable();
            durable > end && engine.wal.control().checkpoint == durable
        };
        // It sleeps then until there is more.
        while !noted() || engine.store.durable_signal().waiters() == 0 {
            assert!(
                begun.elapsed() < SOON,
                "a copy or a restart replays what the store has"
            );
            std::thread::yield_now();
        }
        let until_now = looks.load(Ordering::SeqCst);
        engine.close_for_writes(None);
        close(&engine, keeper, true).unwrap();
        let at_last = looks.load(Ordering::SeqCst);
        assert_eq!(
            at_last, until_now,
            "closing writes out, and removes nothing"
        );
    }
}
