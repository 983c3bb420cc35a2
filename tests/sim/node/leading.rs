//! A primary: how it begins and ends, whom it counts, and what its commit machine is told and says.

use mainstay_replication::Member;
use mainstay_replication::protocol::commit::Event as CommitEvent;
use mainstay_replication::protocol::commit::{Action as CommitAction, CommitConfig, Committer};
use mainstay_replication::protocol::level::{Level, OnMiss};
use mainstay_replication::protocol::policy::{BoundPolicy, ChangeRule, change_rule};
use mainstay_replication::protocol::promotion::{
    AcceptorEvent, Beginning, Fencing, Standstill, fencing, held_until, standstill,
};
use mainstay_storage::{Error as StorageError, Lsn, Timeline};

use super::{Done, Node, Role, Trouble, World, broken, cluster, cluster_of, policies};
use crate::sim::net::Packet;

impl Node {
    /// Goes on as the primary it was.
    pub(super) fn begin(&mut self, world: &mut World<'_>) -> Done {
        let life = self.life();
        let timeline = life.wal.timeline();
        let promised = life.wal.control().promised();
        let policies = policies(&life.wal)?;
        let counted = |bound: &BoundPolicy| bound.needed() > 0 && bound.is_satisfiable();
        let replaced = promised.is_some_and(|promised| promised.number > timeline.number);
        // Its operator starts it as a standby, as the refusal says.
        if replaced && policies.iter().all(|bound| bound.needed() == 0) {
            return self.follow(world);
        }
        life.standstill = standstill(Beginning {
            clean: life.wal.was_clean(),
            overlapped: life.wal.must_begin_timeline(),
            promised: replaced,
            counted: policies.iter().any(counted),
        });
        self.lead(Lsn::ZERO, world)
    }

    /// Serves as the primary of the log's timeline.
    pub(super) fn lead(&mut self, began: Lsn, world: &mut World<'_>) -> Done {
        let (name, now) = (self.name.clone(), world.moment());
        if self.life().role == Role::Standby {
            for conn in self.life().sessions.keys().copied().collect::<Vec<_>>() {
                self.hang_up(conn, world);
            }
            if !began.is_zero() {
                self.take_over_slots()?;
            }
        }
        self.look_at_all()?;
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
        let committer = Committer::new(config, now);
        // Without standbys to wait for, what is flushed is committed.
        life.wal.advance_commit(committer.commit());
        life.committer = Some(committer);
        life.cluster = Some(cluster(&life.wal)?);
        life.role = Role::Primary;
        life.receiver = None;
        life.copying = None;
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
    pub(super) fn commit(&mut self, event: CommitEvent, world: &mut World<'_>) -> Done {
        let (now, name) = (world.moment(), self.name.clone());
        let life = self.life();
        let Some(committer) = &mut life.committer else {
            return Ok(());
        };
        let mut actions = Vec::new();
        committer.on(event, now, &mut actions);
        let released = committer.released(Level::RemoteFlush);
        let mut granted = Vec::new();
        for action in actions {
            match action {
                CommitAction::CommitMoved(to) => {
                    life.wal.advance_commit(to);
                    let timeline = life.wal.timeline();
                    world.oracle.confirms(timeline)?;
                    world
                        .oracle
                        .flushed(&name, timeline, life.wal.flushed().get());
                    for policy in committer.binding() {
                        world.oracle.commits(policy, timeline, to)?;
                    }
                }
                CommitAction::VoteGranted { session, .. } => granted.push(session),
                _ => {}
            }
        }
        self.check_shown(released, world)?;
        let life = self.life();
        let rest = life.waiting.split_off(&(released + 1));
        for (end, id) in std::mem::replace(&mut life.waiting, rest) {
            world.oracle.acknowledged(id, end)?;
            world.clients.acknowledged(id, world.now);
        }
        for conn in granted {
            self.grant_vote(conn, world)?;
        }
        Ok(())
    }

    fn grant_vote(&mut self, conn: u64, world: &mut World<'_>) -> Done {
        let life = self.life();
        let (Some(session), Some(cluster)) = (life.sessions.get(&conn), &mut life.cluster) else {
            return Ok(());
        };
        let before = cluster.clone();
        let (name, incarnation) = session.standby();
        let mut known = cluster.standbys.iter_mut();
        if let Some(known) = known.find(|member| member.name == name) {
            known.incarnation = incarnation;
        }
        world.tell(format!("{name} gets its vote"));
        match self.log_config()? {
            Some(end) => self.commit(CommitEvent::VoteLogged { name, end }, world),
            None => {
                self.life().cluster = Some(before);
                Ok(())
            }
        }
    }

    /// Logs the configuration, unless the disk is full or a timeline has to begin first.
    pub(super) fn log_config(&mut self) -> Done<Option<Lsn>> {
        let life = self.life();
        let Some(cluster) = &life.cluster else {
            return broken("only a primary logs a configuration".to_owned());
        };
        let config = cluster.encode();
        let config = config.map_err(|error| Trouble::Broken(error.to_string()))?;
        match life.wal.append_config(config) {
            Ok(range) => Ok(Some(range.end)),
            Err(StorageError::Full { .. } | StorageError::Behind { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Registers a standby before it may count; false when it is to come again.
    pub(super) fn register(&mut self, mut member: Member, world: &mut World<'_>) -> Done<bool> {
        let life = self.life();
        let Some(mut cluster) = life.cluster.clone() else {
            return broken("only a primary registers".to_owned());
        };
        cluster.void_vote(&mut member);
        let old = cluster.bound(Lsn::ZERO);
        let registered = cluster.register(member);
        if !registered.map_err(|error| Trouble::Broken(error.to_string()))? {
            return Ok(true);
        }
        let same = change_rule(&old, &cluster.bound(Lsn::ZERO), false) == ChangeRule::OwnFlush;
        if life.standstill.is_some() && !same {
            return Ok(false);
        }
        let before = life.cluster.replace(cluster.clone());
        if life.wal.must_begin_timeline() {
            return Ok(true);
        }
        let Some(end) = self.log_config()? else {
            self.life().cluster = before;
            return Ok(false);
        };
        let policy = cluster.bound(end);
        let rule = change_rule(&old, &policy, false);
        self.commit(CommitEvent::PolicyLogged { policy, rule }, world)?;
        Ok(true)
    }

    /// An operator sets another policy.
    pub(in crate::sim) fn change_policy(&mut self, text: &str, world: &mut World<'_>) -> Done {
        let life = self.life();
        let may = life.committer.as_ref();
        let may = may.is_some_and(|committer| committer.may_change_policy());
        let Some(cluster) = life
            .cluster
            .as_mut()
            .filter(|_| may && life.standstill.is_none() && life.handover.is_none())
        else {
            return Ok(());
        };
        let policy = text.parse();
        let policy = policy.map_err(|_| Trouble::Broken(format!("no policy: {text}")))?;
        let old = cluster.bound(Lsn::ZERO);
        let before = std::mem::replace(&mut cluster.policy, policy);
        let bound = cluster.bound(Lsn::ZERO);
        let possible = bound.is_satisfiable() || bound.counts_voters();
        let logged = match possible && before != cluster.policy {
            true => self.log_config()?,
            false => None,
        };
        let Some(cluster) = &mut self.life().cluster else {
            return Ok(());
        };
        let Some(end) = logged else {
            cluster.policy = before;
            return Ok(());
        };
        let policy = cluster.bound(end);
        let rule = change_rule(&old, &policy, false);
        world.tell(format!("{} is told: {text}, {rule:?}", self.name));
        self.commit(CommitEvent::PolicyLogged { policy, rule }, world)?;
        self.pump(world)
    }

    /// Somebody claims a timeline that this node may not know.
    pub(in crate::sim) fn claimed(
        &mut self,
        timeline: Timeline,
        opened: bool,
        world: &mut World<'_>,
    ) -> Done {
        let life = self.life();
        if life.role != Role::Primary {
            return Ok(());
        }
        match fencing(&life.wal.history(), timeline, opened) {
            Fencing::Ignore => Ok(()),
            Fencing::AskAbove(_)
                if life.standstill.is_some()
                    && life.wal.control().attempted() == Some(timeline) =>
            {
                Ok(())
            }
            Fencing::AskAbove(_) => {
                let name = &self.name;
                world.tell(format!(
                    "{name} stops confirming, since {timeline} was promised"
                ));
                self.suspend(world)
            }
            Fencing::Fence(theirs) => {
                world.tell(format!("{} is fenced by {theirs}", self.name));
                self.step_down(world)?;
                self.note(AcceptorEvent::Replaced(theirs))
            }
        }
    }

    /// Tells every other node of this primary's timeline.
    pub(in crate::sim) fn tell_others(&mut self, world: &mut World<'_>) -> Done {
        let timeline = self.life().wal.timeline();
        let own = self.index;
        for other in (0..world.up.len()).filter(|other| *other != own) {
            self.cast(other, Packet::Opened(timeline), world);
        }
        Ok(())
    }

    /// Confirms nothing before it has asked for a higher timeline.
    pub(super) fn suspend(&mut self, world: &mut World<'_>) -> Done {
        let pause = 100_000 + world.random.below(400_000);
        let ask_at = world.local + pause;
        let life = self.life();
        if life.standstill.is_none() {
            life.standstill = Some(Standstill::Outbid);
            (life.asked, life.ask_at) = (0, ask_at);
        }
        self.commit(CommitEvent::Suspended(true), world)
    }

    /// Follows from now on.
    pub(in crate::sim) fn step_down(&mut self, world: &mut World<'_>) -> Done {
        for conn in self.life().sessions.keys().copied().collect::<Vec<_>>() {
            self.hang_up(conn, world);
        }
        let life = self.life();
        life.committer = None;
        life.cluster = None;
        life.standstill = None;
        life.candidate = None;
        life.handover = None;
        // What waits ends as unknown.
        for id in std::mem::take(&mut life.waiting).into_values() {
            world.clients.unknown(id);
        }
        self.follow(world)
    }

    /// Whether this node's data have the vote of its name, whoever counts it.
    pub(in crate::sim) fn has_vote(&mut self) -> Done<bool> {
        let name = self.name.clone();
        let wal = &self.life().wal;
        let cluster = cluster_of(wal)?;
        Ok(cluster.is_some_and(|cluster| cluster.has_vote(&name, wal.identity().incarnation)))
    }

    /// Whether this node's data lack the vote of its name.
    pub(super) fn lacks_vote(&mut self) -> Done<bool> {
        let name = self.name.clone();
        let wal = &self.life().wal;
        let (own, policies) = (wal.identity().incarnation, policies(wal)?);
        let cluster = cluster_of(wal)?;
        Ok(cluster.is_some_and(|cluster| cluster.lacks_vote(&name, own, &policies)))
    }
}
