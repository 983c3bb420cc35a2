//! How far a standby may apply while it is to stay behind its primary.
//!
//! A position may be applied once it has been known committed here for the whole delay, counted on
//! this node's own clock: never earlier, and a little later where many positions came close
//! together, since only [`SAMPLES_MAX`] of them are remembered. After a restart everything counts
//! as just heard. This room knows no store and no clock.

use std::collections::VecDeque;
use std::time::Duration;

use mainstay_storage::Lsn;

use crate::time::Moment;

/// Positions whose time is remembered.
pub const SAMPLES_MAX: usize = 4096;

/// Longest delay that can be asked for: a week.
pub const APPLY_DELAY_MAX: Duration = Duration::from_secs(7 * 86_400);

/// See the module.
#[derive(Debug, Clone)]
pub struct Pace {
    delay: Duration,
    /// Positions and when they were heard, both climbing.
    heard: VecDeque<(Lsn, Moment)>,
    allowed: Lsn,
}

impl Pace {
    /// Stays behind by at least `delay`.
    pub fn new(delay: Duration) -> Self {
        Self {
            delay,
            heard: VecDeque::new(),
            allowed: Lsn::ZERO,
        }
    }

    /// Everything up to `to` is known committed now.
    pub fn heard(&mut self, to: Lsn, now: Moment) {
        let last = self.heard.back().map_or(self.allowed, |(to, _)| *to);
        if to <= last {
            return;
        }
        if self.heard.len() == SAMPLES_MAX {
            // The newest two become one, of the later time.
            self.heard.pop_back();
        }
        self.heard.push_back((to, now));
    }

    /// How far may be applied now.
    pub fn allowed(&mut self, now: Moment) -> Lsn {
        while let Some(&(to, heard)) = self.heard.front()
            && heard + self.delay <= now
        {
            self.allowed = to;
            self.heard.pop_front();
        }
        self.allowed
    }

    /// When more may be applied without anything being heard.
    pub fn deadline(&self) -> Option<Moment> {
        self.heard.front().map(|(_, heard)| *heard + self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn without_a_delay_what_is_heard_is_allowed() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.heard(Lsn::new(8), at(1));
        assert_eq!(pace.allowed(at(1)), Lsn::new(8));
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn a_position_is_allowed_when_it_has_been_known_for_the_delay() {
        let mut pace = Pace::new(Duration::from_secs(10));
        pace.heard(Lsn::new(8), at(1));
        pace.heard(Lsn::new(16), at(5));
        pace.heard(Lsn::new(16), at(6));
        assert_eq!(
            (pace.allowed(at(10)), pace.deadline()),
            (Lsn::ZERO, Some(at(11)))
        );
        assert_eq!(
            (pace.allowed(at(11)), pace.deadline()),
            (Lsn::new(8), Some(at(15)))
        );
        assert_eq!(
            (pace.allowed(at(15)), pace.deadline()),
            (Lsn::new(16), None)
        );
        pace.heard(Lsn::new(16), at(16));
        assert_eq!(pace.deadline(), None, "it is allowed already");
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_allowed_too_early() {
        let mut pace = Pace::new(Duration::from_secs(1));
        let last = SAMPLES_MAX as u64 * 3;
        for n in 1..=last {
            pace.heard(Lsn::new(n * 8), at(n));
        }
        assert_eq!(pace.heard.len(), SAMPLES_MAX);
        for n in 1..=last {
            assert!(
                pace.allowed(at(n) + Duration::from_millis(999)) < Lsn::new(n * 8),
                "{n}"
            );
        }
        assert_eq!(pace.allowed(at(last + 1)), Lsn::new(last * 8));
    }
}
