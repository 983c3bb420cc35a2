//! Kills: a process that dies at any moment, and copies as it would leave them at each step.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::super::fixture::{Numbers, copy_dir};
use super::*;

/// Where the child process finds its directory.
const CHILD_DIR: &str = "MAINSTAY_TEST_STORE_DIR";
const KEYS: u64 = 50;

/// What transaction `n` does; it ends at `64 * n`.
fn changes(n: u64) -> Vec<Change> {
    let mut numbers = Numbers::new(n);
    (0..8)
        .map(|_| {
            let key = format!("k{:02}", numbers.below(KEYS));
            match numbers.below(5) {
                0 => delete(1, &key),
                _ => put(1, &key, format!("{n} ").repeat(20)),
            }
        })
        .collect()
}

/// The store must hold exactly the transactions up to its position.
fn check(store: &LsmStore) {
    let mut model = Model::default();
    for n in 1..=store.applied().get() / 64 {
        model.apply(Lsn::new(64 * n), &changes(n));
    }
    let at = store.applied();
    assert_eq!(scan(store, 1, at), model.scan(1, at), "at {at}");
}

#[test]
#[ignore = "the process that the test below kills"]
fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else {
        return;
    };
    let store = LsmStore::open(Path::new(&dir), false, open_gate(), small()).unwrap();
    let mut durable = Lsn::ZERO;
    for n in store.applied().get() / 64 + 1.. {
        store.insert(Lsn::new(64 * n), &changes(n)).unwrap();
        if store.durable() > durable {
            durable = store.durable();
            println!("durable {}", durable.get());
        }
    }
}

/// Kills its process, also when a check fails.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_process_leaves_a_prefix_of_what_it_inserted() {
    let bed = Bed::new();
    let mut numbers = Numbers::new(7);
    let mut last = Lsn::ZERO;
    for round in 0..12 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::lsm::tests::kills::child"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env(CHILD_DIR, bed.dir())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut victim = Victim(child);
        let wait_for = 1 + numbers.below(60);
        let lines = BufReader::new(victim.0.stdout.take().unwrap()).lines();
        let reports = lines.filter_map(|line| {
            let line = line.unwrap();
            line.strip_prefix("durable ").map(|at| at.parse().unwrap())
        });
        let reported = Lsn::new(reports.take(wait_for as usize).last().unwrap());
        drop(victim);
        let store = LsmStore::open(&bed.dir(), true, open_gate(), small()).unwrap();
        assert!(store.applied() >= reported, "round {round}");
        assert!(reported > last);
        last = reported;
        check(&store);
    }
}

/// Waits for merges, which end by themselves while nothing is flushed.
#[test]
fn a_copy_before_each_flush_and_after_each_checkpoint_is_whole() {
    let bed = Bed::new();
    let store = bed.open();
    for round in 1..8u64 {
        for n in 10 * (round - 1) + 1..=10 * round {
            store.insert(Lsn::new(64 * n), &changes(n)).unwrap();
        }
        settle(&store);
        let before = bed.temp.path().join(format!("before {round}"));
        copy_dir(&bed.dir(), &before);
        let copy = LsmStore::open(&before, true, open_gate(), small()).unwrap();
        assert_eq!(copy.applied(), store.durable());
        check(&copy);
        bed.raise(store.applied());
        store.checkpoint(store.applied()).unwrap();
        settle(&store);
        let after = bed.temp.path().join(format!("after {round}"));
        copy_dir(&bed.dir(), &after);
        let copy = LsmStore::open(&after, true, open_gate(), small()).unwrap();
        assert_eq!(copy.applied(), store.applied());
        check(&copy);
    }
}

#[test]
fn replay_after_a_rewind_may_take_another_way() {
    let bed = Bed::new();
    let store = bed.open();
    bed.raise(Lsn::new(64 * 10));
    for n in 1..=30 {
        store.insert(Lsn::new(64 * n), &changes(n)).unwrap();
    }
    let durable = store.checkpoint(store.applied()).unwrap();
    assert!(durable <= Lsn::new(64 * 10));
    store.close();
    // The fork is at transaction 10; the others were never committed.
    let store = bed.open();
    let mut model = Model::default();
    for n in 1..=10 {
        model.apply(Lsn::new(64 * n), &changes(n));
        store.apply(&transaction(64 * n, &changes(n))).unwrap();
    }
    for n in 11..=20 {
        let other = changes(1_000 + n);
        model.apply(Lsn::new(64 * n), &other);
        store.apply(&transaction(64 * n, &other)).unwrap();
    }
    let at = store.applied();
    assert_eq!(scan(&store, 1, at), model.scan(1, at));
    bed.raise(at);
    assert_eq!(store.checkpoint(at).unwrap(), at);
    store.close();
    assert_eq!(scan(&bed.open(), 1, at), model.scan(1, at));
}
