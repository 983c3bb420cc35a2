//! Whether a peer lives, how far behind it is, and the words that operators see for both.
//!
//! [`Health`] is the one word a status page shows, and [`HealthWatch`] the machine that says when a
//! peer's changed in a way that is worth telling:
//!
//! ```text
//!            streams, little lag              lag over the warning
//!   syncing ─────────────────────▶ synchronized ◀──────────────────▶ lagging
//!      └───────────────┬────────────────┴──── under half the warning ───┘
//!                      ▼ away for longer than the timeout
//!                    broken ──connects──▶ syncing
//! ```
//!
//! Lag that is critical is `broken` too, though its peer is there: it may never come back by
//! itself. A peer that comes back within the timeout is told of by nothing but its next catching
//! up.
//!
//! [`primary_health`] makes one word for a primary out of those of its standbys and its policy.
//!
//! Nothing here closes a connection or counts for a policy.

use std::fmt;
use std::time::Duration;

use super::progress::Lag;

mod primary;

pub use primary::{PolicyStanding, primary_health};

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

    /// Whether `lag` is so far below the warning that it counts as over: half of it, so that lag
    /// about the bound is not told of again and again.
    pub fn is_over(&self, lag: Lag) -> bool {
        lag.bytes < self.warning.bytes / 2 && lag.time < self.warning.time / 2
    }

    /// The word for a peer where it stands now.
    pub fn word(&self, standing: Standing, lag: Lag) -> Health {
        match (standing, self.alarm(lag)) {
            (Standing::Away, _) => Health::Broken,
            (Standing::Behind, _) => Health::Syncing,
            (Standing::Streaming, LagAlarm::None) => Health::Synchronized,
            (Standing::Streaming, LagAlarm::Warning) => Health::Lagging,
            (Standing::Streaming, LagAlarm::Critical) => Health::Broken,
        }
    }
}

/// Where a peer's stream stands.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Standing {
    /// There is none, or it is silent.
    Away,
    /// It begins, or fetches what was missed.
    Behind,
    /// It has been at the end of the log.
    Streaming,
}

/// The word for a standby.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Connected, and has not been at the end of the log since.
    Syncing,
    /// Has what there is, but for a little.
    Synchronized,
    /// Was at the end, and fell behind by more than the warning.
    Lagging,
    /// Silent, not connected, or behind by more than the critical bound.
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

/// A peer as it is seen at one moment.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Where its stream stands.
    pub standing: Standing,
    /// How far it is behind with what is flushed; of itself a standby counts what is applied, too.
    pub lag: Lag,
    /// How long it has not been heard; since the watch began, if it never was.
    pub silence: Duration,
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

/// What was told last.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
enum Phase {
    /// Nothing yet, or that it is behind by nature.
    Syncing,
    Synchronized,
    Lagging(LagAlarm),
    Gone,
}

/// One peer's health over time.
#[derive(Debug, Clone)]
pub struct HealthWatch {
    thresholds: LagThresholds,
    timeout: Duration,
    phase: Phase,
}

impl HealthWatch {
    /// A peer of which nothing was told yet. A `timeout` of zero never ends.
    pub const fn new(thresholds: LagThresholds, timeout: Duration) -> Self {
        Self {
            thresholds,
            timeout,
            phase: Phase::Syncing,
        }
    }

    /// Takes a look at the peer and returns what is worth telling.
    pub fn on(&mut self, sight: Sight) -> Option<Action> {
        match sight.standing {
            Standing::Away => {
                let gone = !self.timeout.is_zero() && sight.silence >= self.timeout;
                if !gone || self.phase == Phase::Gone {
                    return None;
                }
                self.phase = Phase::Gone;
                Some(Action::Unhealthy)
            }
            Standing::Behind => {
                // Who comes and goes without ever streaming is told of as gone once.
                if self.phase != Phase::Gone {
                    self.phase = Phase::Syncing;
                }
                None
            }
            Standing::Streaming => self.streams(sight.lag),
        }
    }

    fn streams(&mut self, lag: Lag) -> Option<Action> {
        let alarm = self.thresholds.alarm(lag);
        let (phase, action) = match (self.phase, alarm) {
            (Phase::Synchronized, LagAlarm::None) => return None,
            (Phase::Lagging(_), LagAlarm::None) if !self.thresholds.is_over(lag) => return None,
            (_, LagAlarm::None) => (Phase::Synchronized, Action::SyncEstablished),
            // The first stretch behind the end is catching up by another name.
            (Phase::Syncing | Phase::Gone, _) => {
                self.phase = Phase::Syncing;
                return None;
            }
            (Phase::Lagging(told), alarm) if alarm <= told => return None,
            (_, alarm) => (Phase::Lagging(alarm), Action::LagDetected { lag, alarm }),
        };
        self.phase = phase;
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Away, Behind, Streaming};
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn lag(bytes: u64, seconds: u64) -> Lag {
        Lag {
            bytes,
            time: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_peer_is_told_of_once_for_each_change() {
        let mut watch = HealthWatch::new(LagThresholds::default(), TIMEOUT);
        let mut on = |standing, bytes, lag_seconds, silent| {
            watch.on(Sight {
                standing,
                lag: lag(bytes, lag_seconds),
                silence: Duration::from_secs(silent),
            })
        };
        let detected = |lag, alarm| Some(Action::LagDetected { lag, alarm });
        let (warning, critical) = (LagAlarm::Warning, LagAlarm::Critical);
        let established = Some(Action::SyncEstablished);
        for (standing, bytes, seconds, silent, expected) in [
            (Away, 0, 0, 9, None),
            (Away, 0, 0, 10, Some(Action::Unhealthy)),
            (Away, 0, 0, 90, None),
            (Behind, 0, 0, 90, None),
            (Away, 0, 0, 91, None),
            (Behind, 2_000_000_000, 900, 0, None),
            // It streams, with what came meanwhile still before it.
            (Streaming, 10_000_000, 0, 0, None),
            (Streaming, 9_999_999, 9, 0, established),
            (Streaming, 0, 10, 0, detected(lag(0, 10), warning)),
            (Streaming, 10_000_000, 11, 0, None),
            (Streaming, 1, 60, 0, detected(lag(1, 60), critical)),
            // About the bounds, nothing is told again.
            (Streaming, 1, 59, 0, None),
            (Streaming, 1, 61, 0, None),
            (Streaming, 9_000_000, 0, 0, None),
            (Streaming, 10_000_000, 0, 0, None),
            (Streaming, 5_000_000, 0, 0, None),
            (Streaming, 0, 5, 0, None),
            (Streaming, 4_999_999, 4, 0, established),
            (Streaming, 0, 0, 0, None),
            // Who comes back in time is not told of as gone.
            (Away, 0, 0, 9, None),
            (Behind, 0, 0, 0, None),
            (Streaming, 0, 0, 0, established),
            (Away, 0, 0, 10, Some(Action::Unhealthy)),
            (Streaming, 0, 0, 0, established),
        ] {
            let told = on(standing, bytes, seconds, silent);
            assert_eq!(
                told, expected,
                "{standing:?} {bytes} B {seconds} s {silent} s"
            );
        }
    }

    #[test]
    fn without_a_timeout_nobody_is_gone() {
        let mut watch = HealthWatch::new(LagThresholds::default(), Duration::ZERO);
        let sight = Sight {
            standing: Away,
            lag: lag(0, 0),
            silence: Duration::from_secs(1_000_000),
        };
        assert_eq!(watch.on(sight), None);
    }

    #[test]
    fn the_word_says_how_bad_lag_is() {
        let word =
            |standing, bytes, seconds| LagThresholds::default().word(standing, lag(bytes, seconds));
        for (bytes, seconds, expected) in [
            (0, 0, Health::Synchronized),
            (9_999_999, 9, Health::Synchronized),
            (10_000_000, 0, Health::Lagging),
            (0, 10, Health::Lagging),
            (999_999_999, 59, Health::Lagging),
            (1_000_000_000, 0, Health::Broken),
            (0, 60, Health::Broken),
        ] {
            assert_eq!(
                word(Streaming, bytes, seconds),
                expected,
                "{bytes} {seconds}"
            );
            assert_eq!(word(Behind, bytes, seconds), Health::Syncing);
            assert_eq!(word(Away, bytes, seconds), Health::Broken);
        }
        let all = [
            Health::Syncing,
            Health::Synchronized,
            Health::Lagging,
            Health::Broken,
        ];
        let words = all.map(|health| health.to_string());
        assert_eq!(words, ["syncing", "synchronized", "lagging", "broken"]);
    }
}
