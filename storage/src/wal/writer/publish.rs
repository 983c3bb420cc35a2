//! What the writer did, made visible to everybody else.

use bytes::Bytes;

use super::Shared;
use crate::canary;
use crate::lsn::Lsn;
use crate::wal::log_file::Progress;

/// Makes the writer's progress visible.
pub(super) struct Publish<'a> {
    pub(super) shared: &'a Shared,
}

impl Progress for Publish<'_> {
    fn sealed(&mut self, at: Lsn, bytes: Bytes) {
        let end = at + bytes.len() as u64;
        if canary("told-before-it-can-be-read") {
            self.shared.sealed.raise(end);
        }
        self.shared.tail.write().push(at, bytes);
        self.shared.sealed.raise(end);
        self.shared.replay_to(end);
    }

    fn written(&mut self, lsn: Lsn) {
        self.shared.written.raise(lsn);
        self.shared.tail.write().shrink(lsn);
    }

    fn flushed(&mut self, lsn: Lsn) {
        self.shared.flushed.raise(lsn);
        self.shared.note(self.shared.committed_by(lsn));
    }

    fn segment(&mut self, number: u64, timeline: u32) {
        self.shared.segments.write().insert(number, timeline);
    }
}
