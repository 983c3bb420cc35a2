//! One node: a disk that outlasts it, and everything that ends with a crash.
//!
//! It drives the machines and the log that ship, as the runtime does, with packets for sockets and
//! the simulation's clock for timers. It decides nothing that they decide.

mod candidacy;
mod following;
mod serving;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mainstay_replication::ClusterConfig;
use mainstay_replication::protocol::commit::Event as CommitEvent;
use mainstay_replication::protocol::commit::{Action as CommitAction, CommitConfig, Committer};
use mainstay_replication::protocol::level::{Level, OnMiss};
use mainstay_replication::protocol::name::NodeName;
use mainstay_replication::protocol::policy::BoundPolicy;
use mainstay_replication::protocol::promotion::{
    Beginning, Candidate, LogEnd, Standstill, held_until, standstill,
};
use mainstay_replication::protocol::receiver::Receiver;
use mainstay_replication::time::Moment;
use mainstay_storage::{
    Applicator, Change, CrashMode, Lsn, MemoryStore, ReadAt, SegmentSize, SimDisk, Store, Wal,
    WalEntry, WalEntryType, WalOptions,
};

use super::net::{Net, Packet};
use super::oracle::Oracle;
use super::random::Random;
use serving::Session;

pub(super) const DIR: &str = "/node";

/// What a node may reach while something happens to it.
pub(super) struct World<'a> {
    pub(super) now: u64,
    pub(super) random: &'a mut Random,
    pub(super) net: &'a mut Net,
    pub(super) oracle: &'a mut Oracle,
    /// Which nodes run.
    pub(super) up: &'a [bool],
    /// Packets on their way: when they arrive, and where.
    pub(super) sent: Vec<(u64, usize, Packet)>,
    pub(super) story: &'a mut Vec<String>,
}

impl World<'_> {
    pub(super) fn moment(&self) -> Moment {
        Moment::from_micros(self.now)
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
            error => Self::Broken(error.to_string()),
        }
    }
}

pub(super) type Done<T = ()> = Result<T, Trouble>;

/// A node, running or not.
pub(super) struct Node {
    pub(super) index: usize,
    pub(super) name: NodeName,
    pub(super) disk: SimDisk,
    store: MemoryStore,
    /// Counts lives, so that work planned for an earlier one is forgotten.
    pub(super) boot: u64,
    pub(super) life: Option<Life>,
}

/// What one process holds.
pub(super) struct Life {
    pub(super) wal: Wal,
    applicator: Applicator,
    pub(super) role: Role,
    committer: Option<Committer>,
    pub(super) standstill: Option<Standstill>,
    asked: u32,
    ask_at: u64,
    sessions: BTreeMap<u64, Session>,
    receiver: Option<Receiver>,
    /// The connection to the upstream, and who that is.
    upstream: Option<(u64, usize)>,
    target: usize,
    primary_heard: Option<u64>,
    carry: BytesMut,
    carry_at: Lsn,
    candidate: Option<(u64, Candidate)>,
    attempts: u64,
    /// Writes that wait: where they end, and which.
    waiting: BTreeMap<Lsn, u64>,
    /// What the receiver was told last.
    told: (Lsn, Lsn, Lsn),
    committed_to: Lsn,
    checked: Lsn,
}

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
    pub(super) fn new(index: usize, name: NodeName, disk: SimDisk) -> Self {
        let store = MemoryStore::new(Arc::new(SimDisk::new(0)));
        Self {
            index,
            name,
            disk,
            store,
            boot: 0,
            life: None,
        }
    }

    /// Starts a process on what the disk has. It goes on as the primary if it was one and `leads`.
    pub(super) fn start(&mut self, leads: bool, world: &mut World<'_>) -> Done {
        let disk = Arc::new(self.disk.until_crash());
        let (wal, recovered) = Wal::open(disk, Path::new(DIR), &options())?;
        wal.set_commit_follows(false);
        let own = wal.control().own_from != Lsn::MAX;
        world.tell(format!(
            "{} starts with log up to {}",
            self.name, recovered.end
        ));
        let applicator = Applicator::new(&wal, &self.store)?;
        let begin = wal.oldest();
        let life = Life {
            applicator,
            role: Role::Standby,
            committer: None,
            standstill: None,
            asked: 0,
            ask_at: 0,
            sessions: BTreeMap::new(),
            receiver: None,
            upstream: None,
            target: self.index,
            primary_heard: None,
            carry: BytesMut::new(),
            carry_at: Lsn::ZERO,
            candidate: None,
            attempts: self.boot << 32,
            waiting: BTreeMap::new(),
            told: Default::default(),
            committed_to: Lsn::ZERO,
            checked: begin,
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
            // It failed while it started.
            self.disk.crash(mode.unwrap_or(CrashMode::KeepAll));
            return;
        };
        for conn in world.net.of(self.index) {
            self.drop_connection(conn, world);
        }
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

    /// Goes on as the primary it was.
    fn begin(&mut self, world: &mut World<'_>) -> Done {
        let life = self.life();
        let timeline = life.wal.timeline();
        let promised = life.wal.control().promised();
        let policies = policies(&life.wal)?;
        let counted = |bound: &BoundPolicy| bound.needed() > 0 && bound.is_satisfiable();
        life.standstill = standstill(Beginning {
            clean: life.wal.was_clean(),
            overlapped: life.wal.must_begin_timeline(),
            promised: promised.is_some_and(|promised| promised.number > timeline.number),
            counted: policies.iter().any(counted),
        });
        self.lead(Lsn::ZERO, world)
    }

    /// Serves as the primary of the log's timeline.
    fn lead(&mut self, began: Lsn, world: &mut World<'_>) -> Done {
        let (name, now) = (self.name.clone(), world.moment());
        let was_standby = self.life().role == Role::Standby;
        if was_standby {
            for conn in self.life().sessions.keys().copied().collect::<Vec<_>>() {
                self.hang_up(conn, world);
            }
        }
        let life = self.life();
        let (flushed, commit) = (life.wal.flushed().get(), life.wal.commit().get());
        let config = CommitConfig {
            name,
            timeline: life.wal.timeline(),
            flushed,
            commit,
            hold_until: match began.is_zero() {
                true => held_until(&life.wal.history(), commit, flushed),
                false => began,
            },
            policies: policies(&life.wal)?,
            on_miss: OnMiss::Block,
        };
        life.committer = Some(Committer::new(config, now));
        life.role = Role::Primary;
        life.receiver = None;
        if !began.is_zero() {
            life.standstill = None;
        }
        let (name, timeline) = (self.name.clone(), self.life().wal.timeline());
        world.tell(format!("{name} leads {timeline}"));
        if self.life().standstill.is_some() {
            self.commit(CommitEvent::Suspended(true), world)?;
        }
        Ok(())
    }

    /// Brings an event to the commit machine, and shows what it confirms.
    fn commit(&mut self, event: CommitEvent, world: &mut World<'_>) -> Done {
        let now = world.moment();
        let life = self.life();
        let Some(committer) = &mut life.committer else {
            return Ok(());
        };
        let mut actions = Vec::new();
        committer.on(event, now, &mut actions);
        let released = committer.released(Level::RemoteFlush);
        for action in actions {
            if let CommitAction::CommitMoved(to) = action {
                life.wal.advance_commit(to);
            }
        }
        self.check_shown(released, world)?;
        let life = self.life();
        let rest = life.waiting.split_off(&(released + 1));
        for (end, id) in std::mem::replace(&mut life.waiting, rest) {
            world.oracle.acknowledged(id, end)?;
        }
        Ok(())
    }

    /// Everything below `upto` is visible here, or confirmed.
    fn check_shown(&mut self, upto: Lsn, world: &mut World<'_>) -> Done {
        let name = self.name.clone();
        let life = self.life();
        if upto > life.checked {
            let shown = world.oracle.shown(&life.wal, life.checked, upto);
            shown.map_err(|trouble| match trouble {
                Trouble::Broken(why) => Trouble::Broken(format!("{name}: {why}")),
                disk => disk,
            })?;
            life.checked = upto;
        }
        Ok(())
    }

    /// A client writes here; the write waits until it is durable.
    pub(super) fn write(&mut self, id: u64, len: usize, world: &mut World<'_>) -> Done {
        let life = self.life();
        if life.role != Role::Primary || life.wal.must_begin_timeline() {
            return Ok(());
        }
        let change = Change::put(
            7,
            (id % 50).to_be_bytes().to_vec(),
            [vec![id as u8; len], id.to_be_bytes().to_vec()].concat(),
        );
        let entry = WalEntry::new(WalEntryType::Insert, None, change.encode());
        match life.wal.append(&[entry]) {
            Ok(placed) => life.waiting.insert(placed.end, id),
            // The client is told that nothing was written.
            Err(mainstay_storage::Error::Full { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        self.pump(world)
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
        loop {
            let before = self.positions();
            let flushed = self.life().wal.flushed().get();
            if flushed > self.life().committed_to {
                self.life().committed_to = flushed;
                self.commit(CommitEvent::Flushed(flushed), world)?;
            }
            self.apply(world)?;
            self.pump_sessions(world)?;
            self.pump_receiver(world)?;
            if self.positions() == before {
                return Ok(());
            }
        }
    }

    fn positions(&self) -> [Lsn; 5] {
        let Some(life) = &self.life else {
            return [Lsn::ZERO; 5];
        };
        let wal = &life.wal;
        let (sealed, written) = (wal.sealed().get(), wal.written().get());
        let (flushed, commit) = (wal.flushed().get(), wal.commit().get());
        [sealed, written, flushed, commit, self.store.applied()]
    }

    /// The store takes what is committed, and makes some of that durable at times.
    fn apply(&mut self, world: &mut World<'_>) -> Done {
        let life = self.life.as_mut().expect("it runs");
        let upto = life.wal.commit().get().min(life.wal.flushed().get());
        life.applicator.apply_upto(&mut self.store, upto)?;
        if world.random.one_in(200) {
            let durable = self.store.checkpoint(upto)?;
            let restart = life.applicator.safe_restart(durable);
            if restart > life.wal.control().checkpoint {
                life.wal.checkpoint(restart)?;
            }
        }
        let applied = self.store.applied();
        self.check_shown(applied, world)
    }

    /// When something here wants the time, if anything does.
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
        machines.chain(asks.then_some(life.ask_at)).min()
    }

    /// It is time for something.
    pub(super) fn tick(&mut self, world: &mut World<'_>) -> Done {
        self.tick_sessions(world)?;
        self.tick_receiver(world)?;
        self.tick_candidate(world)?;
        self.pump(world)
    }

    /// Whether it confirms commits, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        let life = self.life.as_ref();
        life.is_some_and(|life| life.role == Role::Primary && life.standstill.is_none())
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

    /// All rows of its store.
    pub(super) fn rows(&self) -> Result<Vec<(Bytes, Bytes)>, String> {
        let (reader, at) = (self.store.reader(), self.store.applied());
        let rows = reader.scan(7, Bound::Unbounded, Bound::Unbounded, at);
        let rows = rows.map_err(|error| error.to_string())?;
        rows.collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())
    }

    /// How it stands, for whoever reads the story of a failure.
    pub(super) fn standing(&self) -> String {
        let Some(life) = &self.life else {
            return format!("{} is down", self.name);
        };
        let streams = life
            .sessions
            .iter()
            .map(|(conn, session)| format!("{conn}: {session}"));
        format!(
            "{} is {:?}, {:?}, {:?}, {:?}, upstream {:?}, streams [{}], {:?}",
            self.name,
            life.role,
            life.committer.as_ref().map(Committer::status),
            life.standstill,
            life.candidate
                .as_ref()
                .map(|(_, candidate)| candidate.status()),
            life.upstream,
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

fn cluster(wal: &Wal) -> Done<ClusterConfig> {
    let config = ClusterConfig::decode(&wal.config().0);
    let config = config.map_err(|error| Trouble::Broken(error.to_string()))?;
    config.ok_or_else(|| Trouble::Broken("a log without a configuration".to_owned()))
}

fn policies(wal: &Wal) -> Done<Vec<BoundPolicy>> {
    let mut policies = Vec::new();
    for (bytes, end) in wal.binding_configs(wal.commit().get()) {
        let config = ClusterConfig::decode(&bytes);
        let config = config.map_err(|error| Trouble::Broken(error.to_string()))?;
        policies.extend(config.map(|config| config.bound(end)));
    }
    Ok(policies)
}
