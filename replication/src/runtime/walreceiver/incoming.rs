//! Log that came and is not in the queue of our own log yet: cut by messages, not by records.
//!
//! Whole records stay in the memory that they came in. One that two messages share is put together,
//! with a little of what follows.

use bytes::{Buf, Bytes, BytesMut};
use mainstay_storage::Lsn;

/// How much of a message is copied to complete a record, or as much as there is of it already.
const COMPLETING_BYTES: usize = 32 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Incoming {
    at: Lsn,
    /// Bytes of a record whose rest has not come yet; they start at `at`.
    carry: BytesMut,
    /// What came behind them.
    came: Bytes,
}

impl Incoming {
    /// Nothing, of a log that goes on at `at`.
    pub(super) fn new(at: Lsn) -> Self {
        Self {
            at,
            carry: BytesMut::new(),
            came: Bytes::new(),
        }
    }

    /// Forgets what came.
    pub(super) fn restart(&mut self, at: Lsn) {
        *self = Self::new(at);
    }

    /// Adds what came, from `start` on.
    pub(super) fn add(&mut self, start: Lsn, payload: Bytes) {
        if self.carry.is_empty() && self.came.is_empty() {
            self.at = start;
        }
        // Nothing, unless an earlier message was let lie.
        self.carry.extend_from_slice(&self.came);
        self.came = payload;
    }

    /// Has `queue` take the whole records. It is told where bytes start, and answers where the
    /// last whole record of them ends.
    ///
    /// # Errors
    /// Those of `queue`; [`restart`](Self::restart) must follow.
    pub(super) fn hand_over<E>(
        &mut self,
        mut queue: impl FnMut(Lsn, &Bytes) -> Result<Lsn, E>,
    ) -> Result<(), E> {
        let mut came = std::mem::take(&mut self.came);
        while !self.carry.is_empty() && !came.is_empty() {
            let before = self.carry.len();
            let some = came.len().min(before.max(COMPLETING_BYTES));
            self.carry.extend_from_slice(&came[..some]);
            let mut bytes = std::mem::take(&mut self.carry).freeze();
            let taken = self.queued(queue(self.at, &bytes)?);
            match taken.checked_sub(before) {
                Some(own) => came.advance(own),
                None => {
                    bytes.advance(taken);
                    self.carry = bytes.into();
                    came.advance(some);
                }
            }
        }
        if !came.is_empty() {
            let taken = self.queued(queue(self.at, &came)?);
            self.carry.extend_from_slice(&came[taken..]);
        }
        Ok(())
    }

    /// Goes on at `end`, and returns how many bytes that is.
    fn queued(&mut self, end: Lsn) -> usize {
        let taken = end - std::mem::replace(&mut self.at, end);
        usize::try_from(taken).expect("no more than there were")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of lengths that say nothing about messages, each behind its length.
    fn log() -> Vec<u8> {
        let lengths = [0, 1, 7, 300, 40_000, 2, 100_000, 5_000, 70_000, 0];
        let mut log = Vec::new();
        for (n, len) in lengths.into_iter().cycle().take(40).enumerate() {
            log.extend_from_slice(&u32::to_le_bytes(len));
            log.resize(log.len() + len as usize, n as u8);
        }
        log
    }

    /// How many bytes the whole records at the start of `bytes` have.
    fn whole(bytes: &[u8]) -> usize {
        let mut at = 0;
        while let Some(head) = bytes[at..].first_chunk::<4>() {
            let next = at + 4 + u32::from_le_bytes(*head) as usize;
            if next > bytes.len() {
                break;
            }
            at = next;
        }
        at
    }

    #[test]
    fn records_arrive_whole_however_messages_cut_them() {
        let log = log();
        for size in [1, 3, 1000, 32_768, 50_001, 300_000, 1 << 20] {
            let begin = Lsn::new(64);
            let (mut incoming, mut taken) = (Incoming::new(begin), Vec::new());
            let mut copied = 0;
            for message in log.chunks(size) {
                let message = Bytes::copy_from_slice(message);
                let inside = message.as_ptr_range();
                let start = begin + (taken.len() + incoming.carry.len()) as u64;
                incoming.add(start, message);
                let done = incoming.hand_over(|at, bytes| {
                    assert_eq!(at, begin + taken.len() as u64, "messages of {size}");
                    let len = whole(bytes);
                    copied += usize::from(!inside.contains(&bytes.as_ptr())) * len;
                    taken.extend_from_slice(&bytes[..len]);
                    Ok::<_, ()>(at + len as u64)
                });
                done.unwrap();
            }
            assert!(taken == log, "messages of {size}");
            if size == 300_000 {
                assert!(copied > 0, "no message cuts a record");
                assert!(copied < log.len() / 2, "{copied} of {}", log.len());
            }
        }
    }

    #[test]
    fn what_nobody_handed_over_waits_and_what_is_restarted_is_gone() {
        let mut incoming = Incoming::new(Lsn::new(8));
        // A record and the beginning of one, and its rest.
        incoming.add(Lsn::new(8), Bytes::from_static(&[1, 0, 0, 0, 9, 3, 0, 0]));
        incoming.add(Lsn::new(16), Bytes::from_static(&[0, 1, 2, 3]));
        let mut seen = Vec::new();
        let all = incoming.hand_over(|at, bytes| {
            seen.extend_from_slice(bytes);
            Ok::<_, ()>(at + whole(bytes) as u64)
        });
        all.unwrap();
        assert_eq!(seen, [1, 0, 0, 0, 9, 3, 0, 0, 0, 1, 2, 3]);
        incoming.add(Lsn::new(20), Bytes::from_static(&[9]));
        incoming.restart(Lsn::new(100));
        incoming.add(Lsn::new(100), Bytes::from_static(&[0, 0, 0, 0]));
        let end = incoming.hand_over(|at, bytes| Ok::<_, ()>(at + whole(bytes) as u64));
        end.unwrap();
        assert_eq!(incoming.at, Lsn::new(104));
        assert!(incoming.carry.is_empty() && incoming.came.is_empty());
    }
}
