//! Whether a peer lives, how far behind it is, and the words that operators see for both.
//!
//! [`Liveness`] counts silence, for either side of a connection. [`Health`] is the one word a
//! status page shows, and [`HealthWatch`] the machine that says when it changed:
//!
//! ```text
//!            caught up, little lag              lag over the warning
//!   syncing ─────────────────────▶ synchronized ◀──────────────────▶ lagging
//!      └───────────────┬────────────────┴───────────────────────────────┘
//!                      ▼ silent, or the connection ended
//!                    broken ──connects──▶ syncing
//! ```
//!
//! [`primary_health`] makes one word for a primary out of those of its standbys and its policy.
//!
//! Nothing here closes a connection or counts for a policy.

use std::fmt;
use std::time::Duration;

use super::progress::Lag;
use crate::time::Moment;

mod primary;

pub use primary::{PolicyStanding, primary_health};

/// When a peer was last heard, and how long silence may last.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Liveness {
    timeout: Duration,
    connected: bool,
    last_contact: Option<Moment>,
}

impl Liveness {
    /// A peer that was never heard. A `timeout` of zero never ends.
    pub const fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            connected: false,
            last_contact: None,
        }
    }

    /// It connected, or was heard.
    pub fn heard(&mut self, now: Moment) {
        self.connected = true;
        self.last_contact = Some(now);
    }

    /// Its connection ended.
    pub fn lost(&mut self) {
        self.connected = false;
    }

    /// Whether it has a connection and was heard within the timeout.
    pub fn is_connected(&self, now: Moment) -> bool {
        self.connected && self.deadline().is_none_or(|deadline| now < deadline)
    }

    /// When it was last heard.
    pub const fn last_contact(&self) -> Option<Moment> {
        self.last_contact
    }

    /// When it counts as silent unless it is heard before.
    pub fn deadline(&self) -> Option<Moment> {
        let timed = self.connected && !self.timeout.is_zero();
        self.last_contact
            .filter(|_| timed)
            .map(|last| last + self.timeout)
    }
}

/// From where on lag is worth a word.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct LagThresholds {
    /// Worth a warning, in bytes or in time.
    pub warning: Lag,
    /// Worth waking somebody.
    pub critical: Lag,
    /// From here on a base backup may be quicker than catching up; in bytes.
    pub rebuild_bytes: u64,
}

impl Default for LagThresholds {
    fn default() -> Self {
        Self {
            warning: Lag {
                bytes: 10_000_000,
                time: Duration::from_secs(10),
            },
            critical: Lag {
                bytes: 1_000_000_000,
                time: Duration::from_secs(60),
            },
            rebuild_bytes: 1_000_000_000,
        }
    }
}

/// How bad lag is.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LagAlarm {
    /// Not worth a word.
    None,
    /// Over the warning.
    Warning,
    /// Over the critical bound.
    Critical,
}

impl LagThresholds {
    /// How bad `lag` is; one of its two measures is enough.
    pub fn alarm(&self, lag: Lag) -> LagAlarm {
        let over = |bound: Lag| lag.bytes >= bound.bytes || lag.time >= bound.time;
        if over(self.critical) {
            LagAlarm::Critical
        } else if over(self.warning) {
            LagAlarm::Warning
        } else {
            LagAlarm::None
        }
    }
}

/// The word for a standby.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Connected, and has not been at the end of the log since.
    Syncing,
    /// Has what there is, but for a little.
    Synchronized,
    /// Was at the end, and fell behind.
    Lagging,
    /// Silent, or not connected.
    Broken,
}

impl Health {
    /// The word itself.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Syncing => "syncing",
            Self::Synchronized => "synchronized",
            Self::Lagging => "lagging",
            Self::Broken => "broken",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happened to a standby.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Event {
    /// It connected.
    Connected,
    /// It sent anything.
    Heard,
    /// It reported; how far behind the end of the log it is with what is flushed there.
    Observed(Lag),
    /// Its connection ended.
    Disconnected,
    /// The deadline passed.
    Tick,
}

/// What is worth telling.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Action {
    /// `sync_established`: it has caught up.
    SyncEstablished,
    /// `lag_detected`: it fell behind, or further behind.
    LagDetected {
        /// By how much.
        lag: Lag,
        /// How bad that is.
        alarm: LagAlarm,
    },
    /// `replication_unhealthy`: it is gone or silent.
    Unhealthy,
}

/// One standby's health, as its primary sees it.
#[derive(Debug, Clone)]
pub struct HealthWatch {
    thresholds: LagThresholds,
    liveness: Liveness,
    health: Health,
    alarm: LagAlarm,
    lag: Lag,
}

/// A look at a [`HealthWatch`].
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct HealthStatus {
    /// The word.
    pub health: Health,
    /// The lag last observed.
    pub lag: Lag,
    /// How bad that is.
    pub alarm: LagAlarm,
    /// When it was last heard.
    pub last_contact: Option<Moment>,
    /// Whether it is so far behind that a base backup may be quicker.
    pub consider_rebuild: bool,
}

impl HealthWatch {
    /// A standby that is known and was not seen yet.
    pub fn new(thresholds: LagThresholds, heartbeat_timeout: Duration) -> Self {
        Self {
            thresholds,
            liveness: Liveness::new(heartbeat_timeout),
            health: Health::Broken,
            alarm: LagAlarm::None,
            lag: Lag::default(),
        }
    }

    /// Takes one event and appends what is worth telling.
    pub fn on(&mut self, event: Event, now: Moment, out: &mut Vec<Action>) {
        match event {
            Event::Connected => {
                self.liveness.heard(now);
                (self.health, self.alarm) = (Health::Syncing, LagAlarm::None);
            }
            Event::Heard => self.hear(now),
            Event::Observed(lag) => {
                self.hear(now);
                self.observe(lag, out);
            }
            Event::Disconnected => self.liveness.lost(),
            Event::Tick => {}
        }
        if self.health != Health::Broken && !self.liveness.is_connected(now) {
            self.health = Health::Broken;
            out.push(Action::Unhealthy);
        }
    }

    /// A sign of life from one that was silent means that it is back, but says nothing of its lag.
    fn hear(&mut self, now: Moment) {
        self.liveness.heard(now);
        if self.health == Health::Broken {
            self.health = Health::Syncing;
        }
    }

    fn observe(&mut self, lag: Lag, out: &mut Vec<Action>) {
        self.lag = lag;
        let before = self.alarm;
        self.alarm = self.thresholds.alarm(lag);
        match (self.health, self.alarm) {
            (Health::Synchronized, LagAlarm::None) => {}
            (_, LagAlarm::None) => {
                self.health = Health::Synchronized;
                out.push(Action::SyncEstablished);
            }
            // While it catches up for the first time it is behind by nature.
            (Health::Syncing, _) => {}
            (_, alarm) => {
                self.health = Health::Lagging;
                if alarm > before {
                    out.push(Action::LagDetected { lag, alarm });
                }
            }
        }
    }

    /// When to bring the next `Tick`.
    pub fn deadline(&self) -> Option<Moment> {
        let alive = self.health != Health::Broken;
        self.liveness.deadline().filter(|_| alive)
    }

    /// A look at it.
    pub fn status(&self) -> HealthStatus {
        HealthStatus {
            health: self.health,
            lag: self.lag,
            alarm: self.alarm,
            last_contact: self.liveness.last_contact(),
            consider_rebuild: self.lag.bytes >= self.thresholds.rebuild_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_goes_through_all_its_words() {
        let mut watch = HealthWatch::new(LagThresholds::default(), Duration::from_secs(10));
        let mut now = Moment::ZERO;
        let mut on = |event, seconds| {
            now = now + Duration::from_secs(seconds);
            let mut out = Vec::new();
            watch.on(event, now, &mut out);
            (watch.status().health, out)
        };
        let lag = |bytes, seconds| Lag {
            bytes,
            time: Duration::from_secs(seconds),
        };
        let observed = |bytes, seconds| Event::Observed(lag(bytes, seconds));
        let detected = |lag, alarm| vec![Action::LagDetected { lag, alarm }];
        assert_eq!(
            on(Event::Tick, 90),
            (Health::Broken, vec![]),
            "it was never seen"
        );
        assert_eq!(on(Event::Connected, 0), (Health::Syncing, vec![]));
        assert_eq!(
            on(observed(2_000_000_000, 900), 1),
            (Health::Syncing, vec![])
        );
        assert_eq!(
            on(observed(9_999_999, 9), 1),
            (Health::Synchronized, vec![Action::SyncEstablished])
        );
        let warning = detected(lag(0, 10), LagAlarm::Warning);
        assert_eq!(on(observed(0, 10), 1), (Health::Lagging, warning));
        assert_eq!(on(observed(10_000_000, 11), 1), (Health::Lagging, vec![]));
        let critical = detected(lag(1, 60), LagAlarm::Critical);
        assert_eq!(on(observed(1, 60), 1), (Health::Lagging, critical));
        assert_eq!(
            on(observed(0, 0), 1),
            (Health::Synchronized, vec![Action::SyncEstablished])
        );
        assert_eq!(on(Event::Tick, 9), (Health::Synchronized, vec![]));
        assert_eq!(
            on(Event::Tick, 1),
            (Health::Broken, vec![Action::Unhealthy])
        );
        assert_eq!(on(Event::Heard, 1), (Health::Syncing, vec![]));
        assert_eq!(
            on(Event::Disconnected, 1),
            (Health::Broken, vec![Action::Unhealthy])
        );
        assert_eq!(on(Event::Disconnected, 1), (Health::Broken, vec![]));
    }

    #[test]
    fn silence_counts_from_the_last_contact() {
        let at = |seconds| Moment::ZERO + Duration::from_secs(seconds);
        let mut peer = Liveness::new(Duration::from_secs(10));
        assert_eq!((peer.is_connected(at(0)), peer.deadline()), (false, None));
        peer.heard(at(5));
        assert!(peer.is_connected(at(14)) && !peer.is_connected(at(15)));
        peer.lost();
        assert_eq!(
            peer.last_contact(),
            Some(at(5)),
            "remembered for the status page"
        );
        let mut patient = Liveness::new(Duration::ZERO);
        patient.heard(at(0));
        assert!(patient.is_connected(at(1_000_000)));
    }
}
