//! Replacing a primary that is gone, asked of any standby.

use mainstay_storage::Lsn;

use super::handover::named;
use super::{Promotion, WalReplicator};
use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::promotion::{PossibleLoss, choose};
use crate::runtime::{PromoteOptions, order_to_take_over, survey};

/// Who is to replace the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Its name.
    pub name: String,
    /// Where it can be reached.
    pub address: String,
    /// It is this node itself.
    pub own: bool,
    /// Why this one, in words.
    pub why: String,
    /// What may be lost with it, as far as this node knows.
    pub possible_loss: PossibleLoss,
}

impl WalReplicator {
    /// The node that should replace the primary: the one named, or the one with the newest log of
    /// all members that answer. Nothing is changed, and nobody is bound.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; [`Error::Refused`] on a primary and a fenced node, beside a living
    /// primary unless that is forced, and when nobody can be chosen.
    pub async fn successor(&self, to: Option<&str>, options: &PromoteOptions) -> Result<Successor> {
        let core = self.core()?;
        match core.role() {
            Role::Standby => {}
            Role::Primary => {
                let text = "this node is the primary, and alive; to hand its place over, ask it for \
                            a switchover";
                return Err(Error::Refused(text.to_owned()));
            }
            Role::Fenced => return Err(Error::Refused(core.why_fenced())),
        }
        let wanted = to.map(named).transpose()?;
        let there = survey(&core).await?;
        let choice = choose(&there, wanted.as_ref(), options.force);
        let choice = choice.map_err(|why| Error::Refused(why.to_string()))?;
        let own = choice.name == core.name;
        let address = match own {
            true => Some(core.address()),
            false => core.address_of(&choice.name),
        };
        let chosen = there.iter().find(|one| one.name == choice.name);
        let end = chosen.map_or(Lsn::ZERO, |one| one.end.flushed);
        let possible_loss = core.possible_loss(end, core.may_lose(options)?);
        Ok(Successor {
            possible_loss,
            address: address.unwrap_or_default(),
            name: choice.name.to_string(),
            own,
            why: choice.why,
        })
    }

    /// Orders `successor`, another node, to become the primary; it decides by itself whether it
    /// may.
    ///
    /// # Errors
    /// [`Error::Refused`] with its reason, and nothing was opened; connection errors, after which
    /// only its status can tell.
    pub async fn order_failover(
        &self,
        successor: &Successor,
        options: &PromoteOptions,
    ) -> Result<Promotion> {
        let name = named(&successor.name)?;
        let core = self.core()?;
        order_to_take_over(&core, &name, &successor.address, options, &successor.why).await
    }
}
