//! What a promotion may lose: what the primary is known to have had and this node lacks.
//!
//! A primary tells its standbys how far its log is flushed, and how many transactions ended in it
//! up to some place. Only differences of such counts mean something, and only within one session.
//! So the bytes are exact as of what was heard last, and the transactions are "at most": between
//! two places at which a count is known, all of them may be missing. What the primary acknowledged
//! after it was heard last nobody here can know; how long ago that was is said with it.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use mainstay_storage::{Lsn, TallyMark, record_len};

use crate::protocol::level::duration_text;

/// Most counts that are remembered; the older half is thinned beyond.
const MARKS_MAX: usize = 1024;

/// What a primary announced of its log, as far as it matters to a standby that lacks the end of it.
#[derive(Debug, Clone, Default)]
pub struct Announced {
    end: Option<Lsn>,
    marks: VecDeque<TallyMark>,
    /// Another session began: the next end, and the next count, take the place of all before.
    old_end: bool,
    old_marks: bool,
}

impl Announced {
    /// Another session with a primary began. What was known stays until it announces something.
    pub fn renew(&mut self) {
        (self.old_end, self.old_marks) = (true, true);
    }

    /// Its log is flushed up to `end`.
    pub fn told(&mut self, end: Lsn) {
        let known = self.end.filter(|_| !std::mem::take(&mut self.old_end));
        self.end = Some(known.map_or(end, |known| known.max(end)));
    }

    /// So many transactions ended up to there. What lies below `own`, the end of this node's log,
    /// is forgotten but for the newest.
    pub fn tallied(&mut self, mark: TallyMark, own: Lsn) {
        if std::mem::take(&mut self.old_marks) {
            self.marks.clear();
        }
        let place = self.marks.partition_point(|known| known.at < mark.at);
        if self
            .marks
            .get(place)
            .is_some_and(|known| known.at == mark.at)
        {
            return;
        }
        self.marks.insert(place, mark);
        while self.marks.get(1).is_some_and(|second| second.at <= own) {
            self.marks.pop_front();
        }
        if self.marks.len() > MARKS_MAX {
            let (half, mut at) = (self.marks.len() / 2, 0);
            self.marks.retain(|_| {
                at += 1;
                at > half || at % 2 == 1
            });
        }
    }

    /// The end of its log, as far as it said.
    pub fn end(&self) -> Option<Lsn> {
        self.end
    }

    /// What a log that ends at `own` lacks of it: bytes, and transactions at most.
    pub fn lacks(&self, own: Lsn) -> Option<(u64, u64)> {
        let end = self.end?;
        if own >= end {
            return Some((0, 0));
        }
        // A transaction is one record at least.
        let fit = |from: Lsn, to: Lsn| to.bytes_since(from) / record_len(0) as u64;
        let (Some(first), Some(last)) = (self.marks.front(), self.marks.back()) else {
            return Some((end.bytes_since(own), fit(own, end)));
        };
        let below = self.marks.iter().rfind(|mark| mark.at <= own);
        let from = below.unwrap_or(first);
        let counted = last.transactions.saturating_sub(from.transactions);
        let before = below.map_or_else(|| fit(own, first.at), |_| 0);
        let after = fit(last.at.max(own), end);
        // A peer's counts may be anything.
        let most = before.saturating_add(counted).saturating_add(after);
        Some((end.bytes_since(own), most))
    }
}

/// What a promotion may lose, as far as it is known.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Default)]
pub struct PossibleLoss {
    /// Bytes of log that the primary is known to have had and that would be lost; `None` when this
    /// node never heard how far it was.
    pub bytes: Option<u64>,
    /// At most so many transactions end in them.
    pub transactions: Option<u64>,
    /// How long ago the primary was last heard; `None` for never.
    pub primary_last_seen: Option<Duration>,
    /// No acknowledged commit can be lost, by the rule of promises.
    pub ruled_out: bool,
}

impl fmt::Display for PossibleLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ruled_out {
            return f.write_str("possible loss: none of what the policy confirmed");
        }
        match (self.bytes, self.transactions) {
            (Some(bytes), Some(transactions)) => write!(
                f,
                "possible loss: {bytes} bytes of the primary's log that are not here, at most \
                 {transactions} transactions in them"
            )?,
            _ => f.write_str("possible loss: how far the primary's log was is not known here")?,
        }
        match self.primary_last_seen {
            Some(ago) => write!(
                f,
                "; it was last heard {} ago, and what it acknowledged since is not known",
                duration_text(Duration::from_millis(
                    u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)
                ))
            ),
            None => f.write_str("; it was never heard since this node started"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(at: u64, transactions: u64) -> TallyMark {
        let at = Lsn::new(at);
        TallyMark { at, transactions }
    }

    #[test]
    fn nothing_heard_is_nothing_known() {
        assert_eq!(Announced::default().lacks(Lsn::ZERO), None);
    }

    #[test]
    fn transactions_are_exact_at_a_mark_and_at_most_between_two() {
        let mut announced = Announced::default();
        let own = Lsn::new(1000);
        for (at, count) in [(1000, 50), (3000, 65), (2000, 60), (3000, 65)] {
            announced.told(Lsn::new(at));
            announced.tallied(mark(at, count), own);
        }
        let lacks = |own| announced.lacks(Lsn::new(own)).unwrap();
        assert_eq!(lacks(1000), (2000, 15));
        assert_eq!(
            lacks(1500),
            (1500, 15),
            "at most those after the mark below"
        );
        assert_eq!(lacks(2000), (1000, 5));
        assert_eq!(lacks(3000), (0, 0));
        assert_eq!(lacks(4000), (0, 0));
        // Below the first mark, and above the last, as many as fit.
        assert_eq!(lacks(360), (2640, 640 / 32 + 15));
        announced.told(Lsn::new(3320));
        assert_eq!(announced.lacks(Lsn::new(2000)), Some((1320, 5 + 320 / 32)));
    }

    #[test]
    fn counts_that_make_no_sense_are_as_many_as_there_can_be() {
        let mut announced = Announced::default();
        announced.told(Lsn::MAX);
        announced.tallied(mark(2000, 0), Lsn::new(1000));
        announced.tallied(mark(3000, u64::MAX), Lsn::new(1000));
        let (bytes, most) = announced.lacks(Lsn::new(1000)).unwrap();
        assert_eq!((bytes, most), (u64::MAX - 1000, u64::MAX));
    }

    #[test]
    fn a_new_session_counts_anew_once_it_says_something() {
        let mut announced = Announced::default();
        announced.told(Lsn::new(3000));
        announced.tallied(mark(3000, 90), Lsn::new(2000));
        announced.renew();
        assert_eq!(announced.end(), Some(Lsn::new(3000)));
        announced.tallied(mark(2800, 0), Lsn::new(2000));
        announced.told(Lsn::new(2900));
        assert_eq!(announced.end(), Some(Lsn::new(2900)));
        assert_eq!(announced.lacks(Lsn::new(2800)), Some((100, 3)));
    }

    #[test]
    fn memory_is_bounded_and_the_answer_stays_an_upper_bound() {
        let mut announced = Announced::default();
        for at in 1..=50_000 {
            announced.told(Lsn::new(at * 100));
            announced.tallied(mark(at * 100, at), Lsn::new(100));
        }
        assert!(announced.marks.len() <= MARKS_MAX + 1);
        assert_eq!(announced.lacks(Lsn::new(100)), Some((4_999_900, 49_999)));
        for at in [2, 777, 25_000, 49_000] {
            let (_, most) = announced.lacks(Lsn::new(at * 100)).unwrap();
            assert!(most >= 50_000 - at && most < 50_000, "{at}: {most}");
        }
        let (_, newest) = announced.lacks(Lsn::new(49_999 * 100)).unwrap();
        assert_eq!(newest, 1, "the newest are exact");
    }

    #[test]
    fn what_may_be_lost_is_said_in_a_sentence() {
        let loss = PossibleLoss {
            bytes: Some(1320),
            transactions: Some(3),
            primary_last_seen: Some(Duration::from_micros(12_000_345)),
            ruled_out: false,
        };
        assert_eq!(
            loss.to_string(),
            "possible loss: 1320 bytes of the primary's log that are not here, at most 3 \
             transactions in them; it was last heard 12s ago, and what it acknowledged since is \
             not known"
        );
        let none = PossibleLoss {
            ruled_out: true,
            ..loss
        };
        assert!(none.to_string().contains("none"), "{none}");
        let unknown = PossibleLoss::default().to_string();
        assert!(unknown.contains("not known here"), "{unknown}");
    }
}
