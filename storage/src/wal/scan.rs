//! Walking bytes of the log record by record.
//!
//! The same walk serves recovery, the standby that checks what it was sent, and every reader: it
//! knows that records chain, that none crosses a segment, and that the rest of a segment too short
//! for a record is zero. It works on bytes in memory and opens nothing.

use bytes::Bytes;

use crate::entry::WalEntryType;
use crate::lsn::{Lsn, SegmentSize};
use crate::timeline::{Timeline, TimelineHistory};
use crate::wal::record::{Invalid, Parsed, Place, RECORD_HEADER_LEN, Record, parse};
use crate::wal::segment::{REST_MAX, SegmentHeader};

/// Whose log it is: what every record's CRC is checked against.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) system_id: u64,
    pub(crate) history: std::sync::Arc<TimelineHistory>,
    pub(crate) size: SegmentSize,
}

impl Owner {
    pub(crate) fn place(&self, lsn: Lsn) -> Place {
        Place {
            system_id: self.system_id,
            timeline: self.history.owner(lsn),
            lsn,
        }
    }

    /// The timeline that the file of segment `number` is named after: that of its last byte, as far
    /// as the history goes. A timeline that only begins further on may never be reached.
    pub(crate) fn file_timeline(&self, number: u64) -> Timeline {
        // The number comes from a file's name, and where the last segment ends is no position.
        let last = self.size.bytes() - 1;
        self.history.owner(self.size.start_of(number) + last)
    }

    /// Checks that the record at `at`, which `bytes` begin with, is this segment's header where a
    /// segment begins.
    pub(crate) fn check_first(
        &self,
        at: Lsn,
        parsed: &Parsed,
        bytes: &[u8],
    ) -> Result<(), &'static str> {
        let begins = self.size.offset_of(at) == 0;
        if begins != (parsed.head.entry_type == WalEntryType::SegmentHeader) {
            return Err("a segment's header is missing or out of place");
        }
        if !begins {
            return Ok(());
        }
        let payload = &bytes[RECORD_HEADER_LEN..][..parsed.payload_len];
        let header = SegmentHeader::decode(payload).map_err(|_| "its format is unknown")?;
        if header.start_lsn != at || u64::from(header.segment_size) != self.size.bytes() {
            return Err("it belongs to another position or segment size");
        }
        Ok(())
    }

    /// Bytes from `lsn` to the end of its segment; a whole segment at its start.
    pub(crate) fn space(&self, lsn: Lsn) -> u64 {
        self.size.bytes() - self.size.offset_of(lsn)
    }
}

/// A walk over contiguous bytes of the log.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    owner: &'a Owner,
    bytes: &'a [u8],
    at: Lsn,
    /// CRC of the record before; `None` accepts any for the first one.
    prev_crc: Option<u32>,
}

/// One step of the walk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A valid record.
    Record { at: Lsn, parsed: Parsed },
    /// Zeros at the end of a segment that are too few for a record.
    Rest { at: Lsn, len: u64 },
}

impl<'a> Scan<'a> {
    pub(crate) fn new(owner: &'a Owner, bytes: &'a [u8], at: Lsn, prev_crc: Option<u32>) -> Self {
        Self {
            owner,
            bytes,
            at,
            prev_crc,
        }
    }

    /// Where the next record is expected.
    pub(crate) fn at(&self) -> Lsn {
        self.at
    }

    /// The bytes not walked over yet.
    pub(crate) fn remaining(&self) -> &'a [u8] {
        self.bytes
    }

    /// CRC of the last record passed.
    pub(crate) fn prev_crc(&self) -> Option<u32> {
        self.prev_crc
    }

    /// Takes the next step; the walk does not move on an error.
    ///
    /// # Errors
    /// [`Invalid::Short`] at the end of the bytes, or what is wrong with the next ones.
    pub(crate) fn step(&mut self) -> Result<Step, Invalid> {
        let at = self.at;
        let space = self.owner.space(at);
        if space <= REST_MAX {
            let len = usize::try_from(space).expect("a rest is under 32 bytes");
            let rest = self.bytes.get(..len).ok_or(Invalid::Short)?;
            if rest.iter().any(|&byte| byte != 0) {
                return Err(Invalid::Padding);
            }
            self.advance(len);
            return Ok(Step::Rest { at, len: space });
        }
        let parsed = parse(self.bytes, space, &self.owner.place(at), self.prev_crc)?;
        self.prev_crc = Some(parsed.crc);
        self.advance(parsed.len());
        Ok(Step::Record { at, parsed })
    }

    fn advance(&mut self, len: usize) {
        self.bytes = &self.bytes[len..];
        self.at = self.at + len as u64;
    }
}

/// The record at `at`, whose bytes begin `bytes`, with its payload shared, not copied.
pub(crate) fn record_of(bytes: &Bytes, at: Lsn, parsed: &Parsed) -> Record {
    Record {
        lsn: at,
        end: at + parsed.len() as u64,
        head: parsed.head,
        crc: parsed.crc,
        prev_crc: parsed.prev_crc,
        payload: bytes.slice(RECORD_HEADER_LEN..RECORD_HEADER_LEN + parsed.payload_len),
    }
}
