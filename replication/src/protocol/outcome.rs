//! What became of a commit: reached, lost, or not known yet.
//!
//! A receipt names a position and the timeline that it was written on. A log's history says whether
//! that position is part of it; and once a timeline that is not the receipt's owns the position and
//! is known committed, nobody can bring the commit back. Before that a promotion that opened a
//! timeline may still be overtaken by one whose log has the commit, so nothing is known.
//!
//! It refuses to know levels and how anybody learns of positions.

use mainstay_storage::{Lsn, Timeline, TimelineHistory};
use uuid::Uuid;

/// What can be said of a commit.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has reached the level asked for.
    Reached,
    /// It is not part of the cluster's log, and never will be.
    Lost,
    /// Neither is certain here, yet.
    NotYetKnown,
}

impl Outcome {
    /// The word that operators and programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Lost => "lost",
            Self::NotYetKnown => "unknown",
        }
    }
}

/// The timeline of a receipt.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct WrittenOn {
    /// Its number.
    pub number: u32,
    /// The id of the promotion that opened it; `None` where only the number was noted, which then
    /// stands for the timeline of that number that the log asked has.
    pub id: Option<Uuid>,
}

impl From<Timeline> for WrittenOn {
    fn from(timeline: Timeline) -> Self {
        Self {
            number: timeline.number,
            id: Some(timeline.id),
        }
    }
}

/// Where a commit stands in a log.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Fate {
    /// On this log's line, which may not reach so far yet.
    Ours,
    /// Lost as soon as the commit position is above this.
    LostAbove(Lsn),
    /// On a timeline that this log has not heard of.
    Unheard,
}

/// Where the commit that ends at `end`, written on `on`, stands in a log of this history.
pub fn fate(history: &TimelineHistory, on: WrittenOn, end: Lsn) -> Fate {
    let spans = history.spans();
    let same = |timeline: Timeline| {
        timeline.number == on.number && on.id.is_none_or(|id| id == timeline.id)
    };
    // Whoever came after it, or took its number.
    let next = match spans.iter().position(|span| same(span.timeline)) {
        Some(at) => match spans.get(at + 1) {
            Some(next) if end > next.begin => Some(next),
            _ => return Fate::Ours,
        },
        None => spans.iter().find(|span| span.timeline.number >= on.number),
    };
    next.map_or(Fate::Unheard, |next| Fate::LostAbove(next.begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(number: u32, id: u128) -> Timeline {
        let id = Uuid::from_u128(id);
        Timeline { number, id }
    }

    /// Timeline 1 up to 800, 3 up to 1600, then 4.
    fn history() -> TimelineHistory {
        let mut history = TimelineHistory::new(timeline(1, 0xA), Lsn::new(80));
        history.open(timeline(3, 0xC), Lsn::new(800), "").unwrap();
        history.open(timeline(4, 0xD), Lsn::new(1600), "").unwrap();
        history
    }

    #[test]
    fn a_history_tells_what_is_its_own_and_what_it_left_behind() {
        let lost = |at| Fate::LostAbove(Lsn::new(at));
        for (number, id, end, expected) in [
            // Up to the fork all is shared; the next record is another's.
            (1, 0xA, 800, Fate::Ours),
            (1, 0xA, 808, lost(800)),
            (3, 0xC, 1600, Fate::Ours),
            (3, 0xC, 1608, lost(1600)),
            (4, 0xD, 9000, Fate::Ours),
            // A candidate whose timeline was overtaken before it was committed.
            (2, 0xB, 900, lost(800)),
            // Rivals of the same number.
            (3, 0xE, 900, lost(800)),
            (4, 0xE, 2000, lost(1600)),
            // A timeline newer than this log.
            (5, 0xF, 2000, Fate::Unheard),
        ] {
            let found = fate(&history(), timeline(number, id).into(), Lsn::new(end));
            assert_eq!(found, expected, "{number} ({id:x}) at {end}");
        }
    }

    #[test]
    fn an_outcome_has_the_word_that_clients_read() {
        let all = [Outcome::Reached, Outcome::Lost, Outcome::NotYetKnown];
        assert_eq!(all.map(Outcome::as_str), ["reached", "lost", "unknown"]);
    }

    #[test]
    fn a_number_alone_stands_for_the_timeline_of_this_log() {
        let at = |number, end| fate(&history(), WrittenOn { number, id: None }, Lsn::new(end));
        assert_eq!(at(1, 800), Fate::Ours);
        assert_eq!(at(1, 808), Fate::LostAbove(Lsn::new(800)));
        assert_eq!(at(4, 9000), Fate::Ours);
        assert_eq!(at(9, 9000), Fate::Unheard);
    }
}
