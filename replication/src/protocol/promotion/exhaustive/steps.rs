//! The steps of the model, and what each leads to.

use super::decisions::{Decisions, Step};
use super::state::{Breach, Candidacy, Kind, NODES, Node, Place, Record, Role, State, Tid};
use crate::protocol::promotion::{Fencing, Purpose};
use crate::protocol::receiver::Way;

/// How far a run of the model goes.
#[derive(Debug, Copy, Clone)]
pub(super) struct Bounds {
    /// The highest number of a timeline.
    pub(super) timelines: u8,
    /// Most writes and changes of policy by themselves.
    pub(super) records: u8,
    /// Most changes of policy in one log, with a timeline or by themselves.
    pub(super) changes: u8,
    /// Most records in one log behind its first configuration, whatever they say.
    pub(super) log: u8,
}

/// One step.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A primary appends a write.
    Append(usize),
    /// A primary logs another policy.
    Configure(usize),
    /// A primary flushes what it has, and learns that its standbys have it too.
    Commit(usize),
    /// A standby learns what is committed, from a primary.
    Advance(usize, usize),
    /// A standby takes a step towards a primary's log: cuts its own, or adopts the history.
    Follow(usize, usize),
    /// A standby receives a record from a primary, flushes and confirms it.
    Receive(usize, usize),
    /// A node promises itself a timeline of this number, and begins to ask for it.
    Begin(usize, Candidacy, u8),
    /// A member promises a candidate its timeline.
    Promise(usize, usize),
    /// The same, while it is about to write a timeline of its own, with the promises of these
    /// members, a bit each; then it does write it.
    PromiseAndOpen(usize, usize, u8),
    /// A candidate opens its timeline with the promises of these members, and perhaps changes the
    /// policy with it.
    Open(usize, u8, bool),
    /// It fetches so many records from that member, with the promises of these.
    Fetch(usize, u8, usize),
    /// It crashes when it has fetched so many.
    FetchAndCrash(usize, u8, usize, u8),
    /// A candidate gives up, or a standby crashes.
    Abandon(usize),
    /// A primary hears of a timeline that is only promised.
    Suspend(usize),
    /// A primary crashes when so many records had reached its disk, and starts again.
    Crash(usize, u8),
    /// A primary is closed properly and starts again.
    Restart(usize),
    /// A primary becomes a standby.
    StepDown(usize),
    /// A primary hears from a node of the newest timeline that binds it.
    Claim(usize, usize),
    /// A primary hears from a node of the timeline where its log ends.
    Meet(usize, usize),
    /// A primary hears of a newer timeline from a node while it is about to write its own, with the
    /// promises of these members; then it writes it, and serves nobody.
    ClaimAndOpen(usize, usize, u8),
}

const NODE: [usize; NODES] = [0, 1, 2];

/// Every step that may be possible; [`step`] says which are.
pub(super) fn candidates(state: &State, bounds: Bounds, actions: &mut Vec<Action>) {
    for at in NODE {
        let node = &state.nodes[at];
        if node.role.is_primary() {
            as_primary(node, at, actions);
        } else if node.candidacy == Candidacy::None {
            for from in NODE
                .into_iter()
                .filter(|from| state.nodes[*from].role.streams())
            {
                actions.extend([
                    Action::Advance(at, from),
                    Action::Follow(at, from),
                    Action::Receive(at, from),
                ]);
            }
        }
        match node.candidacy {
            Candidacy::None => {
                let purposes: &[_] = match node.role {
                    Role::Standby => &[Candidacy::Promote],
                    Role::Primary => &[],
                    Role::Outbid | Role::CrashedOutbid => &[Candidacy::Raise],
                    Role::Crashed => &[Candidacy::Raise, Candidacy::Restart],
                };
                for purpose in purposes {
                    let numbers = 2..=bounds.timelines;
                    actions.extend(numbers.map(|number| Action::Begin(at, *purpose, number)));
                }
            }
            _ => as_candidate(state, at, actions),
        }
    }
}

fn as_primary(node: &Node, at: usize, actions: &mut Vec<Action>) {
    actions.extend([
        Action::Append(at),
        Action::Configure(at),
        Action::Commit(at),
        Action::Restart(at),
        Action::StepDown(at),
        Action::Suspend(at),
    ]);
    actions.extend((node.flushed..=node.len).map(|kept| Action::Crash(at, kept)));
    for by in NODE {
        actions.extend([Action::Claim(at, by), Action::Meet(at, by)]);
    }
}

fn as_candidate(state: &State, at: usize, actions: &mut Vec<Action>) {
    actions.push(Action::Abandon(at));
    let promised = &state.nodes[at].promised;
    for member in NODE {
        actions.push(Action::Promise(member, at));
    }
    for heard in 0..1u8 << NODES {
        if NODE
            .iter()
            .any(|member| heard >> member & 1 == 1 && !promised[*member].is_some())
        {
            continue;
        }
        actions.extend([false, true].map(|change| Action::Open(at, heard, change)));
        for other in NODE {
            actions.push(Action::PromiseAndOpen(at, other, heard));
            actions.push(Action::ClaimAndOpen(at, other, heard));
        }
        for from in NODE.into_iter().filter(|from| heard >> from & 1 == 1) {
            actions.push(Action::Fetch(at, heard, from));
            let fetched = 0..state.nodes[from].len;
            actions.extend(fetched.map(|upto| Action::FetchAndCrash(at, heard, from, upto)));
        }
    }
}

/// The state after a step; `None` where it is not possible or changes nothing.
pub(super) fn step(
    state: &State,
    action: Action,
    decide: Decisions,
    bounds: Bounds,
) -> Option<State> {
    let next = named(state, action, decide, bounds)?.canonical();
    (next != *state).then_some(next)
}

/// The same, while every node keeps its name.
pub(super) fn named(
    state: &State,
    action: Action,
    decide: Decisions,
    bounds: Bounds,
) -> Option<State> {
    let mut cluster = Cluster {
        state: *state,
        decide,
        bounds,
    };
    match action {
        Action::Append(at) => cluster.append(at, false),
        Action::Configure(at) => cluster.append(at, true),
        Action::Commit(at) => cluster.commit(at),
        Action::Advance(at, from) => cluster.advance(at, from),
        Action::Follow(at, from) => cluster.follow(at, from),
        Action::Receive(at, from) => cluster.receive(at, from),
        Action::Begin(at, purpose, number) => cluster.begin(at, purpose, number),
        Action::Promise(member, candidate) => cluster.promise(member, candidate),
        Action::PromiseAndOpen(member, candidate, heard) => {
            cluster.promise_and_open(member, candidate, heard)
        }
        Action::Open(at, heard, change) => cluster.open(at, heard, change),
        Action::Fetch(at, heard, from) => cluster.fetch(at, heard, from, None),
        Action::FetchAndCrash(at, heard, from, upto) => cluster.fetch(at, heard, from, Some(upto)),
        Action::Abandon(at) => cluster.abandon(at),
        Action::Suspend(at) => cluster.suspend(at),
        Action::Crash(at, kept) => cluster.crash(at, kept),
        Action::Restart(at) => cluster.restart(at),
        Action::StepDown(at) => cluster.step_down(at),
        Action::Claim(at, by) => cluster.hear(at, by),
        Action::Meet(at, by) => cluster.claim(at, state.nodes[by].log_end().tid(), true),
        Action::ClaimAndOpen(at, by, heard) => cluster.hear_and_open(at, by, heard),
    }?;
    cluster.tidy();
    Some(cluster.state)
}

struct Cluster {
    state: State,
    decide: Decisions,
    bounds: Bounds,
}

/// Nothing, where something is not so.
fn only(so: bool) -> Option<()> {
    so.then_some(())
}

impl Cluster {
    fn append(&mut self, at: usize, change: bool) -> Option<()> {
        let node = &self.state.nodes[at];
        only(node.role.writes())?;
        only(self.state.appended < self.bounds.records && node.len < self.bounds.log)?;
        let mut kind = Kind::Write;
        if change {
            only(node.role == Role::Primary)?;
            only(self.may_change(node))?;
            kind = if self.asks(node) == 2 {
                Kind::One
            } else {
                Kind::Two
            };
        }
        let record = Decisions::fresh(&self.state, node, kind)?;
        self.state.nodes[at].push(record);
        self.state.appended += 1;
        Some(())
    }

    /// How many standbys the newest policy of a log asks for.
    fn asks(&self, node: &Node) -> u8 {
        let first = self.state.first.0;
        let asked = |count: u8, record: &Record| record.asks(count).unwrap_or(count);
        node.records().iter().fold(first, asked)
    }

    fn may_change(&self, node: &Node) -> bool {
        let changes = node
            .records()
            .iter()
            .filter(|record| record.asks(1).is_some());
        changes.count() < self.bounds.changes.into()
    }

    fn flush(&mut self, at: usize) -> Option<()> {
        let node = &mut self.state.nodes[at];
        node.flushed = node.len;
        Some(())
    }

    fn commit(&mut self, at: usize) -> Option<()> {
        only(self.state.nodes[at].role == Role::Primary)?;
        let upto = self.decide.confirmed(&self.state, at);
        only(upto > self.state.nodes[at].commit)?;
        let node = &mut self.state.nodes[at];
        node.commit = upto;
        node.flushed = node.flushed.max(upto);
        let (node, upto, tid) = (*node, usize::from(upto), node.current());
        let state = &mut self.state;
        let shared = upto.min(state.committed_len.into());
        if node.log[..shared] != state.committed[..shared] {
            state.breach(Breach::TwoLogs);
        } else if upto > shared {
            state.committed[..upto].copy_from_slice(&node.log[..upto]);
            state.committed_len = node.commit;
        }
        state.committed_number = state.committed_number.max(tid.number());
        if tid != Tid::FIRST {
            let known = &mut state.committing[usize::from(tid.number() - 2)];
            if !known.is_some() {
                *known = tid;
            } else if *known != tid {
                state.breach(Breach::TwoIds);
            }
        }
        Some(())
    }

    /// A standby that may follow a primary which streams, and how.
    fn way(&self, at: usize, from: usize) -> Option<Way> {
        let (own, their) = (&self.state.nodes[at], &self.state.nodes[from]);
        only(at != from && own.role == Role::Standby && own.candidacy == Candidacy::None)?;
        only(their.role.streams())?;
        Some(self.decide.way(&self.state, at, from))
    }

    fn streams(&self, at: usize, from: usize) -> Option<()> {
        let way = self.way(at, from)?;
        let (own, their) = (&self.state.nodes[at], &self.state.nodes[from]);
        only(matches!(way, Way::Resume(_)) && self.decide.follows(own, their))
    }

    fn advance(&mut self, at: usize, from: usize) -> Option<()> {
        self.streams(at, from)?;
        let known = self.state.nodes[from].commit;
        let node = &mut self.state.nodes[at];
        node.commit = node.commit.max(known.min(node.flushed));
        Some(())
    }

    fn follow(&mut self, at: usize, from: usize) -> Option<()> {
        match self.way(at, from)? {
            Way::Resume(_) => {
                let (own, their) = (&self.state.nodes[at], &self.state.nodes[from]);
                only(!self.decide.follows(own, their))?;
                self.state.nodes[at].spans = their.spans;
            }
            Way::Cut(to) | Way::Rewind(to) => {
                let to = u8::try_from(to.get() / 8)
                    .expect("a short log")
                    .checked_sub(2)?;
                self.cut(at, to);
            }
            _ => return None,
        }
        Some(())
    }

    fn receive(&mut self, at: usize, from: usize) -> Option<()> {
        self.streams(at, from)?;
        let their = &self.state.nodes[from];
        only(self.state.nodes[at].len < their.len)?;
        let record = their.log[usize::from(self.state.nodes[at].len)];
        let node = &mut self.state.nodes[at];
        node.push(record);
        node.flushed = node.len;
        Some(())
    }

    fn cut(&mut self, at: usize, to: u8) {
        let node = &self.state.nodes[at];
        let same = node.records().iter().zip(self.state.committed());
        let same = same.take_while(|(own, committed)| own == committed).count();
        if usize::from(to) < same || to < node.commit {
            self.state.breach(Breach::Cut);
        }
        let node = &mut self.state.nodes[at];
        node.truncate(to);
        node.commit = node.commit.min(to);
    }

    fn begin(&mut self, at: usize, candidacy: Candidacy, number: u8) -> Option<()> {
        let node = &self.state.nodes[at];
        only(u32::from(number) > self.decide.newest(node).number)?;
        let tid = Tid::new(number, at);
        let lives = self.state.live() >> tid.0 & 1 == 1;
        assert!(
            !lives || self.decide.without.is_some(),
            "two attempts with one id"
        );
        only(!lives)?;
        let promise = self
            .decide
            .promise(&self.state, at, at, tid, purpose(candidacy));
        let (others, own) = promise?;
        let node = &mut self.state.nodes[at];
        (node.others, node.own, node.candidacy) = (others, own, candidacy);
        self.flush(at)
    }

    fn promise(&mut self, member: usize, candidate: usize) -> Option<()> {
        let asking = self.state.nodes[candidate];
        only(member != candidate && asking.candidacy != Candidacy::None)?;
        only(!asking.promised[member].is_some())?;
        only(self.decide.next(&self.state, candidate, 0).asks >> member & 1 == 1)?;
        let (tid, why) = (asking.own, purpose(asking.candidacy));
        let promise = self
            .decide
            .promise(&self.state, member, candidate, tid, why);
        let (others, own) = promise?;
        let before = self.decide.newest_tid(&self.state.nodes[member]);
        if before.number() == tid.number() && before != tid {
            self.state.breach(Breach::PromisedTwice);
        }
        let ignores = self.decide.ignores_promises();
        let node = &mut self.state.nodes[member];
        (node.others, node.own) = (others, own);
        if !ignores {
            node.role = match node.role {
                Role::Primary => Role::Outbid,
                role => role,
            };
        }
        node.candidacy = Candidacy::None;
        self.flush(member);
        let end = self.state.nodes[member].log_end();
        self.state.nodes[candidate].promised[member] = end;
        Some(())
    }

    /// A candidate that has enough promises and begins to write is overtaken by another one: it
    /// writes, since nothing can stop it any more, but it confirms nothing.
    fn promise_and_open(&mut self, member: usize, candidate: usize, heard: u8) -> Option<()> {
        let before = self.may_open(member, heard)?;
        self.promise(member, candidate)?;
        let suspended = !self.decide.ignores_promises();
        self.write(member, before, false);
        let node = &mut self.state.nodes[member];
        node.role = if suspended {
            Role::Outbid
        } else {
            Role::Primary
        };
        node.hold = node.len;
        Some(())
    }

    /// The timeline that a candidate may open with the promises of `heard`.
    fn may_open(&self, at: usize, heard: u8) -> Option<Tid> {
        only(self.state.nodes[at].candidacy != Candidacy::None)?;
        only(self.decide.next(&self.state, at, heard).step == Step::Open)?;
        let tid = self.state.nodes[at].own;
        only(self.state.nodes[at].len < self.bounds.log)?;
        // What its log has come to by a fetch may be later than its own attempt.
        self.decide.opened(&self.state.nodes[at], tid)?;
        Some(tid)
    }

    fn open(&mut self, at: usize, heard: u8, change: bool) -> Option<()> {
        only(!change || self.may_change(&self.state.nodes[at]))?;
        let tid = self.may_open(at, heard)?;
        self.write(at, tid, change);
        let node = &mut self.state.nodes[at];
        (node.role, node.hold) = (Role::Primary, node.len);
        Some(())
    }

    /// Writes the record that begins a timeline.
    fn write(&mut self, at: usize, tid: Tid, change: bool) {
        let node = &mut self.state.nodes[at];
        node.spans = self.decide.opened(node, tid).expect("it may be opened");
        node.push(Record::new(tid, Kind::Begin, change));
        (node.flushed, node.candidacy) = (node.len, Candidacy::None);
    }

    fn fetch(&mut self, at: usize, heard: u8, from: usize, crash: Option<u8>) -> Option<()> {
        let next = self.decide.next(&self.state, at, heard);
        let Step::Fetch { upto, from: gives } = next.step else {
            return None;
        };
        let source = self.state.nodes[from];
        only(gives >> from & 1 == 1 && source.len >= upto)?;
        let node = self.state.nodes[at];
        only(self.decide.continues(&node, &source))?;
        let most = crash.unwrap_or(upto);
        only((node.len..=upto).contains(&most) && (crash.is_none() || most < upto))?;
        let node = &mut self.state.nodes[at];
        node.spans = source.spans;
        for record in &source.log[usize::from(node.len)..usize::from(most)] {
            node.push(*record);
        }
        node.flushed = node.len;
        if crash.is_some() {
            node.candidacy = Candidacy::None;
            return Some(());
        }
        // Of those whom the log that was fetched does not count nothing is needed any more: what
        // they have is here already.
        let asks = self.decide.next(&self.state, at, 0).asks;
        let promised = &mut self.state.nodes[at].promised;
        for member in NODE.into_iter().filter(|member| asks >> member & 1 == 0) {
            promised[member] = Place::default();
        }
        Some(())
    }

    fn abandon(&mut self, at: usize) -> Option<()> {
        self.state.nodes[at].candidacy = Candidacy::None;
        Some(())
    }

    fn suspend(&mut self, at: usize) -> Option<()> {
        let role = &mut self.state.nodes[at].role;
        *role = match role {
            Role::Primary => Role::Outbid,
            Role::Crashed => Role::CrashedOutbid,
            _ => return None,
        };
        Some(())
    }

    fn crash(&mut self, at: usize, kept: u8) -> Option<()> {
        let node = &self.state.nodes[at];
        let role = self.decide.restarted(node, false);
        let node = &mut self.state.nodes[at];
        node.truncate(kept);
        node.flushed = kept;
        (node.role, node.candidacy, node.hold) = (role, Candidacy::None, 0);
        Some(())
    }

    fn restart(&mut self, at: usize) -> Option<()> {
        only(self.state.nodes[at].role.writes())?;
        self.flush(at);
        let role = self.decide.restarted(&self.state.nodes[at], true);
        let hold = self.decide.held(&self.state.nodes[at]);
        let node = &mut self.state.nodes[at];
        (node.role, node.candidacy, node.hold) = (role, Candidacy::None, hold);
        Some(())
    }

    /// What runs does not become a standby by itself, but as if it had crashed first.
    fn step_down(&mut self, at: usize) -> Option<()> {
        let node = &mut self.state.nodes[at];
        only(!node.role.writes())?;
        (node.role, node.candidacy) = (Role::Standby, Candidacy::None);
        Some(())
    }

    fn fence(&mut self, at: usize) -> Option<()> {
        self.flush(at);
        let node = &mut self.state.nodes[at];
        (node.role, node.candidacy, node.hold) = (Role::Standby, Candidacy::None, 0);
        Some(())
    }

    /// `at` hears from `by` of the newest timeline that binds it.
    fn hear(&mut self, at: usize, by: usize) -> Option<()> {
        let by = &self.state.nodes[by];
        let newest = self.decide.newest_tid(by);
        let opened = self
            .decide
            .history(by)
            .contains(self.decide.timeline(newest));
        self.claim(at, newest, opened)
    }

    /// A primary that begins to write a timeline is fenced: it writes, and serves nobody.
    fn hear_and_open(&mut self, at: usize, by: usize, heard: u8) -> Option<()> {
        only(self.state.nodes[at].role.is_primary())?;
        let tid = self.may_open(at, heard)?;
        self.hear(at, by)?;
        only(self.state.nodes[at].role == Role::Standby)?;
        self.write(at, tid, false);
        Some(())
    }

    fn claim(&mut self, at: usize, claimed: Tid, opened: bool) -> Option<()> {
        let node = &self.state.nodes[at];
        match self.decide.claimed(node, claimed, opened) {
            Fencing::Ignore => None,
            Fencing::AskAbove(_) if claimed == node.own => None,
            Fencing::AskAbove(_) => {
                only(node.role == Role::Primary)?;
                self.state.nodes[at].role = Role::Outbid;
                Some(())
            }
            Fencing::Fence(_) => self.fence(at),
        }
    }

    /// Forgets what makes no difference any more.
    fn tidy(&mut self) {
        for node in &mut self.state.nodes {
            if node.candidacy == Candidacy::None {
                node.promised = [Place::default(); NODES];
                node.own = Tid::NONE;
            }
        }
        let live = self.state.live();
        for node in &mut self.state.nodes {
            let promised = node.others.number();
            // It keeps this node from what it promised before, as long as that may be open.
            let matters =
                |number: u8| (0..3).any(|owner| live >> Tid::new(number, owner).0 & 1 == 1);
            if !(2..=promised).any(matters) {
                node.others = Tid::NONE;
            } else if live >> node.others.0 & 1 == 0 {
                node.others = Tid::dead(promised);
            }
            if node.commit >= node.hold {
                node.hold = 0;
            }
            if node.role == Role::Standby {
                node.commit = node.settled(node.commit);
            }
        }
    }
}

fn purpose(candidacy: Candidacy) -> Purpose {
    match candidacy {
        Candidacy::Raise => Purpose::Raise,
        Candidacy::Restart => Purpose::Restart,
        _ => Purpose::Promote,
    }
}
