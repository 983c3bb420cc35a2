//! Appending to the log: entries of an engine, and log as another node wrote it.
//!
//! What is appended is checked here; where it goes and when it is on disk is the writer's business.

use std::ops::Range;

use bytes::Bytes;

use crate::canary;
use crate::entry::{WalEntry, WalEntryType};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::wal::Wal;
use crate::wal::log_file::raw::lies_ready;
use crate::wal::record::{Invalid, PayloadCrc, RECORD_HEADER_LEN};
use crate::wal::scan::{Scan, Step};
use crate::wal::tally;
use crate::wal::writer::Unplaced;

impl Wal {
    /// Appends `entries`, contiguous and in order, and returns from where the first starts to where
    /// the last ends. Does not wait for the disk; waits for room when
    /// [`QUEUE_BYTES_MAX`](crate::QUEUE_BYTES_MAX) bytes are queued already.
    ///
    /// An entry's `lsn` of zero means assigned, any other must be where it lands. Its `checksum` of
    /// zero means computed, any other is verified.
    ///
    /// # Errors
    /// [`Error::NotContiguous`], [`Error::Refused`] on a wrong checksum, [`Error::TooLarge`] over a
    /// quarter of the segment, [`Error::Invalid`] for a type that only the log writes,
    /// [`Error::Behind`], [`Error::Full`], [`Error::Poisoned`], [`Error::Closed`]. Nothing was
    /// appended then.
    pub fn append(&self, entries: &[WalEntry]) -> Result<Range<Lsn>> {
        if let Some(entry) = entries.iter().find(|entry| entry.entry_type.is_internal()) {
            let entry_type = entry.entry_type;
            return Err(Error::Invalid(format!(
                "{entry_type:?} is written by the log itself"
            )));
        }
        self.append_any(entries)
    }

    /// As [`append`](Self::append), for the log's own `NewTimeline` and `Config` too. Segment
    /// headers and fillers are placed by the writer alone.
    pub(crate) fn append_any(&self, entries: &[WalEntry]) -> Result<Range<Lsn>> {
        if self.must_begin_timeline() {
            let end = self.appended();
            return Err(Error::Behind { end });
        }
        let mut records = Vec::with_capacity(entries.len());
        for entry in entries {
            records.push(self.unplaced(entry)?);
        }
        let (start, end) = self.shared().append(records)?;
        Ok(start..end)
    }

    fn unplaced(&self, entry: &WalEntry) -> Result<Unplaced> {
        let (size, max) = (entry.data.len(), self.inner.size.payload_max());
        if size > max {
            let (size, max) = (size as u64, max as u64);
            return Err(Error::TooLarge {
                what: "an entry's data",
                size,
                max,
            });
        }
        let crc = PayloadCrc::of(&entry.data);
        if entry.checksum != 0 && entry.checksum != crc.value(&entry.data) {
            let (given, found) = (entry.checksum, crc.value(&entry.data));
            let why = format!("its data have checksum {found:08x}, not {given:08x} as stated");
            return Err(Error::Refused { at: entry.lsn, why });
        }
        Ok(Unplaced {
            entry_type: entry.entry_type,
            tx_id: entry.tx_id.unwrap_or(0),
            payload: entry.data.clone(),
            crc,
            at: (!entry.lsn.is_zero()).then_some(entry.lsn),
        })
    }

    /// Marks in the log that comes say what the primary flushed. A copy of its directory would take
    /// them for its own, and what a power cut takes for damage.
    fn note_that_others_write(&self) -> Result<()> {
        let own_from = self.shared().control.lock().get().own_from;
        match own_from == Lsn::MAX || canary("peers-marks-as-own") {
            true => Ok(()),
            false => self.update_control(|control| control.own_from = Lsn::MAX),
        }
    }

    /// Appends log as the primary wrote it: `bytes` start at `at`, the end of this log. Takes the
    /// whole records they begin with, after checking each, and returns the new end; the caller
    /// keeps the rest until more comes.
    ///
    /// # Errors
    /// [`Error::NotContiguous`], [`Error::Refused`] when a record is not valid here (another
    /// cluster, timeline or place, or damaged), and as [`append`](Self::append). Nothing was
    /// appended then.
    pub fn append_raw(&self, at: Lsn, bytes: &Bytes) -> Result<Lsn> {
        let end = self.queue_raw(at, bytes)?;
        self.shared().wake_writer();
        Ok(end)
    }

    /// As [`append_raw`](Self::append_raw), and leaves the writing to whoever calls next:
    /// [`write_queued`](Self::write_queued) or [`leave_queued`](Self::leave_queued) must follow.
    /// For one who takes in what there is, and then writes all of it.
    ///
    /// # Errors
    /// As [`append_raw`](Self::append_raw).
    pub fn queue_raw(&self, at: Lsn, bytes: &Bytes) -> Result<Lsn> {
        self.note_that_others_write()?;
        let shared = self.shared();
        let mut queue = shared.lock_for_raw(bytes.len())?;
        // Not before: the timeline may change while this waits for room.
        let owner = shared.owner.read().clone();
        let expected = queue.cursor.next;
        if at != expected {
            return Err(Error::NotContiguous { expected, got: at });
        }
        let prev_crc = queue.last_crc.flatten();
        let mut scan = Scan::new(&owner, bytes, at, prev_crc);
        let mut configs = Vec::new();
        // Zeros at the end of a segment come with the record after them: no log ends behind them.
        let (mut len, mut ended) = (0, 0);
        loop {
            let record = scan.remaining();
            match scan.step() {
                Ok(Step::Record { at, parsed }) => {
                    owner.check_first(at, &parsed, record).map_err(|why| {
                        let why = why.to_owned();
                        Error::Refused { at, why }
                    })?;
                    len = bytes.len() - scan.remaining().len();
                    ended += u64::from(tally::ends(parsed.head.entry_type, parsed.head.tx_id));
                    if parsed.head.entry_type == WalEntryType::Config {
                        let payload = &record[RECORD_HEADER_LEN..][..parsed.payload_len];
                        // Little and kept for long: it must not hold all that came with it.
                        configs.push((scan.at(), Bytes::copy_from_slice(payload)));
                    }
                }
                Ok(Step::Rest { .. }) => {}
                Err(Invalid::Short) => break,
                Err(why) => {
                    return Err(Error::Refused {
                        at: scan.at(),
                        why: why.to_string(),
                    });
                }
            }
        }
        if let Some(crc) = scan.prev_crc().filter(|_| len > 0) {
            // What is little is copied anyway, and waits without the memory it came in.
            let taken = match lies_ready(len) {
                true => bytes.slice(..len),
                false => Bytes::copy_from_slice(&bytes[..len]),
            };
            shared.append_raw(&mut queue, taken, crc);
            shared.configs.lock().append(&mut configs);
            shared.tally.lock().note(queue.cursor.next, ended);
        }
        shared.wake_for_much(&queue);
        Ok(queue.cursor.next)
    }

    /// Writes and syncs what is queued on this thread, where that is little and the writer idle;
    /// else lets the writer do it. Handing a record to another thread and being woken by it costs
    /// as much as the sync. Blocks for the disk; a failure poisons the log, as everywhere.
    pub fn write_queued(&self) {
        self.shared().write_queued();
    }

    /// Lets the writer write what is queued, and does not wait for it.
    pub fn leave_queued(&self) {
        self.shared().wake_writer();
    }
}
