//! Nodes that ask for promises while another one is, or wants to be, the primary.

use std::sync::Barrier;

use super::*;
use crate::support::assert_says;

#[test]
fn a_standby_asks_another_that_still_confirms_to_the_old_primary() {
    // The confirmation reaches the old primary before, while and after b takes over.
    for release in ["before", "while", "after"] {
        let dir = TempDir::new().unwrap();
        let (a, [b, c]) = cluster(&dir, "ANY 1 (*)", ["b", "c"]);
        b.line.hold(Way::FromNode);
        c.line.hold(Way::ToNode);
        let (writing, end) = begin_put_flushed(&a, "row");
        c.until_flushed(end);
        if release == "before" {
            c.line.release(Way::ToNode);
        }
        std::thread::scope(|scope| {
            let promoting = scope.spawn(|| force_promotion(&b.node));
            if release == "while" {
                c.line.release(Way::ToNode);
            }
            let (status, answer) = promoting.join().unwrap();
            assert_eq!(status, 200, "{answer}");
        });
        let late = begin_put(&a, "late");
        c.line.release(Way::ToNode);
        until("a learns that it was replaced", || {
            a.http.status()["role"] == "fenced"
        });
        let (written, late) = (writing.join().unwrap(), late.join().unwrap());
        assert_ne!(late, 200, "c had promised: {release}");
        let end = b.node.http.put(TABLE, "next", b"v").ok().lsn();
        c.node.http.wait_for(end);
        for standby in [&b, &c] {
            // c had it when it promised, so b has it, whether a could acknowledge it or not.
            assert!(shows(&standby.node, "row"), "{release}, {written}");
            assert!(!shows(&standby.node, "late"), "{release}");
        }
    }
}

#[test]
fn two_nodes_that_want_to_be_primary_at_once_never_open_the_same_number() {
    let dir = TempDir::new().unwrap();
    let (mut a, [b, c, d]) = cluster(&dir, "ANY 2 (*)", ["b", "c", "d"]);
    a.kill();
    let start = Barrier::new(2);
    let ask = |node: &Node| {
        start.wait();
        force_promotion(node)
    };
    let mut opened = std::collections::BTreeMap::new();
    // Both may have stood in each other's way.
    until("one is promoted", || {
        let answers = std::thread::scope(|scope| {
            let asked = [&b, &c].map(|standby| scope.spawn(|| ask(&standby.node)));
            asked.map(|asked| asked.join().unwrap())
        });
        for (status, answer) in answers {
            if status == 200 {
                let number = answer["timeline"].as_u64().unwrap();
                let name = answer["new_primary_name"].clone();
                let rival = opened.insert(number, name);
                assert_eq!(rival, None, "two opened timeline {number}");
            } else {
                assert_eq!(status, 412, "{answer}");
            }
        }
        !opened.is_empty()
    });
    let (_, newest) = opened.last_key_value().unwrap();
    let (primary, other) = match newest == "b" {
        true => (&b, &c),
        false => (&c, &b),
    };
    if other.node.http.status()["role"] != "standby" {
        until("the first of them learns of the second", || {
            other.node.http.status()["role"] == "fenced"
        });
    }
    // It stood in its rival's way, so nobody told it whom to follow.
    other.node.http.follow(&primary.node.url()).ok();
    let end = primary.node.http.put(TABLE, "next", b"v").ok().lsn();
    for standby in [other, &d] {
        // The primary may have gone on above the number that the loser of the race asked for.
        until("it follows", || {
            standby.node.http.status()["timeline"] == primary.node.http.status()["timeline"]
        });
        standby.node.http.wait_for(end);
        assert_eq!(standby.node.http.rows(TABLE), primary.node.http.rows(TABLE));
    }
}

/// Log that does not fit through a line that is about to be held.
const MUCH: usize = 200_000;

#[test]
fn a_stale_node_that_asks_for_promises_and_gives_up_stops_nobody_for_good() {
    let dir = TempDir::new().unwrap();
    let (a, [mut b, c]) = cluster(&dir, "ANY 1 (*)", ["b", "c"]);
    let to_b = advertised_through_a_line(&mut b.node);
    settle(&a, [&b, &c]);
    c.line.hold(Way::FromNode);
    for row in 0..10 {
        let answer = a.http.put(TABLE, &format!("row{row}"), &vec![b'v'; MUCH]);
        answer.ok();
    }
    // b promises, and then c cannot fetch the log that it lacks.
    to_b.hold_after(Way::FromNode, MUCH);
    let (status, answer) = force_promotion(&c.node);
    assert_eq!(status, 412, "{answer}");
    assert_says(
        &answer.to_string(),
        &["that this node lacks", "could not be fetched"],
    );
    to_b.release(Way::FromNode);
    c.line.release(Way::FromNode);
    let status = a.http.status();
    assert_eq!(
        (&status["role"], &status["timeline"]),
        (&"primary".into(), &1.into())
    );
    // Whom c asked has left a, which has to ask for a number above that before it confirms.
    let written = begin_put(&a, "next").join().unwrap();
    assert_eq!(written, 200, "{}", a.http.status());
    assert_eq!(a.http.status()["timeline"], 3);
    settle(&a, [&b, &c]);
    for standby in [&b, &c] {
        assert_eq!(standby.node.http.status()["timeline"], 3);
        assert!(standby.node.http.rows(TABLE) == a.http.rows(TABLE));
        assert!(!standby.node.said().contains("rewound"));
    }
}

#[test]
fn a_primary_whom_nobody_follows_learns_that_another_was_promoted_after_it() {
    let dir = TempDir::new().unwrap();
    let (mut a, [mut b, c, d]) = cluster(&dir, "ANY 2 (*)", ["b", "c", "d"]);
    let to_b = advertised_through_a_line(&mut b.node);
    settle(&a, [&b, &c, &d]);
    a.kill();
    // Members promise b what it asks for, and then nobody gets through to it.
    to_b.hold(Way::ToNode);
    for (standby, timeline) in [(&b, 2), (&c, 3)] {
        let (status, answer) = force_promotion(&standby.node);
        assert_eq!(
            (status, &answer["timeline"]),
            (200, &timeline.into()),
            "{answer}"
        );
    }
    // Nothing in c's log says that b ever was the primary.
    assert_eq!(b.node.http.status()["role"], "primary");
    to_b.release(Way::ToNode);
    until("b learns that it was replaced", || {
        b.node.http.status()["role"] == "fenced"
    });
}

#[test]
fn a_primary_that_was_replaced_unnoticed_makes_no_member_of_a_copy() {
    let dir = TempDir::new().unwrap();
    let (mut a, [b, mut c]) = cluster(&dir, "ANY 1 (*)", ["b", "c"]);
    let to_a = advertised_through_a_line(&mut a);
    settle(&a, [&b, &c]);
    let cut = [&to_a, &b.line, &c.line];
    for line in cut {
        line.hold(Way::FromNode);
        line.hold(Way::ToNode);
    }
    let (status, answer) = force_promotion(&b.node);
    assert_eq!(status, 200, "{answer}");
    // c promised that and confirms to b, and then it loses all of it.
    assert_eq!(begin_put(&b.node, "kept").join().unwrap(), 200);
    c.node.kill();
    std::fs::remove_dir_all(c.node.data()).unwrap();
    let again = c.node.same_ports().arg("--follow", a.url());
    c.node = again.start();
    let written = ["one", "two"].map(|key| {
        let (writing, end) = begin_put_flushed(&a, key);
        c.until_flushed(end);
        writing
    });
    for line in cut {
        line.release(Way::FromNode);
        line.release(Way::ToNode);
    }
    until("a learns that it was replaced", || {
        a.http.status()["role"] == "fenced"
    });
    for writing in written {
        assert_ne!(writing.join().unwrap(), 200, "c might have promised b");
    }
    assert!(shows(&b.node, "kept"));
}
