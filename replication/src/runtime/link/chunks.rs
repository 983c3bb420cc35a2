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

/// Less room than this is not read into, unless a message lacks no more.
const ROOM_MIN: usize = 4096;

/// Most chunks that are set aside; others are left to the allocator.
const SPENT_MAX: usize = 64;

/// How many of those that nobody has anything of are kept.
const FREE_MAX: usize = 8;

/// The chunks of one connection.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Full ones. Nothing in them is ours any more.
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

    /// Sees that `input` can be read into, and has room for all of the message that it begins
    /// with, which has `message` bytes, or 0 while that is not known. Nobody else may make room.
    pub(super) fn make_room(&mut self, input: &mut BytesMut, message: usize) {
        if message > self.size && self.size < CHUNK_BYTES_BULK {
            (self.size, self.ours) = (CHUNK_BYTES_BULK, false);
            self.spent.clear();
        }
        let lacks = message.saturating_sub(input.len());
        if input.capacity() - input.len() >= if lacks > 0 { lacks } else { ROOM_MIN } {
            return;
        }
        // Doubled where nobody says how long it will be, so that it does not move again and again.
        let needed = match lacks {
            0 => 2 * input.len(),
            _ => message,
        };
        let whole = needed.max(self.size);
        self.trim();
        if input.try_reclaim(whole - input.len()) {
            return;
        }
        let mut next = match whole == self.size {
            true => self.take(),
            false => BytesMut::with_capacity(whole),
        };
        next.extend_from_slice(input);
        let mut full = mem::replace(input, next);
        if self.ours && self.spent.len() < SPENT_MAX {
            full.clear();
            self.spent.push_back(full);
        }
        self.ours = whole == self.size;
    }

    /// Keeps few of the chunks that nobody has anything of.
    fn trim(&mut self) {
        let (size, mut free) = (self.size, 0);
        self.spent.retain_mut(|chunk| {
            let unused = chunk.try_reclaim(size);
            free += usize::from(unused);
            !unused || free <= FREE_MAX
        });
    }

    /// A chunk that nobody has anything of, or a new one.
    fn take(&mut self) -> BytesMut {
        let size = self.size;
        let unused = self.spent.iter().position(|chunk| chunk.capacity() >= size);
        let unused = unused.and_then(|at| self.spent.remove(at));
        unused.unwrap_or_else(|| BytesMut::with_capacity(size))
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, Bytes};

    use super::*;
    use crate::wire::BackendDecoder;

    /// Fills the room that there is, and takes it out as a message.
    fn message(chunks: &mut Chunks, input: &mut BytesMut) -> Bytes {
        chunks.make_room(input, 0);
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
    fn few_are_kept_that_nobody_needs_and_a_message_that_is_kept_holds_up_no_other() {
        let (mut chunks, mut input) = (Chunks::new(), BytesMut::new());
        let kept = message(&mut chunks, &mut input);
        let all = [(); 100].map(|()| message(&mut chunks, &mut input));
        assert_eq!(chunks.spent.len(), SPENT_MAX);
        let second = all[0].as_ptr();
        drop(all);
        // The last one is used on, and the others are not kept for that.
        let last = message(&mut chunks, &mut input);
        assert_eq!(chunks.spent.len(), 1 + FREE_MAX);
        let again = message(&mut chunks, &mut input);
        assert_eq!(again.as_ptr(), second, "one that was set aside");
        drop((kept, last));
    }

    #[test]
    fn what_a_message_lacks_is_read_where_the_message_is() {
        let (mut chunks, mut input) = (Chunks::new(), BytesMut::new());
        chunks.make_room(&mut input, 0);
        input.resize(CHUNK_BYTES - 10, 7);
        let at = input.as_ptr();
        chunks.make_room(&mut input, CHUNK_BYTES);
        assert_eq!((input.as_ptr(), input.len()), (at, CHUNK_BYTES - 10));
        // A beginning at the end of a chunk moves on.
        let before = input.split_to(CHUNK_BYTES - 14);
        input.extend_from_slice(&[1; 9]);
        chunks.make_room(&mut input, 20);
        assert_eq!(input[..], [7, 7, 7, 7, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert!(input.capacity() - input.len() >= ROOM_MIN);
        drop(before);
        // And one of which nobody knows how long it will be.
        input.resize(CHUNK_BYTES, 7);
        chunks.make_room(&mut input, 0);
        assert_eq!(input.capacity(), 2 * CHUNK_BYTES);
    }

    /// As a standby reads that is behind: whatever the socket has, which ends anywhere.
    #[test]
    fn messages_of_the_largest_size_come_in_the_same_memory_again() {
        let body = WAL_MESSAGE_MAX + 25;
        let mut stream = BytesMut::new();
        stream.put_u8(b'd');
        stream.put_u32(4 + body as u32);
        stream.resize(5 + body, 7);
        let stream = stream.freeze();
        let mut left = stream.repeat(4).into_iter().cycle();
        let decoder = BackendDecoder::new();
        let (mut chunks, mut input) = (Chunks::new(), BytesMut::new());
        let (mut kept, mut seen) = (VecDeque::new(), std::collections::BTreeSet::new());
        let mut messages = 0;
        while messages < 100 {
            let message = decoder.length(&input).unwrap_or(0);
            chunks.make_room(&mut input, message);
            let room = input.capacity() - input.len();
            assert!(room > 0);
            input.extend(left.by_ref().take(room.min(300_000)));
            while let Some(frame) = decoder.next(&mut input).unwrap() {
                messages += 1;
                assert!(frame.body.len() == body && frame.body.iter().all(|&byte| byte == 7));
                seen.insert(frame.body.as_ptr() as usize >> 20);
                kept.push_back(frame.body);
                if kept.len() > 10 {
                    kept.pop_front();
                }
            }
        }
        assert!(seen.len() < 40, "{} places for 100 messages", seen.len());
        assert!(chunks.spent.len() < 20, "{}", chunks.spent.len());
    }
}
