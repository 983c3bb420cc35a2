//! The model without one of its rules: each time, something that must never happen does.

use stateright::{Checker, HasDiscoveries, Model};

use super::decisions::{Decisions, Rule};
use super::properties::{LATER_HAVE_IT, ONE_CONFIRMS, ONE_ID, ONE_LOG};
use super::state::Candidacy::{Promote, Raise};
use super::steps::Action::{
    Append, Begin, Commit, Configure, Crash, Follow, Open, Promise, Receive, Restart, StepDown,
    Suspend,
};
use super::steps::{Action, Bounds};
use super::{Exhaustive, First, MAJORITY, ONE, TWO};

/// The nodes, and those who promised something, a bit each.
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const NOBODY: u8 = 0;
const OF_C: u8 = 1 << C;

struct Variant {
    without: Rule,
    first: First,
    bounds: Bounds,
    /// Steps that are given; the rest is the shortest there is.
    before: Vec<Action>,
    /// What breaks, and by how many steps after that.
    breaks: (&'static str, usize),
}

const fn bounds(timelines: u8, records: u8, changes: u8) -> Bounds {
    Bounds {
        timelines,
        records,
        changes,
        log: 4,
    }
}

/// The write of a dead primary that nobody else has, and a timeline that nobody else has: who
/// continues the first and is confirmed by C alone must not count that before its own timeline
/// is there.
fn two_logs_of_one_record() -> Vec<Action> {
    let opens_b = [Begin(B, Promote, 2), Promise(C, B), Open(B, OF_C, false)];
    let opens_a = [Begin(A, Raise, 3), Promise(C, A), Open(A, OF_C, true)];
    let mut steps = vec![Append(A), Crash(A, 1)];
    steps.extend(opens_b.into_iter().chain([Crash(B, 1)]).chain(opens_a));
    steps
}

/// Two nodes have opened the same number, each by its own promise, and one follows the other.
fn two_of_one_number() -> Vec<Action> {
    vec![
        Begin(B, Promote, 2),
        Begin(C, Promote, 2),
        Open(B, NOBODY, false),
        Open(C, NOBODY, false),
        Append(B),
        Crash(C, 1),
        StepDown(C),
    ]
}

/// A asks for a third timeline before B opens the second, which C follows.
const LATE: [Action; 7] = [
    Suspend(A),
    Begin(A, Raise, 3),
    Begin(B, Promote, 2),
    Promise(C, B),
    Open(B, OF_C, false),
    Follow(C, B),
    Receive(C, B),
];

/// B has the change of policy that A logged.
const CHANGED: [Action; 2] = [Configure(A), Receive(B, A)];

fn variants() -> [Variant; 9] {
    let variant = |without, first, bounds, before: &[Action], breaks| Variant {
        without,
        first,
        bounds,
        before: before.to_vec(),
        breaks,
    };
    let (small, two_writes) = (bounds(2, 1, 0), bounds(2, 2, 0));
    let (third, fourth) = (bounds(3, 1, 0), bounds(4, 1, 1));
    let (log, later) = (|steps| (ONE_LOG, steps), |steps| (LATER_HAVE_IT, steps));
    let (uncounted, twins) = (two_logs_of_one_record(), two_of_one_number());
    use Rule::*;
    [
        variant(TimelineFirst, ONE, third, &LATE, later(4)),
        variant(Promises, ONE, small, &[], log(9)),
        variant(PromisesMeetConfirmations, ONE, small, &[], log(9)),
        variant(BeginFirst, MAJORITY, fourth, &uncounted, later(6)),
        variant(OneId, MAJORITY, small, &[], (ONE_ID, 6)),
        variant(BothPolicies, TWO, bounds(2, 2, 1), &CHANGED, log(7)),
        variant(Fencing, MAJORITY, small, &[], (ONE_CONFIRMS, 7)),
        variant(AskAfterCrash, TWO, two_writes, &[], later(8)),
        variant(Ids, TWO, third, &twins, later(6)),
    ]
}

#[test]
fn without_any_one_of_its_rules_something_breaks() {
    for variant in variants() {
        let (breaks, steps) = variant.breaks;
        let model = Exhaustive {
            decide: Decisions {
                without: Some(variant.without),
            },
            before: variant.before,
            ..Exhaustive::new(&[variant.first], variant.bounds)
        };
        let broken = HasDiscoveries::AnyOf([breaks].into());
        let checker = model
            .clone()
            .checker()
            .finish_when(broken)
            .spawn_bfs()
            .join();
        let states = checker.unique_state_count();
        let found = checker.discovery(breaks);
        let found = found.map(|path| path.into_actions());
        let given = model.before.len();
        println!(
            "without {:?}: not \"{breaks}\", {given} steps and {found:?}; {states} states",
            variant.without
        );
        assert_eq!(
            found.map(|actions| actions.len()),
            Some(steps),
            "{:?}",
            variant.without
        );
    }
}

/// Found by the model: whether a primary was stopped in between made a difference.
#[test]
fn a_primary_that_was_stopped_goes_on_waiting_for_what_began_its_timeline() {
    for stops in [false, true] {
        let mut before = two_logs_of_one_record();
        before.extend([Restart(A)].iter().filter(|_| stops));
        // C has the write, and not what began the timeline.
        before.extend([Follow(C, A), Receive(C, A)]);
        let mut model = Exhaustive {
            before,
            ..Exhaustive::new(&[MAJORITY], bounds(4, 1, 1))
        };
        let commits = |model: &Exhaustive| {
            let step = super::steps::named(
                &model.begin(MAJORITY),
                Commit(A),
                model.decide,
                model.bounds,
            );
            step.map(|state| state.committed_len)
        };
        assert_eq!(commits(&model), None, "stopped: {stops}");
        model.before.push(Receive(C, A));
        assert_eq!(commits(&model), Some(2), "stopped: {stops}");
    }
}
