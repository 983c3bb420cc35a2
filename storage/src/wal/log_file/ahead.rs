//! Writing before the sync, by another thread than the one that syncs.
//!
//! Whoever writes ahead tells nobody that it failed: the writer meets that before it syncs, and
//! stops the log. So a sync never counts for what was not written.

use super::{Item, LogFile, Progress};
use crate::error::Error;

impl LogFile {
    /// Whether `bytes` more of log fit into the segment that is begun, and do not fill it.
    pub(crate) fn holds(&self, bytes: usize) -> bool {
        let begun = self.end.file.is_some() && self.owner.size.offset_of(self.end.lsn) != 0;
        begun && (bytes as u64) < self.owner.space(self.end.lsn)
    }

    /// Writes a group for whoever syncs it later, who is also told if that failed.
    pub(crate) fn write_ahead(&mut self, items: Vec<Item>, out: &mut dyn Progress) {
        self.stopped = Some(Error::Invalid("a writer panicked".to_owned()));
        self.stopped = self.write_items(items, out).err();
    }
}
