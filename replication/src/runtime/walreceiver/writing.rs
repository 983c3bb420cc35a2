//! What was received goes into the log: whole records, to be written with all that came with them.
//!
//! On a quick disk the receiver writes and syncs what is little itself. It never waits for a slow
//! one more than once a second, so that it hears its upstream and whoever gives it orders.

use std::time::Duration;

use super::Driver;
use crate::error::Result;

/// A sync that takes longer is none to wait for on the receiver's thread.
const SLOW_SYNC: Duration = Duration::from_millis(10);

/// How long others do the syncs after one that was slow.
const SLOW_FOR: Duration = Duration::from_secs(1);

impl Driver {
    /// Writes what was queued, here as long as the disk is quick: whoever waits for a slow one
    /// hears nobody meanwhile.
    pub(super) fn write_queued(&mut self) {
        if !std::mem::take(&mut self.unwritten) {
            return;
        }
        let begun = self.core.clock.now();
        if self.slow_until.is_some_and(|until| begun < until) {
            return self.core.wal.leave_queued();
        }
        self.core.wal.write_queued();
        let ended = self.core.clock.now();
        self.slow_until = (ended - begun > SLOW_SYNC).then(|| ended + SLOW_FOR);
    }

    /// Hands whole records to the log, to be written with all that came with them.
    pub(super) fn write(&mut self) -> Result<()> {
        self.unwritten = true;
        let wal = &self.core.wal;
        let queued = self
            .incoming
            .hand_over(|at, bytes| wal.queue_raw(at, bytes));
        Ok(queued?)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.unwritten {
            self.core.wal.leave_queued();
        }
    }
}
