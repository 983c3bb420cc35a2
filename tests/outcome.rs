//! Asking what became of a write, on any node, before and after a promotion.

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Node, Start, assert_says, until};

const TABLE: &str = "t";

/// The receipt of a write.
#[track_caller]
fn put(node: &Node, key: &str) -> Value {
    node.http.receipt(TABLE, key, "v")
}

/// What `node` says became of it within `timeout_ms`.
#[track_caller]
fn outcome(node: &Node, receipt: &Value, level: &str, timeout_ms: u64) -> String {
    let (lsn, timeline) = (receipt["lsn"].as_str().unwrap(), &receipt["timeline"]);
    let path =
        format!("/v1/wait?lsn={lsn}&timeline={timeline}&level={level}&timeout_ms={timeout_ms}");
    let answer = node.http.send("GET", &path, b"").unwrap().ok().json();
    answer["outcome"].as_str().unwrap().to_owned()
}

const LONG: u64 = 50_000;
const SHORT: u64 = 20;

#[test]
fn a_degraded_commit_is_reached_at_its_level_when_the_standby_is_back() {
    let dir = TempDir::new().unwrap();
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (*)");
    let a = start("a").arg("--on-miss", "degrade:200ms").start();
    let degraded = put(&a, "degraded");
    assert_eq!(degraded["level"], "local");
    assert_eq!(outcome(&a, &degraded, "local", LONG), "reached");
    for level in ["remote_write", "remote_flush", "remote_apply"] {
        assert_eq!(outcome(&a, &degraded, level, SHORT), "unknown", "{level}");
    }
    let b = start("b").follow(&a).start();
    for level in ["remote_write", "remote_flush", "remote_apply"] {
        assert_eq!(outcome(&a, &degraded, level, LONG), "reached", "{level}");
        assert_eq!(outcome(&b, &degraded, level, LONG), "reached", "{level}");
    }
    let newer = serde_json::json!({ "lsn": degraded["lsn"], "timeline": 7 });
    assert_eq!(outcome(&b, &newer, "local", SHORT), "unknown");
}

#[test]
fn a_commit_is_lost_only_once_the_timeline_without_it_is_committed() {
    let dir = TempDir::new().unwrap();
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (*)");
    let mut a = start("a").arg("--on-miss", "degrade:200ms").start();
    let mut b = start("b").follow(&a).start();
    let kept = put(&a, "kept");
    assert_eq!(outcome(&b, &kept, "remote_apply", LONG), "reached");
    b.terminate();
    let lost = put(&a, "lost");
    assert_eq!(lost["level"], "local");
    a.kill();
    let b = b.same_ports().start();
    assert_eq!(
        outcome(&b, &lost, "remote_flush", SHORT),
        "unknown",
        "before the promotion"
    );
    b.http.promote();
    // b opened a timeline that nobody has confirmed yet.
    assert_eq!(
        outcome(&b, &lost, "remote_flush", SHORT),
        "unknown",
        "not yet confirmed"
    );
    let a = a.same_ports().follow(&b).start();
    for node in [&b, &a] {
        assert_eq!(outcome(node, &lost, "remote_flush", LONG), "lost");
        assert_eq!(outcome(node, &kept, "remote_flush", LONG), "reached");
    }
    assert_eq!(b.http.get(TABLE, "lost").status, 404);
    until("b's commits are confirmed by a", || {
        put(&b, "after")["level"] == "remote_flush"
    });
}

#[test]
fn a_question_that_makes_no_sense_is_answered_with_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    for (query, parts) in [
        ("", &["lsn", "as the write's answer has them"][..]),
        ("lsn=0/1000000", &["timeline"]),
        ("lsn=x&timeline=1", &["lsn: "]),
        (
            "lsn=0/1000000&timeline=1&level=on",
            &["level: ", "use async, local"],
        ),
        (
            "lsn=0/1000000&timeline=1&timeout_ms=600001",
            &["over the limit of 600000"],
        ),
        (
            "lsn=0/1000000&timeline=1&promotion_id=x",
            &["promotion_id: "],
        ),
        ("lsn=0/1000000&timeline=1&tiemout_ms=1", &["tiemout_ms"]),
    ] {
        let answer = a
            .http
            .send("GET", &format!("/v1/wait?{query}"), b"")
            .unwrap();
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        assert_says(&answer.text(), parts);
    }
}
