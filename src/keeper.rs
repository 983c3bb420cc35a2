//! The thread that keeps the part of the log that a restart replays short.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mainstay_storage::{Lsn, WaitError};

use crate::engine::Engine;
use crate::error::{Error, Result};

/// Bytes of log after which the store's memory is written out even if it is not full, so that a
/// restart never replays more than about this much.
const REPLAY_BYTES_MAX: u64 = 256 << 20;

/// Bytes of log between two looks at what can be checkpointed and removed.
const LOOK_EVERY: u64 = 16 << 20;

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
    loop {
        let next = engine.wal.flushed().get() + LOOK_EVERY;
        let waited = engine
            .wal
            .flushed()
            .wait_blocking(next, Some(Duration::from_secs(60)));
        if waited == Err(WaitError::Closed) {
            return;
        }
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
