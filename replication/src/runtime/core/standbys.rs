//! The standbys as others see them: their states, and what is acknowledged for them from outside.
//!
//! It tells what is known and decides nothing; who counts is the commit machine's business.

use std::time::Duration;

use mainstay_storage::Lsn;
use uuid::Uuid;

use super::{Connected, Core, State};
use crate::cluster::Member;
use crate::config::{Role, StandbyConfig, StandbyState, StreamState};
use crate::error::{Error, Result};
use crate::protocol::commit::{Committer, Condition};
use crate::protocol::liveness::{
    Health, LagThresholds, PolicyStanding, Sight, Standing, primary_health,
};
use crate::protocol::name::NodeName;
use crate::protocol::progress::{Lag, Positions};

impl Core {
    /// All registered standbys, then those that are configured and never registered.
    pub(crate) fn standby_states(&self) -> Vec<StandbyState> {
        let now = self.clock.now();
        let end = self.wal.flushed().get();
        let begin = self.wal.control().history_begin;
        let state = self.state.lock();
        let parts = state.committer.as_ref().map(Committer::status);
        let members = state.cluster.standbys.iter();
        let members = members.filter(|member| member.name != self.name);
        let one = |member: &Member| {
            let connected = state.standbys.get(&member.name);
            let reported = connected.map(|standby| standby.reported);
            let reported = reported.unwrap_or_default();
            let silence = connected.map(|standby| now - standby.last_heard);
            let heard = silence.is_some_and(|silence| silence <= self.config.heartbeat_timeout);
            let open = connected.filter(|standby| standby.open && heard);
            let part = parts.iter().flat_map(|status| &status.standbys);
            let part = part.into_iter().find(|part| part.name == member.name);
            let visiting = self.visiting(&member.name);
            let away = || visiting.unwrap_or(StreamState::Disconnected);
            let age = |at: Lsn| state.samples.age_of(at, now);
            StandbyState {
                node_id: member.node_id,
                name: member.name.clone(),
                ack_lsn: reported.flush,
                connected: open.is_some(),
                last_heartbeat: silence,
                // Addresses below the first record are no bytes of log.
                lag_bytes: end.bytes_since(reported.flush.max(begin)),
                state: open.map_or_else(away, |standby| standby.state),
                sync_state: part.map_or("async", |part| part.state.as_str()),
                sent_lsn: connected.map(|standby| standby.sent).unwrap_or_default(),
                write_lsn: reported.write,
                flush_lsn: reported.flush,
                replay_lsn: reported.apply,
                write_lag: age(reported.write),
                flush_lag: age(reported.flush),
                replay_lag: age(reported.apply),
            }
        };
        let mut states = members.map(one).collect::<Vec<_>>();
        let absent = absent(&state).map(|configured| StandbyState {
            lag_bytes: end.bytes_since(begin),
            ..never_seen(configured)
        });
        states.extend(absent);
        states
    }

    /// The one word for how replication fares here.
    pub(crate) fn health(&self) -> Health {
        let thresholds = LagThresholds::default();
        match self.role() {
            _ if self.wal.poisoned().is_some() => return Health::Broken,
            Role::Fenced => return Health::Broken,
            Role::Standby if self.broken().is_some() => return Health::Broken,
            Role::Standby => {
                let (_, sight) = self.upstream_sight();
                return thresholds.word(sight.standing, sight.lag);
            }
            Role::Primary => {}
        }
        let now = self.clock.now();
        let status = self.state.lock().committer.as_ref().map(Committer::status);
        let standing = status.map(|status| PolicyStanding {
            met: status.met && !status.suspended,
            missed: status.condition != Condition::Met,
            waiting: Lag {
                bytes: status.flushed.bytes_since(status.commit),
                time: status
                    .waiting_since
                    .map_or(Duration::ZERO, |since| now - since),
            },
        });
        // Between two roles nothing is confirmed.
        let standing = standing.unwrap_or(PolicyStanding {
            met: false,
            missed: false,
            waiting: Lag::default(),
        });
        let standbys = self.standby_states();
        let standbys = standbys.iter().map(|state| {
            let sight = sight_of(state);
            thresholds.word(sight.standing, sight.lag)
        });
        primary_health(standbys, standing, &thresholds)
    }

    /// An acknowledgement that did not come over a stream of ours.
    ///
    /// # Errors
    /// [`Error::UnknownStandby`], [`Error::NotConnected`], the log's `Ahead`.
    pub(crate) fn acknowledge(&self, node: Uuid, lsn: Lsn) -> Result<()> {
        let end = self.wal.appended();
        let (name, session, known) = self.session_of(node)?;
        if lsn > end {
            return Err(mainstay_storage::Error::Ahead { wanted: lsn, end }.into());
        }
        // An acknowledgement that was overtaken takes nothing back.
        let positions = Positions {
            write: lsn.max(known.write),
            flush: lsn.max(known.flush),
            apply: lsn.max(known.apply),
        };
        self.stream_reported(&name, session, self.wal.timeline(), positions);
        Ok(())
    }

    fn session_of(&self, node: Uuid) -> Result<(NodeName, u64, Positions)> {
        let state = self.state.lock();
        let registered = state.cluster.standbys.iter();
        let member = registered.into_iter().find(|member| member.node_id == node);
        let Some(member) = member else {
            let configured = absent(&state).any(|configured| configured.node_id == node);
            return Err(match configured {
                true => Error::NotConnected(node),
                false => Error::UnknownStandby(node),
            });
        };
        let connected = state.standbys.get(&member.name);
        let connected = connected.filter(|standby| standby.open);
        let Connected {
            session, reported, ..
        } = connected.ok_or(Error::NotConnected(node))?;
        Ok((member.name.clone(), *session, *reported))
    }
}

/// A standby, as its primary sees it.
pub(crate) fn sight_of(state: &StandbyState) -> Sight {
    Sight {
        standing: match state.state {
            StreamState::Disconnected => Standing::Away,
            StreamState::Startup | StreamState::Catchup | StreamState::Backup => Standing::Behind,
            StreamState::Streaming => Standing::Streaming,
        },
        lag: Lag {
            bytes: state.lag_bytes,
            // What it has not applied it may leave so on purpose, and it says so itself.
            time: state.flush_lag,
        },
        silence: state.last_heartbeat.unwrap_or_default(),
    }
}

/// The standbys that are configured and never registered.
fn absent(state: &State) -> impl Iterator<Item = &StandbyConfig> {
    let registered = &state.cluster.standbys;
    let unknown = |id| registered.iter().all(|member| member.node_id != id);
    let configured = state.admitted.iter();
    configured.filter(move |configured| unknown(configured.node_id))
}

/// A standby of which nothing is known but its configuration. It has told no name yet, so it goes
/// by its id.
pub(crate) fn never_seen(configured: &StandbyConfig) -> StandbyState {
    let id = configured.node_id;
    let name = id.to_string().parse();
    StandbyState {
        node_id: id,
        name: name.expect("an id in hexadecimal can name a node"),
        ack_lsn: Lsn::ZERO,
        connected: false,
        last_heartbeat: None,
        lag_bytes: 0,
        state: StreamState::Disconnected,
        sync_state: "async",
        sent_lsn: Lsn::ZERO,
        write_lsn: Lsn::ZERO,
        flush_lsn: Lsn::ZERO,
        replay_lsn: Lsn::ZERO,
        write_lag: Duration::ZERO,
        flush_lag: Duration::ZERO,
        replay_lag: Duration::ZERO,
    }
}
