//! How a replicator is set up, and what can be seen of it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mainstay_storage::{Lsn, SegmentSize};
use uuid::Uuid;

use crate::protocol::level::OnMiss;
use crate::protocol::name::NodeName;
use crate::protocol::policy::SyncPolicy;
use crate::protocol::slot::SLOTS_DEFAULT;
use crate::wire::scram::Verifier;

/// How one node streams its log. [`Default`] gives a node `node` that listens nowhere and follows
/// nobody, with the data directory `data`.
#[derive(Debug, Clone)]
pub struct WalStreamingConfig {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The node's id, for a new log; random if `None`.
    pub node_id: Option<Uuid>,
    /// The node's name, which policies and `application_name` use.
    pub name: String,
    /// Where to listen, `host:port`; port 0 takes a free one. `None`: nobody can follow,
    /// and this node cannot follow others.
    pub listen: Option<String>,
    /// The address that others reach this node at; the one it listens on if `None`.
    pub advertise: Option<String>,
    /// Nodes to follow, `host:port`, tried in turn; empty for a primary.
    pub follow: Vec<String>,
    /// The user to follow as.
    pub follow_user: String,
    /// The slot to follow through, created if it does not exist; log is kept for it there.
    pub follow_slot: Option<String>,
    /// The password to follow with.
    pub follow_password: Option<Password>,
    /// Who must confirm a commit; what the log says if `None`, which is nobody in a new log.
    pub sync: Option<SyncPolicy>,
    /// What happens while they cannot.
    pub on_miss: OnMiss,
    /// Users who may connect, with their SCRAM verifiers. Empty: everybody, on loopback only.
    pub users: Vec<(String, Verifier)>,
    /// Most bytes of log in one message.
    pub batch_size: usize,
    /// How often a peer hears from us when nothing happens.
    pub heartbeat_interval: Duration,
    /// Silence after which a peer counts as gone.
    pub heartbeat_timeout: Duration,
    /// Most connections at once.
    pub max_connections: usize,
    /// Log kept for standbys without a slot, in bytes.
    pub wal_keep_size: u64,
    /// Most log that a slot may hold back, in bytes; any amount if `None`. A slot that wants more
    /// is invalidated.
    pub max_slot_wal_keep_size: Option<u64>,
    /// How long a standby waits at least before it applies what is committed, at most
    /// [`APPLY_DELAY_MAX`](crate::APPLY_DELAY_MAX).
    pub min_apply_delay: Duration,
    /// How long nobody may use a slot before it is invalidated; for ever if `None`.
    pub slot_idle_timeout: Option<Duration>,
    /// Most slots; at most [`SLOTS_MAX`](crate::protocol::slot::SLOTS_MAX).
    pub max_replication_slots: usize,
    /// Most streams and base backups that are served at once.
    pub max_wal_senders: usize,
    /// The most log that this node may lack when it is promoted, in bytes; any amount if `None`.
    pub max_lag: Option<u64>,
    /// How far behind a standby weighs a copy of the upstream's data against their log, in bytes.
    pub rebuild_from: u64,
    /// Whether it weighs that before it has caught up for the first time; not right after a copy.
    pub weighs_copy: bool,
    /// Size of a segment, for a new log.
    pub segment_size: SegmentSize,
    /// Deadline for each task when stopping.
    pub stop_timeout: Duration,
    /// The operator accepts losing all log from exactly here on.
    pub accept_loss_from: Option<Lsn>,
}

impl Default for WalStreamingConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            node_id: None,
            name: "node".to_owned(),
            listen: None,
            advertise: None,
            follow: Vec::new(),
            follow_user: "mainstay".to_owned(),
            follow_slot: None,
            follow_password: None,
            sync: None,
            on_miss: OnMiss::Block,
            users: Vec::new(),
            batch_size: 1 << 20,
            heartbeat_interval: Duration::from_secs(1),
            heartbeat_timeout: Duration::from_secs(10),
            max_connections: 100,
            wal_keep_size: 1 << 30,
            max_slot_wal_keep_size: None,
            min_apply_delay: Duration::ZERO,
            slot_idle_timeout: None,
            max_replication_slots: SLOTS_DEFAULT,
            max_wal_senders: 10,
            max_lag: None,
            rebuild_from: 1 << 30,
            weighs_copy: true,
            segment_size: SegmentSize::DEFAULT,
            stop_timeout: Duration::from_secs(5),
            accept_loss_from: None,
        }
    }
}

/// A password; never shown.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// How a standby takes part.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// It follows; `*` does not count it.
    #[default]
    Async,
    /// `*` counts it.
    Sync,
}

/// A standby that is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandbyConfig {
    /// Its node id, which it must present.
    pub node_id: Uuid,
    /// Host of its advertised address.
    pub host: String,
    /// Port of its advertised address.
    pub port: u16,
    /// Whether `*` counts it.
    pub sync_mode: SyncMode,
    /// Its place in `FIRST`; lower comes first.
    pub priority: u32,
}

/// Where a standby's connection stands.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum StreamState {
    /// Registered, not connected.
    Disconnected,
    /// Connected, and has not said yet from where on it wants the log.
    Startup,
    /// Receives log that it missed.
    Catchup,
    /// Has everything there was once, and receives what is new.
    Streaming,
    /// Receives a base backup.
    Backup,
}

impl StreamState {
    /// The word that operators see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Startup => "startup",
            Self::Catchup => "catchup",
            Self::Streaming => "streaming",
            Self::Backup => "backup",
        }
    }
}

/// One standby as its primary sees it.
#[derive(Debug, Clone)]
pub struct StandbyState {
    /// Its node id.
    pub node_id: Uuid,
    /// Its name.
    pub name: NodeName,
    /// Flushed there, as far as it said.
    pub ack_lsn: Lsn,
    /// Whether it is connected and was heard within the heartbeat timeout.
    pub connected: bool,
    /// Silence since it was last heard; `None` before the first time.
    pub last_heartbeat: Option<Duration>,
    /// Bytes of log that are flushed here and not there.
    pub lag_bytes: u64,
    /// Where its connection stands.
    pub state: StreamState,
    /// `sync`, `potential`, `quorum` or `async`.
    pub sync_state: &'static str,
    /// Sent to it.
    pub sent_lsn: Lsn,
    /// Written there.
    pub write_lsn: Lsn,
    /// Flushed there.
    pub flush_lsn: Lsn,
    /// Applied there.
    pub replay_lsn: Lsn,
    /// Age of the oldest log not written there.
    pub write_lag: Duration,
    /// Age of the oldest log not flushed there.
    pub flush_lag: Duration,
    /// Age of the oldest log not applied there.
    pub replay_lag: Duration,
}

/// The node that a standby follows, as the standby sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamState {
    /// Its name; the primary's that the log names, before the first connection.
    pub name: String,
    /// Its address, while connected.
    pub address: Option<String>,
    /// Where the connection stands.
    pub state: StreamState,
    /// Silence since it was last heard; `None` before the first time.
    pub last_heartbeat: Option<Duration>,
    /// Bytes of log that are flushed there and not here, as far as it said.
    pub lag_bytes: u64,
    /// Age of the oldest committed log not applied here, since this node heard of it.
    pub replay_lag: Duration,
}

/// How far a standby is behind.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct ReplicationLag {
    /// Bytes of log it has not flushed.
    pub bytes: u64,
    /// Age of the oldest log it has not applied, in milliseconds; 0 when it has everything.
    pub time_ms: u64,
}

/// What a node is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Accepts writes.
    Primary,
    /// Follows a primary.
    Standby,
    /// Met a newer timeline opened elsewhere: accepts nothing until it follows it.
    Fenced,
}

impl Role {
    /// The word that operators see.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Fenced => "fenced",
        }
    }
}
