//! Which standbys must confirm before a commit counts, as PostgreSQL users write it.
//!
//! A [`SyncPolicy`] is the text of `synchronous_standby_names`; a [`BoundPolicy`] is a policy with
//! the nodes it counts and the place in the log where it was set. From the latter follow the two
//! numbers that everything else rests on: `k`, how many standbys confirm a commit, and `n - k + 1`,
//! how many promises a new timeline needs, so that any set of one kind meets any set of the other.
//! This room computes no commit LSN and asks nobody.

use std::fmt;

use mainstay_storage::{Lsn, canary};

use super::name::NodeName;

mod parse;

pub use parse::ParsePolicyError;

/// Most names one policy may list.
pub const POLICY_NAMES_MAX: usize = 32;
/// Longest policy text in bytes.
pub const POLICY_BYTES_MAX: usize = 4096;

/// Who must confirm a commit, besides the primary itself.
///
/// ```
/// use mainstay_replication::protocol::policy::SyncPolicy;
/// let policy: SyncPolicy = "first 2 (A, b, \"c d\")".parse().unwrap();
/// assert_eq!(policy.to_string(), "FIRST 2 (a, b, \"c d\")");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// Nobody.
    #[default]
    Off,
    /// The first `count` of `names`, in their order, that are streaming.
    First {
        /// How many; at least 1.
        count: usize,
        /// Of whom.
        names: Names,
    },
    /// Any `count` of `names`.
    Any {
        /// How many; at least 1.
        count: usize,
        /// Of whom.
        names: Names,
    },
}

/// The nodes a policy speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// `*`: the registered native voters, in order of their priority.
    Voters,
    /// These, without duplicates.
    Listed(Vec<NodeName>),
}

impl SyncPolicy {
    /// `k`: how many standbys confirm a commit; 0 for [`SyncPolicy::Off`].
    pub const fn needed(&self) -> usize {
        match self {
            Self::Off => 0,
            Self::First { count, .. } | Self::Any { count, .. } => *count,
        }
    }

    fn names(&self) -> Option<&Names> {
        match self {
            Self::Off => None,
            Self::First { names, .. } | Self::Any { names, .. } => Some(names),
        }
    }
}

impl fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::First { count, names } => write!(f, "FIRST {count} ({names})"),
            Self::Any { count, names } => write!(f, "ANY {count} ({names})"),
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Listed(names) = self else {
            return f.write_str("*");
        };
        for (at, name) in names.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            let name = name.as_str();
            if is_plain(name) {
                write!(f, "{separator}{name}")?;
            } else {
                write!(f, "{separator}\"{}\"", name.replace('"', "\"\""))?;
            }
        }
        Ok(())
    }
}

/// Whether PostgreSQL reads `name` back without quotes.
fn is_plain(name: &str) -> bool {
    let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    word && !name.starts_with(|c: char| c.is_ascii_digit())
        && !["first", "any", "off"].contains(&name)
}

/// A policy with the nodes it counts, as one Config entry of the log states it.
///
/// The primary that set it is not counted, even if it is listed: it never confirms its own commits,
/// so the same text can be given to every node. A promoted node that finds itself among the counted
/// therefore is a standby in the policy of its predecessor, until it sets its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundPolicy {
    policy: SyncPolicy,
    counted: Vec<NodeName>,
    /// The primary that set it; nobody set the one that counts nobody.
    author: Option<NodeName>,
    config_end: Lsn,
}

impl BoundPolicy {
    /// The policy that `author` set by the Config entry that ends (exclusive) at `config_end`, zero
    /// for a new cluster's first. `voters` are the registered native voters in order of priority:
    /// what `*` stands for.
    pub fn new(
        policy: SyncPolicy,
        voters: &[NodeName],
        author: &NodeName,
        config_end: Lsn,
    ) -> Self {
        let names = match policy.names() {
            None => &[],
            Some(Names::Listed(names)) => names.as_slice(),
            Some(Names::Voters) => voters,
        };
        let counted = names
            .iter()
            .filter(|name| *name != author)
            .cloned()
            .collect();
        Self {
            policy,
            counted,
            author: Some(author.clone()),
            config_end,
        }
    }

    /// No policy: own flush is enough.
    pub const fn off() -> Self {
        Self {
            policy: SyncPolicy::Off,
            counted: Vec::new(),
            author: None,
            config_end: Lsn::ZERO,
        }
    }

    /// The rule.
    pub const fn policy(&self) -> &SyncPolicy {
        &self.policy
    }

    /// End (exclusive) of the Config entry that set it.
    pub const fn config_end(&self) -> Lsn {
        self.config_end
    }

    /// The primary that set it; `None` if nobody did.
    pub const fn author(&self) -> Option<&NodeName> {
        self.author.as_ref()
    }

    /// `S`: the nodes it counts, in order of priority.
    pub fn counted(&self) -> &[NodeName] {
        &self.counted
    }

    /// `k`: how many of them confirm a commit.
    pub const fn needed(&self) -> usize {
        self.policy.needed()
    }

    /// Whether it counts enough nodes to be met at all. One for `*` may become so when voters are
    /// registered; any other is a mistake of the operator.
    pub fn is_satisfiable(&self) -> bool {
        self.counted.len() >= self.needed()
    }

    /// Whether it counts whoever is registered.
    pub fn counts_voters(&self) -> bool {
        self.policy.names() == Some(&Names::Voters)
    }

    /// `n - k + 1`: how many of them must promise before a timeline is opened, so that they meet
    /// every set that can have confirmed a commit. Zero when no such set exists.
    pub fn promises_needed(&self) -> usize {
        match self.needed() {
            0 => 0,
            needed if canary("one-promise-too-few") => self.counted().len().saturating_sub(needed),
            needed => (self.counted().len() + 1).saturating_sub(needed),
        }
    }
}

/// What a change of policy needs before the old one stops to bind.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum ChangeRule {
    /// Own flush: nobody is counted differently.
    OwnFlush,
    /// Own flush, because the operator says so; what it replaces can still elect without it.
    Forced,
    /// The new policy only: under the old one nothing can have been acknowledged.
    NewOnly,
    /// Both policies, each in full.
    Both,
}

/// What it takes to go from `old` to `new`. `forced` changes name, through
/// [`BoundPolicy::counted`] of `old`, who could still promote themselves without them.
pub fn change_rule(old: &BoundPolicy, new: &BoundPolicy, forced: bool) -> ChangeRule {
    let stars = old.counts_voters();
    let same_rule = old.policy == new.policy;
    let (before, after) = (old.counted(), new.counted());
    let kept = before.iter().all(|name| after.contains(name));
    // Whoever set the new one has all of its log, so it need not be counted to know of it.
    let author = |name| new.author.as_ref() == Some(name);
    let knows = before
        .iter()
        .all(|name| after.contains(name) || author(name));
    // While too few are counted nothing can have been acknowledged, and once enough are, each of
    // them has to confirm.
    let grows = before.len() < old.needed() && after.len() <= new.needed();
    if same_rule && kept && before.len() == after.len() {
        ChangeRule::OwnFlush
    } else if forced {
        ChangeRule::Forced
    } else if same_rule && stars && knows && grows {
        ChangeRule::NewOnly
    } else {
        ChangeRule::Both
    }
}

/// Policies that bind in a log, oldest first, each with what it takes to replace the one before it.
/// That a change was forced is not in the log, so it counts as any other.
pub fn with_rules(policies: Vec<BoundPolicy>) -> Vec<(BoundPolicy, ChangeRule)> {
    let mut ruled = Vec::<(BoundPolicy, ChangeRule)>::with_capacity(policies.len());
    for policy in policies {
        let rule = match ruled.last() {
            Some((before, _)) => change_rule(before, &policy, false),
            None => ChangeRule::Both,
        };
        ruled.push((policy, rule));
    }
    ruled
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> String {
        match text.parse::<SyncPolicy>() {
            Ok(policy) => policy.to_string(),
            Err(error) => format!("refused: {}", error.why()),
        }
    }

    fn bound(policy: &str, voters: &[&str]) -> BoundPolicy {
        let voters = voters.iter().map(|name| name.parse().unwrap());
        let voters = voters.collect::<Vec<_>>();
        let author = "author".parse().unwrap();
        BoundPolicy::new(policy.parse().unwrap(), &voters, &author, Lsn::ZERO)
    }

    #[test]
    fn policies_read_as_postgresql_users_write_them() {
        for (text, form) in [
            ("", "off"),
            (" OFF ", "off"),
            ("\"off\"", "FIRST 1 (\"off\")"),
            ("*", "FIRST 1 (*)"),
            ("a", "FIRST 1 (a)"),
            ("a , B", "FIRST 1 (a, b)"),
            ("2 (a,b,c)", "FIRST 2 (a, b, c)"),
            ("first 2(a,b,c)", "FIRST 2 (a, b, c)"),
            ("ANY 1 (*)", "ANY 1 (*)"),
            (
                "any 2 (\"First\", node-1.example, x)",
                "ANY 2 (\"first\", \"node-1.example\", x)",
            ),
            ("\"a \"\"b\"\"\"", "FIRST 1 (\"a \"\"b\"\"\")"),
            (
                "any",
                "refused: how many standbys must be a number before the parenthesis",
            ),
            (
                "FIRST (a)",
                "refused: how many standbys must be a number before the parenthesis",
            ),
            (
                "FIRST 0 (a)",
                "refused: at least 1 standby must be asked for; `off` asks for none",
            ),
            ("ANY 3 (a, b)", "refused: 3 of 2 names can never be met"),
            ("ANY 33 (*)", "refused: 33 of 32 voters at most"),
            ("a, A", "refused: a is listed twice"),
            ("ANY 1 (a, *)", "refused: `*` cannot stand beside names"),
            (
                "ANY 1 (a,)",
                "refused: names must be separated by one comma each",
            ),
            (
                "ANY 1 (a b)",
                "refused: names must be separated by one comma each",
            ),
            ("ANY 1 ()", "refused: no names"),
            (
                "ANY 1 (a) b",
                "refused: names must stand in one pair of parentheses",
            ),
            (
                "ANY 1 a",
                "refused: names must stand in one pair of parentheses",
            ),
            ("a; b", "refused: ';' needs double quotes around the name"),
            ("\"a", "refused: a double quote is not closed"),
        ] {
            assert_eq!(parsed(text), form, "{text:?}");
        }
    }

    #[test]
    fn limits_are_named_and_kept() {
        let names = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
        assert!(names(32).join(",").parse::<SyncPolicy>().is_ok());
        assert_eq!(
            parsed(&names(33).join(",")),
            "refused: 33 names, at most 32 are taken"
        );
        assert!(
            " ".repeat(POLICY_BYTES_MAX + 1)
                .parse::<SyncPolicy>()
                .is_err()
        );
    }

    #[test]
    fn a_change_that_counts_the_same_nodes_needs_own_flush_only() {
        let rule = |old: &BoundPolicy, new: &BoundPolicy| change_rule(old, new, false);
        let listed = bound("ANY 1 (a, b)", &["a"]);
        assert_eq!(
            rule(&listed, &bound("ANY 1 (a, b)", &["a", "b"])),
            ChangeRule::OwnFlush
        );
        assert_eq!(
            rule(&listed, &bound("ANY 2 (a, b)", &["a"])),
            ChangeRule::Both
        );
        assert_eq!(
            change_rule(&listed, &BoundPolicy::off(), true),
            ChangeRule::Forced
        );
        let star = bound("ANY 2 (*)", &["a"]);
        assert_eq!(
            rule(&star, &bound("ANY 2 (*)", &["a", "b"])),
            ChangeRule::NewOnly
        );
        let full = bound("ANY 2 (*)", &["a", "b"]);
        assert_eq!(
            rule(&full, &bound("ANY 2 (*)", &["a", "b", "c"])),
            ChangeRule::Both
        );
        assert_eq!(rule(&full, &bound("ANY 2 (*)", &["a"])), ChangeRule::Both);
    }

    #[test]
    fn a_promoted_node_replaces_a_policy_that_could_never_be_met() {
        let set_by = |author: &str, voters: &[&str]| {
            let voters = voters.iter().map(|name| name.parse().unwrap());
            let voters = voters.collect::<Vec<_>>();
            let policy = "ANY 2 (*)".parse().unwrap();
            BoundPolicy::new(policy, &voters, &author.parse().unwrap(), Lsn::ZERO)
        };
        let rule = |old: &BoundPolicy, new: &BoundPolicy| change_rule(old, new, false);
        // Only b ever came, and is the primary now: nobody else can be asked about the old policy.
        let old = set_by("a", &["b"]);
        assert_eq!(rule(&old, &set_by("b", &[])), ChangeRule::NewOnly);
        assert_eq!(rule(&old, &set_by("b", &["a"])), ChangeRule::NewOnly);
        // It would confirm without knowing of the change.
        assert_eq!(rule(&old, &set_by("c", &["a"])), ChangeRule::Both);
        assert_eq!(rule(&old, &set_by("b", &["a", "c", "d"])), ChangeRule::Both);
        let met = set_by("a", &["b", "c"]);
        assert_eq!(rule(&met, &set_by("b", &["c"])), ChangeRule::Both);
    }

    #[test]
    fn the_primary_that_set_a_policy_is_not_counted_by_it() {
        let bound = bound("ANY 2 (a, Author, b)", &[]);
        let counted = bound.counted().iter().map(NodeName::as_str);
        assert_eq!(counted.collect::<Vec<_>>(), ["a", "b"]);
        assert!(bound.is_satisfiable() && bound.promises_needed() == 1);
    }

    #[test]
    fn every_set_that_confirms_meets_every_set_that_promises() {
        for n in 1u32..=5 {
            let nodes = (0..n)
                .map(|at| format!("n{at}"))
                .collect::<Vec<_>>()
                .join(", ");
            for k in 1..=n {
                let bound = bound(&format!("ANY {k} ({nodes})"), &[]);
                let promises = bound.promises_needed();
                let subsets = || 0u32..1 << n;
                let of_size =
                    |size: usize| subsets().filter(move |set| set.count_ones() as usize >= size);
                for confirmed in of_size(bound.needed()) {
                    assert!(of_size(promises).all(|promised| promised & confirmed != 0));
                }
                let fewer = subsets().filter(|set| set.count_ones() as usize == promises - 1);
                let mut misses = fewer.map(|set| !set & ((1 << n) - 1));
                assert!(
                    misses.any(|rest| rest.count_ones() >= k),
                    "one promise fewer would be enough for {k} of {n}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_round_trips(
            text in "([aA\"*(), 0-3é;\\-]|FIRST |ANY |off){0,12}"
        ) {
            if let Ok(policy) = text.parse::<SyncPolicy>() {
                prop_assert_eq!(policy.to_string().parse::<SyncPolicy>(), Ok(policy));
            }
        }
    }
}
