//! Clusters of real processes under clients, while their primaries are killed or replaced. What the
//! clients saw has to be linearizable; two clusters that promise less are found out.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;

use super::account::{Account, Found, Reign};
use super::clients::{Clients, TABLE, held, path, read_all};
use super::member::{Member, embedding, shipped};
use super::{History, Op, Outcome, Value, Verdict};
use crate::sim::random::Random;
use crate::support::{Node, Start, Valve, Way, lsn, number, until};

const CLIENTS: usize = 6;

/// Clusters in the suite, each of so many reigns.
const RUNS: u64 = 2;
const REIGNS: u64 = 7;

/// Operations of a reign before the primary goes, at least and at most.
const OPERATIONS_MIN: u64 = 100;
const OPERATIONS_SPREAD: u64 = 300;

/// How a member is started: in a directory, by its name, following a URL.
type StartMember = fn(&Path, &str, Option<&str>) -> Box<dyn Member>;

/// A cluster whose clients turn to whoever was promoted last.
struct Cluster {
    nodes: Vec<Box<dyn Member>>,
    primary: usize,
    account: Arc<Account>,
    clients: Clients,
    _dir: TempDir,
}

impl Cluster {
    fn start(start: StartMember, seed: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let mut nodes = vec![start(dir.path(), "a", None)];
        let url = nodes[0].url();
        nodes.extend(["b", "c"].map(|name| start(dir.path(), name, Some(&url))));
        nodes[0].http().until_streaming(2);
        let account = Account::new(Reign {
            number: 1,
            address: nodes[0].address(),
            transactions: nodes[0].transactions(),
            from: 0,
        });
        let addresses = nodes.iter().map(|node| node.address()).collect::<Vec<_>>();
        Self {
            clients: Clients::start(CLIENTS, seed, &account, &addresses),
            nodes,
            primary: 0,
            account,
            _dir: dir,
        }
    }

    /// Puts another node in the primary's place: after killing it, or while it is busy.
    fn replace(&mut self, kill: bool) {
        let old = self.primary;
        if kill {
            self.nodes[old].kill();
        }
        let others = (0..self.nodes.len()).filter(|&at| at != old);
        let next = others.max_by_key(|&at| self.nodes[at].http().position("flushed"));
        let next = next.expect("two are left");
        let http = self.nodes[next].http();
        let promoted = if kill {
            http.promote()
        } else {
            let answer = http.send("POST", "/v1/promote", br#"{"force":true}"#);
            answer.unwrap().ok().json()
        };
        self.account.reigns(Reign {
            number: promoted["timeline"].as_u64().expect("a number"),
            address: self.nodes[next].address(),
            transactions: self.nodes[next].transactions(),
            from: lsn(promoted["lsn"].as_str().expect("a text")),
        });
        let url = self.nodes[next].url();
        if kill {
            self.nodes[old].start_again(&url);
        } else {
            let old = self.nodes[old].http();
            until("it learns that it was replaced", || {
                old.status()["role"] == "fenced"
            });
            old.follow(&url).ok();
        }
        self.primary = next;
        self.nodes[next].http().until_streaming(2);
    }
}

/// Names the command that replays a run when it fails, by whatever.
struct Seed(u64, &'static str);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed, test) = self;
            println!(
                "seed {seed} again: MAINSTAY_LINEAR_SEED={seed} MAINSTAY_LINEAR_RUNS=1 \
                 cargo test --test it {test}"
            );
        }
    }
}

fn run(start: StartMember, seed: u64) -> Found {
    let mut random = Random::new(seed);
    let mut cluster = Cluster::start(start, seed);
    for reign in 1..=REIGNS {
        let operations = OPERATIONS_MIN + random.below(OPERATIONS_SPREAD);
        cluster.account.until_done(operations);
        if reign < REIGNS {
            cluster.replace(!random.one_in(3));
        }
    }
    cluster.clients.stop();
    read_all(&cluster.account);
    let found = cluster.account.check();
    found.by_time.assert_linearizable();
    found.by_position.assert_linearizable();
    assert!(
        found.unknown > 0,
        "nothing was under way when a primary went"
    );
    found
}

fn runs(start: StartMember, test: &'static str) -> Vec<Found> {
    let first = number("MAINSTAY_LINEAR_SEED", 1);
    let seeds = first..first + number("MAINSTAY_LINEAR_RUNS", RUNS);
    let each = seeds.map(|seed| {
        let (_named, begun) = (Seed(seed, test), Instant::now());
        let found = run(start, seed);
        println!(
            "seed {seed}: {REIGNS} primaries, {} operations in one order of time, {} in one of \
             positions, {} unknown writes, {} swaps, {:.1} s",
            found.operations,
            found.positions,
            found.unknown,
            found.swapped,
            begun.elapsed().as_secs_f64()
        );
        found
    });
    each.collect()
}

#[test]
fn clients_of_clusters_whose_primaries_are_replaced_see_one_register_for_each_key() {
    runs(shipped, "clients_of_clusters_whose_primaries_are_replaced");
}

#[test]
fn transactions_that_read_and_then_write_see_the_same_register_as_everybody_else() {
    for found in runs(embedding, "transactions_that_read_and_then_write") {
        assert!(found.swapped > 0, "nothing was ever set by comparing");
    }
}

/// The node of this name without a policy of its own, in `dir`.
fn alone(dir: &TempDir, name: &str) -> Start {
    Start::new(dir.path(), name)
}

fn reign_of(node: &Node, number: u64) -> Reign {
    let promoted = node.http.promote();
    assert_eq!(promoted["timeline"], number);
    Reign {
        number,
        address: node.http_address.clone(),
        transactions: None,
        from: lsn(promoted["lsn"].as_str().expect("a text")),
    }
}

#[test]
fn a_cluster_that_acknowledges_before_its_standby_has_it_is_found_out() {
    let dir = TempDir::new().unwrap();
    let mut a = alone(&dir, "a").start();
    let line = Valve::to(&a.replication);
    let b = alone(&dir, "b").arg("--follow", line.url()).start();
    a.http.until_streaming(1);
    let account = Account::new(Reign {
        number: 1,
        address: a.http_address.clone(),
        transactions: None,
        from: 0,
    });
    let clients = Clients::start(CLIENTS, 1, &account, &[a.http_address.clone()]);
    account.until_done(OPERATIONS_MIN);
    // Up to here b can have all of it, from here on nothing.
    line.hold(Way::FromNode);
    account.until_done(OPERATIONS_SPREAD);
    clients.stop();
    account.check().by_time.assert_linearizable();
    a.kill();
    line.cut();
    account.reigns(reign_of(&b, 2));
    read_all(&account);
    match account.check().by_time {
        Verdict::Violation(told) => println!("{told}"),
        other => panic!("LOST and not noticed: {other:?}"),
    }
}

#[test]
fn a_write_whose_outcome_is_unknown_must_not_be_taken_for_one_that_failed() {
    let dir = TempDir::new().unwrap();
    let start = |name: &str| alone(&dir, name).arg("--sync", "ANY 1 (*)");
    let mut a = start("a").start();
    let line = Valve::to(&a.replication);
    let b = start("b").arg("--follow", line.url()).start();
    a.http.until_streaming(1);
    let end = a.http.put(TABLE, "other", b"1").ok().lsn();
    b.http.wait_for(end);
    let before = a.http.position("flushed");
    // b gets it, and its confirmation never arrives.
    line.hold(Way::ToNode);
    let (mut history, writer) = (History::new(), a.http.clone());
    let written = history.invoke(1, "k", Op::Put(7), 1);
    let writing = std::thread::spawn(move || writer.send("PUT", &path("k"), b"7"));
    until("b has flushed it", || b.http.position("flushed") > before);
    a.kill();
    line.cut();
    let broken_off = writing.join().expect("it does not panic");
    assert!(broken_off.is_err(), "{broken_off:?}");
    let Reign { from, .. } = reign_of(&b, 2);
    let _a_again = a.same_ports().follow(&b).start();
    b.http.wait_for(from);
    let (read, (value, _)) = (history.invoke(2, "k", Op::Get, 2), read_at(&b, "k"));
    history.returned(read, Outcome::Value(value), 3);
    assert_eq!(
        value,
        Some(7),
        "b had it, and enough of the members promised to b"
    );
    let mut taken_for_failed = history.clone();
    taken_for_failed.never(written);
    assert!(matches!(taken_for_failed.check(100), Verdict::Violation(_)));
    history.unknown(written);
    history.check(100).assert_linearizable();
}

fn read_at(node: &Node, key: &str) -> (Option<Value>, u64) {
    let answer = node.http.send("GET", &path(key), &[]).unwrap();
    held(&answer).expect("it is not refused")
}
