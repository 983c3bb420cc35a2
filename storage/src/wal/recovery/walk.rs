//! The walk over the segments: up to where the log is valid, and what it says about itself.
//!
//! It stops at the first bytes that are no record, and at the end that was asked for. A segment
//! whose first record is valid and says something else than its place is refused. Nothing is
//! changed. Whether the stop is the end of the log or damage is not known here.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use crc32fast::Hasher;

use super::Recovery;
use crate::disk::DiskFile;
use crate::entry::WalEntryType;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::record::{Invalid, RECORD_HEADER_LEN};
use crate::wal::scan::{Scan, Step};
use crate::wal::segment::{FORMAT_VERSION, SegmentHeader};

/// Where the walk over the segments stopped.
pub(super) struct Stop {
    pub(super) at: Lsn,
    pub(super) why: Invalid,
    pub(super) prev_crc: Option<u32>,
    /// Bytes of the segment that `at` is in, empty when there is no such file.
    pub(super) segment: Vec<u8>,
    pub(super) file: Option<Arc<dyn DiskFile>>,
    /// Over the segment that `at` is in, up to `at`; over the one before when `at` is its start.
    pub(super) segment_crc: Hasher,
    /// Highest position proven flushed by the records walked over.
    pub(super) proven: Lsn,
    pub(super) configs: Vec<(Lsn, Bytes)>,
}

impl Recovery<'_> {
    pub(super) fn walk(&self, segments: &BTreeMap<u64, u32>) -> Result<Stop> {
        let size = self.owner.size;
        // A store may be ahead of the log that comes with it.
        let start = self.control.checkpoint.min(self.control.watermark);
        let start = start.max(self.control.log_begin);
        let mut number = size.segment_of(start);
        if size.offset_of(start) == 0 && start > self.control.log_begin {
            // The record before the start ends there, and the next one continues it.
            number -= 1;
        }
        let mut stop = Stop {
            at: size.start_of(number).max(self.control.log_begin),
            why: Invalid::Empty,
            prev_crc: None,
            segment: Vec::new(),
            file: None,
            segment_crc: Hasher::new(),
            proven: Lsn::ZERO,
            configs: Vec::new(),
        };
        let first = number;
        while let Some(&timeline) = segments.get(&number) {
            if Some(size.start_of(number)) == self.end_at {
                break;
            }
            let path = self.path(number, timeline);
            let (file, bytes) = self.read_segment(&path)?;
            let previous = (number > first).then(|| stop.segment_crc.clone().finalize());
            let next = size.start_of(number + 1);
            let finished = segments.contains_key(&(number + 1)) || self.noted() >= next;
            let ended = self.walk_segment(&path, &bytes, previous, finished, &mut stop)?;
            let used = usize::try_from(stop.at.bytes_since(size.start_of(number)))
                .expect("within a segment");
            // A segment with nothing in it is begun anew, by a header that vouches for the one
            // before it.
            if used > 0 {
                stop.segment_crc = Hasher::new();
                stop.segment_crc.update(bytes.get(..used).unwrap_or(&bytes));
            }
            (stop.segment, stop.file) = (bytes, Some(file));
            if let Err(why) = ended {
                stop.why = why;
                return Ok(stop);
            }
            number += 1;
        }
        // The log ends with a whole segment, or before its first one.
        (stop.segment, stop.file) = (Vec::new(), None);
        stop.why = Invalid::Empty;
        Ok(stop)
    }

    /// Walks one segment; `Err` inside says at what the walk stopped. Zeros at its end that are
    /// too few for a record are passed only when it is `finished`.
    fn walk_segment(
        &self,
        path: &Path,
        bytes: &[u8],
        previous_crc: Option<u32>,
        finished: bool,
        stop: &mut Stop,
    ) -> Result<std::result::Result<(), Invalid>> {
        let mut scan = Scan::new(self.owner, bytes, stop.at, stop.prev_crc);
        let number = self.owner.size.segment_of(stop.at);
        let end = self.owner.size.start_of(number + 1);
        while scan.at() < end {
            if Some(scan.at()) == self.end_at {
                (stop.at, stop.prev_crc) = (scan.at(), scan.prev_crc());
                return Ok(Err(Invalid::Empty));
            }
            let remaining = scan.remaining();
            match scan.step() {
                Ok(Step::Rest { .. }) if finished => {}
                Ok(Step::Rest { at, .. }) => {
                    (stop.at, stop.prev_crc) = (at, scan.prev_crc());
                    return Ok(Err(Invalid::Empty));
                }
                Ok(Step::Record { at, parsed }) => {
                    if at >= self.control.own_from {
                        stop.proven = stop.proven.max(parsed.head.flushed_upto);
                    }
                    let payload = &remaining[RECORD_HEADER_LEN..][..parsed.payload_len];
                    if parsed.head.entry_type == WalEntryType::Config {
                        stop.configs
                            .push((scan.at(), Bytes::copy_from_slice(payload)));
                    }
                    if self.owner.size.offset_of(at) == 0 {
                        let header = parsed.head.entry_type == WalEntryType::SegmentHeader;
                        self.check_header(path, at, header.then_some(payload), previous_crc)?;
                    }
                }
                Err(why) => {
                    (stop.at, stop.prev_crc) = (scan.at(), scan.prev_crc());
                    return Ok(Err(why));
                }
            }
        }
        (stop.at, stop.prev_crc) = (scan.at(), scan.prev_crc());
        Ok(Ok(()))
    }

    /// Checks the first record of a segment, whose CRC is valid already.
    fn check_header(
        &self,
        path: &Path,
        at: Lsn,
        payload: Option<&[u8]>,
        previous_crc: Option<u32>,
    ) -> Result<()> {
        let corrupt = |why: &str| Error::Corrupt {
            path: path.to_owned(),
            what: "segment header",
            at,
            proven: at,
            why: why.to_owned(),
        };
        let payload = payload.ok_or_else(|| corrupt("the first record is no segment header"))?;
        let header = SegmentHeader::decode(payload).map_err(|found| match found {
            0 => corrupt("it cannot be read"),
            found => Error::Format {
                path: path.to_owned(),
                found,
                supported: FORMAT_VERSION,
            },
        })?;
        if header.start_lsn != at || u64::from(header.segment_size) != self.owner.size.bytes() {
            return Err(corrupt("it belongs to another position or segment size"));
        }
        if previous_crc.is_some_and(|crc| crc != header.previous_crc) {
            return Err(corrupt("the segment before it has another checksum"));
        }
        Ok(())
    }
}
