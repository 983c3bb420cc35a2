//! How a primary goes on that may not confirm: by which rule it asks, and when again.
//!
//! A running primary that met a timeline only promised asks for a higher number
//! ([`Purpose::Raise`]). One that crashed under a policy, or since it had one, may lack log that
//! its standbys were sent, or have missed a promise, so it confirms and streams nothing until
//! members accepted that it goes on ([`Purpose::Restart`]). Either rule is safe for it, the
//! [model](super) tries both: that for restarts needs fewer members, that for running primaries
//! also those that promised a timeline nobody opened. So it takes turns.

use std::time::Duration;

use mainstay_storage::{Lsn, TimelineHistory};

use super::Purpose;

/// Bound on the time before a second attempt; it doubles from attempt to attempt.
pub const ATTEMPT_BACKOFF_BASE: Duration = Duration::from_millis(500);

/// Every attempt comes within this time.
pub const ATTEMPT_BACKOFF_MAX: Duration = Duration::from_secs(15);

/// Why a primary may not confirm.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Standstill {
    /// It met a timeline that was only promised.
    Outbid,
    /// It crashed, and must ask before it goes on.
    Crashed,
}

/// What a primary knows of itself when it starts.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// Its log was closed properly.
    pub clean: bool,
    /// Others may hold log that it lost in a crash.
    pub overlapped: bool,
    /// It promised a timeline newer than its own.
    pub promised: bool,
    /// A binding policy needs standbys, and counts as many: they may have acknowledged.
    pub counted: bool,
}

/// Whether a primary that starts must ask first.
pub const fn standstill(beginning: Beginning) -> Option<Standstill> {
    match beginning {
        Beginning { promised: true, .. } => Some(Standstill::Outbid),
        Beginning {
            overlapped: true, ..
        }
        | Beginning {
            clean: false,
            counted: true,
            ..
        } => Some(Standstill::Crashed),
        _ => None,
    }
}

/// Up to where a primary that starts again confirms nothing, zero for nowhere; `commit` is what it
/// knows committed, and `flushed` where its log ends.
///
/// What began its timeline may not be committed yet. Until it is, nothing older may be confirmed by
/// counting alone: a node with another timeline in its log could still be preferred to all who
/// counted. Where that record ends is not remembered; the log as it is contains it.
pub fn held_until(history: &TimelineHistory, commit: Lsn, flushed: Lsn) -> Lsn {
    let begun = history.spans().len() > 1 && commit <= history.current_begin();
    if begun { flushed } else { Lsn::ZERO }
}

impl Standstill {
    /// The rule by which attempt number `attempt` (from 0) asks.
    pub const fn purpose(self, attempt: u32) -> Purpose {
        match self {
            Self::Crashed if attempt.is_multiple_of(2) => Purpose::Restart,
            _ => Purpose::Raise,
        }
    }

    /// Time before attempt number `attempt` (from 0): between half of a bound and the bound, which
    /// doubles up to [`ATTEMPT_BACKOFF_MAX`]. Whoever crashed asks at once first; whoever was
    /// outbid leaves the other candidate time to open what it was promised.
    pub fn backoff(self, attempt: u32, random: u64) -> Duration {
        if self == Self::Crashed && attempt == 0 {
            return Duration::ZERO;
        }
        let factor = 1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX);
        let bound = ATTEMPT_BACKOFF_BASE.saturating_mul(factor);
        let half = bound.min(ATTEMPT_BACKOFF_MAX) / 2;
        let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(random % (micros + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::script::timeline;

    #[test]
    fn a_primary_asks_before_it_goes_on_after_a_crash_under_a_policy_or_a_promise() {
        for bits in 0..16 {
            let [clean, overlapped, promised, counted] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
            let beginning = Beginning {
                clean,
                overlapped,
                promised,
                counted,
            };
            let expected = match (promised, overlapped || (counted && !clean)) {
                (true, _) => Some(Standstill::Outbid),
                (false, true) => Some(Standstill::Crashed),
                _ => None,
            };
            assert_eq!(standstill(beginning), expected, "{beginning:?}");
        }
    }

    #[test]
    fn a_start_does_not_end_the_wait_for_what_began_the_timeline() {
        let at = Lsn::new;
        let mut history = TimelineHistory::new(timeline("1:a"), at(8));
        assert_eq!(
            held_until(&history, at(8), at(80)),
            Lsn::ZERO,
            "nothing began it"
        );
        history.open(timeline("2:b"), at(40), "").unwrap();
        for (commit, expected) in [(8, 80), (32, 80), (40, 80), (48, 0), (80, 0)] {
            assert_eq!(
                held_until(&history, at(commit), at(80)),
                at(expected),
                "{commit}"
            );
        }
    }

    #[test]
    fn attempts_take_turns_after_a_crash_and_stay_within_their_bounds() {
        let purposes = [0, 1, 2, 3].map(|attempt| Standstill::Crashed.purpose(attempt));
        let (restart, raise) = (Purpose::Restart, Purpose::Raise);
        assert_eq!(purposes, [restart, raise, restart, raise]);
        assert_eq!(Standstill::Outbid.purpose(0), raise);
        assert_eq!(Standstill::Crashed.backoff(0, 77), Duration::ZERO);
        for attempt in 0..100 {
            for random in [0, 1, 99_999, u64::MAX / 2, u64::MAX] {
                let wait = Standstill::Outbid.backoff(attempt, random);
                assert!(wait >= ATTEMPT_BACKOFF_BASE / 2 && wait <= ATTEMPT_BACKOFF_MAX);
                assert!(attempt > 0 || wait <= ATTEMPT_BACKOFF_BASE);
            }
        }
        assert_eq!(
            Standstill::Outbid.backoff(40, 7_500_000),
            ATTEMPT_BACKOFF_MAX
        );
    }
}
