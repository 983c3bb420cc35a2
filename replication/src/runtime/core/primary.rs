//! Serving as primary: how it begins and ends, and what the commit machine is told and says.
//!
//! Whoever learns something that bears on commits brings it here as an event; the machine decides
//! under the core's lock, and its actions are carried out before the lock is given back, so that
//! they take effect in the order in which they were decided. What a claim of another timeline
//! means is decided by `fencing`.
//!
//! It refuses to know connections and bytes; it never waits.

use mainstay_storage::{Lsn, Timeline};

use super::{Core, State};
use crate::cluster::ClusterConfig;
use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::commit::{Action, CommitConfig, Committer, Event};
use crate::protocol::promotion::{Fencing, fencing};
use crate::time::Moment;

impl Core {
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

    pub(super) fn log_config(&self, cluster: &ClusterConfig) -> Result<Lsn> {
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

    /// When the commit machine wants a tick.
    pub(crate) fn commit_deadline(&self) -> Option<Moment> {
        self.state.lock().committer.as_ref()?.deadline()
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
