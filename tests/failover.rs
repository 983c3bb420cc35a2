//! Replacing a primary that is gone: who is chosen, what is refused, and what may be lost.

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Ledger, Node, Proxy, Start, Then, Writers, assert_says, lsn, mainstay, until,
};

const TABLE: &str = "t";

/// Bytes of log that a standby gets before its line falls silent.
const BEFORE_SILENCE: u64 = 100_000;

/// Bytes of a large row, and of the line after which a standby gets no more: eight rows, and not
/// the ninth, however they are split on the way.
const ROW_BYTES: usize = 60_000;
const LINE_BYTES: u64 = 530_000;

/// Waits until so many standbys stream and have everything: that they came is logged as well, and
/// who does not have that has no vote.
fn until_caught_up(primary: &Node, count: usize) {
    until("the standbys have everything", || {
        let status = primary.http.status();
        let standbys = status["standbys"].as_array().expect("a list");
        let has_all = |one: &&Value| one["state"] == "streaming" && one["lag_bytes"] == 0;
        let all_is_flushed = status["lsn"]["appended"] == status["lsn"]["flushed"];
        all_is_flushed && standbys.iter().filter(has_all).count() == count
    });
}

/// Gives the order `path` until it is not refused because the primary was heard just now.
fn order(node: &Node, path: &str, body: &Value) -> (u16, Value) {
    let mut answered = None;
    until("the primary counts as gone", || {
        let body = body.to_string();
        let answer = node.http.send("POST", path, body.as_bytes()).unwrap();
        let heard = answer.text().contains("heard from a primary");
        answered = Some((answer.status, answer.json()));
        !heard
    });
    answered.expect("it answered")
}

/// Starts `standby` anew behind a line that falls silent after a while.
fn behind_a_line_that_falls_silent(standby: &mut Node, primary: &Node) -> Proxy {
    standby.terminate();
    let line = Proxy::to(&primary.replication, BEFORE_SILENCE, Then::Hold, 1);
    let start = standby.same_ports().arg("--follow", line.url());
    *standby = start.start();
    line
}

#[test]
fn the_standby_with_the_newest_log_takes_over_whoever_is_asked_and_nothing_is_lost() {
    let dir = TempDir::new().unwrap();
    let ledger = Arc::new(Ledger::default());
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (*)");
    let mut a = start("a").start();
    let mut b = start("b").follow(&a).start();
    let c = start("c").follow(&a).start();
    until_caught_up(&a, 2);
    let line = behind_a_line_that_falls_silent(&mut b, &a);
    let writers = Writers::start(4, &a.http, &ledger);
    until("b is behind", || line.broken() == 1);
    writers.until_acknowledged(200);
    a.kill();
    writers.join();
    let (behind, ahead) = (b.http.position("flushed"), c.http.position("flushed"));
    assert!(behind < ahead, "{behind} {ahead}");
    let (status, answer) = order(&b, "/v1/failover", &json!({}));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["failed_over"], true);
    assert_eq!(answer["new_primary_name"], "c");
    assert_eq!(answer["timeline"], 2);
    let why = answer["why"].as_str().expect("a text");
    assert_says(why, &["newest", "b is", "bytes behind"]);
    let loss = &answer["possible_loss"];
    assert_eq!(
        (&loss["bytes"], &loss["transactions"]),
        (&json!(0), &json!(0))
    );
    assert!(
        loss["primary_last_seen_seconds"].as_f64().is_some(),
        "{loss}"
    );
    c.http
        .wait_for(lsn(answer["lsn"].as_str().expect("a text")));
    let rows = ledger.check(&c.http);
    until("b follows c", || {
        b.http.status()["upstream"]["name"] == "c" && b.http.status()["timeline"] == 2
    });
    let told = c.http.events("type=failover");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["metadata"]["previous_primary"], "a");
    assert_says(told[0]["metadata"]["why"].as_str().unwrap(), &["newest"]);
    let a = a.same_ports().follow(&c).start();
    until_caught_up(&c, 2);
    let end = c.http.put(TABLE, "after", b"v").ok().lsn();
    for node in [&a, &b, &c] {
        node.http.wait_for(end);
        assert!(node.http.rows("rows") == rows, "the nodes differ");
    }
    assert_eq!(a.http.status()["role"], "standby");
}

#[test]
fn a_primary_that_was_replaced_and_is_back_agrees_although_no_log_names_it() {
    let dir = TempDir::new().unwrap();
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (a, b, c)");
    let mut b = start("b").start();
    let a = start("a").follow(&b).start();
    let mut c = start("c").follow(&b).start();
    until_caught_up(&b, 2);
    b.kill();
    let (status, answer) = order(&a, "/v1/failover", &json!({ "to": "c" }));
    assert_eq!(status, 200, "{answer}");
    let end = c.http.put(TABLE, "k", b"v").ok().lsn();
    a.http.wait_for(end);
    c.kill();
    // It never met c as the primary, so the log of a does not know it.
    let b = b.same_ports().follow(&a).start();
    b.http.wait_for(end);
    let (status, answer) = order(&a, "/v1/failover", &json!({}));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["new_primary_name"], "a", "{answer}");
    a.http.put(TABLE, "after", b"v").ok();
    assert_eq!(b.http.status()["role"], "standby");
}

#[test]
fn a_node_that_took_over_and_crashed_still_finds_the_primary_that_it_replaced() {
    let dir = TempDir::new().unwrap();
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (a, b, c)");
    let mut b = start("b").start();
    let [mut a, c] = ["a", "c"].map(|name| start(name).follow(&b).start());
    until_caught_up(&b, 2);
    b.kill();
    let (status, answer) = order(&a, "/v1/failover", &json!({ "to": "a" }));
    assert_eq!(status, 200, "{answer}");
    let end = a.http.put(TABLE, "k", b"v").ok().lsn();
    a.kill();
    let a = a.same_ports().follow(&c).start();
    let b = b.same_ports().start();
    until("b is fenced", || b.http.status()["role"] == "fenced");
    // The policy counts b, which never was a standby of a.
    let (status, answer) = order(&a, "/v1/failover", &json!({ "to": "a" }));
    assert_eq!(status, 200, "{answer}");
    a.http.wait_for(end);
    assert_eq!(a.http.get(TABLE, "k").status, 200, "LOST");
}

#[test]
fn another_cluster_at_the_address_of_a_member_hears_of_no_timeline() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a").start();
    let [b, mut c] = ["b", "c"].map(|name| Start::new(dir.path(), name).follow(&a).start());
    until_caught_up(&a, 2);
    c.kill();
    let other = Start::new(dir.path(), "other").arg("--listen", &c.replication);
    let other = other.start();
    a.kill();
    let (status, answer) = order(&b, "/v1/promote", &json!({}));
    assert_eq!(status, 200, "{answer}");
    // All members are told at once, and one that is not there again and again.
    let a = a.same_ports().start();
    until("a is fenced", || a.http.status()["role"] == "fenced");
    assert_eq!(other.http.status()["role"], "primary");
    other.http.put(TABLE, "k", b"v").ok();
}

#[test]
fn a_failover_beside_a_living_primary_is_refused_and_says_what_to_use() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    until_caught_up(&a, 1);
    for node in [&a, &b] {
        let done = mainstay(["failover", "--http", &node.http_address]);
        assert_eq!(done.code, Some(4), "{done:?}");
        assert_says(&done.err, &["alive", "switchover"]);
    }
    let looked = b
        .http
        .send("POST", "/v1/failover", br#"{"dry_run":true,"force":true}"#);
    let looked = looked.unwrap().ok().json();
    assert_eq!(
        (&looked["failed_over"], &looked["new_primary_name"]),
        (&json!(false), &json!("b"))
    );
    let unknown = b
        .http
        .send("POST", "/v1/failover", br#"{"to":"x","force":true}"#)
        .unwrap();
    assert_eq!(unknown.status, 412, "{}", unknown.text());
    assert_says(&unknown.text(), &["x does not answer", "those that do: b"]);
    assert_eq!(
        (
            a.http.status()["timeline"].clone(),
            b.http.status()["role"].clone()
        ),
        (json!(1), json!("standby"))
    );
}

#[test]
fn a_fenced_node_says_whom_to_ask() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    until_caught_up(&a, 1);
    let done = mainstay(["failover", "--http", &b.http_address, "--force"]).ok();
    assert_says(&done.err, &["possible loss:", "0 bytes"]);
    assert_says(&done.out, &["b is the primary now", "why b"]);
    until("a is fenced", || a.http.status()["role"] == "fenced");
    let refused = mainstay(["failover", "--http", &a.http_address]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert_says(&refused.err, &["fenced", "b (", "follow it"]);
    let problem = a.http.status()["problem"].to_string();
    assert_says(&problem, &["fenced", "follow it"]);
}

#[test]
fn without_a_policy_the_other_standbys_follow_too_and_the_loss_is_said() {
    let dir = TempDir::new().unwrap();
    let mut a = Start::new(dir.path(), "a").start();
    let [b, c] = ["b", "c"].map(|name| Start::new(dir.path(), name).follow(&a).start());
    until_caught_up(&a, 2);
    let end = a.http.put(TABLE, "k", b"v").ok().lsn();
    b.http.wait_for(end);
    c.http.wait_for(end);
    a.kill();
    // Both have as much, and nobody is counted, so the name decides; and one is ordered to.
    let (status, answer) = order(&c, "/v1/failover", &json!({}));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["new_primary_name"], "b", "{answer}");
    let loss = &answer["possible_loss"];
    assert_eq!(loss["bytes"], 0, "{loss}");
    let text = loss["text"].as_str().expect("a text");
    assert_says(text, &["what it acknowledged since is not known"]);
    until("c follows b", || c.http.status()["upstream"]["name"] == "b");
    let end = b.http.put(TABLE, "after", b"v").ok().lsn();
    c.http.wait_for(end);
    let done = mainstay(["failover", "--http", &c.http_address, "--to", "c"]);
    assert_eq!(done.code, Some(4), "{done:?}");
    assert_says(&done.err, &["b is a primary on timeline 2"]);
}

/// An asynchronous pair whose standby lacks what its primary has, and knows it; the primary is
/// dead. The standby is configured to lack less.
fn lacking(dir: &TempDir) -> (Node, u64, u64) {
    let mut a = Start::new(dir.path(), "a").start();
    let mut b = Start::new(dir.path(), "b").follow(&a).start();
    until_caught_up(&a, 1);
    b.terminate();
    let (begin, large) = (a.http.position("flushed"), vec![b'v'; ROW_BYTES]);
    for row in 0..20 {
        a.http.put(TABLE, &format!("k{row:02}"), &large).ok();
    }
    let end = a.http.position("flushed");
    let line = Proxy::to(&a.replication, LINE_BYTES, Then::Hold, 1);
    let start = b.same_ports().arg("--max-lag", "64KiB");
    let b = start.arg("--follow", line.url()).start();
    until("b lacks the rest", || line.broken() == 1);
    let rows = (LINE_BYTES as usize / ROW_BYTES * ROW_BYTES) as u64;
    until("b has flushed what came", || {
        b.http.position("flushed") >= begin + rows
    });
    a.kill();
    let own = b.http.position("flushed");
    assert!(own < end, "{own} {end}");
    (b, end, own)
}

#[test]
fn what_may_be_lost_is_said_in_bytes_and_transactions_before_it_is() {
    let dir = TempDir::new().unwrap();
    let (b, end, own) = lacking(&dir);
    let (status, refused) = order(&b, "/v1/promote", &json!({}));
    assert_eq!(status, 412, "{refused}");
    let error = refused["error"].as_str().expect("a text");
    assert_says(
        error,
        &[
            "a had log up to",
            "max_lag is 65536",
            &(end - own).to_string(),
        ],
    );
    let loss = &refused["possible_loss"];
    assert_eq!(loss["bytes"], end - own, "{loss}");
    let most = loss["transactions"].as_u64().expect("a count");
    // Each row is a transaction, and the first created the table.
    let lacked = (end - own) / ROW_BYTES as u64;
    assert!((lacked..=22).contains(&most), "{most} of {lacked}");
    assert_eq!(b.http.status()["timeline"], 1, "nothing changed");
    let looked = b.http.send(
        "POST",
        "/v1/promote",
        br#"{"dry_run":true,"max_lag":"1GiB"}"#,
    );
    let looked = looked.unwrap().ok().json();
    assert_eq!(
        (&looked["promoted"], &looked["refusal"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(looked["possible_loss"]["bytes"], end - own);
    let args = [
        "promote",
        "--http",
        &b.http_address,
        "--force",
        "--max-lag",
        "1",
        "--json",
    ];
    let done = mainstay(args).ok();
    assert_says(
        &done.err,
        &["possible loss:", &(end - own).to_string(), "transactions"],
    );
    let promoted: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(promoted["possible_loss"]["bytes"], end - own);
    assert_eq!(b.http.status()["role"], "primary");
}

#[test]
fn members_that_cannot_be_reached_are_named_with_the_loss_and_the_policy_can_be_given_up() {
    let dir = TempDir::new().unwrap();
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (*)");
    let mut a = start("a").start();
    let b = start("b").follow(&a).start();
    let mut c = start("c").follow(&a).start();
    until_caught_up(&a, 2);
    a.http.put(TABLE, "k", b"v").ok();
    a.kill();
    c.kill();
    let (status, refused) = order(&b, "/v1/promote", &json!({}));
    assert_eq!(status, 412, "{refused}");
    let error = refused["error"].as_str().expect("a text");
    assert_says(
        error,
        &[
            "1 of the 2 nodes",
            "from: c",
            "--without-policy",
            "possible loss",
        ],
    );
    assert!(refused["possible_loss"]["bytes"].is_u64(), "{refused}");
    let forced = mainstay(["promote", "--http", &b.http_address, "--force"]);
    assert_eq!(forced.code, Some(4), "{forced:?}");
    let done = mainstay(["promote", "--http", &b.http_address, "--without-policy"]).ok();
    assert_says(&done.err, &["possible loss:", "last heard"]);
    assert_says(
        &done.out,
        &[
            "b is the primary now",
            "the policy was given up",
            "by c may be lost",
        ],
    );
}
