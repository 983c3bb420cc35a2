//! A deterministic simulation of whole clusters.
//!
//! The log, its recovery, the timelines and the machines of streaming, commits, votes, promotion,
//! handover and slots are the ones that ship; disk, network, clock and operators are simulated, and
//! so is what brings the machines their events (`node/`). One seed decides everything, so a failure
//! is seen again by its seed:
//!
//! ```text
//! ./tests/sim/run --seed N --count M --profile P
//! ```
//!
//! What is not in here: sockets and tasks, whose place the simulation takes; the store on disk; and
//! the machines that compare rows, weigh a copy, tell outcomes and choose who takes over.

mod calm;
mod clients;
mod clock;
mod cluster;
mod fault;
mod net;
mod node;
mod oracle;
mod plan;
pub(crate) mod random;
mod wire;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use mainstay_replication::protocol::name::NodeName;

use cluster::{Cluster, Report};
use plan::Profile;

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

/// What a run is to do.
#[derive(Debug, Copy, Clone)]
struct Order {
    profile: Profile,
    /// Virtual seconds of faults.
    seconds: u64,
}

impl Order {
    /// What the environment says: the order, the first seed and how many.
    fn given() -> (Self, u64, u64) {
        let order = Self {
            profile: profile(),
            seconds: number("MAINSTAY_SIM_SECONDS", 120),
        };
        let (first, count) = (
            number("MAINSTAY_SIM_SEED", 1),
            number("MAINSTAY_SIM_COUNT", 1),
        );
        (order, first, count)
    }

    /// Runs one seed. An assertion of the product that fails is a failure like any other.
    fn run(self, seed: u64) -> Result<Report, String> {
        let faulty = self.seconds * SECOND;
        let ran = catch_unwind(|| Cluster::new(seed, self.profile).run(faulty));
        let ran = ran.unwrap_or_else(|_| Err("an assertion failed, see above".to_owned()));
        ran.map_err(|why| format!("seed {seed}: {why}\n{}", self.again(seed)))
    }

    /// How to see a seed again.
    fn again(self, seed: u64) -> String {
        let (profile, seconds) = (self.profile.name(), self.seconds);
        let commit = std::env::var("MAINSTAY_COMMIT");
        let commit = commit.unwrap_or_else(|_| "this commit".to_owned());
        format!(
            "seed {seed} of {commit} again: ./tests/sim/run --seed {seed} --seconds {seconds} \
             --profile {profile}"
        )
    }

    /// Runs `count` seeds from `first` on, on all processors, and tells each outcome as it comes,
    /// until it was told enough.
    fn run_all(
        self,
        first: u64,
        count: u64,
        mut tell: impl FnMut(Result<Report, String>) -> ControlFlow<()>,
    ) {
        let next = AtomicU64::new(first);
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let (told, hears) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..threads {
                let (told, next) = (told.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + count || told.send(self.run(seed)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(told);
            // Once nobody hears any more, nobody runs any more.
            let _ = hears.into_iter().try_for_each(&mut tell);
        });
    }
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given
        .and_then(|given| given.parse().ok())
        .unwrap_or(default)
}

fn profile() -> Profile {
    let given = std::env::var("MAINSTAY_SIM_PROFILE").unwrap_or_else(|_| "all".to_owned());
    Profile::parse(&given).unwrap_or_else(|| panic!("there is no profile {given}"))
}

#[test]
fn clusters_keep_their_promises_whatever_fails() {
    let seeds = number("MAINSTAY_SIM_SEEDS", 24);
    let order = Order {
        profile: profile(),
        seconds: 20,
    };
    let (mut acknowledged, mut timelines, mut failures) = (0, 0, Vec::new());
    order.run_all(1, seeds, |ran| match ran {
        Ok(report) => {
            acknowledged += report.acknowledged as u64;
            timelines += u64::from(report.timelines);
            ControlFlow::Continue(())
        }
        Err(why) => {
            failures.push(why);
            ControlFlow::Break(())
        }
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    // Fewer would test little.
    assert!(acknowledged > 50 * seeds, "{acknowledged} acknowledged");
    assert!(timelines > 2 * seeds, "{timelines} timelines");
}

/// Runs seeds twice each; the virtual time that both took, in microseconds.
fn twice(order: Order, first: u64, count: u64) -> u64 {
    let (mut traces, mut lasted) = (BTreeSet::new(), 0);
    for seed in first..first + count {
        let twice = [(); 2].map(|()| order.run(seed).unwrap_or_else(|why| panic!("{why}")));
        assert_eq!(twice[0], twice[1], "{}", order.again(seed));
        traces.insert(twice[0].trace);
        lasted += 2 * twice[0].lasted;
    }
    assert_eq!(traces.len() as u64, count, "other seeds do something else");
    lasted
}

#[test]
fn the_same_seed_does_the_same_twice() {
    let order = Order {
        profile: Profile::All,
        seconds: 10,
    };
    twice(order, 1, 4);
}

/// What `tests/sim/run --twice` runs.
#[test]
#[ignore = "as long as it is told to; see tests/sim/run"]
fn every_seed_does_the_same_twice() {
    let (order, first, count) = Order::given();
    let started = Instant::now();
    let lasted = twice(order, first, count);
    println!("{}", closing(count, 0, lasted, started));
}

/// The last line that a long run prints.
fn closing(seeds: u64, failures: u64, lasted: u64, started: Instant) -> String {
    let speed = lasted as f64 / SECOND as f64 / started.elapsed().as_secs_f64();
    format!("{seeds} seeds, {failures} failures, {speed:.0} virtual seconds per second")
}

/// What `tests/sim/run` runs.
#[test]
#[ignore = "as long as it is told to; see tests/sim/run"]
fn long_run() {
    let (order, first, count) = Order::given();
    let (started, mut failures, mut lasted) = (Instant::now(), 0_u64, 0);
    let (mut events, mut acknowledged, mut timelines, mut helped) = (0, 0, 0, 0);
    order.run_all(first, count, |ran| match ran {
        Ok(report) => {
            events += report.events;
            acknowledged += report.acknowledged;
            timelines += u64::from(report.timelines);
            helped += u64::from(report.helped);
            lasted += report.lasted;
            ControlFlow::Continue(())
        }
        Err(why) => {
            failures += 1;
            println!("{why}\n");
            ControlFlow::Continue(())
        }
    });
    println!(
        "{events} events, {acknowledged} transactions acknowledged, {timelines} timelines, and \
         {helped} seeds in which an operator had to give something up"
    );
    println!("{}", closing(count, failures, lasted, started));
    assert_eq!(failures, 0);
    // Fewer would test little; and a cluster comes together by itself nearly always.
    assert!(
        count < 100 || acknowledged as u64 > 50 * count,
        "{acknowledged}"
    );
    assert!(count < 100 || timelines > count, "{timelines}");
    assert!(helped <= 2 + count / 4, "{helped} of {count} needed help");
}
