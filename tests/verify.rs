//! Standbys that are compared with their primary while both run, and mended where they differ.

use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{
    CATALOG, Change, FlushGate, LsmOptions, LsmStore, Lsn, ReadAt, Signal, TableId,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Done, Ledger, Node, Start, Writers, assert_says, mainstay, until};

const TABLE: &str = "t";

/// Rows of the table that is damaged.
const ROWS: usize = 2000;

/// Rows of one transaction that fills it.
const ROWS_AT_ONCE: usize = 500;

/// Rows that one range has at most.
const RANGE_ROWS: u64 = 256;

fn key(n: usize) -> String {
    format!("k{n:05}")
}

/// A primary that needs its standby's word, with rows, and that standby.
fn cluster(dir: &TempDir) -> (Node, Node) {
    let a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    let mut end = 0;
    for begin in (0..ROWS).step_by(ROWS_AT_ONCE) {
        let ops = (begin..begin + ROWS_AT_ONCE).map(|n| {
            let value = format!("value {n}");
            json!({ "op": "put", "table": TABLE, "key": key(n), "value": value })
        });
        let body = json!({ "ops": ops.collect::<Vec<_>>() }).to_string();
        let done = a.http.send("POST", "/v1/transactions", body.as_bytes());
        end = done.unwrap().ok().lsn();
    }
    // A record that is no transaction: behind the last row is room for one.
    mainstay(["policy", "set", "ANY 1 (*)", "--http", &a.http_address]).ok();
    b.http.wait_for(end);
    (a, b)
}

/// Stops the standby, changes rows in its store behind its back, and starts it again.
fn damage(standby: &mut Node, changes: impl FnOnce(TableId) -> Vec<Change>) {
    let flushed = || standby.http.position("flushed");
    until("all of the log is committed", || {
        standby.http.position("commit") == flushed()
    });
    let end = Lsn::new(flushed());
    let start = standby.same_ports();
    standby.terminate();
    let gate = FlushGate {
        flushed: Signal::new(Lsn::MAX),
        commit: Signal::new(Lsn::MAX),
        raise_bound: Box::new(|_| Ok(())),
    };
    let dir = standby.data().join("store");
    let store = LsmStore::open(&dir, true, gate, LsmOptions::default()).unwrap();
    assert!(store.applied() < end, "there is no room for a transaction");
    let table = store.reader().get(CATALOG, TABLE.as_bytes(), Lsn::MAX);
    let table = table.unwrap().expect("the table is there");
    let table = TableId::from_le_bytes(table[..].try_into().unwrap());
    store.insert(end, &changes(table)).unwrap();
    store.checkpoint(end).unwrap();
    assert_eq!(store.durable(), end);
    store.close();
    *standby = start.start();
}

fn wrong_missing_and_extra(table: TableId) -> Vec<Change> {
    vec![
        Change::put(table, key(700), "wrong"),
        Change::delete(table, key(1500)),
        Change::put(table, format!("{}+", key(1501)), "nobody wrote it"),
    ]
}

fn verify(node: &Node, repair: bool) -> (Done, Value) {
    let mut args = vec!["verify", "--json", "--http", &node.http_address];
    args.extend(repair.then_some("--repair"));
    let done = mainstay(args);
    let answer = serde_json::from_str(&done.out).unwrap_or_else(|_| panic!("{done:?}"));
    (done, answer)
}

/// Waits until the standby follows, so that what it refuses is not for want of a primary.
fn streams(node: &Node) {
    until("the standby streams", || {
        node.http.status()["upstream"]["state"] == "streaming"
    });
}

#[track_caller]
fn is_marked(node: &Node) {
    let status = node.http.status();
    assert_eq!(status["status"], "broken", "{status}");
    assert_says(
        status["problem"].as_str().unwrap_or_default(),
        &[&key(700), "table t", "verify --repair"],
    );
    let refused = mainstay(["promote", "--http", &node.http_address]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    let next = ["marked as wrong", "verify --repair", "resync --full"];
    assert_says(&refused.err, &next);
}

/// Number of the node's events of a type.
fn count(node: &Node, event: &str) -> usize {
    node.http.events(&format!("type={event}")).len()
}

#[test]
fn a_standby_is_verified_while_both_nodes_work() {
    let dir = TempDir::new().unwrap();
    let (a, b) = cluster(&dir);
    let ledger = Arc::new(Ledger::default());
    let writers = Writers::start(3, &a.http, &ledger);
    let mut last = 0;
    for _ in 0..5 {
        writers.until_acknowledged(100);
        let (done, answer) = verify(&b, false);
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_eq!(answer["verified"], true);
        assert_eq!(answer["first_difference"], Value::Null);
        let rows = answer["rows"].as_u64().unwrap();
        assert!(rows > ROWS as u64 && rows > last, "{answer}");
        last = rows;
    }
    writers.until_acknowledged(100);
    writers.stop();
    b.http.wait_for(ledger.end());
    ledger.check(&b.http);
    assert_eq!(count(&b, "verified"), 5);
    assert_eq!(b.http.status()["status"], "synchronized");
    let said = mainstay(["verify", "--http", &b.http_address]).ok();
    assert_says(&said.out, &["b holds what its primary holds"]);
    let refused = mainstay(["verify", "--http", &a.http_address]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert_says(&refused.err, &["ask a standby"]);
}

#[test]
fn a_damaged_standby_is_found_marked_and_mended() {
    let dir = TempDir::new().unwrap();
    let (a, mut b) = cluster(&dir);
    damage(&mut b, wrong_missing_and_extra);
    streams(&b);
    let (done, answer) = verify(&b, false);
    assert_eq!(done.code, Some(5), "{done:?}");
    assert_says(&done.err, &["differs from its primary", "verify --repair"]);
    assert_eq!(answer["verified"], false);
    let first = &answer["first_difference"];
    let shown = (&first["table"], &first["key"], &first["difference"]);
    assert_eq!(shown, (&json!(TABLE), &json!(key(700)), &json!("changed")));
    let bad = answer["mismatched_ranges"].as_u64().unwrap();
    assert!((2..=3).contains(&bad), "{answer}");
    let told = b.http.events("type=verify_mismatch");
    assert_says(told[0]["message"].as_str().unwrap(), &[&key(700)]);
    is_marked(&b);
    let handed = mainstay(["switchover", "--to", "b", "--http", &a.http_address]);
    assert_eq!(handed.code, Some(4), "{handed:?}");
    assert_says(&handed.err, &["goes on as primary", "marked as wrong"]);
    let (url, copy) = (b.url(), dir.path().join("copy"));
    let copied = mainstay(["backup", "--from", &url, copy.to_str().unwrap()]);
    assert_ne!(copied.code, Some(0), "{copied:?}");
    assert_says(&copied.err, &["marked as wrong"]);
    b.kill_and_restart();
    is_marked(&b);
    streams(&b);
    let ledger = Arc::new(Ledger::default());
    let writers = Writers::start(2, &a.http, &ledger);
    writers.until_acknowledged(20);
    let (done, answer) = verify(&b, true);
    // Killed right after the answer: what was answered is on disk.
    b.kill();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(answer["verified"], true);
    let repaired = &answer["repaired"];
    assert_eq!(
        (&repaired["ranges"], &repaired["rows"]),
        (&json!(bad), &json!(3))
    );
    let shipped = repaired["shipped_rows"].as_u64().unwrap();
    assert!(shipped > 0 && shipped <= bad * RANGE_ROWS, "{answer}");
    b = b.same_ports().start();
    writers.until_acknowledged(100);
    writers.stop();
    b.http.wait_for(ledger.end());
    assert_ne!(b.http.status()["status"], "broken");
    assert_eq!((count(&b, "repaired"), count(&b, "verified")), (1, 1));
    let (_, clean) = verify(&b, false);
    assert_eq!(clean["verified"], true, "{clean}");
    let rows = a.http.rows(TABLE);
    drop(a);
    b.http.promote();
    assert!(b.http.rows(TABLE) == rows && rows.len() == ROWS);
    ledger.check(&b.http);
}

#[test]
fn a_table_that_is_missing_and_large_values_are_mended_too() {
    let dir = TempDir::new().unwrap();
    let (a, mut b) = cluster(&dir);
    // Larger than what one answer ships.
    let large = vec![b'l'; 3 << 20];
    a.http.put("large", "a", &large).ok();
    a.http.put("large", "b", &large).ok();
    mainstay(["policy", "set", "FIRST 1 (*)", "--http", &a.http_address]).ok();
    damage(&mut b, |table| {
        vec![
            Change::delete(CATALOG, TABLE),
            // Of the table made second.
            Change::put(table + 1, "a", Bytes::from(vec![b'x'; 3 << 20])),
            Change::delete(table + 1, "b"),
        ]
    });
    streams(&b);
    assert_eq!(b.http.get(TABLE, &key(1)).status, 404);
    let (done, answer) = verify(&b, true);
    assert_eq!(done.code, Some(0), "{done:?}");
    let first = &answer["first_difference"];
    assert_eq!(
        (&first["table"], &first["key"]),
        (&Value::Null, &json!(TABLE))
    );
    assert_eq!(first["difference"], "missing");
    assert_eq!(answer["repaired"]["rows"], 3, "{answer}");
    assert_eq!(b.http.rows(TABLE), a.http.rows(TABLE));
    for key in ["a", "b"] {
        assert!(b.http.get("large", key).ok().body == large, "{key}");
    }
    // What comes later goes on from there.
    let end = a.http.put("large", "a", b"small").ok().lsn();
    b.http.wait_for(end);
    assert_eq!(b.http.get("large", "a").text(), "small");
}

#[test]
fn a_marked_standby_may_be_forced_to_be_the_primary_and_says_so() {
    let dir = TempDir::new().unwrap();
    let (mut a, mut b) = cluster(&dir);
    damage(&mut b, wrong_missing_and_extra);
    streams(&b);
    assert_eq!(verify(&b, false).0.code, Some(5));
    a.kill();
    is_marked(&b);
    let forced = mainstay(["promote", "--force", "--http", &b.http_address]).ok();
    assert_says(&forced.out, &["marked as wrong", &key(700)]);
    let status = b.http.status();
    assert_eq!(status["role"], "primary");
    assert_says(status["problem"].as_str().unwrap(), &["marked as wrong"]);
}

#[test]
fn a_verification_that_cannot_be_had_is_refused_and_marks_nothing() {
    let dir = TempDir::new().unwrap();
    let (mut a, b) = cluster(&dir);
    streams(&b);
    mainstay(["apply", "pause", "--http", &b.http_address]).ok();
    // At the position where it stands, as long as the primary has that.
    assert_eq!(verify(&b, false).0.code, Some(0));
    let refused = mainstay(["verify", "--repair", "--http", &b.http_address]);
    assert_eq!(
        refused.code,
        Some(0),
        "nothing is to be mended: {refused:?}"
    );
    a.kill();
    let refused = mainstay(["verify", "--http", &b.http_address]);
    assert!(matches!(refused.code, Some(1 | 3 | 4)), "{refused:?}");
    assert_says(&refused.err, &["error:"]);
    assert_eq!(b.http.status()["problem"], Value::Null);
    assert_eq!(count(&b, "verify_mismatch"), 0);
}

#[test]
fn a_standby_killed_while_it_is_mended_is_as_it_was_or_right() {
    let dir = TempDir::new().unwrap();
    let (a, mut b) = cluster(&dir);
    let value = |n: usize| vec![b'a' + u8::try_from(n % 20).unwrap(); 1 << 20];
    let rows = 24;
    for n in 0..rows {
        a.http.put("large", &key(n), &value(n)).ok();
    }
    mainstay(["policy", "set", "FIRST 1 (*)", "--http", &a.http_address]).ok();
    damage(&mut b, |table| {
        let all = (0..rows).map(|n| Change::put(table + 1, key(n), "wrong"));
        all.collect()
    });
    streams(&b);
    let address = b.http_address.clone();
    let repair = std::thread::spawn(move || {
        mainstay(["verify", "--repair", "--http", &address]);
    });
    until("the mismatch is found", || count(&b, "verify_mismatch") > 0);
    b.kill();
    repair.join().unwrap();
    b = b.same_ports().start();
    streams(&b);
    let status = b.http.status();
    let (done, answer) = verify(&b, false);
    println!("after the kill: {} and {answer}", status["status"]);
    assert!(
        status["status"] == "broken" || done.code == Some(0),
        "a wrong standby is not marked: {answer}"
    );
    let (done, _) = verify(&b, true);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(b.http.rows("large") == a.http.rows("large"));
    assert_eq!(b.http.status()["problem"], Value::Null);
}

#[test]
fn another_clusters_primary_is_nobody_to_be_compared_with() {
    let dir = TempDir::new().unwrap();
    let (mut a, b) = cluster(&dir);
    a.kill();
    let other = Start::new(dir.path(), "other").arg("--listen", &a.replication);
    let other = other.start();
    other.http.put(TABLE, &key(700), b"of another cluster").ok();
    let refused = mainstay(["verify", "--http", &b.http_address]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    let mends = "point it at a node of its own cluster, or start it in an empty directory";
    assert_says(&refused.err, &["belongs to cluster", mends]);
    assert_eq!(count(&b, "verify_mismatch"), 0);
}
