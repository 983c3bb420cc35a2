//! Checking log that lies outside of a data directory, as in a base backup.
//!
//! The same walk as everywhere, over bytes that somebody else reads from files: nothing is opened
//! or written here.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::lsn::{Lsn, SegmentSize};
use crate::timeline::TimelineHistory;
use crate::wal::record::Invalid;
use crate::wal::scan::{Owner, Scan, Step};

/// A walk over contiguous log of one cluster, fed in pieces.
#[derive(Debug)]
pub struct LogCheck {
    owner: Owner,
    at: Lsn,
    prev_crc: Option<u32>,
    /// The begin of a record whose rest has not come yet.
    held: BytesMut,
}

impl LogCheck {
    /// A check of log from `begin`, a segment's start, on.
    pub fn new(system_id: u64, history: TimelineHistory, size: SegmentSize, begin: Lsn) -> Self {
        let owner = Owner {
            system_id,
            history: Arc::new(history),
            size,
        };
        Self {
            owner,
            at: begin,
            prev_crc: None,
            held: BytesMut::new(),
        }
    }

    /// Checks the records in `bytes`, which follow what was given before.
    ///
    /// # Errors
    /// [`Error::Refused`] at the first record that is not valid there: damaged, or of another
    /// cluster, timeline or place.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.held.extend_from_slice(bytes);
        let held = self.held.split().freeze();
        let left = self.walk(&held)?;
        self.held.extend_from_slice(&held[held.len() - left..]);
        Ok(())
    }

    /// Where the last whole record ended; zeros behind it in its segment belong to it.
    pub fn end(&self) -> Lsn {
        self.at
    }

    /// Whether bytes of an incomplete record were given last.
    pub fn is_inside_record(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns how many bytes at the end are no whole record yet.
    fn walk(&mut self, bytes: &Bytes) -> Result<usize> {
        let mut scan = Scan::new(&self.owner, bytes, self.at, self.prev_crc);
        let done = loop {
            let (at, record) = (scan.at(), scan.remaining());
            match scan.step() {
                Ok(Step::Record { at, parsed }) => {
                    let first = self.owner.check_first(at, &parsed, record);
                    if let Err(why) = first {
                        let why = why.to_owned();
                        break Err(Error::Refused { at, why });
                    }
                }
                Ok(Step::Rest { .. }) => {}
                Err(Invalid::Short) => break Ok(record.len()),
                Err(why) => {
                    let why = why.to_string();
                    break Err(Error::Refused { at, why });
                }
            }
        };
        (self.at, self.prev_crc) = (scan.at(), scan.prev_crc());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::entry::{WalEntry, WalEntryType};
    use crate::wal::{LogBytes, NewLog, Wal, WalOptions};
    use std::path::Path;

    fn log() -> (Wal, Vec<u8>) {
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let disk = Arc::new(SimDisk::new(1));
        let wal = Wal::create(disk, Path::new("/data"), new, &options).unwrap();
        for n in 0..8 {
            let entry = WalEntry::new(WalEntryType::Insert, None, vec![7; 200_000 + n]);
            wal.append(&[entry]).unwrap();
        }
        let end = wal.appended();
        wal.flushed().wait_blocking(end, None).unwrap();
        let (mut reader, mut bytes) = (LogBytes::new(wal.clone()), Vec::new());
        let mut at = wal.oldest();
        while at < end {
            let read = reader.read(at, end, 1 << 20).unwrap();
            at = at + read.len() as u64;
            bytes.extend_from_slice(&read);
        }
        (wal, bytes)
    }

    fn check(wal: &Wal, system_id: u64) -> LogCheck {
        let history = (*wal.history()).clone();
        LogCheck::new(system_id, history, wal.segment_size(), wal.oldest())
    }

    #[test]
    fn valid_log_is_accepted_however_it_is_cut() {
        let (wal, bytes) = log();
        for piece in [bytes.len(), 4096, 333_333] {
            let mut check = check(&wal, wal.identity().system_id);
            for bytes in bytes.chunks(piece) {
                check.take(bytes).unwrap();
            }
            assert_eq!(check.end(), wal.appended());
            assert!(!check.is_inside_record());
        }
        let mut check = check(&wal, wal.identity().system_id);
        check.take(&bytes[..bytes.len() - 1]).unwrap();
        assert!(check.is_inside_record() && check.end() < wal.appended());
    }

    #[test]
    fn a_flipped_bit_and_another_cluster_are_refused() {
        let (wal, mut bytes) = log();
        let mut other = check(&wal, wal.identity().system_id ^ 1);
        assert!(matches!(other.take(&bytes), Err(Error::Refused { at, .. }) if at == wal.oldest()));
        bytes[900_000] ^= 4;
        let mut own = check(&wal, wal.identity().system_id);
        let error = own.take(&bytes).unwrap_err();
        assert!(matches!(error, Error::Refused { at, .. } if at > wal.oldest()));
    }
}
