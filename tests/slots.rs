//! Slots: what they keep, how they are seen, dropped and given up.

use tempfile::TempDir;

use crate::support::{Node, Start, Valve, Way, mainstay, until};

/// Bytes of a row; the limits of slots are looked at every 16 MiB of log.
const ROW: usize = 200_000;

fn start(dir: &TempDir, name: &str) -> Start {
    let start = Start::new(dir.path(), name).arg("--segment-size", "1MiB");
    start.arg("--wal-keep-size", "0")
}

/// A primary with `limit`, whose standby's slot nobody uses any more.
fn left_alone(dir: &TempDir, limit: (&str, &str)) -> (Node, Node) {
    let a = start(dir, "a").arg(limit.0, limit.1).start();
    let mut b = start(dir, "b").follow(&a).arg("--slot", "b").start();
    until("b streams through its slot", || {
        a.http.slots()[0]["active"] == true
    });
    let slot = &a.http.slots()[0];
    assert_eq!(
        (&slot["name"], &slot["inactive_since"]),
        (&"b".into(), &().into())
    );
    b.kill();
    until("nobody uses it", || a.http.slots()[0]["active"] == false);
    assert!(a.http.slots()[0]["inactive_since"].is_string());
    (a, b)
}

fn write(node: &Node, rows: usize) {
    for row in 0..rows {
        node.http
            .put("t", &format!("k{row:03}"), &vec![b'v'; ROW])
            .ok();
    }
}

#[test]
fn a_slot_is_listed_and_dropped_once_nobody_uses_it() {
    let dir = TempDir::new().unwrap();
    let a = start(&dir, "a").start();
    let mut b = start(&dir, "b").follow(&a).arg("--slot", "b").start();
    until("b streams through its slot", || {
        a.http.slots()[0]["active"] == true
    });
    let verb = |args: &[&str]| mainstay([&["slots"], args, &["--http", &a.http_address]].concat());
    // It moves with the standby's first reports, also between the two looks.
    until("the command shows what is served", || {
        let json = verb(&["--json"]).ok().out;
        serde_json::from_str::<serde_json::Value>(&json).unwrap() == a.http.slots()
    });
    assert!(verb(&[]).ok().out.contains("b  extended  from 0/"));
    let busy = verb(&["drop", "b"]);
    assert_eq!(busy.code, Some(1), "{busy:?}");
    assert!(
        busy.err.contains("replication slot \"b\" is active"),
        "{busy:?}"
    );
    b.terminate();
    until("it can be dropped", || verb(&["drop", "b"]).code == Some(0));
    assert_eq!(verb(&[]).ok().out.trim(), "no slots");
    let gone = verb(&["drop", "b"]);
    assert!(
        gone.err.contains("replication slot \"b\" does not exist"),
        "{gone:?}"
    );
}

#[test]
fn a_slot_that_holds_back_too_much_or_is_idle_for_too_long_is_lost_for_good() {
    for limit in [("--slot-keep-size", "4MiB"), ("--slot-idle-timeout", "1ms")] {
        let dir = TempDir::new().unwrap();
        let (mut a, _b) = left_alone(&dir, limit);
        write(&a, 100);
        until("it is given up", || {
            a.http.slots()[0]["wal_status"] == "lost"
        });
        assert!(a.said().contains("invalidated a slot"), "{}", a.said());
        a.kill_and_restart();
        let slots = a.http.slots();
        assert_eq!(slots[0]["wal_status"], "lost", "{slots}");
    }
}

#[test]
fn a_standby_whose_slot_was_lost_while_it_stalled_is_copied_and_makes_another() {
    let dir = TempDir::new().unwrap();
    let a = start(&dir, "a").arg("--slot-keep-size", "4MiB").start();
    let line = Valve::to(&a.replication);
    let b = start(&dir, "b")
        .arg("--follow", line.url())
        .arg("--slot", "b");
    let b = b.start();
    until("b streams through its slot", || {
        a.http.slots()[0]["active"] == true
    });
    line.hold(Way::FromNode);
    let at = b.http.position("flushed") >> 20;
    let needed = a.data().join(format!("wal/{:08X}{:016X}", 1, at));
    assert!(needed.exists(), "{needed:?}");
    until("it is given up, and its log removed", || {
        write(&a, 20);
        !needed.exists()
    });
    assert_eq!(a.http.slots()[0]["wal_status"], "lost");
    line.cut();
    line.release(Way::FromNode);
    let end = a.http.put("t", "last", b"v").ok().lsn();
    b.http.wait_for(end);
    assert_eq!(b.http.rows("t"), a.http.rows("t"));
    // Through one of its own again, that kept what came after the copy began.
    until("b streams through its slot", || {
        a.http.slots()[0]["active"] == true
    });
    assert_eq!(
        b.said().matches("took a base backup").count(),
        2,
        "{}",
        b.said()
    );
}
