//! The upstream's side: sessions, each with the sender that ships.

use std::ops::Range;

use bytes::BytesMut;
use mainstay_replication::Member;
use mainstay_replication::protocol::commit::Event as CommitEvent;
use mainstay_replication::protocol::name::NodeName;
use mainstay_replication::protocol::progress::Positions;
use mainstay_replication::protocol::promotion::Standstill;
use mainstay_replication::protocol::sender::{Action, Event, Sender, SenderConfig, State};
use mainstay_replication::protocol::vote::Arrival;
use mainstay_replication::time::Moment;
use mainstay_replication::wire::sqlstate;
use mainstay_storage::{LogBytes, Lsn, Timeline};
use uuid::Uuid;

use super::{Done, Node, Role, Trouble, World};
use crate::sim::name_of;
use crate::sim::net::{Body, Packet};
use crate::sim::wire;

/// Silence that ends a connection, in microseconds.
pub(super) const TIMEOUT: u64 = 1_000_000;

/// How often each side says something.
pub(super) const HEARTBEAT: u64 = 200_000;

/// A standby's connection.
pub(super) struct Session {
    standby: usize,
    /// Where its stream begins, and the life of its data.
    begin: Lsn,
    data: Uuid,
    /// Bytes of its stream that are no whole message yet.
    input: BytesMut,
    sender: Option<Sender>,
    timeline: Timeline,
    sealed: Lsn,
    flushed: Lsn,
    commit: Lsn,
}

impl std::fmt::Display for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = self.sender.as_ref().map(Sender::status);
        write!(f, "{} {status:?}", name_of(self.standby))
    }
}

impl Session {
    fn new(standby: usize, timeline: Timeline) -> Self {
        Self {
            standby,
            begin: Lsn::ZERO,
            data: Uuid::nil(),
            input: BytesMut::new(),
            sender: None,
            timeline,
            sealed: Lsn::ZERO,
            flushed: Lsn::ZERO,
            commit: Lsn::ZERO,
        }
    }

    /// Whose it is, and of which life.
    pub(super) fn standby(&self) -> (NodeName, Uuid) {
        (name_of(self.standby), self.data)
    }

    /// The slot that keeps log for it.
    pub(super) fn slot(&self) -> String {
        name_of(self.standby).to_string()
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.sender.as_ref().and_then(Sender::deadline)
    }
}

impl Node {
    /// Something arrives on a connection that this node serves.
    pub(in crate::sim) fn serve(
        &mut self,
        conn: u64,
        from: usize,
        body: Body,
        world: &mut World<'_>,
    ) -> Done {
        let life = self.life();
        if life.copying.is_some() {
            self.hang_up(conn, world);
            return Ok(());
        }
        // Whoever comes anew has left, although nobody said so.
        let stale = |session: &Session| session.standby == from && session.sender.is_none();
        life.sessions
            .retain(|known, session| *known >= conn || !stale(session));
        let timeline = life.wal.timeline();
        let session = life.sessions.entry(conn);
        session.or_insert_with(|| Session::new(from, timeline));
        match body {
            Body::Identify => {
                let identified = Body::Identified {
                    primary: life.role == Role::Primary,
                    timeline,
                    flushed: life.wal.flushed().get(),
                    oldest: life.wal.oldest(),
                };
                self.send(conn, identified, world);
                Ok(())
            }
            Body::FetchHistory(wanted) => {
                match life.wal.history().until(wanted.number) {
                    Some(history) if history.current() == wanted => {
                        self.send(conn, Body::History(history), world);
                    }
                    _ => self.hang_up(conn, world),
                }
                Ok(())
            }
            Body::Start {
                from,
                timeline,
                member,
            } => self.start_stream(conn, from, timeline, member, world),
            Body::Bytes(bytes) => self.hear_standby(conn, &bytes, world),
            Body::Status {
                positions,
                timeline,
                reply_requested,
            } => {
                let status = Event::StatusReceived {
                    positions,
                    timeline: Some(timeline),
                    reply_requested,
                };
                self.bring(conn, status, world)
            }
            Body::CopyDone => self.bring(conn, Event::CopyDoneReceived, world),
            Body::Fence { timeline, opened } => {
                let streams = self.life().sessions.get(&conn);
                match streams.is_some_and(|session| session.sender.is_some()) {
                    true => self.bring(conn, Event::FenceReceived { timeline, opened }, world),
                    false => self.claimed(timeline, opened, world),
                }
            }
            other => Err(Trouble::Broken(format!("a standby said {other:?}"))),
        }
    }

    /// Some more of a standby's stream.
    fn hear_standby(&mut self, conn: u64, bytes: &[u8], world: &mut World<'_>) -> Done {
        let Some(session) = self.life().sessions.get_mut(&conn) else {
            return Ok(());
        };
        session.input.extend_from_slice(bytes);
        while let Some(session) = self.life().sessions.get_mut(&conn) {
            let from = session.standby;
            match wire::from_standby(&mut session.input) {
                Ok(Some(body)) => self.serve(conn, from, body, world)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    let name = &self.name;
                    world.tell(format!("{name} closes a standby's connection: {error}"));
                    self.hang_up(conn, world);
                }
            }
        }
        Ok(())
    }

    fn start_stream(
        &mut self,
        conn: u64,
        from: Lsn,
        on: Timeline,
        member: Member,
        world: &mut World<'_>,
    ) -> Done {
        let now = world.moment();
        let life = self.life();
        let (name, incarnation) = (member.name.clone(), member.incarnation);
        let primary = life.role == Role::Primary;
        let may = match primary {
            true => life.standstill != Some(Standstill::Crashed) && self.register(member, world)?,
            false => true,
        };
        let oldest = self.life().wal.oldest();
        let there = from >= oldest || from.is_zero();
        if !may || (primary && there && !self.take_slot(conn, name.as_str(), from)?) {
            self.send(conn, Body::Refused { removed: false }, world);
            return Ok(());
        }
        let life = self.life();
        let (flushed, commit) = (life.wal.flushed().get(), life.wal.commit().get());
        let config = SenderConfig {
            native: true,
            history: (*life.wal.history()).clone(),
            flushed,
            commit,
            oldest: life.wal.oldest(),
            segment_size: life.wal.segment_size(),
            timeout: std::time::Duration::from_micros(TIMEOUT),
            heartbeat_interval: std::time::Duration::from_micros(HEARTBEAT),
        };
        let timeline = config.history.current();
        let session = life.sessions.get_mut(&conn).expect("it just spoke");
        (session.timeline, session.sealed) = (timeline, flushed);
        (session.flushed, session.commit) = (flushed, commit);
        session.begin = from;
        session.data = incarnation;
        session.sender = Some(Sender::new(config, now));
        let request = Event::StartRequested {
            from,
            timeline: Some(on.number),
            id: Some(on.id),
        };
        self.bring(conn, request, world)
    }

    /// Brings an event to a session's machine, and carries out what it leads to.
    fn bring(&mut self, conn: u64, event: Event, world: &mut World<'_>) -> Done {
        let now = world.moment();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let Some(session) = self.life().sessions.get_mut(&conn) else {
                return Ok(());
            };
            let Some(sender) = &mut session.sender else {
                return Ok(());
            };
            let mut actions = Vec::new();
            sender.on(event, now, &mut actions);
            for action in actions {
                events.extend(self.perform(conn, action, world)?);
            }
        }
        let ended = |session: &Session| {
            let state = session.sender.as_ref().map(|sender| sender.status().state);
            state == Some(State::Startup)
        };
        if self.life().sessions.get(&conn).is_some_and(ended) {
            self.stream_ended(conn, world)?;
        }
        Ok(())
    }

    fn stream_ended(&mut self, conn: u64, world: &mut World<'_>) -> Done {
        let Some(session) = self.life().sessions.get_mut(&conn) else {
            return Ok(());
        };
        session.sender = None;
        let name = name_of(session.standby);
        self.life().slots.release(conn);
        self.commit(
            CommitEvent::Disconnected {
                name,
                session: conn,
            },
            world,
        )
    }

    fn perform(&mut self, conn: u64, action: Action, world: &mut World<'_>) -> Done<Option<Event>> {
        let Some(session) = self.life().sessions.get(&conn) else {
            return Ok(None);
        };
        let (begin, data) = (session.begin, session.data);
        let name = name_of(session.standby);
        match action {
            Action::StartStream(_) => {
                self.send(conn, Body::Started, world);
                self.begin_to_count(name, conn, begin, data, world)?;
            }
            Action::RefuseStart(why) | Action::FailStream(why) => {
                let removed = why.sqlstate == sqlstate::UNDEFINED_FILE;
                self.send(conn, Body::Refused { removed }, world);
            }
            Action::SendWal(range) => {
                let sent = self.send_wal(conn, range, world)?;
                return Ok(Some(Event::Sent(sent)));
            }
            Action::SendAdvance {
                flushed,
                commit,
                timeline,
                reply_requested,
            } => {
                let advance = Body::Advance {
                    flushed,
                    commit,
                    timeline,
                    reply_requested,
                };
                self.send(conn, advance, world);
            }
            Action::SendKeepalive { .. } => {
                return Err(Trouble::Broken(
                    "a native peer is sent keepalives".to_owned(),
                ));
            }
            Action::SendCopyDone => self.send(conn, Body::CopyDone, world),
            Action::SendNextTimeline { .. } => self.send(conn, Body::NextTimeline, world),
            Action::CompleteStream => self.send(conn, Body::Ended, world),
            Action::FinishAndClose | Action::Close(_) => self.hang_up(conn, world),
            Action::Reported {
                timeline,
                positions,
            } => {
                self.note_report(name, conn, timeline, positions, world)?;
            }
            Action::CaughtUp => {
                self.commit(
                    CommitEvent::Streaming {
                        name,
                        session: conn,
                    },
                    world,
                )?;
            }
            Action::TimelineClaimed { timeline, opened } => {
                self.claimed(timeline, opened, world)?
            }
        }
        Ok(None)
    }

    /// A standby's stream begins: it counts at once, or when it has caught up.
    fn begin_to_count(
        &mut self,
        name: NodeName,
        conn: u64,
        begin: Lsn,
        data: Uuid,
        world: &mut World<'_>,
    ) -> Done {
        let life = self.life();
        let sealed = life.wal.sealed().get();
        let confirmed = life.confirmed.get(&name).copied().unwrap_or_default();
        let cluster = life.cluster.as_ref();
        let votes = cluster.is_some_and(|cluster| cluster.has_vote(&name, data));
        let arrival = Arrival {
            another_life: !votes,
            from: begin,
            confirmed,
            named: life.wal.config().1,
            sealed,
        };
        let vote = arrival.vote();
        let connected = CommitEvent::Connected {
            name,
            session: conn,
            vote,
        };
        self.commit(connected, world)
    }

    /// A standby said how far it is.
    fn note_report(
        &mut self,
        name: NodeName,
        conn: u64,
        timeline: Timeline,
        positions: Positions,
        world: &mut World<'_>,
    ) -> Done {
        let confirmed = self.life().confirmed.entry(name.clone()).or_default();
        *confirmed = (*confirmed).max(positions.flush);
        if self.life().role == Role::Primary {
            self.advance_slot(name.as_str(), positions.flush)?;
        }
        let reported = CommitEvent::Reported {
            name,
            session: conn,
            timeline,
            positions,
        };
        self.commit(reported, world)
    }

    /// Sends log in pieces of any size, and returns how far it got.
    fn send_wal(&mut self, conn: u64, range: Range<Lsn>, world: &mut World<'_>) -> Done<Lsn> {
        let mut bytes = LogBytes::new(self.life().wal.clone());
        let mut at = range.start;
        while at < range.end {
            let some = 1 + world.random.index(60_000);
            let more = bytes.read(at, range.end, some)?;
            if more.is_empty() {
                break;
            }
            let end = at + more.len() as u64;
            self.send(conn, Body::Wal { at, bytes: more }, world);
            at = end;
        }
        Ok(at)
    }

    /// Log below `oldest` is not there any more.
    pub(super) fn tell_sessions_of_removal(&mut self, oldest: Lsn, world: &mut World<'_>) -> Done {
        let streams = self.life().sessions.iter();
        let streams = streams.filter(|(_, session)| session.sender.is_some());
        for conn in streams.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            self.bring(conn, Event::Removed(oldest), world)?;
        }
        Ok(())
    }

    /// Whether the node `standby` streams from here.
    pub(super) fn streams_to(&self, standby: usize) -> bool {
        let sessions = self.life.iter().flat_map(|life| life.sessions.values());
        let mut streams = sessions.filter(|session| session.sender.is_some());
        streams.any(|session| session.standby == standby)
    }

    /// Tells each session what moved.
    pub(super) fn pump_sessions(&mut self, world: &mut World<'_>) -> Done {
        for conn in self.life().sessions.keys().copied().collect::<Vec<_>>() {
            while let Some(event) = self.news_for(conn)? {
                self.bring(conn, event, world)?;
            }
        }
        Ok(())
    }

    fn news_for(&mut self, conn: u64) -> Done<Option<Event>> {
        let life = self.life();
        let waits = life
            .committer
            .as_ref()
            .is_some_and(|primary| primary.is_synchronous());
        let Some(session) = life
            .sessions
            .get_mut(&conn)
            .filter(|session| session.sender.is_some())
        else {
            return Ok(None);
        };
        let wal = &life.wal;
        let (flushed, commit) = (wal.flushed().get(), wal.commit().get());
        let sealed = wal.sealed().get();
        if wal.timeline() != session.timeline {
            // Nobody hears of a timeline whose first record is not flushed.
            if flushed <= wal.history().current_begin() && life.role == Role::Primary {
                return Ok(None);
            }
            session.timeline = wal.timeline();
            (session.flushed, session.sealed) = (flushed, flushed);
            session.commit = commit;
            let history = (*wal.history()).clone();
            return Ok(Some(Event::TimelineSwitched {
                history,
                flushed,
                commit,
            }));
        }
        let configured = wal.config().1 <= flushed;
        if waits && configured && sealed > session.sealed.max(flushed) {
            wal.allow_overlap()?;
            session.sealed = sealed;
            return Ok(Some(Event::Sendable(sealed)));
        }
        if flushed > session.flushed {
            session.flushed = flushed;
            return Ok(Some(Event::Flushed(flushed)));
        }
        if commit > session.commit {
            session.commit = commit;
            return Ok(Some(Event::CommitMoved(commit)));
        }
        Ok(None)
    }

    pub(super) fn tick_sessions(&mut self, world: &mut World<'_>) -> Done {
        let due = |session: &Session| session.deadline().is_some_and(|at| at <= world.moment());
        let life = self.life();
        let due = life.sessions.iter().filter(|(_, session)| due(session));
        for conn in due.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            self.bring(conn, Event::Tick, world)?;
        }
        Ok(())
    }

    /// Ends a connection that this node serves.
    pub(super) fn hang_up(&mut self, conn: u64, world: &mut World<'_>) {
        let heard = world.net.close(conn, self.index);
        if let Some(other) = heard {
            world
                .sent
                .push((world.now + 50, other, Packet::Broken { conn }));
        }
        // The machine of the commits hears of it with the next that happens.
        let life = self.life();
        if let Some(session) = life.sessions.remove(&conn) {
            life.slots.release(conn);
            life.gone.push(CommitEvent::Disconnected {
                name: name_of(session.standby),
                session: conn,
            });
        }
    }

    pub(super) fn send(&mut self, conn: u64, body: Body, world: &mut World<'_>) {
        let bytes = match self.life().sessions.contains_key(&conn) {
            true => wire::of_upstream(&body),
            false => wire::of_standby(&body),
        };
        let bodies = match bytes {
            Some(bytes) => wire::pieces(bytes, world.random)
                .into_iter()
                .map(Body::Bytes)
                .collect(),
            None => vec![body],
        };
        for body in bodies {
            let arrives = world.net.send(conn, self.index, world.now, world.random);
            let Some((at, to, standby)) = arrives else {
                return;
            };
            let from = self.index;
            let packet = Packet::On {
                conn,
                from,
                standby,
                body,
            };
            world.sent.push((at, to, packet));
        }
    }

    /// Sends something without a connection.
    pub(super) fn cast(&mut self, to: usize, packet: Packet, world: &mut World<'_>) {
        if let Some(delay) = world.net.cast(self.index, to, world.random) {
            world.sent.push((world.now + delay, to, packet));
        }
    }
}
