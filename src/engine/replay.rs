//! Replaying the end of the log, which a node that begins to serve as primary has to do first.
//!
//! What is not committed may need more memory than there is, and so wait for standbys; whoever
//! began it does not wait with it, and write transactions are refused with the reason meanwhile.

use std::sync::atomic::Ordering;

use mainstay_storage::{Applicator, Lsn, Store};

use super::Engine;
use crate::error::Result;

/// Why there are no write transactions while the end of the log is being replayed.
pub(super) const REPLAYING: &str = "commits from before this node began to serve still wait for standbys and \
    fill the memory; writes are accepted as soon as standbys have confirmed them";

impl Engine {
    /// Replays the log from where `applicator` is up to `upto`. As long as that takes, write
    /// transactions are refused with the reason.
    ///
    /// # Errors
    /// The log's or the store's, or [`Error::Stopped`].
    pub(crate) fn replay(&self, mut applicator: Applicator, upto: Lsn) -> Result<()> {
        let _commits = self.commits.lock();
        self.replaying.store(true, Ordering::Release);
        let replayed = applicator.apply_upto(&mut self.store.clone() as &mut dyn Store, upto);
        // In this order: whoever sees that it is over sees what came of it.
        self.has_all.fetch_or(replayed.is_ok(), Ordering::AcqRel);
        self.replaying.store(false, Ordering::Release);
        self.replayed.notify_all();
        replayed?;
        Ok(())
    }

    /// Whether its store has not had all of its log, and will not get it either: it cannot go on
    /// with writes of its own then. Not known while a replay is under way, or about to come.
    pub(crate) fn lacks_the_end(&self) -> bool {
        !self.replaying.load(Ordering::Acquire) && !self.has_all.load(Ordering::Acquire)
    }

    /// Says that a replay is about to come, for which [`settle`](Self::settle) waits.
    pub(crate) fn await_replay(&self) {
        self.replaying.store(true, Ordering::Release);
    }

    /// None comes after all. Waits for the transaction that is being decided.
    pub(crate) fn await_no_replay(&self) {
        let _commits = self.commits.lock();
        self.replaying.store(false, Ordering::Release);
        self.replayed.notify_all();
    }

    /// Returns when every transaction up to `end` that has its place in the log is in the store
    /// too, which may take as long as a commit that is under way.
    pub(crate) fn settle(&self, end: Lsn) {
        if self.store.applied() < end {
            let mut commits = self.commits.lock();
            while self.replaying.load(Ordering::Acquire) && !self.is_closed() {
                self.replayed.wait(&mut commits);
            }
        }
    }
}
