//! Writing log that another node sealed.
//!
//! What is little is gathered, like records of our own. What is much is written from where it
//! arrived, and readers of the newest log get the same memory: going over a megabyte once more
//! costs as much as writing it.

use bytes::Bytes;
use crc32fast::Hasher;

use super::{LogFile, Progress};
use crate::error::Result;
use crate::lsn::Lsn;
use crate::wal::lent::LENT_MIN;
use crate::wal::record::RECORD_HEADER_LEN;

/// Whether so many bytes are worth a write of their own.
pub(crate) fn lies_ready(len: usize) -> bool {
    len >= LENT_MIN
}

impl LogFile {
    /// Takes sealed bytes, which may run over several segments.
    pub(super) fn take_raw(
        &mut self,
        at: Lsn,
        mut bytes: Bytes,
        crc: u32,
        out: &mut dyn Progress,
    ) -> Result<()> {
        assert_eq!(at, self.end.lsn, "raw log must continue the log");
        let ready = lies_ready(bytes.len());
        if ready {
            self.write(out)?;
        }
        while !bytes.is_empty() {
            if self.owner.size.offset_of(self.end.lsn) == 0 {
                self.begin_segment(self.end.lsn, out)?;
                self.end.segment_crc = Hasher::new();
            }
            let space = usize::try_from(self.owner.space(self.end.lsn)).unwrap_or(usize::MAX);
            let here = bytes.split_to(bytes.len().min(space));
            match ready {
                true => self.write_from(here, space, out)?,
                false => self.push(&here),
            }
        }
        self.end.prev_crc = Some(crc);
        Ok(())
    }

    /// Writes `bytes` at the end of the log, in a segment that has `space` left for them.
    fn write_from(&mut self, bytes: Bytes, space: usize, out: &mut dyn Progress) -> Result<()> {
        let (start, len) = (self.end.lsn, bytes.len());
        self.end.segment_crc.update(&bytes);
        self.end.lsn = start + len as u64;
        out.sealed(start, bytes.clone());
        let file = self.end.file.clone();
        let file = file.expect("a record's segment has begun");
        let offset = self.owner.size.offset_of(start);
        let zeros = [0; RECORD_HEADER_LEN];
        let zeros = &zeros[..RECORD_HEADER_LEN.min(space - len)];
        // The zeros first: a process that is killed never leaves the bytes without them.
        file.write_all_at(zeros, offset + len as u64)
            .and_then(|()| file.write_all_at(&bytes, offset))
            .map_err(|source| self.failed("write", start, source))?;
        self.wrote(len, out);
        Ok(())
    }
}
