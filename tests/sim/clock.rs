//! The clock of one machine, which is nobody else's: it began at another time, and may run fast or
//! slow, jump ahead, or stand still while its machine sleeps. It never goes back, as the clocks do
//! not that the product asks.

use super::random::Random;

/// A microsecond of virtual time is a million of these.
const EVEN: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Clock {
    /// What it showed at the virtual time `since`.
    shown: u64,
    since: u64,
    /// How far it goes in a second of virtual time, in microseconds.
    rate: u64,
}

impl Clock {
    /// A clock that goes right, or up to 5 % wrong if `drifts`.
    pub(super) fn new(drifts: bool, random: &mut Random) -> Self {
        let rate = match drifts {
            true => EVEN - 50_000 + random.below(100_000),
            false => EVEN,
        };
        Self {
            shown: random.below(1 << 40),
            since: 0,
            rate,
        }
    }

    /// What it shows at the virtual time `now`.
    pub(super) fn show(&self, now: u64) -> u64 {
        self.shown + now.saturating_sub(self.since) * self.rate / EVEN
    }

    /// The virtual time at which it shows `local`, or `now` if that is over.
    pub(super) fn when(&self, local: u64, now: u64) -> u64 {
        let ahead = local.saturating_sub(self.shown);
        (self.since + (ahead * EVEN).div_ceil(self.rate)).max(now)
    }

    /// Stands still until `until`, or shows then that `by` has gone by.
    pub(super) fn sleep(&mut self, now: u64, until: u64, by: u64) {
        (self.shown, self.since) = (self.show(now) + by, until);
    }
}
