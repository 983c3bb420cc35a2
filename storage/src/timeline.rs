//! Timelines: who owns which stretch of the log.
//!
//! A timeline is a number *and* the random id of the promotion that opened it, because two nodes
//! can pick the same number. A [`TimelineHistory`] lists the timelines that led to the current
//! one, with the position where each began; from it follow the owner of any position and the
//! highest point two nodes have in common. The text form is PostgreSQL's history file
//! (`timeline TAB position TAB reason`, facts after its `timeline.c`), with the ids in the reason,
//! which stock tools carry through unchanged.

use std::fmt;

use uuid::Uuid;

use crate::lsn::Lsn;

/// Most timelines a history may list; a longer one from a peer or file is refused.
pub const HISTORY_ENTRIES_MAX: usize = 4096;

/// One timeline: its number and the id of the promotion that opened it.
///
/// Equal numbers with unequal ids are two different timelines.
#[derive(Debug, Copy, Clone, Eq, PartialEq, Hash)]
pub struct Timeline {
    /// 1 for a new cluster, higher for each promotion.
    pub number: u32,
    /// Random, drawn when the timeline was opened.
    pub id: Uuid,
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number, self.id)
    }
}

/// One timeline of a history and where it began.
#[derive(Debug, Clone, Eq, PartialEq)]
pub struct TimelineSpan {
    /// The timeline.
    pub timeline: Timeline,
    /// First position it owns: the fork from its predecessor, or the start of the log.
    pub begin: Lsn,
    /// Why it was opened, in the operator's words; one line, no tab.
    pub reason: String,
}

/// The timelines that led to the current one, oldest first.
///
/// * Never empty.
/// * Numbers climb strictly, begins never fall.
///
/// ```
/// use mainstay_storage::{Lsn, Timeline, TimelineHistory};
/// use uuid::Uuid;
/// let one = Timeline { number: 1, id: Uuid::from_u128(1) };
/// let two = Timeline { number: 2, id: Uuid::from_u128(2) };
/// let mut history = TimelineHistory::new(one, Lsn::new(0x100_0000));
/// history.open(two, Lsn::new(0x100_0800), "a failed").unwrap();
/// assert_eq!(history.owner(Lsn::new(0x100_07F8)), one);
/// assert_eq!(history.owner(Lsn::new(0x100_0800)), two);
/// ```
#[derive(Debug, Clone, Eq, PartialEq)]
pub struct TimelineHistory {
    spans: Vec<TimelineSpan>,
}

/// Why a history or a step in one is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("timeline history: {0}")]
pub struct HistoryError(String);

impl TimelineHistory {
    /// The history of a new cluster: `first` owns everything from `begin`.
    pub fn new(first: Timeline, begin: Lsn) -> Self {
        Self {
            spans: vec![TimelineSpan {
                timeline: first,
                begin,
                reason: String::new(),
            }],
        }
    }

    /// The newest timeline.
    pub fn current(&self) -> Timeline {
        self.last().timeline
    }

    /// Where the newest timeline began.
    pub fn current_begin(&self) -> Lsn {
        self.last().begin
    }

    /// All timelines, oldest first.
    pub fn spans(&self) -> &[TimelineSpan] {
        &self.spans
    }

    /// The timeline that owns the byte at `lsn`. Below the start of the log that is the first one.
    pub fn owner(&self, lsn: Lsn) -> Timeline {
        let later = self.spans.iter().rev().find(|span| span.begin <= lsn);
        later.unwrap_or(&self.spans[0]).timeline
    }

    /// Where timeline `number` ended (exclusive), `None` if it is current or unknown.
    pub fn end_of(&self, number: u32) -> Option<Lsn> {
        let at = self
            .spans
            .iter()
            .position(|span| span.timeline.number == number)?;
        self.spans.get(at + 1).map(|next| next.begin)
    }

    /// The timeline with `number`, if this history has it.
    pub fn find(&self, number: u32) -> Option<Timeline> {
        self.spans
            .iter()
            .map(|span| span.timeline)
            .find(|timeline| timeline.number == number)
    }

    /// Whether `timeline`, number and id, is part of this history.
    pub fn contains(&self, timeline: Timeline) -> bool {
        self.spans.iter().any(|span| span.timeline == timeline)
    }

    /// Adds `next` as the current timeline, beginning at `fork`.
    ///
    /// # Errors
    /// When the number does not climb, the fork lies before the current timeline's begin, or the
    /// history is full.
    pub fn open(&mut self, next: Timeline, fork: Lsn, reason: &str) -> Result<(), HistoryError> {
        let current = self.last();
        if next.number <= current.timeline.number {
            let number = current.timeline.number;
            return Err(HistoryError(format!(
                "timeline {} does not follow {number}",
                next.number
            )));
        }
        if fork < current.begin {
            let begin = current.begin;
            return Err(HistoryError(format!(
                "fork {fork} lies before {begin}, where the current timeline began"
            )));
        }
        if self.spans.len() == HISTORY_ENTRIES_MAX {
            return Err(HistoryError(format!(
                "more than {HISTORY_ENTRIES_MAX} timelines"
            )));
        }
        let reason = reason.replace(['\t', '\n', '\r', '\0'], " ");
        self.spans.push(TimelineSpan {
            timeline: next,
            begin: fork,
            reason,
        });
        Ok(())
    }

    /// The highest position up to which two logs are the same by history: below it every byte has
    /// one owner in both. `ours_end` and `theirs_end` are the ends of the two logs. `None` when
    /// not even the first timeline is shared.
    pub fn common_point(&self, ours_end: Lsn, other: &Self, theirs_end: Lsn) -> Option<Lsn> {
        let shared = self.spans.iter().zip(&other.spans);
        let shared = shared
            .take_while(|(a, b)| a.timeline == b.timeline && a.begin == b.begin)
            .count();
        if shared == 0 {
            return None;
        }
        // A history may name timelines that its log has not reached.
        let leaves = |spans: &[TimelineSpan]| spans.get(shared).map_or(Lsn::MAX, |next| next.begin);
        let parted = leaves(&self.spans).min(leaves(&other.spans));
        Some(parted.min(ours_end).min(theirs_end))
    }

    /// Whether `other` is this history or continues it.
    pub fn is_prefix_of(&self, other: &Self) -> bool {
        let same =
            |(a, b): (&TimelineSpan, &TimelineSpan)| a.timeline == b.timeline && a.begin == b.begin;
        self.spans.len() <= other.spans.len() && self.spans.iter().zip(&other.spans).all(same)
    }

    /// This history as it was while `number` was current; `None` if it never was.
    pub fn until(&self, number: u32) -> Option<Self> {
        let at = self
            .spans
            .iter()
            .position(|span| span.timeline.number == number)?;
        Some(Self {
            spans: self.spans[..=at].to_vec(),
        })
    }

    /// This history without the timelines that a log ending at `end` has no byte of.
    pub fn reached(&self, end: Lsn) -> Self {
        let first = self.spans.len().min(1);
        let reached = self
            .spans
            .partition_point(|span| span.begin < end)
            .max(first);
        Self {
            spans: self.spans[..reached].to_vec(),
        }
    }

    /// The content of the current timeline's history file: a line for each ancestor, naming where
    /// it ended, its own id and its successor's. Empty for a cluster that was never promoted.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for pair in self.spans.windows(2) {
            let (old, next) = (&pair[0], &pair[1]);
            let (own, following) = (old.timeline.id, next.timeline.id);
            let number = old.timeline.number;
            text += &format!(
                "{number}\t{}\tid {own} next {following} {}\n",
                next.begin, next.reason
            );
        }
        text
    }

    /// Reads the text that [`to_text`](Self::to_text) wrote for `current`; `begin` is the start of
    /// the log.
    ///
    /// # Errors
    /// On anything but a gapless, climbing chain of at most [`HISTORY_ENTRIES_MAX`] lines that
    /// ends at `current`.
    pub fn parse(text: &str, current: Timeline, begin: Lsn) -> Result<Self, HistoryError> {
        let mut lines = text
            .lines()
            .filter(|line| !line.is_empty())
            .map(parse_line)
            .peekable();
        let first = match lines.peek() {
            None => return Ok(Self::new(current, begin)),
            Some(line) => line.clone()?,
        };
        let mut history = Self::new(first.timeline, begin);
        while let Some(line) = lines.next() {
            let line = line?;
            if line.timeline != history.current() {
                return Err(HistoryError(format!(
                    "line for timeline {} is out of place",
                    line.timeline
                )));
            }
            let next = match lines.peek() {
                Some(next) => next.clone()?.timeline,
                None => current,
            };
            if next.id != line.next {
                return Err(HistoryError(format!(
                    "timeline {} is followed by the wrong id",
                    line.timeline
                )));
            }
            history.open(next, line.end, &line.reason)?;
        }
        Ok(history)
    }

    fn last(&self) -> &TimelineSpan {
        self.spans.last().expect("a history is never empty")
    }
}

/// Name of the history file of timeline `number`, as PostgreSQL names it.
pub fn history_file_name(number: u32) -> String {
    format!("{number:08X}.history")
}

#[derive(Clone)]
struct Line {
    timeline: Timeline,
    end: Lsn,
    next: Uuid,
    reason: String,
}

fn parse_line(line: &str) -> Result<Line, HistoryError> {
    let bad = || {
        HistoryError(format!(
            "cannot read line {:?}",
            line.chars().take(120).collect::<String>()
        ))
    };
    let mut fields = line.splitn(3, '\t');
    let number = fields
        .next()
        .and_then(|text| text.parse().ok())
        .ok_or_else(bad)?;
    let end = fields
        .next()
        .and_then(|text| text.parse().ok())
        .ok_or_else(bad)?;
    let mut words = fields.next().ok_or_else(bad)?.splitn(5, ' ');
    let mut id_after = |key: &str| {
        let named = words.next() == Some(key);
        words
            .next()
            .filter(|_| named)
            .and_then(|text| text.parse().ok())
            .ok_or_else(bad)
    };
    let (id, next) = (id_after("id")?, id_after("next")?);
    let reason = words.next().unwrap_or_default().to_owned();
    Ok(Line {
        timeline: Timeline { number, id },
        end,
        next,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeline(number: u32, id: u128) -> Timeline {
        Timeline {
            number,
            id: Uuid::from_u128(id),
        }
    }

    fn history(forks: &[(u32, u128, u64)]) -> TimelineHistory {
        let (number, id, begin) = forks[0];
        let mut history = TimelineHistory::new(timeline(number, id), Lsn::new(begin));
        for &(number, id, fork) in &forks[1..] {
            history
                .open(timeline(number, id), Lsn::new(fork), "why not")
                .unwrap();
        }
        history
    }

    #[test]
    fn text_form_round_trips_with_reasons() {
        let history = history(&[(1, 0xA, 100), (2, 0xB, 200), (5, 0xC, 200), (6, 0xD, 304)]);
        let text = history.to_text();
        assert_eq!(text.lines().next().unwrap().split('\t').count(), 3);
        let back = TimelineHistory::parse(&text, history.current(), Lsn::new(100)).unwrap();
        assert_eq!(back, history);
        let single = TimelineHistory::new(timeline(1, 7), Lsn::new(100));
        assert_eq!(
            TimelineHistory::parse(&single.to_text(), timeline(1, 7), Lsn::new(100)),
            Ok(single)
        );
    }

    #[test]
    fn damaged_text_is_refused() {
        let history = history(&[(1, 0xA, 100), (2, 0xB, 200), (3, 0xC, 300)]);
        let text = history.to_text();
        let parse = |text: &str, current| TimelineHistory::parse(text, current, Lsn::new(100));
        let lines = text.lines().collect::<Vec<_>>();
        assert!(
            parse(&text, timeline(3, 0xD)).is_err(),
            "foreign current id"
        );
        assert!(
            parse(lines[1], timeline(3, 0xC)).is_ok(),
            "a shorter chain is a chain"
        );
        assert!(
            parse(lines[0], timeline(3, 0xC)).is_err(),
            "missing successor"
        );
        assert!(parse(&format!("{}\n{}\n", lines[1], lines[0]), timeline(3, 0xC)).is_err());
        assert!(parse("1\t0/64\n", timeline(2, 0xB)).is_err());
        assert!(parse("x\t0/64\tid a next b\n", timeline(2, 0xB)).is_err());
        assert!(
            parse(&text.replace("0/12C", "0/10"), timeline(3, 0xC)).is_err(),
            "falling fork"
        );
    }

    #[test]
    fn the_common_point_is_the_earlier_fork_or_the_shorter_log() {
        let base = history(&[(1, 0xA, 100)]);
        let ours = history(&[(1, 0xA, 100), (2, 0xB, 200)]);
        let theirs = history(&[(1, 0xA, 100), (2, 0xC, 240)]);
        let at = |lsn| Some(Lsn::new(lsn));
        assert_eq!(
            ours.common_point(Lsn::new(900), &theirs, Lsn::new(900)),
            at(200)
        );
        assert_eq!(
            base.common_point(Lsn::new(900), &theirs, Lsn::new(900)),
            at(240)
        );
        assert_eq!(
            base.common_point(Lsn::new(160), &theirs, Lsn::new(900)),
            at(160)
        );
        assert_eq!(
            ours.common_point(Lsn::new(300), &ours, Lsn::new(280)),
            at(280)
        );
        let foreign = history(&[(1, 0xF, 100)]);
        assert_eq!(
            base.common_point(Lsn::new(900), &foreign, Lsn::new(900)),
            None
        );
        assert!(base.is_prefix_of(&ours) && !ours.is_prefix_of(&theirs));
    }

    #[test]
    fn owners_change_exactly_at_the_fork() {
        let history = history(&[(1, 0xA, 100), (2, 0xB, 200)]);
        assert_eq!(history.owner(Lsn::new(0)).number, 1);
        assert_eq!(history.owner(Lsn::new(199)).number, 1);
        assert_eq!(history.owner(Lsn::new(200)).number, 2);
        assert_eq!(history.end_of(1), Some(Lsn::new(200)));
        assert_eq!(history.end_of(2), None);
        let mut later = history.clone();
        assert!(later.open(timeline(2, 0xE), Lsn::new(300), "").is_err());
        assert!(later.open(timeline(3, 0xE), Lsn::new(150), "").is_err());
    }

    fn any_history() -> impl Strategy<Value = TimelineHistory> {
        let step = (1u32..1000, any::<u128>(), 0u64..1 << 40, "\\PC{0,20}");
        let steps = prop::collection::vec(step, 0..8);
        (any::<u128>(), 0u64..1 << 40, steps).prop_map(|(id, begin, steps)| {
            let mut history = TimelineHistory::new(timeline(1, id), Lsn::new(begin));
            for (climb, id, bytes, reason) in steps {
                let number = history.current().number + climb;
                let fork = history.current_begin() + bytes;
                history.open(timeline(number, id), fork, &reason).unwrap();
            }
            history
        })
    }

    proptest! {
        #[test]
        fn every_history_is_read_back_for_its_timeline_and_no_other(history in any_history()) {
            let (current, begin) = (history.current(), history.spans()[0].begin);
            let text = history.to_text();
            prop_assert_eq!(TimelineHistory::parse(&text, current, begin), Ok(history.clone()));
            let other = timeline(current.number, current.id.as_u128() ^ 1);
            let read = TimelineHistory::parse(&text, other, begin);
            prop_assert!(read.is_err() || text.is_empty());
            // No more than the last reason can be cut: every line names the next one's id.
            for (len, _) in text.char_indices().skip(1) {
                if let Ok(cut) = TimelineHistory::parse(&text[..len], current, begin) {
                    let spans = |history: &TimelineHistory| {
                        let spans = history.spans().iter();
                        spans.map(|span| (span.timeline, span.begin)).collect::<Vec<_>>()
                    };
                    prop_assert_eq!(spans(&cut), spans(&history), "{} bytes", len);
                }
            }
            for more in ["x", "1\t", "\t\n"] {
                let longer = format!("{text}{more}");
                prop_assert!(TimelineHistory::parse(&longer, current, begin).is_err());
            }
        }

        #[test]
        fn any_text_is_a_history_or_refused_but_never_panics(
            text in "([0-9]{1,3}\t?|[0-9A-F]{1,2}/[0-9A-F]{1,9}\t?|id |next |\n|\\PC){0,12}",
        ) {
            let _ = TimelineHistory::parse(&text, timeline(2, 1), Lsn::new(8));
        }
    }
}
