//! The synchronous policy of a running primary: how it stands, and how it is changed.
//!
//! A change is an entry of the log like any other: from the moment it is in there until it is known
//! committed, the old and the new policy both bind. Here it is logged and brought to the commit
//! machine under one lock, so that nothing is confirmed in between by the old one alone.
//!
//! It refuses to know who asks, and it never waits.

use mainstay_storage::Lsn;

use super::{Core, State};
use crate::cluster::ClusterConfig;
use crate::error::{Error, Result};
use crate::policy::{PolicyStatus, SyncStanding};
use crate::protocol::commit::{Committer, Confirmation, Event};
use crate::protocol::level::Level;
use crate::protocol::name::NodeName;
use crate::protocol::policy::{BoundPolicy, ChangeRule, SyncPolicy, change_rule};

/// What is to become different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PolicyOrder {
    /// The policy.
    Set(SyncPolicy),
    /// The registration of a standby that is gone.
    Remove(NodeName),
}

/// A change that is in the log.
#[derive(Debug, Clone)]
pub(crate) struct PolicyLogged {
    /// End of its entry.
    pub(crate) end: Lsn,
    /// The policies that bound before.
    pub(crate) before: Vec<BoundPolicy>,
}

impl Core {
    /// Logs a change of policy or voters; see the module.
    ///
    /// # Errors
    /// [`Error::NotPrimary`]; [`Error::Refused`] and [`Error::Invalid`] with the way out, when
    /// nothing was logged.
    pub(crate) fn change_policy(&self, order: &PolicyOrder, force: bool) -> Result<PolicyLogged> {
        let mut state = self.state.lock();
        let Some(committer) = &state.committer else {
            return Err(Error::NotPrimary);
        };
        self.may_change(committer, force)?;
        let before = committer.binding().cloned().collect::<Vec<_>>();
        let mut cluster = state.cluster.clone();
        match order {
            PolicyOrder::Set(policy) => cluster.policy = policy.clone(),
            PolicyOrder::Remove(name) => remove(&state, &mut cluster, name)?,
        }
        check(&cluster.bound(Lsn::ZERO), &self.name)?;
        let newest = before.last().map(BoundPolicy::config_end);
        if cluster == state.cluster && (before.len() == 1 || !force) {
            let end = newest.unwrap_or_default();
            return Ok(PolicyLogged { end, before });
        }
        if let Some(short) = committer.unsatisfiable().filter(|_| !force) {
            return Err(never_confirmed(short));
        }
        // Before the entry is in the log, since it may be flushed before this returns.
        self.wal.set_commit_follows(false);
        let end = self.log_config(&cluster).inspect_err(|_| {
            self.wal
                .set_commit_follows(!self.standing.borrow().synchronous);
        })?;
        let policy = cluster.bound(end);
        let rule = match force {
            true => ChangeRule::Forced,
            false => change_rule(&state.cluster.bound(Lsn::ZERO), &policy, false),
        };
        tracing::warn!(policy = %policy.policy(), force, ?order, "the synchronous policy changes");
        self.warn_of_unknown(&cluster, &policy);
        if let (PolicyOrder::Set(policy), Some(chosen)) = (order, &mut state.chosen) {
            *chosen = policy.clone();
        }
        state.cluster = cluster;
        self.decide(&mut state, Event::PolicyLogged { policy, rule });
        Ok(PolicyLogged { end, before })
    }

    fn may_change(&self, committer: &Committer, force: bool) -> Result<()> {
        if self.standstill.borrow().is_some() {
            let why = "this primary asks the members whether it may go on; try again when it does";
            return Err(Error::Refused(why.to_owned()));
        }
        if !force && !committer.may_change_policy() && committer.unsatisfiable().is_none() {
            let why = "earlier changes of the policy are not confirmed yet; start the standbys \
                       that they wait for, or use force, which puts an end to all of them";
            return Err(Error::Refused(why.to_owned()));
        }
        Ok(())
    }

    /// Says which standbys the policy counts that nobody has seen yet.
    pub(super) fn warn_of_unknown(&self, cluster: &ClusterConfig, policy: &BoundPolicy) {
        let unknown = unknown(cluster, policy, &self.name);
        if !unknown.is_empty() {
            let unknown = listed(&unknown);
            tracing::warn!(
                policy = %policy.policy(), %unknown,
                "the synchronous policy counts standbys that never came; commits wait until enough \
                 are there"
            );
        }
    }

    /// Shows how the policy stands, after something was decided.
    pub(super) fn show_standing(&self, state: &State) {
        let Some(committer) = &state.committer else {
            return;
        };
        for (signal, level) in self.confirmed.iter().zip(&Level::ALL[2..]) {
            signal.raise(committer.confirmed(*level));
        }
        let synchronous = committer.is_synchronous();
        let changed = self.standing.send_if_modified(|standing| {
            let now = SyncStanding {
                synchronous,
                condition: committer.condition(),
                on_miss: self.config.on_miss,
                policy: state.cluster.policy.clone(),
                in_force_from: committer.binding().next().map(BoundPolicy::config_end),
            };
            let changed = *standing != now;
            *standing = now;
            changed
        });
        if changed && !synchronous && !committer.is_suspended() {
            self.wal.set_commit_follows(true);
        }
    }

    /// What a receipt may state for a commit that ends at `end` and was released at `wanted`.
    pub(crate) fn confirmation(&self, wanted: Level, end: Lsn) -> Confirmation {
        let state = self.state.lock();
        let known = state.committer.as_ref().or(state.retired.as_ref());
        let known = known.map(|committer| committer.confirmation(wanted, end));
        known.unwrap_or(Confirmation {
            level: wanted.min(Level::Local),
            standbys: Vec::new(),
        })
    }

    /// Whom the policy counts and who has flushed everything up to `end`.
    pub(crate) fn holders(&self, end: Lsn) -> Vec<NodeName> {
        let state = self.state.lock();
        let committer = state.committer.as_ref();
        committer.map_or_else(Vec::new, |committer| committer.flushed_by(end))
    }

    /// The policy that this node sets when it opens a timeline, if it sets one.
    pub(crate) fn chosen_policy(&self) -> Option<SyncPolicy> {
        self.state.lock().chosen.clone()
    }

    /// Whether a policy that counts anybody binds.
    pub(crate) fn is_synchronous(&self) -> bool {
        let policy = self.cluster().policy;
        match &self.state.lock().committer {
            Some(committer) => committer.is_synchronous(),
            None => policy.needed() > 0,
        }
    }

    /// The policy with everything that an operator asks about it.
    pub(crate) fn policy_status(&self) -> PolicyStatus {
        let cluster = self.cluster();
        let now = self.clock.now();
        let bound = cluster.bound(Lsn::ZERO);
        let state = self.state.lock();
        let status = state.committer.as_ref().map(Committer::status);
        let counts = |name: &NodeName| {
            let parts = status.iter().flat_map(|status| &status.standbys);
            let mut parts = parts.filter(|part| part.counts);
            name == &self.name || parts.any(|part| &part.name == name)
        };
        let binding = status.iter().flat_map(|status| &status.policies);
        PolicyStatus {
            on_miss: self.config.on_miss,
            binding: binding.map(|bound| bound.policy().clone()).collect(),
            present: bound.counted().iter().filter(|name| counts(name)).count(),
            counted: bound.counted().to_vec(),
            unknown: unknown(&cluster, &bound, &self.name),
            waiting: status.as_ref().and_then(|status| {
                let since = status.waiting_since?;
                Some(now - since)
            }),
            missed_for: status.as_ref().and_then(|status| status.missed_for(now)),
            condition: status.as_ref().map(|status| status.condition),
            suspended: status.is_some_and(|status| status.suspended),
            registered: cluster
                .standbys
                .iter()
                .map(|one| one.name.clone())
                .collect(),
            policy: cluster.policy,
        }
    }
}

/// Why nothing can be changed while `short` binds.
fn never_confirmed(short: &BoundPolicy) -> Error {
    let (policy, counted) = (short.policy(), short.counted().len());
    Error::Refused(format!(
        "the policy {policy} counts {counted} standbys, too few to confirm anything, a change \
         included; let enough standbys come first, or use force"
    ))
}

/// Takes the registration of `name` out of `cluster`.
fn remove(state: &State, cluster: &mut ClusterConfig, name: &NodeName) -> Result<()> {
    if state.standbys.get(name).is_some_and(|standby| standby.open) {
        return Err(Error::Refused(format!(
            "standby {name} is connected, and would register again; stop it for good first"
        )));
    }
    if !cluster.remove(name) {
        let known = cluster.standbys.iter().map(|one| one.name.clone());
        let known = listed(&known.collect::<Vec<_>>());
        return Err(Error::Invalid(format!(
            "no standby is registered as {name}; registered: {known}"
        )));
    }
    Ok(())
}

/// Refuses a policy that can never be met.
pub(super) fn check(bound: &BoundPolicy, own: &NodeName) -> Result<()> {
    if bound.is_satisfiable() || bound.counts_voters() {
        return Ok(());
    }
    let (policy, needed, counted) = (bound.policy(), bound.needed(), bound.counted().len());
    Err(Error::Invalid(format!(
        "sync policy {policy} can never be met: it asks for {needed} standbys and, as {own} does \
         not confirm its own commits, lists {counted}; list more, ask for fewer, or use `*`"
    )))
}

fn unknown(cluster: &ClusterConfig, policy: &BoundPolicy, own: &NodeName) -> Vec<NodeName> {
    let counted = policy.counted().iter();
    let unknown = counted.filter(|name| *name != own && cluster.standby(name).is_none());
    unknown.cloned().collect()
}

/// Names as a sentence has them.
pub(crate) fn listed(names: &[NodeName]) -> String {
    match names {
        [] => "none".to_owned(),
        names => {
            let names = names.iter().map(NodeName::as_str);
            names.collect::<Vec<_>>().join(", ")
        }
    }
}
