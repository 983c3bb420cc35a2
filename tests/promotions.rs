//! Primaries killed under load, one after the other: each time a standby takes over, nothing
//! acknowledged is lost, and the old primary comes back without a copy of the data.

use std::sync::Arc;

use tempfile::TempDir;

use crate::support::{Ledger, Node, Start, Writers, lsn, number};

/// Threads that write.
const WRITERS: usize = 4;

/// Rounds of each policy in the suite.
const ROUNDS: u64 = 5;

/// Rows acknowledged in a round before the kill, at least and at most.
const ROWS_MIN: u64 = 30;
const ROWS_SPREAD: u64 = 120;

fn cluster(dir: &TempDir, policy: &str) -> Vec<Node> {
    let start = |name: &str| {
        let start = Start::new(dir.path(), name).arg("--sync", policy);
        start.arg("--segment-size", "1MiB")
    };
    let a = start("a").start();
    let others = ["b", "c"].map(|name| start(name).follow(&a).start());
    [a].into_iter().chain(others).collect()
}

/// Where the timeline that `node` opened last begins.
fn fork(node: &Node, timeline: u64) -> u64 {
    let name = format!("{timeline:08X}.history");
    let text = std::fs::read_to_string(node.data().join("wal").join(name)).unwrap();
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    let last = last.expect("a history has a line");
    let mut fields = last.split('\t');
    assert_eq!(fields.next(), Some((timeline - 1).to_string().as_str()));
    lsn(fields.next().expect("a line names its end"))
}

fn kill_and_promote(policy: &str) {
    let dir = TempDir::new().unwrap();
    let ledger = Arc::new(Ledger::default());
    let mut nodes = cluster(&dir, policy);
    let mut primary = 0;
    let rounds = number("MAINSTAY_PROMOTION_ROUNDS", ROUNDS);
    for round in 0..rounds {
        nodes[primary].http.until_streaming(2);
        let writers = Writers::start(WRITERS, &nodes[primary].http, &ledger);
        let spread = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) % ROWS_SPREAD;
        writers.until_acknowledged(ROWS_MIN + spread);
        nodes[primary].kill();
        writers.join();
        let next = (0..nodes.len())
            .filter(|&at| at != primary)
            .max_by_key(|&at| nodes[at].http.position("flushed"))
            .expect("two are left");
        let promoted = nodes[next].http.promote();
        let timeline = round + 2;
        assert_eq!(promoted["timeline"], timeline);
        // Nothing was acknowledged beyond where the new timeline begins.
        let fork = fork(&nodes[next], timeline);
        assert!(
            ledger.end() <= fork,
            "LOST: acknowledged up to {:X}, timeline {timeline} begins at {fork:X}",
            ledger.end()
        );
        let end = lsn(promoted["lsn"].as_str().expect("a text"));
        nodes[next].http.wait_for(end);
        ledger.check(&nodes[next].http);
        nodes[primary] = nodes[primary].same_ports().follow(&nodes[next]).start();
        primary = next;
    }
    nodes[primary].http.until_streaming(2);
    let rows = ledger.check(&nodes[primary].http);
    let end = nodes[primary].http.position("commit");
    let (mut copies, mut rewinds) = (0, 0);
    for node in &nodes {
        node.http.wait_for(end);
        assert!(node.http.rows("rows") == rows, "the nodes differ");
        copies += node.said().matches("took a base backup").count();
        rewinds += node.said().matches("rewound").count();
    }
    println!(
        "{policy}: {rounds} promotions, {} rows acknowledged, none lost; {rounds} old primaries \
         came back, {rewinds} by rewind and {} by a copy",
        ledger.count(),
        copies - 2
    );
    // The two of the beginning; under a policy nobody applies what is not committed.
    assert_eq!(copies, 2, "an old primary needed a copy");
}

#[test]
fn any_standby_takes_over_again_and_again() {
    kill_and_promote("ANY 1 (*)");
}

#[test]
fn the_first_standby_that_is_there_takes_over_again_and_again() {
    kill_and_promote("FIRST 1 (a, b, c)");
}
