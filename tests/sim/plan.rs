//! What kind of cluster and what kind of trouble a seed means.
//!
//! Each seed leaves some kinds of fault out and makes others frequent, so that rare combinations
//! are met too. A profile narrows the kinds down.

use std::fmt;

use super::random::Random;

/// What can happen to a cluster.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    PowerCut,
    PowerCutWithin,
    Stop,
    FailingCall,
    FullDisk,
    SlowDisk,
    /// A bit of a file flips, or a sector cannot be read, while the machine is off.
    Rot,
    /// The device loses a write, or puts it elsewhere, on a node that no policy counts.
    Mishap,
    Cut,
    Isolate,
    Reset,
    Replay,
    Suspend,
    Wipe,
    Clone,
    Promote,
    Switchover,
    ChangePolicy,
    Resync,
    ResyncFull,
}

use Fault::*;

const ALL: [Fault; 20] = [
    PowerCut,
    PowerCutWithin,
    Stop,
    FailingCall,
    FullDisk,
    SlowDisk,
    Rot,
    Mishap,
    Cut,
    Isolate,
    Reset,
    Replay,
    Suspend,
    Wipe,
    Clone,
    Promote,
    Switchover,
    ChangePolicy,
    Resync,
    ResyncFull,
];

/// Which kinds of fault a run is about.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Profile {
    /// Any.
    All,
    Crashes,
    Disks,
    Network,
    Operators,
    Clocks,
}

impl Profile {
    pub(super) const NAMES: [(&'static str, Self); 6] = [
        ("all", Self::All),
        ("crashes", Self::Crashes),
        ("disks", Self::Disks),
        ("network", Self::Network),
        ("operators", Self::Operators),
        ("clocks", Self::Clocks),
    ];

    pub(super) fn parse(name: &str) -> Option<Self> {
        let known = Self::NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, profile)| *profile)
    }

    pub(super) fn name(self) -> &'static str {
        let known = Self::NAMES.iter().find(|(_, profile)| *profile == self);
        known.expect("every profile has a name").0
    }

    fn kinds(self) -> &'static [Fault] {
        match self {
            Self::All => &ALL,
            Self::Crashes => &[PowerCut, PowerCutWithin, Stop, Promote],
            Self::Disks => &[
                PowerCut,
                FailingCall,
                FullDisk,
                SlowDisk,
                Rot,
                Mishap,
                Wipe,
                Promote,
            ],
            Self::Network => &[Cut, Isolate, Reset, Replay, Promote],
            Self::Operators => &[
                Promote,
                Switchover,
                ChangePolicy,
                Resync,
                ResyncFull,
                Wipe,
                Clone,
                Stop,
                PowerCut,
            ],
            Self::Clocks => &[Suspend, Promote, Switchover, Cut, PowerCut],
        }
    }
}

/// What one seed means.
#[derive(Debug)]
pub(super) struct Plan {
    /// Nodes that the policy counts; node 0 is the first primary.
    pub(super) voters: usize,
    /// Standbys that no policy counts.
    pub(super) uncounted: usize,
    /// Nodes that follow a standby.
    pub(super) cascaded: usize,
    /// The policy, and what operators change it to.
    pub(super) policies: Vec<String>,
    /// How many nodes' data may be missing at once without losing what was confirmed.
    pub(super) spare_copies: usize,
    pub(super) delay_max: u64,
    pub(super) clients: usize,
    /// Pause between two transactions of a client, at most, in microseconds.
    pub(super) think_max: u64,
    /// Longest value that clients write, in bytes.
    pub(super) value_max: usize,
    /// Pause between two faults, at most, in microseconds.
    pub(super) fault_pause_max: u64,
    pub(super) drifting: bool,
    /// Bytes of log that are kept although nobody needs them, and at most for a slot.
    pub(super) keep: u64,
    pub(super) slot_keep_max: u64,
    /// Each kind as often as it is likely.
    faults: Vec<Fault>,
}

impl Plan {
    pub(super) fn new(profile: Profile, random: &mut Random) -> Self {
        // One that counts nobody is the least of all clusters, and the least interesting.
        let voters = [1, 2, 3, 3, 3, 4, 5][random.index(7)];
        let uncounted = random.index(3).max(usize::from(voters == 1));
        let policies = policies(voters, random);
        let spare_copies = policies.iter().map(|(_, needed)| *needed).min();
        let mut faults = Vec::new();
        for kind in profile.kinds() {
            let often = [0, 1, 1, 2, 4][random.index(5)];
            faults.extend(std::iter::repeat_n(*kind, often));
        }
        faults.push(PowerCut);
        Self {
            voters,
            uncounted,
            cascaded: usize::from(random.one_in(3)),
            policies: policies.into_iter().map(|(policy, _)| policy).collect(),
            spare_copies: spare_copies.unwrap_or_default(),
            delay_max: [1_000, 20_000, 200_000][random.index(3)],
            clients: 1 + random.index(5),
            think_max: [20_000, 100_000, 500_000][random.index(3)],
            value_max: [100, 1_000, 10_000, 100_000][random.index(4)],
            fault_pause_max: [300_000, 1_000_000, 4_000_000][random.index(3)],
            drifting: random.one_in(2),
            keep: [0, 1 << 20, 1 << 30][random.index(3)],
            slot_keep_max: [2 << 20, 1 << 30][random.index(2)],
            faults,
        }
    }

    pub(super) fn nodes(&self) -> usize {
        self.voters + self.uncounted + self.cascaded
    }

    /// Whether a policy counts node `index`.
    pub(super) fn votes(&self, index: usize) -> bool {
        index < self.voters
    }

    /// Whether node `index` follows a standby.
    pub(super) fn cascades(&self, index: usize) -> bool {
        index >= self.voters + self.uncounted
    }

    pub(super) fn fault(&self, random: &mut Random) -> Fault {
        self.faults[random.index(self.faults.len())]
    }
}

/// Policies over the voters, each with how many standbys it asks for.
fn policies(voters: usize, random: &mut Random) -> Vec<(String, usize)> {
    if voters == 1 {
        return vec![("off".to_owned(), 0)];
    }
    let names = (0..voters).map(|index| super::name_of(index).to_string());
    let names = names.collect::<Vec<_>>().join(", ");
    let stars = random.one_in(2);
    let mut policies = Vec::new();
    for _ in 0..3 {
        let word = ["ANY", "FIRST"][random.index(2)];
        let count = 1 + random.index(voters - 1);
        let whom = if stars { "*" } else { names.as_str() };
        policies.push((format!("{word} {count} ({whom})"), count));
    }
    policies
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kinds = self.faults.clone();
        kinds.dedup();
        write!(
            f,
            "{} voters, {} uncounted, {} cascaded, {}, packets up to {} us, {} clients with values up \
             to {} bytes, {:?}",
            self.voters,
            self.uncounted,
            self.cascaded,
            self.policies[0],
            self.delay_max,
            self.clients,
            self.value_max,
            kinds
        )
    }
}
