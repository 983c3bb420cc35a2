//! What the nodes of the model decide: the code that ships, asked in its own words.
//!
//! A question is put together from a few bytes, asked of a machine that is made for it, and its
//! answer remembered, so that each question is asked once by each thread. Without one of its rules
//! ([`Rule`]) the question or the answer is falsified in one place.

use mainstay_storage::{Lsn, Timeline, TimelineHistory};
use uuid::Uuid;

use super::state::{Kind, NODES, Node, Place, Record, Role, State, Tid};
use crate::protocol::commit::{CommitConfig, Committer, Event};
use crate::protocol::level::OnMiss;
use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::protocol::progress::Positions;
use crate::protocol::promotion::{
    Beginning, Fencing, LogEnd, Promises, Standstill, fencing, held_until, standstill,
};
use crate::protocol::receiver::{OwnLog, TheirLog, Way, is_stale, way_forward};
use crate::protocol::vote::Vote;
use crate::time::Moment;

mod asking;
mod memory;

use memory::{Key, remember};

/// A rule that can be taken away.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Hash)]
pub(super) enum Rule {
    /// Of two logs, the one on the later timeline is the newer.
    TimelineFirst,
    /// Nobody opens a timeline without the promises of others.
    Promises,
    /// `n - k + 1` promises, and not `n - k`.
    PromisesMeetConfirmations,
    /// Nothing counts before the record that begins the timeline does.
    BeginFirst,
    /// One id a number.
    OneId,
    /// While a policy is being changed, both bind.
    BothPolicies,
    /// A primary heeds newer timelines.
    Fencing,
    /// A primary that crashed asks before it goes on.
    AskAfterCrash,
    /// Timelines are told apart by their ids, not by their numbers.
    Ids,
}

/// What a candidate does next.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) struct Next {
    /// Whom it asks, a bit each.
    pub(super) asks: u8,
    pub(super) step: Step,
}

#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// It waits for promises, or is refused.
    Wait,
    /// It fetches that many records from one of these.
    Fetch { upto: u8, from: u8 },
    /// It opens its timeline.
    Open,
}

/// Where a log of so many records ends; each has 8 bytes, and before the first lies a policy.
pub(super) fn end(records: u8) -> Lsn {
    Lsn::new(8 * (u64::from(records) + 2))
}

fn records(end: Lsn) -> u8 {
    u8::try_from(end.get() / 8 - 2).expect("a short log")
}

fn name(node: usize) -> NodeName {
    let names = ["a", "b", "c", "d"];
    names[node].parse().expect("a name")
}

/// The decisions, all of them or all but one.
#[derive(Debug, Copy, Clone, Default)]
pub(super) struct Decisions {
    pub(super) without: Option<Rule>,
}

impl Decisions {
    fn lacks(self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    pub(super) fn timeline(self, tid: Tid) -> Timeline {
        let number = tid.number();
        let id = if self.lacks(Rule::Ids) { number } else { tid.0 };
        let (number, id) = (number.into(), Uuid::from_u128(id.into()));
        Timeline { number, id }
    }

    pub(super) fn history(self, node: &Node) -> TimelineHistory {
        let mut history = TimelineHistory::new(self.timeline(Tid::FIRST), Lsn::new(8));
        for span in node.spans.iter().filter(|span| span.is_some()) {
            let opened = history.open(self.timeline(span.tid()), end(span.at()), "");
            opened.expect("spans climb");
        }
        history
    }

    fn log_end(self, place: Place) -> LogEnd {
        let timeline = match self.lacks(Rule::TimelineFirst) {
            true => Tid::FIRST,
            false => place.tid(),
        };
        LogEnd {
            timeline: self.timeline(timeline),
            flushed: end(place.at()),
        }
    }

    fn promises(self, node: &Node) -> Promises {
        let some = |tid: Tid| tid.is_some().then(|| self.timeline(tid));
        Promises {
            others: some(node.others),
            own: some(node.own),
        }
    }

    /// The newest timeline that binds a node.
    pub(super) fn newest(self, node: &Node) -> Timeline {
        self.promises(node).newest(self.timeline(node.current()))
    }

    /// The same as one of its own.
    pub(super) fn newest_tid(self, node: &Node) -> Tid {
        let newest = self.newest(node);
        let bound = [node.current(), node.others, node.own];
        let bound = bound.into_iter().find(|tid| self.timeline(*tid) == newest);
        bound.expect("it is one of them")
    }

    /// The policies that bind in a log, oldest first.
    fn policies(first: (u8, u8), node: &Node) -> Vec<BoundPolicy> {
        let bound = |count: u8, author: u8, at: u8| {
            let policy = format!("ANY {count} (a, b, c)").parse().expect("a policy");
            BoundPolicy::new(policy, &[], &name(author.into()), end(at))
        };
        let mut policies = vec![bound(first.0, first.1, 0)];
        let mut count = first.0;
        for (at, record) in (1..).zip(node.records()) {
            if record.kind() == Kind::Write {
                continue;
            }
            count = record.asks(count).unwrap_or(count);
            policies.push(bound(count, record.owner().owner(), at));
        }
        let commit = end(node.commit);
        let settled = policies
            .iter()
            .rposition(|policy| policy.config_end() <= commit);
        policies.split_off(settled.unwrap_or(0))
    }

    /// The commit position of the primary `at` when `reported` is what its standbys have: how many
    /// records each, if it follows this timeline.
    fn commit(
        self,
        state: &State,
        at: usize,
        node: &Node,
        flushed: u8,
        reported: [Option<u8>; NODES],
    ) -> u8 {
        let holds = node.hold > 0 && !self.lacks(Rule::BeginFirst);
        let hold_until = if holds { end(node.hold) } else { Lsn::ZERO };
        let mut policies = Self::policies(state.first, node);
        if self.lacks(Rule::BothPolicies) {
            policies.drain(..policies.len() - 1);
        }
        let timeline = self.timeline(node.current());
        let config = CommitConfig {
            name: name(at),
            timeline,
            flushed: end(flushed),
            commit: end(node.commit),
            hold_until,
            policies,
            on_miss: OnMiss::Block,
        };
        let mut committer = Committer::new(config, Moment::ZERO);
        for (standby, reported) in reported.iter().enumerate() {
            let Some(reported) = *reported else { continue };
            let (name, session) = (name(standby), 1);
            let (write, flush) = (end(reported), end(reported));
            let events = [
                Event::Connected {
                    name: name.clone(),
                    session,
                    vote: Vote::From(Lsn::ZERO),
                },
                Event::Streaming {
                    name: name.clone(),
                    session,
                },
                Event::Reported {
                    name,
                    session,
                    timeline,
                    positions: Positions {
                        write,
                        flush,
                        apply: Lsn::ZERO,
                    },
                },
            ];
            for event in events {
                committer.on(event, Moment::ZERO, &mut Vec::new());
            }
        }
        records(committer.commit())
    }

    /// The commit position that the primary `at` comes to when it hears of all that there is.
    pub(super) fn confirmed(self, state: &State, at: usize) -> u8 {
        let node = &state.nodes[at];
        let timeline = self.timeline(node.current());
        let follows = |standby: usize| {
            let there = &state.nodes[standby];
            let same = self.timeline(there.current()) == timeline;
            let follows = standby != at && same && !there.role.is_primary();
            follows.then_some(there.flushed)
        };
        let reported = [0, 1, 2].map(follows);
        let key = Key::new(self.without)
            .log(state.first, node)
            .bits(2, state_index(at));
        let key = key.bits(3, node.hold).bits(5, node.current().0);
        let key = reported
            .iter()
            .fold(key, |key, at| key.bits(3, at.unwrap_or(7)));
        remember(
            |answers| &mut answers.confirmed,
            key,
            || self.commit(state, at, node, node.len, reported),
        )
    }

    /// Whether the primary `at` could get another record confirmed if nobody did anything but
    /// follow whom they may.
    pub(super) fn could_confirm(self, state: &State, at: usize) -> bool {
        let node = &state.nodes[at];
        let timeline = self.timeline(node.current());
        let beyond = node.len + 1;
        let follows = |standby: usize| {
            let newest = self.newest(&state.nodes[standby]);
            let follows = standby != at && !is_stale(timeline, newest);
            follows.then_some(beyond)
        };
        self.commit(state, at, node, beyond, [0, 1, 2].map(follows)) == beyond
    }

    /// The way of the standby `at` onto the log of `from`.
    pub(super) fn way(self, state: &State, at: usize, from: usize) -> Way {
        let (own, their) = (&state.nodes[at], &state.nodes[from]);
        let key = Key::new(self.without)
            .spans(own)
            .spans(their)
            .bits(3, own.len);
        let key = key.bits(3, their.len).bits(3, own.commit);
        let key = key.bits(5, own.others.0).bits(5, own.own.0);
        remember(
            |answers| &mut answers.ways,
            key,
            || {
                let history = self.history(own);
                // A standby asks for no history of a timeline that it has itself.
                let theirs = match self.follows(own, their) {
                    true => history.clone(),
                    false => self.history(their),
                };
                let ours = OwnLog {
                    history: &history,
                    flushed: end(own.len),
                    applied: end(own.commit),
                    accepted: Some(self.newest(own)),
                };
                let theirs = TheirLog {
                    history: &theirs,
                    flushed: end(their.len),
                    oldest: Lsn::ZERO,
                };
                way_forward(ours, theirs)
            },
        )
    }

    /// Whether both are on one timeline, as far as they can tell.
    pub(super) fn follows(self, own: &Node, their: &Node) -> bool {
        self.timeline(own.current()) == self.timeline(their.current())
    }

    /// What a primary does about a timeline that somebody claims.
    pub(super) fn claimed(self, node: &Node, claimed: Tid, opened: bool) -> Fencing {
        if self.lacks(Rule::Fencing) {
            return Fencing::Ignore;
        }
        fencing(&self.history(node), self.timeline(claimed), opened)
    }

    /// Whether a primary that promised a newer timeline to somebody goes on confirming.
    pub(super) fn ignores_promises(self) -> bool {
        self.lacks(Rule::Fencing)
    }

    /// What a primary is after it was closed properly, or crashed, and started again.
    pub(super) fn restarted(self, node: &Node, clean: bool) -> Role {
        let promised = self.promises(node).others;
        let current = self.timeline(node.current());
        let beginning = Beginning {
            clean: clean || self.lacks(Rule::AskAfterCrash),
            overlapped: !clean && !self.lacks(Rule::AskAfterCrash),
            promised: promised.is_some_and(|promised| promised.number > current.number),
            counted: true,
        };
        match (standstill(beginning), clean) {
            (None, _) => Role::Primary,
            (Some(Standstill::Outbid), true) => Role::Outbid,
            (Some(Standstill::Outbid), false) => Role::CrashedOutbid,
            (Some(Standstill::Crashed), _) => Role::Crashed,
        }
    }

    /// Up to how many records a primary confirms nothing when it starts again.
    pub(super) fn held(self, node: &Node) -> u8 {
        let held = held_until(&self.history(node), end(node.commit), end(node.flushed));
        if held.is_zero() { 0 } else { records(held) }
    }

    /// The history of a node that opens `tid` at the end of its log; `None` if it cannot.
    pub(super) fn opened(self, node: &Node, tid: Tid) -> Option<[Place; 3]> {
        let at = end(node.len);
        let mut reached = self.history(node).reached(at);
        let kept = reached.spans().len() - 1;
        reached.open(self.timeline(tid), at, "").ok()?;
        let mut spans = node.spans;
        spans[kept..].fill(Place::default());
        spans[kept] = Place::new(tid, node.len);
        Some(spans)
    }

    /// Whether the log of `from` continues that of `own`, so that it can be fetched.
    pub(super) fn continues(self, own: &Node, from: &Node) -> bool {
        let at = end(own.len);
        let common = self
            .history(own)
            .common_point(at, &self.history(from), Lsn::MAX);
        common == Some(at)
    }

    /// A record that the primary `node` writes next, told from any other at that place.
    pub(super) fn fresh(state: &State, node: &Node, kind: Kind) -> Option<Record> {
        let at = usize::from(node.len);
        let taken = |record: Record| {
            let logs = state.nodes.iter().any(|other| other.log[at] == record);
            logs || state.committed[at] == record
        };
        let tid = node.current();
        let fresh = [false, true].map(|second| Record::new(tid, kind, second));
        fresh.into_iter().find(|record| !taken(*record))
    }
}

fn state_index(at: usize) -> u8 {
    u8::try_from(at).expect("few nodes")
}
