//! A cluster in one thread and in virtual time: what happens next, and what goes wrong.
//!
//! Everything that happens is an event with a time; ties are broken by the order in which events
//! were made. First faults of every kind for a while, in which nothing may be lost or contradict
//! itself; then all of them stop, and every node has to come to the same.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use mainstay_replication::protocol::promotion::Purpose;
use mainstay_replication::{ClusterConfig, Member};
use mainstay_storage::{CrashMode, DiskFault, NewLog, SegmentSize, SimDisk, Wal};
use uuid::Uuid;

use super::net::{Net, Packet};
use super::node::{DIR, Done, Node, Role, Trouble, World, options};
use super::oracle::Oracle;
use super::random::Random;
use super::{SECOND, name_of};

/// Lines of the story that are kept.
const STORY_MAX: usize = 300;

#[derive(Debug)]
enum Event {
    Arrive { to: usize, packet: Packet },
    Disk { node: usize, boot: u64 },
    Tick { node: usize, boot: u64 },
    Start { node: usize, boot: u64 },
    Write,
    Fault,
    Heal,
    Operator,
}

/// What came of one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    /// Of everything that happened, in order.
    pub(super) trace: u64,
    pub(super) events: u64,
    pub(super) acknowledged: usize,
    pub(super) timelines: u32,
}

pub(super) struct Cluster {
    now: u64,
    made: u64,
    queue: BTreeMap<(u64, u64), Event>,
    nodes: Vec<Node>,
    /// When each node is to be ticked next, and whether its disk is at work.
    ticks: Vec<u64>,
    working: Vec<bool>,
    slow: Vec<u64>,
    random: Random,
    net: Net,
    oracle: Oracle,
    story: Vec<String>,
    trace: DefaultHasher,
    events: u64,
    writes: u64,
    calm: bool,
}

impl Cluster {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let size = 2 + random.index(4);
        let net = Net::new([1_000, 20_000, 200_000][random.index(3)]);
        let mut cluster = Self {
            now: 0,
            made: 0,
            queue: BTreeMap::new(),
            nodes: Vec::new(),
            ticks: vec![u64::MAX; size],
            working: vec![false; size],
            slow: vec![0; size],
            net,
            oracle: Oracle::default(),
            story: Vec::new(),
            trace: DefaultHasher::new(),
            events: 0,
            writes: 0,
            calm: false,
            random,
        };
        cluster.found(size);
        cluster
    }

    /// Writes the first log on node 0, and an empty one on the others.
    fn found(&mut self, size: usize) {
        let word = ["ANY", "FIRST"][self.random.index(2)];
        let count = 1 + self.random.index(size - 1);
        let names = (0..size)
            .map(|index| name_of(index).to_string())
            .collect::<Vec<_>>();
        let policy = format!("{word} {count} ({})", names.join(", "));
        self.story.push(format!(
            "{size} nodes, {policy}, packets up to {} us",
            self.net.delay_max
        ));
        let uuid = |random: &mut Random| Uuid::from_u64_pair(random.next(), random.next());
        let mut new = NewLog::new_cluster(SegmentSize::MIN);
        // Nothing may come from anywhere but the seed.
        new.system_id = 77;
        let timeline = mainstay_storage::Timeline {
            number: 1,
            id: uuid(&mut self.random),
        };
        new.history = mainstay_storage::TimelineHistory::new(timeline, new.begin);
        let members = (0..size).map(|index| Member {
            name: name_of(index),
            node_id: uuid(&mut self.random),
            incarnation: uuid(&mut self.random),
            address: format!("{index}:1"),
            priority: 100,
            votes: true,
        });
        let members = members.collect::<Vec<_>>();
        let mut config = ClusterConfig::new(policy.parse().expect("a policy"), members[0].clone());
        for member in &members[1..] {
            config.register(member.clone()).expect("a member");
        }
        for (index, member) in members.iter().enumerate() {
            let disk = SimDisk::new(self.random.next());
            let new = NewLog {
                node_id: member.node_id,
                own: index == 0,
                ..new.clone()
            };
            let wal = Wal::create(Arc::new(disk.clone()), Path::new(DIR), new, &options());
            let wal = wal.expect("an empty disk");
            if index == 0 {
                wal.append_config(config.encode().expect("a configuration"))
                    .expect("room");
            }
            wal.close().expect("a good disk");
            drop(wal);
            self.nodes.push(Node::new(index, member.name.clone(), disk));
        }
        for node in 0..size {
            self.plan(0, Event::Start { node, boot: 0 });
        }
        self.plan(SECOND / 10, Event::Write);
        self.plan(SECOND / 2, Event::Fault);
    }

    fn plan(&mut self, after: u64, event: Event) {
        self.made += 1;
        self.queue.insert((self.now + after, self.made), event);
    }

    /// Runs `faulty` virtual microseconds of faults, then until all is well.
    ///
    /// # Errors
    /// What does not hold, and what led to it.
    pub(super) fn run(mut self, faulty: u64) -> Result<Report, String> {
        let done = self.unfold(faulty).and_then(|()| self.settle());
        done.map_err(|why| format!("{why}\n{}", self.story.join("\n")))?;
        Ok(Report {
            trace: self.trace.finish(),
            events: self.events,
            acknowledged: self.oracle.acknowledgements(),
            timelines: self
                .nodes
                .iter()
                .filter_map(Node::timeline)
                .max()
                .unwrap_or_default(),
        })
    }

    fn unfold(&mut self, until: u64) -> Result<(), String> {
        while let Some(entry) = self
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= until)
        {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.events += 1;
            self.happen(event)?;
            if self.story.len() > 2 * STORY_MAX {
                self.story.drain(1..STORY_MAX);
            }
        }
        self.now = self.now.max(until);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        std::mem::discriminant(&event).hash(&mut self.trace);
        self.now.hash(&mut self.trace);
        match event {
            Event::Arrive { to, packet } => self.arrive(to, packet),
            Event::Disk { node, boot } if self.lives(node, boot) => {
                self.working[node] = false;
                self.with(node, Node::drive)
            }
            Event::Tick { node, boot } if self.lives(node, boot) => {
                self.ticks[node] = u64::MAX;
                self.with(node, Node::tick)
            }
            Event::Start { node, boot } => {
                let down = self.nodes[node].life.is_none() && self.nodes[node].boot == boot;
                let leads = self.calm || self.random.one_in(2) || boot == 0;
                match down {
                    true => self.with(node, |node, world| node.start(leads, world)),
                    false => Ok(()),
                }
            }
            Event::Write => self.write(),
            Event::Fault if !self.calm => self.fault(),
            Event::Heal if !self.calm => {
                self.net.heal();
                self.slow.fill(0);
                Ok(())
            }
            Event::Operator => self.operate(),
            _ => Ok(()),
        }
    }

    fn lives(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].life.is_some() && self.nodes[node].boot == boot
    }

    fn arrive(&mut self, to: usize, packet: Packet) -> Result<(), String> {
        if self.nodes[to].life.is_none() {
            return Ok(());
        }
        match packet {
            Packet::On {
                conn,
                from,
                standby,
                body,
            } => self.with(to, |node, world| {
                match standby {
                    true => node.serve(conn, from, body, world)?,
                    false => node.hear(conn, body, world)?,
                }
                node.pump(world)
            }),
            Packet::Broken { conn } => self.with(to, |node, world| {
                node.broken(conn, world)?;
                node.pump(world)
            }),
            Packet::Ask {
                from,
                attempt,
                action,
            } => self.with(to, |node, world| node.asked(from, attempt, action, world)),
            Packet::Answer { attempt, event } => self.with(to, |node, world| {
                node.bring_candidate(attempt, event, world)?;
                node.pump(world)
            }),
            Packet::Opened(timeline) => self.with(to, |node, world| {
                node.claimed(timeline, true, world)?;
                node.pump(world)
            }),
            Packet::Log {
                attempt,
                history,
                at,
                log,
            } => self.with(to, |node, world| {
                node.fetched(attempt, &history, at, &log, world)
            }),
        }
    }

    /// Lets something happen to a node, and plans what follows.
    fn with(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Node, &mut World<'_>) -> Done,
    ) -> Result<(), String> {
        match self.touch(index, act) {
            Ok(()) => self.look_after(index),
            Err(Trouble::Disk(why)) => {
                self.story
                    .push(format!("{:>11} {} ends: {why}", self.now, name_of(index)));
                self.crash(index);
            }
            Err(Trouble::Broken(why)) => return Err(why),
        }
        Ok(())
    }

    /// Lets something happen to a node, and sends what it says.
    fn touch<T>(&mut self, index: usize, act: impl FnOnce(&mut Node, &mut World<'_>) -> T) -> T {
        let nodes = self.nodes.iter();
        let up = nodes.map(|node| node.life.is_some()).collect::<Vec<_>>();
        let mut world = World {
            now: self.now,
            random: &mut self.random,
            net: &mut self.net,
            oracle: &mut self.oracle,
            up: &up,
            sent: Vec::new(),
            story: &mut self.story,
        };
        let done = act(&mut self.nodes[index], &mut world);
        let sent = std::mem::take(&mut world.sent);
        for (at, to, packet) in sent {
            self.plan(at - self.now, Event::Arrive { to, packet });
        }
        done
    }

    /// Plans the next work of a node's disk and clock.
    fn look_after(&mut self, index: usize) {
        let node = &self.nodes[index];
        let boot = node.boot;
        if node.busy() && !self.working[index] {
            self.working[index] = true;
            let takes = 50 + self.random.below(400) + self.slow[index];
            self.plan(takes, Event::Disk { node: index, boot });
        }
        let deadline = self.nodes[index].deadline();
        if let Some(at) = deadline.filter(|at| *at < self.ticks[index]) {
            self.ticks[index] = at;
            self.plan(
                at.saturating_sub(self.now) + 1,
                Event::Tick { node: index, boot },
            );
        }
    }

    fn crash(&mut self, index: usize) {
        let modes = [
            CrashMode::LoseUnsynced,
            CrashMode::KeepAll,
            CrashMode::Random,
            CrashMode::Nasty,
        ];
        let mode = modes[self.random.index(modes.len())].clone();
        self.end(index, Some(mode));
    }

    fn end(&mut self, index: usize, mode: Option<CrashMode>) {
        self.touch(index, |node, world| node.stop(mode, world));
        self.nodes[index].disk.clear_faults();
        (self.ticks[index], self.working[index]) = (u64::MAX, false);
        let boot = self.nodes[index].boot;
        let after = 10_000 + self.random.below(2 * SECOND);
        self.plan(after, Event::Start { node: index, boot });
    }

    fn write(&mut self) -> Result<(), String> {
        let pause = 1_000 + self.random.below(SECOND / 20);
        self.plan(pause, Event::Write);
        for index in 0..self.nodes.len() {
            let primary = self.nodes[index].life.as_ref();
            if primary.is_some_and(|life| life.role == Role::Primary) {
                self.writes += 1;
                let (id, len) = (self.writes, self.random.index(3_000));
                self.with(index, |node, world| node.write(id, len, world))?;
            }
        }
        Ok(())
    }

    fn fault(&mut self) -> Result<(), String> {
        let pause = SECOND / 20 + self.random.below(SECOND);
        self.plan(pause, Event::Fault);
        let count = self.nodes.len();
        let at = self.random.index(count);
        match self.random.below(12) {
            0 | 1 => self.crash(at),
            2 => {
                let calls = self.random.below(12);
                self.nodes[at].disk.cut_power_after(calls);
            }
            3 => {
                let fault = [DiskFault::Io, DiskFault::NoSpace, DiskFault::Interrupted];
                let call = 1 + self.random.below(10);
                self.nodes[at]
                    .disk
                    .fail_call(call, fault[self.random.index(3)]);
            }
            4 => self.end(at, None),
            5 => self.slow[at] = self.random.below(SECOND),
            6 | 7 => {
                let other = self.random.index(count);
                self.net.cut(at, other);
                if self.random.one_in(2) {
                    self.net.cut(other, at);
                }
            }
            8 => {
                for other in 0..count {
                    self.net.cut(at, other);
                    self.net.cut(other, at);
                }
            }
            9 => self.plan(0, Event::Heal),
            _ => {
                let force = self.random.one_in(2);
                if self.nodes[at].life.is_some() {
                    self.with(at, |node, world| {
                        node.ask(Purpose::Promote, force, world)?;
                        node.pump(world)
                    })?;
                }
            }
        }
        if self.random.one_in(4) {
            let after = self.random.below(3 * SECOND);
            self.plan(after, Event::Heal);
        }
        Ok(())
    }

    /// While nobody leads, the node with the most log is promoted.
    fn operate(&mut self) -> Result<(), String> {
        self.plan(3 * SECOND, Event::Operator);
        if self.nodes.iter().any(Node::leads) {
            for index in 0..self.nodes.len() {
                if self.nodes[index].leads() {
                    self.with(index, Node::tell_others)?;
                }
            }
            return Ok(());
        }
        let best = (0..self.nodes.len()).max_by_key(|index| self.nodes[*index].rank());
        match best.filter(|best| self.nodes[*best].life.is_some()) {
            Some(best) => self.with(best, |node, world| {
                node.ask(Purpose::Promote, true, world)?;
                node.pump(world)
            }),
            None => Ok(()),
        }
    }

    /// Every fault ends; in bounded time all nodes are the same.
    fn settle(&mut self) -> Result<(), String> {
        self.calm = true;
        self.net.lossy = false;
        self.net.heal();
        self.slow.fill(0);
        for node in &self.nodes {
            node.disk.clear_faults();
        }
        let writes_end = self.now + 30 * SECOND;
        let end = self.now + 180 * SECOND;
        self.plan(SECOND, Event::Operator);
        let acknowledged = self.oracle.acknowledgements();
        while self.now < end {
            let next = self.now + SECOND;
            self.unfold(next)?;
            if self.now >= writes_end {
                self.queue.retain(|_, event| !matches!(event, Event::Write));
                let digests = self.nodes.iter().map(Node::digest).collect::<Vec<_>>();
                let same = digests.windows(2).all(|pair| pair[0] == pair[1]);
                let whole = digests[0].is_some_and(|ends| ends.0 == ends.1 && ends.1 == ends.2);
                if same && whole && self.nodes.iter().filter(|node| node.leads()).count() == 1 {
                    return match self.oracle.acknowledgements() > acknowledged {
                        true => self.same_rows(),
                        false => Err("nothing was acknowledged after the faults".to_owned()),
                    };
                }
            }
        }
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|node| format!("{} at {:?}", node.standing(), node.digest()));
        Err(format!(
            "no convergence:\n{}",
            nodes.collect::<Vec<_>>().join("\n")
        ))
    }

    fn same_rows(&mut self) -> Result<(), String> {
        let rows = self
            .nodes
            .iter()
            .map(Node::rows)
            .collect::<Result<Vec<_>, _>>()?;
        match rows.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(()),
            false => Err("the same log, and other rows".to_owned()),
        }
    }
}
