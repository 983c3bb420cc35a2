//! Synchronous policies with real nodes: what becomes of commits when the standbys are gone, and
//! when they are back.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Node, Start, assert_says, until};

const TABLE: &str = "t";

/// A primary `a` under `policy` and its standby `b`, which has caught up.
fn pair(dir: &TempDir, policy: &str, on_miss: &str) -> [Node; 2] {
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", policy);
    let a = start("a").arg("--on-miss", on_miss).start();
    let b = start("b").follow(&a).start();
    until_synchronized(&a, 1);
    [a, b]
}

/// Waits until `count` standbys stream, and the policy is met.
fn until_synchronized(primary: &Node, count: usize) {
    until_streaming(primary, count);
    until("the policy is met", || {
        primary.http.status()["status"] == "synchronized"
    });
}

fn until_streaming(primary: &Node, count: usize) {
    until("the standbys stream", || {
        let status = primary.http.status();
        let standbys = status["standbys"].as_array().expect("a list");
        let streaming = standbys.iter().filter(|one| one["state"] == "streaming");
        streaming.count() == count
    });
}

/// The receipt of a write.
#[track_caller]
fn put(node: &Node, key: &str) -> Value {
    node.http.put(TABLE, key, b"v").ok().json()
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
    until("commits wait for b again", || {
        let receipt = put(&a, "after");
        receipt["level"] == "remote_flush" && receipt["standbys"] == json!(["b"])
    });
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
