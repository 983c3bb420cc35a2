//! How safe a commit must be before it is answered, and what happens when that cannot be had.
//!
//! Two small vocabularies with their text forms: [`Level`] is a condition of one waiter, [`OnMiss`]
//! a rule of the whole primary. This room parses and prints, and decides
//! nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// When a transaction's commit is answered; later ones are safer and slower.
#[derive(Debug, Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub enum Level {
    /// As soon as it is in memory. Promises nothing.
    Async,
    /// Flushed on this node.
    Local,
    /// Flushed on this node and written on the standbys that the policy counts.
    RemoteWrite,
    /// At or below the commit LSN: flushed on this node and on the standbys that the policy counts.
    RemoteFlush,
    /// As `RemoteFlush`, and readable on the standbys that the policy counts.
    RemoteApply,
}

impl Level {
    /// All levels, weakest first.
    pub const ALL: [Level; 5] = [
        Level::Async,
        Level::Local,
        Level::RemoteWrite,
        Level::RemoteFlush,
        Level::RemoteApply,
    ];

    /// The word operators write.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Local => "local",
            Self::RemoteWrite => "remote_write",
            Self::RemoteFlush => "remote_flush",
            Self::RemoteApply => "remote_apply",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no [`Level`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a commit level; \
     use async, local, remote_write, remote_flush or remote_apply"
)]
pub struct ParseLevelError(String);

impl FromStr for Level {
    type Err = ParseLevelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL
            .into_iter()
            .find(|level| text.eq_ignore_ascii_case(level.as_str()));
        known.ok_or_else(|| ParseLevelError(text.chars().take(64).collect()))
    }
}

/// Longest time an [`OnMiss`] may wait: a day.
pub const ON_MISS_AFTER_MAX: Duration = Duration::from_secs(86_400);

/// What a primary does when its policy is not met.
#[derive(Debug, Copy, Clone, Eq, PartialEq, Default)]
pub enum OnMiss {
    /// Waiters wait until it is met.
    #[default]
    Block,
    /// After this long without progress commits go on with own flush only, and receipts say so.
    Degrade {
        /// How long waiters wait first.
        after: Duration,
    },
    /// After this long without progress waiters end with an unknown outcome and writes are refused.
    Fail {
        /// How long waiters wait first.
        after: Duration,
    },
}

impl fmt::Display for OnMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block => f.write_str("block"),
            Self::Degrade { after } => write!(f, "degrade:{}", duration_text(*after)),
            Self::Fail { after } => write!(f, "fail:{}", duration_text(*after)),
        }
    }
}

/// A text that is no [`OnMiss`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} does not say what to do when the policy is not met; \
     use block, degrade:10s or fail:10s (units ms, s, m; more than zero, at most a day)"
)]
pub struct ParseOnMissError(String);

impl FromStr for OnMiss {
    type Err = ParseOnMissError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseOnMissError(text.chars().take(64).collect());
        let folded = text.trim().to_ascii_lowercase();
        if folded == "block" {
            return Ok(Self::Block);
        }
        let (word, after) = folded.split_once(':').ok_or_else(bad)?;
        let after = parse_duration(after).ok_or_else(bad)?;
        match word {
            _ if after.is_zero() || after > ON_MISS_AFTER_MAX => Err(bad()),
            "degrade" => Ok(Self::Degrade { after }),
            "fail" => Ok(Self::Fail { after }),
            _ => Err(bad()),
        }
    }
}

/// Reads `250ms`, `10s` or `5m`; `None` for anything else, a number without a unit included.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let millis = match text.get(digits.len()..)? {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let count = digits.parse::<u64>().ok().filter(|_| plain)?;
    count.checked_mul(millis).map(Duration::from_millis)
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that loses nothing.
/// Parts of a millisecond are left out.
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    match (millis % 60_000, millis % 1_000) {
        (0, 0) if millis > 0 => format!("{}m", millis / 60_000),
        (_, 0) => format!("{}s", millis / 1_000),
        _ => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn levels_round_trip_and_climb_in_safety() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!(Level::ALL.is_sorted());
        assert_eq!("Remote_Flush".parse(), Ok(Level::RemoteFlush));
        assert!("on".parse::<Level>().is_err());
    }

    #[test]
    fn the_rule_for_a_miss_round_trips_and_refuses_nonsense() {
        for text in [
            "block",
            "degrade:10s",
            "fail:250ms",
            "fail:2m",
            "degrade:90s",
            "fail:1440m",
        ] {
            assert_eq!(text.parse::<OnMiss>().unwrap().to_string(), text);
        }
        assert_eq!(duration_text(Duration::ZERO), "0s");
        for bad in [
            "",
            "wait",
            "degrade",
            "degrade:",
            "degrade:10",
            "fail:0s",
            "fail:-1s",
            "fail:+1s",
            "fail:9999999999999999999m",
            "fail:86400001ms",
            "fail:1h",
            "block:1s",
        ] {
            assert!(bad.parse::<OnMiss>().is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn every_duration_and_rule_round_trips(millis in 1..=86_400_000u64, number: u64) {
            for millis in [millis, millis / 1000 * 1000, number] {
                let after = Duration::from_millis(millis);
                prop_assert_eq!(parse_duration(&duration_text(after)), Some(after));
            }
            let after = Duration::from_millis(millis);
            for rule in [OnMiss::Degrade { after }, OnMiss::Fail { after }] {
                let text = rule.to_string();
                prop_assert_eq!(text.parse(), Ok(rule));
                // What is cut or longer says something else, or nothing.
                let longer = format!("{text}x");
                for len in (0..text.len()).chain([longer.len()]) {
                    prop_assert_ne!(longer[..len].parse(), Ok(rule), "{}", &longer[..len]);
                }
            }
        }

        #[test]
        fn any_text_is_taken_or_refused_but_never_panics(
            text in "(block|degrade|fail|local|:|[0-9]{1,25}|ms|s|m|\\PC){0,5}",
        ) {
            if let Some(duration) = parse_duration(&text) {
                prop_assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
            }
            if let Ok(rule) = text.parse::<OnMiss>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
            let _ = text.parse::<Level>();
        }
    }
}
