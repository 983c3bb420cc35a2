//! Where replication waits, locks, spawns and moves bytes.
//!
//! ```text
//!   accept ──▶ session (one task a connection) ──▶ walsender      log out, status in
//!   follower ──▶ walreceiver (one task)                           log in, status out
//!   watch_commits (one task)     flushed, timers ──▶ commit machine
//!   watch_health (one task)      looks at peers ──▶ health machine ──▶ observer
//!   keep_going (one task)        a primary that may not confirm ──▶ candidate machine
//!   applicator (one thread)      log ──▶ store
//!   subscription (one task each) log ──▶ a stream of entries
//! ```
//!
//! Nothing here decides: each task waits for whichever comes first, brings it to its machine, and
//! carries out the actions. All tasks end when `Core::stopping` is set; a task that does not end
//! in its time is aborted.

mod announce;
mod applicator;
mod backup;
mod bootstrap;
mod client;
mod clock;
mod core;
mod description;
mod failover;
mod fence;
mod follower;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod going_on;
mod handover;
mod health;
mod identify;
mod link;
mod net;
mod own_thread;
mod promise;
pub(crate) mod promote;
mod session;
mod slots;
mod subscription;
mod verify;
mod walreceiver;
mod walsender;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::WaitError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::WalStreamingConfig;
use crate::error::{Error, Result};
use crate::protocol::commit::Event;

pub use self::core::SlotState;
pub(crate) use self::core::{CopyStore, Core, PolicyLogged, PolicyOrder, listed, never_seen};
pub(crate) use announce::tell_members;
pub(crate) use applicator::{Replay, SharedStore};
pub(crate) use backup::remove_left_copies;
pub use bootstrap::{
    Backup, BackupRequest, Bootstrapped, adopt_backup, bootstrap, finish_bootstrap, holds_backup,
    restore_backup, take_backup, verify_backup,
};
pub(crate) use failover::{order as order_to_take_over, survey};
pub(crate) use fence::remember_fences;
pub(crate) use follower::Follower;
pub use follower::{Divergence, WayBack};
pub(crate) use going_on::{await_going_on, keep_going};
pub use handover::{HandedOver, TakeOverRequest};
pub(crate) use handover::{ask as ask_to_take_over, requests as take_over_requests, until_flushed};
pub(crate) use health::watch_health;
pub(crate) use net::TcpListener;
pub use net::keepalive::keep_alive;
pub(crate) use promote::look;
pub use promote::{Outlook, PromoteOptions};
pub(crate) use subscription::SubscribeSource;
pub use subscription::Subscription;
pub(crate) use verify::Verification;
pub use verify::{Compared, Contents, Mended};
pub use walreceiver::{Way, WayChosen};

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Microseconds since 1970-01-01 UTC.
pub(crate) fn wall_clock() -> i64 {
    clock::Clock::new().wall_us()
}

/// Waits until this node stops.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The sender lives as long as the core that the caller holds.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Opens the port, if one is configured.
///
/// # Errors
/// An address other than loopback without credentials, or one that cannot be listened on.
pub(crate) async fn listen(config: &WalStreamingConfig) -> Result<Option<TcpListener>> {
    let Some(address) = &config.listen else {
        return Ok(None);
    };
    let failed = |source| Error::Connection {
        peer: address.clone(),
        op: "listen",
        source,
    };
    if config.users.is_empty() {
        let mut resolved = net::lookup_host(address).await.map_err(failed)?;
        if resolved.any(|at| !session::is_loopback(at.ip())) {
            return Err(Error::Invalid(format!(
                "{address} is not a loopback address, and no credentials are configured: anybody \
                 who reaches it could read everything. Configure a user, or listen on 127.0.0.1"
            )));
        }
    }
    TcpListener::bind(address).await.map(Some).map_err(failed)
}

/// Accepts connections until this node stops, then waits for them to end.
pub(crate) async fn accept(core: Arc<Core>, listener: TcpListener) {
    let mut sessions = JoinSet::new();
    let mut stopping = core.stopping.subscribe();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if sessions.len() < core.config.max_connections => {
                    sessions.spawn(session::serve(core.clone(), stream));
                }
                Ok((stream, peer)) => {
                    tracing::warn!(%peer, "too many connections");
                    sessions.spawn(session::turn_away(stream));
                }
                Err(error) => {
                    // Out of descriptors, most likely; the next one may succeed.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = sessions.join_next() => {}
            _ = stopped(&mut stopping) => break,
        }
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
}

/// Tells the commit machine what a primary has flushed, and when its timers are due. What a
/// standby flushes is told by its receiver, which is awake anyway.
pub(crate) async fn watch_commits(core: Arc<Core>) {
    let mut stopping = core.stopping.subscribe();
    let mut roles = core.role.subscribe();
    let mut flushed = core.wal.flushed().get();
    loop {
        let deadline = core.commit_deadline().map(|at| core.clock.instant(at));
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stopped(&mut stopping) => return,
            to = core.wal.flushed().wait(flushed + 1), if core.is_primary() => match to {
                Ok(to) => {
                    flushed = to;
                    core.commit_event(Event::Flushed(to));
                }
                // As a primary again, this node begins below what it once had.
                Err(WaitError::SetBack) => flushed = core.wal.flushed().get(),
                Err(_) => return,
            },
            _ = roles.changed() => {
                flushed = core.wal.flushed().get();
                core.commit_event(Event::Flushed(flushed));
            }
            _ = timer => core.commit_event(Event::Tick),
        }
    }
}

/// Where there is no store, log counts as applied when it is committed here: that is when
/// subscribers get it.
pub(crate) async fn watch_applied(core: Arc<Core>) {
    let mut stopping = core.stopping.subscribe();
    let mut at = core.applied.get();
    loop {
        tokio::select! {
            _ = stopped(&mut stopping) => return,
            to = core.wal.commit().reached(at + 1) => match to {
                Ok(to) => {
                    core.applied.raise(to);
                    at = to;
                }
                Err(_) => return,
            },
        }
    }
}
