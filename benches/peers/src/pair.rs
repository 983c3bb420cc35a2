//! Two nodes of Mainstay in one process: how far a standby is behind, where a clock that both share
//! is needed.
//!
//! A position counts as visible when a reader that waits for it on the standby has been let go and
//! found the row.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mainstay::{Level, Lsn, Node};
use tokio::runtime::Runtime;

use crate::measure::{Figures, Latencies};

const TABLE: &str = "rows";
const PATIENCE: Duration = Duration::from_secs(60);

/// Rows of a transaction, and writers, of the load under which the lag is measured.
const ROWS: u64 = 100;
const WRITERS: usize = 4;

/// How often the lag is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Between two reads, so that they are no load.
const READ_REST: Duration = Duration::from_micros(200);

/// Keys that are read.
const READ_KEYS: u64 = 100_000;

/// How long a read took.
pub(crate) struct Read {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

pub(crate) struct Pair {
    runtime: Runtime,
    primary: Node,
    standby: Node,
    next: Arc<AtomicU64>,
}

impl Pair {
    /// With this policy, if any; the standby counts for it.
    pub(crate) fn start(dir: &Path, policy: Option<&str>) -> Self {
        let runtime = Runtime::new().expect("threads");
        let (primary, standby) = runtime.block_on(async {
            let primary = Node::builder(dir.join("a")).name("a").listen("127.0.0.1:0");
            let primary = match policy {
                Some(policy) => primary.sync(policy.parse().expect("a policy")),
                None => primary,
            };
            let primary = primary.start().await.expect("a free port");
            let at = primary.listen_addr().expect("it listens");
            let standby = Node::builder(dir.join("b")).name("b").listen("127.0.0.1:0");
            let standby = standby.follow(format!("postgres://mainstay@{at}"));
            let standby = standby.start().await.expect("a base backup");
            // Whoever writes to a table first makes it, and two who do so at once conflict. Under a
            // policy the standby has joined once this is answered.
            primary
                .put(TABLE, b"first", b"")
                .await
                .expect("the disk works");
            (primary, standby)
        });
        let next = Arc::new(AtomicU64::new(0));
        Self {
            runtime,
            primary,
            standby,
            next,
        }
    }

    /// The time from a commit's answer, which waits for `level`, to the row's being read on the
    /// standby, at `rate` commits a second, in milliseconds.
    pub(crate) fn visible(&self, level: Level, rate: f64, seconds: f64) -> Figures {
        let value = vec![7; 100];
        let (begun, mut all) = (Instant::now(), Latencies::default());
        self.runtime.block_on(async {
            let mut count = 0_u32;
            while begun.elapsed().as_secs_f64() < seconds {
                let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
                let mut transaction = self.primary.begin().expect("it is the primary");
                transaction.put(TABLE, &key, &value).expect("it fits");
                let receipt = transaction.commit_at(level).await;
                let lsn = receipt.expect("the disk works").lsn;
                let committed = Instant::now();
                let waited = self.standby.wait_for(lsn, PATIENCE).await;
                waited.expect("it streams");
                let found = self.standby.get(TABLE, &key).expect("it is open");
                assert!(found.is_some(), "a row that is visible can be read");
                all.record(committed.elapsed());
                count += 1;
                let due = begun + Duration::from_secs_f64(f64::from(count) / rate);
                tokio::time::sleep_until(due.into()).await;
            }
        });
        in_milliseconds(all)
    }

    /// How long a read on the standby takes, in microseconds, while the primary writes at `part` of
    /// what it can.
    pub(crate) fn reads(&self, part: f64, seconds: f64) -> Read {
        let full = self.write(None, seconds, &mut |_| {});
        let pace = full * part;
        let stop = Arc::new(AtomicBool::new(false));
        let reading = {
            let (standby, stop) = (self.standby.clone(), stop.clone());
            let known = self.next.load(Ordering::Relaxed).min(READ_KEYS);
            std::thread::spawn(move || read(&standby, known, &stop))
        };
        match pace > 0.0 {
            true => drop(self.write((part < 1.0).then_some(pace), seconds, &mut |_| {})),
            false => std::thread::sleep(Duration::from_secs_f64(seconds)),
        }
        stop.store(true, Ordering::Relaxed);
        let mut all = reading.join().expect("it reads");
        let [(_, p50), _, (_, p99), _] = all.percentiles();
        Read { p50, p99 }
    }

    /// How far the standby is behind what is flushed on the primary while that writes at `part` of
    /// what it can.
    pub(crate) fn lag(&self, part: f64, seconds: f64) -> Figures {
        let full = match part < 1.0 {
            true => self.write(None, seconds, &mut |_| {}),
            false => 0.0,
        };
        let (mut looks, mut most) = (Vec::new(), 0_u64);
        let pace = (part < 1.0).then_some(full * part);
        let rate = self.write(pace, seconds, &mut |behind| {
            looks.push(behind.0);
            most = most.max(behind.1);
        });
        let median = |looks: &[Duration]| {
            let mut some = Latencies::default();
            looks.iter().for_each(|took| some.record(*took));
            some.percentiles()[0].1
        };
        let third = looks.len() / 3;
        let growth = median(&looks[looks.len() - third..]) / median(&looks[..third]);
        let mut all = Latencies::default();
        looks.iter().for_each(|took| all.record(*took));
        in_milliseconds(all)
            .with("max_mb", most as f64 / 1e6)
            .with("growth", growth)
            .with("transactions_s", rate)
    }

    /// Writes for some seconds, at `pace` transactions a second or as fast as it can, and tells how
    /// long and how much the standby was behind at each look. Returns transactions a second.
    fn write(&self, pace: Option<f64>, seconds: f64, look: &mut dyn FnMut((Duration, u64))) -> f64 {
        let stop = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let done = self.runtime.block_on(async {
            let pace = pace.map(|pace| pace / WRITERS as f64);
            let writers = [(); WRITERS].map(|()| {
                let (node, next, stop) = (self.primary.clone(), self.next.clone(), stop.clone());
                tokio::spawn(writer(node, next, stop, pace))
            });
            while begun.elapsed().as_secs_f64() < seconds {
                let (at, looked) = (position(&self.primary.status().lsn.flushed), Instant::now());
                let there = position(&self.standby.status().lsn.applied);
                let bytes = at.bytes_since(there.min(at));
                let waited = self.standby.wait_for(at, PATIENCE).await;
                waited.expect("it streams");
                look((looked.elapsed(), bytes));
                tokio::time::sleep(LOOK_EVERY).await;
            }
            stop.store(true, Ordering::Relaxed);
            let mut done = 0;
            for writer in writers {
                done += writer.await.expect("no writer fails");
            }
            done
        });
        f64::from(done) / begun.elapsed().as_secs_f64()
    }
}

/// Reads one row after the other, with a rest between two.
fn read(standby: &Node, known: u64, stop: &AtomicBool) -> Latencies {
    let (mut all, mut row) = (Latencies::default(), 0);
    while !stop.load(Ordering::Relaxed) {
        row = (row + 7919) % known;
        let key = row.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        let begun = Instant::now();
        let found = standby.get(TABLE, &key).expect("it is open");
        all.record(begun.elapsed());
        assert!(found.is_some(), "it was written long ago");
        std::thread::sleep(READ_REST);
    }
    all
}

fn position(text: &str) -> Lsn {
    text.parse().expect("a position")
}

async fn writer(node: Node, next: Arc<AtomicU64>, stop: Arc<AtomicBool>, pace: Option<f64>) -> u32 {
    let (value, begun, mut count) = (vec![7; 100], Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        let first = next.fetch_add(ROWS, Ordering::Relaxed);
        let mut transaction = node.begin().expect("it is the primary");
        for row in first..first + ROWS {
            let key = row.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
            transaction.put(TABLE, &key, &value).expect("it fits");
        }
        let committed = transaction.commit_at(Level::Local).await;
        committed.expect("the disk works");
        count += 1;
        if let Some(pace) = pace {
            let due = begun + Duration::from_secs_f64(f64::from(count) / pace);
            tokio::time::sleep_until(due.into()).await;
        }
    }
    count
}

fn in_milliseconds(mut all: Latencies) -> Figures {
    let percentiles = all.percentiles();
    let mut figures = Figures::of(percentiles[0].1 / 1e3);
    for (name, micros) in percentiles {
        figures = figures.with(&format!("{name}_ms"), micros / 1e3);
    }
    figures
}
