//! A point in time as the protocol machines see it.
//!
//! A [`Moment`] counts microseconds from an arbitrary start that the caller chooses once. This
//! room holds arithmetic and no clock: whoever drives a machine reads the clock, and a simulator
//! simply counts.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Microseconds since an arbitrary start; only differences between two of one driver mean anything.
///
/// ```
/// use mainstay_replication::time::Moment;
/// use std::time::Duration;
/// let then = Moment::from_micros(1_000_000);
/// let now = then + Duration::from_secs(2);
/// assert_eq!(now - then, Duration::from_secs(2));
/// assert_eq!(then - now, Duration::ZERO); // a clock that stepped back is not a panic
/// ```
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Default)]
pub struct Moment(u64);

impl Moment {
    /// The start itself.
    pub const ZERO: Moment = Moment(0);

    /// The moment `micros` microseconds after the start.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// The moment `duration` later; a sum beyond the end of time is the end of time.
    fn add(self, duration: Duration) -> Moment {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_add(micros))
    }
}

impl Sub for Moment {
    type Output = Duration;

    /// Time from `earlier` to this moment; zero when `earlier` is not earlier.
    fn sub(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_micros(self.0))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_saturates_at_the_end_of_time() {
        assert_eq!(
            Moment::from_micros(1) + Duration::MAX,
            Moment(u64::MAX),
            "a timeout of forever must not panic"
        );
    }
}
