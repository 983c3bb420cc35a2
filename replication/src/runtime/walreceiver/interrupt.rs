//! Giving way to orders while an upstream is waited for.
//!
//! A machine that has vanished answers nothing, not even with a refusal. Whoever dials it must
//! hear of a promise, of another upstream or of its own end all the same: a candidate that asks
//! for a promise does not wait as long as a dial may.

use tokio::sync::mpsc;

use super::{Driver, Order};
use crate::error::Result;
use crate::protocol::receiver::Action;

impl Driver {
    /// Carries out `action`; says whether what was decided with it still holds. One that waits for
    /// the upstream's answer is given up, and the connection with it, when an order comes.
    pub(super) async fn perform(&mut self, action: Action) -> Result<bool> {
        let waits = matches!(
            action,
            Action::Connect | Action::Identify | Action::FetchHistory(_) | Action::Start { .. }
        );
        if !waits {
            self.carry_out(action).await?;
            return Ok(true);
        }
        let (_, nobody) = mpsc::channel(1);
        let mut orders = std::mem::replace(&mut self.orders, nobody);
        let done = tokio::select! {
            biased;
            order = orders.recv() => Err(order),
            done = self.carry_out(action) => Ok(done),
        };
        self.orders = orders;
        match done {
            Ok(done) => done.map(|()| true),
            Err(order) => {
                self.give_way(order);
                Ok(false)
            }
        }
    }

    /// What was asked on the connection will be answered there, so nothing else can be.
    fn give_way(&mut self, order: Option<Order>) {
        self.client = None;
        self.core.set_upstream(None);
        self.events.clear();
        let event = self.hung_up(0);
        self.events.push_back(event);
        let event = self.obey(order);
        self.events.extend(event);
    }
}
