//! Taking back the end of the log, which another primary's timeline left out.
//!
//! Nothing is being written meanwhile. A crash leaves the log whole or cut, and repeating the cut
//! is right. What is cut is set aside, never destroyed.

use crate::canary;
use crate::control::Watermark;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::Wal;
use crate::wal::recovery::{Recovery, TornTail};

impl Wal {
    /// Takes back the log from `to` on, which nobody applied and whose loss is known to be right:
    /// another primary's timeline left ours there. What is cut is set aside.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no record ends at `to`, or below what is committed, checkpointed or
    /// [replayed](Self::replayable) here; disk errors, after which the log is poisoned: the node
    /// must be restarted and the cut repeated.
    pub fn cut(&self, to: Lsn) -> Result<Option<TornTail>> {
        self.cut_above(|| self.shared().replayable.get(), to)
    }

    /// As [`cut`](Self::cut), but also what was committed here, as far as this node knew: another
    /// primary decided otherwise, and the store that stands on this log was taken back already. The
    /// commit LSN goes back with the log.
    ///
    /// # Errors
    /// As [`cut`](Self::cut); only what is checkpointed cannot be taken back.
    pub fn rewind(&self, to: Lsn) -> Result<Option<TornTail>> {
        self.cut_above(|| Lsn::ZERO, to)
    }

    fn cut_above(&self, floor: impl FnOnce() -> Lsn, to: Lsn) -> Result<Option<TornTail>> {
        let shared = self.shared();
        shared.exclusively(|file, halfway| {
            // Now that nothing is on its way to the disk, which moves it.
            let settled = self.settled_control();
            let floor = floor().max(settled.checkpoint);
            if to < floor || to > file.end.lsn {
                let end = file.end.lsn;
                let range = format!("between {floor} (which must stay) and {end} (the end)");
                return Err(Error::Invalid(format!(
                    "the log can be cut {range}, not at {to}"
                )));
            }
            if to == file.end.lsn {
                return Ok(None);
            }
            let control = self.control();
            let recovery = Recovery {
                disk: &*file.disk,
                wal_dir: &file.dir,
                aside_dir: &self.aside_dir(),
                owner: &file.owner,
                control: &control,
                watermark: Default::default(),
                accept_loss_from: None,
                end_at: Some(to),
            };
            let found = recovery.cut_at_end(|| {
                // First lower what counts as proven, the marks of our own records included: a
                // crash during the cut must not look like damage. The positions come before, lest
                // a checkpoint notes what they say meanwhile.
                *halfway = true;
                shared.sealed.reset(to);
                shared.written.reset(to);
                shared.flushed.reset(to);
                shared.cut_commit(to);
                if canary("cut-before-the-marks-fall") {
                    return Ok(());
                }
                self.update_control(|control| {
                    control.watermark = to;
                    control.own_from = Lsn::MAX;
                })?;
                self.forget_watermarks(to)
            })?;
            file.end = found.end;
            *shared.segments.write() = found.segments;
            shared.configs.lock().retain(|(end, _)| *end <= to);
            Ok(found.torn)
        })
    }

    /// Overwrites both unsynced watermarks, so that none speaks of log that is cut or of another
    /// timeline.
    pub(super) fn forget_watermarks(&self, end: Lsn) -> Result<()> {
        let mut control = self.shared().control.lock();
        let timeline_number = control.get().timeline_number;
        let commit = self.shared().commit.get().min(end);
        let mark = Watermark {
            flushed: end,
            commit,
            timeline_number,
            failed: false,
        };
        control.forget_watermarks(mark)
    }
}
