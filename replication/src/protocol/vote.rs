//! Which data speak for a standby's name.
//!
//! A name has one vote, and one life of its data that has it: the one whose incarnation the log
//! names. Data that were copied, or an old copy put back, may lack what their old self confirmed,
//! and do not know what it promised. So another life gets the vote in three steps: the log says
//! that no life has it; the others confirm that without its help, after which no candidate can be
//! promoted by what the old self promised and not know of it; the log names the new life.
//!
//! This room only compares; it knows neither connections nor the log.

use std::collections::BTreeMap;

use mainstay_storage::{Lsn, canary};
use uuid::Uuid;

use super::name::NodeName;
use super::policy::BoundPolicy;
use super::promotion::Purpose;
use crate::cluster::{ClusterConfig, Member};

/// The life of each name's data that has its vote, as a log names them. The nil incarnation is no
/// life's.
pub type Lives = BTreeMap<NodeName, Uuid>;

/// Whether and when a standby that connects counts.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Vote {
    /// It has the vote, and counts when it has flushed this far, to where it is named; zero for at
    /// once.
    From(Lsn),
    /// It was rolled back, and counts when it has flushed what it had once.
    Again(Lsn),
    /// No life has the vote. This one gets it when it has flushed this far, and enough others have.
    Lost(Lsn),
}

/// What a primary knows of a standby whose stream begins.
#[derive(Debug, Copy, Clone)]
pub struct Arrival {
    /// The log names other data under its name, or none any more.
    pub another_life: bool,
    /// Where its stream begins.
    pub from: Lsn,
    /// The most that a standby of this name ever confirmed to this primary.
    pub confirmed: Lsn,
    /// The end of the newest Config entry, which names it, or says that no life has its vote.
    pub named: Lsn,
    /// The end of the primary's log.
    pub sealed: Lsn,
}

impl Arrival {
    /// Its vote. What another life's old self confirmed is below the end of the primary's log; one
    /// that begins below what it confirmed was rolled back. Nobody counts whose own log would not
    /// say so to a candidate.
    pub fn vote(self) -> Vote {
        if self.another_life {
            return Vote::Lost(self.sealed.max(self.named));
        }
        let confirmed = self.confirmed.min(self.sealed);
        match self.from {
            from if from < confirmed => Vote::Again(confirmed.max(self.named)),
            from if from < self.named => Vote::From(self.named),
            _ => Vote::From(Lsn::ZERO),
        }
    }
}

/// Whether a node may promise a timeline to `candidate`, if it has not the vote of its name: only
/// to the primary that its log names, if it names any, and when that goes on after a crash, which
/// decides itself what such a promise is worth. As a candidate for another reason it may be a
/// standby by now.
pub fn may_promise(
    votes: bool,
    purpose: Purpose,
    candidate: &NodeName,
    cluster: Option<&ClusterConfig>,
) -> bool {
    let named = cluster.is_none_or(|cluster| cluster.primary.name == *candidate);
    votes || (named && purpose == Purpose::Restart) || canary("copies-promise")
}

/// Whether what `life` of a name's data promised counts under `policy`, where the log of who asks
/// has the vote with the life `named`.
///
/// A primary that goes on has all that was confirmed to it, so a copy does not lack it; it only
/// wants to hear of whoever took its place. Where all whom the policy counts have to let it go on,
/// those who let that one are among them, and one that is no copy says so; where there is but one,
/// nobody else can have been let. And a name that its log never heard of can have promised nobody
/// anything.
pub fn promise_counts(
    purpose: Purpose,
    policy: &BoundPolicy,
    named: Option<&Uuid>,
    life: &Uuid,
) -> bool {
    let counted = policy.counted().len();
    let enough = match purpose {
        Purpose::Promote => false,
        Purpose::Raise => counted == 1,
        Purpose::Restart => policy.needed() >= counted || named.is_none(),
    };
    named == Some(life) || enough || canary("promises-of-any-life")
}

impl ClusterConfig {
    /// Takes the vote from the life that has it, if `member` comes with another: `member` is then
    /// registered without one, and gets it later. Whether that is so.
    pub fn void_vote(&self, member: &mut Member) -> bool {
        let known = self.life_of(&member.name);
        let another = known.is_some_and(|known| known != member.incarnation);
        if another {
            member.incarnation = Uuid::nil();
        }
        another
    }

    /// Whether the data `incarnation` have the vote of `name`.
    pub fn has_vote(&self, name: &NodeName, incarnation: Uuid) -> bool {
        self.life_of(name) == Some(incarnation)
    }

    /// Whether the data `incarnation` under `name` lack the vote that one of `policies` asks for.
    pub fn lacks_vote(&self, name: &NodeName, incarnation: Uuid, policies: &[BoundPolicy]) -> bool {
        let mut binding = policies.iter().filter(|policy| policy.needed() > 0);
        let counted = binding.any(|policy| policy.counted().contains(name));
        counted && !self.has_vote(name, incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::policy::SyncPolicy;

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn member(text: &str, incarnation: u128) -> Member {
        Member {
            name: name(text),
            node_id: Uuid::from_u128(1),
            incarnation: Uuid::from_u128(incarnation),
            address: "host:1".to_owned(),
            priority: 100,
            votes: true,
        }
    }

    fn cluster() -> ClusterConfig {
        let policy = "ANY 1 (*)".parse::<SyncPolicy>().unwrap();
        let mut cluster = ClusterConfig::new(policy, member("a", 10));
        cluster.register(member("b", 11)).unwrap();
        cluster
    }

    #[test]
    fn another_life_asks_at_the_end_and_others_count_where_they_were_named_and_have_been() {
        let at = Lsn::new;
        let arrival = |another_life, from, confirmed| Arrival {
            another_life,
            from: at(from),
            confirmed: at(confirmed),
            named: at(64),
            sealed: at(100),
        };
        let vote = |another_life, from, confirmed| arrival(another_life, from, confirmed).vote();
        assert_eq!(vote(false, 80, 80), Vote::From(Lsn::ZERO));
        assert_eq!(vote(false, 64, 0), Vote::From(Lsn::ZERO));
        assert_eq!(vote(false, 72, 80), Vote::Again(at(80)));
        assert_eq!(vote(false, 56, 8), Vote::From(at(64)));
        assert_eq!(vote(false, 48, 56), Vote::Again(at(64)));
        assert_eq!(vote(true, 80, 80), Vote::Lost(at(100)));
        // That no life has the vote may still be on its way to where it can be read.
        let early = Arrival {
            sealed: at(56),
            ..arrival(true, 48, 48)
        };
        assert_eq!(early.vote(), Vote::Lost(at(64)));
        // What was confirmed above the end belongs to log that is gone.
        assert_eq!(vote(false, 100, 120), Vote::From(Lsn::ZERO));
    }

    #[test]
    fn another_life_takes_the_vote_from_the_old_one_and_does_not_have_it() {
        let mut cluster = cluster();
        let life = Uuid::from_u128;
        let mut copy = member("b", 12);
        assert!(cluster.void_vote(&mut copy));
        assert_eq!(copy.incarnation, Uuid::nil());
        assert!(!cluster.void_vote(&mut member("b", 11)));
        assert!(!cluster.void_vote(&mut member("c", 13)));
        cluster.register(copy).unwrap();
        assert!(!cluster.has_vote(&name("b"), life(11)));
        assert!(!cluster.has_vote(&name("b"), life(12)));
        // The old self is another life by now, too.
        assert!(cluster.void_vote(&mut member("b", 11)));
    }

    #[test]
    fn only_a_life_that_the_log_names_speaks_for_a_counted_name() {
        let mut cluster = cluster();
        let (bound, off) = ([cluster.bound(Lsn::new(8))], [BoundPolicy::off()]);
        let life = Uuid::from_u128;
        assert!(cluster.lacks_vote(&name("b"), life(12), &bound));
        assert!(!cluster.lacks_vote(&name("b"), life(11), &bound));
        assert!(!cluster.lacks_vote(&name("b"), life(12), &off));
        assert!(!cluster.lacks_vote(&name("c"), life(12), &bound));
        // A log from before it was registered does not name it, and may be a copy.
        cluster.policy = "ANY 1 (b, c)".parse().unwrap();
        assert!(cluster.lacks_vote(&name("c"), life(12), &[cluster.bound(Lsn::new(8))]));
    }

    #[test]
    fn who_was_the_primary_and_who_was_removed_are_still_known() {
        let mut cluster = cluster();
        let life = Uuid::from_u128;
        assert!(cluster.has_vote(&name("a"), life(10)));
        cluster.take_over(member("b", 11));
        assert!(cluster.standby(&name("b")).is_none());
        assert!(cluster.has_vote(&name("a"), life(10)));
        assert!(cluster.has_vote(&name("b"), life(11)));
        assert!(cluster.void_vote(&mut member("a", 14)));
        cluster.register(member("a", 10)).unwrap();
        assert!(cluster.former.is_empty());
        cluster.remove(&name("a"));
        assert!(cluster.has_vote(&name("a"), life(10)));
        cluster.take_over(member("a", 15));
        assert!(cluster.has_vote(&name("a"), life(15)));
        assert_eq!(cluster.former, [(name("b"), life(11))]);
    }

    #[test]
    fn data_without_a_vote_promise_to_the_primary_of_their_log_alone_and_only_that_it_goes_on() {
        let cluster = cluster();
        let may =
            |candidate, purpose| may_promise(false, purpose, &name(candidate), Some(&cluster));
        assert!(may("a", Purpose::Restart));
        assert!(!may("a", Purpose::Promote));
        assert!(!may("a", Purpose::Raise));
        assert!(!may("b", Purpose::Restart));
        assert!(may_promise(true, Purpose::Promote, &name("b"), None));
        assert!(may_promise(false, Purpose::Restart, &name("b"), None));
        assert!(!may_promise(false, Purpose::Promote, &name("b"), None));
    }

    #[test]
    fn a_promise_counts_if_the_log_names_the_life_that_gave_it_or_a_primary_asks_all() {
        let life = Uuid::from_u128;
        let counts = |purpose, policy: &str, named: Option<u128>| {
            let policy = policy.parse().unwrap();
            let policy = BoundPolicy::new(policy, &[], &name("a"), Lsn::new(8));
            promise_counts(purpose, &policy, named.map(life).as_ref(), &life(11))
        };
        for purpose in [Purpose::Promote, Purpose::Raise, Purpose::Restart] {
            assert!(counts(purpose, "ANY 2 (b, c, d)", Some(11)));
            assert!(!counts(purpose, "ANY 2 (b, c, d)", Some(12)));
            let unheard = counts(purpose, "ANY 2 (b, c, d)", None);
            assert_eq!(unheard, purpose == Purpose::Restart);
            let all_let_it_go_on = counts(purpose, "ANY 3 (b, c, d)", Some(12));
            assert_eq!(all_let_it_go_on, purpose == Purpose::Restart);
            // Whoever promised another candidate promises a higher number as well.
            assert!(!counts(purpose, "ANY 1 (b, c, d)", Some(12)));
            let only = counts(purpose, "ANY 1 (b)", Some(12));
            assert_eq!(only, purpose != Purpose::Promote);
        }
    }
}
