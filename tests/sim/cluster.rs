//! A cluster in one thread and in virtual time: what happens next.
//!
//! Everything that happens is an event with a time; ties are broken by the order in which events
//! were made. First faults of every kind for a while (`fault.rs`), in which nothing may be lost or
//! contradict itself; then all of them stop, and every node has to come to the same (`calm.rs`).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use mainstay_replication::{ClusterConfig, Member};
use mainstay_storage::{CrashMode, NewLog, SegmentSize, SimDisk, Timeline, TimelineHistory, Wal};
use uuid::Uuid;

use super::clients::Clients;
use super::clock::Clock;
use super::net::{Net, Packet};
use super::node::{DIR, Done, Node, Trouble, World, options};
use super::oracle::Oracle;
use super::plan::{Plan, Profile};
use super::random::Random;
use super::{SECOND, name_of};

/// Lines of the story that are kept.
const STORY_MAX: usize = 300;

/// How long after the last fault a node may still meet an error of its disk, in microseconds.
const HEALS_WITHIN: u64 = 30 * SECOND;

/// Pause before a process that ended is started again, at most, in microseconds.
const RESTART_MAX: u64 = 2 * SECOND;

#[derive(Debug)]
pub(super) enum Event {
    Arrive {
        to: usize,
        packet: Packet,
    },
    Disk {
        node: usize,
        boot: u64,
    },
    Tick {
        node: usize,
        boot: u64,
    },
    Start {
        node: usize,
        boot: u64,
    },
    Client(usize),
    Fault,
    Heal,
    /// Space on a disk is free again.
    Space(usize),
    Operator,
}

impl Event {
    /// The node that it is about.
    fn node(&self) -> Option<usize> {
        match self {
            Self::Arrive { to: node, .. }
            | Self::Disk { node, .. }
            | Self::Tick { node, .. }
            | Self::Start { node, .. } => Some(*node),
            _ => None,
        }
    }
}

/// What came of one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    /// Of everything that happened, in order.
    pub(super) trace: u64,
    pub(super) events: u64,
    pub(super) acknowledged: usize,
    pub(super) timelines: u32,
    /// Whether an operator had to give up a policy or data before all became the same.
    pub(super) helped: bool,
    /// Virtual time, in microseconds, faults and calm.
    pub(super) lasted: u64,
}

pub(super) struct Cluster {
    pub(super) now: u64,
    made: u64,
    pub(super) queue: BTreeMap<(u64, u64), Event>,
    pub(super) nodes: Vec<Node>,
    pub(super) machines: Vec<Machine>,
    pub(super) random: Random,
    pub(super) plan: Plan,
    pub(super) net: Net,
    pub(super) oracle: Oracle,
    pub(super) clients: Clients,
    pub(super) story: Vec<String>,
    /// The last thing that arrived on a connection, for who lets it arrive again.
    pub(super) replayed: Option<(usize, Packet)>,
    trace: DefaultHasher,
    events: u64,
    /// When all faults ended.
    pub(super) calm_since: Option<u64>,
    /// What operators tried since all faults ended and nobody led.
    pub(super) orders: u64,
    /// How often operators found a primary since then.
    pub(super) led: u64,
    /// Whether they had to give up a policy, or data.
    pub(super) helped: bool,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // An assertion of the product failed: what led to it is all there is to go by.
        if std::thread::panicking() {
            println!("{}", self.story.join("\n"));
        }
    }
}

/// What a node runs on.
pub(super) struct Machine {
    pub(super) clock: Clock,
    /// The life of the node for which work is planned.
    boot: u64,
    /// When its node is to be ticked next, by virtual time.
    tick: u64,
    /// Whether its disk is at work, and how slow it is.
    working: bool,
    pub(super) slow: u64,
    /// Nothing happens on it before.
    pub(super) frozen_until: u64,
    /// Starts in a row that failed.
    failed_starts: u32,
}

impl Cluster {
    pub(super) fn new(seed: u64, profile: Profile) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(profile, &mut random);
        let machine = |random: &mut Random| Machine {
            clock: Clock::new(plan.drifting, random),
            boot: 0,
            tick: u64::MAX,
            working: false,
            slow: 0,
            frozen_until: 0,
            failed_starts: 0,
        };
        let mut cluster = Self {
            now: 0,
            made: 0,
            queue: BTreeMap::new(),
            nodes: Vec::new(),
            machines: (0..plan.nodes()).map(|_| machine(&mut random)).collect(),
            net: Net::new(plan.delay_max),
            oracle: Oracle::default(),
            clients: Clients::new(plan.clients),
            story: vec![plan.to_string()],
            replayed: None,
            trace: DefaultHasher::new(),
            events: 0,
            calm_since: None,
            orders: 0,
            led: 0,
            helped: false,
            plan,
            random,
        };
        cluster.found();
        cluster
    }

    /// Writes the first log on node 0, and an empty one on the others.
    fn found(&mut self) {
        let uuid = |random: &mut Random| Uuid::from_u64_pair(random.next(), random.next());
        let mut new = NewLog::new_cluster(SegmentSize::MIN);
        // Nothing may come from anywhere but the seed.
        new.system_id = 77;
        let timeline = Timeline {
            number: 1,
            id: uuid(&mut self.random),
        };
        new.history = TimelineHistory::new(timeline, new.begin);
        let members = (0..self.plan.nodes()).map(|index| Member {
            name: name_of(index),
            node_id: uuid(&mut self.random),
            incarnation: uuid(&mut self.random),
            address: format!("{index}:1"),
            priority: 100,
            votes: self.plan.votes(index),
        });
        let members = members.collect::<Vec<_>>();
        let policy = self.plan.policies[0].parse().expect("a policy");
        let mut config = ClusterConfig::new(policy, members[0].clone());
        // The others may be known, or be registered when they come.
        let known = self.random.one_in(2);
        for member in members[1..].iter().filter(|_| known) {
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
            let life = *member.incarnation.as_bytes();
            wal.update_control(|control| control.incarnation = life)
                .expect("a good disk");
            if index == 0 {
                let config = config.encode().expect("a configuration");
                let first = wal.append_config(config).expect("room");
                while wal.flushed().get() < first.end {
                    wal.drive();
                }
                // A new cluster's first records are committed.
                wal.advance_commit(first.end);
            }
            wal.close().expect("a good disk");
            drop(wal);
            let node = Node::new(index, member.name.clone(), member.node_id, disk);
            self.nodes.push(node);
        }
        for node in 0..self.nodes.len() {
            self.plan(0, Event::Start { node, boot: 0 });
        }
        for client in 0..self.plan.clients {
            self.plan(SECOND / 10, Event::Client(client));
        }
        self.plan(SECOND / 2, Event::Fault);
    }

    pub(super) fn plan(&mut self, after: u64, event: Event) {
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
        self.oracle.hash(&mut self.trace);
        Ok(Report {
            trace: self.trace.finish(),
            events: self.events,
            acknowledged: self.clients.acknowledgements(),
            timelines: self
                .nodes
                .iter()
                .filter_map(Node::timeline)
                .max()
                .unwrap_or_default(),
            helped: self.helped,
            lasted: self.now,
        })
    }

    pub(super) fn unfold(&mut self, until: u64) -> Result<(), String> {
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
        if let Some(until) = self.frozen(&event) {
            self.plan(until - self.now, event);
            return Ok(());
        }
        let at = event.node();
        self.unfold_one(event)?;
        // Whatever differs shows in how far somebody is.
        if let Some(node) = at {
            (node, self.nodes[node].positions()).hash(&mut self.trace);
        }
        Ok(())
    }

    fn unfold_one(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Arrive { to, packet } => self.arrive(to, packet),
            Event::Disk { node, boot } if self.lives(node, boot) => {
                self.machines[node].working = false;
                self.with(node, Node::drive)
            }
            Event::Tick { node, boot } if self.lives(node, boot) => {
                self.machines[node].tick = u64::MAX;
                self.with(node, Node::tick)
            }
            Event::Start { node, boot } => self.start(node, boot),
            Event::Client(client) => self.write(client),
            Event::Fault if self.calm_since.is_none() => self.fault(),
            Event::Heal if self.calm_since.is_none() => {
                self.heal();
                Ok(())
            }
            Event::Space(node) => {
                self.nodes[node].disk.clear_capacity();
                Ok(())
            }
            Event::Operator => self.operate(),
            _ => Ok(()),
        }
    }

    /// Until when this event has to wait, since its machine stands still.
    fn frozen(&self, event: &Event) -> Option<u64> {
        let node = event.node()?;
        let until = self.machines[node].frozen_until;
        (until > self.now).then_some(until)
    }

    pub(super) fn is_frozen(&self, node: usize) -> bool {
        self.machines[node].frozen_until > self.now
    }

    fn lives(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].life.is_some() && self.nodes[node].boot == boot
    }

    fn start(&mut self, node: usize, boot: u64) -> Result<(), String> {
        let down = self.nodes[node].life.is_none() && self.nodes[node].boot == boot;
        if !down {
            return Ok(());
        }
        // An operator may start a former primary as a standby. Data that came from elsewhere are
        // never started as a primary's.
        let leads = (self.calm_since.is_some() || self.random.one_in(2) || boot == 0)
            && !self.nodes[node].missing;
        self.with(node, |node, world| node.start(leads, world))?;
        if self.nodes[node].empty {
            let boot = self.nodes[node].boot;
            self.plan(RESTART_MAX, Event::Start { node, boot });
        }
        Ok(())
    }

    fn arrive(&mut self, to: usize, packet: Packet) -> Result<(), String> {
        if let Packet::Copy { attempt, copy } = packet {
            // A node without data waits for it.
            return self.with(to, |node, world| node.take_copy(attempt, &copy, world));
        }
        if self.nodes[to].life.is_none() {
            return Ok(());
        }
        if let Packet::On {
            conn,
            from,
            standby,
            body,
        } = &packet
        {
            let again = Packet::On {
                conn: *conn,
                from: *from,
                standby: *standby,
                body: body.clone(),
            };
            self.replayed = Some((to, again));
        }
        self.with(to, |node, world| node.take(packet, world))
    }

    /// Lets something happen to a node, and plans what follows.
    pub(super) fn with(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Node, &mut World<'_>) -> Done,
    ) -> Result<(), String> {
        let was_up = self.nodes[index].life.is_some();
        let done = self.touch(index, act);
        match done {
            Ok(()) => {
                if self.nodes[index].life.is_some() {
                    self.machines[index].failed_starts = 0;
                    self.look_after(index);
                }
            }
            Err(Trouble::Damaged(why)) if !self.nodes[index].rotten => {
                let name = name_of(index);
                return Err(format!("{name} takes for damage what is none: {why}"));
            }
            Err(Trouble::Disk(why)) if self.has_good_disk(index) => {
                let name = name_of(index);
                return Err(format!("{name} fails on a disk that works: {why}"));
            }
            Err(Trouble::Disk(why) | Trouble::Damaged(why)) => {
                self.tell(format!("{} ends: {why}", name_of(index)));
                self.crash(index);
                if !was_up {
                    self.machines[index].failed_starts += 1;
                }
                self.give_up_on(index);
            }
            Err(Trouble::Broken(why)) => return Err(why),
        }
        Ok(())
    }

    /// Whether no fault can be why the disk of a node fails.
    fn has_good_disk(&self, index: usize) -> bool {
        let (calm, node) = (self.calm_since, &self.nodes[index]);
        let healed = calm.is_some_and(|since| self.now - since > HEALS_WITHIN);
        healed && !node.rotten && node.disk.has_power()
    }

    /// Data that cannot be started on are replaced; see `fault.rs` on how much may be missing.
    fn give_up_on(&mut self, index: usize) {
        if self.machines[index].failed_starts >= 3 && self.nodes[index].rotten {
            self.machines[index].failed_starts = 0;
            self.touch(index, Node::lose_everything);
        }
    }

    /// Lets something happen to a node, and sends what it says.
    pub(super) fn touch<T>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Node, &mut World<'_>) -> T,
    ) -> T {
        let nodes = self.nodes.iter();
        let up = nodes.map(|node| node.life.is_some()).collect::<Vec<_>>();
        let mut world = World {
            now: self.now,
            local: self.machines[index].clock.show(self.now),
            plan: &self.plan,
            random: &mut self.random,
            net: &mut self.net,
            oracle: &mut self.oracle,
            clients: &mut self.clients,
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

    pub(super) fn tell(&mut self, text: String) {
        self.story.push(format!("{:>11} {text}", self.now));
    }

    /// Plans the next work of a node's disk and clock.
    fn look_after(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        if machine.boot != self.nodes[index].boot {
            machine.boot = self.nodes[index].boot;
            (machine.tick, machine.working) = (u64::MAX, false);
        }
        let (node, machine) = (&self.nodes[index], &self.machines[index]);
        let (boot, now) = (node.boot, self.now);
        let works = node.busy() && !machine.working;
        let deadline = node.deadline();
        let deadline = deadline.map(|local| machine.clock.when(local, now));
        if works {
            self.machines[index].working = true;
            let takes = 50 + self.random.below(400) + self.machines[index].slow;
            self.plan(takes, Event::Disk { node: index, boot });
        }
        if let Some(at) = deadline.filter(|at| *at < self.machines[index].tick) {
            self.machines[index].tick = at;
            self.plan(at - now + 1, Event::Tick { node: index, boot });
        }
    }

    pub(super) fn crash(&mut self, index: usize) {
        let modes = [
            CrashMode::LoseUnsynced,
            CrashMode::KeepAll,
            CrashMode::Random,
            CrashMode::Nasty,
        ];
        let mode = modes[self.random.index(modes.len())].clone();
        self.end(index, Some(mode));
    }

    pub(super) fn end(&mut self, index: usize, mode: Option<CrashMode>) {
        self.touch(index, |node, world| node.stop(mode, world));
        let node = &mut self.nodes[index];
        // A device that was about to lie has not done it.
        node.rotten &= !(node.may_lie && node.disk.awaits_mishap());
        node.may_lie = false;
        node.disk.clear_faults();
        let boot = self.nodes[index].boot;
        let after = 10_000 + self.random.below(RESTART_MAX);
        self.plan(after, Event::Start { node: index, boot });
    }

    fn write(&mut self, client: usize) -> Result<(), String> {
        let pause = 1_000 + self.random.below(self.plan.think_max);
        self.plan(pause, Event::Client(client));
        let found = (0..self.nodes.len())
            .filter(|index| self.nodes[*index].takes_writes() && !self.is_frozen(*index));
        let found = found.collect::<Vec<_>>();
        if found.is_empty() {
            return Ok(());
        }
        // Two may take themselves for the primary.
        let at = found[self.random.index(found.len())];
        let (now, value_max) = (self.now, self.plan.value_max);
        let next = self.clients.next(client, now, value_max, &mut self.random);
        match next {
            Some((id, intent)) => self.with(at, |node, world| node.write(id, &intent, world)),
            None => Ok(()),
        }
    }
}
