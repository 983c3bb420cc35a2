//! The standby's side: the receiver that ships, its connection, and turning back.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_replication::protocol::receiver::{Action, Event, GiveUp, Receiver, ReceiverConfig};
use mainstay_storage::{Applicator, Error as StorageError, Lsn, Store};

use super::serving::{HEARTBEAT, TIMEOUT};
use super::{Done, Node, Role, Trouble, World};
use crate::sim::net::{Body, Packet};
use crate::sim::wire;

/// Times that log which was not valid may be asked for again.
const PATIENT_REFUSALS: u64 = 5;

impl Node {
    /// Follows whoever is the primary.
    pub(super) fn follow(&mut self, world: &mut World<'_>) -> Done {
        self.flush()?;
        let now = world.moment();
        let applied = self.store.applied();
        let life = self.life();
        let control = life.wal.control();
        let accepted = control.promised().into_iter().chain(control.attempted());
        let flushed = life.wal.flushed().get();
        let config = ReceiverConfig {
            system_id: life.wal.identity().system_id,
            history: (*life.wal.history()).clone(),
            flushed,
            applied: applied.min(flushed),
            commit: life.wal.replayable().get(),
            accepted: accepted.max_by_key(|timeline| timeline.number),
            heartbeat_timeout: Duration::from_micros(TIMEOUT),
            status_interval: Duration::from_micros(HEARTBEAT),
        };
        life.role = Role::Standby;
        life.receiver = Some(Receiver::new(config, now));
        life.upstream = None;
        life.carry = BytesMut::new();
        life.input = BytesMut::new();
        life.told = (flushed, flushed, applied.min(flushed));
        Ok(())
    }

    /// Ends following, and the connection with it.
    pub(super) fn unfollow(&mut self, world: &mut World<'_>) {
        self.life().receiver = None;
        self.leave(world);
    }

    fn leave(&mut self, world: &mut World<'_>) {
        let life = self.life();
        life.carry.clear();
        life.input.clear();
        if let Some((conn, _)) = life.upstream.take() {
            self.drop_connection(conn, world);
        }
    }

    /// This node promised a timeline to the node `candidate`, and dials that next.
    pub(super) fn promised_to(
        &mut self,
        candidate: usize,
        timeline: mainstay_storage::Timeline,
        world: &mut World<'_>,
    ) -> Done {
        self.bring_receiver(Event::Accepted(timeline), world)?;
        self.leave(world);
        self.life().target = candidate;
        let gone = self.hung_up(0);
        self.bring_receiver(gone, world)
    }

    /// What the receiver is told when the connection is gone.
    fn hung_up(&mut self, random: u64) -> Event {
        let life = self.life();
        life.carry.clear();
        life.input.clear();
        let appended = life.wal.appended();
        Event::Disconnected { random, appended }
    }

    /// Something arrives from the upstream.
    pub(in crate::sim) fn hear(&mut self, conn: u64, body: Body, world: &mut World<'_>) -> Done {
        let life = self.life();
        let Some((mine, target)) = life.upstream else {
            return Ok(());
        };
        if mine != conn {
            return Ok(());
        }
        let cascades = world.plan.cascades(self.index);
        let life = self.life();
        if !cascades {
            life.primary_heard = Some(world.local);
        }
        let event = match body {
            Body::Bytes(bytes) => return self.hear_upstream(conn, &bytes, world),
            Body::Identified { primary, .. } if primary == cascades => {
                self.leave(world);
                self.life().target = target + 1;
                let random = world.random.next();
                self.hung_up(random)
            }
            Body::Identified {
                timeline,
                flushed,
                oldest,
                ..
            } => Event::Identified {
                system_id: life.wal.identity().system_id,
                timeline,
                flushed,
                oldest,
            },
            Body::History(history) => Event::HistoryFetched(history),
            Body::Started => Event::Started,
            Body::Refused { removed } => Event::StartRefused { removed },
            Body::NextTimeline => Event::NextTimeline,
            Body::Ended => Event::StreamEnded,
            Body::Wal { at, bytes } => return self.receive(at, &bytes, world),
            Body::Advance {
                flushed,
                commit,
                timeline,
                reply_requested,
            } => Event::Advance {
                flushed,
                commit,
                timeline,
                reply_requested,
            },
            Body::CopyDone => Event::CopyDoneReceived,
            other => return Err(Trouble::Broken(format!("an upstream said {other:?}"))),
        };
        self.bring_receiver(event, world)
    }

    /// Some more of the upstream's stream.
    fn hear_upstream(&mut self, conn: u64, bytes: &[u8], world: &mut World<'_>) -> Done {
        self.life().input.extend_from_slice(bytes);
        while let Some(life) = &mut self.life {
            if life.upstream.is_none_or(|(mine, _)| mine != conn) {
                return Ok(());
            }
            match wire::from_upstream(&mut life.input) {
                Ok(Some(body)) => self.hear(conn, body, world)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let name = &self.name;
                    world.tell(format!("{name} closes its connection: {error}"));
                    self.leave(world);
                    let random = world.random.next();
                    let gone = self.hung_up(random);
                    return self.bring_receiver(gone, world);
                }
            }
        }
        Ok(())
    }

    /// Takes the whole records of what has come; the rest waits for more.
    fn receive(&mut self, at: Lsn, bytes: &Bytes, world: &mut World<'_>) -> Done {
        let life = self.life();
        if life.carry.is_empty() {
            life.carry_at = at;
        }
        life.carry.extend_from_slice(bytes);
        let range = at..at + bytes.len() as u64;
        self.bring_receiver(Event::Received { range }, world)
    }

    pub(in crate::sim) fn broken(&mut self, conn: u64, world: &mut World<'_>) -> Done {
        let life = self.life();
        if life.sessions.contains_key(&conn) {
            self.hang_up(conn, world);
            return Ok(());
        }
        if life.upstream.is_some_and(|(mine, _)| mine == conn) {
            life.upstream = None;
            life.carry.clear();
            life.target += 1;
            let random = world.random.next();
            let gone = self.hung_up(random);
            self.bring_receiver(gone, world)?;
        }
        Ok(())
    }

    fn bring_receiver(&mut self, event: Event, world: &mut World<'_>) -> Done {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = world.moment();
            let Some(receiver) = &mut self.life().receiver else {
                return Ok(());
            };
            let mut actions = Vec::new();
            receiver.on(event, now, &mut actions);
            for action in actions {
                events.extend(self.act(action, world)?);
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action, world: &mut World<'_>) -> Done<Option<Event>> {
        match action {
            Action::Connect => return Ok(Some(self.dial(world))),
            Action::Identify => self.say(Body::Identify, world),
            Action::FetchHistory(timeline) => self.say(Body::FetchHistory(timeline), world),
            Action::CutLog(to) => {
                world.tell(format!("{} cuts its log to {to}", self.name));
                self.proven = Lsn::ZERO;
                let life = self.life.as_mut().expect("it runs");
                life.wal.cut(to)?;
                life.carry.clear();
                life.applicator = Applicator::new(&life.wal, &self.store)?;
                return Ok(Some(Event::LogCut));
            }
            Action::AdoptHistory(history) => {
                world.tell(format!("{} adopts {}", self.name, history.current()));
                self.life().wal.adopt_history(&history)?;
            }
            Action::Start { from, timeline } => {
                let incarnation = self.life().wal.identity().incarnation;
                let start = Body::Start {
                    from,
                    timeline,
                    member: self.member(incarnation, world),
                };
                self.say(start, world);
            }
            Action::WriteWal(_) => return self.write_received(world),
            Action::ApplyUpTo(to) => self.life().wal.follow_commit(to),
            Action::SendStatus {
                positions,
                timeline,
                reply_requested,
            } => {
                let status = Body::Status {
                    positions,
                    timeline,
                    reply_requested,
                };
                self.say(status, world);
            }
            Action::SendCopyDone => self.say(Body::CopyDone, world),
            Action::SendFence { timeline, opened } => {
                self.say(Body::Fence { timeline, opened }, world)
            }
            Action::TimelineClaimed { .. } | Action::CaughtUp => {}
            Action::Close(_) => return Ok(Some(self.close_upstream(world))),
            Action::GiveUp(GiveUp::NeedsRewind { to }) => self.rewind(to, world)?,
            Action::GiveUp(GiveUp::NeedsBackup { .. }) => self.want_copy(Lsn::ZERO, world),
            Action::GiveUp(why) => {
                return Err(Trouble::Broken(format!("{} gives up: {why}", self.name)));
            }
        }
        Ok(None)
    }

    /// Whether the log that it needs is damaged where it gets it from.
    pub(in crate::sim) fn refuses_log(&self) -> bool {
        let life = self.life.as_ref();
        life.is_some_and(|life| life.refused >= PATIENT_REFUSALS)
    }

    /// Gives what has come to the log, as far as it is whole records.
    fn write_received(&mut self, world: &mut World<'_>) -> Done<Option<Event>> {
        let life = self.life();
        let bytes = life.carry.split().freeze();
        let taken = match life.wal.append_raw(life.carry_at, &bytes) {
            Ok(taken) => taken,
            Err(StorageError::Refused { at, why }) => {
                life.refused += 1;
                let name = &self.name;
                world.tell(format!("{name} refuses log at {at}: {why}"));
                self.leave(world);
                let random = world.random.next();
                return Ok(Some(self.hung_up(random)));
            }
            Err(error) => return Err(error.into()),
        };
        let used = usize::try_from(taken - life.carry_at).expect("what was given");
        life.carry.extend_from_slice(&bytes[used..]);
        life.carry_at = taken;
        Ok(None)
    }

    /// Ends the connection in order, and looks elsewhere next.
    fn close_upstream(&mut self, world: &mut World<'_>) -> Event {
        let conn = self.life().upstream.take();
        self.life().carry.clear();
        if let Some((conn, target)) = conn {
            if let Some(other) = world.net.close(conn, self.index) {
                // What was said last, a fence for one, arrives before the end.
                let at = world.now + world.net.delay_max;
                world.sent.push((at, other, Packet::Broken { conn }));
            }
            self.life().target = target + 1;
        }
        let random = world.random.next();
        self.hung_up(random)
    }

    fn dial(&mut self, world: &mut World<'_>) -> Event {
        let count = world.up.len();
        let life = self.life.as_mut().expect("it runs");
        if life.target % count == self.index {
            life.target += 1;
        }
        let target = life.target % count;
        let reached = world.up[target] && target != self.index;
        let conn = reached
            .then(|| world.net.connect(self.index, target))
            .flatten();
        match conn {
            Some(conn) => {
                life.upstream = Some((conn, target));
                Event::Connected
            }
            None => {
                life.target += 1;
                let random = world.random.next();
                self.hung_up(random)
            }
        }
    }

    fn say(&mut self, body: Body, world: &mut World<'_>) {
        if let Some((conn, _)) = self.life().upstream {
            self.send(conn, body, world);
        }
    }

    /// Takes the store back to what is durable, and the log to `to`.
    fn rewind(&mut self, to: Lsn, world: &mut World<'_>) -> Done {
        world.tell(format!("{} rewinds to {to}", self.name));
        self.leave(world);
        self.store.crash();
        if self.store.durable() > to {
            let durable = self.store.durable();
            return Err(Trouble::Broken(format!(
                "{} must give up what is durable: {durable} of {to}",
                self.name
            )));
        }
        let life = self.life.as_mut().expect("it runs");
        life.wal.rewind(to)?;
        life.committed = Lsn::ZERO;
        life.applicator = Applicator::new(&life.wal, &self.store)?;
        if life.checked > to {
            return Err(Trouble::Broken(format!(
                "{} showed what it rewinds",
                self.name
            )));
        }
        self.follow(world)
    }

    /// Tells the receiver what moved here.
    pub(super) fn pump_receiver(&mut self, world: &mut World<'_>) -> Done {
        let applied = self.store.applied();
        let life = self.life();
        let (written, flushed) = (life.wal.written().get(), life.wal.flushed().get());
        let applied = applied.min(flushed);
        let (was_written, was_flushed, was_applied) = life.told;
        let timeline = life.wal.timeline();
        life.told = (written, flushed, applied);
        world.oracle.flushed(&self.name, timeline, flushed);
        if written > was_written {
            self.bring_receiver(Event::Written(written), world)?;
        }
        if flushed > was_flushed {
            self.bring_receiver(Event::Flushed(flushed), world)?;
        }
        if applied > was_applied {
            self.bring_receiver(Event::Applied(applied), world)?;
        }
        Ok(())
    }

    pub(super) fn tick_receiver(&mut self, world: &mut World<'_>) -> Done {
        let due = self.life().receiver.as_ref().and_then(Receiver::deadline);
        match due.is_some_and(|at| at <= world.moment()) {
            true => self.bring_receiver(Event::Tick, world),
            false => Ok(()),
        }
    }
}
