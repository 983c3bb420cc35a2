//! What a node says about itself, as `status --json` and `/v1/status` give it.

mod verification;

use std::time::{Duration, SystemTime};

use mainstay_replication::{
    PolicyChange, PolicyStatus, Role, StandbyState, UpstreamState, WalReplicator,
};
use mainstay_storage::Lsn;
use serde::Serialize;

use crate::database::wall_clock;
use crate::engine::Engine;
use crate::moment;

pub use verification::*;

/// A node's state at one moment. Positions are texts like `0/16B3748`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// Its id.
    pub node_id: String,
    /// The cluster's id, a number in decimal.
    pub system_id: String,
    /// `primary`, `standby` or `fenced`.
    pub role: String,
    /// Number of the current timeline.
    pub timeline: u32,
    /// Id of the promotion that opened it.
    pub promotion_id: String,
    /// `syncing`, `synchronized`, `lagging` or `broken`.
    pub status: String,
    /// Why it cannot go on by itself, when it cannot.
    pub problem: Option<String>,
    /// On a standby that was told to apply nothing: true.
    pub apply_paused: bool,
    /// How far the node is.
    pub lsn: Positions,
    /// On a primary: its registered standbys.
    pub standbys: Vec<StandbyStatus>,
    /// On a standby: the node that it follows.
    pub upstream: Option<UpstreamStatus>,
    /// The whole in six fields.
    pub record: ReplicationRecord,
}

/// How replication fares between a primary and the standby that is furthest behind, or the one
/// that says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicationRecord {
    /// Whether this node follows another, or can be followed.
    pub replication_enabled: bool,
    /// The primary, if it is known here.
    pub primary_name: Option<String>,
    /// On a standby its own name; on a primary that of the standby that is furthest behind.
    pub standby_name: Option<String>,
    /// As [`NodeStatus::status`].
    pub replication_status: String,
    /// Bytes of log that this standby has not flushed; 0 without one.
    pub replication_lag_bytes: u64,
    /// When all this was looked at, by this node's clock; RFC 3339 in JSON.
    #[serde(serialize_with = "moment::text::serialize")]
    pub last_replication_check_at: SystemTime,
}

/// The node that a standby follows, as the standby sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: String,
    /// Its address, while connected.
    pub address: Option<String>,
    /// `streaming`, `catchup` or `disconnected`.
    pub state: String,
    /// Bytes that are flushed there and not here.
    pub lag_bytes: u64,
    /// Age of the oldest committed log not applied here, since this node heard of it.
    pub replay_lag_ms: f64,
    /// Time since it was last heard; `null` before the first time.
    pub last_contact_ms: Option<u64>,
}

/// A node's positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Positions {
    /// Has a place in the log.
    pub appended: String,
    /// Was handed to the system.
    pub written: String,
    /// Survives a power cut.
    pub flushed: String,
    /// Survives what the policy says it survives.
    pub commit: String,
    /// Is in the store.
    pub applied: String,
}

/// One standby, as its primary sees it. Lags are in bytes and milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StandbyStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node_id: String,
    /// `startup`, `catchup`, `streaming`, `backup` or `disconnected`.
    pub state: String,
    /// `sync`, `potential`, `quorum` or `async`.
    pub sync_state: String,
    /// Sent to it.
    pub sent_lsn: String,
    /// Written there.
    pub write_lsn: String,
    /// Flushed there.
    pub flush_lsn: String,
    /// Applied there.
    pub replay_lsn: String,
    /// Bytes it has not flushed.
    pub lag_bytes: u64,
    /// Age of the oldest log it has not written.
    pub write_lag_ms: f64,
    /// Age of the oldest log it has not flushed.
    pub flush_lag_ms: f64,
    /// Age of the oldest log it has not applied.
    pub replay_lag_ms: f64,
    /// Time since it was last heard; `null` before the first time.
    pub last_contact_ms: Option<u64>,
}

/// A synchronous policy, whom it counts, and how it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// The newest policy in the log.
    pub policy: String,
    /// What happens while it is not met: `block`, `degrade:10s`, `fail:10s`.
    pub on_miss: String,
    /// `off`, `met`, `waiting`, `changing`, `degraded`, `failing`, `suspended`, or `standby` where
    /// another node decides.
    pub state: String,
    /// On a primary, the policies that bind, oldest first: more than one while a change is not
    /// known committed.
    pub binding: Vec<String>,
    /// How many standbys must confirm a commit.
    pub needed: usize,
    /// How many of those counted are there, on a primary.
    pub present: usize,
    /// Whom it counts.
    pub counted: Vec<String>,
    /// Those of them that never registered.
    pub unknown: Vec<String>,
    /// All registered standbys.
    pub registered: Vec<String>,
}

/// What an order to change the policy, or to remove a standby, led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyChanged {
    /// Always true; an order that was refused is an error.
    pub changed: bool,
    /// The newest policy.
    pub policy: String,
    /// End of the entry in the log.
    pub lsn: String,
    /// Whether it binds alone by now; until then the earlier ones bind too.
    pub in_force: bool,
    /// After a forced change, the members that could still promote themselves without it.
    pub may_promote: Vec<String>,
    /// What the operator should know, a sentence each.
    pub notices: Vec<String>,
}

impl PolicyReport {
    pub(crate) fn of(status: &PolicyStatus) -> Self {
        Self {
            policy: status.policy.to_string(),
            on_miss: status.on_miss.to_string(),
            state: status.word().to_owned(),
            binding: status.binding.iter().map(ToString::to_string).collect(),
            needed: status.policy.needed(),
            present: status.present,
            counted: names(&status.counted),
            unknown: names(&status.unknown),
            registered: names(&status.registered),
        }
    }
}

impl PolicyChanged {
    pub(crate) fn of(change: PolicyChange) -> Self {
        Self {
            changed: true,
            policy: change.policy.to_string(),
            lsn: change.lsn.to_string(),
            in_force: change.in_force,
            may_promote: names(&change.may_promote),
            notices: change.notices,
        }
    }
}

fn names(names: &[impl ToString]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

impl NodeStatus {
    pub(crate) fn of(name: &str, engine: &Engine, replicator: &WalReplicator) -> Self {
        let (wal, role) = (&engine.wal, replicator.role());
        let (identity, timeline) = (wal.identity(), wal.timeline());
        let standbys = match role {
            Role::Primary => replicator.standby_states(),
            _ => Vec::new(),
        };
        let standbys = standbys.iter().map(StandbyStatus::of).collect::<Vec<_>>();
        let upstream = replicator.upstream_state();
        let worst = standbys.iter().max_by_key(|standby| standby.lag_bytes);
        let lag = match &upstream {
            Some(upstream) => Some((name.to_owned(), upstream.lag_bytes)),
            None => worst.map(|standby| (standby.name.clone(), standby.lag_bytes)),
        };
        let mut record = ReplicationRecord::of(name, &role, replicator, lag);
        let stopped = engine.store.stopped().map(|error| error.to_string());
        if stopped.is_some() {
            record.replication_status = "broken".to_owned();
        }
        let applied = match &role {
            Role::Standby => {
                let read = replicator.applied().map_or(Lsn::ZERO, |read| read.get());
                // What the store has ahead of the sync is not shown before it.
                read.max(engine.store.applied()).min(wal.commit().get())
            }
            _ => engine.store.applied(),
        };
        Self {
            name: name.to_owned(),
            node_id: identity.node_id.to_string(),
            system_id: identity.system_id.to_string(),
            role: role.as_str().to_owned(),
            timeline: timeline.number,
            promotion_id: timeline.id.to_string(),
            status: record.replication_status.clone(),
            problem: stopped.or_else(|| problem(replicator)),
            apply_paused: replicator.is_apply_paused(),
            lsn: Positions {
                appended: wal.appended().to_string(),
                written: wal.written().get().to_string(),
                flushed: wal.flushed().get().to_string(),
                commit: wal.commit().get().to_string(),
                applied: applied.to_string(),
            },
            standbys,
            upstream: upstream.as_ref().map(UpstreamStatus::of),
            record,
        }
    }
}

/// What keeps replication from going on as it should, if anything: what the node cannot get over,
/// or what commits do instead of waiting for the policy.
fn problem(replicator: &WalReplicator) -> Option<String> {
    replicator.problem().or_else(|| {
        let status = replicator.policy_status().ok()?;
        status.problem(&time_before(status.missed_for.unwrap_or_default()))
    })
}

/// The time of day `ago` before now, in UTC and whole seconds.
fn time_before(ago: Duration) -> String {
    let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
    let at = chrono::DateTime::from_timestamp_micros(wall_clock().saturating_sub(ago));
    at.map(|at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_default()
}

impl ReplicationRecord {
    /// `lag` says which standby is worst off, and by how much.
    fn of(name: &str, role: &Role, replicator: &WalReplicator, lag: Option<(String, u64)>) -> Self {
        let primary = match role {
            Role::Primary => Some(name.to_owned()),
            _ => replicator.primary().map(|(name, _)| name),
        };
        let (standby, lag) = lag.unzip();
        Self {
            replication_enabled: *role != Role::Primary || replicator.listen_addr().is_some(),
            primary_name: primary.filter(|primary| *role == Role::Primary || primary != name),
            standby_name: standby,
            replication_status: replicator.health().as_str().to_owned(),
            replication_lag_bytes: lag.unwrap_or(0),
            last_replication_check_at: moment::now(),
        }
    }
}

impl UpstreamStatus {
    fn of(state: &UpstreamState) -> Self {
        Self {
            name: state.name.clone(),
            address: state.address.clone(),
            state: state.state.as_str().to_owned(),
            lag_bytes: state.lag_bytes,
            replay_lag_ms: ms(state.replay_lag),
            last_contact_ms: state.last_heartbeat.map(millis),
        }
    }
}

fn ms(lag: Duration) -> f64 {
    (lag.as_secs_f64() * 1e6).round() / 1e3
}

fn millis(silence: Duration) -> u64 {
    u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)
}

impl StandbyStatus {
    fn of(state: &StandbyState) -> Self {
        Self {
            name: state.name.as_str().to_owned(),
            node_id: state.node_id.to_string(),
            state: state.state.as_str().to_owned(),
            sync_state: state.sync_state.to_owned(),
            sent_lsn: state.sent_lsn.to_string(),
            write_lsn: state.write_lsn.to_string(),
            flush_lsn: state.flush_lsn.to_string(),
            replay_lsn: state.replay_lsn.to_string(),
            lag_bytes: state.lag_bytes,
            write_lag_ms: ms(state.write_lag),
            flush_lag_ms: ms(state.flush_lag),
            replay_lag_ms: ms(state.replay_lag),
            last_contact_ms: state.last_heartbeat.map(millis),
        }
    }
}
