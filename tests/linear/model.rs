//! What a key is: a register that holds a value or nothing, or a list that is appended to.

use std::fmt;

/// A value of a register, or an element of a list. Histories tell most when each is written once.
pub(crate) type Value = u64;

/// An operation on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Put(Value),
    Delete,
    Get,
    /// Puts `new` if the key holds `old`.
    CompareAndSet {
        old: Option<Value>,
        new: Value,
    },
    Append(Value),
    /// Reads the whole list.
    List,
}

/// What an operation answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Of a put or delete; of an append that does not say what was there.
    Done,
    /// Of a get.
    Value(Option<Value>),
    /// Of a compare-and-set: whether it was `old` that the key held.
    Swapped(bool),
    /// Of a list; of an append, what was there before.
    List(Vec<Value>),
}

impl Op {
    /// Whether an outcome is of this operation's kind.
    pub(super) fn may_return(&self, outcome: &Outcome) -> bool {
        matches!(
            (self, outcome),
            (Self::Put(_) | Self::Delete | Self::Append(_), Outcome::Done)
                | (Self::Get, Outcome::Value(_))
                | (Self::CompareAndSet { .. }, Outcome::Swapped(_))
                | (Self::Append(_) | Self::List, Outcome::List(_))
        )
    }

    pub(super) fn only_reads(&self) -> bool {
        matches!(self, Self::Get | Self::List)
    }

    /// Whether nothing of what was there before can be seen in its outcome or its effect.
    pub(super) fn overwrites(&self) -> bool {
        matches!(self, Self::Put(_) | Self::Delete)
    }
}

/// What a key holds: a register's value is a list of at most one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct State(Vec<Value>);

impl State {
    /// What `op` makes of it, or `None` if it would not have had this outcome. An unknown outcome
    /// can be any.
    pub(super) fn after(&self, op: &Op, outcome: Option<&Outcome>) -> Option<Self> {
        let Self(held) = self;
        let seen = match outcome {
            Some(Outcome::Value(value)) => held == value.as_slice(),
            Some(Outcome::List(list)) => held == list,
            _ => true,
        };
        let next = match op {
            Op::Get | Op::List => held.clone(),
            Op::Put(value) => vec![*value],
            Op::Delete => Vec::new(),
            Op::CompareAndSet { old, new } => {
                let swaps = held == old.as_slice();
                if let Some(Outcome::Swapped(swapped)) = outcome
                    && *swapped != swaps
                {
                    return None;
                }
                if swaps { vec![*new] } else { held.clone() }
            }
            Op::Append(value) if seen => [&held[..], &[*value]].concat(),
            Op::Append(_) => return None,
        };
        seen.then_some(Self(next))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(value) => write!(f, "put {value}"),
            Self::Delete => write!(f, "delete"),
            Self::Get => write!(f, "get"),
            Self::CompareAndSet { old, new } => write!(f, "set {new} if {}", Held(*old)),
            Self::Append(value) => write!(f, "append {value}"),
            Self::List => write!(f, "list"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(f, "done"),
            Self::Value(value) => write!(f, "{}", Held(*value)),
            Self::Swapped(true) => write!(f, "it was"),
            Self::Swapped(false) => write!(f, "it was not"),
            Self::List(list) => write!(f, "{list:?}"),
        }
    }
}

/// A register's content in a text.
struct Held(Option<Value>);

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{value}"),
            None => write!(f, "nothing"),
        }
    }
}
