//! Running nodes on a network that is cut, held up and mended by a seed.
//!
//! The simulation in `tests/sim` runs the machines and leaves out what carries them: sockets,
//! tasks, messages as bytes, timers. This ring runs exactly that, in turmoil's network and virtual
//! time, and with logs that write only when they are told to. One primary and two standbys stream
//! while links lose all packets, or those of one direction, hold them for a while, or are slow, and
//! standbys stop and start. Turmoil sends nothing again, so a connection that lost a packet is
//! silent for good, in one direction or both, and nobody is told: whoever waits has to notice.
//!
//! A seed decides the network and its faults. It does not decide when the thread that applies gets
//! to run, nor the random part of the pauses between two attempts to connect: a seed that failed
//! mostly fails again, not always.

mod stage;

use std::time::Duration;

use turmoil::Sim;

use self::stage::{Cluster, NAMES, TICK};

/// Seeds of each test in the usual run.
const SEEDS: u64 = 20;

/// Virtual time in which there are faults.
const STORM: Duration = Duration::from_secs(40);

/// Virtual time after which nothing may be missing any more.
const CALM: Duration = Duration::from_secs(60);

/// What SplitMix64 makes of a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }
}

/// Two different nodes.
fn link(random: &mut Random) -> (&'static str, &'static str) {
    let one = random.below(3) as usize;
    let other = (one + 1 + random.below(2) as usize) % 3;
    (NAMES[one], NAMES[other])
}

fn disturb(sim: &Sim<'_>, cluster: &Cluster, random: &mut Random) {
    let (x, y) = link(random);
    match random.below(9) {
        0 | 1 => sim.partition(x, y),
        2 | 3 => sim.partition_oneway(x, y),
        4 => sim.hold(x, y),
        5 => sim.set_link_max_message_latency(x, y, random.millis(2..400)),
        6 => cluster.restart(y),
        _ => mend(sim, x, y),
    }
}

fn mend(sim: &Sim<'_>, x: &str, y: &str) {
    sim.release(x, y);
    sim.repair(x, y);
}

fn mend_all(sim: &Sim<'_>) {
    for (x, y) in [("a", "b"), ("b", "c"), ("c", "a")] {
        mend(sim, x, y);
        sim.set_link_max_message_latency(x, y, Duration::from_millis(10));
    }
}

/// Runs one seed; returns how many entries were acknowledged while there were faults, and how many
/// connections to a primary were lost.
fn run(seed: u64, cascade: bool) -> (usize, usize) {
    let mut random = Random(seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(random.below(u64::MAX))
        .tick_duration(TICK)
        .simulation_duration(10 * (STORM + CALM))
        .max_message_latency(random.millis(5..60))
        .tcp_capacity(256)
        .build();
    let cluster = Cluster::start(&mut sim, cascade);
    let mut next = random.millis(500..3_000);
    while sim.elapsed() < STORM {
        if sim.elapsed() >= next {
            disturb(&sim, &cluster, &mut random);
            next += random.millis(100..3_000);
        }
        cluster.step(&mut sim);
    }
    mend_all(&sim);
    let acknowledged = cluster.acknowledged();
    cluster.end_writing();
    let until = sim.elapsed() + CALM;
    while !cluster.has_converged() {
        assert!(sim.elapsed() < until, "no convergence: {cluster:?}");
        cluster.step(&mut sim);
    }
    cluster.check();
    cluster.stop();
    let until = sim.elapsed() + CALM;
    while NAMES.iter().any(|name| sim.is_host_running(*name)) {
        assert!(sim.elapsed() < until, "a node does not stop");
        cluster.step(&mut sim);
    }
    (acknowledged, cluster.lost_connections())
}

fn number(variable: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else {
        return default;
    };
    let number = text.parse();
    number.unwrap_or_else(|_| panic!("{variable} must be a number, not {text}"))
}

fn run_all(cascade: bool) {
    let first = number("MAINSTAY_SCHEDULES_SEED", 1);
    let count = number("MAINSTAY_SCHEDULES_COUNT", SEEDS);
    let (mut acknowledged, mut lost) = (0, 0);
    for seed in first..first + count {
        let ran = std::panic::catch_unwind(|| run(seed, cascade));
        let (more_acknowledged, more_lost) = ran.unwrap_or_else(|why| {
            eprintln!("seed {seed} failed\n    ./tests/schedules --seed {seed}");
            std::panic::resume_unwind(why)
        });
        acknowledged += more_acknowledged;
        lost += more_lost;
    }
    println!("{count} networks passed: {acknowledged} acknowledged, {lost} connections lost");
    // What nothing happens to shows nothing.
    assert!(acknowledged > 0 && (lost > 0 || count < SEEDS));
}

#[test]
fn two_standbys_get_everything_and_nothing_is_lost_whatever_the_network_does() {
    run_all(false);
}

#[test]
fn a_standby_of_a_standby_gets_everything_whatever_the_network_does() {
    run_all(true);
}
