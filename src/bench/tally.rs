//! What the clients found: latencies, levels that were confirmed, and errors by their kind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::histogram::Histogram;
use crate::Level;
use crate::client::ClientError;

/// Why an operation has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nobody answers at the address.
    Unreachable,
    /// The connection broke, or no answer came in time: a commit's outcome is unknown.
    NoAnswer,
    /// The node is no primary.
    NotPrimary,
    /// The node says that the outcome of a commit is unknown.
    Unknown,
    /// The policy failed, and nothing was written.
    Refused,
    /// Other transactions were faster 16 times.
    Conflict,
    /// The node is stopping, or its disk failed.
    Unavailable,
    /// The disk is full.
    DiskFull,
    /// Any other answer that is not a success.
    Rejected,
    /// An answer that is none of a node's.
    Garbled,
    /// A read did not find what was written.
    Missing,
}

/// What the clients add to.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) commits: Histogram,
    pub(crate) reads: Histogram,
    confirmed: [AtomicU64; Level::ALL.len()],
    errors: [AtomicU64; Kind::ALL.len()],
    /// What the first error of each kind said.
    examples: Mutex<[Option<String>; Kind::ALL.len()]>,
}

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Unreachable,
        Self::NoAnswer,
        Self::NotPrimary,
        Self::Unknown,
        Self::Refused,
        Self::Conflict,
        Self::Unavailable,
        Self::DiskFull,
        Self::Rejected,
        Self::Garbled,
        Self::Missing,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::NoAnswer => "no_answer",
            Self::NotPrimary => "not_primary",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::DiskFull => "disk_full",
            Self::Rejected => "rejected",
            Self::Garbled => "garbled",
            Self::Missing => "missing",
        }
    }

    pub(crate) fn of(error: &ClientError) -> Self {
        match error {
            ClientError::Unreachable { .. } => Self::Unreachable,
            ClientError::NoAnswer { .. } => Self::NoAnswer,
            ClientError::Garbled { .. } => Self::Garbled,
            ClientError::Refused { status, .. } => match status {
                409 => Self::Conflict,
                412 => Self::Refused,
                421 => Self::NotPrimary,
                503 => Self::Unavailable,
                504 => Self::Unknown,
                507 => Self::DiskFull,
                _ => Self::Rejected,
            },
        }
    }

    /// Whether another node may be the one to ask.
    pub(crate) fn is_about_the_node(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::NoAnswer | Self::NotPrimary | Self::Unavailable
        )
    }
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            commits: Histogram::new(),
            reads: Histogram::new(),
            confirmed: Default::default(),
            errors: Default::default(),
            examples: Mutex::default(),
        }
    }

    /// Counts a commit that was answered with `level`.
    pub(crate) fn commit(&self, latency: Duration, level: Level) {
        self.commits.record(latency);
        let levels = Level::ALL.iter().zip(&self.confirmed);
        let mut same = levels.filter(|(each, _)| **each == level);
        let (_, count) = same.next().expect("these are all levels");
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an operation that has no result because of what `text` says.
    pub(crate) fn error(&self, kind: Kind, text: impl FnOnce() -> String) {
        let at = kind as usize;
        if self.errors[at].fetch_add(1, Ordering::Relaxed) == 0 {
            self.examples.lock()[at] = Some(text());
        }
    }

    /// How many commits were confirmed at each level, weakest first; only what there is.
    pub(crate) fn confirmed(&self) -> Vec<(Level, u64)> {
        let counts = self.confirmed.iter();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        let counts = Level::ALL.into_iter().zip(counts);
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// How many errors of each kind there were, with what the first said.
    pub(crate) fn errors(&self) -> Vec<(Kind, u64, Option<String>)> {
        let examples = self.examples.lock();
        let kinds = Kind::ALL.into_iter().zip(&self.errors).zip(&*examples);
        let kinds = kinds.map(|((kind, count), example)| {
            let count = count.load(Ordering::Relaxed);
            (kind, count, example.clone())
        });
        kinds.collect()
    }

    pub(crate) fn errors_in_all(&self) -> u64 {
        let counts = self.errors.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_place_and_name() {
        let mut names = Kind::ALL.map(Kind::as_str).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "{kind:?}");
        }
    }

    #[test]
    fn an_answer_counts_by_what_it_means_for_the_operation() {
        let kind = |status| {
            let (error, hint) = (String::new(), None);
            Kind::of(&ClientError::Refused {
                status,
                error,
                hint,
            })
        };
        let kinds = [409, 412, 421, 503, 504, 507, 413, 401].map(kind);
        let expected = [
            Kind::Conflict,
            Kind::Refused,
            Kind::NotPrimary,
            Kind::Unavailable,
            Kind::Unknown,
            Kind::DiskFull,
            Kind::Rejected,
            Kind::Rejected,
        ];
        assert_eq!(kinds, expected);
        let (address, why) = (String::new(), String::new());
        let broken = Kind::of(&ClientError::NoAnswer { address, why });
        assert!(broken.is_about_the_node() && !kind(504).is_about_the_node());
    }

    #[test]
    fn errors_are_counted_by_kind_and_the_first_of_each_is_kept() {
        let tally = Tally::new();
        tally.error(Kind::Unknown, || "first".to_owned());
        tally.error(Kind::Unknown, || "second".to_owned());
        tally.error(Kind::Missing, || "third".to_owned());
        let errors = tally.errors();
        let said = Some("first".to_owned());
        assert!(errors.contains(&(Kind::Unknown, 2, said)), "{errors:?}");
        assert!(errors.contains(&(Kind::Conflict, 0, None)), "{errors:?}");
        assert_eq!((tally.errors_in_all(), errors.len()), (3, Kind::ALL.len()));
    }

    #[test]
    fn commits_are_counted_by_the_level_that_was_confirmed() {
        let tally = Tally::new();
        for level in [Level::Local, Level::RemoteFlush, Level::Local] {
            tally.commit(Duration::from_millis(1), level);
        }
        let expected = [(Level::Local, 2), (Level::RemoteFlush, 1)];
        assert_eq!(tally.confirmed(), expected);
        assert_eq!(tally.commits.distribution().count(), 3);
    }
}
