//! The one place where replication reads the clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::time::Moment;

/// Moments of this process, counted from when the clock was made, and the wall clock for people.
#[derive(Debug, Copy, Clone)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Now, for machines.
    pub(crate) fn now(&self) -> Moment {
        let elapsed = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Moment::from_micros(elapsed)
    }

    /// When `moment` is, for tokio's timers.
    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        self.start + Duration::from_micros(moment.as_micros())
    }

    /// Microseconds since 1970-01-01 UTC. Never used to decide anything.
    pub(crate) fn wall_us(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }
}
