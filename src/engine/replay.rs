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
        self.replaying.store(false, Ordering::Release);
        self.replayed.notify_all();
        replayed?;
        self.has_all.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether its store has had all of its log, so that it can go on with writes of its own.
    pub(crate) fn has_all(&self) -> bool {
        self.has_all.load(Ordering::Acquire)
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
