//! The search for an order of one key's operations: Wing and Gong's, with Lowe's memory of what was
//! tried.
//!
//! Calls and returns stand in a list in the order of time. Whatever was called before the first
//! return that is left may be the next in the order, and is then taken out with its return. When
//! nothing fits, the last one is put back. The same operations ordered another way that led to the
//! same state need no second look.
//!
//! Operations whose outcome is unknown have no return, and need not be in the order. They are tried
//! after those that must be, and never directly before one that overwrites what they did: then they
//! might as well have had no effect. Both spare most of the sets of them that could be tried.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher};

use super::Moment;
use super::model::{Op, Outcome, State};

/// An operation to be ordered.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) op: &'a Op,
    pub(super) called: Moment,
    /// `None` when its outcome is unknown.
    pub(super) returned: Option<Moment>,
    pub(super) outcome: Option<&'a Outcome>,
}

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Order,
    NoOrder,
    OutOfSteps,
}

/// A set of operations.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn of(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn flip(&mut self, at: usize) {
        self.0[at / 64] ^= 1 << (at % 64);
    }
}

/// The calls and returns that are not in the order yet, linked so that one is taken out and put
/// back at once. Its ends are at 0.
#[derive(Debug)]
struct Events {
    /// The operation, and whether this is its return.
    what: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where each operation's call is, and its return if it has one.
    places: Vec<(usize, Option<usize>)>,
}

impl Events {
    fn new(calls: &[Call<'_>]) -> Self {
        let mut told = Vec::new();
        for (at, call) in calls.iter().enumerate() {
            told.push((call.called, at, false));
            told.extend(call.returned.map(|moment| (moment, at, true)));
        }
        told.sort_unstable();
        let mut places = vec![(0, None); calls.len()];
        let mut what = vec![(0, false)];
        for (_, at, returns) in told {
            if returns {
                places[at].1 = Some(what.len());
            } else {
                places[at].0 = what.len();
            }
            what.push((at, returns));
        }
        let count = what.len();
        Self {
            what,
            next: (0..count).map(|at| (at + 1) % count).collect(),
            previous: (0..count).map(|at| (at + count - 1) % count).collect(),
            places,
        }
    }

    fn take_out(&mut self, operation: usize) {
        let (call, returns) = self.places[operation];
        for at in [Some(call), returns].into_iter().flatten() {
            let (previous, next) = (self.previous[at], self.next[at]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// Puts back what was taken out last.
    fn put_back(&mut self, operation: usize) {
        let (call, returns) = self.places[operation];
        for at in [returns, Some(call)].into_iter().flatten() {
            let (previous, next) = (self.previous[at], self.next[at]);
            self.next[previous] = at;
            self.previous[next] = at;
        }
    }
}

/// What counts of the order so far: which operations are in it, what the key holds, and whether
/// the last of them may as well be left out.
type Reached = (Bits, State, bool);

/// Looks for an order in at most `bound` steps.
pub(super) fn order(calls: &[Call<'_>], bound: u64) -> Found {
    let mut calls = calls.to_vec();
    // One that only reads, and nobody knows what, fits anywhere.
    calls.retain(|call| call.returned.is_some() || !call.op.only_reads());
    let mut steps = 0;
    let mut left = calls.iter().filter(|call| call.returned.is_some()).count();
    let mut events = Events::new(&calls);
    let mut reached: Reached = (Bits::of(calls.len()), State::default(), false);
    let mut seen = HashSet::<Reached, BuildHasherDefault<DefaultHasher>>::default();
    let mut order = Vec::<(usize, State, bool)>::new();
    let (mut at, mut unknown) = (events.next[0], false);
    while left > 0 {
        let (operation, returns) = events.what[at];
        if !returns {
            if steps == bound {
                return Found::OutOfSteps;
            }
            steps += 1;
            if let Some(next) = after(&calls[operation], &reached, operation, unknown)
                && seen.insert(next.clone())
            {
                let (_, state, idle) = std::mem::replace(&mut reached, next);
                order.push((operation, state, idle));
                events.take_out(operation);
                left -= usize::from(!unknown);
                (at, unknown) = (events.next[0], false);
            } else {
                at = events.next[at];
            }
        } else if !unknown {
            (at, unknown) = (events.next[0], true);
        } else {
            let Some((operation, state, idle)) = order.pop() else {
                return Found::NoOrder;
            };
            reached.0.flip(operation);
            (reached.1, reached.2) = (state, idle);
            events.put_back(operation);
            unknown = calls[operation].returned.is_none();
            left += usize::from(!unknown);
            at = events.next[events.places[operation].0];
        }
    }
    Found::Order
}

/// What is reached if `call`, the operation of this number, comes next, if it may. Only those whose
/// outcome is unknown, or is not, are asked for.
fn after(call: &Call<'_>, reached: &Reached, operation: usize, unknown: bool) -> Option<Reached> {
    let (ordered, state, idle) = reached;
    if call.returned.is_none() != unknown || (*idle && call.op.overwrites()) {
        return None;
    }
    let next = state.after(call.op, call.outcome)?;
    if unknown && next == *state {
        return None;
    }
    let mut ordered = ordered.clone();
    ordered.flip(operation);
    Some((ordered, next, unknown))
}
