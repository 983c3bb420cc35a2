//! Reading the log: raw bytes, and records.
//!
//! Both readers take the newest stretch from memory and everything else from the files, notice when
//! what they want was removed, and never skip: a position that is gone is a
//! [`Gap`](Error::Gap). They do not wait; whoever follows the log waits on one of its signals and
//! reads again. Reading a file blocks for as long as the disk takes.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::disk::DiskFile;
use crate::entry::{WalEntry, WalEntryType};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::timeline::Timeline;
use crate::wal::record::{Invalid, Record};
use crate::wal::scan::{Scan, Step, record_of};
use crate::wal::segment::segment_file_name;
use crate::wal::{Wal, record_len};

/// Bytes read from a file at once.
const READ_BYTES: usize = 256 << 10;

/// Reads the raw bytes of a log, as they lie on disk and on the wire.
#[derive(Debug)]
pub struct LogBytes {
    wal: Wal,
    /// The segment that was read last, by the timeline its file is named after: a rival of the same
    /// number has another file.
    open: Option<(u64, Timeline, Arc<dyn DiskFile>)>,
}

impl LogBytes {
    /// A reader of `wal`.
    pub fn new(wal: Wal) -> Self {
        Self { wal, open: None }
    }

    /// Another reader of the same log, that has the same file open; this one opens it anew.
    pub fn again(&mut self) -> Self {
        Self {
            wal: self.wal.clone(),
            open: self.open.take(),
        }
    }

    /// Bytes from `from` on, up to `max` and not beyond `upto`, from memory alone; never blocks on
    /// the disk. `None` when the bytes are not in memory.
    pub fn read_memory(&self, from: Lsn, upto: Lsn, max: usize) -> Option<Bytes> {
        self.wal.shared().tail.read().read(from, upto, max)
    }

    /// Bytes from `from` on: at least one and at most `max`, not beyond `upto`; none when `from` is
    /// `upto` or the end of the log.
    ///
    /// # Errors
    /// [`Error::Gap`] when they were removed, [`Error::Ahead`] beyond the end, disk errors.
    pub fn read(&mut self, from: Lsn, upto: Lsn, max: usize) -> Result<Bytes> {
        if let Some(bytes) = self.read_memory(from, upto, max) {
            return Ok(bytes);
        }
        let end = self.wal.written().get();
        if from > end {
            return Err(Error::Ahead { wanted: from, end });
        }
        let size = self.wal.segment_size();
        let number = size.segment_of(from);
        let upto = upto.min(end).min(size.start_of(number + 1));
        let len = usize::try_from(upto.bytes_since(from))
            .unwrap_or(usize::MAX)
            .min(max);
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut bytes = BytesMut::zeroed(len);
        let read = self
            .file(number, from)?
            .read_exact_at(&mut bytes, size.offset_of(from));
        // A segment that was removed meanwhile may hold other log by now.
        self.check_retained(from)?;
        read.map_err(|source| Error::io("read", &self.wal.wal_dir(), source))?;
        // And one that was cut meanwhile holds zeros.
        let end = self.wal.written().get();
        if from + len as u64 > end {
            return Err(Error::Ahead { wanted: from, end });
        }
        Ok(bytes.freeze())
    }

    fn check_retained(&self, from: Lsn) -> Result<()> {
        let oldest = self.wal.oldest();
        if from < oldest {
            Err(Error::Gap {
                wanted: from,
                oldest,
            })
        } else {
            Ok(())
        }
    }

    fn file(&mut self, number: u64, from: Lsn) -> Result<Arc<dyn DiskFile>> {
        let named = self.wal.shared().segments.read().get(&number).copied();
        let Some(timeline) = named.and_then(|named| self.wal.history().find(named)) else {
            let oldest = self.wal.oldest();
            return Err(Error::Gap {
                wanted: from,
                oldest,
            });
        };
        if let Some((open_number, open_timeline, file)) = &self.open
            && (*open_number, *open_timeline) == (number, timeline)
        {
            return Ok(file.clone());
        }
        let name = segment_file_name(timeline.number, number, self.wal.segment_size());
        let path = self.wal.wal_dir().join(name);
        match self.wal.disk().open(&path) {
            Ok(file) => {
                self.open = Some((number, timeline, file.clone()));
                Ok(file)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_retained(from)?;
                Err(Error::io("open", &path, error))
            }
            Err(error) => Err(Error::io("open", &path, error)),
        }
    }
}

/// Reads a log record by record, checking each.
#[derive(Debug)]
pub struct WalReader {
    bytes: LogBytes,
    at: Lsn,
    window: Bytes,
    prev_crc: Option<u32>,
}

impl Wal {
    /// A reader that begins at `from`, which must be the start of a record (or of a segment).
    ///
    /// # Errors
    /// [`Error::Gap`] when it was removed, [`Error::Ahead`] beyond the end of the log.
    pub fn reader(&self, from: Lsn) -> Result<WalReader> {
        let (oldest, end) = (self.oldest(), self.appended());
        if from < oldest {
            return Err(Error::Gap {
                wanted: from,
                oldest,
            });
        }
        if from > end {
            return Err(Error::Ahead { wanted: from, end });
        }
        let bytes = LogBytes::new(self.clone());
        Ok(WalReader {
            bytes,
            at: from,
            window: Bytes::new(),
            prev_crc: None,
        })
    }
}

impl WalReader {
    /// Where the next record starts.
    pub fn at(&self) -> Lsn {
        self.at
    }

    /// The next record that ends at or below `upto`, the log's own ones included; `None` when there
    /// is none yet.
    ///
    /// # Errors
    /// [`Error::Gap`] when it was removed, [`Error::Corrupt`] when it is damaged,
    /// [`Error::Invalid`] when no record starts where this reader was told to begin, disk errors.
    /// The reader stays where it is.
    pub fn next_record(&mut self, upto: Lsn) -> Result<Option<Record>> {
        let owner = self.bytes.wal.shared().owner.read().clone();
        let mut wanted = READ_BYTES;
        loop {
            let mut scan = Scan::new(&owner, &self.window, self.at, self.prev_crc);
            match scan.step() {
                Ok(Step::Record { at, parsed }) => {
                    let record = record_of(&self.window, at, &parsed);
                    if record.end > upto {
                        return Ok(None);
                    }
                    self.window = self.window.slice(record_len(record.payload.len())..);
                    (self.at, self.prev_crc) = (record.end, Some(record.crc));
                    return Ok(Some(record));
                }
                Ok(Step::Rest { len, .. }) => {
                    self.window = self.window.slice(usize::try_from(len).expect("under 32")..);
                    self.at = self.at + len;
                }
                Err(Invalid::Short) => {
                    if !self.fill(upto, wanted)? {
                        return Ok(None);
                    }
                    wanted = wanted.saturating_mul(2);
                }
                Err(why) => return Err(self.invalid(why)),
            }
        }
    }

    /// The next entry of an engine, or `NewTimeline` or `Config`, with the position after it; skips
    /// segment headers and fillers.
    ///
    /// # Errors
    /// As [`next_record`](Self::next_record).
    pub fn next_entry(&mut self, upto: Lsn) -> Result<Option<(WalEntry, Lsn)>> {
        while let Some(record) = self.next_record(upto)? {
            let entry_type = record.head.entry_type;
            if matches!(
                entry_type,
                WalEntryType::SegmentHeader | WalEntryType::Filler
            ) {
                continue;
            }
            let entry = WalEntry {
                lsn: record.lsn,
                tx_id: (record.head.tx_id != 0).then_some(record.head.tx_id),
                entry_type,
                checksum: crc32fast::hash(&record.payload),
                data: record.payload,
            };
            return Ok(Some((entry, record.end)));
        }
        Ok(None)
    }

    /// Adds up to `wanted` bytes to the window; `false` when there are none yet.
    fn fill(&mut self, upto: Lsn, wanted: usize) -> Result<bool> {
        let from = self.at + self.window.len() as u64;
        if from >= upto {
            return Ok(false);
        }
        let more = self.bytes.read(from, upto, wanted)?;
        if more.is_empty() {
            return Ok(false);
        }
        if self.window.is_empty() {
            self.window = more;
        } else {
            let mut joined = BytesMut::with_capacity(self.window.len() + more.len());
            joined.extend_from_slice(&self.window);
            joined.extend_from_slice(&more);
            self.window = joined.freeze();
        }
        Ok(true)
    }

    fn invalid(&self, why: Invalid) -> Error {
        let wal = &self.bytes.wal;
        if self.prev_crc.is_none() {
            return Error::Invalid(format!("no record starts at {}: {why}", self.at));
        }
        let size = wal.segment_size();
        let number = size.segment_of(self.at);
        let timeline = wal.shared().segments.read().get(&number).copied();
        let name = segment_file_name(timeline.unwrap_or(wal.timeline().number), number, size);
        Error::Corrupt {
            path: wal.wal_dir().join(name),
            what: "record",
            at: self.at,
            proven: wal.flushed().get(),
            why: why.to_string(),
        }
    }
}
