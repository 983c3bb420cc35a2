//! Synchronous policies with real nodes: what becomes of commits when the standbys are gone, and
//! when they are back.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Node, Start, assert_says, mainstay, until};

const TABLE: &str = "t";

/// A primary `a` under `policy` and its standby `b`, which has caught up.
fn pair(dir: &TempDir, policy: &str, on_miss: &str) -> [Node; 2] {
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", policy);
    let a = start("a").arg("--on-miss", on_miss).start();
    let b = start("b").follow(&a).start();
    until_synchronized(&a, 1);
    until_confirmed(&a, "b");
    [a, b]
}

/// Waits until `standby` confirms what `primary` writes.
fn until_confirmed(primary: &Node, standby: &str) {
    until("commits are confirmed", || {
        let receipt = put(primary, "probe");
        receipt["level"] == "remote_flush" && receipt["standbys"] == json!([standby])
    });
}

/// Waits until `count` standbys stream, and the policy is met.
fn until_synchronized(primary: &Node, count: usize) {
    primary.http.until_streaming(count);
    until("the policy is met", || {
        primary.http.status()["status"] == "synchronized"
    });
}

/// The receipt of a write.
#[track_caller]
fn put(node: &Node, key: &str) -> Value {
    node.http.receipt(TABLE, key, "v")
}

#[test]
fn a_degraded_primary_says_local_and_waits_again_when_its_only_standby_is_back() {
    let dir = TempDir::new().unwrap();
    let [a, mut b] = pair(&dir, "ANY 1 (*)", "degrade:300ms");
    let before = put(&a, "before");
    assert_eq!(before["level"], "remote_flush");
    assert_eq!(before["standbys"], json!(["b"]));
    assert_eq!(a.http.status()["problem"], Value::Null);
    b.kill();
    for key in ["first", "second"] {
        let degraded = put(&a, key);
        assert_eq!(degraded["level"], "local", "{degraded}");
        assert_eq!(degraded["standbys"], json!([]), "{degraded}");
    }
    let status = a.http.status();
    assert_eq!(status["status"], "broken");
    let problem = status["problem"].as_str().expect("it is said");
    assert_says(
        problem,
        &["degraded: commits wait for this node's disk only since 20"],
    );
    assert_says(
        problem,
        &["0 of 1 standbys of ANY 1 (*)", "on_miss degrade:300ms"],
    );
    let b = b.same_ports().start();
    until_confirmed(&a, "b");
    until_synchronized(&a, 1);
    let status = a.http.status();
    assert_eq!(
        (&status["status"], &status["problem"]),
        (&json!("synchronized"), &Value::Null)
    );
    assert_eq!(b.http.get(TABLE, "second").ok().text(), "v");
}

#[test]
fn a_primary_that_fails_its_policy_refuses_writes_until_all_is_confirmed() {
    let dir = TempDir::new().unwrap();
    let [a, mut b] = pair(&dir, "ANY 1 (*)", "fail:300ms");
    put(&a, "before");
    b.kill();
    let unknown = a.http.put(TABLE, "unknown", b"v");
    assert_eq!(unknown.status, 504, "{}", unknown.text());
    assert_says(
        &unknown.text(),
        &["\"outcome\":\"unknown\"", "ANY 1 (*) is not met"],
    );
    let end = a.http.position("appended");
    for level in ["async", "local", "remote_flush"] {
        let body = json!({
            "ops": [{ "op": "put", "table": TABLE, "key": "refused", "value": "v" }],
            "level": level,
        });
        let body = body.to_string();
        let refused = a
            .http
            .send("POST", "/v1/transactions", body.as_bytes())
            .unwrap();
        assert_eq!(refused.status, 412, "{}", refused.text());
        assert_says(
            &refused.text(),
            &["nothing was written", "policy set", "--force"],
        );
    }
    assert_eq!(
        a.http.position("appended"),
        end,
        "it was refused before it was appended"
    );
    let problem = a.http.status()["problem"].to_string();
    assert_says(
        &problem,
        &["failing: writes are refused since 20", "on_miss fail:300ms"],
    );
    let b = b.same_ports().start();
    until("writes are taken again", || {
        let after = a.http.put(TABLE, "after", b"v");
        assert!([200, 412, 504].contains(&after.status), "{}", after.text());
        after.status == 200
    });
    assert_eq!(a.http.status()["problem"], Value::Null);
    // What ended as unknown was in the log, and got through.
    assert_eq!(b.http.get(TABLE, "unknown").ok().text(), "v");
}

#[test]
fn a_policy_that_is_set_while_running_outlasts_a_restart_and_a_failover() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    a.http.until_streaming(1);
    assert_eq!(put(&a, "alone")["level"], "local");
    let done = a.http.set_policy(&json!({ "policy": "ANY 1 (*)" }));
    assert_eq!(
        (&done["in_force"], &done["notices"]),
        (&json!(true), &json!([])),
        "{done}"
    );
    assert_eq!(put(&a, "both")["standbys"], json!(["b"]));
    a.terminate();
    let mut a = a.same_ports().start();
    until_synchronized(&a, 1);
    assert_eq!(put(&a, "again")["level"], "remote_flush");
    let refused = b
        .http
        .send("POST", "/v1/policy", br#"{"policy":"off"}"#)
        .unwrap();
    assert_eq!(refused.status, 421, "{}", refused.text());
    a.kill();
    b.http.promote();
    assert_eq!(b.http.policy()["policy"], "ANY 1 (*)");
    let a = a.same_ports().follow(&b).start();
    until_synchronized(&b, 1);
    assert_eq!(put(&b, "over")["standbys"], json!(["a"]));
    // A policy that a node is started with is a change like any other.
    drop(a);
    let shown = mainstay(["policy", "show", "--http", &b.http_address])
        .ok()
        .out;
    assert_says(&shown, &["ANY 1 (*)", "it counts: a"]);
}

#[test]
fn a_change_binds_beside_the_old_policy_until_it_is_confirmed_or_forced() {
    let dir = TempDir::new().unwrap();
    let [mut a, mut b] = pair(&dir, "ANY 1 (*)", "block");
    put(&a, "before");
    b.kill();
    until("b is gone", || {
        a.http.status()["standbys"][0]["state"] == "disconnected"
    });
    let pending = a.http.set_policy(&json!({ "policy": "off" }));
    assert_eq!(pending["in_force"], false, "{pending}");
    assert_says(
        &pending["notices"].to_string(),
        &["until it is confirmed, ANY 1 (*) binds too"],
    );
    assert_eq!(a.http.policy()["state"], "changing");
    assert_eq!(a.http.policy()["binding"], json!(["ANY 1 (*)", "off"]));
    let committed = a.http.position("commit");
    let args = ["policy", "set", "off", "--force", "--http", &a.http_address];
    let forced = mainstay(args).ok();
    assert_says(
        &forced.out,
        &["off: in force", "b could still promote themselves"],
    );
    assert!(a.http.position("commit") > committed);
    assert_eq!(put(&a, "alone")["level"], "local");
    a.kill_and_restart();
    until("its own policy is asked for again", || {
        a.http.policy()["binding"] == json!(["off", "ANY 1 (*)"])
    });
}

#[test]
fn a_standby_that_is_gone_for_good_is_replaced_by_removing_it() {
    let dir = TempDir::new().unwrap();
    let [a, mut b] = pair(&dir, "ANY 1 (*)", "block");
    let remove = |force: bool| {
        let body = json!({ "remove": "b", "force": force }).to_string();
        a.http.send("POST", "/v1/policy", body.as_bytes()).unwrap()
    };
    let connected = remove(true);
    assert_eq!(connected.status, 412, "{}", connected.text());
    assert_says(
        &connected.text(),
        &["b is connected", "stop it for good first"],
    );
    b.kill();
    until("b is gone", || {
        a.http.status()["standbys"][0]["state"] == "disconnected"
    });
    let removed = remove(true).ok().json();
    assert_eq!(removed["in_force"], true, "{removed}");
    assert_eq!(removed["may_promote"], json!(["b"]));
    assert_eq!(a.http.policy()["counted"], json!([]));
    let again = remove(false);
    assert_eq!(again.status, 400, "{}", again.text());
    assert_says(
        &again.text(),
        &["no standby is registered as b", "registered: none"],
    );
    // The next voter is the first one, so it needs nobody else's confirmation.
    let _c = Start::new(dir.path(), "c").follow(&a).start();
    until_synchronized(&a, 1);
    assert_eq!(put(&a, "after")["standbys"], json!(["c"]));
}

#[test]
fn a_policy_that_makes_no_sense_is_refused_and_one_for_unknown_standbys_waits_for_them() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    for (policy, parts) in [
        (
            "ANY 1 (b c)",
            &["at character 10", "one comma", "examples: off"][..],
        ),
        ("ANY 3 (b, c)", &["3 of 2 names can never be met"]),
        (
            "ANY 2 (a, b)",
            &["a does not confirm its own commits", "lists 1", "use `*`"],
        ),
    ] {
        let body = json!({ "policy": policy }).to_string();
        let refused = a.http.send("POST", "/v1/policy", body.as_bytes()).unwrap();
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert_says(&refused.text(), parts);
    }
    let started = Start::new(dir.path(), "x")
        .arg("--sync", "ANY 2 (x, b)")
        .refused();
    assert_says(&started.err, &["can never be met"]);
    let done = a.http.set_policy(&json!({ "policy": "ANY 1 (b)" }));
    assert_says(
        &done["notices"].to_string(),
        &["b never registered; commits wait"],
    );
    assert_says(
        &a.http.status()["problem"].to_string(),
        &["commits wait", "b never registered"],
    );
    assert_says(&a.said(), &["counts standbys that never came"]);
    let waiting = a.http.clone();
    let waiting = std::thread::spawn(move || waiting.receipt(TABLE, "waits", "v"));
    let _b = Start::new(dir.path(), "b").follow(&a).start();
    assert_eq!(waiting.join().unwrap()["standbys"], json!(["b"]));
}
