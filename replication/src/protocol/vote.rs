//! Which data speak for a standby's name.
//!
//! A name has one vote, and one life of its data that has it: the one whose incarnation the log
//! names. Data that were copied, or an old copy put back, may lack what their old self confirmed.
//! So they are followed by no count and no candidate before they are past that.
//!
//! This room only compares; it knows neither connections nor the log.

use mainstay_storage::{Lsn, canary};
use uuid::Uuid;

use super::name::NodeName;
use super::policy::BoundPolicy;
use super::promotion::Purpose;
use crate::cluster::{ClusterConfig, Member};

/// From where on a standby counts whose stream begins at `from`; `None` if it counts at once.
///
/// `another_life` says that the log names other data under its name: what those confirmed is below
/// `sealed`, the end of the primary's log. `confirmed` is the most that a standby of this name ever
/// confirmed to this primary: one that begins below it was rolled back.
pub fn vote_after(another_life: bool, from: Lsn, confirmed: Lsn, sealed: Lsn) -> Option<Lsn> {
    let confirmed = confirmed.min(sealed);
    match another_life {
        true => Some(sealed),
        false => (from < confirmed).then_some(confirmed),
    }
}

/// Whether a node may promise a timeline to `candidate`, if it `lacks` the vote of its name: only
/// to the primary that its log names, and when that goes on after a crash, since it has all that
/// was confirmed and may otherwise never go on. As a candidate for another reason it may be a
/// standby by now.
pub fn may_promise(
    lacks: bool,
    purpose: Purpose,
    candidate: &NodeName,
    cluster: Option<&ClusterConfig>,
) -> bool {
    let named = cluster.is_some_and(|cluster| cluster.primary.name == *candidate);
    !lacks || (named && purpose == Purpose::Restart) || canary("copies-promise")
}

impl ClusterConfig {
    /// Lets the life that has the vote of `member`'s name keep it, if it is another: `member` is
    /// then registered as that, and the life that asked is returned. It gets the vote later.
    pub fn keep_vote(&self, member: &mut Member) -> Option<Uuid> {
        let known = self.standby(&member.name)?;
        let asked = std::mem::replace(&mut member.incarnation, known.incarnation);
        (asked != known.incarnation).then_some(asked)
    }

    /// Whether the data `incarnation` under `name` lack the vote that one of `policies` asks for.
    pub fn lacks_vote(&self, name: &NodeName, incarnation: Uuid, policies: &[BoundPolicy]) -> bool {
        let mut binding = policies.iter().filter(|policy| policy.needed() > 0);
        let counted = binding.any(|policy| policy.counted().contains(name));
        let other = self.standby(name);
        counted && other.is_some_and(|member| member.incarnation != incarnation)
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
    fn another_life_counts_from_the_end_and_a_rolled_back_one_from_what_it_confirmed() {
        let at = Lsn::new;
        assert_eq!(vote_after(false, at(80), at(80), at(100)), None);
        assert_eq!(vote_after(false, at(72), at(80), at(100)), Some(at(80)));
        assert_eq!(vote_after(true, at(80), at(80), at(100)), Some(at(100)));
        // What was confirmed above the end belongs to log that is gone.
        assert_eq!(vote_after(false, at(100), at(120), at(100)), None);
    }

    #[test]
    fn a_name_keeps_the_life_that_has_its_vote() {
        let cluster = cluster();
        let mut copy = member("b", 12);
        assert_eq!(cluster.keep_vote(&mut copy), Some(Uuid::from_u128(12)));
        assert_eq!(copy.incarnation, Uuid::from_u128(11));
        assert_eq!(cluster.keep_vote(&mut member("b", 11)), None);
        assert_eq!(cluster.keep_vote(&mut member("c", 13)), None);
    }

    #[test]
    fn only_a_life_that_the_log_names_speaks_for_a_counted_name() {
        let cluster = cluster();
        let (bound, off) = ([cluster.bound(Lsn::new(8))], [BoundPolicy::off()]);
        let life = Uuid::from_u128;
        assert!(cluster.lacks_vote(&name("b"), life(12), &bound));
        assert!(!cluster.lacks_vote(&name("b"), life(11), &bound));
        assert!(!cluster.lacks_vote(&name("b"), life(12), &off));
        assert!(!cluster.lacks_vote(&name("c"), life(12), &bound));
    }

    #[test]
    fn data_without_a_vote_promise_to_the_primary_of_their_log_alone_and_only_that_it_goes_on() {
        let cluster = cluster();
        let may = |candidate, purpose| may_promise(true, purpose, &name(candidate), Some(&cluster));
        assert!(may("a", Purpose::Restart));
        assert!(!may("a", Purpose::Promote));
        assert!(!may("a", Purpose::Raise));
        assert!(!may("b", Purpose::Restart));
        assert!(may_promise(false, Purpose::Promote, &name("b"), None));
    }
}
