//! Reading and writing the parts messages are made of.
//!
//! A [`Cursor`] hands out integers, strings and slices of one message body and turns anything
//! missing or left over into [`WireError::Malformed`]; it never reads past the end and never
//! copies bytes it can share. The `put_*` functions are its mirror. Neither knows any message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mainstay_storage::{Lsn, Timeline};
use uuid::Uuid;

use crate::wire::{Result, WireError};

const SHORT: &str = "it ends too early";

/// A position in the body of one message.
pub(super) struct Cursor {
    rest: Bytes,
    message: &'static str,
}

impl Cursor {
    /// Starts at the first byte of `body`; `message` is named in errors.
    pub(super) fn new(message: &'static str, body: Bytes) -> Self {
        Self {
            rest: body,
            message,
        }
    }

    pub(super) fn bad(&self, reason: &'static str) -> WireError {
        WireError::malformed(self.message, reason)
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn short(&self) -> WireError {
        self.bad(SHORT)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.rest.try_get_u8().map_err(|_| self.short())
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.rest.try_get_u16().map_err(|_| self.short())
    }

    pub(super) fn i16(&mut self) -> Result<i16> {
        self.rest.try_get_i16().map_err(|_| self.short())
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.rest.try_get_u32().map_err(|_| self.short())
    }

    pub(super) fn i32(&mut self) -> Result<i32> {
        self.rest.try_get_i32().map_err(|_| self.short())
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.rest.try_get_u64().map_err(|_| self.short())
    }

    pub(super) fn i64(&mut self) -> Result<i64> {
        self.rest.try_get_i64().map_err(|_| self.short())
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn> {
        self.u64().map(Lsn::new)
    }

    pub(super) fn timeline(&mut self) -> Result<Timeline> {
        let number = self.u32()?;
        let id = self.rest.try_get_u128().map_err(|_| self.short())?;
        Ok(Timeline {
            number,
            id: Uuid::from_u128(id),
        })
    }

    /// The next `len` bytes, shared with the body.
    pub(super) fn take(&mut self, len: usize) -> Result<Bytes> {
        if len > self.rest.len() {
            return Err(self.short());
        }
        Ok(self.rest.split_to(len))
    }

    /// Everything that is left, shared with the body.
    pub(super) fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// Everything that is left, as log from `start` on; it has to end at a position.
    pub(super) fn log(&mut self, start: Lsn) -> Result<Bytes> {
        match start.checked_add(self.rest.len() as u64) {
            Some(_) => Ok(self.rest()),
            None => Err(self.bad("its log ends behind the last position")),
        }
    }

    /// The bytes before the next NUL, which is skipped.
    pub(super) fn cstr_bytes(&mut self) -> Result<Bytes> {
        let end = self.rest.iter().position(|&byte| byte == 0);
        let end = end.ok_or_else(|| self.bad("a string has no end"))?;
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        Ok(text)
    }

    /// A NUL-terminated string.
    pub(super) fn cstr(&mut self) -> Result<String> {
        let bytes = self.cstr_bytes()?;
        String::from_utf8(bytes.into()).map_err(|_| self.bad("a string is not UTF-8"))
    }

    /// A NUL-terminated string from a server whose encoding is not settled yet.
    pub(super) fn cstr_lossy(&mut self) -> Result<String> {
        let bytes = self.cstr_bytes()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Checks that nothing is left.
    pub(super) fn finish(&self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.bad("bytes are left over"))
        }
    }
}

/// Appends a message of type `tag` whose body `body` writes, with its length.
pub(super) fn put_message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    body(out);
    patch_length(out, start);
}

/// Writes the number of bytes from `start` to the end into the four bytes at `start`.
pub(super) fn patch_length(out: &mut BytesMut, start: usize) {
    let len = length(out.len() - start).to_be_bytes();
    out[start..start + len.len()].copy_from_slice(&len);
}

/// A length as the wire carries it. What this node sends is bounded far below the wire's limit.
pub(super) fn length(len: usize) -> u32 {
    u32::try_from(len).expect("a message of our own exceeds 4 GiB")
}

/// A number of columns or names as the wire carries it.
pub(super) fn count(count: usize) -> u16 {
    u16::try_from(count).expect("a row of our own has more than 65535 columns")
}

/// Appends `text` and a NUL. A NUL inside would end the string early at the reader, so it ends
/// it early here, and the framing stays whole.
pub(super) fn put_cstr(out: &mut BytesMut, text: &str) {
    let text = text.split('\0').next().unwrap_or_default();
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

pub(super) fn put_lsn(out: &mut BytesMut, lsn: Lsn) {
    out.put_u64(lsn.get());
}

pub(super) fn put_timeline(out: &mut BytesMut, timeline: Timeline) {
    out.put_u32(timeline.number);
    out.put_u128(timeline.id.as_u128());
}
