//! Clusters of real processes under clients that keep the record of what was acknowledged to them.
//!
//! Nodes are killed with SIGKILL, one, two or all at once, stopped beyond their timeouts, and cut
//! off on lines that hold, trickle, break at some byte and reset; an operator orders failovers in
//! between. After each round the faults end, everybody comes together, and every node holds what
//! was acknowledged, exactly as it was. A seed decides what is done to whom; when it strikes, the
//! machine decides.
//!
//! ```text
//! ./tests/kills/run --seed N --kills 2000
//! ```

mod account;
mod clients;
mod cluster;
mod lines;
mod round;

use std::sync::Arc;
use std::time::Instant;

use account::{Account, Fault};
use clients::{Clients, WRITERS};
use cluster::Cluster;

use crate::sim::random::Random;
use crate::support::{Way, number};

/// Kills in the suite, and before a cluster is replaced by a new one.
const KILLS: u64 = 50;
const KILLS_OF_A_CLUSTER: u64 = 25;

/// Faults that are shown.
const SHOWN_MAX: usize = 20;

/// What came of one or more clusters.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    failovers: u64,
    acknowledged: u64,
    lost: u64,
}

impl Tally {
    fn print(&self) {
        println!("{} failovers", self.failovers);
        println!(
            "{} kills, {} acknowledged, {} lost",
            self.kills, self.acknowledged, self.lost
        );
    }
}

/// Names the seed in which something failed.
struct Seed {
    seed: u64,
    kills: u64,
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, kills } = self;
            println!("seed {seed} again: ./tests/kills/run --seed {seed} --kills {kills}");
        }
    }
}

/// Runs a cluster of this seed until it has seen so many kills.
fn run(seed: u64, kills: u64, tally: &mut Tally) {
    let _named = Seed { seed, kills };
    let (mut random, begun, goal) = (Random::new(seed), Instant::now(), tally.kills + kills);
    let mut cluster = Cluster::start(&mut random);
    println!("seed {seed}: {}", cluster.policy);
    let account = Arc::new(Account::new(WRITERS));
    while tally.kills < goal {
        let clients = Clients::start(&account, &cluster.directory);
        clients.until_acknowledged(1 + random.below(200));
        let told = round::run(&mut cluster, &clients, &mut random, goal - tally.kills);
        tally.kills += told.kills;
        tally.failovers += told.failovers;
        let primary = cluster.heal(&mut random);
        clients.stop();
        let seconds = begun.elapsed().as_secs_f64();
        println!("seed {seed}, {seconds:.1} s: {}", told.story);
        let faults = cluster.check(primary, &account);
        tally.lost += faults
            .iter()
            .filter(|fault| matches!(fault, Fault::Lost(_)))
            .count() as u64;
        if !faults.is_empty() {
            tally.acknowledged += account.acknowledged();
            tally.print();
            let shown = &faults[..faults.len().min(SHOWN_MAX)];
            panic!("seed {seed}: {} faults: {shown:#?}", faults.len());
        }
    }
    tally.acknowledged += account.acknowledged();
}

/// Runs clusters, the first of them of this seed, until there were so many kills.
fn run_all(first: u64, kills: u64) -> Tally {
    let mut tally = Tally::default();
    for seed in first.. {
        if tally.kills >= kills {
            break;
        }
        run(
            seed,
            KILLS_OF_A_CLUSTER.min(kills - tally.kills),
            &mut tally,
        );
    }
    tally.print();
    tally
}

#[test]
fn clusters_of_processes_that_are_killed_stopped_and_cut_off_keep_what_was_acknowledged() {
    let tally = run_all(number("MAINSTAY_KILLS_SEED", 1), KILLS);
    assert!(tally.acknowledged > 1_000, "{tally:?} tests little");
    assert!(tally.failovers > 1, "{tally:?} tests little");
}

#[test]
fn the_clients_notice_what_a_cluster_without_a_policy_loses() {
    let mut cluster = Cluster::under("off");
    let account = Arc::new(Account::new(WRITERS));
    let clients = Clients::start(&account, &cluster.directory);
    clients.until_acknowledged(20);
    for line in cluster.mesh.around(0) {
        line.hold(Way::FromNode);
    }
    clients.until_acknowledged(20);
    cluster.kill(0);
    let new = round::order(cluster.nodes[1].http.clone()).join();
    assert!(new.unwrap().is_some(), "nobody took over");
    clients.stop();
    let primary = cluster.heal(&mut Random::new(1));
    let faults = cluster.check(primary, &account);
    let lost = |fault: &&Fault| matches!(fault, Fault::Lost(_));
    assert!(faults.iter().filter(lost).count() > 10, "{faults:?}");
}

/// What `tests/kills/run` runs.
#[test]
#[ignore = "as long as it is told to; see tests/kills/run"]
fn long_run() {
    run_all(
        number("MAINSTAY_KILLS_SEED", 1),
        number("MAINSTAY_KILLS", KILLS),
    );
}
