//! The commands of a comparison of two stores, which native peers say to each other.
//!
//! Keys are those of a whole store, any bytes, and travel as hexadecimal digits; an empty text is
//! no key, since no key is empty. What rows are, and how they are digested, is not known here.

use std::fmt;

use bytes::Bytes;
use mainstay_storage::{Lsn, Timeline, WHOLE_KEY_MAX};

use crate::wire::{Result, WireError};

/// One of them. The first holds a position for the session, and the others are about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyCommand {
    /// `VERIFY_BEGIN n 'id' [X/X | place]`
    Begin {
        /// The timeline that the standby is on.
        timeline: Timeline,
        /// Which position.
        at: VerifyAt,
    },
    /// `VERIFY_RANGES rows 'after' 'upto'`
    Ranges {
        /// Most rows of a range.
        rows: u64,
        /// Begins behind this key.
        after: Option<Bytes>,
        /// Ends with this key.
        upto: Option<Bytes>,
    },
    /// `VERIFY_ROWS offset 'after' 'upto'`
    Rows {
        /// Bytes of the first row's value that are there already.
        offset: u64,
        /// Begins behind this key.
        after: Option<Bytes>,
        /// Ends with this key.
        upto: Option<Bytes>,
    },
}

/// The position of a comparison.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum VerifyAt {
    /// The newest that is committed and applied.
    Newest,
    /// This one.
    Lsn(Lsn),
    /// That of a new record of the log, in which no transaction ends.
    Place,
}

impl fmt::Display for VerifyCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin { timeline, at } => {
                let (number, id) = (timeline.number, timeline.id);
                write!(f, "VERIFY_BEGIN {number} '{id}'")?;
                match at {
                    VerifyAt::Newest => Ok(()),
                    VerifyAt::Lsn(lsn) => write!(f, " {lsn}"),
                    VerifyAt::Place => f.write_str(" place"),
                }
            }
            Self::Ranges { rows, after, upto } => {
                write!(f, "VERIFY_RANGES {rows} {} {}", Hex(after), Hex(upto))
            }
            Self::Rows {
                offset,
                after,
                upto,
            } => write!(f, "VERIFY_ROWS {offset} {} {}", Hex(after), Hex(upto)),
        }
    }
}

/// A key as a quoted text.
struct Hex<'a>(&'a Option<Bytes>);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("'")?;
        for byte in self.0.iter().flatten() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("'")
    }
}

/// The key that `text` stands for.
///
/// # Errors
/// A syntax error when it is none, or too long.
pub(super) fn key(text: &str) -> Result<Option<Bytes>> {
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > 2 * WHOLE_KEY_MAX || !text.len().is_multiple_of(2) {
        return Err(WireError::syntax());
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let bytes = text.as_bytes().chunks_exact(2).map(pair);
    let bytes = bytes.collect::<Option<Vec<u8>>>();
    bytes
        .map(|bytes| Some(bytes.into()))
        .ok_or_else(WireError::syntax)
}
