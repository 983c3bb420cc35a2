//! Planned changes of primary under load: held writes, no lost and no failed one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Http, Node, Start, mainstay, number, until};

const TABLE: &str = "t";

/// Threads that write.
const WRITERS: usize = 4;

/// Switchovers in the suite.
const ROUNDS: u64 = 4;

/// A primary and two standbys, each of which must be one of two to confirm a commit.
fn cluster(dir: &TempDir) -> [Node; 3] {
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 1 (*)");
    let a = start("a").start();
    let b = start("b").follow(&a).start();
    let c = start("c").follow(&a).start();
    until("both standbys stream", || {
        let status = a.http.status();
        let standbys = status["standbys"].as_array().expect("a list");
        standbys.len() == 2
            && standbys
                .iter()
                .all(|standby| standby["state"] == "streaming")
    });
    [a, b, c]
}

/// Writers that go where the primary is, and note each row that was acknowledged.
struct Writers {
    threads: Vec<JoinHandle<Vec<String>>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Writers {
    fn start(nodes: &[Node; 3]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let all = nodes.each_ref().map(|node| node.http.clone());
        let threads = (0..WRITERS).map(|writer| {
            let (all, stop, count) = (all.clone(), stop.clone(), count.clone());
            std::thread::spawn(move || write(writer, &all, &stop, &count))
        });
        Self {
            threads: threads.collect(),
            stop: stop.clone(),
            count: count.clone(),
        }
    }

    fn until_more(&self, rows: usize) {
        let goal = self.count.load(Ordering::Acquire) + rows;
        until("writers make progress", || {
            self.count.load(Ordering::Acquire) >= goal
        });
    }

    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Release);
        let rows = self
            .threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap());
        rows.collect()
    }
}

fn write(writer: usize, nodes: &[Http; 3], stop: &AtomicBool, count: &AtomicUsize) -> Vec<String> {
    let mut written = Vec::new();
    let (mut at, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Acquire) {
        let key = format!("{writer}-{:06}", written.len());
        let begun = Instant::now();
        loop {
            let answer = nodes[at].put(TABLE, &key, b"v");
            match answer.status {
                200 => break,
                // It was not done there: whoever takes writes now is another one.
                421 => at = (at + 1) % nodes.len(),
                _ => panic!("a write failed: {} {}", answer.status, answer.text()),
            }
        }
        longest = longest.max(begun.elapsed());
        written.push(key);
        count.fetch_add(1, Ordering::AcqRel);
    }
    println!(
        "writer {writer}: {} rows, the slowest took {longest:.0?}",
        written.len()
    );
    written
}

#[test]
fn a_switchover_under_load_fails_and_loses_no_write() {
    let dir = TempDir::new().unwrap();
    let nodes = cluster(&dir);
    let writers = Writers::start(&nodes);
    let names = ["a", "b", "c"];
    for round in 0..number("MAINSTAY_SWITCHOVER_ROUNDS", ROUNDS) {
        writers.until_more(200);
        let (from, to) = (round as usize % 3, (round as usize + 1) % 3);
        until("every standby streams", || {
            let status = nodes[from].http.status();
            let standbys = status["standbys"].as_array().expect("a list");
            standbys
                .iter()
                .all(|standby| standby["state"] == "streaming")
        });
        let http = &nodes[from].http_address;
        let done = mainstay(["switchover", "--http", http, "--to", names[to], "--json"]).ok();
        let answer = serde_json::from_str::<Value>(&done.out).unwrap();
        assert_eq!(answer["switched_over"], true);
        assert_eq!(answer["new_primary_name"], names[to]);
        assert_eq!(answer["timeline"], round + 2);
        println!("writes were held for {} ms", answer["pause_ms"]);
        assert_eq!(nodes[to].http.status()["role"], "primary");
        until("the old primary follows", || {
            let status = nodes[from].http.status();
            status["role"] == "standby" && status["timeline"] == round + 2
        });
    }
    writers.until_more(200);
    let mut written = writers.stop();
    written.sort();
    let end = nodes
        .iter()
        .map(|node| node.http.position("commit"))
        .max()
        .unwrap();
    for node in &nodes {
        node.http.wait_for(end);
        let rows = node.http.rows(TABLE).into_keys().collect::<Vec<_>>();
        assert!(
            rows == written,
            "{} rows, {} acknowledged",
            rows.len(),
            written.len()
        );
        assert!(!node.said().contains("rewound"), "{}", node.said());
    }
}

#[test]
fn a_switchover_that_cannot_be_had_is_refused_and_writes_go_on() {
    let dir = TempDir::new().unwrap();
    let mut nodes = cluster(&dir);
    let ask = |node: &Node, body: &str| {
        let answer = node
            .http
            .send("POST", "/v1/switchover", body.as_bytes())
            .unwrap();
        (answer.status, answer.text())
    };
    let (status, text) = ask(&nodes[1], "");
    assert_eq!(status, 421, "{text}");
    assert!(text.contains("\"a ("), "{text}");
    let (status, text) = ask(&nodes[0], r#"{"to":"x"}"#);
    assert_eq!(status, 412, "{text}");
    assert!(text.contains("no standby is named x"), "{text}");
    // Without c, b cannot know that it has everything that was acknowledged.
    nodes[2].kill();
    let writers = Writers::start(&nodes);
    writers.until_more(50);
    let (status, text) = ask(&nodes[0], r#"{"to":"b"}"#);
    assert_eq!(status, 412, "{text}");
    assert!(text.contains("goes on as primary"), "{text}");
    writers.until_more(50);
    writers.stop();
    assert_eq!(nodes[0].http.status()["role"], "primary");
    nodes[1].kill();
    until("the primary knows that b is gone", || {
        let status = nodes[0].http.status();
        let standbys = status["standbys"].as_array().unwrap();
        standbys.iter().all(|one| one["state"] != "streaming")
    });
    let (status, text) = ask(&nodes[0], "");
    assert_eq!(status, 412, "{text}");
    assert!(text.contains("no standby is streaming"), "{text}");
}

#[test]
fn a_demoted_primary_follows_whoever_is_promoted() {
    let dir = TempDir::new().unwrap();
    let a = Start::new(dir.path(), "a").start();
    let b = Start::new(dir.path(), "b").follow(&a).start();
    let end = a.http.put(TABLE, "k", b"v").ok().lsn();
    b.http.wait_for(end);
    mainstay(["demote", "--http", &a.http_address, &b.url()]).ok();
    assert_eq!(a.http.put(TABLE, "k", b"w").status, 421);
    b.http.promote();
    let end = b.http.put(TABLE, "k", b"x").ok().lsn();
    a.http.wait_for(end);
    assert_eq!(a.http.get(TABLE, "k").text(), "x");
    let twice = mainstay(["demote", "--http", &a.http_address, &b.url()]);
    assert_ne!(twice.code, Some(0));
}
