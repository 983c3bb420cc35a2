//! What nodes record of what happens to them, and how it is asked for.

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Background, Node, Start, assert_says, mainstay, scrub, until};

const TABLE: &str = "t";

/// Rows that only the old primary ever had.
const LOST: usize = 12;

fn write(node: &Node, prefix: &str, count: usize) -> u64 {
    let rows = (0..count).map(|row| format!("{prefix}{row:03}"));
    let ends = rows.map(|key| node.http.put(TABLE, &key, b"v").ok().lsn());
    ends.max().expect("at least one")
}

fn word(event: &Value) -> String {
    event["event_type"].as_str().expect("a word").to_owned()
}

fn happened(node: &Node, query: &str) -> bool {
    !node.http.events(query).is_empty()
}

/// Waits until the node has recorded that `standby` caught up.
#[track_caller]
fn until_established(node: &Node, standby: &str) {
    until("it is recorded", || {
        let events = node.http.events("type=sync_established");
        events.iter().any(|event| event["standby_name"] == standby)
    });
}

/// Checks that the node's events hold `expected`, each `type` or `type of standby`, in this order.
#[track_caller]
fn in_order(node: &Node, expected: &[&str]) -> Vec<Value> {
    let events = node.http.events("limit=10000");
    let ids = events.iter().map(|event| event["id"].as_u64().unwrap());
    assert!(ids.eq(1..=events.len() as u64), "{events:#?}");
    let mut rest = events.iter();
    for wanted in expected {
        let (kind, standby) = wanted.split_once(" of ").unwrap_or((wanted, ""));
        let found = rest.any(|event| {
            event["event_type"] == kind && (standby.is_empty() || event["standby_name"] == standby)
        });
        assert!(found, "{wanted} is missing, or out of order: {events:#?}");
    }
    events
}

#[test]
fn a_kill_a_promotion_and_a_rejoin_can_be_read_afterwards() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a").start();
    let mut b = Start::new(dir.path(), "b").follow(&a).start();
    b.http.wait_for(write(&a, "common", 5));
    until_established(&a, "b");
    until_established(&b, "b");
    b.terminate();
    write(&a, "lost", LOST);
    a.kill();
    let b = b.same_ports().start();
    b.http.promote();
    write(&b, "later", 5);
    let a = a.same_ports().follow(&b).start();
    until("a rewound", || happened(&a, "type=rewound"));
    until_established(&a, "a");
    until_established(&b, "a");
    let events = in_order(
        &a,
        &[
            "started",
            "standby_created of b",
            "sync_established of b",
            "started of a",
            "rewound",
            "primary_changed of a",
            "sync_established of a",
        ],
    );
    let find = |kind: &str| events.iter().rfind(|event| event["event_type"] == kind);
    let rewound = find("rewound").unwrap();
    assert_eq!(rewound["metadata"]["transactions"], LOST);
    let file = rewound["metadata"]["saved_to"].as_str().unwrap();
    let listed = std::fs::read_to_string(file).unwrap();
    assert_eq!(listed.lines().count(), LOST);
    assert_eq!(find("started").unwrap()["metadata"]["clean"], false);
    assert_eq!(find("primary_changed").unwrap()["primary_name"], "b");
    let events = in_order(
        &b,
        &[
            "started of b",
            "reseeded",
            "sync_established of b",
            "stopped",
            "started of b",
            "promoted",
            "failover",
            "standby_created of a",
            "sync_established of a",
        ],
    );
    let failover = events
        .iter()
        .find(|event| word(event) == "failover")
        .unwrap();
    assert_eq!(failover["primary_name"], "b");
    assert_eq!(failover["metadata"]["previous_primary"], "a");
    let status = b.http.status();
    for event in &events {
        assert_eq!(event["node_id"], status["node_id"]);
    }
}

#[test]
fn a_switchover_and_a_fence_are_told_apart_from_a_failover() {
    let dir = TempDir::new().unwrap();
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (*)");
    let a = start("a").start();
    let b = start("b").follow(&a).start();
    let c = start("c").follow(&a).start();
    until_established(&a, "b");
    until_established(&a, "c");
    mainstay(["switchover", "--http", &a.http_address, "--to", "b"]).ok();
    until_established(&b, "a");
    in_order(
        &a,
        &["policy_met", "switched_over of a", "primary_changed of a"],
    );
    in_order(&b, &["promoted", "standby_created of a"]);
    assert!(!happened(&b, "type=failover") && !happened(&a, "type=fenced"));
    until("c follows b", || {
        happened(&c, "type=primary_changed&node=b")
    });
    let forced = c.http.send("POST", "/v1/promote", br#"{"force":true}"#);
    forced.unwrap().ok();
    until("b is fenced", || happened(&b, "type=fenced"));
    in_order(&c, &["primary_changed of c", "promoted", "failover"]);
}

#[test]
fn a_standby_that_is_gone_is_recorded_after_the_heartbeat_timeout() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    let mut b = Start::new(dir.path(), "b").follow(&a).start();
    until("b streams", || happened(&a, "type=sync_established"));
    b.kill();
    until("b is gone", || a.http.status()["status"] == "broken");
    assert!(!happened(&a, "type=replication_unhealthy"));
    until("that is recorded", || {
        happened(&a, "type=replication_unhealthy")
    });
    let events = a.http.events("type=replication_unhealthy");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(
        (&events[0]["primary_name"], &events[0]["standby_name"]),
        (&"a".into(), &"b".into())
    );
    let silence = events[0]["metadata"]["silence_ms"].as_u64().unwrap();
    assert!(silence >= 10_000, "{silence}");
}

#[test]
fn events_are_filtered_over_http_and_on_the_command_line() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    let mut b = Start::new(dir.path(), "b").follow(&a).start();
    until("b streams", || happened(&a, "type=sync_established"));
    let all = a.http.events("");
    assert_eq!(word(&all[0]), "started");
    let at = |event: &Value| event["created_at"].as_str().unwrap().to_owned();
    let of_b = a.http.events("node=b");
    let of_b_words = of_b.iter().map(word).collect::<Vec<_>>();
    assert_eq!(of_b_words, ["standby_created", "sync_established"]);
    let first = at(&of_b[0]);
    assert_eq!(
        a.http.events(&format!("node=b&until={first}")),
        Vec::<Value>::new()
    );
    assert_eq!(a.http.events(&format!("node=b&since={first}")), of_b);
    // The same time with an offset, its plus written as it is.
    let shifted = two_hours_ahead(&first);
    assert_eq!(a.http.events(&format!("node=b&since={shifted}")), of_b);
    assert_eq!(a.http.events("limit=1"), all[all.len() - 1..]);
    assert_eq!(a.http.events("after_id=0&limit=1"), all[..1]);
    let id = a.http.status()["node_id"].as_str().unwrap().to_owned();
    assert_eq!(a.http.events(&format!("node={id}")), all);
    let ask = |args: &[&str]| {
        let args = ["events", "--http", &a.http_address]
            .into_iter()
            .chain(args.iter().copied());
        mainstay(args)
    };
    let shown = ask(&["--node", "b"]).ok().out;
    let lines = shown.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 2, "{shown}");
    assert_says(lines[0], &["standby_created", "standby b was registered"]);
    assert!(lines[0].starts_with(&first[..23]), "{shown}");
    let json = ask(&["--type", "standby_created", "--since", &first, "--json"])
        .ok()
        .out;
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), of_b[0]);
    assert_eq!(ask(&["--limit", "1"]).ok().out.lines().count(), 1);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mainstay"));
    scrub(&mut command);
    command.args(["events", "--http", &b.http_address, "--follow", "--json"]);
    let followed = Background::start(&mut command, &dir.path().join("followed"));
    until("what was is shown", || {
        followed.said().contains("sync_established")
    });
    b.http
        .send("POST", "/v1/promote", br#"{"force":true}"#)
        .unwrap()
        .ok();
    until("what comes is shown", || {
        followed.said().contains("\"failover\"")
    });
    b.terminate();
}

/// The same moment, written two hours ahead of UTC.
fn two_hours_ahead(utc: &str) -> String {
    use std::time::{Duration, SystemTime};
    let two_hours = Duration::from_secs(7200);
    let event = format!(
        "{{\"id\":1,\"node_id\":\"\",\"event_type\":\"started\",\"primary_name\":null,\
         \"standby_name\":null,\"lag_bytes\":null,\"message\":\"\",\"metadata\":{{}},\
         \"created_at\":\"{utc}\"}}"
    );
    let mut event = serde_json::from_str::<mainstay::Event>(&event).unwrap();
    event.created_at = SystemTime::checked_add(&event.created_at, two_hours).unwrap();
    let ahead = serde_json::to_value(&event).unwrap();
    ahead["created_at"].as_str().unwrap().replace('Z', "+02:00")
}

#[test]
fn a_bad_parameter_is_named() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    for (query, expected) in [
        (
            "type=promotion",
            "type: \"promotion\" is no type of event; there are started,",
        ),
        (
            "since=yesterday",
            "since: \"yesterday\" is no time of RFC 3339",
        ),
        (
            "until=2026-03-14",
            "until: \"2026-03-14\" is no time of RFC 3339",
        ),
        ("limit=0", "limit: \"0\" is not a number from 1 to 10000"),
        ("limit=10001", "limit: \"10001\" is not a number"),
        ("limit=", "limit: \"\" is not a number"),
        ("after_id=-1", "after_id: \"-1\" is not the id of an event"),
        ("node=", "node: it is empty"),
        ("node=%FF", "node: it is not UTF-8"),
        ("kind=promoted", "unknown parameter \"kind\""),
    ] {
        let answer = a
            .http
            .send("GET", &format!("/v1/events?{query}"), &[])
            .unwrap();
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with(expected), "{query}: {error}");
    }
    let bad = mainstay(["events", "--http", &a.http_address, "--since", "now"]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert_says(&bad.err, &["since: \"now\" is no time"]);
}

#[test]
fn the_status_says_the_same_on_both_sides() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    let record = |node: &Node| node.http.status()["record"].clone();
    assert_eq!(record(&a)["standby_name"], Value::Null);
    let b = Start::new(dir.path(), "b").follow(&a).start();
    b.http.wait_for(write(&a, "row", 3));
    for node in [&a, &b] {
        until("it is synchronized", || {
            let record = record(node);
            record["replication_status"] == "synchronized" && record["standby_name"] == "b"
        });
        let status = node.http.status();
        assert_eq!(status["status"], "synchronized");
        let record = status["record"].as_object().unwrap();
        let keys = record.keys().map(String::as_str).collect::<Vec<_>>();
        let expected = [
            "replication_enabled",
            "primary_name",
            "standby_name",
            "replication_status",
            "replication_lag_bytes",
            "last_replication_check_at",
        ];
        assert_eq!(keys, expected);
        assert_eq!(record["replication_enabled"], true);
        assert_eq!(
            (&record["primary_name"], &record["replication_lag_bytes"]),
            (&"a".into(), &0.into())
        );
        let checked = record["last_replication_check_at"].as_str().unwrap();
        assert!(checked.ends_with('Z') && checked.contains('T'), "{checked}");
    }
    let upstream = b.http.status()["upstream"].clone();
    assert_eq!(
        (&upstream["name"], &upstream["state"]),
        (&"a".into(), &"streaming".into())
    );
    assert_eq!(a.http.status()["upstream"], Value::Null);
}
