//! One standby's ladder of positions, and how far behind it is.
//!
//! `applied <= flushed <= written <= sent` holds for what a native standby reports about one
//! timeline; a report that breaks it is refused. A stock client reports what it likes, so only a
//! claim to log that nobody has shown is refused there. Positions only climb within a session, and
//! zero means "not reported". Lag in time needs a memory of when each position was reached:
//! [`LagSamples`], one per node, whatever the number of standbys. This room decides nothing.

use std::collections::VecDeque;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline};

use crate::time::Moment;

/// Most samples that [`LagSamples`] keeps.
pub const LAG_SAMPLES_MAX: usize = 1024;
// Distances that double cover all of time with 64 samples, so merging always makes room.
const _: () = assert!(LAG_SAMPLES_MAX >= 256);

/// What a standby reports of itself; each a position, zero for "not reported".
#[derive(Debug, Copy, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    /// Handed to its operating system up to here.
    pub write: Lsn,
    /// Survives a power cut there up to here.
    pub flush: Lsn,
    /// Visible in its store up to here.
    pub apply: Lsn,
}

/// A stage of the way of log through a standby.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Given to the connection.
    Sent,
    /// Handed to the standby's operating system.
    Written,
    /// Flushed there.
    Flushed,
    /// Visible there.
    Applied,
}

/// Why a report is refused.
#[derive(Debug, Copy, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// It claims log that it cannot have.
    #[error("reported {stage:?} position {claimed} lies beyond {bound}, the end of what was sent")]
    Beyond {
        /// Which of the three.
        stage: Stage,
        /// What was claimed.
        claimed: Lsn,
        /// The highest believable position.
        bound: Lsn,
    },
    /// Applied is above flushed, or flushed above written.
    #[error("reported positions are out of order: {0:?}")]
    Disordered(Positions),
}

/// One session's ladder on one timeline.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Progress {
    timeline: Timeline,
    sent: Lsn,
    reported: Positions,
}

impl Progress {
    /// A session that begins to send `timeline` at `from`.
    pub const fn new(timeline: Timeline, from: Lsn) -> Self {
        Self {
            timeline,
            sent: from,
            reported: Positions {
                write: Lsn::ZERO,
                flush: Lsn::ZERO,
                apply: Lsn::ZERO,
            },
        }
    }

    /// The timeline all positions are on.
    pub const fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// The end of what was sent.
    pub const fn sent(&self) -> Lsn {
        self.sent
    }

    /// The highest positions reported.
    pub const fn reported(&self) -> Positions {
        self.reported
    }

    /// Notes that everything below `to` was sent.
    ///
    /// # Panics
    /// When `to` lies before what was sent already.
    pub fn sent_up_to(&mut self, to: Lsn) {
        assert!(to >= self.sent, "sent {} after {}", to, self.sent);
        self.sent = to;
    }

    /// Takes a native standby's report; `Ok(true)` if a position climbed. `ceiling` is the highest
    /// position that may have reached it, at or above what is known to be sent.
    ///
    /// # Errors
    /// When it claims more than that or breaks the ladder; then nothing is taken of it.
    pub fn report(&mut self, claim: Positions, ceiling: Lsn) -> Result<bool, ReportError> {
        let climbs = |low: Lsn, high: Lsn| low.is_zero() || high.is_zero() || low <= high;
        let ordered = climbs(claim.apply, claim.flush) && climbs(claim.flush, claim.write);
        if !ordered || !climbs(claim.apply, claim.write) {
            return Err(ReportError::Disordered(claim));
        }
        self.take(claim, ceiling.max(self.sent))
    }

    /// Takes a stock client's report, which may run ahead of `sent` (it started over at a segment
    /// boundary) but not beyond `shown`, the end of what any stock client was shown.
    ///
    /// # Errors
    /// When it claims more than that; then nothing is taken of it.
    pub fn report_stock(&mut self, claim: Positions, shown: Lsn) -> Result<bool, ReportError> {
        self.take(claim, shown.max(self.sent))
    }

    fn take(&mut self, claim: Positions, bound: Lsn) -> Result<bool, ReportError> {
        let stages = [
            (Stage::Written, claim.write),
            (Stage::Flushed, claim.flush),
            (Stage::Applied, claim.apply),
        ];
        if let Some(&(stage, claimed)) = stages.iter().find(|(_, claimed)| *claimed > bound) {
            return Err(ReportError::Beyond {
                stage,
                claimed,
                bound,
            });
        }
        let before = self.reported;
        self.reported = Positions {
            write: before.write.max(claim.write),
            flush: before.flush.max(claim.flush),
            apply: before.apply.max(claim.apply),
        };
        Ok(self.reported != before)
    }

    /// Where `stage` stands; `None` while it was not reported.
    pub fn at(&self, stage: Stage) -> Option<Lsn> {
        let at = match stage {
            Stage::Sent => self.sent,
            Stage::Written => self.reported.write,
            Stage::Flushed => self.reported.flush,
            Stage::Applied => self.reported.apply,
        };
        Some(at).filter(|at| !at.is_zero())
    }

    /// How far `stage` is behind `end`, the end of this node's log; `None` while not reported.
    pub fn lag(&self, stage: Stage, end: Lsn, samples: &LagSamples, now: Moment) -> Option<Lag> {
        let at = self.at(stage)?;
        Some(Lag {
            bytes: end.bytes_since(at),
            time: samples.age_of(at, now),
        })
    }
}

/// How far behind something is; zero and zero when it has everything.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lag {
    /// In bytes of log.
    pub bytes: u64,
    /// How long the oldest byte it lacks has existed.
    pub time: Duration,
}

/// When the log reached which position.
///
/// * Ends climb strictly, moments never fall.
/// * At most [`LAG_SAMPLES_MAX`]; when full, neighbours are merged where their distance is small
///   against their age. A lag read from merged samples is too long by that share, about 3 %, and
///   never too short.
#[derive(Debug, Clone, Default)]
pub struct LagSamples {
    samples: VecDeque<Sample>,
}

/// The log grew up to `end` from `first` to `last`.
#[derive(Debug, Copy, Clone)]
struct Sample {
    end: Lsn,
    first: Moment,
    last: Moment,
}

impl LagSamples {
    /// No samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that the log's end reached `end` at `now`. An `end` that does not climb is ignored.
    pub fn record(&mut self, end: Lsn, now: Moment) {
        let newest = self.samples.back();
        let (highest, latest) = newest.map_or((Lsn::ZERO, now), |newest| (newest.end, newest.last));
        if end <= highest {
            return;
        }
        let now = now.max(latest);
        if self.samples.len() == LAG_SAMPLES_MAX {
            let shares = [32, 16, 8, 4, 2, 1];
            let roomy = |samples: &VecDeque<Sample>| samples.len() <= LAG_SAMPLES_MAX / 4 * 3;
            for share in shares {
                if !roomy(&self.samples) {
                    self.merge_neighbours(now, share);
                }
            }
            assert!(roomy(&self.samples), "doubling distances cover all time");
        }
        self.samples.push_back(Sample {
            end,
            first: now,
            last: now,
        });
    }

    /// Forgets everything, after log was cut.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// How long ago the oldest byte at or above `at` came to be; zero if there is none.
    pub fn age_of(&self, at: Lsn, now: Moment) -> Duration {
        let next = self.samples.partition_point(|sample| sample.end <= at);
        let since = self.samples.get(next).map(|sample| now - sample.first);
        since.unwrap_or_default()
    }

    /// Number of samples kept.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Merges what then still lies within a `share`-th of its age.
    fn merge_neighbours(&mut self, now: Moment, share: u32) {
        let mut merged: VecDeque<Sample> = VecDeque::with_capacity(self.samples.len());
        for older in std::mem::take(&mut self.samples).into_iter().rev() {
            match merged.front_mut() {
                Some(newer) if (newer.last - older.first) * share <= now - newer.last => {
                    newer.first = older.first;
                }
                _ => merged.push_front(older),
            }
        }
        self.samples = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::script::{Command, run};
    use proptest::prelude::*;
    use uuid::Uuid;

    fn seconds(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn progress_follows_its_script() {
        let timeline = Timeline {
            number: 1,
            id: Uuid::nil(),
        };
        let mut progress = Progress::new(timeline, Lsn::ZERO);
        let mut samples = LagSamples::new();
        let (mut end, mut now) = (Lsn::ZERO, Moment::ZERO);
        run!("progress.txt", |command: &Command| {
            let positions = Positions {
                write: command.lsn("write"),
                flush: command.lsn("flush"),
                apply: command.lsn("apply"),
            };
            now = now + command.duration("after");
            let taken = match command.name() {
                "start" => {
                    progress = Progress::new(timeline, command.lsn("from"));
                    return vec![];
                }
                "log" => {
                    end = command.lsn("end");
                    samples.record(end, now);
                    return vec![];
                }
                "sent" => {
                    progress.sent_up_to(command.lsn("to"));
                    return vec![];
                }
                "native" => progress.report(positions, Lsn::ZERO),
                "stock" => progress.report_stock(positions, command.lsn("shown")),
                "lag" => {
                    let stages = [Stage::Sent, Stage::Written, Stage::Flushed, Stage::Applied];
                    let lag = |stage| match progress.lag(stage, end, &samples, now) {
                        Some(lag) => format!("{stage:?} {} B {:?}", lag.bytes, lag.time),
                        None => format!("{stage:?} not reported"),
                    };
                    return stages.into_iter().map(lag).collect();
                }
                other => panic!("no command {other}"),
            };
            vec![match taken {
                Ok(true) => format!("{:?}", progress.reported()),
                Ok(false) => "nothing new".into(),
                Err(error) => format!("refused: {error}"),
            }]
        });
    }

    #[test]
    fn samples_keep_to_their_bound_and_go_with_log_that_is_cut() {
        let mut samples = LagSamples::new();
        for n in 1..=5000 {
            samples.record(Lsn::new(n as u64 * 8), Moment::from_micros(n as u64));
            let all = n <= LAG_SAMPLES_MAX;
            assert_eq!(samples.len() == n, all, "{} of {n}", samples.len());
            assert!(samples.len() <= LAG_SAMPLES_MAX && !samples.is_empty());
        }
        samples.clear();
        assert!(samples.is_empty());
        // What is written in its place is measured, although it lies below.
        samples.record(Lsn::new(8), seconds(10));
        let age = samples.age_of(Lsn::ZERO, seconds(15));
        assert_eq!(age, Duration::from_secs(5));
    }

    #[test]
    fn merged_samples_never_report_too_little_lag() {
        let mut samples = LagSamples::new();
        for second in 1..=20_000 {
            samples.record(Lsn::new(second * 8), seconds(second));
            assert!(samples.len() <= LAG_SAMPLES_MAX);
        }
        for second in (0..20_000).step_by(97) {
            let age = samples.age_of(Lsn::new(second * 8), seconds(20_000));
            let exact = Duration::from_secs(20_000 - second - 1);
            assert!(age >= exact, "{second}: {age:?} < {exact:?}");
            let most = exact + exact / 32;
            assert!(age <= most, "{second}: {age:?} > {most:?}");
        }
        assert_eq!(
            samples.age_of(Lsn::new(160_000), seconds(90_000)),
            Duration::ZERO
        );
    }

    proptest! {
        #[test]
        fn positions_only_climb_and_never_pass_what_was_sent(
            claims in prop::collection::vec((0u64..40, 0u64..40, 0u64..40, 0u64..3), 1..60)
        ) {
            let timeline = Timeline { number: 1, id: Uuid::nil() };
            let mut progress = Progress::new(timeline, Lsn::new(8));
            for (write, flush, apply, more) in claims {
                progress.sent_up_to(progress.sent() + more);
                let [write, flush, apply] = [write, flush, apply].map(Lsn::new);
                let before = progress.reported();
                let taken = progress.report(Positions { write, flush, apply }, Lsn::ZERO);
                let after = progress.reported();
                prop_assert!(taken.is_ok() || before == after);
                prop_assert!(after.write >= before.write && after.write <= progress.sent());
                prop_assert!(after.flush >= before.flush && after.flush <= progress.sent());
                prop_assert!(after.apply >= before.apply && after.apply <= progress.sent());
            }
        }
    }
}
