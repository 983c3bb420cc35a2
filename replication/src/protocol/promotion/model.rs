//! A small cluster under random schedules, run by the code that ships.
//!
//! Nodes append, stream (also what is not flushed yet), confirm, crash, restart, promote and change
//! the policy; messages are delayed, reordered and lost. The claim: what any primary ever committed
//! is one log, which every later commit extends, and no node ever cuts what it knew committed.

use std::collections::VecDeque;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, TimelineHistory};
use uuid::Uuid;

use super::*;
use crate::protocol::commit::{self, CommitConfig, Committer};
use crate::protocol::level::OnMiss;
use crate::protocol::name::NodeName;
use crate::protocol::policy::{BoundPolicy, change_rule};
use crate::protocol::progress::Positions;
use crate::protocol::receiver::{OwnLog, TheirLog, Way, is_stale, way_forward};
use crate::protocol::script::{FIRST_LIFE, first_lives};
use crate::protocol::vote::{Lives, Vote};
use crate::time::Moment;

mod member;
mod node;
mod scenarios;

use node::{Entry, Node, end_of, entries_to};

enum Message {
    ToMember {
        to: usize,
        from: usize,
        attempt: u64,
        action: CandidateAction,
    },
    ToCandidate {
        to: usize,
        attempt: u64,
        event: CandidateEvent,
    },
    Ack {
        to: usize,
        from: usize,
        timeline: Timeline,
        end: Lsn,
    },
}

struct Cluster {
    nodes: Vec<Node>,
    messages: VecDeque<Message>,
    committed: Vec<Entry>,
    seed: u64,
    next: u64,
    /// One promotion in so many chances; one policy change in so many appends.
    calm: (usize, usize),
    promotions: usize,
    story: Vec<String>,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            messages: VecDeque::new(),
            committed: Vec::new(),
            seed: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            next: 0,
            calm: (1, 1),
            promotions: 0,
            story: Vec::new(),
        };
        let size = 2 + cluster.random(4);
        cluster.calm = (1 + cluster.random(8), [4, 8, 1000][cluster.random(3)]);
        let first = Timeline {
            number: 1,
            id: Uuid::from_u128(1),
        };
        let names = ["a", "b", "c", "d", "e"].map(|name| name.parse::<NodeName>().unwrap());
        let history = TimelineHistory::new(first, Lsn::new(8));
        for name in names.into_iter().take(size) {
            cluster.nodes.push(Node {
                acceptor: Acceptor::new(name.clone(), Promises::default(), first),
                name,
                log: Vec::new(),
                flushed: 0,
                history: history.clone(),
                known_commit: Lsn::new(8),
                primary: None,
                candidate: None,
                restarting: false,
            });
        }
        let policy = cluster.policy(0, 0);
        for node in &mut cluster.nodes {
            (node.log, node.flushed) = (vec![Entry::Config(policy.clone())], 1);
            node.known_commit = end_of(1);
        }
        cluster.committed.push(Entry::Config(policy));
        cluster.lead(0, Lsn::ZERO);
        cluster
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        usize::try_from(self.seed >> 33).unwrap() % below
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A policy of random strictness over all nodes, set by `author` as entry number `at`.
    fn policy(&mut self, author: usize, at: usize) -> BoundPolicy {
        let names = self.nodes.iter().map(|node| node.name.as_str());
        let names = names.collect::<Vec<_>>().join(", ");
        let k = 1 + self.random(self.nodes.len() - 1);
        let word = ["ANY", "FIRST"][self.random(2)];
        let policy = format!("{word} {k} ({names})").parse().unwrap();
        BoundPolicy::new(policy, &[], &self.nodes[author].name, end_of(at + 1))
    }

    fn lead(&mut self, at: usize, hold_until: Lsn) {
        let node = &mut self.nodes[at];
        let config = CommitConfig {
            name: node.name.clone(),
            timeline: node.history.current(),
            flushed: end_of(node.flushed),
            commit: node.known_commit,
            hold_until,
            policies: node.policies(),
            on_miss: OnMiss::Block,
        };
        node.primary = Some(Committer::new(config, Moment::ZERO));
        node.restarting = false;
        self.check_commit(at);
    }

    fn commit(&mut self, at: usize, event: commit::Event) {
        let Some(committer) = &mut self.nodes[at].primary else {
            return;
        };
        committer.on(event, Moment::ZERO, &mut Vec::new());
        self.check_commit(at);
    }

    /// The claim.
    fn check_commit(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(committer) = &node.primary else {
            return;
        };
        node.known_commit = node.known_commit.max(committer.commit());
        let log = &node.log[..entries_to(committer.commit())];
        let shared = log.len().min(self.committed.len());
        assert_eq!(
            log[..shared],
            self.committed[..shared],
            "{}",
            self.story.join("\n")
        );
        if log.len() > shared {
            self.committed = log.to_vec();
            let bound = committer.status().policies;
            let bound = bound
                .iter()
                .map(|policy| format!("{} of {:?}", policy.policy(), policy.counted()));
            let bound = bound.collect::<Vec<_>>().join(" and ");
            self.story
                .push(format!("{at} commits {} under {bound}", committer.commit()));
        }
    }

    /// Nothing that a reader of this node may have seen vanishes.
    fn check_cut(&self, at: usize, entries: usize) {
        let node = &self.nodes[at];
        let story = self.story.join("\n");
        assert!(
            node.known_commit <= end_of(entries),
            "{} cut to {entries}\n{story}",
            node.name
        );
    }

    fn step(&mut self) {
        let at = self.random(self.nodes.len());
        match self.random(20) {
            0..=3 => self.append(at),
            4..=6 => self.flush(at),
            7..=11 => self.stream(at),
            12..=16 => self.deliver(),
            17 if self.random(self.calm.0) == 0 => self.begin(at, Purpose::Promote),
            18 if self.random(12) == 0 => self.crash(at),
            _ => self.tick(at),
        }
    }

    fn append(&mut self, at: usize) {
        let len = self.nodes[at].log.len();
        let free = self.nodes[at]
            .primary
            .as_ref()
            .is_some_and(Committer::may_change_policy);
        let entry = match self.random(self.calm.1) {
            0 if free => Entry::Config(self.policy(at, len)),
            _ => Entry::Write(self.fresh()),
        };
        if self.nodes[at].primary.is_none() {
            return;
        }
        self.nodes[at].log.push(entry.clone());
        if let Entry::Config(policy) = entry {
            let old = self.nodes[at]
                .primary
                .as_ref()
                .map(|primary| primary.status().policies);
            let old = old.and_then(|mut old| old.pop()).unwrap();
            let rule = change_rule(&old, &policy, false);
            self.story
                .push(format!("{at} logs {} at {len}, {rule:?}", policy.policy()));
            self.commit(at, commit::Event::PolicyLogged { policy, rule });
        }
    }

    fn flush(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.flushed = node.log.len();
        let end = end_of(node.flushed);
        self.commit(at, commit::Event::Flushed(end));
    }

    /// `at` takes a little from some primary, if it may, and confirms it.
    fn stream(&mut self, at: usize) {
        let from = self.random(self.nodes.len());
        let more = 1 + self.random(4);
        self.stream_from(at, from, more);
    }

    fn stream_from(&mut self, at: usize, from: usize, more: usize) {
        // A candidate goes on receiving until its own promise stops that.
        let busy = self.nodes[at].primary.is_some();
        if from == at || busy || self.nodes[from].primary.is_none() {
            return;
        }
        let newest = self.nodes[at].acceptor.newest();
        let timeline = self.nodes[from].history.current();
        if is_stale(timeline, newest) {
            let opened = self.nodes[at].history.contains(newest);
            return self.claim(from, newest, opened);
        }
        let (own, their) = (&self.nodes[at], &self.nodes[from]);
        let ours = OwnLog {
            history: &own.history,
            flushed: end_of(own.log.len()),
            applied: own.known_commit,
            accepted: Some(newest),
        };
        let theirs = TheirLog {
            history: &their.history,
            flushed: end_of(their.log.len()),
            oldest: Lsn::ZERO,
        };
        let to = match way_forward(ours, theirs) {
            Way::Resume(to) => to,
            Way::Cut(to) | Way::Rewind(to) => {
                self.check_cut(at, entries_to(to));
                self.story.push(format!("{at} cuts to {to} for {from}"));
                to
            }
            _ => return,
        };
        let (history, commit) = (their.history.clone(), their.known_commit);
        let upto = (entries_to(to) + more).min(self.nodes[from].log.len());
        let fetched = self.nodes[from].log[entries_to(to)..upto].to_vec();
        if timeline != newest {
            self.on_candidate(at, CandidateEvent::Overtaken(timeline), Moment::ZERO);
        }
        let node = &mut self.nodes[at];
        node.restarting = false;
        node.cut(entries_to(to));
        node.log.extend(fetched);
        node.flushed = node.log.len();
        node.history = history;
        let end = end_of(node.flushed);
        node.known_commit = node.known_commit.max(commit.min(end)).min(end);
        node.acceptor
            .on(AcceptorEvent::Opened(timeline), &mut Vec::new());
        self.messages.push_back(Message::Ack {
            to: from,
            from: at,
            timeline,
            end,
        });
    }

    /// The primary `at` hears of a timeline.
    fn claim(&mut self, at: usize, timeline: Timeline, opened: bool) {
        if self.nodes[at].primary.is_none() {
            return;
        }
        match fencing(&self.nodes[at].history, timeline, opened) {
            Fencing::Ignore => {}
            Fencing::Fence(by) => {
                let node = &mut self.nodes[at];
                node.primary = None;
                node.acceptor
                    .on(AcceptorEvent::Replaced(by), &mut Vec::new());
            }
            Fencing::AskAbove(_) => {
                self.commit(at, commit::Event::Suspended(true));
                if self.nodes[at].candidate.is_none() {
                    self.begin(at, Purpose::Raise);
                }
            }
        }
    }

    fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let was_primary = node.primary.take().is_some();
        node.candidate = None;
        node.log.truncate(node.flushed);
        self.story
            .push(format!("{at} crashes with {} entries", node.flushed));
        self.nodes[at].restarting = was_primary && self.random(2) == 0;
        self.continue_restart(at);
    }

    /// A restarted primary tries either rule, again and again, until it follows somebody.
    fn continue_restart(&mut self, at: usize) {
        if self.nodes[at].restarting && self.nodes[at].primary.is_none() {
            let purpose = [Purpose::Restart, Purpose::Raise][self.random(2)];
            self.begin(at, purpose);
        }
    }

    fn begin(&mut self, at: usize, purpose: Purpose) {
        let primary = self.nodes[at].primary.is_some();
        if self.nodes[at].candidate.is_some() || (primary && purpose != Purpose::Raise) {
            return;
        }
        self.flush(at);
        let id = Uuid::from_u128(u128::from(self.fresh()) + 1);
        let node = &self.nodes[at];
        let candidate = Candidate::new(CandidateConfig {
            name: node.name.clone(),
            purpose,
            end: node.log_end(),
            opened: node.history.clone(),
            policies: node.policies(),
            lives: self.lives(),
            life: FIRST_LIFE,
            also_probe: vec![],
            highest_seen: node.acceptor.newest().number,
            number: None,
            id,
            primary_heard: None,
            heartbeat_timeout: Duration::from_secs(10),
            lag_max: None,
            force: true,
            without_policy: false,
            may_degrade: false,
            phase_timeout: Duration::from_secs(10),
        });
        let attempt = self.fresh();
        let node = &self.nodes[at];
        let bound = node.policies();
        let bound = bound
            .iter()
            .map(|policy| format!("{} of {:?}", policy.policy(), policy.counted()));
        let bound = bound.collect::<Vec<_>>().join(" and ");
        let end = node.log_end();
        self.story
            .push(format!("{at} begins {purpose:?} at {end:?} under {bound}"));
        self.nodes[at].candidate = Some((attempt, candidate));
        self.on_candidate(at, CandidateEvent::Begin, Moment::ZERO);
    }

    fn tick(&mut self, at: usize) {
        let end = Moment::ZERO + Duration::from_secs(20);
        match self.random(4) {
            0 => self.on_candidate(at, CandidateEvent::Tick, end),
            1 => self.continue_restart(at),
            _ => {}
        }
    }

    fn on_candidate(&mut self, at: usize, event: CandidateEvent, now: Moment) {
        let Some((attempt, candidate)) = &mut self.nodes[at].candidate else {
            return;
        };
        let (attempt, mut out) = (*attempt, Vec::new());
        candidate.on(event, now, &mut out);
        for action in out {
            let name = match &action {
                CandidateAction::AskProbe(name) | CandidateAction::AskPromise(name, _) => name,
                CandidateAction::AskOwn(_) => &self.nodes[at].name,
                CandidateAction::FetchFrom { name, .. } => name,
                _ => {
                    self.conclude(at, action);
                    continue;
                }
            };
            let to = self
                .nodes
                .iter()
                .position(|node| node.name == *name)
                .unwrap();
            self.messages.push_back(Message::ToMember {
                to,
                from: at,
                attempt,
                action,
            });
        }
    }

    fn conclude(&mut self, at: usize, action: CandidateAction) {
        match action {
            CandidateAction::OpenTimeline(timeline) => {
                let node = &mut self.nodes[at];
                let fork = end_of(node.log.len());
                // Timelines that were adopted and never reached are not this log's.
                let reached = node.history.owner(Lsn::new(fork.get() - 8)).number;
                node.history = node.history.until(reached).unwrap();
                node.history.open(timeline, fork, "model").unwrap();
                node.log.push(Entry::NewTimeline(timeline));
                node.flushed = node.log.len();
                let end = end_of(node.flushed);
                node.acceptor
                    .on(AcceptorEvent::Opened(timeline), &mut Vec::new());
                self.on_candidate(at, CandidateEvent::Opened { fork, end }, Moment::ZERO);
            }
            CandidateAction::Done { timeline, end, .. } => {
                self.story
                    .push(format!("{at} opens {timeline} up to {end}"));
                self.promotions += 1;
                self.nodes[at].candidate = None;
                self.lead(at, end);
            }
            CandidateAction::Refuse(why) => {
                self.story.push(format!("{at} is refused: {why}"));
                self.nodes[at].candidate = None;
                if let Refusal::Fenced { .. } = why {
                    self.nodes[at].primary = None;
                }
                if self.random(2) == 0 {
                    self.nodes[at]
                        .acceptor
                        .on(AcceptorEvent::GivenUp, &mut Vec::new());
                }
            }
            _ => unreachable!("asked above"),
        }
    }

    fn deliver(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let which = self.random(self.messages.len());
        let message = self.messages.remove(which).unwrap();
        if self.random(12) > 0 {
            self.hand_over(message);
        }
    }

    fn hand_over(&mut self, message: Message) {
        match message {
            Message::Ack {
                to,
                from,
                timeline,
                end,
            } => self.acknowledge(to, from, timeline, end),
            Message::ToCandidate { to, attempt, event } => {
                let current = self.nodes[to]
                    .candidate
                    .as_ref()
                    .map(|(attempt, _)| *attempt);
                if current == Some(attempt) {
                    self.on_candidate(to, event, Moment::ZERO);
                }
            }
            Message::ToMember {
                to,
                from,
                attempt,
                action,
            } => {
                if let Some(event) = self.answer(to, from, attempt, action) {
                    self.messages.push_back(Message::ToCandidate {
                        to: from,
                        attempt,
                        event,
                    });
                }
            }
        }
    }

    fn acknowledge(&mut self, to: usize, from: usize, timeline: Timeline, end: Lsn) {
        let (name, session) = (self.nodes[from].name.clone(), 1);
        let Some(primary) = &self.nodes[to].primary else {
            return;
        };
        let known = primary
            .status()
            .standbys
            .into_iter()
            .find(|part| part.name == name);
        let current = self.nodes[to].history.current() == timeline;
        // A later report of one session never says less.
        if !current || known.as_ref().is_some_and(|part| part.reported.flush > end) {
            return;
        }
        if known.is_none() {
            let connected = commit::Event::Connected {
                name: name.clone(),
                session,
                vote: Vote::From(Lsn::ZERO),
            };
            self.commit(to, connected);
            self.commit(
                to,
                commit::Event::Streaming {
                    name: name.clone(),
                    session,
                },
            );
        }
        let positions = Positions {
            write: end,
            flush: end,
            apply: Lsn::ZERO,
        };
        self.commit(
            to,
            commit::Event::Reported {
                name,
                session,
                timeline,
                positions,
            },
        );
    }
}

fn run(seed: u64, steps: usize) -> (usize, usize) {
    let mut cluster = Cluster::new(seed);
    for _ in 0..steps {
        cluster.step();
    }
    (cluster.promotions, cluster.committed.len())
}

#[test]
fn committed_log_is_one_log_under_every_schedule() {
    let seeds = std::env::var("MAINSTAY_MODEL_SEEDS").ok();
    let seeds = seeds.and_then(|seeds| seeds.parse().ok()).unwrap_or(1_500);
    let (mut promotions, mut committed) = (0, 0);
    for seed in 0..seeds {
        let (opened, entries) = run(seed, 400);
        promotions += opened;
        committed += entries;
    }
    assert!(promotions > 500, "{promotions} promotions test little");
    assert!(committed > 10_000, "{committed} commits test little");
}
