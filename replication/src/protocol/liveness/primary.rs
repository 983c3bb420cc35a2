//! The one word for a primary: the worst of what its standbys and its policy say.
//!
//! A primary is `synchronized` only if its policy is met: one that needs standbys and has none is
//! `syncing`, and `broken` once commits have waited as long, or as much, as lag that is critical,
//! and while it is degraded or failed.
//! This room knows neither names nor positions.

use super::{Health, LagAlarm, LagThresholds};
use crate::protocol::progress::Lag;

/// How a primary's synchronous policy stands.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct PolicyStanding {
    /// Whether as many standbys are caught up as every binding policy needs, and confirming is
    /// not suspended. True without a policy.
    pub met: bool,
    /// Whether commits do not wait for it any more, or are refused, since it was missed too long.
    pub missed: bool,
    /// The flushed log that waits to be confirmed, and for how long it has.
    pub waiting: Lag,
}

/// The word for a primary whose registered standbys are as `standbys` says.
pub fn primary_health(
    standbys: impl IntoIterator<Item = Health>,
    policy: PolicyStanding,
    thresholds: &LagThresholds,
) -> Health {
    let critical = thresholds.alarm(policy.waiting) == LagAlarm::Critical;
    let own = match policy.met {
        _ if policy.missed => Health::Broken,
        true => Health::Synchronized,
        false if critical => Health::Broken,
        false => Health::Syncing,
    };
    let all = standbys.into_iter().chain([own]);
    all.max_by_key(|health| gravity(*health)).unwrap_or(own)
}

/// Whoever has never been at the end of the log is further away than who fell behind.
const fn gravity(health: Health) -> u8 {
    match health {
        Health::Synchronized => 0,
        Health::Lagging => 1,
        Health::Syncing => 2,
        Health::Broken => 3,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Health::{Broken, Lagging, Synchronized, Syncing};
    use super::*;

    fn word(standbys: &[Health], met: bool, bytes: u64, seconds: u64) -> Health {
        let waiting = Lag {
            bytes,
            time: Duration::from_secs(seconds),
        };
        let missed = false;
        let standing = PolicyStanding {
            met,
            missed,
            waiting,
        };
        primary_health(
            standbys.iter().copied(),
            standing,
            &LagThresholds::default(),
        )
    }

    #[test]
    fn a_primary_whose_policy_lacks_standbys_is_syncing_and_then_broken() {
        for (bytes, seconds, expected) in [
            (0, 0, Syncing),
            (160, 0, Syncing),
            (999_999_999, 59, Syncing),
            (160, 60, Broken),
            (1_000_000_000, 1, Broken),
        ] {
            let found = word(&[], false, bytes, seconds);
            assert_eq!(found, expected, "{bytes} bytes for {seconds} s");
        }
        assert_eq!(word(&[Synchronized], false, 0, 0), Syncing, "one of two");
    }

    #[test]
    fn a_primary_without_standbys_that_needs_none_is_synchronized() {
        assert_eq!(word(&[], true, 0, 0), Synchronized);
        assert_eq!(
            word(&[], true, 2_000_000_000, 90),
            Synchronized,
            "a slow disk"
        );
    }

    #[test]
    fn a_primary_that_gave_up_on_its_policy_is_broken_until_it_recovers() {
        for met in [false, true] {
            let (missed, waiting) = (true, Lag::default());
            let standing = PolicyStanding {
                met,
                missed,
                waiting,
            };
            let thresholds = LagThresholds::default();
            assert_eq!(primary_health([Syncing], standing, &thresholds), Broken);
        }
    }

    #[test]
    fn the_worst_standby_gives_the_word() {
        for (standbys, expected) in [
            (&[Synchronized, Synchronized][..], Synchronized),
            (&[Synchronized, Lagging], Lagging),
            (&[Lagging, Syncing, Synchronized], Syncing),
            (&[Syncing, Broken, Lagging], Broken),
        ] {
            assert_eq!(word(standbys, true, 0, 0), expected, "{standbys:?}");
        }
        assert_eq!(word(&[Lagging], false, 0, 0), Syncing);
        assert_eq!(word(&[Broken], false, 0, 0), Broken);
    }
}
