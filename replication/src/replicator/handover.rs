//! Changing sides: handing the primary's place to a standby while both are well, and learning that
//! this node's log cannot follow any more.

use std::sync::atomic::Ordering;

use mainstay_storage::Lsn;
use tokio::sync::mpsc;

use super::WalReplicator;
use crate::config::{Role, StandbyState, StreamState, UpstreamState};
use crate::error::{Error, Result};
use crate::protocol::name::NodeName;
use crate::runtime::{
    Divergence, HandedOver, SlotState, TakeOverRequest, ask_to_take_over, take_over_requests,
    until_flushed,
};

impl WalReplicator {
    /// The standby that a switchover would hand the primary's place to: the one named, or the one
    /// that is furthest.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::NotPrimary`]; [`Error::Refused`] when no such standby is
    /// streaming.
    pub fn switchover_target(&self, name: Option<&str>) -> Result<StandbyState> {
        if !self.core()?.is_primary() {
            return Err(Error::NotPrimary);
        }
        let wanted = |state: &StandbyState| name.is_none_or(|name| state.name.as_str() == name);
        let states = self.standby_states();
        let known = states.iter().filter(|state| wanted(state));
        let streaming = known
            .clone()
            .filter(|state| state.state == StreamState::Streaming);
        let best = streaming.max_by_key(|state| state.flush_lsn).cloned();
        best.ok_or_else(|| {
            Error::Refused(match (name, known.count()) {
                (Some(name), 0) => format!("no standby is named {name}"),
                (Some(name), _) => format!("standby {name} is not streaming"),
                (None, _) => "no standby is streaming".to_owned(),
            })
        })
    }

    /// Waits until the standby `name` has flushed everything in this log, to which nothing may be
    /// appended meanwhile.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Refused`] when that takes too long.
    pub async fn until_flushed_by(&self, name: &str) -> Result<Lsn> {
        let core = self.core()?;
        let end = core.wal.appended();
        until_flushed(&core, &named(name)?, end).await?;
        Ok(end)
    }

    /// Asks the standby `name` to take over from this primary, whose writes are held; once it has,
    /// this node is no primary any more.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::NotPrimary`]; [`Error::Refused`] when its address is not
    /// known.
    pub async fn hand_over(&self, name: &str) -> Result<HandedOver> {
        let core = self.core()?;
        if !core.is_primary() {
            return Err(Error::NotPrimary);
        }
        let address = core.cluster().address_of(&named(name)?).map(str::to_owned);
        let address =
            address.ok_or_else(|| Error::Refused(format!("the address of {name} is not known")))?;
        let end = core.wal.appended();
        core.peers.handing_over.store(true, Ordering::Release);
        let handed = ask_to_take_over(&core, &address, end).await;
        let opened = matches!(handed, HandedOver::Opened { .. });
        if opened {
            core.set_successor(name.to_owned(), address);
            core.step_down(Role::Fenced);
        }
        // Not before: the new primary tells of its timeline at the same time.
        core.peers.handing_over.store(false, Ordering::Release);
        if !opened && core.role() == Role::Fenced {
            core.tell_fenced(None);
        }
        Ok(handed)
    }

    /// Stops being the primary, without knowing of another: until this node is told whom to
    /// follow, or is started again, it accepts nothing.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn fence(&self) -> Result<()> {
        let core = self.core()?;
        if core.is_primary() {
            core.step_down(Role::Fenced);
            core.tell_fenced(None);
        }
        Ok(())
    }

    /// The node that this standby follows, as it sees it; `None` on any other.
    pub fn upstream_state(&self) -> Option<UpstreamState> {
        let core = self.core().ok()?;
        (core.role() == Role::Standby).then(|| core.upstream_state())
    }

    /// Tells of every change of role.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn role_changes(&self) -> Result<tokio::sync::watch::Receiver<Role>> {
        Ok(self.core()?.role.subscribe())
    }

    /// Tells when this node's log cannot follow any more, and what takes it back.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn divergence(&self) -> Result<tokio::sync::watch::Receiver<Option<Divergence>>> {
        Ok(self.core()?.diverged.subscribe())
    }

    /// The slots: those of this node, and on a standby those of the primary that it carries.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn slots(&self) -> Result<Vec<SlotState>> {
        Ok(self.core()?.slot_states())
    }

    /// Drops a slot, durably, so that no log is kept for it any more. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Slot`] when it does not exist or is in use; disk errors.
    pub fn drop_slot(&self, name: &str) -> Result<()> {
        Ok(self.core()?.drop_slot(name)??)
    }

    /// Where requests to take the primary's place arrive; whoever holds this promotes the node.
    /// The requests of an earlier call then arrive here.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn take_over_requests(&self) -> Result<mpsc::Receiver<TakeOverRequest>> {
        let core = self.core()?;
        let (tell, told) = take_over_requests();
        *core.take_over.lock() = Some(tell);
        Ok(told)
    }
}

pub(super) fn named(name: &str) -> Result<NodeName> {
    name.parse()
        .map_err(|error| Error::Invalid(format!("{error}")))
}
