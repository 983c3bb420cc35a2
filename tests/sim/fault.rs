//! What goes wrong, and how much of it at once.
//!
//! Faults are unlimited where the promises are: processes, power, network, clocks, failing disks,
//! orders at bad moments. Data that are gone are limited to what the policy survives: never more
//! nodes at once whose data are missing than standbys confirm a commit, until each has caught up
//! and is counted again.

use mainstay_replication::protocol::promotion::Purpose;
use mainstay_storage::{CrashMode, DiskFault};

use super::SECOND;
use super::cluster::{Cluster, Event};
use super::net::Packet;
use super::node::{DIR, Node};
use super::plan::Fault;

impl Cluster {
    pub(super) fn fault(&mut self) -> Result<(), String> {
        let pause = SECOND / 20 + self.random.below(self.plan.fault_pause_max);
        self.plan(pause, Event::Fault);
        let at = self.random.index(self.nodes.len());
        let fault = self.plan.fault(&mut self.random);
        match fault {
            Fault::PowerCut
            | Fault::PowerCutWithin
            | Fault::Stop
            | Fault::FailingCall
            | Fault::FullDisk
            | Fault::SlowDisk
            | Fault::Mishap
            | Fault::Suspend => self.machine_fault(fault, at),
            Fault::Rot | Fault::Wipe | Fault::Clone => self.lose_data(fault, at)?,
            Fault::Cut | Fault::Isolate | Fault::Reset | Fault::Replay => {
                self.network_fault(fault, at);
            }
            _ => self.order(fault, at)?,
        }
        if self.random.one_in(4) {
            let after = self.random.below(3 * SECOND);
            self.plan(after, Event::Heal);
        }
        Ok(())
    }

    /// Links work again, and disks are fast. What was stalled stays so until somebody notices.
    pub(super) fn heal(&mut self) {
        self.net.heal();
        for machine in &mut self.machines {
            machine.slow = 0;
        }
    }

    fn machine_fault(&mut self, fault: Fault, at: usize) {
        let disk = self.nodes[at].disk.clone();
        match fault {
            Fault::PowerCut => self.crash(at),
            Fault::PowerCutWithin => disk.cut_power_after(self.random.below(12)),
            Fault::Stop if !self.is_frozen(at) => self.end(at, None),
            Fault::FailingCall => {
                let faults = [DiskFault::Io, DiskFault::NoSpace, DiskFault::Interrupted];
                let (call, fault) = (1 + self.random.below(10), self.random.index(3));
                disk.fail_call(call, faults[fault]);
            }
            Fault::FullDisk => {
                disk.set_capacity(0);
                let after = self.random.below(5 * SECOND);
                self.plan(after, Event::Space(at));
            }
            // Some hang for longer than anybody waits.
            Fault::SlowDisk => {
                let most = if self.random.one_in(3) { 20 } else { 1 };
                self.machines[at].slow = self.random.below(most * SECOND);
            }
            // Nobody can tell in time that a device lies, so no confirmed commit may hang on it.
            Fault::Mishap if !self.plan.votes(at) && !self.nodes[at].empty => {
                let node = &mut self.nodes[at];
                (node.may_lie, node.rotten) = (!node.rotten, true);
                match self.random.one_in(2) {
                    true => disk.lose_next_write_below(DIR),
                    false => disk.misdirect_next_write_below(DIR, self.random.next()),
                }
            }
            Fault::Suspend => {
                let sleeps = self.random.below(5 * SECOND);
                let machine = &mut self.machines[at];
                let until = machine.frozen_until.max(self.now + sleeps);
                // A stopped process finds that time went by; a machine that slept need not.
                let by = if self.random.one_in(2) { sleeps } else { 0 };
                let machine = &mut self.machines[at];
                machine.clock.sleep(self.now, until, by);
                machine.frozen_until = until;
            }
            _ => {}
        }
    }

    fn network_fault(&mut self, fault: Fault, at: usize) {
        let count = self.nodes.len();
        match fault {
            Fault::Cut => {
                let other = self.random.index(count);
                self.net.cut(at, other);
                if self.random.one_in(2) {
                    self.net.cut(other, at);
                }
            }
            Fault::Isolate => {
                for other in 0..count {
                    self.net.cut(at, other);
                    self.net.cut(other, at);
                }
            }
            Fault::Reset => {
                if let Some((conn, client, server)) = self.net.any(&mut self.random) {
                    self.net.close(conn, client);
                    for to in [client, server] {
                        let packet = Packet::Broken { conn };
                        self.plan(100, Event::Arrive { to, packet });
                    }
                }
            }
            // Bytes that were delivered already come again, on a line that breaks soon after.
            _ => {
                if let Some((to, packet)) = self.replayed.take() {
                    let conn = packet.conn();
                    self.plan(1, Event::Arrive { to, packet });
                    let after = self.random.below(SECOND);
                    for to in 0..count {
                        let packet = Packet::Broken { conn };
                        self.plan(after, Event::Arrive { to, packet });
                    }
                }
            }
        }
    }

    /// Data are damaged, lost, or replaced by another node's.
    fn lose_data(&mut self, fault: Fault, at: usize) -> Result<(), String> {
        if !self.may_lose(at) || self.nodes[at].empty {
            return Ok(());
        }
        match fault {
            Fault::Wipe => {
                self.crash(at);
                self.touch(at, Node::lose_everything);
            }
            Fault::Rot => {
                // A power cut that takes the last watermark along as well is two faults at once, of
                // which no node can tell by itself.
                let node = &self.nodes[at];
                let first = node.life.is_some() && !node.rotten && node.disk.has_power();
                self.end(at, Some(CrashMode::KeepAll));
                let node = &mut self.nodes[at];
                (node.rotten, node.missing, node.rots) = (true, true, first);
                let (disk, seed) = (self.nodes[at].disk.clone(), self.random.next());
                let hit = match self.random.one_in(2) {
                    true => disk.flip_random_bit(DIR, seed).map(|hit| hit.0),
                    false => disk.fail_random_reads(DIR, seed, 2).map(|hit| hit.0),
                };
                self.tell(format!("{} rots: {hit:?}", super::name_of(at)));
            }
            _ => {
                let other = self.random.index(self.nodes.len());
                if other == at || self.nodes[other].empty || self.nodes[other].rotten {
                    return Ok(());
                }
                self.crash(at);
                self.crash(other);
                let (low, high) = (at.min(other), at.max(other));
                let (left, right) = self.nodes.split_at_mut(high);
                let (low, high) = (&mut left[low], &mut right[0]);
                let (to, from) = if at < other { (low, high) } else { (high, low) };
                to.take_files_of(from)
                    .map_err(|trouble| format!("{trouble:?}"))?;
                self.tell(format!(
                    "{} gets the files of {}",
                    super::name_of(at),
                    super::name_of(other)
                ));
            }
        }
        Ok(())
    }

    /// Whether everything confirmed is still somewhere, and stays there, without the data of `at`.
    fn may_lose(&mut self, at: usize) -> bool {
        if !self.plan.votes(at) {
            return true;
        }
        // The first records of a cluster are on its first node alone.
        if self.clients.acknowledgements() == 0 {
            return false;
        }
        for index in 0..self.plan.voters {
            let data = self.nodes[index].incarnation();
            let back = data.is_some_and(|data| {
                let name = super::name_of(index);
                self.nodes.iter().any(|node| node.counts(&name, data))
            });
            self.nodes[index].missing &= !back || self.nodes[index].rotten;
        }
        let voters = &self.nodes[..self.plan.voters];
        let missing = voters.iter().filter(|node| node.missing).count();
        missing < self.plan.spare_copies && !self.nodes[at].missing
    }

    /// Somebody gives an order, at a bad moment.
    fn order(&mut self, fault: Fault, at: usize) -> Result<(), String> {
        if self.nodes[at].life.is_none() || self.is_frozen(at) {
            return Ok(());
        }
        let to = self.random.index(self.plan.voters);
        let policy = self.random.index(self.plan.policies.len());
        let policy = self.plan.policies[policy].clone();
        let force = self.random.one_in(2);
        match fault {
            Fault::Promote if self.plan.votes(at) => self.with(at, |node, world| {
                node.ask(Purpose::Promote, force, world)?;
                node.pump(world)
            }),
            Fault::Switchover => self.with(at, |node, world| node.hand_over(to, world)),
            Fault::ChangePolicy => self.with(at, |node, world| node.change_policy(&policy, world)),
            Fault::Resync => self.with(at, |node, world| node.resync(false, world)),
            Fault::ResyncFull => self.with(at, |node, world| node.resync(true, world)),
            _ => Ok(()),
        }
    }
}
