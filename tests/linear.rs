//! Linearizability of the key-value face: whether the operations of many clients, which overlap in
//! time, can be put into one order that respects real time and in which each answers what it did.
//!
//! A [`History`] is told what is called and what comes of it, with times of any clock, virtual or
//! real, and then [checked](History::check). Each key is checked by itself, since a history is
//! linearizable exactly when what happened to each key is. It depends on nothing of the product,
//! and the same history always has the same verdict.
//!
//! `checks` checks the checker; `processes` checks clusters with it.

mod account;
mod checks;
mod clients;
mod member;
mod model;
mod processes;
mod search;

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use model::{Op, Outcome, Value};
use search::{Call, Found};

/// Operations of a violation that are shown; those before them are only counted.
const SHOWN_MAX: usize = 40;

/// Names an operation of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpId(usize);

/// A moment: the time that was given, and among equal times the order in which they were told.
type Moment = (u64, usize);

#[derive(Debug, Clone)]
enum End {
    /// It may have taken effect at any moment since its call, may still, or never will.
    Unknown,
    /// It had no effect, and its client was told so.
    Never,
    Returned(Moment, Outcome),
}

#[derive(Debug, Clone)]
struct Operation {
    client: usize,
    key: String,
    op: Op,
    called: Moment,
    /// `None` while it is under way.
    end: Option<End>,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// There is no order. The text names the key, and the operations of the shortest prefix of its
    /// history that cannot be ordered.
    Violation(String),
    /// The bound was too low to tell. Nothing is proven: whoever asked treats it as a failure.
    Unknown,
}

impl Verdict {
    /// # Panics
    /// When it is anything else, with what was found.
    #[track_caller]
    pub(crate) fn assert_linearizable(&self) {
        match self {
            Self::Linearizable => {}
            Self::Violation(told) => panic!("NOT LINEARIZABLE: {told}"),
            Self::Unknown => panic!("the bound was too low to tell"),
        }
    }
}

/// What clients called and were answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    operations: Vec<Operation>,
    /// Moments told so far.
    moments: usize,
}

impl History {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn moment(&mut self, time: u64) -> Moment {
        self.moments += 1;
        (time, self.moments)
    }

    /// `client` begins `op` on `key` at `time`. To be told before anybody can know of it.
    pub(crate) fn invoke(&mut self, client: usize, key: &str, op: Op, time: u64) -> OpId {
        let called = self.moment(time);
        self.operations.push(Operation {
            client,
            key: key.to_owned(),
            op,
            called,
            end: None,
        });
        OpId(self.operations.len() - 1)
    }

    /// It was answered at `time`. To be told after its client knows.
    ///
    /// # Panics
    /// When it has an end already, ends before its call, or cannot have such an outcome.
    pub(crate) fn returned(&mut self, id: OpId, outcome: Outcome, time: u64) {
        let returned = self.moment(time);
        let operation = &self.operations[id.0];
        assert!(operation.called < returned, "{operation} ends at {time}");
        assert!(operation.op.may_return(&outcome), "{operation}: {outcome}");
        self.end(id, End::Returned(returned, outcome));
    }

    /// Nobody knows what became of it. The same holds for one that has no end when the history is
    /// checked.
    ///
    /// # Panics
    /// When it has an end already.
    pub(crate) fn unknown(&mut self, id: OpId) {
        self.end(id, End::Unknown);
    }

    /// It was refused: it had no effect, and never will have one.
    ///
    /// # Panics
    /// When it has an end already.
    pub(crate) fn never(&mut self, id: OpId) {
        self.end(id, End::Never);
    }

    fn end(&mut self, id: OpId, end: End) {
        let operation = &mut self.operations[id.0];
        assert!(operation.end.is_none(), "{operation} ended before");
        operation.end = Some(end);
    }

    /// Looks for an order of each key's operations, in at most `bound` steps a key; a step tries
    /// one operation as the next.
    pub(crate) fn check(&self, bound: u64) -> Verdict {
        let mut keys = BTreeMap::<&str, Vec<&Operation>>::new();
        for operation in &self.operations {
            keys.entry(&operation.key).or_default().push(operation);
        }
        let mut verdict = Verdict::Linearizable;
        for (key, operations) in keys {
            match search::order(&calls(&operations, None), bound) {
                Found::Order => {}
                Found::NoOrder => return Verdict::Violation(violation(key, &operations, bound)),
                // A key that comes later may still be proven wrong.
                Found::OutOfSteps => verdict = Verdict::Unknown,
            }
        }
        verdict
    }
}

impl Operation {
    /// When it was answered, unless that was after `upto`, and what.
    fn answer(&self, upto: Option<Moment>) -> Option<(Moment, &Outcome)> {
        match &self.end {
            Some(End::Returned(at, outcome)) if upto.is_none_or(|upto| *at <= upto) => {
                Some((*at, outcome))
            }
            _ => None,
        }
    }

    /// Whether it belongs to the history up to that moment.
    fn counts(&self, upto: Option<Moment>) -> bool {
        upto.is_none_or(|upto| self.called <= upto) && !matches!(self.end, Some(End::Never))
    }
}

/// What the search is to order: the operations called up to a moment, of which those that were
/// answered later are under way.
fn calls<'a>(operations: &[&'a Operation], upto: Option<Moment>) -> Vec<Call<'a>> {
    let counted = operations.iter().filter(|operation| operation.counts(upto));
    let calls = counted.map(|operation| {
        let answer = operation.answer(upto);
        Call {
            op: &operation.op,
            called: operation.called,
            returned: answer.map(|(at, _)| at),
            outcome: answer.map(|(_, outcome)| outcome),
        }
    });
    calls.collect()
}

/// Tells the shortest prefix that cannot be ordered. There is one: what can be ordered as a whole
/// can be at every moment before its end.
fn violation(key: &str, operations: &[&Operation], bound: u64) -> String {
    let ends = operations
        .iter()
        .filter_map(|operation| operation.answer(None));
    let mut ends = ends.map(|(at, _)| at).collect::<Vec<_>>();
    ends.sort_unstable();
    let cannot = |upto: &Moment| {
        let prefix = calls(operations, Some(*upto));
        search::order(&prefix, bound) == Found::NoOrder
    };
    let mut shown = ends.len() - 1;
    let mut least = 0;
    while least < shown {
        let middle = usize::midpoint(least, shown);
        if cannot(&ends[middle]) {
            shown = middle;
        } else {
            least = middle + 1;
        }
    }
    let upto = Some(ends[shown]);
    let mut prefix = operations.to_vec();
    prefix.retain(|operation| operation.counts(upto));
    prefix.sort_by_key(|operation| operation.called);
    let skipped = prefix.len().saturating_sub(SHOWN_MAX);
    let mut text = format!("key {key:?}: {} operations cannot be ordered", prefix.len());
    if skipped > 0 {
        text += &format!("; the last {SHOWN_MAX} of them");
    }
    for operation in &prefix[skipped..] {
        let last = operation
            .answer(upto)
            .is_some_and(|(at, _)| Some(at) == upto);
        let mark = if last { "* " } else { "  " };
        text += &format!("\n{mark}{operation}");
    }
    text
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, op, .. } = self;
        write!(f, "client {client} at {}: {op}", self.called.0)?;
        match &self.end {
            None => write!(f, ", under way"),
            Some(End::Unknown) => write!(f, ", unknown"),
            Some(End::Never) => write!(f, ", refused"),
            Some(End::Returned(at, outcome)) => write!(f, ", at {}: {outcome}", at.0),
        }
    }
}
