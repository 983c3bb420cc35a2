//! Memory for what comes in, used again.
//!
//! Messages share the memory that they came in. Some are kept, log that was just received for as
//! long as the newest log is; so a chunk of memory that is full is set aside, and read into again
//! once nobody has anything of it. Touching fresh memory costs more than reading into it.

use std::collections::VecDeque;
use std::mem;

use bytes::BytesMut;

use crate::wire::WAL_MESSAGE_MAX;

/// Bytes of a chunk, until a message does not fit into one.
const CHUNK_BYTES: usize = 256 << 10;

/// Bytes of a chunk from then on: a message of the largest size, and what is around it.
const CHUNK_BYTES_BULK: usize = WAL_MESSAGE_MAX + ROOM_MIN;

/// Less room than this is not read into, unless more than this would have to move.
const ROOM_MIN: usize = 4096;

/// Most chunks that are set aside; others are left to the allocator.
const SPENT_MAX: usize = 64;

/// The chunks of one connection.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Full ones, oldest first. Nothing in them is ours any more.
    spent: VecDeque<BytesMut>,
    size: usize,
    /// Whether the input lies in a chunk of that size.
    ours: bool,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            spent: VecDeque::new(),
            size: CHUNK_BYTES,
            ours: false,
        }
    }

    /// Sees that `input` can be read into.
    pub(super) fn make_room(&mut self, input: &mut BytesMut) {
        if input.capacity() > self.size {
            // Whoever found the beginning of a large message made room for it.
            (self.size, self.ours) = (CHUNK_BYTES_BULK, false);
            self.spent.clear();
        }
        let room = input.capacity() - input.len();
        if room >= ROOM_MIN || (room > 0 && input.len() >= ROOM_MIN) {
            return;
        }
        if input.try_reclaim(ROOM_MIN.max(self.size.saturating_sub(input.len()))) {
            return;
        }
        let mut next = self.take();
        next.extend_from_slice(input);
        let mut full = mem::replace(input, next);
        if self.ours && self.spent.len() < SPENT_MAX {
            full.clear();
            self.spent.push_back(full);
        }
        self.ours = true;
    }

    /// The oldest chunk, if nobody has anything of it, or a new one.
    fn take(&mut self) -> BytesMut {
        let size = self.size;
        let free = |spent: &mut VecDeque<BytesMut>| {
            let oldest = spent.front_mut();
            oldest.is_some_and(|oldest| oldest.try_reclaim(size))
        };
        if !free(&mut self.spent) {
            return BytesMut::with_capacity(size);
        }
        let taken = self.spent.pop_front().expect("just looked at");
        // More than one that is free is more than are needed.
        while free(&mut self.spent) {
            self.spent.pop_front();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills the room that there is, and takes it out as a message.
    fn message(chunks: &mut Chunks, input: &mut BytesMut) -> bytes::Bytes {
        chunks.make_room(input);
        input.resize(input.capacity(), 7);
        input.split().freeze()
    }

    #[test]
    fn a_chunk_is_used_again_once_nobody_has_anything_of_it() {
        let (mut chunks, mut input) = (Chunks::new(), BytesMut::new());
        let first = message(&mut chunks, &mut input);
        let part = first.slice(10..20);
        let at = first.as_ptr();
        drop(first);
        let second = message(&mut chunks, &mut input);
        assert_ne!(second.as_ptr(), at, "somebody has a part of it");
        assert_eq!(part[..], [7; 10]);
        drop(part);
        let third = message(&mut chunks, &mut input);
        assert_eq!(third.as_ptr(), at);
        assert_eq!(third.len(), CHUNK_BYTES);
        // One whose messages are gone is used on without being set aside.
        let at = third.as_ptr();
        drop(third);
        assert_eq!(message(&mut chunks, &mut input).as_ptr(), at);
    }

    #[test]
    fn no_more_is_kept_than_is_needed_and_chunks_grow_with_messages() {
        let (mut chunks, mut input) = (Chunks::new(), BytesMut::new());
        let all = [(); 100].map(|()| message(&mut chunks, &mut input));
        assert_eq!(chunks.spent.len(), SPENT_MAX);
        drop(all);
        let kept = message(&mut chunks, &mut input);
        let last = message(&mut chunks, &mut input);
        assert!(chunks.spent.len() <= 1, "{}", chunks.spent.len());
        drop((kept, last));
        input.reserve(WAL_MESSAGE_MAX);
        chunks.make_room(&mut input);
        let large = [(); 3].map(|()| message(&mut chunks, &mut input));
        assert_eq!(large[2].len(), CHUNK_BYTES_BULK);
    }

    #[test]
    fn what_a_message_lacks_is_read_where_the_message_is() {
        let (mut chunks, mut input) = (Chunks::new(), BytesMut::new());
        chunks.make_room(&mut input);
        input.resize(CHUNK_BYTES - 10, 7);
        let at = input.as_ptr();
        chunks.make_room(&mut input);
        assert_eq!((input.as_ptr(), input.len()), (at, CHUNK_BYTES - 10));
        // A beginning at the end of a chunk moves on.
        let before = input.split_to(CHUNK_BYTES - 14);
        input.extend_from_slice(&[1; 9]);
        chunks.make_room(&mut input);
        assert_eq!(input[..], [7, 7, 7, 7, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert!(input.capacity() - input.len() >= ROOM_MIN);
        drop(before);
    }
}
