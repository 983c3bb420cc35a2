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

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use crc32fast::Hasher;

use crate::canary;
use crate::control::{Control, Watermark};
use crate::disk::{Disk, DiskFile};
use crate::entry::WalEntryType;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::log_file::End;
use crate::wal::record::{Invalid, RECORD_HEADER_LEN};
use crate::wal::scan::{Owner, Scan, Step};
use crate::wal::segment::{
    FORMAT_VERSION, SEGMENT_HEADER_LEN, SegmentHeader, parse_segment_file_name, segment_file_name,
};
use crate::wal::set_aside;

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

/// Where the walk over the segments stopped.
struct Stop {
    at: Lsn,
    why: Invalid,
    prev_crc: Option<u32>,
    /// Bytes of the segment that `at` is in, empty when there is no such file.
    segment: Vec<u8>,
    file: Option<std::sync::Arc<dyn DiskFile>>,
    /// Over the segment that `at` is in, up to `at`; over the one before when `at` is its start.
    segment_crc: Hasher,
    /// Highest position proven flushed by the records walked over.
    proven: Lsn,
    configs: Vec<(Lsn, Bytes)>,
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

    fn walk(&self, segments: &BTreeMap<u64, u32>) -> Result<Stop> {
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

    /// What the watermarks say was flushed; the unsynced one counts for its own timeline only.
    fn noted(&self) -> Lsn {
        let durable = self.control.watermark;
        if self.watermark.timeline_number == self.control.timeline_number {
            durable.max(self.watermark.flushed)
        } else {
            durable
        }
    }

    /// The highest position this node is proven to have flushed.
    fn proven(&self, stop: &Stop, segments: &BTreeMap<u64, u32>) -> Result<Lsn> {
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
    fn judge(&self, stop: &Stop, proven: Lsn) -> Result<()> {
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

    /// Syncs every file that holds log above the durable watermark.
    fn sync_kept(&self, stop: &Stop, segments: &BTreeMap<u64, u32>) -> Result<()> {
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
    fn cut(&self, stop: Stop, mut segments: BTreeMap<u64, u32>) -> Result<Found> {
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

    /// A segment's bytes: its full size, or less when the file is shorter.
    fn read_segment(&self, path: &Path) -> Result<(std::sync::Arc<dyn DiskFile>, Vec<u8>)> {
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

const ZEROS: [u8; 4096] = [0; 4096];

/// How many zero bytes `bytes` begin with, compared by the page because most of a log is zero.
fn leading_zeros(bytes: &[u8]) -> usize {
    let pages = bytes
        .chunks_exact(ZEROS.len())
        .take_while(|page| *page == ZEROS)
        .count();
    let whole = pages * ZEROS.len();
    let rest = &bytes[whole..];
    whole
        + rest
            .iter()
            .take(ZEROS.len())
            .take_while(|&&byte| byte == 0)
            .count()
}

/// Length of `bytes` up to the last one that is not zero.
fn len_without_trailing_zeros(bytes: &[u8]) -> usize {
    let pages = bytes
        .rchunks_exact(ZEROS.len())
        .take_while(|page| *page == ZEROS)
        .count();
    let rest = &bytes[..bytes.len() - pages * ZEROS.len()];
    rest.iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}
