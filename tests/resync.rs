//! Getting onto the primary's log anew, by hand or far behind; and data directories that are not
//! what the cluster remembers: wiped, cloned, rolled back.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Node, Relay, Start, assert_says, mainstay, until};

const TABLE: &str = "t";

/// Rows of 60,000 bytes each.
fn write_large(node: &Node, prefix: &str, count: usize) -> u64 {
    let large = vec![b'v'; 60_000];
    let mut end = 0;
    for row in 0..count {
        end = node
            .http
            .put(TABLE, &format!("{prefix}{row:03}"), &large)
            .ok()
            .lsn();
    }
    end
}

fn resync(node: &Node, body: &Value) -> Value {
    let body = body.to_string();
    let answer = node.http.send("POST", "/v1/resync", body.as_bytes());
    answer.unwrap().ok().json()
}

/// Whether `node` has caught up and follows.
fn streams(node: &Node) -> bool {
    let status = node.http.status();
    status["upstream"]["state"] == "streaming" && status["problem"].is_null()
}

fn until_streaming(node: &Node) {
    until("it streams", || streams(node));
}

/// The newest `resync` event of `node`.
fn told(node: &Node) -> Value {
    let events = node.http.events("type=resync");
    events.last().expect("there is one")["metadata"].clone()
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_standby_that_is_told_to_finds_its_way_anew_and_says_which() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    until_streaming(&b);
    let done = mainstay(["resync", "--http", &b.http_address]).ok();
    assert_says(&done.out, &["log: 0 bytes of log are to be replayed"]);
    assert_eq!(told(&b)["way"], "log");
    let end = a.http.put(TABLE, "k", b"v").ok().lsn();
    b.http.wait_for(end);
    for args in [&["resync"][..], &["resync", "--full"], &["reinit"]] {
        let refused = mainstay([args, &["--http", &a.http_address]].concat());
        assert_eq!(refused.code, Some(4), "{refused:?}");
        assert_says(&refused.err, &["this node is the primary"]);
    }
}

#[test]
fn a_whole_copy_is_taken_when_asked_for_and_old_data_stay_readable() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a")
        .arg("--sync", "ANY 1 (*)")
        .start();
    // One connection fills the directory, one follows.
    let relay = Relay::start(&a.replication, 2);
    let through = format!("postgres://mainstay@{}", relay.address);
    let b = Start::new(dir.path(), "b").arg("--follow", through).start();
    until_streaming(&b);
    let end = a.http.put(TABLE, "before", b"v").ok().lsn();
    b.http.wait_for(end);
    let done = mainstay(["reinit", "--http", &b.http_address, "--json"]).ok();
    let answer: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(answer["resync"], "base_backup", "{answer}");
    assert_says(answer["reason"].as_str().unwrap(), &["asked for"]);
    until("b asks for a base backup", || relay.held() > 0);
    assert_eq!(b.http.get(TABLE, "before").ok().text(), "v");
    assert_says(
        &b.http.status()["problem"].to_string(),
        &["copying", "asked for"],
    );
    relay.release();
    // It alone can confirm, so it has its vote again when this returns.
    let receipt = a.http.receipt(TABLE, "after", "w");
    assert_eq!(receipt["standbys"], json!(["b"]));
    until_streaming(&b);
    b.http.wait_for(a.http.position("commit"));
    assert_eq!(b.http.rows(TABLE), a.http.rows(TABLE));
    assert_eq!(
        b.http.events("type=reseeded").len(),
        2,
        "filled, and copied"
    );
    assert_says(&a.said(), &["has a vote again"]);
}

/// A primary `a`, whose store holds `rows` rows that were written `rounds` times while its standby
/// `b` was away, and `b`, which weighs a copy from 1 MiB on and has everything again. Under a
/// policy there is another standby.
fn far_behind(dir: &TempDir, rows: usize, rounds: usize, policy: &str) -> Vec<Node> {
    let start = |name: &str| {
        let start = Start::new(dir.path(), name).arg("--segment-size", "1MiB");
        start.arg("--sync", policy)
    };
    let mut a = start("a").start();
    let mut b = start("b").arg("--rebuild-from", "1MiB").follow(&a).start();
    until_streaming(&b);
    let c = (policy != "off").then(|| start("c").follow(&a).start());
    c.iter().for_each(until_streaming);
    // What is committed behind the registration of `c` needs `b` no more.
    a.http.put(TABLE, "settled", b"v").ok();
    b.terminate();
    for _ in 0..rounds {
        write_large(&a, "k", rows);
    }
    // Stopping writes memory out, so that a copy is the rows alone.
    a.terminate();
    let a = a.same_ports().start();
    let b = b.same_ports().start();
    until("b has everything", || {
        let end = a.http.position("commit");
        streams(&b) && b.http.position("applied") >= end
    });
    assert_eq!(b.http.rows(TABLE), a.http.rows(TABLE));
    [a, b].into_iter().chain(c).collect()
}

#[test]
fn a_standby_far_behind_copies_where_that_is_clearly_cheaper() {
    let dir = TempDir::new().unwrap();
    let [_a, b] = &far_behind(&dir, 4, 30, "off")[..] else {
        panic!("two nodes")
    };
    let told = told(b);
    assert_eq!(told["way"], "base_backup", "{told}");
    let (log, copy) = (&told["log_bytes"], &told["copy_bytes"]);
    assert!(log.as_u64().unwrap() > 7_000_000, "{told}");
    assert!(
        copy.as_u64().unwrap() * 2 <= log.as_u64().unwrap(),
        "{told}"
    );
    assert_says(told["reason"].as_str().unwrap(), &["clearly cheaper"]);
    assert_eq!(b.http.events("type=reseeded").len(), 2);
}

#[test]
fn a_standby_far_behind_replays_the_log_where_a_copy_is_as_large() {
    let dir = TempDir::new().unwrap();
    let nodes = far_behind(&dir, 40, 1, "off");
    let [a, b] = &nodes[..] else {
        panic!("two nodes")
    };
    let told = told(b);
    assert_eq!(told["way"], "log", "{told}");
    assert!(told["log_bytes"].as_u64().unwrap() > 2_000_000, "{told}");
    assert_says(told["reason"].as_str().unwrap(), &["not clearly cheaper"]);
    assert_eq!(b.http.events("type=reseeded").len(), 1, "only the first");
    // With the usual threshold nothing is weighed.
    let c = Start::new(dir.path(), "c").follow(a).start();
    until_streaming(&c);
    assert_eq!(resync(&c, &json!({}))["copy_bytes"], Value::Null);
}

#[test]
fn a_standby_without_which_nobody_could_be_promoted_replays_the_log() {
    let dir = TempDir::new().unwrap();
    let nodes = far_behind(&dir, 4, 30, "ANY 1 (*)");
    let told = told(&nodes[1]);
    assert_eq!(told["way"], "log", "{told}");
    assert_says(
        told["reason"].as_str().unwrap(),
        &["nobody could be promoted"],
    );
}

#[test]
fn a_node_that_gets_no_copy_goes_on_with_what_it_has() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    let end = a.http.put(TABLE, "before", b"v").ok().lsn();
    b.http.wait_for(end);
    a.kill();
    assert_eq!(
        resync(&b, &json!({ "full": true }))["resync"],
        "base_backup"
    );
    until("it gives the copy up", || {
        told(&b)["way"] == "log" && b.http.status()["problem"].is_null()
    });
    assert_eq!(b.http.get(TABLE, "before").ok().text(), "v");
    assert!(!b.data().join("reseed.incoming").exists());
    let a = a.same_ports().start();
    let end = a.http.put(TABLE, "after", b"v").ok().lsn();
    b.http.wait_for(end);
    assert_eq!(b.http.events("type=reseeded").len(), 1, "only the first");
}

#[test]
fn a_standby_that_finds_no_upstream_can_be_promoted_meanwhile() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    until_streaming(&b);
    a.kill();
    until("a is missed", || {
        b.http.status()["upstream"]["state"] != "streaming"
    });
    let asking = b.http.clone();
    let asking = std::thread::spawn(move || asking.send("POST", "/v1/resync", b"").unwrap());
    until("it looks for a", || b.said().contains("anew, as told"));
    let promoted = b.http.send("POST", "/v1/promote", b"").unwrap();
    assert_eq!(promoted.status, 200, "{}", promoted.text());
    let refused = asking.join().expect("it was answered");
    assert_eq!(refused.status, 412, "{}", refused.text());
    assert!(
        !refused.text().contains("no primary answered within"),
        "it waited for an upstream before it was promoted: {}",
        refused.text()
    );
}

#[test]
fn a_standby_whose_vote_a_failover_needs_copies_nothing_while_there_is_no_primary() {
    let dir = TempDir::new().unwrap();
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (*)");
    let mut a = start("a").start();
    let b = start("b").follow(&a).start();
    let either = format!("postgres://mainstay@{},{}", a.replication, b.replication);
    let c = start("c").arg("--follow", either).start();
    until_streaming(&b);
    until_streaming(&c);
    let end = a.http.put(TABLE, "k", b"v").ok().lsn();
    c.http.wait_for(end);
    a.kill();
    // It would find a copy: that of b, which cannot give it its vote back.
    until("c follows b", || c.http.status()["upstream"]["name"] == "b");
    let refused = mainstay(["resync", "--full", "--http", &c.http_address]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert_says(&refused.err, &["no primary is heard", "failover"]);
    assert_eq!(c.http.events("type=reseeded").len(), 1, "only the first");
    until("b is promoted", || {
        mainstay(["failover", "--to", "b", "--http", &b.http_address]).code == Some(0)
    });
    until_streaming(&c);
    // All that c has is committed, since it alone confirms, so a copy has it.
    let end = b.http.put(TABLE, "after", b"v").ok().lsn();
    until("nothing is on its way", || {
        b.http.position("commit") >= end && c.http.position("flushed") <= b.http.position("commit")
    });
    mainstay(["resync", "--full", "--http", &c.http_address]).ok();
    until("c was copied", || {
        c.http.events("type=reseeded").len() == 2 && streams(&c)
    });
}

/// A primary that needs both of its standbys.
fn both_needed(dir: &TempDir) -> [Node; 3] {
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 2 (*)");
    let a = start("a").start();
    let [b, c] = ["b", "c"].map(|name| start(name).follow(&a).start());
    until_streaming(&b);
    until_streaming(&c);
    a.http.put(TABLE, "first", b"v").ok();
    [a, b, c]
}

#[test]
fn a_wiped_standby_is_another_life_and_has_a_vote_again_once_it_has_caught_up() {
    let dir = TempDir::new().unwrap();
    let [a, mut b, _c] = both_needed(&dir);
    b.terminate();
    fs::remove_dir_all(b.data()).unwrap();
    assert!(!a.said().contains("has a vote again"));
    // The copy gets through, and the stream behind it does not.
    let relay = Relay::start(&a.replication, 1);
    let through = format!("postgres://mainstay@{}", relay.address);
    b = b.same_ports().arg("--follow", through).start();
    until("b is held", || relay.held() > 0);
    let waiting = a.http.clone();
    let waiting = std::thread::spawn(move || waiting.receipt(TABLE, "waits", "v"));
    until("it is in the log", || {
        a.http.position("appended") > a.http.position("commit")
    });
    // Its copy says that another life votes: it is passed over, and promises nothing.
    let outlook = b
        .http
        .send("POST", "/v1/promote", br#"{"dry_run":true,"force":true}"#);
    assert_says(&outlook.unwrap().ok().text(), &["no vote"]);
    let refused = b
        .http
        .send("POST", "/v1/promote", br#"{"force":true}"#)
        .unwrap();
    assert_eq!(refused.status, 412, "{}", refused.text());
    assert_says(&refused.text(), &["has no vote", "--without-policy"]);
    relay.release();
    let receipt = waiting.join().unwrap();
    assert_eq!(receipt["standbys"], json!(["b", "c"]));
    assert_says(&a.said(), &["has a vote again"]);
    until("its log says so, too", || {
        let outlook = b
            .http
            .send("POST", "/v1/promote", br#"{"dry_run":true,"force":true}"#);
        !outlook.unwrap().text().contains("no vote")
    });
}

#[test]
fn a_restored_backup_promises_nothing_to_the_primary_that_it_names_once_that_is_a_standby() {
    let dir = TempDir::new().unwrap();
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (*)");
    let mut a = start("a").start();
    let [mut b, mut c] = ["b", "c"].map(|name| start(name).follow(&a).start());
    until_streaming(&b);
    until_streaming(&c);
    a.http.put(TABLE, "first", b"v").ok();
    let (from, backup) = (
        format!("postgres://mainstay@{}", a.replication),
        dir.path().join("backup"),
    );
    mainstay(["backup", "--from", &from, backup.to_str().unwrap()]).ok();
    mainstay(["switchover", "--to", "b", "--http", &a.http_address]).ok();
    until_streaming(&a);
    until_streaming(&c);
    a.terminate();
    // The new primary and c have it, and nobody else.
    b.http.put(TABLE, "acknowledged", b"v").ok();
    b.kill();
    c.terminate();
    fs::remove_dir_all(c.data()).unwrap();
    copy_tree(&backup, &c.data());
    let c = c.same_ports().follow(&b).start();
    let a = a.same_ports().follow(&b).start();
    let refused = a.http.send("POST", "/v1/promote", b"").unwrap();
    assert_eq!(refused.status, 412, "{}", refused.text());
    assert_eq!(
        c.http.status()["timeline"],
        1,
        "it promised: {}",
        refused.text()
    );
}

#[test]
fn a_directory_that_was_cloned_is_refused_beside_the_original() {
    let dir = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    let [a, mut b, _c] = both_needed(&dir);
    b.terminate();
    copy_tree(&b.data(), &elsewhere.path().join("b"));
    b = b.same_ports().start();
    until_streaming(&b);
    let clone = Start::new(elsewhere.path(), "b").follow(&a).start();
    until("the clone is refused", || {
        clone.said().contains("is connected already")
    });
    assert_says(
        &clone.said(),
        &[&b.replication, "a copy of its data directory"],
    );
    a.http.put(TABLE, "second", b"v").ok();
    assert!(streams(&b) && !streams(&clone));
    // Alone it goes on where it was, without a vote until it has what the original confirmed.
    drop(b);
    until_streaming(&clone);
    assert_says(&a.said(), &["has less than it confirmed"]);
    a.http.put(TABLE, "third", b"v").ok();
    assert_says(&a.said(), &["has a vote again"]);
}

#[test]
fn a_directory_that_was_rolled_back_does_not_count_until_it_has_what_it_confirmed() {
    let dir = TempDir::new().unwrap();
    let [a, mut b, _c] = both_needed(&dir);
    b.terminate();
    let old = dir.path().join("old");
    copy_tree(&b.data(), &old);
    b = b.same_ports().start();
    until_streaming(&b);
    let end = write_large(&a, "k", 5);
    b.http.wait_for(end);
    b.terminate();
    fs::remove_dir_all(b.data()).unwrap();
    fs::rename(&old, b.data()).unwrap();
    assert!(!a.said().contains("has less than it confirmed"));
    let b = b.same_ports().start();
    a.http.put(TABLE, "after", b"v").ok();
    assert_says(
        &a.said(),
        &["name=b", "has less than it confirmed", "has a vote again"],
    );
    b.http.wait_for(end);
    assert_eq!(b.http.rows(TABLE).len(), a.http.rows(TABLE).len());
}
