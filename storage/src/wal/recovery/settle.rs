//! Making the end that was found the end on disk: what lies before it is synced, what lies behind
//! it is set aside and zeroed.
//!
//! This is the only part of recovery that writes to the log. It does not ask whether the end is
//! right. A crash in between leaves log that is recovered anew, by the same rules.

use std::collections::BTreeMap;

use super::walk::Stop;
use super::zeros::len_without_trailing_zeros;
use super::{Found, Recovery, TornTail};
use crate::canary;
use crate::disk::DiskFile;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::log_file::End;
use crate::wal::set_aside;

impl Recovery<'_> {
    /// Syncs every file that holds log above the durable watermark.
    pub(super) fn sync_kept(&self, stop: &Stop, segments: &BTreeMap<u64, u32>) -> Result<()> {
        let size = self.owner.size;
        if self.watermark.failed && !canary("believe-the-page-cache") {
            self.rewrite(self.noted(), stop.at, segments)?;
        }
        let from = size.segment_of(self.control.watermark);
        for (&number, &timeline) in segments.range(from..) {
            if size.start_of(number) <= stop.at {
                let path = self.path(number, timeline);
                let file = self
                    .disk
                    .open(&path)
                    .map_err(|e| Error::io("open", &path, e))?;
                file.sync_data()
                    .map_err(|source| Error::io("sync", &path, source))?;
            }
        }
        self.sync_names()
    }

    /// Writes what was read between `from` and `to` once more. After a sync that failed the system
    /// may show bytes that it gave up to write, and would sync nothing. Nobody was told of them, so
    /// that this may tear does no harm.
    fn rewrite(&self, from: Lsn, to: Lsn, segments: &BTreeMap<u64, u32>) -> Result<()> {
        let size = self.owner.size;
        for (&number, &timeline) in segments.range(size.segment_of(from)..=size.segment_of(to)) {
            let start = from.max(size.start_of(number));
            let end = to.min(size.start_of(number + 1));
            if start < end {
                let path = self.path(number, timeline);
                let (file, bytes) = self.read_segment(&path)?;
                let index = |lsn: Lsn| {
                    usize::try_from(lsn - size.start_of(number)).expect("within a segment")
                };
                file.write_all_at(&bytes[index(start)..index(end)], size.offset_of(start))
                    .map_err(|source| Error::io("write", &path, source))?;
            }
        }
        Ok(())
    }

    fn sync_names(&self) -> Result<()> {
        let synced = self.disk.sync_dir(self.wal_dir);
        synced.map_err(|source| Error::io("sync", self.wal_dir, source))
    }

    /// Moves what lies behind the end aside and leaves zeros there.
    pub(super) fn cut(&self, stop: Stop, mut segments: BTreeMap<u64, u32>) -> Result<Found> {
        let size = self.owner.size;
        let offset = size.offset_of(stop.at);
        let mut torn: Option<TornTail> = None;
        // Whole segments behind the end, and one that is at its very start; the last one first and
        // each durably, because a segment that begins validly proves all log before it.
        let behind = size.segment_of(stop.at) + u64::from(offset != 0);
        for (number, timeline) in segments.split_off(&behind).into_iter().rev() {
            let path = self.path(number, timeline);
            if len_without_trailing_zeros(&self.read_segment(&path)?.1) == 0 {
                // A spare that was renamed and not yet written.
                self.disk
                    .remove(&path)
                    .map_err(|source| Error::io("remove", &path, source))?;
            } else {
                let at = size.start_of(number).max(stop.at);
                let aside = set_aside::Aside::new(self.disk, self.aside_dir, timeline, at)?;
                let (saved_to, bytes) = aside.take_file(&path)?;
                let bytes = bytes + torn.map_or(0, |later| later.bytes);
                torn = Some(TornTail {
                    at: stop.at,
                    bytes,
                    saved_to,
                });
            }
            self.sync_names()?;
        }
        if offset != 0
            && let Some(file) = &stop.file
        {
            let tail = stop
                .segment
                .get(usize::try_from(offset).unwrap_or(usize::MAX)..);
            let tail = tail.unwrap_or_default();
            // Behind a log that was closed lies at most what a recycled file held before.
            let len = match self.control.clean {
                true => 0,
                false => len_without_trailing_zeros(tail),
            };
            if len > 0 {
                let timeline = self.control.timeline_number;
                let aside = set_aside::Aside::new(self.disk, self.aside_dir, timeline, stop.at)?;
                torn = Some(TornTail {
                    at: stop.at,
                    bytes: len as u64 + torn.map_or(0, |later| later.bytes),
                    saved_to: aside.save(&tail[..len])?,
                });
            }
            self.zero(&**file, stop.at, len, stop.segment.len())?;
        }
        self.sync_names()?;
        let file = if offset == 0 { None } else { stop.file };
        let (lsn, prev_crc, segment_crc) = (stop.at, stop.prev_crc, stop.segment_crc);
        let end = End {
            lsn,
            prev_crc,
            segment_crc,
            file,
            flushed: stop.at,
        };
        Ok(Found {
            end,
            segments,
            torn,
            loss: None,
            configs: stop.configs,
        })
    }

    /// Zeros `len` bytes from `at`, and restores the file's full size.
    fn zero(&self, file: &dyn DiskFile, at: Lsn, len: usize, file_len: usize) -> Result<()> {
        let offset = self.owner.size.offset_of(at);
        let failed = |source| Error::io("cut", self.wal_dir, source);
        let size = self.owner.size.bytes();
        if len > 0 {
            file.write_all_at(&vec![0; len], offset).map_err(failed)?;
        }
        if (file_len as u64) < size {
            file.set_len(size).map_err(failed)?;
        }
        if len > 0 || (file_len as u64) < size {
            file.sync_data().map_err(failed)?;
        }
        Ok(())
    }
}
