//! What a comparison is told, what it asks for, and what comes of it.
//!
//! Keys are those of a whole store; what they stand for is not known here.

use std::fmt;

use bytes::Bytes;

use super::{Digest, MOVES_MAX, STALL_MAX};

/// How finely rows are cut into parts.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grain {
    /// For walking through all rows.
    Coarse,
    /// What is shipped when it differs.
    Fine,
    /// Each row by itself.
    Row,
}

impl Grain {
    /// All, coarsest first.
    pub const ALL: [Self; 3] = [Self::Coarse, Self::Fine, Self::Row];

    /// Most rows of one part.
    pub const fn rows(self) -> u64 {
        match self {
            Self::Coarse => 16_384,
            Self::Fine => 256,
            Self::Row => 1,
        }
    }

    /// A part ends with the row that brings it to this many bytes of keys and values.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Coarse => 4 << 20,
            Self::Fine => 256 << 10,
            Self::Row => 1,
        }
    }
}

/// A run of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Span {
    /// It begins behind this key; with the first one if absent.
    pub after: Option<Bytes>,
    /// It ends with this key; with the last one if absent.
    pub upto: Option<Bytes>,
}

impl Span {
    /// Bytes of its keys.
    pub(super) fn size(&self) -> usize {
        let size = |key: &Option<Bytes>| key.as_ref().map_or(0, Bytes::len);
        size(&self.after) + size(&self.upto)
    }
}

/// One part of the other side's rows. It begins where the one before ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its last key; absent where it goes to the last of all.
    pub upto: Option<Bytes>,
    /// What is in it there.
    pub digest: Digest,
}

/// What is here in a part of the other side's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// All of it.
    pub digest: Digest,
    /// The first key.
    pub first: Option<Bytes>,
}

/// How a row differs.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The other side has it.
    Missing,
    /// Only this side has it.
    Extra,
    /// Both have it, with different values.
    Changed,
}

impl Kind {
    /// In a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Changed => "changed",
        }
    }
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its key.
    pub key: Bytes,
    /// How, as seen from this side.
    pub kind: Kind,
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// How often both sides had to move to a later position.
    pub moves: u64,
    /// Digests compared, of coarse and fine ranges.
    pub ranges: u64,
    /// Rows of the other side that were compared, each once.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// How many of the finer ranges differ.
    pub bad_ranges: u64,
    /// Those of them that are kept, in order.
    pub bad: Vec<Span>,
    /// The smallest key that differs.
    pub first: Option<Difference>,
}

impl Findings {
    /// Whether nothing differs.
    pub fn is_clean(&self) -> bool {
        self.bad_ranges == 0
    }

    /// Whether all that differ are kept.
    pub fn is_complete(&self) -> bool {
        self.bad_ranges == self.bad.len() as u64
    }
}

/// What happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Both sides hold a position: the first, or a later one after [`Action::Move`].
    Held,
    /// What came of [`Action::Look`]; each empty if it was not asked for.
    Seen {
        /// The other side's answer.
        theirs: Vec<Part>,
        /// One for each end that was to be digested.
        ours: Vec<Own>,
    },
    /// One side cannot read the position any more; nothing was seen.
    TooOld,
    /// Time passes.
    Tick,
}

/// What is to be done, at the position held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Both at once, where both are there.
    Look {
        /// Ask the other side for its parts of this span, from its begin on.
        ask: Option<(Span, Grain)>,
        /// Digest own rows from behind the first key, up to each of the ends in turn.
        digest: Option<(Option<Bytes>, Vec<Option<Bytes>>)>,
    },
    /// Hold a later position.
    Move,
    /// It is over.
    Done(Findings),
    /// It cannot be done.
    Refuse(Refusal),
}

/// Why a comparison ended without a result.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The other side's answer is none to the question.
    Nonsense(&'static str),
    /// No position could be held long enough to compare anything.
    Moved,
    /// Nothing came for too long.
    Stalled,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nonsense(what) => write!(f, "the other node's answer makes no sense: {what}"),
            Self::Moved => write!(
                f,
                "{MOVES_MAX} times in a row one node could not read the position of the comparison \
                 any more before anything was compared; try again under less load"
            ),
            Self::Stalled => {
                let seconds = STALL_MAX.as_secs();
                write!(f, "nothing was compared for {seconds} s")
            }
        }
    }
}

/// For people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Findings so far.
    pub findings: Findings,
    /// Spans and answers that wait to be looked at.
    pub waiting: usize,
}
