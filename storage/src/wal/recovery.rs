//! Finding the true end of a log after a crash.
//!
//! Recovery walks the log from the last checkpoint and stops at the first bytes that are no valid
//! record. Whether that is a torn write or damage is decided by what *this node* is proven to have
//! flushed, never by what looks plausible:
//!
//! | proof of "flushed up to P" | valid for |
//! |---|---|
//! | the control file's durable watermark, and its unsynced one | every node |
//! | a valid header in the file of segment n + 1: all of n was synced before | every node |
//! | `flushed_upto` in a valid record, anywhere | the node that wrote the record itself |
//! | a clean shutdown: the log ends exactly at the watermark | every node |
//!
//! The zeros at the end of a segment that are too few for a record belong to the log once the next
//! segment has begun, or once they are known to be flushed; until then the log ends before them.
//!
//! A hole at or above P is a torn write that nobody was told about: what lies behind it is copied
//! to `set-aside/`, then zeroed, and reported. A hole below P is [`Corrupt`](Error::Corrupt) and
//! nothing is touched. What is kept is synced before it is reported, because reading it back only
//! proves that the page cache has it.

mod look;
mod loss;
mod proof;
mod settle;
mod walk;
mod zeros;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::control::{Control, Watermark};
use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::log_file::End;
use crate::wal::scan::Owner;
use crate::wal::segment::{parse_segment_file_name, segment_file_name};

pub use loss::AcceptedLoss;

/// What recovery found.
#[derive(Debug)]
pub struct Recovered {
    /// Where the log ends.
    pub end: Lsn,
    /// Whether it had been closed properly.
    pub clean: bool,
    /// The torn write that was cut off, if there was one.
    pub torn: Option<TornTail>,
    /// The log that was given up although this node had flushed it, if the operator accepted that.
    pub loss: Option<AcceptedLoss>,
}

/// A write that was never finished, cut off the end of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// Where it began.
    pub at: Lsn,
    /// Bytes from there to the last one that was not zero.
    pub bytes: u64,
    /// Where they were copied to.
    pub saved_to: PathBuf,
}

/// The log as recovered: its end, ready to be written, and the files that hold it.
pub(crate) struct Found {
    pub(crate) end: End,
    /// Segment number to the timeline in its file's name.
    pub(crate) segments: BTreeMap<u64, u32>,
    pub(crate) torn: Option<TornTail>,
    pub(crate) loss: Option<AcceptedLoss>,
    /// `Config` entries from the checkpoint on: end of the record, and its payload.
    pub(crate) configs: Vec<(Lsn, Bytes)>,
}

impl Found {
    /// What is told of it; `clean` says whether the log had been closed properly.
    pub(crate) fn report(&self, clean: bool) -> Recovered {
        Recovered {
            end: self.end.lsn,
            clean,
            torn: self.torn.clone(),
            loss: self.loss.clone(),
        }
    }
}

/// The inputs of recovery.
pub(crate) struct Recovery<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) wal_dir: &'a Path,
    pub(crate) aside_dir: &'a Path,
    pub(crate) owner: &'a Owner,
    pub(crate) control: &'a Control,
    pub(crate) watermark: Watermark,
    /// The owner accepts losing everything from here on, damaged or not.
    pub(crate) accept_loss_from: Option<Lsn>,
    /// Stop here even if the log goes on.
    pub(crate) end_at: Option<Lsn>,
}

impl Recovery<'_> {
    /// Finds the end of the log and cuts off what is torn.
    ///
    /// # Errors
    /// `Corrupt`, `Format`, disk errors. Nothing was changed then.
    pub(crate) fn run(&self) -> Result<Found> {
        let names = self.list()?;
        let segments = self.segments(&names);
        let stop = self.walk(&segments)?;
        let proven = self.proven(&stop, &segments)?;
        self.judge(&stop, proven)?;
        self.sync_kept(&stop, &segments)?;
        let from = stop.at;
        let mut found = self.cut(stop, segments)?;
        if from < proven {
            let left = found.torn.take();
            let loss = AcceptedLoss { from, proven, left };
            tracing::error!("{loss}");
            found.loss = Some(loss);
        }
        Ok(found)
    }

    /// Ends the log at `end_at`, whatever follows, after `before` allowed it. Nothing is changed
    /// earlier.
    ///
    /// # Errors
    /// `Invalid` when no record ends there; disk errors.
    pub(crate) fn cut_at_end(&self, before: impl FnOnce() -> Result<()>) -> Result<Found> {
        let segments = self.segments(&self.list()?);
        let stop = self.walk(&segments)?;
        if Some(stop.at) != self.end_at {
            let wanted = self.end_at.unwrap_or(Lsn::ZERO);
            return Err(Error::Invalid(format!("no record ends at {wanted}")));
        }
        before()?;
        self.cut(stop, segments)
    }

    fn list(&self) -> Result<Vec<String>> {
        self.disk
            .list(self.wal_dir)
            .map_err(|source| Error::io("list", self.wal_dir, source))
    }

    /// The file to use for each segment: of the newest timeline in our history. Files of timelines
    /// that were begun and never became ours are not part of the log, nor are those that another
    /// timeline took over before they were full.
    fn segments(&self, names: &[String]) -> BTreeMap<u64, u32> {
        let mut segments = BTreeMap::new();
        for name in names {
            let Some((timeline, number)) = parse_segment_file_name(name, self.owner.size) else {
                continue;
            };
            // Any other is what another timeline left of the same segment.
            if timeline == self.owner.file_timeline(number).number {
                segments.insert(number, timeline);
            }
        }
        segments
    }

    fn path(&self, number: u64, timeline: u32) -> PathBuf {
        self.wal_dir
            .join(segment_file_name(timeline, number, self.owner.size))
    }

    /// A segment's bytes: its full size, or less when the file is shorter.
    fn read_segment(&self, path: &Path) -> Result<(Arc<dyn DiskFile>, Vec<u8>)> {
        let file = self
            .disk
            .open(path)
            .map_err(|source| Error::io("open", path, source))?;
        let len = file
            .len()
            .map_err(|source| Error::io("inspect", path, source))?;
        let len = usize::try_from(len.min(self.owner.size.bytes())).expect("at most 1 GiB");
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|source| Error::io("read", path, source))?;
        Ok((file, bytes))
    }
}
