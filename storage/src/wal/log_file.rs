//! The end of the log, where it is written: seals records, writes groups, begins segments.
//!
//! One [`LogFile`] exists per log and one thread uses it at a time. It works in this order and
//! stops for good at the first failure:
//!
//! 1. seal the group's records in LSN order, each chained to the one before;
//! 2. write them with one call per segment touched, followed by 32 zero bytes, so that after a
//!    crash a finished group is told from a torn one even in a recycled file; a large group is
//!    several such writes, and the disk begins with one while the next is made; much log of
//!    another node is written from where it lies (`raw.rs`);
//! 3. sync. A segment is synced before the next one begins, so the header of segment n + 1 proves
//!    that all of n was flushed;
//! 4. a new segment is a spare, renamed, its name synced before anything in it is.
//!
//! It knows no appenders, no readers and no peers; what became of the bytes it tells a [`Progress`].

mod ahead;
pub(crate) mod raw;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;

use crate::canary;
use crate::disk::{Disk, DiskFile};
use crate::entry::WalEntryType;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::lent::{LENT_MIN, Lent};
use crate::wal::record::{PayloadCrc, RECORD_HEADER_LEN, RecordHead, record_len, seal};
use crate::wal::scan::Owner;
use crate::wal::segment::{Cursor, REST_MAX, SegmentHeader, segment_file_name};
use crate::wal::spares::Spares;
use crate::wal::write_back::WriteBack;

/// Bytes that a group has beyond its records, nearly always: headers of segments, zeros at its end.
const GROUP_EXTRA: usize = 4096;

/// A large group is written in pieces of this many bytes, or little more.
const PIECE_BYTES: usize = 1 << 20;

/// A record whose place is reserved and whose header is not made yet.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) at: Lsn,
    pub(crate) entry_type: WalEntryType,
    pub(crate) tx_id: u64,
    pub(crate) payload: Bytes,
    pub(crate) crc: PayloadCrc,
}

/// What is to be written next.
#[derive(Debug)]
pub(crate) enum Item {
    /// A record of our own.
    Draft(Draft),
    /// Sealed records from the primary, checked already; `crc` is the last one's.
    Raw { at: Lsn, bytes: Bytes, crc: u32 },
}

impl Item {
    /// How many bytes of log it is, without what begins or ends a segment.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Draft(draft) => record_len(draft.payload.len()),
            Self::Raw { bytes, .. } => bytes.len(),
        }
    }

    /// How much of that is copied before it is written.
    fn copied(&self) -> usize {
        match self {
            Self::Raw { bytes, .. } if raw::lies_ready(bytes.len()) => 0,
            item => item.len(),
        }
    }
}

/// Told what became of the bytes.
pub(crate) trait Progress {
    /// These bytes continue the log; they are not written yet.
    fn sealed(&mut self, at: Lsn, bytes: Bytes);
    /// Everything below `lsn` was handed to the system.
    fn written(&mut self, lsn: Lsn);
    /// Everything below `lsn` survives a power cut.
    fn flushed(&mut self, lsn: Lsn);
    /// Segment `number` begins, in the file of timeline `timeline`.
    fn segment(&mut self, number: u64, timeline: u32);
}

/// The writable end of a log.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) owner: Arc<Owner>,
    pub(crate) spares: Arc<Spares>,
    pub(crate) wall_clock: fn() -> i64,
    pub(crate) end: End,
    /// Records sealed and not yet written; they start at `end.lsn - buffer.len()`.
    buffer: BytesMut,
    /// Bytes of this group that are still to come into the buffer, about.
    to_come: usize,
    /// Bytes written since the disk was last asked to begin.
    piece: usize,
    lent: Lent,
    /// Syncs the pieces of a large group; nobody does where there are no threads.
    pub(crate) write_back: Option<WriteBack>,
    /// What stopped it, until whoever syncs next meets it.
    stopped: Option<Error>,
}

/// Where a log ends, and what the next record needs to know about the bytes before.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) lsn: Lsn,
    /// CRC of the last record; `None` when the log begins here, with any predecessor.
    pub(crate) prev_crc: Option<u32>,
    /// Over the bytes of the segment that `lsn` is in, as far as they were written.
    pub(crate) segment_crc: Hasher,
    /// The file of that segment; `None` when `lsn` is at a segment's start.
    pub(crate) file: Option<Arc<dyn DiskFile>>,
    /// Everything below is synced.
    pub(crate) flushed: Lsn,
}

impl LogFile {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        owner: Arc<Owner>,
        spares: Arc<Spares>,
        wall_clock: fn() -> i64,
        end: End,
    ) -> Self {
        let dir = dir.to_owned();
        Self {
            disk,
            dir,
            owner,
            spares,
            wall_clock,
            end,
            buffer: BytesMut::new(),
            to_come: 0,
            piece: 0,
            lent: Lent::default(),
            write_back: None,
            stopped: None,
        }
    }

    /// Writes and syncs a group, and what was [written ahead](Self::write_ahead).
    ///
    /// # Errors
    /// The first disk error. The log must not be written again by this value.
    pub(crate) fn write_group(&mut self, items: Vec<Item>, out: &mut dyn Progress) -> Result<()> {
        if let Some(error) = self.stopped.take() {
            return Err(error);
        }
        self.write_items(items, out)?;
        self.sync(out)
    }

    /// The first half of [`write_group`](Self::write_group): seals and writes.
    ///
    /// # Errors
    /// As [`write_group`](Self::write_group).
    pub(crate) fn write_items(&mut self, items: Vec<Item>, out: &mut dyn Progress) -> Result<()> {
        self.to_come = items.iter().map(Item::copied).sum();
        self.make_room();
        for item in items {
            match item {
                Item::Draft(draft) => self.seal_draft(&draft, out)?,
                Item::Raw { at, bytes, crc } => self.take_raw(at, bytes, crc, out)?,
            }
            if self.buffer.len() >= PIECE_BYTES {
                self.write(out)?;
            }
            if self.piece >= PIECE_BYTES {
                self.write_back()?;
            }
        }
        self.write(out)
    }

    fn seal_draft(&mut self, draft: &Draft, out: &mut dyn Progress) -> Result<()> {
        let mut cursor = Cursor {
            next: self.end.lsn,
            size: self.owner.size,
        };
        let placed = cursor.place(draft.payload.len());
        assert_eq!(
            placed.at, draft.at,
            "a record must be sealed where it was reserved"
        );
        if placed.fill_from.is_some() {
            self.fill_segment();
        }
        if let Some(at) = placed.header_at {
            self.begin_segment(at, out)?;
            self.seal_segment_header(at);
        }
        self.seal(draft.entry_type, draft.tx_id, &draft.payload, &draft.crc);
        Ok(())
    }

    fn seal(&mut self, entry_type: WalEntryType, tx_id: u64, payload: &[u8], crc: &PayloadCrc) {
        let place = self.owner.place(self.end.lsn);
        let flushed_upto = self.end.flushed;
        let head = RecordHead {
            entry_type,
            flags: 0,
            tx_id,
            flushed_upto,
        };
        let (header, own) = seal(&place, self.end.prev_crc.unwrap_or(0), &head, payload, crc);
        self.end.prev_crc = Some(own);
        self.push(&header);
        self.push(payload);
        let padding = record_len(payload.len()) - RECORD_HEADER_LEN - payload.len();
        self.push(&[0; 8][..padding]);
    }

    /// Takes memory for what is still to come of a large group.
    fn make_room(&mut self) {
        let room = self.to_come.min(PIECE_BYTES + LENT_MIN) + GROUP_EXTRA;
        if room >= LENT_MIN && self.buffer.capacity() < room {
            self.buffer = self.lent.take(room);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.end.lsn = self.end.lsn + bytes.len() as u64;
    }

    /// Fills what is left of the segment with a filler record, or zeros where none fits.
    fn fill_segment(&mut self) {
        let rest = usize::try_from(self.owner.space(self.end.lsn)).expect("within a segment");
        if rest as u64 <= REST_MAX {
            return self.push(&vec![0; rest]);
        }
        let zeros = vec![0; rest - RECORD_HEADER_LEN];
        self.seal(WalEntryType::Filler, 0, &zeros, &PayloadCrc::of(&zeros));
    }

    /// Finishes the segment before `at` and begins the one there.
    fn begin_segment(&mut self, at: Lsn, out: &mut dyn Progress) -> Result<()> {
        assert_eq!(at, self.end.lsn, "segments are contiguous");
        self.write(out)?;
        // Said with what follows: bytes at the end of a segment that are no record are log only
        // once there is a segment behind them.
        self.sync_file()?;
        let number = self.owner.size.segment_of(at);
        let timeline = self.owner.file_timeline(number).number;
        let path = self
            .dir
            .join(segment_file_name(timeline, number, self.owner.size));
        let spare = self
            .spares
            .take()
            .expect("a spare is ready before a record is placed in it");
        self.disk
            .rename(&spare, &path)
            .and_then(|()| match canary("segment-without-directory-fsync") {
                true => Ok(()),
                false => self.disk.sync_dir(&self.dir),
            })
            .map_err(|source| Error::io("begin", &path, source))?;
        let file = self
            .disk
            .open(&path)
            .map_err(|source| Error::io("open", &path, source))?;
        self.end.file = Some(file);
        out.segment(number, timeline);
        Ok(())
    }

    fn seal_segment_header(&mut self, at: Lsn) {
        let finished = std::mem::take(&mut self.end.segment_crc);
        let header = SegmentHeader {
            segment_size: u32::try_from(self.owner.size.bytes()).expect("at most 1 GiB"),
            system_id: self.owner.system_id,
            timeline: self.owner.history.owner(at),
            segment_id: self.owner.size.segment_of(at),
            start_lsn: at,
            created_at: (self.wall_clock)(),
            previous_crc: if self.end.prev_crc.is_some() {
                finished.finalize()
            } else {
                0
            },
        };
        let payload = header.encode();
        self.seal(
            WalEntryType::SegmentHeader,
            0,
            &payload,
            &PayloadCrc::of(&payload),
        );
    }

    /// Hands the buffer to the system, as one write that ends in zeros.
    fn write(&mut self, out: &mut dyn Progress) -> Result<()> {
        let len = self.buffer.len();
        if len == 0 {
            return Ok(());
        }
        let start = Lsn::new(self.end.lsn.get() - len as u64);
        let offset = self.owner.size.offset_of(start);
        let space = self.owner.size.bytes() - offset - len as u64;
        // All at once: a checksum of little is slow.
        self.end.segment_crc.update(&self.buffer);
        let zeros = RECORD_HEADER_LEN.min(usize::try_from(space).unwrap_or(RECORD_HEADER_LEN));
        self.buffer.resize(len + zeros, 0);
        let bytes = if len < LENT_MIN {
            self.lent.release();
            self.buffer.split().freeze()
        } else {
            let whole = std::mem::take(&mut self.buffer).freeze();
            self.lent.watch(&whole);
            whole
        };
        self.to_come = self.to_come.saturating_sub(len);
        self.make_room();
        out.sealed(start, bytes.slice(..len));
        let file = self
            .end
            .file
            .as_ref()
            .expect("a record's segment has begun");
        file.write_all_at(&bytes, offset)
            .map_err(|source| self.failed("write", start, source))?;
        self.wrote(len, out);
        Ok(())
    }

    /// The system has everything up to the log's end, of which `len` bytes are new to it.
    fn wrote(&mut self, len: usize, out: &mut dyn Progress) {
        self.piece += len;
        out.written(self.end.lsn);
        if canary("ack-before-fsync") {
            out.flushed(self.end.lsn);
        }
    }

    /// Lets the disk begin with what was written.
    fn write_back(&mut self) -> Result<()> {
        self.piece = 0;
        let (Some(write_back), Some(file)) = (&mut self.write_back, &self.end.file) else {
            return Ok(());
        };
        let begun = write_back.begin(file);
        begun.map_err(|source| self.failed("sync", self.end.flushed, source))
    }

    /// The second half of [`write_group`](Self::write_group).
    ///
    /// # Errors
    /// As [`write_group`](Self::write_group).
    pub(crate) fn sync(&mut self, out: &mut dyn Progress) -> Result<()> {
        self.sync_file()?;
        out.flushed(self.end.flushed);
        Ok(())
    }

    fn sync_file(&mut self) -> Result<()> {
        // Its failure is the log's, whoever would sync again without one.
        if let Some(write_back) = &mut self.write_back {
            let finished = write_back.finish();
            finished.map_err(|source| self.failed("sync", self.end.flushed, source))?;
        }
        if self.end.flushed == self.end.lsn {
            return Ok(());
        }
        if let Some(file) = &self.end.file {
            let since = self.end.flushed;
            let again = |error| match canary("retry-fsync") {
                true => file.sync_data(),
                false => Err(error),
            };
            file.sync_data()
                .or_else(again)
                .map_err(|source| self.failed("sync", since, source))?;
        }
        (self.end.flushed, self.piece) = (self.end.lsn, 0);
        Ok(())
    }

    fn failed(&self, op: &'static str, at: Lsn, source: std::io::Error) -> Error {
        let size = self.owner.size;
        let number = size.segment_of(at);
        let name = segment_file_name(self.owner.file_timeline(number).number, number, size);
        Error::io(op, &self.dir.join(name), source)
    }
}
