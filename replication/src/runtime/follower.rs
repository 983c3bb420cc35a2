//! What keeps this node following: a thread of its own, which may wait for the disk.

use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::event::ReplicationEvent;
use crate::protocol::receiver::GiveUp;
use crate::runtime::core::Core;
use crate::runtime::own_thread::OwnThread;
use crate::runtime::walreceiver::{self, Ended, Order, WayChosen};

/// Orders that may wait for the receiver.
const ORDERS_MAX: usize = 16;

/// This node's log cannot be continued by the one that it was to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// How the node can follow again.
    pub way_back: WayBack,
    /// The addresses it was following.
    pub upstreams: Vec<String>,
}

/// What takes a node back onto its upstream's log.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum WayBack {
    /// Taking store and log back to here, where the two logs part; a base backup where the store
    /// cannot go back so far.
    Rewind {
        /// The end of what they have in common.
        to: Lsn,
    },
    /// A base backup: the upstream has no log below `oldest` any more.
    Backup {
        /// What was needed.
        wanted: Lsn,
        /// What there is; zero where the upstream did not say.
        oldest: Lsn,
    },
    /// A base backup, because it is clearly cheaper than the log.
    Copy {
        /// The log to replay, in bytes.
        log_bytes: u64,
        /// The copy, in bytes.
        copy_bytes: u64,
    },
}

impl WayBack {
    fn of(why: &GiveUp) -> Option<Self> {
        match *why {
            GiveUp::NeedsRewind { to } => Some(Self::Rewind { to }),
            GiveUp::NeedsBackup { wanted, oldest } => Some(Self::Backup { wanted, oldest }),
            GiveUp::CopyIsCheaper {
                log_bytes,
                copy_bytes,
                ..
            } => Some(Self::Copy {
                log_bytes,
                copy_bytes,
            }),
            GiveUp::Foreign { .. } | GiveUp::NoCommonHistory | GiveUp::Stopped => None,
        }
    }
}

/// A running receiver.
#[derive(Debug)]
pub(crate) struct Follower {
    orders: mpsc::Sender<Order>,
    thread: OwnThread,
}

impl Follower {
    /// Starts to follow `upstreams`, and tells `core` how to reach the receiver.
    pub(crate) fn start(core: Arc<Core>, upstreams: Vec<String>) -> Self {
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        core.set_orders(Some(orders.clone()));
        let thread = OwnThread::start("walreceiver", async move {
            let ended = walreceiver::run(core.clone(), upstreams, received).await;
            core.set_upstream(None);
            tell(&core, ended);
        });
        Self { orders, thread }
    }

    /// Follows other addresses; `false` when the receiver has ended.
    pub(crate) async fn follow(&self, upstreams: Vec<String>) -> bool {
        self.orders.send(Order::Follow(upstreams)).await.is_ok()
    }

    /// Leaves the upstream and finds the way to it anew; gives `tell` back when the receiver has
    /// ended.
    pub(crate) async fn resync(
        &self,
        tell: oneshot::Sender<WayChosen>,
    ) -> std::result::Result<(), oneshot::Sender<WayChosen>> {
        let sent = self.orders.send(Order::Resync(tell)).await;
        sent.map_err(|unsent| match unsent.0 {
            Order::Resync(tell) => tell,
            _ => unreachable!("it was this order"),
        })
    }

    /// Stops following, and waits until nothing is received any more.
    pub(crate) async fn stop(mut self, deadline: Duration) {
        // The receiver may have ended by itself.
        let _ = self.orders.send(Order::Stop).await;
        if timeout(deadline, self.thread.ended()).await.is_err() {
            self.thread.abort();
            self.thread.ended().await;
        }
    }
}

/// Tells everybody why following ended.
fn tell(core: &Core, ended: Ended) {
    match ended {
        Ended::Stopped => {}
        Ended::GaveUp(why, upstreams) => {
            tracing::warn!(%why, "this node cannot follow");
            core.set_trouble(Some(why.to_string()));
            let way_back = WayBack::of(&why);
            if way_back.is_none() {
                let why = why.to_string();
                core.observer.tell(ReplicationEvent::CannotFollow { why });
            }
            let divergence = way_back.map(|way_back| Divergence {
                way_back,
                upstreams,
            });
            core.diverged.send_replace(divergence);
        }
        Ended::Failed(error) => {
            tracing::error!(%error, "following failed");
            core.set_trouble(Some(error.to_string()));
            let why = error.to_string();
            core.observer.tell(ReplicationEvent::CannotFollow { why });
        }
    }
}

/// Lets the receiver drop what is older than a promise, and waits until it has.
pub(crate) async fn leave(orders: &mpsc::Sender<Order>, timeline: Timeline, address: String) {
    let (done, left) = oneshot::channel();
    if orders
        .send(Order::Accepted(timeline, address, done))
        .await
        .is_ok()
    {
        // It ended instead, which leaves the upstream as well.
        let _ = left.await;
    }
}
