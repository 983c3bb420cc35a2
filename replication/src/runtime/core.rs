//! What all tasks of one node share: its log, its role, the commit machine, the standbys.
//!
//! ```text
//!   sessions ──Reported──▶ ┌───────┐ ──CommitMoved──▶ log.commit ──▶ waiters, senders
//!   log.flushed ─────────▶ │ Core  │
//!   registration ────────▶ └───────┘ ──PolicyLogged── Config entry in the log
//! ```
//!
//! One lock guards what is decided; nothing waits while holding it, except for the log's own lock
//! when a configuration is appended. Decisions are the machines'; the rooms below bring them events
//! and carry out their actions: `primary` for commits, `policy` for who must confirm them,
//! `registry` for standbys and their streams, `retention` for log that is kept, `slots` for what
//! standbys are told of it, `units` for transactions that are open, `ending` for the end of the log
//! at a clean stop. This one holds what they share, and knows no connection.

mod ending;
mod known;
mod member;
mod policy;
mod primary;
mod registry;
mod retention;
mod slots;
mod standbys;
mod units;
mod upstream;
mod verdict;
mod visit;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mainstay_storage::{Lsn, Signal, Timeline, Wal};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};

use crate::cluster::{ClusterConfig, Member};
use crate::config::{Role, StandbyConfig, WalStreamingConfig};
use crate::error::{Error, Result};
use crate::event::Observer;
use crate::policy::SyncStanding;
use crate::protocol::commit::Committer;
use crate::protocol::name::NodeName;
use crate::protocol::policy::SyncPolicy;
use crate::protocol::progress::LagSamples;
use crate::protocol::promotion::{Announced, Standstill};
use crate::runtime::clock::Clock;
use crate::runtime::follower::Divergence;
use crate::runtime::handover::TakeOverRequest;
use crate::runtime::promote::Overtaken;
use crate::runtime::slots::Slots;
use crate::runtime::subscription::Subscriptions;
use crate::runtime::walreceiver::Order;
use crate::time::Moment;

pub(crate) use policy::{PolicyLogged, PolicyOrder, listed};
use registry::Connected;
use retention::Pins;
pub use slots::SlotState;
pub(crate) use standbys::{never_seen, sight_of};
use units::OpenUnits;
use upstream::UpstreamSeen;
use verdict::Verdict;
pub(crate) use verdict::{Busy, Turn};
pub(crate) use visit::Visit;
use visit::Visits;

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
    /// Name and address of the primary of a newer timeline, as it said itself.
    successor: Mutex<Option<(String, String)>>,
    /// Whoever promotes this node when its primary asks it to take over.
    pub(crate) take_over: Mutex<Option<mpsc::Sender<TakeOverRequest>>>,
    /// Rung with each report of a standby.
    pub(crate) reported: tokio::sync::Notify,
    /// The standby's store was told to stand still.
    pub(crate) apply_paused: AtomicBool,
    /// Set when this node's log cannot follow any more and there is a way back.
    pub(crate) diverged: watch::Sender<Option<Divergence>>,
    /// Flushed here, and written on the standbys that count.
    pub(crate) remote_written: Signal,
    /// Committed, and applied on the standbys that count.
    pub(crate) remote_applied: Signal,
    /// What was really confirmed at each of the remote levels, weakest first.
    pub(crate) confirmed: [Signal; 3],
    /// How the synchronous policy stands, while this node is the primary.
    pub(crate) standing: watch::Sender<SyncStanding>,
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
    /// The opened timeline that replaced this primary, to be remembered.
    pub(crate) replaced: watch::Sender<Option<Timeline>>,
    /// Why this primary may not confirm, and must ask before it goes on.
    pub(crate) standstill: watch::Sender<Option<Standstill>>,
    /// The timeline on which this node was started; transactions that it does not know began there.
    pub(crate) started_on: Timeline,
    units: Mutex<OpenUnits>,
    /// Whether nothing is appended here any more; held shared while something is.
    ended: RwLock<bool>,
    /// Streams and base backups that are being served.
    sending: AtomicUsize,
    /// Held while a timeline is asked for or somebody is begun to be followed.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// When the primary was last heard, in microseconds of this node's clock; zero for never.
    primary_heard: AtomicU64,
    pub(crate) peers: Peers,
    pub(crate) observer: Observer,
    pub(crate) verdict: Verdict,
    state: Mutex<State>,
}

/// What is seen of other nodes, to be told and shown; nobody decides by it.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    /// Rung when one came, went, or caught up.
    pub(crate) changed: tokio::sync::Notify,
    /// Set while a standby is asked to take over, so that being replaced is no surprise.
    pub(crate) handing_over: AtomicBool,
    upstream: Mutex<UpstreamSeen>,
    /// What the primary said of its log.
    announced: Mutex<Announced>,
    /// Addresses of nodes that the log may not name.
    met: Mutex<BTreeMap<NodeName, String>>,
    visits: Arc<Visits>,
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

#[derive(Debug)]
struct State {
    cluster: ClusterConfig,
    /// Present on a primary.
    committer: Option<Committer>,
    /// The one before, once this node is no primary any more: what was confirmed stays so.
    retired: Option<Committer>,
    /// The policy that this node sets as a primary; what the log says if `None`.
    chosen: Option<SyncPolicy>,
    standbys: BTreeMap<NodeName, Connected>,
    admitted: Vec<StandbyConfig>,
    /// Where the log ended when slots were logged last.
    slots_logged: Lsn,
    samples: LagSamples,
    listen: Option<SocketAddr>,
    /// Name and address of the node that this one follows, while it is connected.
    upstream: Option<(String, String)>,
    /// How to reach the receiver.
    orders: Option<mpsc::Sender<Order>>,
    /// Why this node cannot follow.
    trouble: Option<String>,
}

impl State {
    fn new(
        cluster: ClusterConfig,
        admitted: Vec<StandbyConfig>,
        chosen: Option<SyncPolicy>,
    ) -> Self {
        Self {
            cluster,
            committer: None,
            retired: None,
            chosen,
            standbys: BTreeMap::new(),
            admitted,
            slots_logged: Lsn::ZERO,
            samples: LagSamples::new(),
            listen: None,
            upstream: None,
            orders: None,
            trouble: None,
        }
    }
}

impl Core {
    pub(crate) fn new(
        config: WalStreamingConfig,
        admitted: Vec<StandbyConfig>,
        wal: Wal,
        applied: Signal,
        copy_store: Option<CopyStore>,
        observer: Observer,
    ) -> Result<Self> {
        let slots = Slots::open(wal.clone(), config.max_replication_slots)?;
        let started_on = wal.timeline();
        let verdict = Verdict::open(&wal)?;
        let name: NodeName = config
            .name
            .parse()
            .map_err(|error| Error::Invalid(format!("{error}")))?;
        let role = match config.follow.is_empty() {
            true => Role::Primary,
            false => Role::Standby,
        };
        member::claim(&name, &wal)?;
        let me = member::of(&name, &wal, config.advertise.clone().unwrap_or_default());
        let logged = ClusterConfig::decode(&wal.config().0)?;
        let cluster = logged
            .unwrap_or_else(|| ClusterConfig::new(config.sync.clone().unwrap_or_default(), me));
        let standing = SyncStanding::idle(cluster.policy.clone(), config.on_miss);
        let state = State::new(cluster, admitted, config.sync.clone());
        let core = Self {
            name,
            wal,
            clock: Clock::new(),
            role: watch::Sender::new(role),
            switched: watch::Sender::new(0),
            replaced: watch::Sender::new(None),
            stopping: watch::Sender::new(false),
            successor: Mutex::new(None),
            take_over: Mutex::new(None),
            reported: tokio::sync::Notify::new(),
            apply_paused: AtomicBool::new(false),
            diverged: watch::Sender::new(None),
            remote_written: Signal::new(Lsn::ZERO),
            remote_applied: Signal::new(Lsn::ZERO),
            confirmed: [(); 3].map(|()| Signal::new(Lsn::ZERO)),
            standing: watch::Sender::new(standing),
            applied,
            next_session: AtomicU64::new(1),
            slots,
            subscriptions: Subscriptions::new(),
            copy_store,
            pins: Arc::default(),
            promising: tokio::sync::Mutex::new(()),
            candidacy: Mutex::new(None),
            standstill: watch::Sender::new(None),
            started_on,
            units: Mutex::default(),
            ended: RwLock::new(false),
            sending: AtomicUsize::new(0),
            changing: tokio::sync::Mutex::new(()),
            primary_heard: AtomicU64::new(0),
            peers: Peers::default(),
            verdict,
            observer,
            state: Mutex::new(state),
            config,
        };
        core.meet_by_log()?;
        Ok(core)
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
        member::of(&self.name, &self.wal, self.address())
    }

    /// The newest configuration in this node's log.
    pub(crate) fn cluster(&self) -> ClusterConfig {
        self.refresh_cluster();
        self.state.lock().cluster.clone()
    }

    /// Takes over what the log says, which on a standby is the primary's word.
    fn refresh_cluster(&self) {
        // Locked first: what is logged meanwhile must not be overtaken by what was there before.
        let mut state = self.state.lock();
        if state.committer.is_some() && self.wal.must_begin_timeline() {
            // What it learns now gets into the log with the timeline that it asks for.
            return;
        }
        match ClusterConfig::decode(&self.wal.config().0) {
            Ok(Some(cluster)) => {
                let before = std::mem::replace(&mut state.cluster, cluster);
                self.primary_was(before.primary, &state.cluster);
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "cannot read the configuration in the log"),
        }
    }

    /// Notes whom this node follows.
    pub(crate) fn set_upstream(&self, upstream: Option<(String, String)>) {
        let name = upstream.as_ref().map(|(name, _)| name.clone());
        self.state.lock().upstream = upstream;
        self.upstream_changed(name);
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

    /// Why this node cannot follow, or go on as the primary, when it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = self.state.lock().trouble.clone();
        trouble.or_else(|| self.halted())
    }

    /// How long until silence makes a peer count as gone.
    pub(crate) fn timeout(&self) -> Duration {
        self.config.heartbeat_timeout
    }
}
