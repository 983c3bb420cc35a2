//! Setting a node up.

use std::path::Path;
use std::time::Duration;

use mainstay_replication::protocol::level::OnMiss;
use mainstay_replication::protocol::policy::SyncPolicy;
use mainstay_replication::wire::scram::Verifier;
use mainstay_replication::{APPLY_DELAY_MAX, Password, WalStreamingConfig};
use mainstay_storage::{LsmOptions, Lsn, SegmentSize};

use super::life::Plan;
use super::{Inner, Node, port, record};
use crate::error::Result;
use crate::events::EventLog;
use crate::upstream::Upstream;

/// Rounds of key derivation for a password that is configured in clear.
const SCRAM_ITERATIONS: u32 = 4096;

/// How a node is set up. Made by [`Node::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct NodeBuilder {
    config: WalStreamingConfig,
    store: LsmOptions,
    upstream: Option<String>,
    password: Option<String>,
    cluster_name: Option<String>,
}

impl NodeBuilder {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            config: WalStreamingConfig {
                data_dir: dir.to_owned(),
                ..WalStreamingConfig::default()
            },
            store: LsmOptions::default(),
            upstream: None,
            password: None,
            cluster_name: None,
        }
    }

    /// The node's name, which a synchronous policy counts. Default `node`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Where standbys and stock PostgreSQL tools connect, `host:port`; port 0 takes a free one.
    /// Without it nobody can follow this node, and it cannot follow others: who chooses a new
    /// primary asks every standby.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.config.listen = Some(address.into());
        self
    }

    /// The address that other nodes reach this one at; the one it listens on by default.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.config.advertise = Some(address.into());
        self
    }

    /// The primary to follow: `postgres://[user@]host:port[,host:port]`. An empty directory is
    /// filled from it first. A node started so never makes itself primary.
    pub fn follow(mut self, url: impl Into<String>) -> Self {
        self.upstream = Some(url.into());
        self
    }

    /// Who must confirm a commit; without it, what the log says.
    pub fn sync(mut self, policy: SyncPolicy) -> Self {
        self.config.sync = Some(policy);
        self
    }

    /// What happens while they cannot; waiting by default.
    pub fn on_miss(mut self, on_miss: OnMiss) -> Self {
        self.config.on_miss = on_miss;
        self
    }

    /// Accepts losing all log from exactly `lsn` on, although this node had flushed it: the way
    /// out of damage that no other node can repair.
    pub fn accept_loss_from(mut self, lsn: Lsn) -> Self {
        self.config.accept_loss_from = Some(lsn);
        self
    }

    /// The password that everybody who connects as user `mainstay` must prove.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The password to prove to the primary.
    pub fn upstream_password(mut self, password: impl Into<String>) -> Self {
        self.config.follow_password = Some(Password::new(password));
        self
    }

    /// Size of a log segment, for a new log.
    pub fn segment_size(mut self, size: SegmentSize) -> Self {
        self.config.segment_size = size;
        self
    }

    /// Log kept for standbys that are away, in bytes.
    pub fn wal_keep_size(mut self, bytes: u64) -> Self {
        self.config.wal_keep_size = bytes;
        self
    }

    /// Most log that a slot may hold back, in bytes; one that wants more is invalidated.
    pub fn slot_keep_size_max(mut self, bytes: u64) -> Self {
        self.config.max_slot_wal_keep_size = Some(bytes);
        self
    }

    /// How long nobody may use a slot before it is invalidated; for ever by default.
    pub fn slot_idle_timeout(mut self, idle: Duration) -> Self {
        self.config.slot_idle_timeout = Some(idle);
        self
    }

    /// Most slots, 10 by default and at most
    /// [`SLOTS_MAX`](mainstay_replication::SLOTS_MAX).
    pub fn max_replication_slots(mut self, max: usize) -> Self {
        self.config.max_replication_slots = max;
        self
    }

    /// Most streams and base backups that are served at once, 10 by default.
    pub fn max_wal_senders(mut self, max: usize) -> Self {
        self.config.max_wal_senders = max;
        self
    }

    /// The most log that this node may lack when it is promoted, in bytes: of what a member that
    /// answers has, or the primary is known to have had. Any amount by default.
    pub fn max_lag(mut self, bytes: u64) -> Self {
        self.config.max_lag = Some(bytes);
        self
    }

    /// How far behind a standby weighs a copy of the upstream's data against their log, in bytes;
    /// 1 GiB by default.
    pub fn rebuild_from(mut self, bytes: u64) -> Self {
        self.config.rebuild_from = bytes;
        self
    }

    /// The slot on the primary to follow through, created if it does not exist.
    pub fn slot(mut self, name: impl Into<String>) -> Self {
        self.config.follow_slot = Some(name.into());
        self
    }

    /// How long a standby waits at least before what is committed can be read there: time to
    /// notice a mistake. It receives and confirms log all the same, and a promotion does not wait.
    pub fn min_apply_delay(mut self, delay: Duration) -> Self {
        self.config.min_apply_delay = delay.min(APPLY_DELAY_MAX);
        self
    }

    /// The cluster's name, for people.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.cluster_name = Some(name.into());
        self
    }

    /// Sizes and limits of the store.
    pub fn store(mut self, options: LsmOptions) -> Self {
        self.store = options;
        self
    }

    /// How often a peer hears from this node, and after how much silence one counts as gone.
    pub fn heartbeat(mut self, interval: Duration, timeout: Duration) -> Self {
        self.config.heartbeat_interval = interval;
        self.config.heartbeat_timeout = timeout;
        self
    }

    /// Opens the directory, creating or filling it if it is empty, and starts to serve.
    ///
    /// # Errors
    /// The directory is in use, damaged, of a newer version or another cluster; the primary cannot
    /// be reached to fill it; an address cannot be listened on. The text says what to do.
    pub async fn start(mut self) -> Result<Node> {
        if let Some(url) = &self.upstream {
            let upstream = Upstream::parse(url)?;
            self.config.follow = upstream.addresses;
            self.config.follow_user = upstream.user.unwrap_or(self.config.follow_user);
        }
        if let Some(password) = &self.password {
            let salt = uuid::Uuid::new_v4();
            let verifier = Verifier::from_password(password, salt.as_bytes(), SCRAM_ITERATIONS);
            self.config.users = vec![("mainstay".to_owned(), verifier)];
        }
        let mut plan = Plan {
            events: EventLog::new(&self.config.data_dir)?,
            config: self.config,
            store: self.store,
            starting: true,
        };
        let port = port::keep(&mut plan.config).await;
        let life = match plan.open().await {
            Ok(life) => life,
            Err(error) => {
                let ended = record::stopped(&plan.config.name, plan.is_primary(), Some(&error));
                plan.events.record(ended);
                plan.events.settled().await;
                return Err(error);
            }
        };
        plan.starting = false;
        Ok(Node {
            inner: Inner::new(plan, life, self.cluster_name, port),
        })
    }
}
