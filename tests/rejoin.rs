//! A node whose log parted from its cluster's comes back by itself: by rewind where it can, by a
//! copy of the new primary's data where it cannot, and as a standby when it was fenced.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Ledger, Node, Proxy, Relay, Start, Then, Writers, number, until};

const TABLE: &str = "t";

/// Rows that only the old primary ever had.
const LOST: usize = 30;

/// Clean stops of a primary, each followed by a promotion, in the suite.
const CLEAN_STOPS: u64 = 20;

fn write(node: &Node, prefix: &str, count: usize) -> u64 {
    let mut end = 0;
    for row in 0..count {
        let key = format!("{prefix}{row:03}");
        end = node.http.put(TABLE, &key, b"v").ok().lsn();
    }
    end
}

/// An asynchronous pair of which `a` wrote rows that `b` never got, and `b` is the primary now.
/// `end` ends `a` when it has written them.
fn parted(dir: &TempDir, end: impl FnOnce(&mut Node)) -> (Node, Node) {
    let mut a = Start::new(dir.path(), "a").start();
    let mut b = Start::new(dir.path(), "b").follow(&a).start();
    let common = write(&a, "common", 50);
    b.http.wait_for(common);
    b.terminate();
    write(&a, "lost", LOST);
    end(&mut a);
    let b = b.same_ports().start();
    b.http.promote();
    write(&b, "later", 20);
    (a, b)
}

/// Waits until `node` holds what `primary` holds, and follows it.
fn converged(node: &Node, primary: &Node) {
    let end = write(primary, "last", 1);
    // Its own log may have been longer.
    until("it is on its primary's timeline", || {
        node.http.status()["timeline"] == primary.http.status()["timeline"]
    });
    node.http.wait_for(end);
    assert_eq!(node.http.rows(TABLE), primary.http.rows(TABLE));
    let status = node.http.status();
    assert_eq!(
        (status["role"].as_str(), &status["problem"]),
        (Some("standby"), &Value::Null)
    );
}

fn discarded(node: &Node) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(node.data().join("discarded"));
    let files = listed.into_iter().flatten();
    files.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_old_primary_rewinds_and_says_what_it_gave_up() {
    let dir = TempDir::new().unwrap();
    let (a, b) = parted(&dir, Node::kill);
    let mut a = a.same_ports().follow(&b).start();
    let end = write(&b, "more", 1);
    until("a follows", || {
        a.http.status()["problem"].is_null() && a.http.position("applied") >= end
    });
    converged(&a, &b);
    assert!(!a.said().contains("base backup"), "{}", a.said());
    let [file] = &discarded(&a)[..] else {
        panic!("one file expected: {:?}", discarded(&a));
    };
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let keys = lines.map(|line| line["key"].as_str().unwrap().to_owned());
    let expected = (0..LOST).map(|row| format!("lost{row:03}"));
    assert!(keys.eq(expected), "{text}");
    // It stays so over a restart, and is an ordinary standby of which another can be made primary.
    a.kill_and_restart();
    converged(&a, &b);
    assert_eq!(discarded(&a).len(), 1);
}

#[test]
fn an_old_primary_that_cannot_rewind_is_copied_while_its_old_data_stay_readable() {
    let dir = TempDir::new().unwrap();
    // A clean end writes everything out, so its store cannot go back.
    let (a, b) = parted(&dir, Node::terminate);
    // The first connection finds out; the base backup comes with the next.
    // On other ports, or the new primary, which looks for the old one, might tell it a shorter way.
    let relay = Relay::start(&b.replication, 1);
    let a = a
        .other_ports()
        .arg("--follow", format!("postgres://{}", relay.address))
        .start();
    until("a asks for a base backup", || relay.held() > 0);
    let problem = a.http.status()["problem"].to_string();
    assert!(problem.contains("copying"), "{problem}");
    assert_eq!(a.http.get(TABLE, "lost000").status, 200);
    let refused = a.http.put(TABLE, "k", b"v");
    assert_eq!(refused.status, 421, "{}", refused.text());
    relay.release();
    until("a is copied", || {
        a.http.get(TABLE, "later000").status == 200
    });
    converged(&a, &b);
    assert!(!a.data().join("reseed").exists() && !a.data().join("replaced").exists());
}

#[test]
fn a_node_whose_copy_does_not_come_can_be_told_to_take_it_elsewhere() {
    let dir = TempDir::new().unwrap();
    let (a, b) = parted(&dir, Node::terminate);
    // On other ports, or the new primary, which looks for the old one, might tell it a shorter way.
    let relay = Relay::start(&b.replication, 1);
    let a = a
        .other_ports()
        .arg("--follow", format!("postgres://{}", relay.address))
        .start();
    until("a asks for a base backup", || relay.held() > 0);
    let busy = a.http.send("POST", "/v1/promote", b"").unwrap();
    assert_eq!(busy.status, 412, "{}", busy.text());
    assert!(busy.text().contains("copying"), "{}", busy.text());
    a.http.follow(&b.url()).ok();
    until("a is copied", || {
        a.http.get(TABLE, "later000").status == 200
    });
    converged(&a, &b);
    assert!(relay.held() > 0, "nothing came this way");
}

#[test]
fn a_kill_during_the_copy_leaves_a_node_that_copies_again() {
    let dir = TempDir::new().unwrap();
    let (a, b) = parted(&dir, Node::terminate);
    let relay = Relay::start(&b.replication, 1);
    let through = a
        .other_ports()
        .arg("--follow", format!("postgres://{}", relay.address));
    let mut held = through.start();
    until("a asks for a base backup", || relay.held() > 0);
    held.kill();
    let a = a.same_ports().follow(&b).start();
    until("a is copied", || {
        a.http.get(TABLE, "later000").status == 200
    });
    converged(&a, &b);
}

#[test]
fn a_fenced_primary_follows_when_it_is_told_to() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a")
        .arg("--sync", "ANY 1 (*)")
        .start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    let c = Start::new(dir.path(), "c").follow(&a).start();
    let common = write(&a, "common", 50);
    b.http.wait_for(common);
    c.http.wait_for(common);
    let promoted = b
        .http
        .send("POST", "/v1/promote", br#"{"force":true}"#)
        .unwrap();
    promoted.ok();
    until("a is fenced", || a.http.status()["role"] == "fenced");
    assert_eq!(c.http.follow(&b.url()).status, 200);
    write(&b, "later", 5);
    assert_eq!(a.http.put(TABLE, "k", b"v").status, 421);
    let told = a.http.follow(&b.url());
    assert_eq!(told.status, 200, "{}", told.text());
    until("a follows", || a.http.get(TABLE, "later004").status == 200);
    converged(&a, &b);
    assert_eq!(a.http.status()["role"], "standby");
}

/// Has `from` follow `to`, which took its place.
fn give_way(from: &Node, to: &Node) {
    let promoted = to.http.send("POST", "/v1/promote", br#"{"force":true}"#);
    promoted.unwrap().ok();
    until("the old primary is fenced", || {
        from.http.status()["role"] == "fenced"
    });
    from.http.follow(&to.url()).ok();
    converged(from, to);
}

/// Log that a primary alone had is cut when it is replaced.
#[test]
fn a_primary_again_confirms_below_where_its_log_once_ended() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a")
        .arg("--sync", "ANY 1 (*)")
        .start();
    let line = Proxy::to(&a.replication, 100_000, Then::Hold, 1);
    let b = Start::new(dir.path(), "b")
        .arg("--follow", line.url())
        .start();
    let common = write(&a, "common", 50);
    let alone = std::thread::spawn({
        let http = a.http.clone();
        move || http.send("PUT", "/v1/tables/t/keys/alone", &[b'x'; 500_000])
    });
    until("b is cut off", || line.broken() == 1);
    until("a alone has more", || {
        a.http.position("flushed") > common + 500_000
    });
    give_way(&a, &b);
    let answer = alone.join().unwrap().unwrap();
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(a.http.position("flushed") < common + 400_000);
    give_way(&b, &a);
}

#[test]
fn a_primary_that_was_stopped_cleanly_has_no_log_of_its_own() {
    let dir = TempDir::new().unwrap();
    let ledger = Arc::new(Ledger::default());
    let start = |name: &str| Start::new(dir.path(), name).arg("--segment-size", "1MiB");
    let a = start("a").start();
    let b = start("b").follow(&a).start();
    let mut nodes = [a, b];
    let rounds = number("MAINSTAY_CLEAN_STOPS", CLEAN_STOPS);
    for round in 0..rounds {
        let [primary, standby] = &mut nodes;
        until("the standby streams", || {
            primary.http.status()["standbys"][0]["state"] == "streaming"
        });
        let writers = Writers::start(4, &primary.http, &ledger);
        writers.until_acknowledged(10 + round % 7);
        primary.terminate();
        writers.join();
        standby.http.promote();
        // Nothing confirmed these commits but the primary, and yet all of them are there.
        ledger.check(&standby.http);
        *primary = primary.same_ports().follow(standby).start();
        nodes.swap(0, 1);
    }
    let [primary, standby] = &nodes;
    until("the standby streams", || {
        primary.http.status()["standbys"][0]["state"] == "streaming"
    });
    converged(standby, primary);
    let said = [primary.said(), standby.said()].concat();
    assert_eq!(
        said.matches("rewound").count(),
        0,
        "an old primary went back"
    );
    assert_eq!(
        said.matches("took a base backup").count(),
        1,
        "only the first"
    );
}
