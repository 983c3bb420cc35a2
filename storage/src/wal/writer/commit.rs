//! The commit position, and what may be replayed because a primary has committed it.
//!
//! A primary decides what is committed and says so once; a standby is told while the log itself is
//! still on its way to the disk. So what it was told is kept, and counts twice: what is sealed here
//! may be replayed at once, what is flushed here is committed here too. Neither ever needs to be
//! told again, and nobody sees more than the second. Who may say that something is committed is
//! not known here.

use std::sync::atomic::Ordering;

use super::Shared;
use crate::canary;
use crate::lsn::Lsn;

impl Shared {
    /// Raises the commit position, as far as what is flushed.
    pub(crate) fn advance_commit(&self, to: Lsn) {
        if to.min(self.committable()) > self.commit.get() {
            self.note(to);
        }
    }

    /// Nothing above is committed, whoever says so.
    fn committable(&self) -> Lsn {
        match canary("show-before-flush") {
            true => self.sealed.get(),
            false => self.flushed.get(),
        }
    }

    /// Keeps that the primary has committed up to `to`, as far as that is in the log or queued:
    /// what comes behind may be other log than the one that was spoken of.
    pub(crate) fn follow_commit(&self, to: Lsn) {
        let to = {
            // Locked until it is kept, lest the log ends elsewhere by then.
            let queue = self.queue.lock();
            let to = to.min(queue.cursor.next);
            let mut told = self.told.lock();
            *told = told.max(to);
            to
        };
        // Looked at only now: whoever seals or flushes more looks at what is told behind it.
        self.replay_to(self.sealed.get());
        self.advance_commit(to);
    }

    /// Lets what is told and sealed be replayed. Called behind each rise of either.
    pub(super) fn replay_to(&self, sealed: Lsn) {
        // Locked until it is raised, lest the log is cut in between.
        let told = self.told.lock();
        self.replayable.raise(sealed.min(*told));
    }

    /// What is committed now that log is flushed up to `flushed`.
    pub(super) fn committed_by(&self, flushed: Lsn) -> Lsn {
        match self.commit_follows.load(Ordering::Acquire) {
            true => flushed,
            false => flushed.min(*self.told.lock()),
        }
    }

    /// Forgets what is committed above `to`, where the log is cut.
    pub(crate) fn cut_commit(&self, to: Lsn) {
        // Nobody notes a higher one meanwhile.
        let _control = self.control.lock();
        let mut told = self.told.lock();
        *told = told.min(to);
        for position in [&self.replayable, &self.commit] {
            if position.get() > to {
                position.reset(to);
            }
        }
    }

    /// Notes what is flushed, and the commit position, which climbs to `commit`, as far as that is
    /// flushed, if it is lower. It
    /// is noted before it is shown: only a power cut may set a reader's view back. Both happen
    /// while the control file is locked, or another thread could note the lower one in between. A
    /// failure to note it is harmless otherwise.
    pub(crate) fn note(&self, commit: Lsn) {
        let early = canary("commit-noted-as-it-was").then(|| self.commit.get());
        let mut control = self.control.lock();
        // Looked at under the lock, under which a cut takes both back.
        let commit = commit.min(self.committable());
        let commit = commit.max(early.unwrap_or_else(|| self.commit.get()));
        let mark = self.watermark(&control, commit);
        if let Err(error) = control.note_watermark(mark) {
            tracing::warn!(%error, "could not note the watermark; recovery will know less");
        }
        // What was committed when the log was opened, too.
        self.replayable.raise(commit);
        self.commit.raise(commit);
    }
}
