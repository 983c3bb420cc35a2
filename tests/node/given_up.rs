//! An order whose caller gives up waiting is carried out to its end all the same: who gives up may
//! be a client of HTTP that went away, and half a change of role leaves a node that nobody can use.

use std::fmt::Debug;
use std::time::Duration;

use mainstay::{Node, Role};
use tempfile::TempDir;

use super::{node, on_one_worker, reach, until, url};

/// Gives up `order` when it has just begun.
async fn give_up<T: Debug>(order: impl Future<Output = T>) {
    let early = tokio::time::timeout(Duration::ZERO, order).await;
    assert!(early.is_err(), "it was over at once: {early:?}");
}

/// A primary, and a standby that has all it has.
async fn pair(dirs: &[TempDir; 2]) -> (Node, Node) {
    let a = node(&dirs[0], "a").start().await.unwrap();
    let b = node(&dirs[1], "b").follow(url(&a)).start().await.unwrap();
    let receipt = a.put("t", b"k", b"v").await.unwrap();
    reach(&b, receipt.lsn).await;
    (a, b)
}

fn dirs() -> [TempDir; 2] {
    [(); 2].map(|()| TempDir::new().unwrap())
}

/// `new` takes writes, and `old` gets them.
async fn has_followed(old: &Node, new: &Node) {
    until("the new primary takes writes", || new.begin().is_ok()).await;
    until("the old one follows", || old.role() == Role::Standby).await;
    let receipt = new.put("t", b"l", b"w").await.unwrap();
    reach(old, receipt.lsn).await;
    assert!(old.get("t", b"k").unwrap().is_some());
    for node in [old, new] {
        node.stop().await.unwrap();
    }
}

#[test]
fn a_switchover_that_is_given_up_takes_place() {
    on_one_worker(async || {
        let dirs = dirs();
        let (a, b) = pair(&dirs).await;
        give_up(a.switchover(Some("b"))).await;
        has_followed(&a, &b).await;
    });
}

#[test]
fn a_demotion_that_is_given_up_takes_place() {
    on_one_worker(async || {
        let dirs = dirs();
        let (a, b) = pair(&dirs).await;
        give_up(a.demote(&url(&b))).await;
        until("it is no primary", || a.role() == Role::Standby).await;
        b.promote(true).await.unwrap();
        has_followed(&a, &b).await;
    });
}

#[test]
fn a_promotion_that_is_given_up_takes_place() {
    on_one_worker(async || {
        let dirs = dirs();
        let (a, b) = pair(&dirs).await;
        a.stop().await.unwrap();
        give_up(b.promote(true)).await;
        until("it takes writes", || b.begin().is_ok()).await;
        assert_eq!(b.role(), Role::Primary);
        let receipt = b.put("t", b"l", b"w").await.unwrap();
        assert!(b.get("t", b"k").unwrap().is_some(), "{receipt:?}");
        b.stop().await.unwrap();
    });
}
