//! Promises, and asking for them: the acceptor and the candidate that ship.

use std::time::Duration;

use bytes::Bytes;
use mainstay_replication::protocol::promotion::{
    Acceptor, AcceptorAction, AcceptorEvent, Candidate, CandidateAction, CandidateConfig,
    CandidateEvent, ProbeAnswer, Promise, PromiseRefusal, PromiseRequest, Promises, Purpose,
    Refusal, Role as ProbedRole,
};
use mainstay_replication::protocol::vote::may_promise;
use mainstay_storage::{
    Error as StorageError, LogBytes, Lsn, Timeline, TimelineHistory, WalEntry, WalEntryType,
};
use uuid::Uuid;

use super::serving::TIMEOUT;
use super::{Done, Node, Role, Trouble, World, cluster, cluster_of, log_end, policies};
use crate::sim::net::Packet;

/// Longest time for each phase, in microseconds.
const PHASE: u64 = 1_000_000;

impl Node {
    /// Asks to become, or to stay, the primary.
    pub(in crate::sim) fn ask(
        &mut self,
        purpose: Purpose,
        force: bool,
        world: &mut World<'_>,
    ) -> Done {
        self.ask_by(purpose, force, false, world)
    }

    /// Becomes the primary without asking, as an operator does who gives the policy up.
    pub(in crate::sim) fn ask_alone(&mut self, world: &mut World<'_>) -> Done {
        self.ask_by(Purpose::Promote, true, true, world)
    }

    /// Whether its log says who is in the cluster. A copy's need not yet, and nobody is promoted by
    /// such a one.
    pub(in crate::sim) fn knows_cluster(&self) -> bool {
        let life = self.life.as_ref();
        life.is_some_and(|life| !life.wal.config().0.is_empty())
    }

    fn ask_by(
        &mut self,
        purpose: Purpose,
        force: bool,
        without_policy: bool,
        world: &mut World<'_>,
    ) -> Done {
        let now = world.local;
        let id = Uuid::from_u64_pair(world.random.next(), world.random.next());
        let (name, knows) = (self.name.clone(), self.knows_cluster());
        let life = self.life();
        let fits = (life.role == Role::Primary) == (purpose != Purpose::Promote);
        let copies = life.copying.is_some();
        if life.candidate.is_some() || !fits || !knows || copies {
            return Ok(());
        }
        let config = cluster(&life.wal)?;
        let known = config.standbys.iter().chain([&config.primary]);
        let known = known.map(|member| member.name.clone());
        let heard = life.primary_heard.filter(|_| life.upstream.is_some());
        let candidate = Candidate::new(CandidateConfig {
            name: name.clone(),
            purpose,
            end: log_end(&life.wal),
            opened: (*life.wal.history()).clone(),
            policies: policies(&life.wal)?,
            lives: config.lives(),
            life: life.wal.identity().incarnation,
            also_probe: known.filter(|known| *known != name).collect(),
            highest_seen: life.wal.control().highest_number(),
            number: None,
            id,
            primary_heard: heard.map(|at| Duration::from_micros(now - at)),
            heartbeat_timeout: Duration::from_micros(TIMEOUT),
            lag_max: None,
            force,
            without_policy,
            may_degrade: false,
            phase_timeout: Duration::from_micros(PHASE),
        });
        self.attempts += 1;
        let attempt = self.attempts;
        self.life().alone = without_policy;
        self.life().candidate = Some((attempt, candidate));
        world.tell(format!("{name} asks for a timeline: {purpose:?}"));
        self.bring_candidate(attempt, CandidateEvent::Begin, world)
    }

    /// An answer, or something else, for the candidate of this attempt.
    pub(in crate::sim) fn bring_candidate(
        &mut self,
        attempt: u64,
        event: CandidateEvent,
        world: &mut World<'_>,
    ) -> Done {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if !self.meets(&event, world)? {
                return Ok(());
            }
            let now = world.moment();
            let Some((_, candidate)) = self
                .life()
                .candidate
                .as_mut()
                .filter(|(at, _)| *at == attempt)
            else {
                return Ok(());
            };
            let mut actions = Vec::new();
            candidate.on(event, now, &mut actions);
            for action in actions {
                events.extend(self.carry_out(attempt, action, world)?);
            }
        }
        Ok(())
    }

    /// A primary that goes on heeds what a member's log tells; false when that ended it.
    fn meets(&mut self, event: &CandidateEvent, world: &mut World<'_>) -> Done<bool> {
        let primary = self.life().role == Role::Primary;
        if let CandidateEvent::ProbeAnswered(_, answer) = event
            && primary
        {
            self.claimed(answer.end.timeline, true, world)?;
            return Ok(self.life().role == Role::Primary);
        }
        Ok(true)
    }

    fn carry_out(
        &mut self,
        attempt: u64,
        action: CandidateAction,
        world: &mut World<'_>,
    ) -> Done<Option<CandidateEvent>> {
        match action {
            CandidateAction::AskProbe(ref name)
            | CandidateAction::AskPromise(ref name, _)
            | CandidateAction::FetchFrom { ref name, .. } => {
                let to = super::super::index_of(name);
                if world.up[to] {
                    let from = self.index;
                    let ask = Packet::Ask {
                        from,
                        attempt,
                        action,
                    };
                    self.cast(to, ask, world);
                }
                Ok(None)
            }
            CandidateAction::AskOwn(request) => {
                self.unfollow(world);
                let by_votes = request.purpose == Purpose::Promote && !self.life().alone;
                let promise = match by_votes && self.lacks_vote()? {
                    true => Some(Promise::Refused(PromiseRefusal::NoVote)),
                    false => self.promise(request, None, world)?,
                };
                let wal = &self.life().wal;
                let (policies, lives) = (policies(wal)?, cluster(wal)?.lives());
                Ok(promise.map(|promise| CandidateEvent::OwnAnswered {
                    promise,
                    policies,
                    lives,
                }))
            }
            CandidateAction::OpenTimeline(timeline) => {
                let (fork, end) = self.open(timeline, world)?;
                Ok(Some(CandidateEvent::Opened { fork, end }))
            }
            CandidateAction::Done { end, overtaken, .. } => {
                self.life().candidate = None;
                self.lead(end, world)?;
                self.answer_handover(true, world);
                self.tell_others(world)?;
                if overtaken.is_some() {
                    self.suspend(world)?;
                }
                Ok(None)
            }
            CandidateAction::Refuse(why) => {
                world.tell(format!("{} is refused: {why}", self.name));
                self.rival = match why {
                    Refusal::Conflict { one, other, .. } if other == self.name => Some(one),
                    Refusal::Conflict { other, .. } => Some(other),
                    _ => None,
                };
                self.give_up(world)?;
                Ok(None)
            }
        }
    }

    /// Opens a timeline in this node's log, with the configuration that goes with it.
    fn open(&mut self, timeline: Timeline, world: &mut World<'_>) -> Done<(Lsn, Lsn)> {
        let incarnation = self.life().wal.identity().incarnation;
        let me = self.member(incarnation, world);
        let mut config = match &self.life().cluster {
            Some(cluster) => cluster.clone(),
            None => cluster(&self.life().wal)?,
        };
        config.take_over(me);
        let config = config.encode();
        let config = config.map_err(|error| Trouble::Broken(error.to_string()))?;
        let also = [WalEntry::new(WalEntryType::Config, None, config)];
        let life = self.life();
        let (fork, end) = life.wal.begin_timeline(timeline, "simulated", &also)?;
        self.flush()?;
        world.tell(format!("{} opens {timeline} at {fork}", self.name));
        Ok((fork, end))
    }

    /// Writes out everything that is appended.
    pub(super) fn flush(&mut self) -> Done {
        let life = self.life();
        while life.wal.flushed().get() < life.wal.appended() {
            life.wal.drive();
            if let Some(error) = life.wal.poisoned() {
                return Err(Trouble::Disk(error.to_string()));
            }
        }
        Ok(())
    }

    fn give_up(&mut self, world: &mut World<'_>) -> Done {
        let life = self.life();
        let timeline = life
            .candidate
            .take()
            .map(|(_, candidate)| candidate.status().timeline);
        let control = life.wal.control();
        if timeline.is_some() && control.attempted() == timeline {
            self.note(AcceptorEvent::GivenUp)?;
        }
        self.answer_handover(false, world);
        let life = self.life();
        if life.role == Role::Standby && life.receiver.is_none() && life.copying.is_none() {
            self.follow(world)?;
        }
        Ok(())
    }

    /// Brings the acceptor what nobody waits for.
    pub(super) fn note(&mut self, event: AcceptorEvent) -> Done {
        let mut actions = Vec::new();
        self.acceptor().on(event, &mut actions);
        for action in actions {
            if let AcceptorAction::Save(promises) = action {
                self.save(promises)?;
            }
        }
        Ok(())
    }

    fn acceptor(&mut self) -> Acceptor {
        let name = self.name.clone();
        let wal = &self.life().wal;
        let control = wal.control();
        let promises = Promises {
            others: control.promised(),
            own: control.attempted(),
        };
        Acceptor::new(name, promises, wal.timeline())
    }

    fn save(&mut self, promises: Promises) -> Done {
        Ok(self
            .life()
            .wal
            .save_promises(promises.others, promises.own)?)
    }

    /// Promises, to `candidate` or to this node itself.
    fn promise(
        &mut self,
        request: PromiseRequest,
        candidate: Option<usize>,
        world: &mut World<'_>,
    ) -> Done<Option<Promise>> {
        let timeline = request.timeline;
        let mut acceptor = self.acceptor();
        let mut actions = Vec::new();
        acceptor.on(AcceptorEvent::Asked(request), &mut actions);
        while let Some(action) = actions.pop() {
            match action {
                AcceptorAction::Persist(promises) | AcceptorAction::Save(promises) => {
                    self.save(promises)?;
                    if let Some(candidate) = candidate {
                        if let Some((attempt, _)) = self.life().candidate {
                            self.bring_candidate(
                                attempt,
                                CandidateEvent::Overtaken(timeline),
                                world,
                            )?;
                        }
                        if self.life().role == Role::Primary {
                            self.suspend(world)?;
                        } else {
                            self.promised_to(candidate, timeline, world)?;
                        }
                    }
                    self.flush()?;
                    let end = log_end(&self.life().wal);
                    acceptor.on(AcceptorEvent::Persisted(end), &mut actions);
                }
                AcceptorAction::Reply { promise, .. } => return Ok(Some(promise)),
            }
        }
        Ok(None)
    }

    /// Another node's candidate asks.
    pub(in crate::sim) fn asked(
        &mut self,
        from: usize,
        attempt: u64,
        action: CandidateAction,
        world: &mut World<'_>,
    ) -> Done {
        let name = self.name.clone();
        if self.life().copying.is_some() {
            return Ok(());
        }
        let event = match action {
            CandidateAction::AskProbe(_) => {
                let now = world.local;
                let life = self.life();
                let heard = life.primary_heard.filter(|_| life.upstream.is_some());
                let answer = ProbeAnswer {
                    role: match life.role {
                        Role::Primary => ProbedRole::Primary,
                        Role::Standby => ProbedRole::Standby,
                    },
                    end: log_end(&life.wal),
                    highest: life.wal.control().highest_number(),
                    primary_heard: heard.map(|at| Duration::from_micros(now - at)),
                };
                CandidateEvent::ProbeAnswered(name, answer)
            }
            CandidateAction::AskPromise(_, request) => {
                let timeline = request.timeline;
                let (votes, cluster) = (self.has_vote()?, cluster_of(&self.life().wal)?);
                let (purpose, candidate) = (request.purpose, request.candidate.clone());
                let promise = match may_promise(votes, purpose, &candidate, cluster.as_ref()) {
                    true => self.promise(request, Some(from), world)?,
                    false => Some(Promise::Refused(PromiseRefusal::NoVote)),
                };
                let Some(promise) = promise else {
                    return Ok(());
                };
                CandidateEvent::PromiseAnswered {
                    name,
                    timeline,
                    life: self.life().wal.identity().incarnation,
                    promise,
                }
            }
            CandidateAction::FetchFrom { end, range, .. } => {
                return self.give_log(from, attempt, range.start, end.flushed, world);
            }
            other => return Err(Trouble::Broken(format!("a candidate asks {other:?}"))),
        };
        self.cast(from, Packet::Answer { attempt, event }, world);
        self.pump(world)
    }

    /// Sends a candidate the log that it lacks.
    fn give_log(
        &mut self,
        to: usize,
        attempt: u64,
        from: Lsn,
        upto: Lsn,
        world: &mut World<'_>,
    ) -> Done {
        let wal = self.life().wal.clone();
        if from < wal.oldest() {
            // Whoever has a copy may have less of the log than the candidate lacks.
            let event = CandidateEvent::FetchFailed;
            self.cast(to, Packet::Answer { attempt, event }, world);
            return Ok(());
        }
        let history = (*wal.history()).clone();
        let mut log = Vec::new();
        let (mut bytes, mut at) = (LogBytes::new(wal.clone()), from);
        while at < upto.min(wal.flushed().get()) {
            let more = bytes.read(at, upto.min(wal.flushed().get()), 1 << 20)?;
            log.extend_from_slice(&more);
            at = at + more.len() as u64;
        }
        let log = Bytes::from(log);
        let packet = Packet::Log {
            attempt,
            history,
            at: from,
            log,
        };
        self.cast(to, packet, world);
        Ok(())
    }

    /// The log that a candidate here fetches.
    pub(in crate::sim) fn fetched(
        &mut self,
        attempt: u64,
        history: &TimelineHistory,
        at: Lsn,
        log: &Bytes,
        world: &mut World<'_>,
    ) -> Done {
        let life = self.life();
        if life
            .candidate
            .as_ref()
            .is_none_or(|(current, _)| *current != attempt)
        {
            return Ok(());
        }
        let take = || {
            life.wal.adopt_history(history)?;
            life.wal.append_raw(at, log)
        };
        let taken = match (at == life.wal.appended()).then(take) {
            // A disk that lies may serve log that is damaged.
            None | Some(Err(StorageError::Refused { .. })) => false,
            Some(taken) => taken.map(|_| true)?,
        };
        let event = match taken {
            true => {
                self.flush()?;
                let life = self.life();
                CandidateEvent::Fetched {
                    end: log_end(&life.wal),
                    policies: policies(&life.wal)?,
                    lives: cluster(&life.wal)?.lives(),
                }
            }
            false => CandidateEvent::FetchFailed,
        };
        self.bring_candidate(attempt, event, world)?;
        self.pump(world)
    }

    pub(super) fn tick_candidate(&mut self, world: &mut World<'_>) -> Done {
        let now = world.local;
        let random = world.random.next();
        let life = self.life();
        if let Some((attempt, candidate)) = &life.candidate {
            let attempt = *attempt;
            if candidate.deadline().is_some_and(|at| at.as_micros() <= now) {
                return self.bring_candidate(attempt, CandidateEvent::Tick, world);
            }
        } else if let Some(standstill) = life.standstill.filter(|_| life.ask_at <= now) {
            let purpose = standstill.purpose(life.asked);
            life.asked += 1;
            let pause = standstill.backoff(life.asked, random).as_micros();
            life.ask_at = now + u64::try_from(pause).unwrap_or(u64::MAX).max(1_000);
            return self.ask(purpose, false, world);
        }
        Ok(())
    }
}
