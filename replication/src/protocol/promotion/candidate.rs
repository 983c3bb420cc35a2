//! The candidate's side: probe, promise, fetch, open.
//!
//! ```text
//!   Probing ──rule can be met──▶ Promising ──enough──▶ Fetching ──▶ Opening ──▶ Open
//!      │                            │ ▲                   │
//!      │                            │ └─ the fetched log  │
//!      ▼                            ▼    has a new policy ┘
//!   Refused: nothing changed     Refused: a number is used up, nothing was opened
//! ```
//!
//! `force` skips the checks for a living primary and for lag, never the rule of promises; only
//! giving the policy up does that, and the outcome then says what may be lost.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_storage::{Lsn, Timeline};
use uuid::Uuid;

use super::{LogEnd, Notice, ProbeAnswer, Promise, PromiseRefusal, PromiseRequest};
use super::{Purpose, Refusal};
use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::time::Moment;

mod counting;
mod event;
mod fetching;
mod probing;

pub use event::{Action, CandidateConfig, CandidateStatus, Event, LagLimit, Phase};

/// The machine. Invariant: nothing is opened unless own acceptor and, policy by policy, enough
/// members promised, and own log is as new as the newest of theirs.
#[derive(Debug, Clone)]
pub struct Candidate {
    config: CandidateConfig,
    phase: Phase,
    deadline: Option<Moment>,
    /// `None` for one that failed to answer.
    probes: BTreeMap<NodeName, Option<ProbeAnswer>>,
    timeline: Timeline,
    asked: BTreeSet<NodeName>,
    own_promised: bool,
    overtaken: Option<Timeline>,
    /// Where their logs end, and the life of the data that promised.
    promised: BTreeMap<NodeName, (LogEnd, Uuid)>,
    /// Who will not promise, and the number that stands against it.
    declined: BTreeMap<NodeName, Option<u32>>,
    fetching: Option<(NodeName, LogEnd)>,
    /// From whom nothing could be fetched.
    unfetched: BTreeSet<NodeName>,
    refusal: Option<Refusal>,
}

impl Candidate {
    /// A candidate; nothing happens before `Begin`.
    pub fn new(config: CandidateConfig) -> Self {
        Self {
            phase: Phase::New,
            deadline: None,
            probes: BTreeMap::new(),
            timeline: config.end.timeline,
            asked: BTreeSet::new(),
            own_promised: false,
            overtaken: None,
            promised: BTreeMap::new(),
            declined: BTreeMap::new(),
            fetching: None,
            unfetched: BTreeSet::new(),
            refusal: None,
            config,
        }
    }

    /// Takes one event and appends what it leads to. Events of a phase that is over are ignored.
    pub fn on(&mut self, event: Event, now: Moment, out: &mut Vec<Action>) {
        let late = self.deadline.is_some_and(|deadline| deadline <= now);
        match (self.phase, event) {
            (Phase::New, Event::Begin) => self.probe(now, out),
            (Phase::Probing, Event::ProbeAnswered(name, answer)) => {
                self.note_probe(name, Some(answer), now, out);
            }
            (_, Event::Overtaken(by)) => self.on_overtaken(by, out),
            (Phase::Probing, Event::ProbeFailed(name)) => self.note_probe(name, None, now, out),
            (Phase::Probing, Event::Tick) if late => self.judge(now, out),
            (
                Phase::Promising,
                Event::OwnAnswered {
                    promise,
                    policies,
                    lives,
                },
            ) => {
                self.config.lives = lives;
                self.note_own(promise, policies, now, out);
            }
            (
                Phase::Promising,
                Event::PromiseAnswered {
                    name,
                    timeline,
                    life,
                    promise,
                },
            ) if timeline == self.timeline && self.asked.contains(&name) => {
                self.note_promise(name, life, promise, now, out);
            }
            (Phase::Promising, Event::PromiseFailed(name)) => {
                self.declined.entry(name).or_insert(None);
                self.count(false, now, out);
            }
            (Phase::Promising, Event::Tick) if late => self.count(true, now, out),
            (
                Phase::Fetching,
                Event::Fetched {
                    end,
                    policies,
                    lives,
                },
            ) => {
                self.config.lives = lives;
                self.note_fetched(end, policies, now, out);
            }
            (Phase::Fetching, Event::FetchFailed) => self.fetch_elsewhere(now, out),
            (Phase::Fetching, Event::Tick) if late => self.fetch_elsewhere(now, out),
            (Phase::Opening, Event::Opened { fork, end }) => self.finish(fork, end, out),
            _ => {}
        }
        self.check();
    }

    /// When to bring the next `Tick`.
    pub const fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    /// A look at it.
    pub fn status(&self) -> CandidateStatus {
        CandidateStatus {
            phase: self.phase,
            timeline: self.timeline,
            promised: self.promised.keys().cloned().collect(),
            refusal: self.refusal.clone(),
        }
    }

    /// The policies whose rule must be met.
    fn policies(&self) -> &[BoundPolicy] {
        match self.config.without_policy {
            true => &[],
            false => &self.config.policies,
        }
    }

    fn enter(&mut self, phase: Phase, now: Moment) {
        self.phase = phase;
        self.deadline = Some(now + self.config.phase_timeout);
    }

    fn refuse(&mut self, refusal: Refusal, out: &mut Vec<Action>) {
        self.phase = Phase::Refused;
        self.deadline = None;
        self.refusal = Some(refusal.clone());
        out.push(Action::Refuse(refusal));
    }

    fn request(&self) -> PromiseRequest {
        PromiseRequest {
            candidate: self.config.name.clone(),
            timeline: self.timeline,
            purpose: self.config.purpose,
            opened: self.config.opened.clone(),
        }
    }

    /// Own acceptance comes first: from here on own log grows no more by what others send.
    fn note_own(
        &mut self,
        promise: Promise,
        policies: Vec<BoundPolicy>,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        match promise {
            // A primary that was fenced meanwhile and follows is none that may raise or restart.
            Promise::Accepted(end)
                if self.config.purpose != Purpose::Promote
                    && end.timeline != self.config.end.timeline =>
            {
                let (name, timeline) = (self.config.name.clone(), end.timeline);
                self.refuse(Refusal::Fenced { name, timeline }, out);
            }
            Promise::Accepted(end) => {
                self.own_promised = true;
                self.config.end = end;
                self.config.policies = policies;
                self.ask_members(out);
                self.count(false, now, out);
            }
            Promise::Refused(refusal) => {
                let why = Refusal::OwnPromise(refusal);
                self.refuse(why, out);
            }
        }
    }

    fn on_overtaken(&mut self, by: Timeline, out: &mut Vec<Action>) {
        match self.phase {
            // The next probe sees it.
            Phase::New | Phase::Probing | Phase::Open | Phase::Refused => {}
            Phase::Promising | Phase::Fetching => {
                let why = PromiseRefusal::Outbid(by);
                self.refuse(Refusal::OwnPromise(why), out);
            }
            // The record may be in the log already.
            Phase::Opening => self.overtaken = Some(by),
        }
    }

    fn ask_members(&mut self, out: &mut Vec<Action>) {
        for name in self.members() {
            if self.asked.insert(name.clone()) {
                out.push(Action::AskPromise(name, self.request()));
            }
        }
    }

    fn note_promise(
        &mut self,
        name: NodeName,
        life: Uuid,
        promise: Promise,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        match promise {
            Promise::Accepted(end) => {
                self.declined.remove(&name);
                self.promised.insert(name, (end, life));
            }
            Promise::Refused(refusal) => {
                let against = match refusal {
                    PromiseRefusal::Outbid(newest) | PromiseRefusal::NotContinued(newest) => {
                        Some(newest.number)
                    }
                    PromiseRefusal::Busy | PromiseRefusal::NoVote => None,
                };
                self.declined.insert(name, against);
            }
        }
        self.count(false, now, out);
    }

    /// Goes on when enough promised, and gives up when enough no longer can.
    fn count(&mut self, late: bool, now: Moment, out: &mut Vec<Action>) {
        let lacks = self.lack();
        if lacks.is_none() && self.own_promised {
            return self.fetch(now, out);
        }
        let hopeless = self.hopeless();
        let outbid = self.declined.iter().find_map(|(name, number)| {
            let highest = (*number)?;
            let name = name.clone();
            Some(Refusal::Outbid { name, highest })
        });
        match (hopeless, lacks) {
            (Some(lack), _) => self.refuse(outbid.unwrap_or(lack), out),
            (None, Some(lack)) if late => self.refuse(outbid.unwrap_or(lack), out),
            (None, None) if late => self.refuse(Refusal::OwnSilent, out),
            _ => {}
        }
    }

    fn open(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Opening;
        self.deadline = None;
        out.push(Action::OpenTimeline(self.timeline));
    }

    fn finish(&mut self, fork: Lsn, end: Lsn, out: &mut Vec<Action>) {
        self.phase = Phase::Open;
        let (timeline, overtaken) = (self.timeline, self.overtaken);
        let notices = self.notices();
        out.push(Action::Done {
            timeline,
            fork,
            end,
            overtaken,
            notices,
        });
    }

    /// What to tell the operator of a timeline that is opened as things stand.
    pub fn notices(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        let counted = |policy: &&BoundPolicy| policy.needed() > 0;
        let bound = self
            .config
            .policies
            .iter()
            .filter(counted)
            .collect::<Vec<_>>();
        if self.config.purpose == Purpose::Promote {
            if bound.is_empty() {
                notices.push(Notice::NoPolicy);
            } else if self.config.without_policy {
                let counted = bound.iter().flat_map(|policy| policy.counted());
                let others = counted.filter(|name| **name != self.config.name).cloned();
                let others = others.collect::<BTreeSet<_>>();
                notices.push(Notice::PolicyGivenUp(others.into_iter().collect()));
            } else if self.config.may_degrade {
                notices.push(Notice::MayHaveDegraded);
            }
        }
        if self.config.force {
            notices.push(Notice::Forced);
        }
        notices
    }

    fn check(&self) {
        if matches!(self.phase, Phase::Opening | Phase::Open) {
            assert!(self.own_promised, "did not promise itself");
            assert_eq!(self.lack(), None, "opened without the promises it needs");
            let own = self.config.end;
            let promote = self.config.purpose == Purpose::Promote;
            let newer = |end: &LogEnd| match promote {
                true => end.is_newer_than(&own),
                false => end.timeline.number > own.timeline.number,
            };
            let mut others = self.promised.iter();

            assert!(
                !others.any(|(_, (end, _))| newer(end)),
                "opened without newest log"
            );
        }
    }
}
