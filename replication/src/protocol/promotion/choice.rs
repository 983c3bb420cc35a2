//! Who takes the place of a primary that is gone.
//!
//! The newest log is the best: timeline first, then position. Between equals the policy's order
//! decides, then the name. Who was marked as unfit is never chosen, and neither is one that is no
//! standby. Whether the chosen one may become the primary is decided by its own promotion.

use mainstay_storage::Timeline;

use super::{LogEnd, Role};
use crate::protocol::name::NodeName;

/// A node that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contender {
    /// Who.
    pub name: NodeName,
    /// What it is.
    pub role: Role,
    /// Where its log ends.
    pub end: LogEnd,
    /// Why it must not become the primary.
    pub unfit: Option<String>,
    /// Its place in the policy, from 0; those that it does not count come last.
    pub place: usize,
}

/// Who, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The node to promote.
    pub name: NodeName,
    /// Why this one, in words.
    pub why: String,
}

/// Why nobody was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoChoice {
    /// There is nothing to replace.
    #[error(
        "{name} is a primary on timeline {timeline}, and alive; to hand its place over, ask it for \
         a switchover. If it must be replaced all the same, force the failover"
    )]
    PrimaryAlive {
        /// Who.
        name: NodeName,
        /// On which timeline.
        timeline: Timeline,
    },
    /// The node that was named does not answer.
    #[error("{name} does not answer as a standby; those that do: {there}")]
    NotThere {
        /// Who was named.
        name: NodeName,
        /// Who answered.
        there: String,
    },
    /// The node that was named must not become the primary.
    #[error("{name} must not become the primary: {why}")]
    Unfit {
        /// Who was named.
        name: NodeName,
        /// Why not.
        why: String,
    },
    /// No standby that may become the primary answers.
    #[error("no standby that may become the primary answers{}", barred(.0))]
    Nobody(Vec<(NodeName, String)>),
}

fn barred(unfit: &[(NodeName, String)]) -> String {
    let each = unfit.iter().map(|(name, why)| format!("; {name}: {why}"));
    each.collect()
}

/// Chooses among those that answered, the asked node itself included.
///
/// # Errors
/// [`NoChoice`]; `force` chooses beside a living primary.
pub fn choose(
    contenders: &[Contender],
    wanted: Option<&NodeName>,
    force: bool,
) -> Result<Choice, NoChoice> {
    let alive = contenders.iter().find(|one| one.role == Role::Primary);
    if let Some(alive) = alive.filter(|_| !force) {
        let (name, timeline) = (alive.name.clone(), alive.end.timeline);
        return Err(NoChoice::PrimaryAlive { name, timeline });
    }
    let standbys = contenders.iter().filter(|one| one.role == Role::Standby);
    let standbys = standbys.collect::<Vec<_>>();
    let fit = standbys.iter().filter(|one| one.unfit.is_none());
    let fit = fit.copied().collect::<Vec<_>>();
    if let Some(wanted) = wanted {
        return named(wanted, &standbys, &fit);
    }
    let rank = |one: &&Contender| (one.end.timeline.number, one.end.flushed);
    let newest = fit.iter().map(rank).max();
    let best = fit.iter().filter(|one| Some(rank(one)) == newest);
    let best = best.min_by_key(|one| (one.place, &one.name));
    let Some(best) = best else {
        let unfit = standbys.iter();
        let unfit = unfit.filter_map(|one| Some((one.name.clone(), one.unfit.clone()?)));
        return Err(NoChoice::Nobody(unfit.collect()));
    };
    let others = fit.iter().filter(|one| one.name != best.name);
    let others = others.map(|other| compared(best, other));
    let others = others.collect::<Vec<_>>().join(", ");
    let at = format!(
        "timeline {}, {}",
        best.end.timeline.number, best.end.flushed
    );
    let why = match others.is_empty() {
        true => format!("it is the only standby that answers ({at})"),
        false => format!("its log is the newest ({at}): {others}"),
    };
    let name = best.name.clone();
    Ok(Choice { name, why })
}

fn named(
    wanted: &NodeName,
    standbys: &[&Contender],
    fit: &[&Contender],
) -> Result<Choice, NoChoice> {
    let name = wanted.clone();
    let Some(found) = standbys.iter().find(|one| one.name == name) else {
        let there = standbys.iter().map(|one| one.name.as_str());
        let there = there.collect::<Vec<_>>().join(", ");
        return Err(NoChoice::NotThere { name, there });
    };
    if let Some(why) = found.unfit.clone() {
        return Err(NoChoice::Unfit { name, why });
    }
    let ahead = fit.iter().filter(|one| one.end.is_newer_than(&found.end));
    let ahead = ahead.map(|other| compared(found, other));
    let ahead = ahead.collect::<Vec<_>>().join(", ");
    let why = match ahead.is_empty() {
        true => "it was named, and its log is the newest".to_owned(),
        false => format!("it was named, although its log is not the newest: {ahead}"),
    };
    Ok(Choice { name, why })
}

/// How `other` stands to `best`.
fn compared(best: &Contender, other: &Contender) -> String {
    let (name, ours, theirs) = (&other.name, best.end, other.end);
    let (ahead, behind) = (
        theirs.flushed.bytes_since(ours.flushed),
        ours.flushed.bytes_since(theirs.flushed),
    );
    if theirs.timeline.number != ours.timeline.number {
        return format!("{name} is on timeline {}", theirs.timeline.number);
    }
    match (ahead, behind) {
        (0, 0) => format!("{name} has as much and comes later in the policy"),
        (0, behind) => format!("{name} is {behind} bytes behind"),
        (ahead, _) => format!("{name} has {ahead} bytes more"),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_storage::Lsn;

    use super::*;
    use crate::protocol::script::timeline;

    fn one(name: &str, at: &str, flushed: u64, place: usize) -> Contender {
        Contender {
            name: name.parse().unwrap(),
            role: Role::Standby,
            end: LogEnd {
                timeline: timeline(at),
                flushed: Lsn::new(flushed),
            },
            unfit: None,
            place,
        }
    }

    fn chosen(all: &[Contender]) -> (String, String) {
        let choice = choose(all, None, false).unwrap();
        (choice.name.to_string(), choice.why)
    }

    #[test]
    fn the_newest_log_wins_timeline_first_then_position_then_the_policys_order() {
        let (b, c) = (one("b", "1:a", 960, 0), one("c", "1:a", 1000, 1));
        let d = one("d", "2:d", 800, 2);
        let (name, why) = chosen(&[b.clone(), c.clone()]);
        assert_eq!(name, "c");
        assert_eq!(
            why,
            "its log is the newest (timeline 1, 0/3E8): b is 40 bytes behind"
        );
        assert_eq!(chosen(&[b.clone(), c.clone(), d.clone()]).0, "d");
        let equal = one("e", "1:a", 960, 3);
        let (name, why) = chosen(&[equal, b.clone()]);
        assert_eq!(name, "b");
        assert!(why.contains("e has as much and comes later"), "{why}");
        let same_place = one("a", "1:a", 960, 0);
        assert_eq!(chosen(&[b.clone(), same_place]).0, "a");
        assert!(chosen(&[b]).1.contains("the only standby"));
    }

    #[test]
    fn an_unfit_node_is_never_chosen_and_a_fenced_one_neither() {
        let b = one("b", "1:a", 960, 0);
        let mut c = one("c", "1:a", 1000, 1);
        c.unfit = Some("its data differ".to_owned());
        let mut f = one("f", "1:a", 2000, 1);
        f.role = Role::Fenced;
        assert_eq!(chosen(&[b.clone(), c.clone(), f.clone()]).0, "b");
        let refused = choose(&[c.clone(), f.clone()], None, true).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no standby that may become the primary answers; c: its data differ"
        );
        let named = |name: &str| {
            let all = [b.clone(), c.clone(), f.clone()];
            choose(&all, Some(&name.parse().unwrap()), true).map(|choice| choice.why)
        };
        assert!(matches!(named("c"), Err(NoChoice::Unfit { .. })));
        assert!(matches!(named("f"), Err(NoChoice::NotThere { .. })));
        assert_eq!(
            named("b").unwrap(),
            "it was named, and its log is the newest"
        );
    }

    #[test]
    fn a_living_primary_is_not_replaced_unless_that_is_forced() {
        let b = one("b", "1:a", 960, 0);
        let mut a = one("a", "1:a", 1000, usize::MAX);
        a.role = Role::Primary;
        let all = [b, a];
        let refused = choose(&all, None, false).unwrap_err();
        assert!(refused.to_string().contains("switchover"), "{refused}");
        assert_eq!(choose(&all, None, true).unwrap().name.as_str(), "b");
    }

    #[test]
    fn one_that_was_named_is_taken_and_what_it_lacks_is_said() {
        let all = [one("b", "1:a", 960, 0), one("c", "1:a", 1000, 1)];
        let choice = choose(&all, Some(&"b".parse().unwrap()), false).unwrap();
        assert_eq!(
            choice.why,
            "it was named, although its log is not the newest: c has 40 bytes more"
        );
    }
}
