//! The synchronous policy as the outside sees it: how it stands, what was confirmed, changing it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mainstay_storage::Lsn;
use tokio::sync::watch;
use tokio::time::timeout;

use super::WalReplicator;
use super::handover::named;
use crate::error::{Error, Result};
use crate::policy::{PolicyChange, PolicyStatus, SyncStanding};
use crate::protocol::commit::Confirmation;
use crate::protocol::level::Level;
use crate::protocol::name::NodeName;
use crate::protocol::policy::{BoundPolicy, SyncPolicy};
use crate::protocol::promotion::Standstill;
use crate::runtime::{Core, PolicyLogged, PolicyOrder, listed, promote};

/// How long an order waits until its change binds alone, before it answers that it does not yet.
const SETTLE_WAIT: Duration = Duration::from_secs(2);

/// Tells what was really confirmed of a commit. Keeps nothing alive.
#[derive(Debug, Clone)]
pub struct Confirmer(Weak<Core>);

impl Confirmer {
    /// What can be said now of a commit that ends at `end` and was released at `wanted`. Nothing
    /// beyond own disk once the replicator has stopped.
    pub fn confirmation(&self, wanted: Level, end: Lsn) -> Confirmation {
        match self.0.upgrade() {
            Some(core) => core.confirmation(wanted, end),
            None => Confirmation {
                level: wanted.min(Level::Local),
                standbys: Vec::new(),
            },
        }
    }
}

impl WalReplicator {
    /// Tells what was really confirmed of a commit, also after it was let through while degraded.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn confirmer(&self) -> Result<Confirmer> {
        Ok(Confirmer(Arc::downgrade(&self.core()?)))
    }

    /// Tells how the policy stands, whenever that changes on this primary.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn sync_standing(&self) -> Result<watch::Receiver<SyncStanding>> {
        Ok(self.core()?.standing.subscribe())
    }

    /// The policy with everything that an operator asks about it.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn policy_status(&self) -> Result<PolicyStatus> {
        Ok(self.core()?.policy_status())
    }

    /// Whether a synchronous policy is in force.
    pub fn is_synchronous(&self) -> bool {
        let core = self.inner.core.read().clone();
        core.is_some_and(|core| core.is_synchronous())
    }

    /// Sets who must confirm a commit, by an entry in the log. It counts from then on; until the
    /// entry is known committed the old policy counts too. `force` lets the new one take its place
    /// as soon as the entry is on this node's disk: the way out when a standby is gone for good.
    /// The answer then names the members that could still promote themselves without the change. On
    /// a primary that crashed and waits for members it ends that wait too, unless one of the nodes
    /// it knows is the primary by now.
    ///
    /// A policy may count standbys that never came; commits then wait until they do.
    ///
    /// # Errors
    /// [`Error::NotPrimary`]; [`Error::Invalid`] for a policy that can never be met;
    /// [`Error::Refused`] while earlier changes are not confirmed, without `force`, and while this
    /// primary must ask whether it may go on. Nothing was changed then.
    pub async fn set_policy(&self, policy: SyncPolicy, force: bool) -> Result<PolicyChange> {
        self.change_policy(PolicyOrder::Set(policy), force).await
    }

    /// Takes the registration of a standby that is gone for good out of the log, so that `*` does
    /// not count it any more. As a change of policy, with the same `force`.
    ///
    /// # Errors
    /// As [`set_policy`](Self::set_policy); [`Error::Refused`] while the standby is connected,
    /// [`Error::Invalid`] when none is registered under this name.
    pub async fn remove_standby(&self, name: &str, force: bool) -> Result<PolicyChange> {
        self.change_policy(PolicyOrder::Remove(named(name)?), force)
            .await
    }

    async fn change_policy(&self, order: PolicyOrder, force: bool) -> Result<PolicyChange> {
        let core = self.core()?;
        if force && *core.standstill.borrow() == Some(Standstill::Crashed) {
            promote::go_on_alone(&core).await?;
        }
        let logged = core.change_policy(&order, force)?;
        let flushed = core.wal.flushed().wait(logged.end).await;
        flushed.map_err(|_| Error::NotRunning)?;
        let mut standing = core.standing.subscribe();
        let settled = standing.wait_for(|standing| standing.in_force_from >= Some(logged.end));
        let in_force = matches!(timeout(SETTLE_WAIT, settled).await, Ok(Ok(_)));
        let status = core.policy_status();
        let mut may_promote = Vec::new();
        if force {
            let holders = core.holders(logged.end);
            let before = logged.before.iter();
            may_promote = unaware(before, &holders, &core.name);
        }
        let notices = notices(&order, &status, &logged, in_force, &may_promote);
        Ok(PolicyChange {
            policy: status.policy,
            lsn: logged.end,
            in_force,
            may_promote,
            notices,
        })
    }
}

/// Those who could still promote themselves under one of the policies before: enough that the
/// policy counts do not hold the change.
fn unaware<'a>(
    before: impl Iterator<Item = &'a BoundPolicy>,
    holders: &[NodeName],
    own: &NodeName,
) -> Vec<NodeName> {
    let mut unaware = Vec::new();
    for policy in before.filter(|policy| policy.needed() > 0) {
        let counted = policy.counted().iter();
        let without = counted.filter(|name| *name != own && !holders.contains(name));
        let without = without.cloned().collect::<Vec<_>>();
        if without.len() >= policy.promises_needed() {
            unaware.extend(without);
        }
    }
    unaware.sort();
    unaware.dedup();
    unaware
}

fn notices(
    order: &PolicyOrder,
    status: &PolicyStatus,
    logged: &PolicyLogged,
    in_force: bool,
    may_promote: &[NodeName],
) -> Vec<String> {
    let mut notices = Vec::new();
    if !may_promote.is_empty() {
        notices.push(format!(
            "{} could still promote themselves under the old policy, without this change and \
             without what is committed from now on; make sure that they never come back as they \
             are: empty their data directories",
            listed(may_promote)
        ));
    }
    if !in_force {
        let before = logged.before.iter();
        let before = before.map(|bound| bound.policy().to_string());
        notices.push(format!(
            "not in force yet: until it is confirmed, {} binds too; if standbys that it counts \
             are gone for good, give the order again with force",
            before.collect::<Vec<_>>().join(" and ")
        ));
    }
    if !status.unknown.is_empty() {
        notices.push(format!(
            "{} never registered; commits wait until enough of {} are there",
            listed(&status.unknown),
            status.policy
        ));
    } else if status.present < status.policy.needed() {
        notices.push(format!(
            "{} of {} standbys of {} are there; commits wait until they are",
            status.present,
            status.policy.needed(),
            status.policy
        ));
    }
    if let PolicyOrder::Remove(name) = order
        && status.counted.contains(name)
    {
        notices.push(format!(
            "{} names {name}, and goes on counting it; set another policy",
            status.policy
        ));
    }
    notices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<NodeName> {
        let names = text.split(' ').filter(|name| !name.is_empty());
        names.map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn those_are_named_who_could_promote_themselves_without_a_forced_change() {
        for (policy, holders, expected) in [
            // All but k-1 of those counted must be unaware.
            ("ANY 1 (b, c)", "", "b c"),
            ("ANY 1 (b, c)", "c", ""),
            ("ANY 2 (b, c, d)", "d", "b c"),
            ("ANY 2 (b, c, d)", "b d", ""),
            ("FIRST 1 (b, a)", "", "b"),
            ("off", "", ""),
        ] {
            let own = "a".parse().unwrap();
            let bound = BoundPolicy::new(policy.parse().unwrap(), &[], &own, Lsn::ZERO);
            let found = unaware([&bound].into_iter(), &names(holders), &own);
            assert_eq!(found, names(expected), "{policy} held by {holders:?}");
        }
    }
}
