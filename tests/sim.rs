//! A deterministic simulation of whole clusters.
//!
//! The log, its recovery, the timelines and every machine of the protocol are the ones that ship;
//! disk, network, clock and operators are simulated. One seed decides everything, so a failure is
//! seen again by its seed:
//!
//! ```text
//! ./tests/sim/run --seed N
//! ```
//!
//! What is not in here: sockets and tasks, whose place the simulation takes, the store on disk, and
//! the bytes of messages.

mod cluster;
mod net;
mod node;
mod oracle;
pub(crate) mod random;

use std::time::Instant;

use mainstay_replication::protocol::name::NodeName;

use cluster::{Cluster, Report};

/// A second of virtual time, in microseconds.
const SECOND: u64 = 1_000_000;

/// The name of node number `index`.
fn name_of(index: usize) -> NodeName {
    let name = ["a", "b", "c", "d", "e", "f", "g", "h"][index];
    name.parse().expect("a name")
}

/// The number of the node of this name.
fn index_of(name: &NodeName) -> usize {
    usize::from(name.as_str().as_bytes()[0] - b'a')
}

/// Names the seed in which an assertion of the product itself failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}: an assertion failed", self.0);
        }
    }
}

/// Runs one seed for `seconds` of faults.
fn run(seed: u64, seconds: u64) -> Result<Report, String> {
    let _named = Seed(seed);
    Cluster::new(seed).run(seconds * SECOND).map_err(|why| {
        format!("seed {seed}: {why}\nseed {seed} again: ./tests/sim/run --seed {seed} --seconds {seconds}")
    })
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given
        .and_then(|given| given.parse().ok())
        .unwrap_or(default)
}

#[test]
fn clusters_keep_their_promises_whatever_fails() {
    let seeds = number("MAINSTAY_SIM_SEEDS", 40);
    let (mut acknowledged, mut timelines) = (0, 0);
    for seed in 1..=seeds {
        let report = run(seed, 20).unwrap_or_else(|why| panic!("{why}"));
        acknowledged += report.acknowledged;
        timelines += report.timelines;
    }
    assert!(
        acknowledged > 1_000,
        "{acknowledged} acknowledged test little"
    );
    assert!(timelines > 40, "{timelines} timelines test little");
}

#[test]
fn the_same_seed_does_the_same_twice() {
    for seed in 1..=4 {
        let twice = [(); 2].map(|()| run(seed, 10).unwrap_or_else(|why| panic!("{why}")));
        assert_eq!(twice[0], twice[1], "seed {seed}");
    }
}

/// What `tests/sim/run` runs.
#[test]
#[ignore = "as long as it is told to; see tests/sim/run"]
fn long_run() {
    let (first, count) = (
        number("MAINSTAY_SIM_SEED", 1),
        number("MAINSTAY_SIM_COUNT", 1),
    );
    let seconds = number("MAINSTAY_SIM_SECONDS", 120);
    let (started, mut failures, mut events) = (Instant::now(), 0_u64, 0);
    for seed in first..first + count {
        match run(seed, seconds) {
            Ok(report) => events += report.events,
            Err(why) => {
                failures += 1;
                println!("{why}");
            }
        }
    }
    let speed = (count * seconds) as f64 / started.elapsed().as_secs_f64();
    println!("{events} events");
    println!("{count} seeds, {failures} failures, {speed:.0} virtual seconds per second");
    assert_eq!(failures, 0);
}
