//! What was received goes into the log: whole records, to be written with all that came with them.
//!
//! On a quick disk the receiver writes and syncs what is little itself. It never waits for a slow
//! one more than once a second, so that it hears its upstream and whoever gives it orders.

use std::time::Duration;

use super::Driver;
use crate::error::Result;
use crate::time::Moment;

/// A sync that takes longer is none to wait for on the receiver's thread.
const SLOW_SYNC: Duration = Duration::from_millis(10);

/// How long others do the syncs after one that was slow.
const SLOW_FOR: Duration = Duration::from_secs(1);

/// What the last sync on this thread says of the disk.
#[derive(Debug, Default)]
pub(super) struct DiskSpeed {
    /// It counts as slow until then.
    slow_until: Option<Moment>,
}

impl DiskSpeed {
    /// Whether a sync is left to others at `now`.
    fn is_slow(&self, now: Moment) -> bool {
        self.slow_until.is_some_and(|until| now < until)
    }

    /// A sync on this thread took from `begun` to `ended`.
    fn synced(&mut self, begun: Moment, ended: Moment) {
        self.slow_until = (ended - begun > SLOW_SYNC).then(|| ended + SLOW_FOR);
    }
}

impl Driver {
    /// Writes what was queued, here as long as the disk is quick: whoever waits for a slow one
    /// hears nobody meanwhile.
    pub(super) fn write_queued(&mut self) {
        if !std::mem::take(&mut self.unwritten) {
            return;
        }
        let begun = self.core.clock.now();
        if self.disk.is_slow(begun) {
            return self.core.wal.leave_queued();
        }
        self.core.wal.write_queued();
        self.disk.synced(begun, self.core.clock.now());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_sync_is_the_last_one_here_for_a_while() {
        let mut disk = DiskSpeed::default();
        let begun = Moment::ZERO + Duration::from_secs(5);
        assert!(!disk.is_slow(begun), "nobody knows it yet");
        disk.synced(begun, begun + SLOW_SYNC);
        assert!(
            !disk.is_slow(begun + SLOW_SYNC),
            "not slower than is waited for"
        );
        let ended = begun + SLOW_SYNC + Duration::from_micros(1);
        disk.synced(begun, ended);
        assert!(disk.is_slow(ended));
        let last = ended + (SLOW_FOR - Duration::from_micros(1));
        assert!(disk.is_slow(last), "a second long");
        let again = ended + SLOW_FOR;
        assert!(!disk.is_slow(again), "then it is tried again");
        disk.synced(again, again + Duration::from_micros(100));
        assert!(!disk.is_slow(again), "and is quick");
    }
}
