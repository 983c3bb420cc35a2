//! Memory of what was written, used again.
//!
//! A group's bytes are lent to readers until they have no use for them. Touching fresh memory costs
//! more than the copy into it, so what comes back is written again. Small buffers are left to the
//! allocator, which has them at hand.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Buffers from this size on are used again, in bytes.
pub(super) const LENT_MIN: usize = 64 << 10;

/// Most buffers that are watched.
const LENT_MAX: usize = 1024;

/// The buffers that were lent, oldest first. Each is the whole of its memory.
#[derive(Debug, Default)]
pub(super) struct Lent {
    buffers: VecDeque<Bytes>,
}

impl Lent {
    /// Watches `bytes`, which readers have now.
    pub(super) fn watch(&mut self, bytes: &Bytes) {
        self.buffers.push_back(bytes.clone());
        if self.buffers.len() > LENT_MAX {
            self.buffers.pop_front();
        }
        self.release();
    }

    /// Gives back what no reader has any more, but for one: there is one writer.
    pub(super) fn release(&mut self) {
        let idle = |buffers: &VecDeque<Bytes>| buffers.iter().take(2).all(Bytes::is_unique);
        while self.buffers.len() > 1 && idle(&self.buffers) {
            self.buffers.pop_front();
        }
    }

    /// An empty buffer with room for `room` bytes, which came back if one did that fits.
    pub(super) fn take(&mut self, room: usize) -> BytesMut {
        // Readers let go of the oldest first.
        while self.buffers.front().is_some_and(Bytes::is_unique) {
            let front = self.buffers.pop_front().map(Bytes::try_into_mut);
            if let Some(Ok(mut buffer)) = front {
                buffer.clear();
                if (room..=8 * room).contains(&buffer.capacity()) {
                    return buffer;
                }
            }
        }
        BytesMut::with_capacity(room.next_power_of_two())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lent: &mut Lent, room: usize) -> (*const u8, Bytes) {
        let mut buffer = lent.take(room);
        buffer.resize(room, 7);
        let bytes = buffer.freeze();
        lent.watch(&bytes);
        (bytes.as_ptr(), bytes)
    }

    #[test]
    fn memory_is_used_again_once_no_reader_has_it() {
        let mut lent = Lent::default();
        let (first, bytes) = written(&mut lent, LENT_MIN);
        let reader = bytes.slice(10..20);
        drop(bytes);
        let (second, other) = written(&mut lent, LENT_MIN);
        assert_ne!(first, second, "a reader has it");
        assert_eq!(reader[..], [7; 10]);
        drop((reader, other));
        assert_eq!(lent.buffers.len(), 2);
        let (third, _) = written(&mut lent, LENT_MIN);
        assert_eq!(third, first);
    }

    #[test]
    fn little_is_kept_that_nobody_uses() {
        let mut lent = Lent::default();
        let all = [(); 10].map(|()| written(&mut lent, LENT_MIN).1);
        assert_eq!(lent.buffers.len(), 10);
        drop(all);
        lent.release();
        assert_eq!(lent.buffers.len(), 1, "one is enough");
        drop(written(&mut lent, 64 * LENT_MIN));
        assert_eq!(lent.buffers.len(), 1, "one that is too small went");
        let (_, bytes) = written(&mut lent, LENT_MIN);
        assert_eq!(lent.buffers.len(), 1, "and one that is too large");
        drop(bytes);
    }
}
