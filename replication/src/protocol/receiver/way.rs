//! How a node gets onto its upstream's log: resume, cut, rewind, back up, wait or refuse.
//!
//! One pure function on two histories. Positions count only together with the timelines that own
//! them; a number without its promotion id decides nothing.

use mainstay_storage::{Lsn, Timeline, TimelineHistory, canary};

/// This node's log.
#[derive(Debug, Copy, Clone)]
pub struct OwnLog<'a> {
    /// All its timelines.
    pub history: &'a TimelineHistory,
    /// Its end.
    pub flushed: Lsn,
    /// What is in the store already.
    pub applied: Lsn,
    /// The timeline that this node promised to be the next, if any.
    pub accepted: Option<Timeline>,
}

/// The upstream's log.
#[derive(Debug, Copy, Clone)]
pub struct TheirLog<'a> {
    /// All its timelines.
    pub history: &'a TimelineHistory,
    /// Its end.
    pub flushed: Lsn,
    /// The oldest position it still has.
    pub oldest: Lsn,
}

/// The way forward.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Way {
    /// Stream from here; everything below is the same.
    Resume(Lsn),
    /// Cut own log, of which nothing above was applied, and stream from here.
    Cut(Lsn),
    /// What lies above was applied: take the store back to here or below, then cut.
    Rewind(Lsn),
    /// The upstream's log begins above what is needed.
    Backup,
    /// This node is ahead of an upstream on its own history, which will come.
    Wait,
    /// The upstream is on an older timeline than this node knows of.
    Stale(Timeline),
    /// Not a byte in common: another cluster's log, or a promotion that this node refused.
    Foreign,
}

/// The newest timeline that binds a node: accepted, or opened in its log.
pub fn newest_known(history: &TimelineHistory, accepted: Option<Timeline>) -> Timeline {
    let opened = history.current();
    let accepted = accepted.filter(|accepted| accepted.number > opened.number);
    accepted.unwrap_or(opened)
}

/// Whether a node bound by `newest` must refuse an upstream on `timeline`: it is older, or has the
/// same number and another id.
pub fn is_stale(timeline: Timeline, newest: Timeline) -> bool {
    if canary("follow-an-older-timeline") {
        return false;
    }
    timeline.number < newest.number || (timeline.number == newest.number && timeline != newest)
}

/// The way from `ours` onto `theirs`.
pub fn way_forward(ours: OwnLog<'_>, theirs: TheirLog<'_>) -> Way {
    let newest = newest_known(ours.history, ours.accepted);
    if is_stale(theirs.history.current(), newest) {
        return Way::Stale(newest);
    }
    // By history alone: where the two part, or the highest position if they never do.
    let fork = match ours
        .history
        .common_point(Lsn::MAX, theirs.history, Lsn::MAX)
    {
        Some(fork) => fork,
        None => return Way::Foreign,
    };
    let to = fork.min(ours.flushed);
    if to > theirs.flushed {
        Way::Wait
    } else if to < theirs.oldest {
        Way::Backup
    } else if ours.flushed <= fork {
        Way::Resume(to)
    } else if ours.applied <= fork || canary("cut-what-was-applied") {
        Way::Cut(to)
    } else {
        Way::Rewind(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::script::timeline;

    fn history(spans: &[(&str, u64)]) -> TimelineHistory {
        let mut history = TimelineHistory::new(timeline(spans[0].0), Lsn::new(spans[0].1));
        for (next, fork) in &spans[1..] {
            history.open(timeline(next), Lsn::new(*fork), "").unwrap();
        }
        history
    }

    #[test]
    fn every_relation_of_two_logs_has_its_way() {
        let one = history(&[("1:a", 0)]);
        let two = history(&[("1:a", 0), ("2:b", 800)]);
        let other_two = history(&[("1:a", 0), ("2:c", 640)]);
        let three = history(&[("1:a", 0), ("2:c", 640), ("3:d", 960)]);
        let foreign = history(&[("1:f", 0)]);
        let way = |ours: (&TimelineHistory, u64, u64), theirs: (&TimelineHistory, u64, u64)| {
            let own = OwnLog {
                history: ours.0,
                flushed: Lsn::new(ours.1),
                applied: Lsn::new(ours.2),
                accepted: None,
            };
            let their = TheirLog {
                history: theirs.0,
                flushed: Lsn::new(theirs.1),
                oldest: Lsn::new(theirs.2),
            };
            way_forward(own, their)
        };
        let at = Lsn::new;
        assert_eq!(way((&one, 400, 400), (&one, 960, 0)), Way::Resume(at(400)));
        let the_next_byte_is_its_oldest = (&one, 960, 400);
        assert_eq!(
            way((&one, 400, 400), the_next_byte_is_its_oldest),
            Way::Resume(at(400))
        );
        assert_eq!(way((&one, 960, 400), (&one, 800, 0)), Way::Wait);
        assert_eq!(way((&one, 400, 400), (&one, 960, 480)), Way::Backup);
        assert_eq!(way((&one, 800, 800), (&two, 960, 0)), Way::Resume(at(800)));
        assert_eq!(way((&one, 880, 800), (&two, 960, 0)), Way::Cut(at(800)));
        assert_eq!(way((&one, 880, 808), (&two, 960, 0)), Way::Rewind(at(800)));
        assert_eq!(way((&one, 880, 800), (&two, 960, 880)), Way::Backup);
        assert_eq!(
            way((&one, 720, 720), (&two, 700, 0)),
            Way::Wait,
            "it has not come so far"
        );
        assert_eq!(way((&two, 880, 600), (&three, 960, 0)), Way::Cut(at(640)));
        assert_eq!(
            way((&two, 880, 648), (&three, 960, 0)),
            Way::Rewind(at(640))
        );
        assert_eq!(
            way((&two, 880, 0), (&one, 960, 0)),
            Way::Stale(timeline("2:b"))
        );
        let both = [(&two, &other_two, "2:b"), (&other_two, &two, "2:c")];
        for (ours, theirs, newest) in both {
            let refused = Way::Stale(timeline(newest));
            assert_eq!(
                way((ours, 900, 0), (theirs, 900, 0)),
                refused,
                "one id a number"
            );
        }
        assert_eq!(
            way((&one, 400, 0), (&foreign, 960, 0)),
            Way::Stale(timeline("1:a"))
        );
        let later = history(&[("1:f", 0), ("2:e", 8)]);
        assert_eq!(way((&one, 400, 0), (&later, 960, 0)), Way::Foreign);
    }

    #[test]
    fn a_promise_binds_before_its_timeline_is_opened() {
        let one = history(&[("1:a", 0)]);
        let promised = |text| newest_known(&one, Some(timeline(text)));
        assert!(is_stale(timeline("1:a"), promised("2:b")));
        assert!(is_stale(timeline("2:c"), promised("2:b")));
        assert!(!is_stale(timeline("2:b"), promised("2:b")));
        assert!(!is_stale(timeline("3:d"), promised("2:b")));
        assert_eq!(promised("1:a"), timeline("1:a"));
        // Whoever opened that number is the one whose log is here.
        assert_eq!(promised("1:b"), timeline("1:a"));
    }
}
