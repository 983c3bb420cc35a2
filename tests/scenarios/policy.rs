//! Policies that change, are given up, or differ from node to node when a primary dies.

use super::*;
use crate::support::assert_says;

#[test]
fn a_policy_that_changes_in_the_middle_of_a_failover_binds_whoever_takes_over() {
    let dir = TempDir::new().unwrap();
    let (mut a, [b, c, mut d]) = cluster(&dir, "ANY 1 (b, c)", ["b", "c", "d"]);
    // b does not hear of the change, and c not of what is then acknowledged by d alone.
    b.line.hold(Way::FromNode);
    let changed = a.http.set_policy(&json!({ "policy": "ANY 1 (c, d)" }));
    until("the change is confirmed", || {
        a.http.policy()["binding"] == json!(["ANY 1 (c, d)"])
    });
    assert_eq!(changed["policy"], "ANY 1 (c, d)");
    c.until_flushed(a.http.position("flushed"));
    c.line.hold(Way::FromNode);
    let end = a.http.put(TABLE, "row", b"v").ok().lsn();
    a.kill();
    for standby in [&b, &c, &d] {
        standby.line.cut();
    }
    d.node.kill();
    // By the policy that b knew, c and it would do.
    let (status, answer) = force_promotion(&b.node);
    assert_eq!(status, 412, "{answer}");
    assert_says(&answer["error"].to_string(), &["1 of the 2 nodes", "d"]);
    d.node = d.node.same_ports().start();
    let (status, answer) = force_promotion(&b.node);
    assert_eq!(status, 200, "{answer}");
    for standby in [&b, &c, &d] {
        standby.node.http.wait_for(end);
        assert!(shows(&standby.node, "row"), "LOST: d confirmed it");
    }
}

#[test]
fn a_promoted_node_with_another_policy_of_its_own_is_bound_by_the_old_one_until_that_confirms() {
    let dir = TempDir::new().unwrap();
    let (mut a, [mut b, mut c]) = cluster(&dir, "ANY 2 (*)", ["b", "c"]);
    b.node.terminate();
    b.node = b.node.same_ports().arg("--sync", "off").start();
    let to_b = advertised_through_a_line(&mut b.node);
    settle(&a, [&b, &c]);
    a.kill();
    // b counts under the policy of the log, and lacks c, which does not get through to it.
    to_b.hold(Way::ToNode);
    b.node.http.promote();
    let policy = b.node.http.policy();
    assert_eq!(policy["binding"], json!(["ANY 2 (*)", "off"]), "{policy}");
    let (writing, _) = begin_put_flushed(&b.node, "row");
    assert!(!shows(&b.node, "row") && !writing.is_finished());
    assert_eq!(put_at(&b.node, "local", "local")["level"], "local");
    assert!(!shows(&b.node, "local"), "it is on one disk only");
    to_b.release(Way::ToNode);
    assert_eq!(writing.join().unwrap(), 200);
    until("its own policy alone binds", || {
        b.node.http.policy()["binding"] == json!(["off"])
    });
    c.node.kill();
    assert_eq!(b.node.http.receipt(TABLE, "next", "v")["level"], "local");
    assert!(shows(&b.node, "next"));
}

#[test]
fn the_only_standby_destroyed_for_good_is_given_up_by_force_and_comes_back_empty() {
    let dir = TempDir::new().unwrap();
    let (mut a, [mut b]) = cluster(&dir, "ANY 1 (*)", ["b"]);
    b.node.kill();
    std::fs::remove_dir_all(b.node.data()).unwrap();
    let (writing, _) = begin_put_flushed(&a, "waits");
    let pending = a.http.set_policy(&json!({ "policy": "off" }));
    assert_eq!(pending["in_force"], false, "{pending}");
    assert!(!writing.is_finished() && !shows(&a, "waits"));
    let forced = a
        .http
        .set_policy(&json!({ "policy": "off", "force": true }));
    assert_eq!(
        (&forced["in_force"], &forced["may_promote"]),
        (&json!(true), &json!(["b"])),
        "{forced}"
    );
    assert_eq!(writing.join().unwrap(), 200);
    assert!(shows(&a, "waits"));
    assert_eq!(a.http.receipt(TABLE, "alone", "v")["level"], "local");
    // The same name, with nothing of what it once confirmed: it gets all of that first.
    let b = Standby::of(&a, b.node.start());
    a.http.until_streaming(1);
    a.http.set_policy(&json!({ "policy": "ANY 1 (*)" }));
    until("b confirms", || {
        a.http.receipt(TABLE, "both", "v")["standbys"] == json!(["b"])
    });
    let rows = a.http.rows(TABLE);
    a.kill();
    b.line.cut();
    b.node.http.promote();
    let a = a.same_ports().follow(&b.node).start();
    let end = b.node.http.put(TABLE, "over", b"v").ok().lsn();
    a.http.wait_for(end);
    let mut there = b.node.http.rows(TABLE);
    assert_eq!(there, a.http.rows(TABLE));
    there.remove("over");
    assert_eq!(there, rows);
}

/// More log than lines hold by themselves.
const CATCH_UP_ROWS: usize = 40;
const CATCH_UP_ROW: usize = 1 << 20;

#[test]
fn a_commit_that_waits_to_be_applied_waits_for_a_standby_in_catchup() {
    let dir = TempDir::new().unwrap();
    let (a, [mut b]) = cluster(&dir, "ANY 1 (*)", ["b"]);
    b.node.terminate();
    for row in 0..CATCH_UP_ROWS {
        let value = "v".repeat(CATCH_UP_ROW);
        let op = json!({ "op": "put", "table": "old", "key": format!("k{row}"), "value": value });
        let body = json!({ "ops": [op], "level": "local" }).to_string();
        let answer = a.http.send("POST", "/v1/transactions", body.as_bytes());
        answer.unwrap().ok();
    }
    b.line.hold_after(Way::FromNode, CATCH_UP_ROW);
    b.node = b.node.same_ports().start();
    until("b catches up", || {
        a.http.status()["standbys"][0]["state"] == "catchup"
    });
    let before = a.http.position("flushed");
    let committing = std::thread::scope(|scope| {
        let applied = scope.spawn(|| {
            let receipt = put_at(&a, "row", "remote_apply");
            // The answer says that it can be read there, at once.
            (receipt, shows(&b.node, "row"))
        });
        until("it is on the primary's disk", || {
            a.http.position("flushed") > before
        });
        assert!(!applied.is_finished() && !shows(&a, "row"));
        assert!(b.node.http.position("flushed") < before);
        b.line.release(Way::FromNode);
        applied.join().unwrap()
    });
    let (receipt, shown) = committing;
    assert_eq!(
        (&receipt["level"], &receipt["standbys"]),
        (&json!("remote_apply"), &json!(["b"]))
    );
    assert!(shown, "b has not applied it: {}", b.node.http.status());
    assert!(a.http.rows("old") == b.node.http.rows("old"));
}
