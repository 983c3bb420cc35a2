//! The newest stretch of the log, in memory.
//!
//! A ring of chunks, each the bytes of one write, contiguous and in order. Readers get slices of
//! the very bytes that were written, without a copy; what the ring no longer holds is read from
//! the files. The ring never refuses a chunk: it drops the oldest ones beyond its limit instead,
//! but only what was written to the file.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::lsn::Lsn;

/// The ring.
#[derive(Debug)]
pub(crate) struct Tail {
    chunks: VecDeque<(Lsn, Bytes)>,
    bytes: usize,
    bytes_max: usize,
    end: Lsn,
}

impl Tail {
    /// An empty ring at the end of the log, that keeps about `bytes_max` bytes.
    pub(crate) fn new(end: Lsn, bytes_max: usize) -> Self {
        Self {
            chunks: VecDeque::new(),
            bytes: 0,
            bytes_max,
            end,
        }
    }

    /// Forgets everything and continues at `end`.
    pub(crate) fn restart(&mut self, end: Lsn) {
        *self = Self::new(end, self.bytes_max);
    }

    /// Adds what continues the log.
    ///
    /// # Panics
    /// When it does not.
    pub(crate) fn push(&mut self, at: Lsn, chunk: Bytes) {
        assert_eq!(at, self.end, "the tail must be contiguous");
        self.end = at + chunk.len() as u64;
        self.bytes += chunk.len();
        self.chunks.push_back((at, chunk));
    }

    /// Drops the oldest chunks beyond the limit that end at or below `written`.
    pub(crate) fn shrink(&mut self, written: Lsn) {
        while let Some((at, chunk)) = self.chunks.front() {
            if self.bytes <= self.bytes_max || *at + chunk.len() as u64 > written {
                break;
            }
            self.bytes -= chunk.len();
            self.chunks.pop_front();
        }
    }

    /// Bytes from `from` on, at most `max` and not beyond `upto`; what one chunk gives. `None` when
    /// the ring does not reach back that far.
    pub(crate) fn read(&self, from: Lsn, upto: Lsn, max: usize) -> Option<Bytes> {
        let after = self.chunks.partition_point(|(at, _)| *at <= from);
        let (at, chunk) = self.chunks.get(after.checked_sub(1)?)?;
        let offset = usize::try_from(from - *at)
            .ok()
            .filter(|&offset| offset < chunk.len())?;
        let wanted = usize::try_from(upto.bytes_since(from))
            .unwrap_or(usize::MAX)
            .min(max);
        Some(chunk.slice(offset..chunk.len().min(offset.saturating_add(wanted))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_give_the_written_bytes_until_they_are_dropped() {
        let start = Lsn::new(100);
        let mut tail = Tail::new(start, 8);
        tail.push(Lsn::new(100), Bytes::from_static(b"abcd"));
        tail.push(Lsn::new(104), Bytes::from_static(b"efghij"));
        let read = |tail: &Tail, from, upto, max| {
            tail.read(Lsn::new(from), Lsn::new(upto), max)
                .map(|bytes| bytes.to_vec())
        };
        assert_eq!(read(&tail, 101, 999, 99), Some(b"bcd".to_vec()));
        assert_eq!(read(&tail, 104, 106, 99), Some(b"ef".to_vec()));
        assert_eq!(read(&tail, 105, 999, 2), Some(b"fg".to_vec()));
        assert_eq!(read(&tail, 110, 999, 9), None);
        assert_eq!(read(&tail, 99, 999, 9), None);
        tail.shrink(Lsn::new(103)); // over the limit, but not yet written
        assert!(read(&tail, 100, 999, 1).is_some());
        tail.shrink(Lsn::new(110));
        assert_eq!(read(&tail, 100, 999, 1), None);
        assert_eq!(read(&tail, 109, 999, 9), Some(b"j".to_vec()));
    }
}
