//! Three nodes, and everything that can happen to them: each state that the rules of promotion,
//! acceptance, fencing, commit and change of policy lead to is visited once, and looked at.
//!
//! The [model](super::model) beside this one draws long schedules at random; this one is small, and
//! leaves out none. What is decided is decided by the code that ships: [`decisions`] asks
//! `Candidate`, `Acceptor`, `Committer`, `way_forward`, `fencing`, `standstill`, `held_until` and
//! the histories. A state holds what is on disk and what a primary or candidate remembers.
//!
//! What makes it small enough, and why nothing is lost by it:
//!
//! * *No messages.* Log that is on its way to a standby can be received at once instead: nobody
//!   else sees the difference, and what was sent before a crash was there before it. A confirmation
//!   counts when the primary takes the step [`Commit`](Action::Commit); that it came late, or
//!   never, is the same as taking the step later, or never. One that arrives after its sender
//!   followed another timeline could have been taken before, since a standby confirms what it has
//!   and its primary only gains by it.
//! * *A promise is answered when it is made.* That the answer was lost, or came too late, is the
//!   same as a candidate that goes on without it: it may with any part of what it was answered. The
//!   round that binds nobody only chooses the number, so any number above its own may be chosen.
//! * *Flushes come when they matter.* A standby flushes what it receives, since what it has not
//!   flushed nobody knows of, and a promise flushes it. A primary flushes when it commits, and a
//!   crash leaves any part of the rest.
//! * *Writing a timeline's first record takes no time*, but that the node is overtaken or fenced
//!   meanwhile are steps of their own: nobody sees that record before it is flushed.
//! * *An attempt that was given up leaves no id.* A member that promised it is bound by the number
//!   alone, and only as long as a lower one that it may have promised before is still alive: a
//!   binding that only forbids is not needed to find what is allowed. For the same reason a
//!   candidate that crashed may forget what it promised itself, and a primary may at any time have
//!   heard of such an attempt.
//! * *The two standbys are the same but for their names*; no policy here lists them in order.
//!
//! It leaves out standbys of standbys, promotions without a policy, degraded primaries, copies and
//! votes, `FIRST`, and a crashed primary that had sent nothing early and may therefore write before
//! it asks. Policies are `ANY 1` and `ANY 2` of the three nodes; the first was set by the first
//! primary, or by one that is gone, so that all three are counted.
//!
//! The usual run has 2 timelines, 2 records and a change of policy. With 3 timelines and 3 records,
//! of which a log holds 3 with those that begin timelines, it takes minutes, in release:
//!
//! ```text
//! cargo test --release -p mainstay-replication --lib exhaustive -- --ignored --nocapture
//! ```
//!
//! It visits 17,015,531 states under `ANY 1` with a change of policy, at most 32 steps apart, in
//! 197 seconds on one core.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};

mod decisions;
mod properties;
mod state;
mod steps;
mod variants;

use decisions::Decisions;
use state::{
    Candidacy, LOG_MAX, NODES, NUMBER_MAX, Node, Place, Record, Role, STRANGER, State, Tid,
};
use steps::{Action, Bounds};

/// A first configuration: how many standbys it asks for, and who wrote it.
type First = (u8, u8);

const ONE: First = (1, 0);
const TWO: First = (2, 0);
/// A majority of three, of whom the primary is one.
const MAJORITY: First = (2, STRANGER);

/// The model.
#[derive(Debug, Clone)]
struct Exhaustive {
    decide: Decisions,
    bounds: Bounds,
    firsts: Vec<First>,
    /// What happened before it begins.
    before: Vec<Action>,
    /// Whether it also has to be shown that this or that happens.
    shows: bool,
}

impl Exhaustive {
    /// With all its rules, from the beginning.
    fn new(firsts: &[First], bounds: Bounds) -> Self {
        let fits = bounds.timelines <= NUMBER_MAX && usize::from(bounds.log) <= LOG_MAX;
        assert!(fits, "a state has no room for {bounds:?}");
        Self {
            decide: Decisions::default(),
            bounds,
            firsts: firsts.to_vec(),
            before: Vec::new(),
            shows: false,
        }
    }

    /// The state after what happened before; every node keeps its name.
    fn begin(&self, first: First) -> State {
        let node = |role| Node {
            log: [Record::default(); LOG_MAX],
            len: 0,
            flushed: 0,
            commit: 0,
            spans: [Place::default(); 3],
            others: Tid::NONE,
            own: Tid::NONE,
            role,
            candidacy: Candidacy::None,
            promised: [Place::default(); NODES],
            hold: 0,
        };
        let mut state = State {
            nodes: [Role::Primary, Role::Standby, Role::Standby].map(node),
            first,
            committed: [Record::default(); LOG_MAX],
            committed_len: 0,
            committed_number: 1,
            committing: [Tid::NONE; 3],
            breaches: 0,
            appended: 0,
        };
        for action in &self.before {
            let next = steps::named(&state, *action, self.decide, self.bounds);
            state = next.unwrap_or_else(|| panic!("{action:?} is not possible in {state:?}"));
        }
        state
    }
}

impl Model for Exhaustive {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let states = self.firsts.iter().map(|first| self.begin(*first));
        states.map(State::canonical).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        steps::candidates(state, self.bounds, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        steps::step(state, action, self.decide, self.bounds)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = properties::always();
        if self.shows {
            properties.extend(properties::sometimes());
        }
        properties
    }
}

/// Visits every state, says how many there are, and fails on the first that breaks a rule.
fn visit_all(firsts: &[First], bounds: Bounds, shows: bool) {
    let model = Exhaustive {
        shows,
        ..Exhaustive::new(firsts, bounds)
    };
    let begun = Instant::now();
    let broken = HasDiscoveries::AnyFailures;
    let checker = model.checker().finish_when(broken).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    let took = begun.elapsed().as_secs();
    println!("{firsts:?} {bounds:?}: {states} states, at most {depth} steps apart, {took} s");
    checker.assert_properties();
}

#[test]
fn nothing_breaks_the_rules_in_two_timelines() {
    let bounds = Bounds {
        timelines: 2,
        records: 2,
        changes: 1,
        log: 3,
    };
    visit_all(&[ONE, TWO, MAJORITY], bounds, true);
}

#[test]
#[ignore = "takes minutes, in release: see the head of the file"]
fn nothing_breaks_the_rules_in_three_timelines() {
    // One after the other, for the memory that they take; where two standbys are asked for, a
    // change of policy would make it several times as much.
    for (first, changes) in [(ONE, 1), (TWO, 0), (MAJORITY, 0)] {
        let bounds = Bounds {
            timelines: 3,
            records: 3,
            changes,
            log: 3,
        };
        visit_all(&[first], bounds, false);
    }
}
