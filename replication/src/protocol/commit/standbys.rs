//! The standbys of a primary: who is connected, how far each is, and from when on it counts.
//!
//! What their positions confirm is decided elsewhere.

use mainstay_storage::canary;

use super::quorum::Standby;
use super::{Action, Committer, Event};
use crate::protocol::name::NodeName;
use crate::protocol::progress::Positions;
use crate::protocol::vote::Vote;

impl Committer {
    pub(super) fn on_standby(&mut self, event: Event) {
        match event {
            Event::Connected {
                name,
                session,
                vote,
            } => {
                let known = self.standbys.get(&name);
                if known.is_some_and(|known| known.session > session) {
                    // What an earlier connection asked for may arrive after a later one streams.
                    return;
                }
                let lost = !matches!(vote, Vote::From(_));
                if lost {
                    // What its old self held may be gone.
                    self.reached.remove(&name);
                }
                let standby = Standby {
                    session,
                    streaming: false,
                    vote,
                    asked: false,
                    lost,
                    reported: Positions::default(),
                };
                self.standbys.insert(name, standby);
            }
            Event::Streaming { name, session } => {
                if let Some(standby) = self.session(&name, session) {
                    standby.streaming = true;
                }
            }
            Event::Reported {
                name,
                session,
                timeline,
                positions,
            } => {
                let ours = timeline == self.timeline || canary("reports-of-any-timeline");
                let standby = self.session(&name, session).filter(|_| ours);
                let Some(standby) = standby else { return };
                standby.reported = positions;
                standby.asked = false;
            }
            Event::VoteLogged { name, end } => {
                if let Some(standby) = self.standbys.get_mut(&name) {
                    (standby.vote, standby.asked) = (Vote::Again(end), false);
                }
            }
            Event::Disconnected { name, session } => {
                if self.session(&name, session).is_some() {
                    self.standbys.remove(&name);
                }
            }
            _ => unreachable!("handled by the caller"),
        }
    }

    fn session(&mut self, name: &NodeName, session: u64) -> Option<&mut Standby> {
        let standby = self.standbys.get_mut(name);
        standby.filter(|standby| standby.session == session)
    }

    /// Grants votes to those whose data are another life, have caught up, and may have it; and says
    /// who counts again.
    pub(super) fn settle_votes(&mut self, out: &mut Vec<Action>) {
        let members = self.members();
        let regains = |(name, standby): (&NodeName, &Standby)| {
            let Vote::Lost(end) = standby.vote else {
                return None;
            };
            let mut policies = self.policies.iter().map(|(policy, _)| policy);
            let may = policies.all(|policy| members.may_regain(policy, name, end));
            let regains = may && !standby.asked && standby.reported.flush >= end;
            regains.then(|| (name.clone(), standby.session))
        };
        for (name, session) in self.standbys.iter().filter_map(regains).collect::<Vec<_>>() {
            if let Some(standby) = self.standbys.get_mut(&name) {
                standby.asked = true;
            }
            out.push(Action::VoteGranted { name, session });
        }
        let waited = self.standbys.iter_mut();
        for (name, standby) in waited.filter(|(_, standby)| standby.lost && standby.counts()) {
            standby.lost = false;
            out.push(Action::CountsAgain(name.clone()));
        }
    }
}
