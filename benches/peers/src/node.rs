//! The child: one node of Mainstay, embedded as an application would, which does what its standard
//! input says and answers each order with a line of JSON.
//!
//! A node with a store is a [`mainstay::Node`]; with `--log` it is what `log` says. Keys are spread
//! over the key space and the same in every run.

mod log;

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mainstay::{Level, Node};
use mainstay_storage::Lsn;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::measure::Latencies;
use log::Log;

const TABLE: &str = "rows";

/// Runs until standard input ends.
pub(crate) fn run(arguments: &[String]) {
    let runtime = Runtime::new().expect("threads");
    let word = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let (dir, name) = (Path::new(&arguments[0]), arguments[1].as_str());
    let given = Given {
        dir,
        name,
        follow: word("--follow"),
        sync: word("--sync"),
    };
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let begun = Instant::now();
    let ready = || begun.elapsed().as_secs_f64() * 1e3;
    if has("--log") {
        let mut node = Log::start(&runtime, &given, !has("--no-checkpoints"));
        obey(&mut node, ready());
    } else {
        let mut node = Stored::start(&runtime, &given);
        let ready = ready();
        node.make_table();
        obey(&mut node, ready);
    }
}

struct Given<'a> {
    dir: &'a Path,
    name: &'a str,
    follow: Option<&'a str>,
    sync: Option<&'a str>,
}

trait Orders {
    fn address(&self) -> String;
    fn carry_out(&mut self, order: &[&str]) -> Value;
}

fn obey(node: &mut impl Orders, ready_ms: f64) {
    say(&json!({ "listen": node.address(), "ready_ms": ready_ms }));
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text");
        let words = line.split(' ').collect::<Vec<_>>();
        say(&node.carry_out(&words));
    }
}

fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}").expect("somebody reads");
    out.flush().expect("somebody reads");
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    let number = word.parse();
    number.unwrap_or_else(|_| panic!("{word} is no number"))
}

fn key(number: u64) -> [u8; 8] {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()
}

/// A node with its store.
struct Stored<'a> {
    runtime: &'a Runtime,
    node: Node,
    next: Arc<AtomicU64>,
}

impl<'a> Stored<'a> {
    fn start(runtime: &'a Runtime, given: &Given<'_>) -> Self {
        let mut builder = Node::builder(given.dir)
            .name(given.name)
            .listen("127.0.0.1:0");
        if let Some(policy) = given.sync {
            builder = builder.sync(policy.replace('_', " ").parse().expect("a policy"));
        }
        if let Some(primary) = given.follow {
            builder = builder.follow(format!("postgres://mainstay@{primary}"));
        }
        let node = runtime.block_on(builder.start());
        let node = node.expect("a free port, and a directory of its own");
        let next = Arc::new(AtomicU64::new(0));
        Self {
            runtime,
            node,
            next,
        }
    }

    /// Whoever writes to a table first makes it, and two who do so at once conflict. The row lies
    /// before all others, so that keys that climb do so from the first on.
    fn make_table(&self) {
        if let Ok(mut transaction) = self.node.begin() {
            transaction.put(TABLE, b"\0", b"").expect("it fits");
            let made = self.runtime.block_on(transaction.commit_at(Level::Local));
            made.expect("the disk works");
        }
    }

    /// Stops as a user would.
    fn stop(&self) -> Value {
        let stopped = self.runtime.block_on(self.node.stop());
        stopped.expect("the disk works");
        json!({})
    }

    /// `clients` commit one row of `size` bytes after the other, for some seconds.
    fn commits(&self, level: Level, clients: u64, size: usize, seconds: f64) -> Value {
        let stop = Arc::new(AtomicBool::new(false));
        let value = vec![7; size];
        let begun = Instant::now();
        let all = self.runtime.block_on(async {
            let clients = (0..clients).map(|_| {
                let (node, next) = (self.node.clone(), self.next.clone());
                let (stop, value) = (stop.clone(), value.clone());
                tokio::spawn(async move {
                    let mut latencies = Latencies::default();
                    while !stop.load(Ordering::Relaxed) {
                        let key = key(next.fetch_add(1, Ordering::Relaxed));
                        let begun = Instant::now();
                        let mut transaction = node.begin().expect("it is the primary");
                        transaction.put(TABLE, &key, &value).expect("it fits");
                        transaction.commit_at(level).await.expect("the disks work");
                        latencies.record(begun.elapsed());
                    }
                    latencies
                })
            });
            let clients = clients.collect::<Vec<_>>();
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            stop.store(true, Ordering::Relaxed);
            let mut all = Latencies::default();
            for client in clients {
                all.extend(client.await.expect("no client fails"));
            }
            all
        });
        summary(all, begun.elapsed())
    }

    /// One client commits transactions of `rows` rows each to its own disk.
    fn batches(&self, rows: u64, size: usize, seconds: f64) -> Value {
        let value = vec![7; size];
        let (begun, mut all) = (Instant::now(), Latencies::default());
        while begun.elapsed().as_secs_f64() < seconds {
            let one = Instant::now();
            let mut transaction = self.node.begin().expect("it is the primary");
            let first = self.next.fetch_add(rows, Ordering::Relaxed);
            for row in first..first + rows {
                let put = transaction.put(TABLE, &row.to_be_bytes(), &value);
                put.expect("it fits");
            }
            let done = self.runtime.block_on(transaction.commit_at(Level::Local));
            done.expect("the disk works");
            all.record(one.elapsed());
        }
        let took = begun.elapsed();
        let rate = all.len() as f64 * rows as f64 / took.as_secs_f64();
        let mut answer = summary(all, took);
        answer["records_s"] = json!(rate);
        answer
    }

    /// Writes rows in transactions of `rows` without waiting for any, in all `count` of them.
    fn load(&self, count: u64, rows: u64, size: usize, ordered: bool) -> Value {
        let (value, begun) = (vec![7; size], Instant::now());
        let last = self.runtime.block_on(async {
            let mut last = None;
            let mut written = 0;
            while written < count {
                let mut transaction = self.node.begin().expect("it is the primary");
                let first = self.next.fetch_add(rows, Ordering::Relaxed);
                for row in first..first + rows {
                    let name = if ordered { row.to_be_bytes() } else { key(row) };
                    transaction.put(TABLE, &name, &value).expect("it fits");
                }
                let receipt = transaction.commit_at(Level::Async).await;
                last = Some(receipt.expect("the disk works").lsn);
                written += rows;
            }
            last
        });
        let end = last.map_or_else(String::new, |lsn| lsn.to_string());
        json!({ "seconds": begun.elapsed().as_secs_f64(), "end": end })
    }

    /// How long until this node shows everything up to `lsn`.
    fn applied(&self, lsn: Lsn) -> Value {
        let begun = Instant::now();
        let waited = self.node.wait_for(lsn, Duration::from_secs(300));
        self.runtime.block_on(waited).expect("it streams");
        json!({ "seconds": begun.elapsed().as_secs_f64() })
    }

    /// Lets the store stand still, or go on.
    fn hold(&self, held: bool) -> Value {
        let told = self.runtime.block_on(self.node.pause_apply(held));
        told.expect("it is a standby");
        json!({})
    }

    /// Waits until this node's disk has everything up to `lsn`.
    fn flushed(&self, lsn: Lsn) -> Value {
        let begun = Instant::now();
        let there = || self.node.status().lsn.flushed.parse::<Lsn>();
        while there().expect("a position") < lsn {
            std::thread::sleep(Duration::from_millis(1));
        }
        json!({ "seconds": begun.elapsed().as_secs_f64() })
    }

    /// From the order to promote until a first write is durable here.
    fn promote(&self) -> Value {
        let begun = Instant::now();
        self.runtime.block_on(async {
            self.node.promote(true).await.expect("it may");
            let promoted = begun.elapsed();
            let mut transaction = self.node.begin().expect("it is the primary");
            transaction.put(TABLE, b"first", b"write").expect("it fits");
            transaction
                .commit_at(Level::Local)
                .await
                .expect("the disk works");
            let first = begun.elapsed().as_secs_f64() * 1e3;
            json!({ "first_write_ms": first, "promoted_ms": promoted.as_secs_f64() * 1e3 })
        })
    }

    /// Waits until a commit is confirmed by a standby.
    fn joined(&self) -> Value {
        self.commits(Level::RemoteFlush, 1, 10, 0.01)
    }
}

impl Orders for Stored<'_> {
    fn address(&self) -> String {
        self.node.listen_addr().expect("it listens").to_string()
    }

    fn carry_out(&mut self, order: &[&str]) -> Value {
        match *order {
            ["commits", level, clients, size, seconds] => {
                let level = level.parse().expect("a level");
                self.commits(level, number(clients), number(size), number(seconds))
            }
            ["batches", rows, size, seconds] => {
                self.batches(number(rows), number(size), number(seconds))
            }
            ["load", count, rows, size, order] => self.load(
                number(count),
                number(rows),
                number(size),
                order == "ordered",
            ),
            ["stop"] => self.stop(),
            ["hold"] => self.hold(true),
            ["go_on"] => self.hold(false),
            ["flushed", lsn] => self.flushed(lsn.parse().expect("a position")),
            ["applied", lsn] => self.applied(lsn.parse().expect("a position")),
            ["visible", key] => {
                let found = self.node.get(TABLE, key.as_bytes()).expect("it is open");
                json!({ "found": found.is_some() })
            }
            ["joined"] => self.joined(),
            ["promote"] => self.promote(),
            ["standbys"] => json!({ "count": self.node.status().standbys.len() }),
            ref other => panic!("no order {other:?}"),
        }
    }
}

fn summary(mut all: Latencies, took: Duration) -> Value {
    let mut answer = json!({ "rate": all.len() as f64 / took.as_secs_f64() });
    for (name, micros) in all.percentiles() {
        answer[name] = json!(micros);
    }
    answer
}
