//! Serving as primary: how it begins and ends, and what the commit machine is told and says.
//!
//! Whoever learns something that bears on commits brings it here as an event; the machine decides
//! under the core's lock, and its actions are carried out before the lock is given back, so that
//! they take effect in the order in which they were decided. What a claim of another timeline
//! means is decided by `fencing`.
//!
//! It refuses to know connections and bytes; it never waits.

use mainstay_storage::{Lsn, Timeline};

use super::{Core, State, policy};
use crate::cluster::ClusterConfig;
use crate::config::Role;
use crate::error::{Error, Result};
use crate::event::ReplicationEvent;
use crate::protocol::commit::{Action, CommitConfig, Committer, Condition, Event};
use crate::protocol::policy::BoundPolicy;
use crate::protocol::promotion::{Beginning, Fencing, Standstill, fencing, held_until, standstill};
use crate::time::Moment;

impl Core {
    /// Notes whether this primary, which starts, must ask before it confirms or streams anything.
    ///
    /// # Errors
    /// When the configuration cannot be read, or asks for a policy that can never be met.
    pub(crate) fn begin(&self) -> Result<()> {
        let timeline = self.wal.timeline();
        let promised = self.wal.control().promised();
        let policies = self.policies()?;
        if let Some(configured) = &self.config.sync {
            let mut cluster = self.cluster();
            cluster.policy = configured.clone();
            cluster.primary = self.me();
            policy::check(&cluster.bound(Lsn::ZERO), &self.name)?;
        }
        let counted = |bound: &BoundPolicy| bound.needed() > 0 && bound.is_satisfiable();
        let newer = promised.filter(|promised| promised.number > timeline.number);
        // With nobody to ask it would open a timeline above the one that replaced it.
        if let Some(newer) = newer
            && policies.iter().all(|bound| bound.needed() == 0)
        {
            return Err(self.replaced_by(newer));
        }
        let standstill = standstill(Beginning {
            clean: self.wal.was_clean(),
            overlapped: self.wal.must_begin_timeline(),
            promised: newer.is_some(),
            counted: policies.iter().any(counted),
        });
        self.standstill.send_replace(standstill);
        Ok(())
    }

    fn replaced_by(&self, newer: Timeline) -> Error {
        let (dir, number) = (self.wal.dir().display(), newer.number);
        Error::Refused(format!(
            "{dir} is a primary's that was replaced: timeline {number} was opened elsewhere, \
             or promised to another node. Starting it as a primary could run two primaries at once. Start it with --follow and \
             the address of the new primary; if that is gone for good, promote this node then"
        ))
    }

    /// The policies that bind in this node's log, oldest first.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub(crate) fn policies(&self) -> Result<Vec<BoundPolicy>> {
        let mut policies = Vec::new();
        for (bytes, end) in self.wal.binding_configs(self.wal.commit().get()) {
            policies.extend(ClusterConfig::decode(&bytes)?.map(|config| config.bound(end)));
        }
        Ok(policies)
    }

    /// Begins to serve as the primary of the current timeline, unless this node is no `was` any
    /// more. `began` is the end of its NewTimeline entry if it was opened just now, else zero.
    ///
    /// # Errors
    /// When the configuration cannot be read or logged.
    pub(crate) fn become_primary(&self, was: &Role, began: Lsn) -> Result<()> {
        let commit = self.wal.commit().get();
        let mut cluster = self.cluster();
        let mut policies = self.policies()?;
        let waits = began.is_zero() && self.standstill.borrow().is_some();
        let (me, chosen) = (self.me(), self.state.lock().chosen.clone());
        let policy = chosen.unwrap_or_else(|| cluster.policy.clone());
        let current = cluster.primary == me && cluster.policy == policy;
        // Whoever must ask first opens a timeline then, and says so with it.
        if policies.is_empty() || !(current || waits) {
            cluster.take_over(me);
            cluster.policy = policy;
            let end = self.log_config(&cluster)?;
            policies.push(cluster.bound(end));
        }
        let flushed = self.wal.flushed().get();
        let config = CommitConfig {
            name: self.name.clone(),
            timeline: self.wal.timeline(),
            flushed,
            commit,
            hold_until: match began.is_zero() {
                true => held_until(&self.wal.history(), commit, flushed),
                false => began,
            },
            policies,
            on_miss: self.config.on_miss,
        };
        let opened = !began.is_zero();
        if opened && *was != Role::Primary {
            self.take_over_slots();
        }
        self.serve(was, cluster, config, opened);
        self.log_slots(false);
        if waits {
            tracing::warn!("this primary must ask the members before it confirms anything");
            self.suspend(Standstill::Outbid);
        }
        self.commit_event(Event::Flushed(self.wal.flushed().get()));
        Ok(())
    }

    fn serve(&self, was: &Role, cluster: ClusterConfig, config: CommitConfig, opened: bool) {
        let follows = config.policies.iter().all(|bound| bound.needed() == 0);
        let mut state = self.state.lock();
        // One that was fenced while it opened a timeline stays so.
        if self.role() != *was {
            return;
        }
        state.cluster = cluster;
        if let Some(newest) = config.policies.last() {
            self.warn_of_unknown(&state.cluster, newest);
        }
        state.committer = Some(Committer::new(config, self.clock.now()));
        state.samples.clear();
        self.wal.set_commit_follows(follows);
        self.show_standing(&state);
        if opened {
            self.standstill.send_replace(None);
        }
        self.role.send_replace(Role::Primary);
        drop(state);
        tracing::info!(timeline = %self.wal.timeline(), "serving as primary");
    }

    /// Confirms nothing from now on, and asks before it goes on.
    pub(crate) fn suspend(&self, why: Standstill) {
        self.commit_event(Event::Suspended(true));
        self.wal.set_commit_follows(false);
        self.standstill.send_if_modified(|standstill| {
            let asks = standstill.is_some();
            standstill.get_or_insert(why);
            !asks
        });
    }

    /// Whether this primary crashed and has not been told yet that it may go on: it streams
    /// nothing.
    pub(crate) fn is_restarting(&self) -> bool {
        self.is_primary() && *self.standstill.borrow() == Some(Standstill::Crashed)
    }

    /// What this primary waits for before it confirms anything, if it has to ask.
    pub(super) fn halted(&self) -> Option<String> {
        let standstill = (*self.standstill.borrow()).filter(|_| self.is_primary())?;
        let (why, way_out) = match standstill {
            Standstill::Crashed => (
                "this primary crashed",
                "; if they are gone for good, mainstay policy set off --force",
            ),
            Standstill::Outbid => ("another node was promised this primary's place", ""),
        };
        let writes = match self.wal.must_begin_timeline() {
            true => "nothing can be written",
            false => "no commit is confirmed",
        };
        Some(format!(
            "{why}, and asks the members of its policy whether it may go on; {writes} until enough \
             agree. Start them{way_out}"
        ))
    }

    /// Stops serving as primary.
    pub(crate) fn step_down(&self, role: Role) {
        let mut state = self.state.lock();
        state.retired = state.committer.take().or(state.retired.take());
        self.standing
            .send_modify(|standing| standing.condition = Condition::Met);
        self.wal.set_commit_follows(false);
        self.role.send_replace(role);
        self.standstill.send_replace(None);
    }

    pub(super) fn log_config(&self, cluster: &ClusterConfig) -> Result<Lsn> {
        let _appending = self.appending()?;
        Ok(self.wal.append_config(cluster.encode()?)?.end)
    }

    /// Brings an event to the commit machine and carries out what follows.
    pub(crate) fn commit_event(&self, event: Event) {
        self.decide(&mut self.state.lock(), event);
    }

    /// As [`commit_event`](Self::commit_event), for whoever holds the lock.
    pub(super) fn decide(&self, state: &mut State, event: Event) {
        let now = self.clock.now();
        if let Event::Flushed(to) = event {
            state.samples.record(to, now);
        }
        let Some(committer) = &mut state.committer else {
            return;
        };
        let mut actions = Vec::new();
        committer.on(event, now, &mut actions);
        for action in actions {
            self.observer.commits(&action);
            self.carry_out(action, state);
        }
        self.show_standing(state);
    }

    fn carry_out(&self, action: Action, state: &mut State) {
        match action {
            Action::CommitMoved(to) => self.wal.advance_commit(to),
            Action::WrittenMoved(to) => self.remote_written.raise(to),
            Action::AppliedMoved(to) => self.remote_applied.raise(to),
            Action::PolicySettled(policy) => {
                tracing::info!(policy = %policy.policy(), "the synchronous policy is in force");
            }
            Action::VoteGranted { name, session } => self.grant_vote(&name, session, state),
            Action::CountsAgain(name) => {
                tracing::info!(%name, "the standby has caught up and has a vote again");
            }
            other => tracing::info!(event = ?other, "synchronous replication"),
        }
    }

    /// When the commit machine wants a tick.
    pub(crate) fn commit_deadline(&self) -> Option<Moment> {
        self.state.lock().committer.as_ref()?.deadline()
    }

    /// Somebody claims a timeline that this node does not know.
    pub(crate) fn claimed(&self, timeline: Timeline, opened: bool) {
        let fencing = fencing(&self.wal.history(), timeline, opened);
        if let Fencing::Fence(theirs) = fencing
            && self.role() != Role::Standby
        {
            // The newest one, whatever is told first: the task that remembers sees the last alone.
            self.replaced.send_if_modified(|known| {
                let newer = known.is_none_or(|known| known.number < theirs.number);
                if newer {
                    *known = Some(theirs);
                }
                newer
            });
        }
        match fencing {
            Fencing::Ignore => {}
            // Asking for it is under way, or its members will be asked for more.
            Fencing::AskAbove(_) if self.asks_for(timeline) => {}
            Fencing::AskAbove(_) if self.is_primary() => {
                tracing::warn!(%timeline, "a newer timeline was promised elsewhere; commits wait");
                self.observer.tell(ReplicationEvent::Suspended);
                self.suspend(Standstill::Outbid);
            }
            Fencing::AskAbove(_) => {}
            Fencing::Fence(theirs) if self.is_primary() => {
                tracing::error!(%theirs, "a newer timeline was opened elsewhere; this node is fenced");
                self.step_down(Role::Fenced);
                self.tell_fenced(Some(theirs));
            }
            Fencing::Fence(_) => {}
        }
    }

    /// Whether this node asks for `timeline`, or for one above it. What it asked for in an earlier
    /// life does not count: nobody asks for that any more, and who promised it waits.
    fn asks_for(&self, timeline: Timeline) -> bool {
        let asks = !self.is_primary() || self.standstill.borrow().is_some();
        asks && self.wal.control().attempted() == Some(timeline)
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
}
