//! The cluster as its log knows it: the payload of a `Config` entry.
//!
//! Every node finds here, in its own log, whom the policy counts, where each node can be reached,
//! and which slots there are. It counts from the moment it is in a log. Encoded with bincode, with
//! a limit, and refused with a byte too many; human names and addresses only, no secrets.

use bytes::Bytes;
use mainstay_storage::{CONFIG_BYTES_MAX, Lsn};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::protocol::name::NodeName;
use crate::protocol::policy::{BoundPolicy, SyncPolicy};
use crate::protocol::vote::Lives;

/// Most standbys that may be registered.
pub const MEMBERS_MAX: usize = 64;

/// Longest advertised address in bytes.
pub const ADDRESS_BYTES_MAX: usize = 255;

/// Most names of which the last life is kept after they are no members any more.
pub const FORMER_MAX: usize = MEMBERS_MAX;

const FORMAT: u16 = 2;
/// The format that does not say who was a member.
const FORMAT_WITHOUT_FORMER: u16 = 1;

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name that policies use.
    pub name: NodeName,
    /// The node.
    pub node_id: Uuid,
    /// The life of its data that has its vote; the nil one if none has.
    pub incarnation: Uuid,
    /// Where it can be reached, `host:port`.
    pub address: String,
    /// Its place in `FIRST`; lower comes first.
    pub priority: u32,
    /// Whether `*` counts it.
    pub votes: bool,
}

/// What the newest `Config` entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Who must confirm a commit.
    pub policy: SyncPolicy,
    /// The node that wrote the entry, as primary.
    pub primary: Member,
    /// The registered native standbys, in order of priority and then name.
    pub standbys: Vec<Member>,
    /// Slots: name, and the position from which log is kept.
    pub slots: Vec<(String, Lsn)>,
    /// Nodes that were the primary or a standby, each with the life of its data that had the vote,
    /// in the order in which they left: what they promised may still count.
    pub former: Vec<(NodeName, Uuid)>,
}

impl ClusterConfig {
    /// A new cluster of one.
    pub fn new(policy: SyncPolicy, primary: Member) -> Self {
        Self {
            policy,
            primary,
            standbys: Vec::new(),
            slots: Vec::new(),
            former: Vec::new(),
        }
    }

    /// The policy with whom it counts, as logged in an entry that ends at `config_end`.
    pub fn bound(&self, config_end: Lsn) -> BoundPolicy {
        let voters = self.standbys.iter().filter(|member| member.votes);
        let voters = voters.map(|member| member.name.clone()).collect::<Vec<_>>();
        BoundPolicy::new(self.policy.clone(), &voters, &self.primary.name, config_end)
    }

    /// The standby of this name.
    pub fn standby(&self, name: &NodeName) -> Option<&Member> {
        self.standbys.iter().find(|member| &member.name == name)
    }

    /// The life of the data of this name that has its vote; the nil one if none has it any more,
    /// `None` if the name was never heard of.
    pub fn life_of(&self, name: &NodeName) -> Option<Uuid> {
        self.lives().get(name).copied()
    }

    /// All of them.
    pub fn lives(&self) -> Lives {
        let former = self.former.iter().cloned();
        let members = self.standbys.iter().chain([&self.primary]);
        let members = members.map(|member| (member.name.clone(), member.incarnation));
        former.chain(members).collect()
    }

    /// `primary` is the primary from now on, and no standby.
    pub fn take_over(&mut self, primary: Member) {
        let before = std::mem::replace(&mut self.primary, primary);
        if before.name != self.primary.name {
            self.leaves(before.name, before.incarnation);
        }
        let own = &self.primary.name;
        self.standbys.retain(|member| member.name != *own);
        self.former.retain(|(name, _)| name != own);
    }

    /// Takes a standby out; its last life stays known. Whether there was one.
    pub fn remove(&mut self, name: &NodeName) -> bool {
        let at = self.standbys.iter().position(|known| known.name == *name);
        let removed = at.map(|at| self.standbys.remove(at));
        if let Some(member) = &removed {
            self.leaves(member.name.clone(), member.incarnation);
        }
        removed.is_some()
    }

    fn leaves(&mut self, name: NodeName, life: Uuid) {
        self.former.retain(|(known, _)| *known != name);
        if self.former.len() >= FORMER_MAX {
            self.former.remove(0);
        }
        self.former.push((name, life));
    }

    /// The address of the node of this name, standby or primary.
    pub fn address_of(&self, name: &NodeName) -> Option<&str> {
        let all = self.standbys.iter().chain([&self.primary]);
        all.into_iter()
            .find(|member| &member.name == name)
            .map(|member| member.address.as_str())
    }

    /// Adds a standby, or brings its entry up to date. Returns whether anything changed.
    ///
    /// # Errors
    /// [`Error::Refused`] beyond [`MEMBERS_MAX`] standbys; [`Error::Invalid`] on a bad address.
    pub fn register(&mut self, member: Member) -> Result<bool> {
        if member.address.is_empty() || member.address.len() > ADDRESS_BYTES_MAX {
            let len = member.address.len();
            return Err(Error::Invalid(format!(
                "an advertised address of {len} bytes"
            )));
        }
        if let Some(known) = self
            .standbys
            .iter_mut()
            .find(|known| known.name == member.name)
        {
            let changed = *known != member;
            *known = member;
            return Ok(changed);
        }
        if self.standbys.len() >= MEMBERS_MAX {
            return Err(Error::Refused(format!(
                "{MEMBERS_MAX} standbys are registered already; remove one first"
            )));
        }
        self.former.retain(|(name, _)| *name != member.name);
        self.standbys.push(member);
        self.standbys
            .sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
        Ok(true)
    }

    /// The entry's payload.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it exceeds what the log takes.
    pub fn encode(&self) -> Result<Bytes> {
        let encoded = EncodedConfig {
            format: FORMAT,
            policy: self.policy.to_string(),
            primary: EncodedMember::from(&self.primary),
            standbys: self.standbys.iter().map(EncodedMember::from).collect(),
            slots: self.slots.clone(),
        };
        let former = self.former.iter();
        let former = former.map(|(name, life)| (name.as_str(), *life.as_bytes()));
        let former = former.collect::<Vec<_>>();
        let bytes = bincode::encode_to_vec((&encoded, former), codec())
            .map_err(|error| Error::Invalid(format!("cluster configuration: {error}")))?;
        if bytes.len() > CONFIG_BYTES_MAX {
            let len = bytes.len();
            return Err(Error::Invalid(format!(
                "the cluster configuration takes {len} bytes, more than {CONFIG_BYTES_MAX}"
            )));
        }
        Ok(bytes.into())
    }

    /// Reads a payload; `None` for the empty one of a log without a configuration.
    ///
    /// # Errors
    /// [`Error::Invalid`] on anything that [`encode`](Self::encode) does not write.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let bad = |why: String| Error::Invalid(format!("cluster configuration in the log: {why}"));
        let (encoded, mut read): (EncodedConfig, _) =
            bincode::decode_from_slice(bytes, codec()).map_err(|error| bad(error.to_string()))?;
        if !(FORMAT_WITHOUT_FORMER..=FORMAT).contains(&encoded.format) {
            return Err(bad(format!(
                "format {}, where {FORMAT} is the newest known here",
                encoded.format
            )));
        }
        let mut former = Vec::<(String, [u8; 16])>::new();
        if encoded.format > FORMAT_WITHOUT_FORMER {
            let rest = bytes.get(read..).unwrap_or_default();
            let decoded = bincode::decode_from_slice(rest, codec());
            let (names, more) = decoded.map_err(|error| bad(error.to_string()))?;
            (former, read) = (names, read + more);
        }
        if read != bytes.len() {
            return Err(bad(format!("{} bytes too many", bytes.len() - read)));
        }
        if former.len() > FORMER_MAX {
            return Err(bad(format!("{} former members", former.len())));
        }
        let former = former.into_iter().map(|(name, life)| {
            let name = name.parse().map_err(|error| bad(format!("{error}")))?;
            Ok((name, Uuid::from_bytes(life)))
        });
        if encoded.standbys.len() > MEMBERS_MAX {
            return Err(bad(format!("{} standbys", encoded.standbys.len())));
        }
        let standbys = encoded.standbys.into_iter().map(EncodedMember::decode);
        Ok(Some(Self {
            policy: encoded
                .policy
                .parse()
                .map_err(|error| bad(format!("{error}")))?,
            primary: encoded.primary.decode()?,
            standbys: standbys.collect::<Result<_>>()?,
            slots: encoded.slots,
            former: former.collect::<Result<_>>()?,
        }))
    }
}

#[derive(bincode::Encode, bincode::Decode)]
struct EncodedConfig {
    format: u16,
    policy: String,
    primary: EncodedMember,
    standbys: Vec<EncodedMember>,
    slots: Vec<(String, Lsn)>,
}

#[derive(bincode::Encode, bincode::Decode)]
struct EncodedMember {
    name: String,
    node_id: [u8; 16],
    incarnation: [u8; 16],
    address: String,
    priority: u32,
    votes: bool,
}

impl From<&Member> for EncodedMember {
    fn from(member: &Member) -> Self {
        Self {
            name: member.name.as_str().to_owned(),
            node_id: *member.node_id.as_bytes(),
            incarnation: *member.incarnation.as_bytes(),
            address: member.address.clone(),
            priority: member.priority,
            votes: member.votes,
        }
    }
}

impl EncodedMember {
    fn decode(self) -> Result<Member> {
        let name = self.name.parse();
        let name = name.map_err(|error| Error::Invalid(format!("cluster member: {error}")))?;
        Ok(Member {
            name,
            node_id: Uuid::from_bytes(self.node_id),
            incarnation: Uuid::from_bytes(self.incarnation),
            address: self.address,
            priority: self.priority,
            votes: self.votes,
        })
    }
}

fn codec() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<{ 256 << 10 }>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(name: &str, priority: u32) -> Member {
        Member {
            name: name.parse().unwrap(),
            node_id: Uuid::from_u128(7),
            incarnation: Uuid::from_u128(8),
            address: format!("{name}:5433"),
            priority,
            votes: true,
        }
    }

    #[test]
    fn it_round_trips_and_every_damaged_byte_is_refused_or_harmless() {
        let mut config = ClusterConfig::new("ANY 1 (*)".parse().unwrap(), member("a", 1));
        assert!(config.register(member("c", 1)).unwrap());
        assert!(config.register(member("b", 1)).unwrap());
        assert!(!config.register(member("b", 1)).unwrap());
        config.slots.push(("backup".to_owned(), Lsn::new(64)));
        config
            .former
            .push(("d".parse().unwrap(), Uuid::from_u128(9)));
        let bound = config.bound(Lsn::new(8));
        let names = bound.counted();
        assert_eq!(
            names.iter().map(NodeName::as_str).collect::<Vec<_>>(),
            ["b", "c"]
        );
        let bytes = config.encode().unwrap();
        assert_eq!(ClusterConfig::decode(&bytes).unwrap(), Some(config));
        assert_eq!(ClusterConfig::decode(&[]).unwrap(), None);
        for at in 0..bytes.len() {
            assert!(ClusterConfig::decode(&bytes[..at.max(1)]).is_err());
            let mut damaged = bytes.to_vec();
            damaged[at] = 0xFF;
            // The log's own checksum guards the content; here it must only not panic or explode.
            let _ = ClusterConfig::decode(&damaged);
        }
    }

    #[test]
    fn one_from_before_former_members_were_kept_is_read() {
        let config = ClusterConfig::new("ANY 1 (*)".parse().unwrap(), member("a", 1));
        let encoded = |format| EncodedConfig {
            format,
            policy: config.policy.to_string(),
            primary: EncodedMember::from(&config.primary),
            standbys: Vec::new(),
            slots: Vec::new(),
        };
        let payload = |format| bincode::encode_to_vec(encoded(format), codec()).unwrap();
        let old = ClusterConfig::decode(&payload(FORMAT_WITHOUT_FORMER)).unwrap();
        assert_eq!(old, Some(config.clone()));
        for other in [0, FORMAT, FORMAT + 1] {
            assert!(ClusterConfig::decode(&payload(other)).is_err());
        }
    }

    #[test]
    fn so_many_former_members_are_known_and_the_last_ones_stay() {
        let mut config = ClusterConfig::new(SyncPolicy::Off, member("a", 1));
        for n in 0..=FORMER_MAX {
            let name = format!("n{n}");
            config.register(member(&name, 1)).unwrap();
            assert!(config.remove(&name.parse().unwrap()));
            assert!(!config.remove(&name.parse().unwrap()));
        }
        assert_eq!(config.former.len(), FORMER_MAX);
        assert_eq!(config.life_of(&"n0".parse().unwrap()), None);
        assert!(config.life_of(&"n1".parse().unwrap()).is_some());
        assert!(config.encode().unwrap().len() < CONFIG_BYTES_MAX);
    }

    #[test]
    fn the_priority_orders_before_the_name() {
        let mut config = ClusterConfig::new(SyncPolicy::Off, member("a", 1));
        config.register(member("b", 5)).unwrap();
        config.register(member("z", 2)).unwrap();
        assert_eq!(config.standbys[0].name.as_str(), "z");
        for n in 0..MEMBERS_MAX - 2 {
            config.register(member(&format!("n{n}"), 1)).unwrap();
        }
        assert!(matches!(
            config.register(member("over", 1)),
            Err(Error::Refused(_))
        ));
    }

    fn any_member() -> impl Strategy<Value = Member> {
        let name = "[a-z][a-z0-9 _é-]{0,8}[a-z]";
        (
            name,
            any::<[u128; 2]>(),
            "[a-z:0-9]{0,20}",
            any::<u32>(),
            any::<bool>(),
        )
            .prop_map(|(name, ids, address, priority, votes)| Member {
                name: name.parse().unwrap(),
                node_id: Uuid::from_u128(ids[0]),
                incarnation: Uuid::from_u128(ids[1]),
                address,
                priority,
                votes,
            })
    }

    proptest! {
        #[test]
        fn every_configuration_round_trips_and_no_byte_may_follow(
            policy in prop::sample::select(vec!["off", "ANY 2 (*)", "FIRST 1 (a, \"b c\")"]),
            primary in any_member(),
            standbys in prop::collection::vec(any_member(), 0..6),
            slots in prop::collection::vec(("[a-z0-9_]{1,20}", any::<u64>()), 0..6),
            former in prop::collection::vec(any_member(), 0..4),
        ) {
            let slots = slots.into_iter().map(|(name, at)| (name, Lsn::new(at)));
            let config = ClusterConfig {
                policy: policy.parse().unwrap(),
                primary,
                standbys,
                slots: slots.collect(),
                former: former.into_iter().map(|left| (left.name, left.incarnation)).collect(),
            };
            let bytes = config.encode().unwrap();
            prop_assert_eq!(ClusterConfig::decode(&bytes).unwrap(), Some(config));
            prop_assert!(ClusterConfig::decode(&[&bytes[..], b"x"].concat()).is_err());
        }
    }
}
