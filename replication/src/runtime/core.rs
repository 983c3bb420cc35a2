//! What all tasks of one node share: its log, its role, the commit machine, the standbys.
//!
//! ```text
//!   sessions ──Reported──▶ ┌───────┐ ──CommitMoved──▶ log.commit ──▶ waiters, senders
//!   log.flushed ─────────▶ │ Core  │
//!   registration ────────▶ └───────┘ ──PolicyLogged── Config entry in the log
//! ```
//!
//! One lock guards what is decided; nothing waits while holding it, except for the log's own lock
//! when a configuration is appended. Decisions are the machines'; this room brings them events and
//! carries out their actions.

mod standbys;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mainstay_storage::{Lsn, Signal, Timeline, Wal};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::cluster::{ClusterConfig, Member};
use crate::config::{Role, StandbyConfig, StreamState, SyncMode, WalStreamingConfig};
use crate::error::{Error, Result};
use crate::protocol::commit::{Action, CommitConfig, Committer, Event};
use crate::protocol::name::NodeName;
use crate::protocol::policy::change_rule;
use crate::protocol::progress::{LagSamples, Positions};
use crate::protocol::promotion::{Fencing, fencing};
use crate::runtime::clock::Clock;
use crate::runtime::promote::Overtaken;
use crate::runtime::slots::Slots;
use crate::runtime::subscription::Subscriptions;
use crate::runtime::walreceiver::Order;
use crate::time::Moment;

pub(crate) use standbys::never_seen;

/// What one node's tasks share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: WalStreamingConfig,
    pub(crate) name: NodeName,
    pub(crate) wal: Wal,
    pub(crate) clock: Clock,
    pub(crate) role: watch::Sender<Role>,
    /// Raised whenever the history changed, so that streams look again.
    pub(crate) switched: watch::Sender<u64>,
    pub(crate) stopping: watch::Sender<bool>,
    /// Flushed here, and written on the standbys that count.
    pub(crate) remote_written: Signal,
    /// Committed, and applied on the standbys that count.
    pub(crate) remote_applied: Signal,
    /// Applied to the store here.
    pub(crate) applied: Signal,
    next_session: AtomicU64,
    pub(crate) slots: Slots,
    pub(crate) subscriptions: Subscriptions,
    /// Writes a copy of the store's durable state into a directory.
    pub(crate) copy_store: Option<CopyStore>,
    pins: Arc<Pins>,
    /// Held while a promise is made.
    pub(crate) promising: tokio::sync::Mutex<()>,
    /// Tells a candidacy of this node's own that it was overtaken, and waits until it knows.
    pub(crate) candidacy: Mutex<Option<mpsc::Sender<Overtaken>>>,
    /// When the primary was last heard, in microseconds of this node's clock; zero for never.
    primary_heard: AtomicU64,
    state: Mutex<State>,
}

/// Writes a copy of a store's durable state into an empty directory, and says where it stands.
#[derive(Clone)]
pub(crate) struct CopyStore(pub(crate) Arc<CopyInto>);

/// Copies into a directory.
pub(crate) type CopyInto = dyn Fn(&Path) -> mainstay_storage::Result<Lsn> + Send + Sync;

impl fmt::Debug for CopyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CopyStore")
    }
}

/// Positions from which log is kept for something that runs.
#[derive(Debug, Default)]
struct Pins {
    held: Mutex<BTreeMap<u64, Lsn>>,
    next: AtomicU64,
}

/// Keeps log until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Arc<Pins>,
    key: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.held.lock().remove(&self.key);
    }
}

#[derive(Debug)]
struct State {
    cluster: ClusterConfig,
    /// Present on a primary.
    committer: Option<Committer>,
    standbys: BTreeMap<NodeName, Connected>,
    admitted: Vec<StandbyConfig>,
    /// Lives of standbys' data that are connected and have no vote yet.
    pending: BTreeMap<NodeName, Uuid>,
    samples: LagSamples,
    listen: Option<SocketAddr>,
    /// Name and address of the node that this one follows, while it is connected.
    upstream: Option<(String, String)>,
    /// How to reach the receiver.
    orders: Option<mpsc::Sender<Order>>,
    /// Why this node cannot follow.
    trouble: Option<String>,
}

/// A standby's newest session.
#[derive(Debug, Clone)]
struct Connected {
    session: u64,
    state: StreamState,
    sent: Lsn,
    reported: Positions,
    last_heard: Moment,
    open: bool,
}

impl Core {
    pub(crate) fn new(
        config: WalStreamingConfig,
        admitted: Vec<StandbyConfig>,
        wal: Wal,
        applied: Signal,
        copy_store: Option<CopyStore>,
    ) -> Result<Self> {
        let slots = Slots::open(wal.clone())?;
        let name: NodeName = config
            .name
            .parse()
            .map_err(|error| Error::Invalid(format!("{error}")))?;
        let role = match config.follow.is_empty() {
            true => Role::Primary,
            false => Role::Standby,
        };
        let me = member(&name, &wal, config.advertise.clone().unwrap_or_default());
        let logged = ClusterConfig::decode(&wal.config().0)?;
        let cluster = logged
            .unwrap_or_else(|| ClusterConfig::new(config.sync.clone().unwrap_or_default(), me));
        let state = State {
            cluster,
            committer: None,
            standbys: BTreeMap::new(),
            admitted,
            pending: BTreeMap::new(),
            samples: LagSamples::new(),
            listen: None,
            upstream: None,
            orders: None,
            trouble: None,
        };
        Ok(Self {
            name,
            wal,
            clock: Clock::new(),
            role: watch::Sender::new(role),
            switched: watch::Sender::new(0),
            stopping: watch::Sender::new(false),
            remote_written: Signal::new(Lsn::ZERO),
            remote_applied: Signal::new(Lsn::ZERO),
            applied,
            next_session: AtomicU64::new(1),
            slots,
            subscriptions: Subscriptions::new(),
            copy_store,
            pins: Arc::default(),
            promising: tokio::sync::Mutex::new(()),
            candidacy: Mutex::new(None),
            primary_heard: AtomicU64::new(0),
            state: Mutex::new(state),
            config,
        })
    }

    pub(crate) fn role(&self) -> Role {
        self.role.borrow().clone()
    }

    pub(crate) fn is_primary(&self) -> bool {
        self.role() == Role::Primary
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// A number for a new session: positive, unique in this process.
    pub(crate) fn new_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn set_listen(&self, at: SocketAddr) {
        self.state.lock().listen = Some(at);
    }

    pub(crate) fn listen(&self) -> Option<SocketAddr> {
        self.state.lock().listen
    }

    /// The address that others should reach this node at.
    pub(crate) fn address(&self) -> String {
        let listen = self.listen().map(|at| at.to_string());
        self.config.advertise.clone().or(listen).unwrap_or_default()
    }

    /// This node as the configuration names it.
    pub(crate) fn me(&self) -> Member {
        member(&self.name, &self.wal, self.address())
    }

    /// The newest configuration in this node's log.
    pub(crate) fn cluster(&self) -> ClusterConfig {
        self.refresh_cluster();
        self.state.lock().cluster.clone()
    }

    /// Takes over what the log says, which on a standby is the primary's word.
    fn refresh_cluster(&self) {
        match ClusterConfig::decode(&self.wal.config().0) {
            Ok(Some(cluster)) => self.state.lock().cluster = cluster,
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "cannot read the configuration in the log"),
        }
    }

    /// Begins to serve as the primary of the current timeline. `hold_until` is the end of its
    /// NewTimeline entry after a promotion, else zero.
    ///
    /// # Errors
    /// When the configuration cannot be read or logged.
    pub(crate) fn become_primary(&self, hold_until: Lsn) -> Result<()> {
        let commit = self.wal.commit().get();
        let mut cluster = self.cluster();
        let mut policies = Vec::new();
        for (bytes, end) in self.wal.binding_configs(commit) {
            policies.extend(ClusterConfig::decode(&bytes)?.map(|config| config.bound(end)));
        }
        let (me, configured) = (self.me(), self.config.sync.clone());
        let policy = configured.unwrap_or_else(|| cluster.policy.clone());
        if policies.is_empty() || cluster.primary != me || cluster.policy != policy {
            (cluster.primary, cluster.policy) = (me, policy);
            let end = self.log_config(&cluster)?;
            policies.push(cluster.bound(end));
        }
        self.wal
            .set_commit_follows(policies.iter().all(|bound| bound.needed() == 0));
        let config = CommitConfig {
            name: self.name.clone(),
            timeline: self.wal.timeline(),
            flushed: self.wal.flushed().get(),
            commit,
            hold_until,
            policies,
            on_miss: self.config.on_miss,
        };
        let mut state = self.state.lock();
        state.cluster = cluster;
        state.committer = Some(Committer::new(config, self.clock.now()));
        state.samples.clear();
        drop(state);
        self.role.send_replace(Role::Primary);
        tracing::info!(timeline = %self.wal.timeline(), "serving as primary");
        let promised = self.wal.control().promised();
        if promised.is_some_and(|promised| promised.number > self.wal.timeline().number) {
            tracing::warn!("a newer timeline was promised from here; commits wait");
            self.commit_event(Event::Suspended(true));
        }
        self.commit_event(Event::Flushed(self.wal.flushed().get()));
        Ok(())
    }

    /// Stops serving as primary.
    pub(crate) fn step_down(&self, role: Role) {
        self.state.lock().committer = None;
        self.wal.set_commit_follows(false);
        self.role.send_replace(role);
    }

    fn log_config(&self, cluster: &ClusterConfig) -> Result<Lsn> {
        Ok(self.wal.append_config(cluster.encode()?)?.end)
    }

    /// Brings an event to the commit machine and carries out what follows.
    pub(crate) fn commit_event(&self, event: Event) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if let Event::Flushed(to) = event {
            state.samples.record(to, now);
        }
        let Some(committer) = &mut state.committer else {
            return;
        };
        let mut actions = Vec::new();
        committer.on(event, now, &mut actions);
        for action in actions {
            self.carry_out(action, &mut state);
        }
    }

    fn carry_out(&self, action: Action, state: &mut State) {
        match action {
            Action::CommitMoved(to) => self.wal.advance_commit(to),
            Action::WrittenMoved(to) => self.remote_written.raise(to),
            Action::AppliedMoved(to) => self.remote_applied.raise(to),
            Action::PolicySettled(policy) => {
                tracing::info!(policy = %policy.policy(), "the synchronous policy is in force");
            }
            Action::VoteGranted(name) => {
                tracing::info!(%name, "the standby has caught up and has a vote again");
                self.grant_vote(&name, state);
            }
            other => tracing::info!(event = ?other, "synchronous replication"),
        }
    }

    /// Logs that the incarnation that is connected is the one that votes.
    fn grant_vote(&self, name: &NodeName, state: &mut State) {
        let Some(incarnation) = state.pending.remove(name) else {
            return;
        };
        let known = state
            .cluster
            .standbys
            .iter_mut()
            .find(|member| &member.name == name);
        if let Some(known) = known {
            known.incarnation = incarnation;
        }
        if let Err(error) = self.log_config(&state.cluster) {
            tracing::warn!(%name, %error, "cannot log the standby's vote");
        }
    }

    /// When the commit machine wants a tick.
    pub(crate) fn commit_deadline(&self) -> Option<Moment> {
        self.state.lock().committer.as_ref()?.deadline()
    }

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
        if let Some(known) = state.cluster.standby(&member.name).cloned()
            && known.incarnation != member.incarnation
        {
            // The entry names the life that votes; this one gets there when it has caught up.
            state
                .pending
                .insert(member.name.clone(), member.incarnation);
            member.incarnation = known.incarnation;
        }
        let old = state.cluster.bound(Lsn::ZERO);
        let mut cluster = state.cluster.clone();
        if !cluster.register(member)? {
            return Ok(());
        }
        let end = self.log_config(&cluster)?;
        let policy = cluster.bound(end);
        let rule = change_rule(&old, &policy, false);
        state.cluster = cluster;
        drop(state);
        self.commit_event(Event::PolicyLogged { policy, rule });
        Ok(())
    }

    /// A standby's stream begins.
    pub(crate) fn stream_started(&self, name: &NodeName, session: u64, vote_after: Option<Lsn>) {
        let connected = Connected {
            session,
            state: StreamState::Catchup,
            sent: Lsn::ZERO,
            reported: Positions::default(),
            last_heard: self.clock.now(),
            open: true,
        };
        self.state.lock().standbys.insert(name.clone(), connected);
        let name = name.clone();
        self.commit_event(Event::Connected {
            name,
            session,
            vote_after,
        });
    }

    /// A standby has everything there was once.
    pub(crate) fn stream_caught_up(&self, name: &NodeName, session: u64) {
        self.with_session(name, session, |standby| {
            standby.state = StreamState::Streaming
        });
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
        self.with_session(name, session, |standby| {
            positions.write = positions.write.max(standby.reported.write);
            positions.flush = positions.flush.max(standby.reported.flush);
            positions.apply = positions.apply.max(standby.reported.apply);
            standby.reported = positions;
        });
        let name = name.clone();
        self.commit_event(Event::Reported {
            name,
            session,
            timeline,
            positions,
        });
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
        self.commit_event(Event::Disconnected {
            name: name.clone(),
            session,
        });
    }

    fn with_session(&self, name: &NodeName, session: u64, change: impl FnOnce(&mut Connected)) {
        let mut state = self.state.lock();
        let standby = state.standbys.get_mut(name);
        if let Some(standby) = standby.filter(|standby| standby.session == session) {
            change(standby);
        }
    }

    /// Keeps log from `from` on until the pin is dropped.
    pub(crate) fn pin(&self, from: Lsn) -> Pin {
        let key = self.pins.next.fetch_add(1, Ordering::Relaxed);
        self.pins.held.lock().insert(key, from);
        Pin {
            pins: self.pins.clone(),
            key,
        }
    }

    /// The oldest log that something which runs needs.
    pub(crate) fn pinned_from(&self) -> Option<Lsn> {
        self.pins.held.lock().values().min().copied()
    }

    /// Log from here on is needed by a slot, a backup, or the configured reserve.
    pub(crate) fn retain_from(&self) -> Lsn {
        let flushed = self.wal.flushed().get();
        if let Some(max) = self.config.max_slot_wal_keep_size {
            match self.slots.change(|slots| Ok(slots.enforce(flushed, max))) {
                Ok(Ok(lost)) => lost.iter().for_each(|slot| {
                    tracing::error!(%slot, "invalidated a slot that held back too much log");
                }),
                Ok(Err(error)) => tracing::warn!(%error, "cannot limit a slot"),
                Err(error) => tracing::warn!(%error, "cannot limit a slot"),
            }
        }
        let end = flushed.get();
        let reserve = Lsn::new(end.saturating_sub(self.config.wal_keep_size));
        let pinned = self.pinned_from().unwrap_or(Lsn::MAX);
        let slots = self.slots.retain_from().unwrap_or(Lsn::MAX);
        reserve.min(pinned).min(slots)
    }

    /// Notes whom this node follows.
    pub(crate) fn set_upstream(&self, upstream: Option<(String, String)>) {
        self.state.lock().upstream = upstream;
    }

    /// Whom this node follows: name and address.
    pub(crate) fn upstream(&self) -> Option<(String, String)> {
        self.state.lock().upstream.clone()
    }

    /// The primary was heard just now.
    pub(crate) fn heard_primary(&self) {
        let now = self.clock.now().as_micros().max(1);
        self.primary_heard.store(now, Ordering::Relaxed);
    }

    /// How long ago the primary was heard; `None` while this node is not connected to one.
    pub(crate) fn primary_silence(&self) -> Option<Duration> {
        let heard = self.primary_heard.load(Ordering::Relaxed);
        let connected = self.upstream().is_some() && heard > 0;
        connected.then(|| self.clock.now() - Moment::from_micros(heard))
    }

    pub(crate) fn set_orders(&self, orders: Option<mpsc::Sender<Order>>) {
        let mut state = self.state.lock();
        state.orders = orders;
        state.trouble = None;
    }

    /// How to reach the receiver, if one runs.
    pub(crate) fn orders(&self) -> Option<mpsc::Sender<Order>> {
        self.state.lock().orders.clone()
    }

    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        self.state.lock().trouble = trouble;
    }

    /// Why this node cannot follow, when it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.state.lock().trouble.clone()
    }

    /// Whether this node may take the role that its configuration asks for.
    ///
    /// # Errors
    /// [`Error::Refused`] for a standby's log that is started without a node to follow: it might
    /// run beside its primary.
    pub(crate) fn check_role(&self) -> Result<()> {
        if self.is_primary() && self.wal.control().own_from == Lsn::MAX {
            return Err(Error::Refused(format!(
                "{} is a standby's: starting it as a primary could run two primaries at once. \
                 Start it with --follow, then promote it",
                self.wal.dir().display()
            )));
        }
        Ok(())
    }

    /// No standby is connected any more.
    pub(crate) fn disconnect_all(&self) {
        let mut state = self.state.lock();
        for standby in state.standbys.values_mut() {
            standby.open = false;
            standby.state = StreamState::Disconnected;
        }
    }

    /// Somebody claims a timeline that this node does not know.
    pub(crate) fn claimed(&self, timeline: Timeline, opened: bool) {
        match fencing(&self.wal.history(), timeline, opened) {
            Fencing::Ignore => {}
            Fencing::AskAbove(_) if self.is_primary() => {
                tracing::warn!(%timeline, "a newer timeline was promised elsewhere; commits wait");
                self.commit_event(Event::Suspended(true));
            }
            Fencing::AskAbove(_) => {}
            Fencing::Fence(theirs) if self.is_primary() => {
                tracing::error!(%theirs, "a newer timeline was opened elsewhere; this node is fenced");
                self.step_down(Role::Fenced);
            }
            Fencing::Fence(_) => {}
        }
    }

    /// How long until silence makes a peer count as gone.
    pub(crate) fn timeout(&self) -> Duration {
        self.config.heartbeat_timeout
    }
}

fn member(name: &NodeName, wal: &Wal, address: String) -> Member {
    let identity = wal.identity();
    Member {
        name: name.clone(),
        node_id: identity.node_id,
        incarnation: identity.incarnation,
        address,
        priority: 100,
        votes: true,
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
