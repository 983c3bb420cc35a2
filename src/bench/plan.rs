//! What is asked of the cluster: which operation on which row, from nothing but a seed.

use crate::scrambled::scrambled;

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Commits of one row each
    Put,
    /// Reads of rows that were written before
    Get,
    /// Half of each, by chance
    Mixed,
}

/// One operation, of a row by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Put(u64),
    Get(u64),
}

/// The operations of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) workload: Workload,
    pub(crate) seed: u64,
    /// Rows that are written and read: numbers from 0 on.
    pub(crate) keys: u64,
}

impl Workload {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Mixed => "mixed",
        }
    }

    pub(crate) fn writes(self) -> bool {
        self != Self::Get
    }

    pub(crate) fn reads(self) -> bool {
        self != Self::Put
    }
}

impl Plan {
    /// Operation `number`; the same every time.
    pub(crate) fn step(&self, number: u64) -> Step {
        let random = scrambled(scrambled(self.seed) ^ number);
        let row = (u128::from(random) * u128::from(self.keys)) >> 64;
        let row = u64::try_from(row).expect("below the number of keys");
        // The row comes from the upper bits, this from the lowest.
        match self.workload {
            Workload::Put => Step::Put(row),
            Workload::Get => Step::Get(row),
            Workload::Mixed if random & 1 == 0 => Step::Put(row),
            Workload::Mixed => Step::Get(row),
        }
    }

    /// The key of a row. It needs no escaping, neither in a path nor in JSON.
    pub(crate) fn key(&self, row: u64) -> String {
        format!("{}{row:08}", self.prefix())
    }

    /// What the keys of this run's rows begin with.
    pub(crate) fn prefix(&self) -> String {
        format!("bench-{}-", self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(workload: Workload, seed: u64) -> Plan {
        Plan {
            workload,
            seed,
            keys: 1000,
        }
    }

    fn row(step: Step) -> u64 {
        match step {
            Step::Put(row) | Step::Get(row) => row,
        }
    }

    #[test]
    fn a_seed_gives_the_same_operations_and_another_one_others() {
        let steps = |seed| {
            let plan = plan(Workload::Mixed, seed);
            (0..100).map(|number| plan.step(number)).collect::<Vec<_>>()
        };
        assert_eq!(steps(7), steps(7));
        let same = steps(7).into_iter().zip(steps(8));
        assert!(same.filter(|(one, other)| row(*one) == row(*other)).count() < 5);
        assert_ne!(plan(Workload::Put, 7).key(1), plan(Workload::Put, 8).key(1));
    }

    #[test]
    fn rows_are_spread_over_the_whole_key_space() {
        let plan = plan(Workload::Put, 1);
        let mut hits = [0_u32; 1000];
        for number in 0..100_000 {
            hits[usize::try_from(row(plan.step(number))).unwrap()] += 1;
        }
        // 100 each on average, with a standard deviation of 10.
        assert!(hits.iter().all(|hits| (50..150).contains(hits)), "{hits:?}");
        assert_eq!(plan.key(3), "bench-1-00000003");
    }

    #[test]
    fn each_workload_does_what_it_says() {
        let puts = |workload| {
            let plan = plan(workload, 1);
            let puts = (0..10_000).filter(|number| matches!(plan.step(*number), Step::Put(_)));
            puts.count()
        };
        assert_eq!((puts(Workload::Put), puts(Workload::Get)), (10_000, 0));
        assert!((4800..5200).contains(&puts(Workload::Mixed)));
    }
}
