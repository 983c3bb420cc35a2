//! The task that looks at this node's peers and tells of changes that matter.
//!
//! It looks when a peer came, went or caught up, and at times, because lag and silence grow without
//! anything happening. What is worth telling is decided by [`HealthWatch`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Role, StandbyState};
use crate::event::{Peer, ReplicationEvent};
use crate::protocol::liveness::{Action, HealthWatch, LagAlarm, LagThresholds, Sight};
use crate::runtime::core::{Core, sight_of};
use crate::runtime::stopped;
use crate::time::Moment;

/// How long lag and silence may go unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches over the peers of one role.
struct Watches {
    core: Arc<Core>,
    role: Role,
    since: Moment,
    peers: BTreeMap<Peer, HealthWatch>,
}

/// Looks until this node stops.
pub(crate) async fn watch_health(core: Arc<Core>) {
    let mut stopping = core.stopping.subscribe();
    let mut watches = Watches {
        role: core.role(),
        since: core.clock.now(),
        peers: BTreeMap::new(),
        core: core.clone(),
    };
    let every = LOOK_EVERY.min(core.config.heartbeat_timeout.max(Duration::from_millis(10)));
    loop {
        tokio::select! {
            biased;
            _ = stopped(&mut stopping) => return,
            () = core.peers.changed.notified() => {}
            () = tokio::time::sleep(every) => {}
        }
        watches.look();
    }
}

impl Watches {
    fn look(&mut self) {
        let role = self.core.role();
        if role != self.role {
            // Whoever is there is another one now, or in another part.
            (self.role, self.since) = (role, self.core.clock.now());
            self.peers.clear();
        }
        match self.role {
            Role::Fenced => {}
            Role::Standby => {
                let (name, sight) = self.core.upstream_sight();
                self.see(Peer::Upstream(name), sight);
            }
            Role::Primary => {
                let states = self.core.standby_states();
                let known = |name: &str| states.iter().any(|state| state.name.as_str() == name);
                self.peers
                    .retain(|peer, _| matches!(peer, Peer::Standby(name) if known(name)));
                let watched = self.core.clock.now() - self.since;
                for state in &states {
                    let sight = seen(state, watched);
                    self.see(Peer::Standby(state.name.to_string()), sight);
                }
            }
        }
    }

    fn see(&mut self, peer: Peer, sight: Sight) {
        let timeout = self.core.timeout();
        let watch = self.peers.entry(peer.clone());
        let watch = watch.or_insert_with(|| HealthWatch::new(LagThresholds::default(), timeout));
        let Some(action) = watch.on(sight) else {
            return;
        };
        self.core.observer.tell(match action {
            Action::SyncEstablished => ReplicationEvent::SyncEstablished {
                peer,
                lag_bytes: sight.lag.bytes,
            },
            Action::LagDetected { lag, alarm } => ReplicationEvent::LagDetected {
                peer,
                lag_bytes: lag.bytes,
                lag_time: lag.time,
                critical: alarm == LagAlarm::Critical,
            },
            Action::Unhealthy => ReplicationEvent::Unhealthy {
                peer,
                silence: sight.silence,
            },
        });
    }
}

/// A standby as it is seen after `watched`, in which it may never have been heard.
fn seen(state: &StandbyState, watched: Duration) -> Sight {
    let mut sight = sight_of(state);
    sight.silence = state.last_heartbeat.unwrap_or(watched);
    sight
}
