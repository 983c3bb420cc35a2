//! What a running receiver can be told, and how it obeys.
//!
//! Leaving an upstream drops its connection, and what came of a record whose rest did not. Whoever
//! waits for that is told when it is done. What comes next is the machine's to say.

use mainstay_storage::Timeline;
use tokio::sync::oneshot;

use super::{Driver, Upstreams, WayChosen};
use crate::protocol::receiver::Event;

/// Told to a running receiver.
#[derive(Debug)]
pub(crate) enum Order {
    /// Follow these addresses from now on.
    Follow(Vec<String>),
    /// This node promised that timeline; the candidate is at this address.
    Accepted(Timeline, String, oneshot::Sender<()>),
    /// Leave the upstream and find the way to it anew; it is told.
    Resync(oneshot::Sender<WayChosen>),
    /// Stop following.
    Stop,
}

impl Driver {
    pub(super) fn obey(&mut self, order: Option<Order>) -> Option<Event> {
        match order {
            None | Some(Order::Stop) => Some(Event::Stop),
            Some(Order::Follow(upstreams)) => {
                let connected = self.client.is_some();
                let followed = self.core.upstream().filter(|_| connected);
                self.upstreams = Upstreams::new(upstreams);
                if followed
                    .is_some_and(|(_, address)| self.upstreams.addresses().contains(&address))
                {
                    return None;
                }
                self.client = None;
                Some(self.hung_up(0))
            }
            Some(Order::Resync(asked)) => {
                self.anew(asked);
                Some(self.hung_up(0))
            }
            Some(Order::Accepted(timeline, address, done)) => {
                self.upstreams.promise(address, self.core.clock.now());
                self.left = Some(done);
                Some(Event::Accepted(timeline))
            }
        }
    }

    /// Leaves the upstream that a promise made old, which was told if it could be, and says so.
    pub(super) fn leave(&mut self, done: oneshot::Sender<()>) {
        self.client = None;
        self.core.set_upstream(None);
        let event = self.hung_up(0);
        self.events.push_back(event);
        // Whoever asked may be gone; the promise holds all the same.
        let _ = done.send(());
    }
}
