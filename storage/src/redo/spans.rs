//! Where transactions lie that others committed inside.
//!
//! Answers one question: where does the earliest transaction begin that ended above a position?
//! Only transactions that nobody else contains matter, and they climb in both ends, so the answer
//! is always the first.

use std::collections::VecDeque;

use crate::lsn::Lsn;

/// Spans remembered at a time. Beyond it two become one that covers both: replay then begins
/// earlier than it had to, which costs time and nothing else.
const SPANS_MAX: usize = 1_024;

/// Spans of ended transactions, climbing in begin and end.
#[derive(Default)]
pub(super) struct Spans(VecDeque<(Lsn, Lsn)>);

impl Spans {
    /// Adds a transaction; its end is above those of all before.
    pub(super) fn push(&mut self, begin: Lsn, end: Lsn) {
        while self.0.back().is_some_and(|(inner, _)| *inner >= begin) {
            self.0.pop_back();
        }
        self.0.push_back((begin, end));
        if self.0.len() > SPANS_MAX
            && let Some((begin, _)) = self.0.pop_front()
            && let Some(first) = self.0.front_mut()
        {
            first.0 = begin;
        }
    }

    /// The lowest begin of those that end above `position`, or [`Lsn::MAX`]; the others are
    /// forgotten.
    pub(super) fn begin_across(&mut self, position: Lsn) -> Lsn {
        while self.0.front().is_some_and(|(_, end)| *end <= position) {
            self.0.pop_front();
        }
        self.0.front().map_or(Lsn::MAX, |(begin, _)| *begin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_spans_become_one_that_begins_early_enough() {
        let mut spans = Spans::default();
        let n = SPANS_MAX as u64 * 2;
        for at in 1..=n {
            spans.push(Lsn::new(at * 10), Lsn::new(at * 10 + 15));
        }
        assert_eq!(spans.0.len(), SPANS_MAX);
        for at in 1..=n {
            let found = spans.begin_across(Lsn::new(at * 10 + 12));
            assert!(found <= Lsn::new(at * 10), "a transaction would be cut");
        }
        assert_eq!(spans.begin_across(Lsn::new(n * 10 + 15)), Lsn::MAX);
    }
}
