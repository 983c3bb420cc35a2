//! What was asked before, and what the answer was: questions as numbers.
//!
//! It knows nothing of what is asked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::super::state::{Node, Tid};
use super::{Next, Rule};
use crate::protocol::receiver::Way;

/// A question in a number.
#[derive(Copy, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key(u128);

impl Key {
    pub(super) fn new(without: Option<Rule>) -> Self {
        Self(without.map_or(0, |rule| rule as u128 + 1))
    }

    pub(super) fn bits(self, bits: u32, value: u8) -> Self {
        let value = u128::from(value);
        debug_assert!(value >> bits == 0 && self.0.leading_zeros() >= bits);
        Self(self.0 << bits | value)
    }

    pub(super) fn spans(self, node: &Node) -> Self {
        node.spans
            .iter()
            .fold(self, |key, span| key.bits(8, span.byte()))
    }

    /// The policies of a log, and where it ends.
    pub(super) fn log(self, first: (u8, u8), node: &Node) -> Self {
        let log = node
            .log
            .iter()
            .fold(self, |key, record| key.bits(8, record.byte()));
        log.bits(3, node.len)
            .bits(2, first.0)
            .bits(2, first.1)
            .bits(3, node.commit)
    }
}

/// Keys are made of few bits that differ; nobody chooses them to collide.
#[derive(Default)]
pub(super) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u128((*byte).into());
        }
    }

    fn write_u128(&mut self, value: u128) {
        const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
        let [low, high] = [value as u64, (value >> 64) as u64];
        let mixed = (self.0 ^ low).wrapping_mul(ODD).rotate_left(29) ^ high;
        let mixed = mixed.wrapping_mul(ODD);
        self.0 = mixed ^ mixed >> 32;
    }
}

pub(super) type Known<T> = HashMap<Key, T, BuildHasherDefault<Mix>>;

#[derive(Default)]
pub(super) struct Answers {
    pub(super) confirmed: Known<u8>,
    pub(super) next: Known<Next>,
    pub(super) ways: Known<Way>,
    pub(super) promises: Known<Option<(Tid, Tid)>>,
}

thread_local! {
    static ANSWERS: RefCell<Answers> = RefCell::default();
}

/// The answer to a question, from memory if it was asked before.
pub(super) fn remember<T: Copy>(
    kept: fn(&mut Answers) -> &mut Known<T>,
    key: Key,
    ask: impl FnOnce() -> T,
) -> T {
    let known = ANSWERS.with_borrow_mut(|answers| kept(answers).get(&key).copied());
    known.unwrap_or_else(|| {
        let answer = ask();
        ANSWERS.with_borrow_mut(|answers| kept(answers).insert(key, answer));
        answer
    })
}
