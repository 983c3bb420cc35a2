//! The scenarios that broke drafts of the plan, with real processes: what lies between an
//! acknowledgement, a promise and a promotion is held in lines that a test opens and closes.
//!
//! Those that are about decisions alone, message by message, are tested where the machines are.

mod death;
mod policy;
mod rivals;

use std::thread::JoinHandle;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Node, Start, Valve, Way, until};

const TABLE: &str = "t";

/// A standby, and the line that it follows through.
struct Standby {
    node: Node,
    line: Valve,
}

impl Standby {
    /// Starts `start` as a standby of `primary`.
    fn of(primary: &Node, start: &Start) -> Self {
        let line = Valve::to(&primary.replication);
        let node = start.clone().arg("--follow", line.url()).start();
        Self { node, line }
    }

    /// Waits until its log is flushed up to `end`.
    fn until_flushed(&self, end: u64) {
        until("the standby has flushed it", || {
            self.node.http.position("flushed") >= end
        });
    }
}

/// A primary `a` under `policy`, and standbys of these names that have everything and know of each
/// other.
fn cluster<const N: usize>(dir: &TempDir, policy: &str, names: [&str; N]) -> (Node, [Standby; N]) {
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", policy);
    let a = start("a").start();
    let standbys = names.map(|name| Standby::of(&a, &start(name)));
    settle(&a, standbys.each_ref());
    (a, standbys)
}

/// Waits until everybody counts and has everything, so that nothing is appended by itself.
fn settle<const N: usize>(a: &Node, standbys: [&Standby; N]) -> u64 {
    a.http.until_streaming(N);
    let end = a.http.put(TABLE, "before", b"v").ok().lsn();
    for standby in standbys {
        standby.node.http.wait_for(end);
    }
    until("nothing is on its way", || {
        let flushed = a.http.position("flushed");
        a.http.position("appended") == flushed
            && standbys
                .iter()
                .all(|standby| standby.node.http.position("flushed") == flushed)
    });
    a.http.position("flushed")
}

/// A write that nobody waits for here: its answer's status code, or 0 when there was none.
fn begin_put(node: &Node, key: &str) -> JoinHandle<u16> {
    let (http, path) = (node.http.clone(), format!("/v1/tables/{TABLE}/keys/{key}"));
    std::thread::spawn(move || {
        let answer = http.send("PUT", &path, b"v");
        answer.map_or(0, |answer| answer.status)
    })
}

/// As [`begin_put`]; returns when the write is on the primary's disk, with where its log ends.
fn begin_put_flushed(node: &Node, key: &str) -> (JoinHandle<u16>, u64) {
    let before = node.http.position("flushed");
    let writing = begin_put(node, key);
    until("the write is on the primary's disk", || {
        node.http.position("flushed") > before
    });
    (writing, node.http.position("flushed"))
}

/// The receipt of a write at `level`.
fn put_at(node: &Node, key: &str, level: &str) -> Value {
    let (status, text) = try_put_at(node, key, level);
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The answer to a write at `level`: its status code and body.
fn try_put_at(node: &Node, key: &str, level: &str) -> (u16, String) {
    let op = json!({ "op": "put", "table": TABLE, "key": key, "value": "v" });
    let body = json!({ "ops": [op], "level": level }).to_string();
    let answer = node
        .http
        .send("POST", "/v1/transactions", body.as_bytes())
        .unwrap();
    (answer.status, answer.text())
}

/// Whether a reader of `node` sees `key`.
fn shows(node: &Node, key: &str) -> bool {
    node.http.get(TABLE, key).status == 200
}

/// Asks for a promotion with force; its answer's status code and body.
fn force_promotion(node: &Node) -> (u16, Value) {
    let order = br#"{"force":true}"#;
    let answer = node.http.send("POST", "/v1/promote", order).unwrap();
    (answer.status, answer.json())
}

/// Starts `node` again under an address that leads through a line which can be held.
fn advertised_through_a_line(node: &mut Node) -> Valve {
    node.terminate();
    let line = Valve::to(&node.replication);
    *node = node.same_ports().arg("--advertise", &line.address).start();
    line
}
