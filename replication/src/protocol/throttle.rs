//! Holding a transfer to a rate.
//!
//! It is told what was sent and says when more may follow. Time that the receiver took itself is
//! not given back in a burst.

use std::time::Duration;

use crate::time::Moment;

/// How far a transfer may lag behind its rate before the rate counts from now on.
const SLACK: Duration = Duration::from_millis(200);

/// A transfer with at most so many bytes a second.
#[derive(Debug, Clone)]
pub struct Throttle {
    rate: u64,
    since: Moment,
    sent: u64,
}

impl Throttle {
    /// At most `rate` bytes a second, which must not be zero, from `now` on.
    ///
    /// # Panics
    /// On a rate of zero.
    pub fn new(rate: u64, now: Moment) -> Self {
        assert!(rate > 0, "a transfer without a rate never ends");
        Self {
            rate,
            since: now,
            sent: 0,
        }
    }

    /// `bytes` were sent; returns when the next may be, if that is later than `now`.
    pub fn sent(&mut self, bytes: u64, now: Moment) -> Option<Moment> {
        let before = self.due();
        if now > before + SLACK {
            (self.since, self.sent) = (now, 0);
        }
        self.sent = self.sent.saturating_add(bytes);
        let due = self.due();
        (due > now).then_some(due)
    }

    /// When what was sent so far should have been.
    fn due(&self) -> Moment {
        let micros = u128::from(self.sent) * 1_000_000 / u128::from(self.rate);
        self.since + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_keeps_to_its_rate() {
        let mut throttle = Throttle::new(1000, Moment::ZERO);
        let mut now = Moment::ZERO;
        for _ in 0..10 {
            now = throttle.sent(500, now).expect("it has to wait");
        }
        assert_eq!(now, Moment::from_micros(5_000_000));
    }

    #[test]
    fn time_that_was_not_used_is_not_made_up_for() {
        let mut throttle = Throttle::new(1000, Moment::ZERO);
        let late = Moment::from_micros(60_000_000);
        let next = throttle.sent(500, late).expect("it has to wait");
        assert_eq!(next - late, Duration::from_millis(500));
        // A little late is made up for, or the rate would never be reached.
        let soon = next + Duration::from_millis(100);
        let after = throttle.sent(500, soon).expect("it has to wait");
        assert_eq!(after - next, Duration::from_millis(500));
        let just = after + SLACK;
        let last = throttle.sent(500, just).expect("it has to wait");
        assert_eq!(last - after, Duration::from_millis(500));
        assert_eq!(throttle.sent(100, last + Duration::from_millis(100)), None);
    }
}
