//! Who follows this node: registration in the log, and what each standby's stream reports.
//!
//! A standby is registered in the log before it may count, and a later session of the same name
//! takes the place of an earlier one, whose reports then change nothing. Reports never take an
//! acknowledgement back.
//!
//! It refuses to know who counts: reports go on to the commit machine as events.

use mainstay_storage::{Lsn, Timeline};
use uuid::Uuid;

use super::{Core, State};
use crate::cluster::Member;
use crate::config::{StandbyConfig, StreamState, SyncMode};
use crate::error::{Error, Result};
use crate::event::ReplicationEvent;
use crate::protocol::commit::Event;
use crate::protocol::name::NodeName;
use crate::protocol::policy::{ChangeRule, change_rule};
use crate::protocol::progress::Positions;
use crate::protocol::vote::Arrival;
use crate::time::Moment;

/// A standby's newest session.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) session: u64,
    pub(super) state: StreamState,
    pub(super) sent: Lsn,
    pub(super) reported: Positions,
    pub(super) last_heard: Moment,
    pub(super) open: bool,
    /// The most that a standby of this name ever confirmed here.
    pub(super) confirmed: Lsn,
    /// The life of its data.
    life: Uuid,
}

impl State {
    /// The standby that is connected in `session`.
    fn standby_in(&mut self, name: &NodeName, session: u64) -> Option<&mut Connected> {
        let standby = self.standbys.get_mut(name);
        standby.filter(|standby| standby.session == session)
    }
}

impl Core {
    /// Registers a standby, or brings its entry up to date, before it may count.
    ///
    /// # Errors
    /// [`Error::NotPrimary`]; [`Error::Refused`] when only listed standbys are admitted and it is
    /// not one of them.
    pub(crate) fn register(&self, mut member: Member) -> Result<()> {
        let mut state = self.state.lock();
        if state.committer.is_none() {
            return Err(Error::NotPrimary);
        }
        if let Some(admitted) = admit(&state.admitted, &member)? {
            member.priority = admitted.priority;
            member.votes = admitted.sync_mode == SyncMode::Sync;
        }
        self.refuse_twin(&state, &member)?;
        // The entry says that no life has the vote; another one says later that this one has it.
        state.cluster.void_vote(&mut member);
        let old = state.cluster.bound(Lsn::ZERO);
        let mut cluster = state.cluster.clone();
        let known = cluster.standby(&member.name).is_some();
        let created = ReplicationEvent::StandbyCreated {
            standby: member.name.to_string(),
            address: member.address.clone(),
        };
        if !cluster.register(member)? {
            return Ok(());
        }
        // A timeline that is asked for is opened under the policy that was asked under.
        let same = change_rule(&old, &cluster.bound(Lsn::ZERO), false) == ChangeRule::OwnFlush;
        if self.standstill.borrow().is_some() && !same {
            let why = "this primary asks the members whether it may go on; come again";
            return Err(Error::Refused(why.to_owned()));
        }
        if self.wal.must_begin_timeline() {
            // The timeline that is asked for begins with it; until then its address is known.
            state.cluster = cluster;
            return Ok(());
        }
        let end = self.log_config(&cluster)?;
        let policy = cluster.bound(end);
        let rule = change_rule(&old, &policy, false);
        state.cluster = cluster;
        self.decide(&mut state, Event::PolicyLogged { policy, rule });
        drop(state);
        if !known {
            self.observer.tell(created);
        }
        Ok(())
    }

    /// Refuses a second node with the data of one that is connected: a directory that was copied.
    ///
    /// # Errors
    /// [`Error::Refused`], with where the other one is.
    fn refuse_twin(&self, state: &State, member: &Member) -> Result<()> {
        let known = state.cluster.standby(&member.name);
        let same = known.filter(|known| {
            let (life, address) = (known.incarnation, &known.address);
            life == member.incarnation && *address != member.address
        });
        let connected = state.standbys.get(&member.name);
        let alive = connected.is_some_and(|other| {
            let silence = self.clock.now() - other.last_heard;
            other.open && silence < self.config.heartbeat_timeout
        });
        match same.filter(|_| alive) {
            None => Ok(()),
            Some(other) => Err(Error::Refused(format!(
                "standby {} is connected already, from {}: this is a copy of its data directory. \
                 Stop one of them; a second standby needs a name and an empty directory of its own",
                other.name, other.address
            ))),
        }
    }

    /// A standby's stream begins at `from`. One whose data are another life than the one that has
    /// the vote, or less than what a standby of this name confirmed before, counts later.
    pub(crate) fn stream_started(&self, name: &NodeName, session: u64, from: Lsn, life: Uuid) {
        let sealed = self.wal.sealed().get();
        let (confirmed, another_life) = {
            let state = self.state.lock();
            let confirmed = state.standbys.get(name).map(|known| known.confirmed);
            let confirmed = confirmed.unwrap_or_default().min(sealed);
            (confirmed, !state.cluster.has_vote(name, life))
        };
        let rolled_back = from < confirmed;
        if rolled_back {
            tracing::warn!(
                %name, %from, %confirmed,
                "the standby has less than it confirmed, so its data are an old copy; it has no \
                 vote until it has that again"
            );
        }
        let named = self.wal.config().1;
        let arrival = Arrival {
            another_life,
            from,
            confirmed,
            named,
            sealed,
        };
        let vote = arrival.vote();
        let connected = Connected {
            session,
            state: StreamState::Catchup,
            sent: Lsn::ZERO,
            reported: Positions::default(),
            last_heard: self.clock.now(),
            open: true,
            confirmed,
            life,
        };
        {
            let mut state = self.state.lock();
            let known = state.standbys.get(name);
            if known.is_some_and(|known| known.open && known.session > session) {
                return;
            }
            state.standbys.insert(name.clone(), connected);
        }
        self.peers.changed.notify_one();
        let name = name.clone();
        self.commit_event(Event::Connected {
            name,
            session,
            vote,
        });
    }

    /// A standby has everything there was once.
    pub(crate) fn stream_caught_up(&self, name: &NodeName, session: u64) {
        self.with_session(name, session, |standby| {
            standby.state = StreamState::Streaming
        });
        self.peers.changed.notify_one();
        self.commit_event(Event::Streaming {
            name: name.clone(),
            session,
        });
    }

    /// A standby said how far it is.
    pub(crate) fn stream_reported(
        &self,
        name: &NodeName,
        session: u64,
        timeline: Timeline,
        positions: Positions,
    ) {
        // A report that was under way when a higher acknowledgement came takes nothing back.
        let mut positions = positions;
        let mut state = self.state.lock();
        if let Some(standby) = state.standby_in(name, session) {
            positions.write = positions.write.max(standby.reported.write);
            positions.flush = positions.flush.max(standby.reported.flush);
            positions.apply = positions.apply.max(standby.reported.apply);
            standby.reported = positions;
            standby.confirmed = standby.confirmed.max(positions.flush);
        }
        // A commit need not wait until the task that watches this is awake.
        let flushed = self.wal.flushed().get();
        let committer = state.committer.as_ref();
        if committer.is_some_and(|committer| committer.flushed() < flushed) {
            self.decide(&mut state, Event::Flushed(flushed));
        }
        let name = name.clone();
        let reported = Event::Reported {
            name,
            session,
            timeline,
            positions,
        };
        self.decide(&mut state, reported);
        drop(state);
        self.reported.notify_waiters();
    }

    /// What the standby said last that it has flushed, while it is connected.
    pub(crate) fn flushed_by(&self, name: &NodeName) -> Option<Lsn> {
        let state = self.state.lock();
        let standby = state.standbys.get(name).filter(|standby| standby.open);
        standby.map(|standby| standby.reported.flush)
    }

    /// A standby was heard, and this much was sent to it.
    pub(crate) fn stream_heard(&self, name: &NodeName, session: u64, sent: Lsn, heard: Moment) {
        self.with_session(name, session, |standby| {
            standby.sent = sent;
            standby.last_heard = heard;
        });
    }

    /// A standby's stream ended.
    pub(crate) fn stream_ended(&self, name: &NodeName, session: u64) {
        self.with_session(name, session, |standby| {
            standby.state = StreamState::Disconnected;
            standby.open = false;
        });
        self.peers.changed.notify_one();
        self.commit_event(Event::Disconnected {
            name: name.clone(),
            session,
        });
    }

    fn with_session(&self, name: &NodeName, session: u64, change: impl FnOnce(&mut Connected)) {
        if let Some(standby) = self.state.lock().standby_in(name, session) {
            change(standby);
        }
    }

    /// Logs that the life that is connected in `session` is the one that votes.
    pub(super) fn grant_vote(&self, name: &NodeName, session: u64, state: &mut State) {
        let connected = state.standbys.get(name);
        let Some(connected) = connected.filter(|connected| connected.session == session) else {
            return;
        };
        let life = connected.life;
        let mut cluster = state.cluster.clone();
        let mut known = cluster.standbys.iter_mut();
        if let Some(known) = known.find(|member| &member.name == name) {
            known.incarnation = life;
        }
        let name = name.clone();
        match self.log_config(&cluster) {
            Ok(end) => {
                state.cluster = cluster;
                self.decide(state, Event::VoteLogged { name, end });
            }
            Err(error) => tracing::warn!(%name, %error, "cannot log the standby's vote yet"),
        }
    }

    /// No standby is connected any more.
    pub(crate) fn disconnect_all(&self) {
        let mut state = self.state.lock();
        for standby in state.standbys.values_mut() {
            standby.open = false;
            standby.state = StreamState::Disconnected;
        }
    }
}

/// The entry that admits `member`; `None` when everybody is admitted.
fn admit(admitted: &[StandbyConfig], member: &Member) -> Result<Option<StandbyConfig>> {
    if admitted.is_empty() {
        return Ok(None);
    }
    let known = admitted
        .iter()
        .find(|known| known.node_id == member.node_id);
    let refused = || {
        let (name, id) = (&member.name, member.node_id);
        Error::Refused(format!(
            "standby {name} ({id}) is not one of those configured here"
        ))
    };
    known.cloned().map(Some).ok_or_else(refused)
}
