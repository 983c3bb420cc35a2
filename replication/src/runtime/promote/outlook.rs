//! What a promotion would lead to: the round without promises alone, after which nothing has
//! changed.

use std::sync::Arc;

use mainstay_storage::Lsn;

use super::{Attempt, PromoteOptions, config};
use crate::error::{Error, Result};
use crate::protocol::promotion::{
    Candidate, Notice, PossibleLoss, PromiseRefusal, Purpose, Refusal,
};
use crate::runtime::core::Core;
use tokio::sync::mpsc;

/// What a promotion would lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Why it would be refused; `None` when nothing speaks against it.
    pub refusal: Option<String>,
    /// What it may lose.
    pub possible_loss: PossibleLoss,
    /// What the operator should know, a sentence each.
    pub notices: Vec<String>,
}

/// Asks around without changing anything.
///
/// # Errors
/// The log's; an attempt under way is waited for.
pub(crate) async fn run(core: &Arc<Core>, options: &PromoteOptions) -> Result<Outlook> {
    let _changing = core.changing.lock().await;
    let config = config(core, Purpose::Promote, options)?;
    let (to, events) = mpsc::channel(super::EVENTS_MAX);
    // Nobody can overtake what binds nobody.
    let (_tell, overtaken) = mpsc::channel(1);
    let mut attempt = Attempt {
        core,
        to,
        purpose: config.purpose,
        by_votes: super::by_votes(&config),
        candidate: Candidate::new(config),
        follower: &mut None,
        opened: None,
        looks_only: true,
        outlook: None,
    };
    match attempt.drive(overtaken, events).await {
        Err(Error::NotPromoted { why, loss }) => Ok(Outlook {
            refusal: Some(why),
            possible_loss: loss,
            notices: notices(&attempt.candidate),
        }),
        Err(error) => attempt.outlook.take().ok_or(error),
        Ok(_) => Err(Error::Invalid("a look opened a timeline".to_owned())),
    }
}

impl Attempt<'_> {
    /// What is known when nothing speaks against it any more.
    pub(super) fn look(&self) -> Outlook {
        let no_vote = self.by_votes && self.core.lacks_vote();
        Outlook {
            refusal: no_vote.then(|| PromiseRefusal::NoVote.to_string()),
            possible_loss: self.loss(self.core.wal.flushed().get()),
            notices: notices(&self.candidate),
        }
    }

    /// What is lost if this node's log ends at `own`.
    pub(super) fn loss(&self, own: Lsn) -> PossibleLoss {
        let possible = self.candidate.notices().iter().any(Notice::loses);
        self.core.possible_loss(own, possible)
    }

    /// Nothing was opened, and why; with what it would cost to go on all the same.
    pub(super) fn refused(&self, refusal: &Refusal) -> Error {
        let given_up = matches!(refusal, Refusal::Unreachable { .. });
        let possible = given_up || self.candidate.notices().iter().any(Notice::loses);
        let own = self.core.wal.flushed().get();
        Error::NotPromoted {
            why: refusal.to_string(),
            loss: self.core.possible_loss(own, possible),
        }
    }
}

fn notices(candidate: &Candidate) -> Vec<String> {
    let notices = candidate.notices();
    notices.iter().map(ToString::to_string).collect()
}
