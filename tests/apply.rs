//! Standbys that stay behind on purpose: paused, and delayed. They receive everything meanwhile.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Node, Start, mainstay, until};

const TABLE: &str = "t";

/// A delay that no test machine takes by itself for one row.
const DELAY: Duration = Duration::from_millis(700);

fn received(node: &Node, end: u64) {
    until("it is received", || node.http.position("flushed") >= end);
}

fn shows(node: &Node, key: &str) -> bool {
    node.http.get(TABLE, key).status == 200
}

#[test]
fn a_paused_standby_receives_everything_and_applies_it_later() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a")
        .arg("--sync", "ANY 1 (*)")
        .start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    let first = a.http.put(TABLE, "first", b"v").ok().lsn();
    b.http.wait_for(first);
    mainstay(["apply", "pause", "--http", &b.http_address]).ok();
    assert_eq!(b.http.status()["apply_paused"], true);
    // It still confirms: the commit would wait otherwise.
    let second = a.http.put(TABLE, "second", b"v").ok().lsn();
    received(&b, second);
    let applied = b.http.position("applied");
    assert!(applied < second && !shows(&b, "second"));
    mainstay(["apply", "resume", "--http", &b.http_address]).ok();
    b.http.wait_for(second);
    assert!(shows(&b, "second"));
    let refused = mainstay(["apply", "pause", "--http", &a.http_address]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.err.contains("only a standby"), "{refused:?}");
}

#[test]
fn a_paused_standby_that_is_promoted_has_everything() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a")
        .arg("--sync", "ANY 1 (*)")
        .start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    let first = a.http.put(TABLE, "first", b"v").ok().lsn();
    b.http.wait_for(first);
    mainstay(["apply", "pause", "--http", &b.http_address]).ok();
    let second = a.http.put(TABLE, "second", b"v").ok().lsn();
    a.kill();
    assert!(b.http.position("applied") < second);
    b.http.promote();
    assert!(b.http.position("applied") >= second);
    assert_eq!(b.http.status()["apply_paused"], false);
}

#[test]
fn a_delayed_standby_shows_nothing_early_not_even_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    let delay = format!("{}ms", DELAY.as_millis());
    let b = Start::new(dir.path(), "b").arg("--min-apply-delay", delay);
    let mut b = b.follow(&a).start();
    let begun = Instant::now();
    let end = a.http.put(TABLE, "first", b"v").ok().lsn();
    received(&b, end);
    until("the row is shown", || shows(&b, "first"));
    assert!(begun.elapsed() >= DELAY, "{:?}", begun.elapsed());
    let end = a.http.put(TABLE, "second", b"v").ok().lsn();
    until("it is known committed", || b.http.position("commit") >= end);
    let begun = Instant::now();
    b.kill_and_restart();
    until("the row is shown", || shows(&b, "second"));
    assert!(begun.elapsed() >= DELAY, "{:?}", begun.elapsed());
    let wrong = Start::new(dir.path(), "c")
        .arg("--min-apply-delay", "10")
        .refused();
    assert!(wrong.err.contains("is not a delay"), "{wrong:?}");
}
