//! What must hold in every state, and what has to happen in some.

use stateright::Property;

use super::Exhaustive;
use super::state::{Breach, Kind, Role, State, Tid};

pub(super) const ONE_LOG: &str = "what primaries commit is one log";
pub(super) const LATER_HAVE_IT: &str = "what is committed is in every later timeline";
pub(super) const ONE_CONFIRMS: &str = "at most one primary can confirm";
pub(super) const ONE_ID: &str = "a member promises one id a number";

type Named = (&'static str, fn(&Exhaustive, &State) -> bool);

/// What must hold in every state.
const ALWAYS: [Named; 6] = [
    (ONE_LOG, |_, state| !state.breached(Breach::TwoLogs)),
    (LATER_HAVE_IT, |_, state| later_timelines_have_it(state)),
    (ONE_CONFIRMS, one_can_confirm),
    ("one timeline of a number commits", |_, state| {
        !state.breached(Breach::TwoIds)
    }),
    (ONE_ID, |_, state| !state.breached(Breach::PromisedTwice)),
    ("nothing committed is cut", |_, state| {
        !state.breached(Breach::Cut)
    }),
];

/// What has to happen in some state, or the model says little.
const SOMETIMES: [Named; 6] = [
    ("the last timeline commits a write", |model, state| {
        let mut records = state.committed().iter();
        let last = model.bounds.timelines;
        records.any(|record| record.kind() == Kind::Write && record.owner().number() == last)
    }),
    ("a change of policy is committed", |model, state| {
        let mut records = state.committed().iter();
        model.bounds.changes == 0 || records.any(|record| record.asks(1).is_some())
    }),
    ("two timelines of one number are open", |_, state| {
        let open = |tid: &Tid| state.nodes.iter().any(|node| node.current() == *tid);
        let twins = (0..3).map(|at| Tid(2 + at)).filter(open);
        twins.count() > 1
    }),
    ("a standby has what its crashed primary lost", |_, state| {
        let mut crashed = state.nodes.iter().filter(|node| node.role == Role::Crashed);
        crashed.any(|primary| {
            let mut others = state.nodes.iter();
            others.any(|node| node.current() == primary.current() && node.len > primary.len)
        })
    }),
    ("a primary goes on in a timeline of its own", |_, state| {
        state.nodes.iter().any(|node| {
            let owners = node.records().iter().map(|record| record.owner());
            let before = owners.rev().find(|owner| *owner != node.current());
            let owner = before.unwrap_or(Tid::FIRST).owner();
            let went_on = node.current() != Tid::FIRST && owner == node.current().owner();
            node.role == Role::Primary && went_on
        })
    }),
    ("a timeline is opened by an outbid candidate", |_, state| {
        let mut nodes = state.nodes.iter();
        nodes.any(|node| node.hold > 0 && node.role == Role::Outbid)
    }),
];

pub(super) fn always() -> Vec<Property<Exhaustive>> {
    let always = ALWAYS.iter();
    always
        .map(|(name, holds)| Property::always(name, *holds))
        .collect()
}

pub(super) fn sometimes() -> Vec<Property<Exhaustive>> {
    let sometimes = SOMETIMES.iter();
    sometimes
        .map(|(name, holds)| Property::sometimes(name, *holds))
        .collect()
}

/// A log that has come to a timeline with a number above that of every primary which committed
/// so far has all that was committed.
fn later_timelines_have_it(state: &State) -> bool {
    let committed = state.committed();
    state.nodes.iter().all(|node| {
        let last = node
            .records()
            .last()
            .map_or(1, |record| record.owner().number());
        last <= state.committed_number || node.records().starts_with(committed)
    })
}

fn one_can_confirm(model: &Exhaustive, state: &State) -> bool {
    let primaries = (0..3).filter(|at| state.nodes[*at].role == Role::Primary);
    let primaries = primaries.collect::<Vec<_>>();
    let able = |at: &&usize| model.decide.could_confirm(state, **at);
    primaries.len() < 2 || primaries.iter().filter(able).count() < 2
}
