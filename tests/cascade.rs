//! Standbys of standbys: they follow through a promotion, come late to one, and wait for an
//! upstream that is behind them.

use tempfile::TempDir;

use crate::support::{Node, Start, until};

const TABLE: &str = "t";

fn write(node: &Node, key: &str) -> u64 {
    node.http.put(TABLE, key, b"v").ok().lsn()
}

/// `a` is followed by `b`, and `b` by `c`.
fn chain(dir: &TempDir) -> [Node; 3] {
    let a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    let c = Start::new(dir.path(), "c").follow(&b).start();
    [a, b, c]
}

#[test]
fn a_standby_of_a_standby_follows_it_through_a_promotion() {
    let dir = TempDir::new().unwrap();
    let [mut a, b, c] = chain(&dir);
    let first = write(&a, "first");
    c.http.wait_for(first);
    assert_eq!(c.http.put(TABLE, "k", b"v").status, 421);
    a.kill();
    b.http.promote();
    let second = write(&b, "second");
    c.http.wait_for(second);
    assert_eq!(c.http.rows(TABLE), b.http.rows(TABLE));
    assert_eq!(c.http.status()["timeline"], 2);
    assert!(!c.said().contains("refused log"), "{}", c.said());
    // The old primary becomes a standby of the last of the chain.
    let a = a.same_ports().follow(&c).start();
    a.http.wait_for(second);
    let third = write(&b, "third");
    a.http.wait_for(third);
    assert_eq!(a.http.rows(TABLE), b.http.rows(TABLE));
}

#[test]
fn a_standby_that_was_away_during_two_promotions_finds_the_newest_timeline() {
    let dir = TempDir::new().unwrap();
    let [mut a, mut b, mut c] = chain(&dir);
    let first = write(&a, "first");
    c.http.wait_for(first);
    c.kill();
    a.kill();
    b.http.promote();
    let second = write(&b, "second");
    let d = Start::new(dir.path(), "d").follow(&b).start();
    d.http.wait_for(second);
    b.kill();
    d.http.promote();
    let third = write(&d, "third");
    let c = c.same_ports().follow(&d).start();
    c.http.wait_for(third);
    assert_eq!(c.http.rows(TABLE), d.http.rows(TABLE));
    assert_eq!(c.http.status()["timeline"], 3);
    assert!(!c.said().contains("rewound"), "{}", c.said());
}

#[test]
fn a_standby_that_is_ahead_of_its_upstream_waits_for_it() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a").start();
    let mut b = Start::new(dir.path(), "b").follow(&a).start();
    let c = Start::new(dir.path(), "c").follow(&a).start();
    let first = write(&a, "first");
    b.http.wait_for(first);
    b.kill();
    let second = write(&a, "second");
    c.http.wait_for(second);
    a.kill();
    let b = b.same_ports().start();
    c.http.follow(&b.url()).ok();
    until("c finds that it is ahead", || {
        c.said().contains("ahead of the upstream's")
    });
    assert!(c.http.status()["problem"].is_null());
    assert!(b.http.position("flushed") < second);
    let a = a.same_ports().start();
    let third = write(&a, "third");
    for node in [&b, &c] {
        node.http.wait_for(third);
        assert_eq!(node.http.rows(TABLE), a.http.rows(TABLE));
    }
}
