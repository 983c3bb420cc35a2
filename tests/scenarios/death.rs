//! A primary that dies between what its standbys have and what they know.

use super::*;
use crate::support::assert_says;

#[test]
fn a_primary_that_dies_after_the_quorum_flushed_and_before_it_said_so_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let (mut a, [b, c]) = cluster(&dir, "ANY 1 (*)", ["b", "c"]);
    c.line.hold(Way::FromNode);
    b.line.hold(Way::ToNode);
    let (writing, end) = begin_put_flushed(&a, "row");
    b.until_flushed(end);
    assert!(!shows(&a, "row"), "b has not confirmed it yet");
    // The confirmation gets through, and what it leads to does not.
    b.line.hold(Way::FromNode);
    b.line.release(Way::ToNode);
    assert_eq!(writing.join().unwrap(), 200);
    assert!(shows(&a, "row"));
    a.kill();
    for standby in [&b, &c] {
        standby.line.cut();
        assert!(!shows(&standby.node, "row"), "nobody told it that");
    }
    assert!(b.node.http.position("commit") < end && b.node.http.position("flushed") >= end);
    b.node.http.promote();
    for standby in [&b, &c] {
        standby.node.http.wait_for(end);
        assert!(shows(&standby.node, "row"), "LOST: it was acknowledged");
    }
}

#[test]
fn a_promoted_node_that_is_one_record_behind_the_member_that_accepts_it_fetches_that_record() {
    let dir = TempDir::new().unwrap();
    let (mut a, [b, c]) = cluster(&dir, "ANY 1 (*)", ["b", "c"]);
    let before = a.http.position("flushed");
    c.line.hold(Way::FromNode);
    let end = a.http.put(TABLE, "row", b"v").ok().lsn();
    a.kill();
    b.line.cut();
    c.line.cut();
    assert_eq!(b.node.http.position("flushed"), end);
    assert_eq!(c.node.http.position("flushed"), before);
    let promoted = c.node.http.promote();
    assert_eq!(promoted["new_primary_name"], "c");
    for standby in [&c, &b] {
        standby.node.http.wait_for(end);
        assert!(shows(&standby.node, "row"), "LOST: it was acknowledged");
    }
    assert_eq!(c.node.http.receipt(TABLE, "next", "v")["standbys"][0], "b");
}

#[test]
fn a_primary_that_restarts_alone_after_another_was_promoted_acknowledges_nothing_however_often() {
    let dir = TempDir::new().unwrap();
    let (mut a, [mut b, mut c]) = cluster(&dir, "ANY 1 (*)", ["b", "c"]);
    a.kill();
    b.node.http.promote();
    let end = b.node.http.put(TABLE, "kept", b"v").ok().lsn();
    c.node.http.wait_for(end);
    c.node.kill();
    b.node.kill();
    let mut writing = Vec::new();
    for round in 0..2 {
        a.kill();
        a = a.same_ports().start();
        // Others may hold log that its crash took from it, so not even its own disk may do.
        let (status, text) = try_put_at(&a, &format!("local{round}"), "local");
        assert_eq!(status, 503, "{text}");
        assert_says(
            &text,
            &["nothing was written", "must agree before it goes on"],
        );
        writing.push(begin_put(&a, &format!("alone{round}")));
    }
    let b_again = b.node.same_ports().without("--follow").start();
    let _c = c.node.same_ports().follow(&b_again).start();
    until("a learns that it was replaced", || {
        a.http.status()["role"] == "fenced"
    });
    for writing in writing {
        assert_ne!(writing.join().unwrap(), 200);
    }
    let mut end = 0;
    until("b goes on", || {
        let answer = b_again.http.put(TABLE, "later", b"v");
        assert!([200, 503].contains(&answer.status), "{}", answer.text());
        end = if answer.status == 200 {
            answer.lsn()
        } else {
            0
        };
        end > 0
    });
    a.http.follow(&b_again.url()).ok();
    a.http.wait_for(end);
    let keys = |node: &Node| node.http.rows(TABLE).into_keys().collect::<Vec<_>>();
    assert_eq!(keys(&b_again), ["before", "kept", "later"]);
    assert_eq!(keys(&a), keys(&b_again));
}

#[test]
fn standbys_that_dial_a_primary_which_vanished_without_a_word_agree_on_another_at_once() {
    let dir = TempDir::new().unwrap();
    let (mut a, [b, c]) = cluster(&dir, "ANY 1 (*)", ["b", "c"]);
    for standby in [&b, &c] {
        standby.line.hold(Way::ToNode);
        standby.line.hold(Way::FromNode);
        standby.line.cut();
    }
    for standby in [&b, &c] {
        // Their next dial is taken, and never answered.
        standby.line.until_dialled();
    }
    a.kill();
    let (status, answer) = force_promotion(&b.node);
    assert_eq!(status, 200, "{answer}");
    let end = b.node.http.put(TABLE, "next", b"v").ok().lsn();
    c.node.http.wait_for(end);
}
