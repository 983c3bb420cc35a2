//! One node: a disk that outlasts it, and everything that ends with a crash.
//!
//! It drives the machines and the log that ship, as the runtime does, with packets for sockets and
//! the simulation's clock for timers. It decides nothing that they decide.

mod candidacy;
mod copying;
mod following;
mod leading;
mod packets;
mod reading;
mod retention;
mod serving;
mod turning;
mod writing;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mainstay_replication::protocol::commit::Committer;
use mainstay_replication::protocol::commit::Event as CommitEvent;
use mainstay_replication::protocol::name::NodeName;
use mainstay_replication::protocol::policy::BoundPolicy;
use mainstay_replication::protocol::promotion::{Candidate, LogEnd, Standstill};
use mainstay_replication::protocol::receiver::{CloseReason, Receiver, State as ReceiverState};
use mainstay_replication::protocol::slot::SlotSet;
use mainstay_replication::time::Moment;
use mainstay_replication::{ClusterConfig, Member};
use mainstay_storage::{
    Applicator, CrashMode, Lsn, MemoryStore, SegmentSize, SimDisk, Store, TableId, Wal, WalOptions,
};
use uuid::Uuid;

use super::clients::Clients;
use super::net::{Net, Packet};
use super::oracle::Oracle;
use super::plan::Plan;
use super::random::Random;
use serving::Session;
use turning::Handover;

pub(super) const DIR: &str = "/node";

/// What a node may reach while something happens to it.
pub(super) struct World<'a> {
    /// Virtual time, in microseconds.
    pub(super) now: u64,
    /// What the node's own clock shows.
    pub(super) local: u64,
    pub(super) plan: &'a Plan,
    pub(super) random: &'a mut Random,
    pub(super) net: &'a mut Net,
    pub(super) oracle: &'a mut Oracle,
    pub(super) clients: &'a mut Clients,
    /// Which nodes run.
    pub(super) up: &'a [bool],
    /// Packets on their way: when they arrive, and where.
    pub(super) sent: Vec<(u64, usize, Packet)>,
    pub(super) story: &'a mut Vec<String>,
}

impl World<'_> {
    pub(super) fn moment(&self) -> Moment {
        Moment::from_micros(self.local)
    }

    fn tell(&mut self, text: String) {
        self.story.push(format!("{:>11} {text}", self.now));
    }
}

/// Why a node cannot go on with what it is doing.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Its disk failed, or has no power: the process ends.
    Disk(String),
    /// What its disk holds is damaged: the process ends, and the data are of no use.
    Damaged(String),
    /// Something that must never happen.
    Broken(String),
}

impl From<mainstay_storage::Error> for Trouble {
    fn from(error: mainstay_storage::Error) -> Self {
        use mainstay_storage::Error as Storage;
        match error {
            Storage::Io { .. }
            | Storage::Full { .. }
            | Storage::Poisoned { .. }
            | Storage::Closed => Self::Disk(error.to_string()),
            Storage::Corrupt { .. } | Storage::Format { .. } => Self::Damaged(error.to_string()),
            error => Self::Broken(error.to_string()),
        }
    }
}

pub(super) type Done<T = ()> = Result<T, Trouble>;

/// A node, running or not.
pub(super) struct Node {
    pub(super) index: usize,
    pub(super) name: NodeName,
    pub(super) node_id: Uuid,
    pub(super) disk: SimDisk,
    /// Where its store writes copies of itself.
    store_disk: SimDisk,
    store: MemoryStore,
    /// Counts lives, so that work planned for an earlier one is forgotten.
    pub(super) boot: u64,
    pub(super) life: Option<Life>,
    /// There is no log on its disk.
    pub(super) empty: bool,
    /// Its data were lost, and may not be whole again yet.
    pub(super) missing: bool,
    /// Something was damaged on its disk, so a start may find out.
    pub(super) rotten: bool,
    /// Its device may lose or misplace a write next; if it does not come to that, nothing is wrong.
    pub(super) may_lie: bool,
    /// One bit or place of what it holds was damaged when it had ended, and nothing else.
    pub(super) rots: bool,
    /// What had been flushed when its last life ended.
    proven: Lsn,
    attempts: u64,
    /// Who opened a timeline of the same number, as a refusal said last.
    pub(super) rival: Option<NodeName>,
}

/// What one process holds.
pub(super) struct Life {
    pub(super) wal: Wal,
    applicator: Applicator,
    pub(super) role: Role,
    committer: Option<Committer>,
    /// Standbys whose connections ended, of which the machine does not know yet.
    gone: Vec<CommitEvent>,
    /// The cluster as this primary knows it.
    cluster: Option<ClusterConfig>,
    /// The most that each standby confirmed here.
    confirmed: BTreeMap<NodeName, Lsn>,
    pub(super) standstill: Option<Standstill>,
    asked: u32,
    ask_at: u64,
    sessions: BTreeMap<u64, Session>,
    slots: SlotSet,
    slots_logged: Lsn,
    receiver: Option<Receiver>,
    /// The connection to the upstream, and who that is.
    /// How often the log that came was not valid.
    refused: u64,
    upstream: Option<(u64, usize)>,
    /// Bytes of the upstream's stream that are no whole message yet.
    input: BytesMut,
    target: usize,
    primary_heard: Option<u64>,
    carry: BytesMut,
    carry_at: Lsn,
    candidate: Option<(u64, Candidate)>,
    /// It asks nobody, since an operator gives the policy up.
    alone: bool,
    /// The place of the primary is being handed over by, or to, this node.
    handover: Option<Handover>,
    /// Since when a copy is asked for, and what it must reach.
    copying: Option<(u64, Lsn)>,
    /// Rows with everything that was written here, committed or not.
    view: BTreeMap<RowKey, Bytes>,
    /// Writes that wait: where they end, and which.
    waiting: BTreeMap<Lsn, u64>,
    /// What the receiver was told last.
    told: (Lsn, Lsn, Lsn),
    committed_to: Lsn,
    checked: Lsn,
    /// The commit position, as it was seen last.
    committed: Lsn,
}

pub(super) type RowKey = (TableId, Bytes);

#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Primary,
    Standby,
}

pub(super) fn options() -> WalOptions {
    WalOptions {
        segment_size: SegmentSize::MIN,
        driven: true,
        ..WalOptions::new(|| 7)
    }
}

impl Node {
    pub(super) fn new(index: usize, name: NodeName, node_id: Uuid, disk: SimDisk) -> Self {
        let store_disk = SimDisk::new(0);
        let store = MemoryStore::new(Arc::new(store_disk.clone()));
        Self {
            index,
            name,
            node_id,
            disk,
            store_disk,
            store,
            boot: 0,
            life: None,
            empty: false,
            missing: false,
            rotten: false,
            may_lie: false,
            rots: false,
            proven: Lsn::ZERO,
            attempts: 0,
            rival: None,
        }
    }

    /// How this node describes itself to its primary.
    fn member(&self, incarnation: Uuid, world: &World<'_>) -> Member {
        Member {
            name: self.name.clone(),
            node_id: self.node_id,
            incarnation,
            address: format!("{}:1", self.index),
            priority: 100,
            votes: world.plan.votes(self.index),
        }
    }

    /// Starts a process on what the disk has. It goes on as the primary if it was one and `leads`.
    pub(super) fn start(&mut self, leads: bool, world: &mut World<'_>) -> Done {
        if self.empty {
            self.ask_for_copy(world);
            return Ok(());
        }
        let disk = Arc::new(self.disk.until_crash());
        let (wal, recovered) = Wal::open(disk, Path::new(DIR), &options())?;
        wal.set_commit_follows(false);
        let life = Uuid::from_u64_pair(world.random.next(), world.random.next());
        wal.claim(self.name.as_str(), life)?;
        let rots = std::mem::take(&mut self.rots);
        let (name, end) = (&self.name, recovered.end);
        world.tell(format!("{name} starts with log up to {end}"));
        // A single damage is found, whatever it hits.
        if end < self.proven && (rots || !self.rotten) {
            let proven = self.proven;
            return broken(format!("{name} had flushed {proven} and has {end}"));
        }
        let control = wal.control();
        let own = control.own_from != Lsn::MAX;
        let slots = match std::str::from_utf8(&control.slots) {
            Ok("") => Some(SlotSet::new()),
            Ok(text) => SlotSet::decode(text).ok(),
            Err(_) => None,
        };
        let life = Life {
            applicator: Applicator::new(&wal, &self.store)?,
            role: Role::Standby,
            committer: None,
            gone: Vec::new(),
            cluster: None,
            confirmed: BTreeMap::new(),
            standstill: None,
            asked: 0,
            ask_at: 0,
            sessions: BTreeMap::new(),
            slots: slots.ok_or_else(|| Trouble::Broken("slots cannot be read".to_owned()))?,
            slots_logged: Lsn::ZERO,
            receiver: None,
            refused: 0,
            upstream: None,
            input: BytesMut::new(),
            target: self.index,
            primary_heard: None,
            carry: BytesMut::new(),
            carry_at: Lsn::ZERO,
            candidate: None,
            alone: false,
            handover: None,
            copying: None,
            view: BTreeMap::new(),
            waiting: BTreeMap::new(),
            told: Default::default(),
            committed_to: Lsn::ZERO,
            checked: wal.oldest().max(control.checkpoint),
            committed: Lsn::ZERO,
            wal,
        };
        self.life = Some(life);
        if own && leads {
            self.begin(world)?;
        } else {
            self.follow(world)?;
        }
        self.pump(world)
    }

    fn life(&mut self) -> &mut Life {
        self.life.as_mut().expect("it runs")
    }

    /// The process ends, and its machine loses power if `mode` says what survives of the disk.
    pub(super) fn stop(&mut self, mode: Option<CrashMode>, world: &mut World<'_>) {
        let Some(life) = self.life.take() else {
            // It failed while it started, or waits for a copy.
            self.disk.crash(mode.unwrap_or(CrashMode::KeepAll));
            self.boot += 1;
            return;
        };
        for conn in world.net.of(self.index) {
            self.drop_connection(conn, world);
        }
        for id in life.waiting.values() {
            world.clients.unknown(*id);
        }
        self.proven = life.wal.flushed().get();
        match mode {
            Some(mode) => {
                world.tell(format!("{} loses power: {mode:?}", self.name));
                life.wal.stop();
                drop(life);
                self.disk.crash(mode);
            }
            None => {
                world.tell(format!("{} is stopped", self.name));
                // A disk that fails now is as good as a crash.
                let _ = life.wal.close();
                drop(life);
                self.disk.crash(CrashMode::KeepAll);
            }
        }
        self.store.crash();
        self.boot += 1;
    }

    fn drop_connection(&mut self, conn: u64, world: &mut World<'_>) {
        let heard = world.net.close(conn, self.index);
        // Half of the time nobody tells the other end.
        if let Some(other) = heard.filter(|_| !world.random.one_in(2)) {
            world
                .sent
                .push((world.now + 100, other, Packet::Broken { conn }));
        }
    }

    /// The disk does one piece of work.
    pub(super) fn drive(&mut self, world: &mut World<'_>) -> Done {
        let life = self.life();
        life.wal.drive();
        if let Some(error) = life.wal.poisoned() {
            return Err(Trouble::Disk(error.to_string()));
        }
        self.pump(world)
    }

    /// Whether the disk has something to do.
    pub(super) fn busy(&self) -> bool {
        let life = self.life.as_ref();
        life.is_some_and(|life| life.wal.flushed().get() < life.wal.appended())
    }

    /// Tells everybody on this node what moved, until nothing moves any more.
    pub(super) fn pump(&mut self, world: &mut World<'_>) -> Done {
        // What happened last may have ended this life.
        while self.life.is_some() {
            let before = self.positions();
            for gone in std::mem::take(&mut self.life().gone) {
                self.commit(gone, world)?;
            }
            let flushed = self.life().wal.flushed().get();
            if flushed > self.life().committed_to {
                self.life().committed_to = flushed;
                self.commit(CommitEvent::Flushed(flushed), world)?;
            }
            self.apply(world)?;
            self.pump_sessions(world)?;
            self.pump_receiver(world)?;
            self.pump_handover(world)?;
            if self.positions() == before {
                return self.check_ladder();
            }
        }
        Ok(())
    }

    pub(super) fn positions(&self) -> [Lsn; 5] {
        let Some(life) = &self.life else {
            return [Lsn::ZERO; 5];
        };
        let wal = &life.wal;
        let (sealed, written) = (wal.sealed().get(), wal.written().get());
        let (flushed, commit) = (wal.flushed().get(), wal.commit().get());
        [sealed, written, flushed, commit, self.store.applied()]
    }

    /// Every position is where the ladder says, and every queue within its bound.
    fn check_ladder(&mut self) -> Done {
        let [sealed, written, flushed, commit, applied] = self.positions();
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        if commit < life.committed {
            let (name, before) = (&self.name, life.committed);
            return broken(format!(
                "{name}: the commit position fell from {before} to {commit}"
            ));
        }
        life.committed = commit;
        let (checkpoint, appended) = (life.wal.control().checkpoint, life.wal.appended());
        let replayable = life.wal.replayable().get();
        // A power cut may take the memory of what was committed further back than what it made
        // durable in the store.
        let shown = commit.max(self.store.durable());
        let climbs = [checkpoint, flushed, written, sealed, appended].is_sorted()
            && applied <= replayable.max(shown)
            && (commit..=sealed).contains(&replayable)
            && shown <= flushed;
        if !climbs {
            return broken(format!(
                "{}: checkpoint {checkpoint}, applied {applied}, commit {commit}, replayable \
                 {replayable}, flushed {flushed}, written {written}, sealed {sealed}, appended \
                 {appended}",
                self.name
            ));
        }
        let record_max = usize::try_from(SegmentSize::MIN.bytes()).expect("it is small");
        if life.carry.len() > 2 * record_max || life.input.len() > 4 * record_max {
            let (carry, input) = (life.carry.len(), life.input.len());
            return broken(format!("{} holds {carry} and {input} bytes", self.name));
        }
        Ok(())
    }

    /// When something here wants the time, if anything does, by this node's clock.
    pub(super) fn deadline(&self) -> Option<u64> {
        let life = self.life.as_ref()?;
        let sessions = life.sessions.values().filter_map(Session::deadline);
        let receiver = life.receiver.as_ref().and_then(Receiver::deadline);
        let candidate = life
            .candidate
            .as_ref()
            .and_then(|(_, candidate)| candidate.deadline());
        let machines = sessions
            .chain(receiver)
            .chain(candidate)
            .map(Moment::as_micros);
        let asks = life.standstill.is_some() && life.candidate.is_none();
        let handover = life.handover.as_ref().and_then(Handover::deadline);
        let copying = life.copying.map(|(at, _)| at);
        machines
            .chain(asks.then_some(life.ask_at))
            .chain(handover)
            .chain(copying)
            .min()
    }

    /// It is time for something.
    pub(super) fn tick(&mut self, world: &mut World<'_>) -> Done {
        self.tick_sessions(world)?;
        self.tick_receiver(world)?;
        self.tick_candidate(world)?;
        self.tick_handover(world)?;
        self.tick_copying(world)?;
        self.pump(world)
    }

    /// Whether it confirms commits, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        let life = self.life.as_ref();
        life.is_some_and(|life| life.role == Role::Primary && life.standstill.is_none())
    }

    /// Whether its upstream is older than what this node knows, so that it waits for another.
    pub(super) fn refuses_its_upstream(&self) -> bool {
        let receiver = self.life.as_ref().and_then(|life| life.receiver.as_ref());
        receiver.is_some_and(|receiver| {
            let status = receiver.status();
            status.state == ReceiverState::Waiting
                && matches!(status.closed, Some(CloseReason::Stale(_)))
        })
    }

    pub(super) fn is_primary(&self) -> bool {
        let primary = |life: &Life| life.role == Role::Primary;
        self.life.as_ref().is_some_and(primary)
    }

    /// Whether its data are those of a primary, which follows somebody for now.
    pub(super) fn was_primary(&self) -> bool {
        let own = |life: &Life| life.wal.control().own_from != Lsn::MAX;
        !self.missing && self.life.as_ref().is_some_and(own)
    }

    /// The number of its timeline.
    pub(super) fn timeline(&self) -> Option<u32> {
        self.life.as_ref().map(|life| life.wal.timeline().number)
    }

    /// How much log it has, for whoever chooses a primary.
    pub(super) fn rank(&self) -> (u32, Lsn) {
        self.life.as_ref().map_or((0, Lsn::ZERO), |life| {
            let end = log_end(&life.wal);
            (end.timeline.number, end.flushed)
        })
    }

    /// Which life of its data runs here.
    pub(super) fn incarnation(&self) -> Option<Uuid> {
        let life = self.life.as_ref()?;
        Some(life.wal.identity().incarnation)
    }

    /// Whether this primary counts the life `incarnation` of the data of `name`, and everybody will
    /// know that it does.
    pub(super) fn counts(&self, name: &NodeName, incarnation: Uuid) -> bool {
        let Some(life) = self.life.as_ref().filter(|_| self.leads()) else {
            return false;
        };
        let status = life.committer.as_ref().map(Committer::status);
        let settled = life.wal.config().1 <= life.wal.commit().get();
        let member = life.cluster.as_ref();
        let member = member.and_then(|cluster| cluster.standby(name));
        let known = member.is_some_and(|member| member.incarnation == incarnation);
        let counts = status.is_some_and(|status| {
            let mut parts = status.standbys.iter();
            parts.any(|part| part.name == *name && part.counts)
        });
        settled && known && counts
    }

    /// How it stands, for whoever reads the story of a failure.
    pub(super) fn standing(&self) -> String {
        let Some(life) = &self.life else {
            let empty = if self.empty { " and empty" } else { "" };
            return format!("{} is down{empty}", self.name);
        };
        let streams = life
            .sessions
            .iter()
            .map(|(conn, session)| format!("{conn}: {session}"));
        format!(
            "{} is {:?}, {:?}, {:?}, {:?}, upstream {:?}, copying {:?}, streams [{}], {:?}",
            self.name,
            life.role,
            life.committer.as_ref().map(Committer::status),
            life.standstill,
            life.candidate
                .as_ref()
                .map(|(_, candidate)| candidate.status()),
            life.upstream,
            life.copying,
            streams.collect::<Vec<_>>().join(", "),
            life.receiver.as_ref().map(Receiver::status),
        )
    }

    /// All that another node would have to have to be the same as this one.
    pub(super) fn digest(&self) -> Option<(Lsn, Lsn, Lsn, Lsn)> {
        let life = self.life.as_ref()?;
        let wal = &life.wal;
        let ends = (wal.appended(), wal.flushed().get(), wal.commit().get());
        Some((ends.0, ends.1, ends.2, self.store.applied()))
    }
}

/// Where a log ends, as its node says it.
fn log_end(wal: &Wal) -> LogEnd {
    let flushed = wal.flushed().get();
    let last = Lsn::new(flushed.get().saturating_sub(1));
    LogEnd {
        timeline: wal.history().owner(last),
        flushed,
    }
}

/// What the log says of the cluster, if it says anything yet.
fn cluster_of(wal: &Wal) -> Done<Option<ClusterConfig>> {
    let config = ClusterConfig::decode(&wal.config().0);
    config.map_err(|error| Trouble::Broken(error.to_string()))
}

fn cluster(wal: &Wal) -> Done<ClusterConfig> {
    cluster_of(wal)?.ok_or_else(|| Trouble::Broken("there is no configuration".to_owned()))
}

/// The policies that bind in a log, oldest first.
fn policies(wal: &Wal) -> Done<Vec<BoundPolicy>> {
    let mut policies = Vec::new();
    for (bytes, end) in wal.binding_configs(wal.commit().get()) {
        let config = ClusterConfig::decode(&bytes);
        let config = config.map_err(|error| Trouble::Broken(error.to_string()))?;
        policies.extend(config.map(|config| config.bound(end)));
    }
    Ok(policies)
}

fn broken<T>(why: String) -> Done<T> {
    Err(Trouble::Broken(why))
}
