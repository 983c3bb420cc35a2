//! What this node is proven to have flushed, and what follows for the place where the walk stopped.
//!
//! Each kind of proof of the table in `recovery.rs` is weighed here, and nowhere else. Nothing is
//! changed: a verdict of damage leaves everything as it was found.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::Recovery;
use super::walk::Stop;
use super::zeros::leading_zeros;
use crate::canary;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::record::{Invalid, RECORD_HEADER_LEN};
use crate::wal::scan::{Scan, Step};
use crate::wal::segment::SEGMENT_HEADER_LEN;

impl Recovery<'_> {
    /// What the watermarks say was flushed; the unsynced one counts for its own timeline only.
    pub(super) fn noted(&self) -> Lsn {
        let durable = self.control.watermark;
        if self.watermark.timeline_number == self.control.timeline_number {
            durable.max(self.watermark.flushed)
        } else {
            durable
        }
    }

    /// The highest position this node is proven to have flushed.
    pub(super) fn proven(&self, stop: &Stop, segments: &BTreeMap<u64, u32>) -> Result<Lsn> {
        let mut proven = self.noted().max(stop.proven).max(self.marks_behind(stop));
        let here = self.owner.size.segment_of(stop.at);
        for (&number, &timeline) in segments.range(here..) {
            let at = self.owner.size.start_of(number);
            if at > stop.at && self.has_valid_header(&self.path(number, timeline), at)? {
                proven = proven.max(at);
            }
        }
        Ok(proven)
    }

    /// What valid records of our own behind the hole, in its segment, prove. Each 8-aligned place
    /// is tried, because the length of a damaged record cannot be trusted.
    fn marks_behind(&self, stop: &Stop) -> Lsn {
        let size = self.owner.size;
        let mut proven = Lsn::ZERO;
        let mut offset = usize::try_from(size.offset_of(stop.at)).expect("within a segment");
        while let Some(bytes) = stop.segment.get(offset..).filter(|bytes| !bytes.is_empty()) {
            let zeros = leading_zeros(bytes);
            if zeros >= RECORD_HEADER_LEN {
                offset += zeros - zeros % 8;
                continue;
            }
            let number = size.segment_of(stop.at);
            let at = size.start_of(number) + offset as u64;
            let mut scan = Scan::new(self.owner, bytes, at, None);
            if let Ok(Step::Record { parsed, .. }) = scan.step() {
                let own = at >= self.control.own_from || canary("peers-marks-as-own");
                if own && parsed.head.flushed_upto <= at {
                    proven = proven.max(parsed.head.flushed_upto);
                }
                offset += parsed.len();
            } else {
                offset += 8;
            }
        }
        proven
    }

    fn has_valid_header(&self, path: &Path, at: Lsn) -> Result<bool> {
        let file = self
            .disk
            .open(path)
            .map_err(|source| Error::io("open", path, source))?;
        let mut bytes = [0; RECORD_HEADER_LEN + SEGMENT_HEADER_LEN];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read.map_err(|source| Error::io("read", path, source))?,
        }
        Ok(Scan::new(self.owner, &bytes, at, None).step().is_ok())
    }

    /// Decides between damage and a torn write.
    pub(super) fn judge(&self, stop: &Stop, proven: Lsn) -> Result<()> {
        if self.accept_loss_from == Some(stop.at) || canary("truncate-at-first-bad-crc") {
            return Ok(());
        }
        let number = self.owner.size.segment_of(stop.at);
        let timeline = self.owner.history.owner(stop.at).number;
        let corrupt = |proven: Lsn, why: String| Error::Corrupt {
            path: self.path(number, timeline),
            what: "record",
            at: stop.at,
            proven,
            why,
        };
        if stop.at < proven {
            let why = match (stop.why, stop.segment.is_empty()) {
                (_, true) => "the segment is missing".to_owned(),
                (Invalid::Short, _) => "the file ends there".to_owned(),
                (why, false) => why.to_string(),
            };
            return Err(corrupt(proven, why));
        }
        if self.control.clean && stop.at != self.control.watermark {
            let watermark = self.control.watermark;
            let why = format!("the log goes on, although it was closed at {watermark}");
            return Err(corrupt(watermark, why));
        }
        Ok(())
    }
}
