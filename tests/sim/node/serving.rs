//! The upstream's side: sessions, each with the sender that ships.

use std::ops::Range;

use mainstay_replication::protocol::commit::Event as CommitEvent;
use mainstay_replication::protocol::promotion::{Fencing, Standstill, fencing};
use mainstay_replication::protocol::sender::{Action, Event, Sender, SenderConfig, State};
use mainstay_replication::time::Moment;
use mainstay_storage::{LogBytes, Lsn, Timeline};

use super::{Done, Node, Role, Trouble, World};
use crate::sim::net::{Body, Packet};

/// Silence that ends a connection, in microseconds.
pub(super) const TIMEOUT: u64 = 1_000_000;

/// How often each side says something.
pub(super) const HEARTBEAT: u64 = 200_000;

/// A standby's connection.
pub(super) struct Session {
    standby: usize,
    sender: Option<Sender>,
    timeline: Timeline,
    sealed: Lsn,
    flushed: Lsn,
    commit: Lsn,
}

impl std::fmt::Display for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = self.sender.as_ref().map(Sender::status);
        write!(f, "{} {status:?}", super::super::name_of(self.standby))
    }
}

impl Session {
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
        let timeline = life.wal.timeline();
        life.sessions.entry(conn).or_insert(Session {
            standby: from,
            sender: None,
            timeline,
            sealed: Lsn::ZERO,
            flushed: Lsn::ZERO,
            commit: Lsn::ZERO,
        });
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
            Body::Start { from, timeline } => self.start_stream(conn, from, timeline, world),
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

    fn start_stream(&mut self, conn: u64, from: Lsn, on: Timeline, world: &mut World<'_>) -> Done {
        let now = world.moment();
        let life = self.life();
        if life.standstill == Some(Standstill::Crashed) {
            self.send(conn, Body::Refused { removed: false }, world);
            return Ok(());
        }
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
        let name = super::super::name_of(session.standby);
        self.commit(
            CommitEvent::Disconnected {
                name,
                session: conn,
            },
            world,
        )
    }

    fn perform(&mut self, conn: u64, action: Action, world: &mut World<'_>) -> Done<Option<Event>> {
        let standby = self.life().sessions[&conn].standby;
        let name = super::super::name_of(standby);
        match action {
            Action::StartStream(_) => {
                self.send(conn, Body::Started, world);
                let connected = CommitEvent::Connected {
                    name,
                    session: conn,
                    vote_after: None,
                };
                self.commit(connected, world)?;
            }
            Action::RefuseStart(_) | Action::FailStream(_) => {
                self.send(conn, Body::Refused { removed: false }, world);
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
                let reported = CommitEvent::Reported {
                    name,
                    session: conn,
                    timeline,
                    positions,
                };
                self.commit(reported, world)?;
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
        if waits && sealed > session.sealed.max(flushed) {
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
        if let Some(session) = self.life().sessions.remove(&conn) {
            let name = super::super::name_of(session.standby);
            let life = self.life();
            if let Some(committer) = &mut life.committer {
                let gone = CommitEvent::Disconnected {
                    name,
                    session: conn,
                };
                committer.on(gone, world.moment(), &mut Vec::new());
            }
        }
    }

    pub(super) fn send(&mut self, conn: u64, body: Body, world: &mut World<'_>) {
        let arrives = world.net.send(conn, self.index, world.now, world.random);
        if let Some((at, to, standby)) = arrives {
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

    /// Somebody claims a timeline that this node may not know.
    pub(in crate::sim) fn claimed(
        &mut self,
        timeline: Timeline,
        opened: bool,
        world: &mut World<'_>,
    ) -> Done {
        let life = self.life();
        if life.role != Role::Primary {
            return Ok(());
        }
        match fencing(&life.wal.history(), timeline, opened) {
            Fencing::Ignore => Ok(()),
            Fencing::AskAbove(_) if life.wal.control().attempted() == Some(timeline) => Ok(()),
            Fencing::AskAbove(_) => {
                let name = &self.name;
                world.tell(format!(
                    "{name} stops confirming, since {timeline} was promised"
                ));
                self.suspend(world)
            }
            Fencing::Fence(theirs) => {
                world.tell(format!("{} is fenced by {theirs}", self.name));
                self.step_down(world)
            }
        }
    }

    /// Tells every other node of this primary's timeline.
    pub(in crate::sim) fn tell_others(&mut self, world: &mut World<'_>) -> Done {
        let timeline = self.life().wal.timeline();
        for other in (0..world.up.len()).filter(|other| *other != self.index) {
            if let Some(delay) = world.net.cast(self.index, other, world.random) {
                let opened = Packet::Opened(timeline);
                world.sent.push((world.now + delay, other, opened));
            }
        }
        Ok(())
    }

    /// Confirms nothing before it has asked for a higher timeline.
    pub(super) fn suspend(&mut self, world: &mut World<'_>) -> Done {
        let pause = 100_000 + world.random.below(400_000);
        let ask_at = world.now + pause;
        let life = self.life();
        if life.standstill.is_none() {
            life.standstill = Some(Standstill::Outbid);
            (life.asked, life.ask_at) = (0, ask_at);
        }
        self.commit(CommitEvent::Suspended(true), world)
    }

    /// Follows from now on.
    pub(super) fn step_down(&mut self, world: &mut World<'_>) -> Done {
        for conn in self.life().sessions.keys().copied().collect::<Vec<_>>() {
            self.hang_up(conn, world);
        }
        let life = self.life();
        life.committer = None;
        life.standstill = None;
        life.candidate = None;
        // What waits ends as unknown.
        life.waiting.clear();
        self.follow(world)
    }
}
