//! Whom to dial next: the configured addresses in turn, the primary among them, or the candidate
//! that this node promised to follow.
//!
//! A candidate is about to open its timeline, so for a while it is the only one that is dialled,
//! and soon again. A standby is followed when it is the only address, or when all addresses turn
//! out to be standbys; as long as one of them may be the primary, it is passed over.

use std::time::Duration;

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::time::Moment;

/// How long a candidate that this node promised to follow is the only one that it dials.
const CANDIDATE_WAIT: Duration = Duration::from_secs(5);

/// Microseconds between two attempts to reach such a candidate.
const CANDIDATE_RETRY_MICROS: u64 = 20_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Upstreams {
    addresses: Vec<String>,
    next: usize,
    /// The candidate that is waited for, and until when.
    candidate: Option<(String, Moment)>,
    /// Standbys met in a row while looking for the primary.
    passed_over: usize,
}

impl Upstreams {
    pub(super) fn new(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            next: 0,
            candidate: None,
            passed_over: 0,
        }
    }

    pub(super) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// This node promised to follow the candidate at `address`.
    pub(super) fn promise(&mut self, address: String, now: Moment) {
        self.addresses.retain(|known| *known != address);
        self.addresses.insert(0, address.clone());
        self.next = 0;
        self.candidate = Some((address, now + CANDIDATE_WAIT));
    }

    /// Whom to dial.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is nobody.
    pub(super) fn next(&mut self, now: Moment) -> Result<String> {
        if self.awaits_candidate(now)
            && let Some((address, _)) = &self.candidate
        {
            return Ok(address.clone());
        }
        let at = self.next % self.addresses.len().max(1);
        self.next += 1;
        let address = self.addresses.get(at).cloned();
        address.ok_or_else(|| Error::Invalid("no address to follow is known".to_owned()))
    }

    /// Whether a candidate is waited for.
    pub(super) fn awaits_candidate(&self, now: Moment) -> bool {
        let candidate = self.candidate.as_ref();
        candidate.is_some_and(|(_, until)| now < *until)
    }

    /// The node that was dialled is the primary that this node may follow.
    pub(super) fn found_primary(&mut self) {
        self.candidate = None;
        self.passed_over = 0;
    }

    /// The node that was dialled is a standby; says whether to pass it over.
    pub(super) fn pass_over(&mut self, now: Moment) -> bool {
        if self.awaits_candidate(now) {
            return true;
        }
        self.passed_over += 1;
        let pass = self.passed_over < self.addresses.len();
        if !pass {
            self.passed_over = 0;
        }
        pass
    }

    /// Spreads redialling; a candidate that is waited for is dialled again soon.
    pub(super) fn redial(&self, now: Moment) -> u64 {
        match self.awaits_candidate(now) {
            true => CANDIDATE_RETRY_MICROS,
            // Nothing depends on its quality.
            false => Uuid::new_v4().as_u64_pair().0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_micros(1);

    fn three() -> Upstreams {
        Upstreams::new(["a:1", "b:1", "c:1"].map(str::to_owned).to_vec())
    }

    #[test]
    fn the_addresses_are_dialled_in_turn() {
        let mut upstreams = three();
        let dialled = [0; 4].map(|_| upstreams.next(NOW).unwrap());
        assert_eq!(dialled, ["a:1", "b:1", "c:1", "a:1"]);
        assert!(Upstreams::new(Vec::new()).next(NOW).is_err());
    }

    #[test]
    fn a_standby_is_passed_over_until_all_are_standbys() {
        let mut upstreams = three();
        assert_eq!(
            [0; 3].map(|_| upstreams.pass_over(NOW)),
            [true, true, false]
        );
        assert!(upstreams.pass_over(NOW));
        upstreams.found_primary();
        assert_eq!([0; 2].map(|_| upstreams.pass_over(NOW)), [true, true]);
        let mut only = Upstreams::new(vec!["a:1".to_owned()]);
        assert!(!only.pass_over(NOW));
    }

    #[test]
    fn a_candidate_is_the_only_one_dialled_until_it_opened_or_time_has_passed() {
        let mut upstreams = three();
        upstreams.promise("c:1".to_owned(), NOW);
        assert_eq!([0; 2].map(|_| upstreams.next(NOW).unwrap()), ["c:1", "c:1"]);
        assert!(upstreams.pass_over(NOW), "it has not opened yet");
        assert_eq!(upstreams.redial(NOW), CANDIDATE_RETRY_MICROS);
        let later = NOW + CANDIDATE_WAIT;
        assert_eq!(
            [0; 2].map(|_| upstreams.next(later).unwrap()),
            ["c:1", "a:1"]
        );
        upstreams.promise("b:1".to_owned(), NOW);
        upstreams.found_primary();
        assert!(!upstreams.awaits_candidate(NOW));
        assert_eq!(upstreams.addresses(), ["b:1", "c:1", "a:1"]);
    }
}
