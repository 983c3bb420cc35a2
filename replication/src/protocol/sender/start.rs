//! Whether a stream may start, and how: the rules of `START_REPLICATION`.
//!
//! ```text
//!   unknown timeline, past its end ─▶ Refuse       error instead of the stream (XX000)
//!   exactly at its end             ─▶ NextTimeline no stream, the row that names the next one
//!   beyond our log, log removed    ─▶ Fail         error after the opening (XX000, 58P01)
//!   else                           ─▶ Stream
//! ```
//!
//! A timeline is asked for by number, from any position: bytes below its begin are its ancestors'
//! and are served under its name. A stock client is shown a switch only when it is committed, so to
//! it an uncommitted timeline does not exist. Texts and codes are PostgreSQL's, which its tools
//! parse or print.

use mainstay_storage::{Lsn, SegmentSize, Timeline, TimelineHistory};

/// An error for the client: SQLSTATE and texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Five characters.
    pub sqlstate: &'static str,
    /// What is wrong.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
}

/// What this node can serve at the moment of the request.
#[derive(Debug, Clone)]
pub(super) struct Served<'a> {
    pub(super) history: &'a TimelineHistory,
    /// The highest position this connection may see.
    pub(super) shown: Lsn,
    pub(super) oldest: Lsn,
    pub(super) native: bool,
    pub(super) segment_size: SegmentSize,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    Refuse(Refusal),
    /// The client claims a timeline that this node does not know.
    Unknown(Timeline, Refusal),
    NextTimeline(Timeline, Lsn),
    Fail(Timeline, Refusal),
    Stream(Timeline),
}

impl Served<'_> {
    /// Whether the connection may see that a timeline begins at `begin`.
    fn is_shown(&self, begin: Lsn) -> bool {
        self.native || begin < self.shown
    }

    /// The newest timeline that the connection may see.
    pub(super) fn current(&self) -> Timeline {
        let mut shown = self.history.spans().iter().rev();
        let shown = shown.find(|span| self.is_shown(span.begin));
        // A log shorter than its own first record still is on the first timeline.
        let first = self.history.spans().first();
        let span = shown.or(first).expect("a history is never empty");
        span.timeline
    }

    /// The timeline after `timeline` and where it begins, if the connection may see it.
    pub(super) fn next(&self, timeline: Timeline) -> Option<(Timeline, Lsn)> {
        let mut spans = self.history.spans().iter();
        spans.find(|span| span.timeline == timeline)?;
        let next = spans.next().filter(|next| self.is_shown(next.begin))?;
        Some((next.timeline, next.begin))
    }

    /// Whether the connection may know `timeline`.
    pub(super) fn knows(&self, timeline: Timeline) -> bool {
        let mut spans = self.history.spans().iter();
        let span = spans.find(|span| span.timeline == timeline);
        span.is_some_and(|span| timeline == self.current() || self.is_shown(span.begin))
    }

    /// Answers a request for `number` (the current timeline if absent) from `from`; `id` is what a
    /// native peer adds.
    pub(super) fn admit(
        &self,
        from: Lsn,
        number: Option<u32>,
        id: Option<uuid::Uuid>,
    ) -> Admission {
        let number = number.unwrap_or(self.current().number);
        let found = self.history.find(number);
        let found = found.filter(|timeline| self.knows(*timeline));
        let same = |timeline: &Timeline| id.is_none_or(|id| id == timeline.id);
        let Some(timeline) = found.filter(same) else {
            let message = format!("requested timeline {number} is not in this server's history");
            let refusal = refusal("XX000", message, None);
            return match id {
                Some(id) => Admission::Unknown(Timeline { number, id }, refusal),
                None => Admission::Refuse(refusal),
            };
        };
        match self.next(timeline) {
            Some((next, begin)) if from == begin => return Admission::NextTimeline(next, begin),
            Some((_, begin)) if from > begin => {
                return Admission::Refuse(past(from, number, begin));
            }
            _ => {}
        }
        if from > self.shown {
            let end = self.shown;
            let message = format!(
                "requested starting point {from} is ahead of the WAL flush position of \
                 this server {end}"
            );
            Admission::Fail(timeline, refusal("XX000", message, None))
        } else if from < self.oldest {
            Admission::Fail(timeline, self.removed(timeline, from))
        } else {
            Admission::Stream(timeline)
        }
    }

    /// The error for log that is gone.
    pub(super) fn removed(&self, timeline: Timeline, from: Lsn) -> Refusal {
        let segment = self.segment_size.segment_of(from);
        let per_4_gib = (1u64 << 32) / self.segment_size.bytes();
        let message = format!(
            "requested WAL segment {:08X}{:08X}{:08X} has already been removed",
            timeline.number,
            segment / per_4_gib,
            segment % per_4_gib
        );
        let detail = format!("The oldest position still kept is {}.", self.oldest);
        refusal("58P01", message, Some(detail))
    }
}

fn past(from: Lsn, number: u32, begin: Lsn) -> Refusal {
    let message = format!(
        "requested starting point {from} on timeline {number} is not in this server's history"
    );
    let detail = format!("This server's history forked from timeline {number} at {begin}.");
    refusal("XX000", message, Some(detail))
}

pub(super) fn refusal(sqlstate: &'static str, message: String, detail: Option<String>) -> Refusal {
    Refusal {
        sqlstate,
        message,
        detail,
    }
}
