//! Taking a node's data back to where its log parts from the one that it is to follow.
//!
//! The store forgets its memory, so going back is a shorter replay: open it, replay the log up to
//! the fork, write down what lies above, cut the log there. Where the store has made durable what
//! lies above the fork, it cannot go back, and the node needs a copy of another node's data.

use std::path::Path;
use std::sync::Arc;

use mainstay_storage::{Applicator, LsmOptions, Lsn, OsDisk, Wal, WalOptions};

use super::discard::{self, Discarded};
use crate::engine::Engine;
use crate::error::Result;

/// What came of it.
pub(super) enum Rewound {
    /// Log and store stand at the fork, open.
    Done(Arc<Engine>, Box<Applicator>, Discarded),
    /// The store cannot go back so far; everything is closed, and nothing has changed.
    TooFar(String),
}

/// Why data that stand as far as this cannot go back to `to`, or `None` when they can.
pub(super) fn obstacle(to: Lsn, checkpoint: Lsn, durable: Lsn) -> Option<String> {
    if durable > to {
        return Some(format!(
            "the store has written out everything up to {durable}, beyond {to}"
        ));
    }
    (checkpoint > to).then(|| format!("the log that would be replayed begins at {checkpoint}"))
}

/// Takes the data in `dir` back to `to`. Log and store must be closed.
///
/// # Errors
/// The log's and the store's. Calling again goes on.
pub(super) fn take_back(
    dir: &Path,
    options: &WalOptions,
    store: LsmOptions,
    to: Lsn,
) -> Result<Rewound> {
    let (wal, _) = Wal::open(Arc::new(OsDisk), dir, options)?;
    wal.set_commit_follows(false);
    let checkpoint = wal.control().checkpoint;
    if let Some(why) = obstacle(to, checkpoint, Lsn::ZERO) {
        wal.close()?;
        return Ok(Rewound::TooFar(why));
    }
    let (engine, rest) = Engine::open(wal, store, to)?;
    if let Some(why) = obstacle(to, checkpoint, engine.store.durable()) {
        engine.store.close();
        engine.wal.close()?;
        return Ok(Rewound::TooFar(why));
    }
    let discarded = discard::save(&engine, dir, to)?;
    engine.wal.rewind(to)?;
    Ok(Rewound::Done(engine, Box::new(rest), discarded))
}
