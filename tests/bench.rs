//! `mainstay bench` against real nodes: its figures, its errors, and what it leaves behind.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Background, Done, Node, Start, assert_says, mainstay, program, until};

const TABLE: &str = "mainstay_bench";

/// A primary `a` and its standby `b`, which confirms every commit.
fn pair(dir: &TempDir) -> [Node; 2] {
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (*)");
    let a = start("a").start();
    let b = start("b").follow(&a).start();
    until("commits are confirmed", || {
        a.http.receipt("t", "probe", "v")["standbys"] == json!(["b"])
    });
    [a, b]
}

fn args<'a>(http: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["bench", "--json", "--warmup", "0", "--http", http], more].concat()
}

fn bench(node: &Node, more: &[&str]) -> Done {
    mainstay(args(&node.http_address, more))
}

/// The one line of standard output.
#[track_caller]
fn result(done: &Done) -> Value {
    assert_eq!(done.out.lines().count(), 1, "{done:?}");
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no count"))
}

/// Checks that a distribution holds `count` values, and climbs.
#[track_caller]
fn assert_measured(measured: &Value, count: u64) {
    assert_eq!(number(&measured["count"]), count, "{measured}");
    let latency = measured["latency_ms"].as_object().expect("an object");
    let names = ["min", "p50", "p95", "p99", "p99_9", "max"];
    let values = names.map(|name| latency[name].as_f64().expect("a number"));
    assert!(values.is_sorted() && values[0] > 0.0, "{measured}");
    for rate in ["per_s", "mb_per_s"] {
        assert!(
            measured[rate].as_f64().is_some_and(|rate| rate > 0.0),
            "{measured}"
        );
    }
}

#[test]
fn a_mixed_run_counts_every_operation_once_and_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let [a, b] = pair(&dir);
    let more = [
        "--workload",
        "mixed",
        "--count",
        "400",
        "--keys",
        "50",
        "--size",
        "5000",
    ];
    let found = result(&bench(&a, &more).ok());
    assert_eq!(found["errors"]["total"], 0, "{found}");
    let commits = number(&found["commits"]["count"]);
    assert_measured(&found["commits"], commits);
    assert_measured(&found["reads"], 400 - commits);
    assert_eq!(
        number(&found["confirmed"]["remote_flush"]),
        commits,
        "{found}"
    );
    assert_eq!((&found["size"], &found["keys"]), (&json!(5000), &json!(50)));
    assert_eq!(found["lag"][0]["name"], "b", "{found}");
    assert_eq!(found["node_after"], json!({ "name": "a", "timeline": 1 }));
    assert_eq!(found["rows_left"], 0);
    assert!(a.http.rows(TABLE).is_empty());
    // The same seed asks for the same; reads alone have no level.
    let again = result(&bench(&a, &more).ok());
    assert_eq!(number(&again["commits"]["count"]), commits);
    let reads = ["--workload", "get", "--count", "100", "--keys", "10"];
    let found = result(&bench(&a, &reads).ok());
    assert_measured(&found["reads"], 100);
    assert_eq!(found["commits"], Value::Null);
    drop(b);
}

#[test]
fn each_level_is_confirmed_as_asked_for_and_what_is_less_is_no_success() {
    let dir = TempDir::new().unwrap();
    let [a, b] = pair(&dir);
    for level in [
        "async",
        "local",
        "remote_write",
        "remote_flush",
        "remote_apply",
    ] {
        let more = ["--count", "30", "--clients", "3", "--level", level];
        let found = result(&bench(&a, &more).ok());
        assert_eq!(number(&found["confirmed"][level]), 30, "{found}");
        assert_eq!(found["level"], level);
    }
    drop(b);
    let alone = Start::new(dir.path(), "alone").start();
    let level = ["--level", "remote_flush"];
    let done = bench(&alone, &[&["--count", "30"], &level[..]].concat());
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_says(
        &done.err,
        &["30 of 30 commits were confirmed at less than remote_flush"],
    );
    assert_eq!(number(&result(&done)["confirmed"]["local"]), 30);
}

#[test]
fn rows_that_are_kept_are_as_many_as_is_said_and_others_are_never_touched() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    a.http.put("own", "bench-of-mine", b"v").ok();
    let more = [
        "--table", "own", "--count", "200", "--keys", "40", "--seed", "7",
    ];
    let kept = result(&bench(&a, &[&more, &["--keep"][..]].concat()).ok());
    let rows = a.http.rows("own");
    let written = rows.iter().filter(|(key, _)| key.starts_with("bench-7-"));
    let sizes = written.map(|(_, value)| value.len()).collect::<Vec<_>>();
    assert_eq!(number(&kept["rows_left"]), sizes.len() as u64, "{kept}");
    assert!(
        sizes.len() > 30 && sizes.iter().all(|size| *size == 100),
        "{sizes:?}"
    );
    assert_eq!(rows.len(), sizes.len() + 1);
    bench(&a, &more).ok();
    let rows = a.http.rows("own").into_keys().collect::<Vec<_>>();
    assert_eq!(rows, ["bench-of-mine"]);
}

#[test]
fn what_cannot_begin_says_why_and_prints_no_result() {
    let dir = TempDir::new().unwrap();
    let [a, b] = pair(&dir);
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let cases = [
        (
            mainstay(args(&nobody, &[])),
            3,
            &["cannot reach", &nobody, "mainstay start"][..],
        ),
        (
            bench(&b, &[]),
            1,
            &["b at ", "its role is standby", "it follows a"],
        ),
        (
            bench(&a, &["--size", "5000000"]),
            1,
            &["5000000 bytes is over the limit"],
        ),
        (
            bench(&a, &["--level", "sync"]),
            2,
            &["--level", "is not a commit level"],
        ),
        (bench(&a, &["--table", ""]), 1, &["table"]),
    ];
    for (done, code, parts) in cases {
        assert_eq!(done.code, Some(code), "{done:?}");
        assert_says(&done.err, parts);
        assert_eq!(done.out, "", "{done:?}");
    }
    // In a list, the primary is found, wherever it stands.
    let all = [&nobody, &b.http_address, &a.http_address].map(String::as_str);
    let found = result(&mainstay(args(&all.join(","), &["--count", "20"])).ok());
    assert_eq!(
        (&found["node"]["name"], &found["errors"]["total"]),
        (&json!("a"), &json!(0))
    );
}

#[test]
fn a_node_that_dies_in_mid_run_is_counted_as_errors_to_the_end() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a").start();
    let address = a.http_address.clone();
    let count = ["--count", "10000", "--clients", "64", "--keys", "1000"];
    let running = std::thread::spawn(move || mainstay(args(&address, &count)));
    until("it writes", || a.http.rows(TABLE).len() > 10);
    a.kill();
    let done = running.join().unwrap();
    assert_eq!(done.code, Some(1), "{done:?}");
    assert_says(
        &done.err,
        &[
            "operations failed:",
            "unreachable",
            "could not all be removed",
        ],
    );
    let found = result(&done);
    let (errors, commits) = (&found["errors"], number(&found["commits"]["count"]));
    let total = number(&errors["total"]);
    assert_eq!(commits + total, 10_000, "{found}");
    assert!(commits > 0 && number(&errors["unreachable"]) > 0, "{found}");
    let by_kind = errors.as_object().expect("an object").values();
    assert_eq!(by_kind.map(number).sum::<u64>(), 2 * total, "{errors}");
    assert_eq!(
        (&found["lag"], &found["node_after"]),
        (&Value::Null, &Value::Null)
    );
    assert!(number(&found["rows_left"]) > 10, "{found}");
}

/// The result of a run whose output is in a file.
fn result_of(said: &str) -> Value {
    let line = said.lines().find(|line| line.starts_with('{'));
    let line = line.unwrap_or_else(|| panic!("no result in {said}"));
    serde_json::from_str(line).unwrap()
}

fn in_background(dir: &Path, http: &str) -> Background {
    let mut command = program(None);
    command.args(args(http, &["--seconds", "3600", "--keys", "1000"]));
    Background::start(&mut command, &dir.join("bench.log"))
}

#[test]
fn clients_go_on_at_the_node_that_took_over_and_an_interrupt_still_cleans_up() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    a.http.until_streaming(1);
    let mut running = in_background(dir.path(), &[&*a.http_address, &b.http_address].join(","));
    until("it writes", || b.http.rows(TABLE).len() > 10);
    a.kill();
    b.http.promote();
    let begun = b.http.position("commit");
    until("it writes to the new primary", || {
        b.http.position("commit") > begun + 10_000
    });
    assert_eq!(running.interrupt(), Some(130), "{}", running.said());
    let found = result_of(&running.said());
    assert_eq!(found["interrupted"], true);
    assert_eq!(found["node"], json!({ "name": "a", "timeline": 1 }));
    assert_eq!(found["node_after"], json!({ "name": "b", "timeline": 2 }));
    assert!(number(&found["errors"]["total"]) > 0, "{found}");
    assert_eq!(found["rows_left"], 0, "{found}");
    assert!(b.http.rows(TABLE).is_empty());
}
