//! Both sides of a promise: what a member answers, and what a candidate makes of the answers.

use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, TimelineHistory};

use super::super::state::{Candidacy, NODES, Node, Place, State, Tid};
use super::memory::{Key, remember};
use super::{Decisions, Next, Rule, Step, name, records, state_index};
use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::protocol::promotion::{
    Acceptor, AcceptorAction, AcceptorEvent, Candidate, CandidateAction, CandidateConfig,
    CandidateEvent, LogEnd, ProbeAnswer, Promise, PromiseRequest, Purpose, Role as Probed,
};
use crate::protocol::script::{FIRST_LIFE, first_lives};
use crate::time::Moment;

impl Decisions {
    /// The policies as a candidate takes them.
    fn policies_to_meet(self, first: (u8, u8), node: &Node) -> Vec<BoundPolicy> {
        let policies = Self::policies(first, node);
        if !self.lacks(Rule::PromisesMeetConfirmations) {
            return policies;
        }
        // One more for a commit is one less for a promotion.
        let laxer = policies.iter().map(|policy| {
            let counted = policy
                .counted()
                .iter()
                .map(NodeName::as_str)
                .collect::<Vec<_>>();
            let text = format!("ANY {} ({})", policy.needed() + 1, counted.join(", "));
            let laxer = text.parse().unwrap_or_default();
            BoundPolicy::new(laxer, &[], &name(3), policy.config_end())
        });
        laxer.collect()
    }

    /// What `member` is bound by after `candidate` asked it; `None` if it refuses.
    pub(crate) fn promise(
        self,
        state: &State,
        member: usize,
        candidate: usize,
        asked: Tid,
        purpose: Purpose,
    ) -> Option<(Tid, Tid)> {
        let (node, asking) = (&state.nodes[member], &state.nodes[candidate]);
        let key = Key::new(self.without)
            .bits(5, node.others.0)
            .bits(5, node.own.0);
        let key = key
            .bits(5, node.current().0)
            .bits(5, asked.0)
            .bits(1, u8::from(member == candidate));
        let key = key.bits(2, purpose as u8).spans(asking);
        remember(
            |answers| &mut answers.promises,
            key,
            || self.ask_promise(node, member, asking, candidate, asked, purpose),
        )
    }

    fn ask_promise(
        self,
        node: &Node,
        member: usize,
        asking: &Node,
        candidate: usize,
        asked: Tid,
        purpose: Purpose,
    ) -> Option<(Tid, Tid)> {
        let timeline = self.timeline(asked);
        let opened = self.timeline(node.current());
        let mut acceptor = Acceptor::new(name(member), self.promises(node), opened);
        let mut out = Vec::new();
        let request = PromiseRequest {
            candidate: name(candidate),
            timeline,
            purpose,
            opened: self.history(asking),
        };
        acceptor.on(AcceptorEvent::Asked(request), &mut out);
        if self.lacks(Rule::OneId) && self.newest(node).number == timeline.number {
            return Some((asked, node.own));
        }
        let Some(AcceptorAction::Persist(promises)) = out.pop() else {
            return None;
        };
        let end = self.log_end(node.log_end());
        acceptor.on(AcceptorEvent::Persisted(end), &mut out);
        let accepted = Promise::Accepted(end);
        let reply = AcceptorAction::Reply {
            candidate: name(candidate),
            timeline,
            promise: accepted,
        };
        assert_eq!(out, [reply], "promised, and said something else");
        let changed = |now: Option<Timeline>, was: Tid| match now {
            None => Tid::NONE,
            Some(now) if was.is_some() && now == self.timeline(was) => was,
            Some(_) => asked,
        };
        Some((
            changed(promises.others, node.others),
            changed(promises.own, node.own),
        ))
    }

    /// What the candidate `at` does once it has the promises of `heard`, a bit each.
    pub(crate) fn next(self, state: &State, at: usize, heard: u8) -> Next {
        let node = &state.nodes[at];
        let key = Key::new(self.without)
            .log(state.first, node)
            .bits(2, state_index(at));
        let key = key.bits(3, node.candidacy as u8).bits(5, node.own.0);
        // A standby's own timelines do not matter to its attempt.
        let key = match node.candidacy {
            Candidacy::Promote => key.bits(24, 0),
            _ => key.spans(node),
        };
        let heard_of = |member: usize| (heard >> member & 1 == 1).then(|| node.promised[member]);
        let ends = [0, 1, 2].map(heard_of);
        let key = (ends.iter()).fold(key, |key, end| key.bits(8, end.unwrap_or_default().byte()));
        remember(
            |answers| &mut answers.next,
            key,
            || self.ask_candidate(state, at, ends),
        )
    }

    fn ask_candidate(self, state: &State, at: usize, ends: [Option<Place>; NODES]) -> Next {
        let node = &state.nodes[at];
        let timeline = self.timeline(node.own);
        let (mut candidate, policies) = self.candidate(state, at);
        let mut out = Vec::new();
        candidate.on(CandidateEvent::Begin, Moment::ZERO, &mut out);
        let probed = |action: &CandidateAction| match action {
            CandidateAction::AskProbe(member) => Some(member.clone()),
            _ => None,
        };
        for member in out.iter().filter_map(probed).collect::<Vec<_>>() {
            let answer = ProbeAnswer {
                role: Probed::Standby,
                end: self.log_end(Place::new(Tid::FIRST, 0)),
                highest: timeline.number - 1,
                primary_heard: None,
            };
            let event = CandidateEvent::ProbeAnswered(member, answer);
            candidate.on(event, Moment::ZERO, &mut out);
        }
        let asks_itself = matches!(out.last(), Some(CandidateAction::AskOwn(_)));
        assert!(asks_itself, "it looked around, and then: {out:?}");
        let promise = Promise::Accepted(self.log_end(node.log_end()));
        let event = CandidateEvent::OwnAnswered {
            promise,
            policies,
            lives: first_lives((0..NODES).map(name)),
        };
        candidate.on(event, Moment::ZERO, &mut out);
        let asked = |action: &CandidateAction, member: usize| match action {
            CandidateAction::AskPromise(asked, _) => *asked == name(member),
            _ => false,
        };
        let asks = (0..NODES).filter(|member| out.iter().any(|action| asked(action, *member)));
        let asks = asks.fold(0, |asks, member| asks | 1 << member);
        let mut ends = ends.map(|end| end.map(|end| self.log_end(end)));
        if self.lacks(Rule::Promises) {
            ends = [Some(self.log_end(Place::new(Tid::FIRST, 0))); NODES];
        }
        for (member, end) in ends.iter().enumerate() {
            let Some(end) = *end else { continue };
            let promise = Promise::Accepted(end);
            let event = CandidateEvent::PromiseAnswered {
                name: name(member),
                timeline,
                life: FIRST_LIFE,
                promise,
            };
            candidate.on(event, Moment::ZERO, &mut out);
        }
        let step = match out.last() {
            Some(CandidateAction::OpenTimeline(_)) => Step::Open,
            // Where one cannot give it, another one may that has as much.
            Some(CandidateAction::FetchFrom { end: wanted, .. }) => {
                let gives =
                    |end: &Option<LogEnd>| end.is_some_and(|end| !wanted.is_newer_than(&end));
                let from = (0..NODES).filter(|member| gives(&ends[*member]));
                let from = from.fold(0, |from, member| from | 1 << member);
                let upto = records(wanted.flushed);
                Step::Fetch { upto, from }
            }
            _ => Step::Wait,
        };
        Next { asks, step }
    }

    fn candidate(self, state: &State, at: usize) -> (Candidate, Vec<BoundPolicy>) {
        let node = &state.nodes[at];
        let policies = self.policies_to_meet(state.first, node);
        let (purpose, opened) = match node.candidacy {
            Candidacy::Raise => (Purpose::Raise, self.history(node)),
            Candidacy::Restart => (Purpose::Restart, self.history(node)),
            _ => (
                Purpose::Promote,
                TimelineHistory::new(self.timeline(Tid::FIRST), Lsn::ZERO),
            ),
        };
        let timeline = self.timeline(node.own);
        let config = CandidateConfig {
            name: name(at),
            purpose,
            end: self.log_end(node.log_end()),
            opened,
            policies: policies.clone(),
            lives: first_lives((0..NODES).map(name)),
            life: FIRST_LIFE,
            also_probe: Vec::new(),
            highest_seen: timeline.number - 1,
            number: None,
            id: timeline.id,
            primary_heard: None,
            heartbeat_timeout: Duration::from_secs(10),
            lag_max: None,
            force: true,
            without_policy: false,
            may_degrade: false,
            phase_timeout: Duration::from_secs(10),
        };
        (Candidate::new(config), policies)
    }
}
