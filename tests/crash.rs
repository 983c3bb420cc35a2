//! Nodes killed under load. The writers keep account outside; the account decides.

use std::sync::Arc;

use tempfile::TempDir;

use crate::support::{Ledger, Node, Start, Writers, lsn, number, until};

/// Threads that write.
const WRITERS: usize = 4;

/// Rows acknowledged in a round before the kill comes, at least and at most.
const ROWS_MIN: u64 = 20;
const ROWS_SPREAD: u64 = 300;

/// Rounds of killing in the suite.
const ROUNDS: u64 = 8;

fn rounds() -> u64 {
    number("MAINSTAY_KILL_ROUNDS", ROUNDS)
}

/// How much is acknowledged before the kill of a round: spread so that the kill hits every part
/// of the writing.
fn rows_before_kill(round: u64) -> u64 {
    ROWS_MIN + round.wrapping_mul(0x9E37_79B9_7F4A_7C15) % ROWS_SPREAD
}

/// A node in small segments, so that the kills meet the change of segments too.
fn start(dir: &TempDir, name: &str) -> Start {
    Start::new(dir.path(), name).arg("--segment-size", "1MiB")
}

fn role(node: &Node) -> String {
    node.http.status()["role"]
        .as_str()
        .expect("a text")
        .to_owned()
}

#[test]
fn a_primary_killed_under_load_recovers_every_acknowledged_row() {
    let dir = TempDir::new().unwrap();
    let ledger = Arc::new(Ledger::default());
    let mut node = start(&dir, "a").start();
    for round in 0..rounds() {
        let writers = Writers::start(WRITERS, &node.http, &ledger);
        writers.until_acknowledged(rows_before_kill(round));
        node.kill();
        writers.join();
        node = node.start().clone().start();
        ledger.check(&node.http);
    }
    println!(
        "{} rows acknowledged in {} rounds, none lost",
        ledger.count(),
        rounds()
    );
}

#[test]
fn a_standby_killed_under_load_converges_to_the_primarys_content() {
    let dir = TempDir::new().unwrap();
    let ledger = Arc::new(Ledger::default());
    let primary = start(&dir, "a").start();
    let standby = start(&dir, "b").arg("--slot", "slot_of_b");
    let mut standby = standby.follow(&primary).start();
    let writers = Writers::start(WRITERS, &primary.http, &ledger);
    for round in 0..rounds() {
        writers.until_acknowledged(rows_before_kill(round));
        standby.kill();
        writers.until_acknowledged(ROWS_MIN);
        standby = standby.start().clone().start();
        let begun = standby.http.position("applied");
        until("the standby applies again", || {
            standby.http.position("applied") > begun
        });
    }
    writers.stop();
    let rows = ledger.check(&primary.http);
    standby.http.wait_for(ledger.end());
    assert!(
        standby.http.rows("rows") == rows,
        "the standby's rows differ from the primary's"
    );
    println!("{} rows, {} kills of the standby", rows.len(), rounds());
}

#[test]
fn after_the_primarys_death_the_promoted_standby_holds_every_acknowledged_row() {
    let dir = TempDir::new().unwrap();
    let ledger = Arc::new(Ledger::default());
    let policy = "ANY 1 (*)";
    let mut primary = start(&dir, "a").arg("--sync", policy).start();
    let mut others = ["b", "c"].map(|name| {
        start(&dir, name)
            .arg("--sync", policy)
            .follow(&primary)
            .start()
    });
    let writers = Writers::start(WRITERS, &primary.http, &ledger);
    writers.until_acknowledged(400);
    primary.kill();
    writers.join();
    others.sort_by_key(|node| std::cmp::Reverse(node.http.position("flushed")));
    let [new, other] = &others;
    let promoted = new.http.promote();
    assert_eq!(
        (&promoted["promoted"], &promoted["timeline"]),
        (&true.into(), &2.into())
    );
    // What the old primary acknowledged last is shown once the new timeline itself is committed.
    new.http
        .wait_for(lsn(promoted["lsn"].as_str().expect("a text")));
    assert_eq!(role(new), "primary");
    let kept = ledger.check(&new.http);
    assert!(kept.len() > 400);
    other.http.follow(&new.url()).ok();
    let writers = Writers::start(WRITERS, &new.http, &ledger);
    writers.until_acknowledged(200);
    writers.stop();
    let rows = ledger.check(&new.http);
    other.http.wait_for(ledger.end());
    assert!(
        other.http.rows("rows") == rows,
        "the other standby differs from the new primary"
    );
    // The old primary comes back as a standby and gives up what nobody acknowledged.
    let old = primary.start().clone().follow(new).start();
    old.http.wait_for(ledger.end());
    assert!(
        old.http.rows("rows") == rows,
        "the old primary differs from the new one"
    );
    assert_eq!(role(&old), "standby");
}
