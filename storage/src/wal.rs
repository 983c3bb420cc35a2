//! The write-ahead log: one directory, one contiguous address space, one writer.
//!
//! ```text
//! DIR/lock           held while the log is open
//! DIR/control        who this node is, what it has proven          (control.rs)
//! DIR/wal/           segments, named as PostgreSQL names them      (segment.rs, record.rs)
//! DIR/wal/*.history  one per promotion                             (timeline.rs)
//! DIR/set-aside/     what was cut off the log, for audit           (set_aside.rs)
//! ```
//!
//! Positions climb this ladder, each on a [`Signal`](crate::Signal):
//!
//! ```text
//! removed <= checkpoint <= commit <= flushed <= written <= sealed <= appended
//!                          commit <=           replayable <= sealed
//! ```
//!
//! *Appended* has a place in the log, *sealed* has its final bytes, in memory, *written* was handed
//! to the system, *flushed* survives a power cut, *commit* survives what the synchronous policy
//! says it survives. Without a policy commit is flushed. *Replayable* is committed by a primary
//! that this log follows, and maybe flushed there alone; nobody is shown it before it is committed
//! here.
//!
//! # Rules by operation
//!
//! * **Append** reserves places under a lock and returns; a group becomes durable with one write
//!   and one sync (`writer.rs`, `log_file.rs`). Nobody may show, keep or confirm a record before
//!   `flushed` passed it.
//! * **Begin a segment**: the one before is synced, a ready zero-filled file is renamed, the
//!   directory is synced, then the first record is written.
//! * **Open** finds the true end (`recovery.rs`). A torn write is cut and set aside, damage below
//!   what was flushed is an error.
//! * **Cut** takes back log that was never applied, on a standby that follows a new primary.
//! * **Switch** begins a timeline: the history file is durable before the control file names it.
//! * **Remove** gives segments back below a position that the caller answers for.
//!
//! The first failed write or sync poisons the log. It never retries a sync.
//!
//! What this room does not do: it does not know transactions, peers, policies or clocks; the time
//! of a segment's creation is asked of a function it is given.

mod append;
mod broken;
mod check;
mod control;
mod cut;
mod directory;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod inspect;
mod lent;
mod log_file;
mod reader;
mod record;
mod recovery;
mod scan;
mod segment;
mod set_aside;
mod spares;
mod tail;
mod tally;
#[cfg(test)]
mod tests;
mod timelines;
mod unfinished;
mod write_back;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::disk::{Disk, DiskLock};
use crate::error::{Error, Result};
use crate::lsn::{Lsn, SegmentSize};
use crate::signal::Signal;
use crate::sync::thread::JoinHandle;
use crate::sync::{Mutex, RwLock};
use crate::timeline::{Timeline, TimelineHistory};

pub use broken::{BROKEN_FILE, BROKEN_WHY_MAX, BrokenMark, remove_broken_mark};
pub use check::LogCheck;
pub use directory::NewLog;
pub use inspect::{LogFileName, LogFileRecords, LogFiles, Verified};
pub use reader::{LogBytes, WalReader};
pub use record::{RECORD_HEADER_LEN, Record, RecordHead, record_len};
pub use recovery::{AcceptedLoss, Recovered, TornTail};
pub use segment::{
    FORMAT_VERSION, SEGMENT_HEADER_LEN, SEGMENT_HEADER_RECORD_LEN, SEGMENT_MAGIC, SegmentHeader,
    WalSegment, checksum, parse_segment_file_name, segment_file_name,
};
pub use tally::TallyMark;
pub use unfinished::{BACKUP_ARCHIVE, BACKUP_LABEL, BOOTSTRAP_DIR};
pub use writer::QUEUE_BYTES_MAX;

use writer::Shared;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Size of a segment file; fixed when the log is created.
    pub segment_size: SegmentSize,
    /// About how many bytes of the newest log stay in memory for readers.
    pub tail_bytes: usize,
    /// Microseconds since 1970-01-01 UTC, for the creation time in segment headers.
    pub wall_clock: fn() -> i64,
    /// The operator accepts losing all log from exactly here on, although this node had flushed
    /// it. The node gets a new incarnation.
    pub accept_loss_from: Option<Lsn>,
    /// The log has no threads: nothing is written before the caller does it with
    /// [`Wal::drive`]. For simulations, in which one seed decides everything.
    pub driven: bool,
}

impl WalOptions {
    /// Segments of 16 MiB, 32 MiB of log in memory, nothing lost.
    pub fn new(wall_clock: fn() -> i64) -> Self {
        Self {
            segment_size: SegmentSize::DEFAULT,
            tail_bytes: 32 << 20,
            wall_clock,
            accept_loss_from: None,
            driven: false,
        }
    }
}

/// Who a data directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; the same on all its nodes.
    pub system_id: u64,
    /// This node.
    pub node_id: Uuid,
    /// This life of the node's data.
    pub incarnation: Uuid,
}

/// An open log. Clones are handles on the same one; it stops when the last is dropped, and is
/// marked as closed properly only by [`close`](Self::close).
#[derive(Debug, Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    size: SegmentSize,
    /// Whether it had been closed properly.
    clean: bool,
    /// Read while entries that belong together are appended, written while a timeline begins.
    units: RwLock<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Box<dyn DiskLock>>>,
}

impl Wal {
    /// Who this data directory belongs to.
    pub fn identity(&self) -> Identity {
        directory::identity(self.shared().control.lock().get())
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The disk it lies on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.inner.disk
    }

    /// Size of every segment.
    pub fn segment_size(&self) -> SegmentSize {
        self.inner.size
    }

    /// The timeline that new records belong to.
    pub fn timeline(&self) -> Timeline {
        self.history().current()
    }

    /// All timelines up to the current one.
    pub fn history(&self) -> Arc<TimelineHistory> {
        self.shared().owner.read().history.clone()
    }

    /// End of what has a place in the log.
    pub fn appended(&self) -> Lsn {
        self.shared().queue.lock().cursor.next
    }

    /// How many transactions ended in this log below the newest known place at or below `to`,
    /// counted since it was opened: a difference of two such marks is exact.
    pub fn tally(&self, to: Lsn) -> TallyMark {
        self.shared().tally.lock().until(to)
    }

    /// Climbs when bytes have got their final form and can be read, from memory, although they are
    /// neither written nor flushed. Closed when the log is poisoned or closed. Whoever sends them
    /// away from here calls [`allow_overlap`](Self::allow_overlap) first.
    pub fn sealed(&self) -> &Signal {
        &self.shared().sealed
    }

    /// Climbs when bytes were handed to the system. Closed when the log is poisoned or closed.
    pub fn written(&self) -> &Signal {
        &self.shared().written
    }

    /// Climbs when bytes survive a power cut. Closed when the log is poisoned or closed.
    pub fn flushed(&self) -> &Signal {
        &self.shared().flushed
    }

    /// The commit position: see [`set_commit_follows`](Self::set_commit_follows).
    pub fn commit(&self) -> &Signal {
        &self.shared().commit
    }

    /// Whether the commit position follows the flushed one by itself (`true`, the start), or is
    /// raised by [`advance_commit`](Self::advance_commit) and
    /// [`follow_commit`](Self::follow_commit) alone: under a synchronous policy, and on a standby.
    pub fn set_commit_follows(&self, follows: bool) {
        self.shared()
            .commit_follows
            .store(follows, Ordering::Release);
        if follows {
            self.advance_commit(self.shared().flushed.get());
        }
    }

    /// Raises the commit position. A position beyond what is flushed here counts only up to that.
    pub fn advance_commit(&self, to: Lsn) {
        self.shared().advance_commit(to);
    }

    /// Follows a primary that has committed up to `to`: log up to there may be
    /// [replayed](Self::replayable) once it is sealed here, and is committed here too once it is
    /// flushed, whichever comes when. What is not appended by now does not count.
    pub fn follow_commit(&self, to: Lsn) {
        self.shared().follow_commit(to);
    }

    /// Climbs when log can be replayed because it is committed elsewhere, although it may not be
    /// flushed here yet: between the [commit position](Self::commit) and what is sealed.
    pub fn replayable(&self) -> &Signal {
        &self.shared().replayable
    }

    /// The error that every append now ends with, if the log was poisoned.
    pub fn poisoned(&self) -> Option<Error> {
        self.shared().poisoned()
    }

    /// Does one piece of work of a log that is [driven](WalOptions::driven): makes a spare segment,
    /// writes a group, or syncs it. Says whether there was any. A failure poisons the log, as
    /// everywhere.
    pub fn drive(&self) -> bool {
        self.shared().drive()
    }

    /// Writes out what is queued, marks the log as properly closed and releases the directory.
    /// Every wait ends. A second call does nothing.
    ///
    /// # Errors
    /// [`Error::Poisoned`] or a disk error; the next open then recovers as after a crash.
    pub fn close(&self) -> Result<()> {
        let lock = self.inner.lock.lock().take();
        if lock.is_none() {
            return Ok(());
        }
        self.inner.stop_threads();
        let poisoned = self.poisoned();
        let closed = match poisoned {
            Some(error) => Err(error),
            None => {
                let flushed = self.flushed().get();
                self.update_control(|control| {
                    control.clean = true;
                    // A close makes nothing undone that a crash before it did.
                    control.overlapped = self.must_begin_timeline();
                    control.watermark = flushed;
                })
            }
        };
        self.shared().end_waits();
        // A handle that outlives the close must not reach what the next owner writes.
        let changing = self.shared().changing.lock();
        self.shared().control.lock().close();
        drop((changing, lock));
        closed
    }

    /// Ends every wait and the log's threads without marking it as properly closed: the next open
    /// recovers as after a crash.
    pub fn stop(&self) {
        self.inner.stop_threads();
        self.shared().end_waits();
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    fn wal_dir(&self) -> PathBuf {
        directory::wal_dir(&self.inner.dir)
    }
}

impl Inner {
    fn stop_threads(&self) {
        self.shared.close();
        self.shared.finish();
        for thread in self.threads.lock().drain(..) {
            // A panicking writer has already said why; there is nobody else to tell.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_threads();
        self.shared.end_waits();
    }
}
