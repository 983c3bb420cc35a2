//! A transaction larger than memory: it streams, it is there as a whole or not at all, and no node
//! holds it in memory.
//!
//! Primary and standby are processes of their own, because what is measured is a process's peak
//! memory. They run this test binary's [`a_node_of_its_own`], so that their memtables can be small.

use std::time::Instant;

use mainstay::{Lsn, Node, Snapshot};
use mainstay_storage::LsmOptions;
use tempfile::TempDir;

use crate::support::{DEADLINE, LOOK_EVERY, Twin, number, say};

/// Size of the transaction in the suite, in MiB: more than a write set holds in memory.
const SIZE_MIB: u64 = 96;

/// What a node may take at most, whatever the transaction's size, in MiB: the write set's 64, the
/// log's queue of 64, a transaction's 64 while it is read from the log, and the store's share
/// (five memtables of 8 and a cache of 16), plus the program itself.
const PEAK_MIB_MAX: u64 = 384;

/// Size of a value in bytes. They do not compress.
const VALUE_BYTES: u64 = 64 << 10;

/// How many times the default deadline a transaction of 1 GiB may take.
const PATIENCE: u32 = 10;

const TABLE: &str = "large";

fn store() -> LsmOptions {
    LsmOptions {
        memtable_bytes: 8 << 20,
        block_cache: 16 << 20,
        ..LsmOptions::default()
    }
}

fn key(row: u64) -> String {
    format!("row-{row:08}")
}

/// The value of a row: noise that follows from its number.
fn value(row: u64) -> Vec<u8> {
    let mut state = row.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = (0..VALUE_BYTES / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// Highest memory of this process so far, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("Linux has it");
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .unwrap()
        >> 10
}

/// A process that runs [`a_node_of_its_own`].
struct Process(Twin);

impl Process {
    fn start(dir: &TempDir, name: &str, rows: u64, follow: Option<&str>) -> Self {
        let data = dir.path().join(name);
        let environment = [
            ("MAINSTAY_TEST_DIR", data.to_str().expect("it is text")),
            ("MAINSTAY_TEST_NAME", name),
            ("MAINSTAY_TEST_ROWS", &rows.to_string()),
            ("MAINSTAY_TEST_FOLLOW", follow.unwrap_or_default()),
        ];
        let log = dir.path().join(format!("{name}.log"));
        let test = "large_transaction::a_node_of_its_own";
        Self(Twin::start(test, &environment, &log))
    }

    /// What follows `word` on its next line.
    fn hear(&self, word: &str) -> String {
        self.0.hear(word, DEADLINE * PATIENCE)
    }

    fn tell(&mut self, line: &str) {
        self.0.tell(line);
    }

    /// Its peak memory in MiB, and its end.
    fn end(mut self) -> u64 {
        self.tell("end");
        let peak = self.hear("peak").parse().unwrap();
        self.0.until_ended();
        peak
    }
}

#[test]
fn a_transaction_larger_than_memory_streams_and_applies_as_a_whole() {
    let size = number("MAINSTAY_LARGE_MIB", SIZE_MIB);
    let rows = size * (1 << 20) / VALUE_BYTES;
    let dir = TempDir::new().unwrap();
    let mut primary = Process::start(&dir, "a", rows, None);
    let address = primary.hear("listening");
    let mut standby = Process::start(&dir, "b", rows, Some(&address));
    standby.hear("listening");
    let begun = Instant::now();
    primary.tell("write");
    let lsn = primary.hear("committed");
    let committed = begun.elapsed();
    standby.tell(&format!("until {lsn}"));
    let seen = standby.hear("seen nothing");
    let applied = begun.elapsed();
    assert_ne!(seen, "0", "the reader came too late to see anything");
    standby.hear("all rows are right");
    let (peak_a, peak_b) = (primary.end(), standby.end());
    println!(
        "{size} MiB in one transaction: committed on both after {committed:.1?}, visible on the \
         standby after {applied:.1?} (a reader saw nothing of it {seen} times before); peak \
         memory {peak_a} MiB on the primary, {peak_b} MiB on the standby, bound {PEAK_MIB_MAX} MiB"
    );
    assert!(peak_a <= PEAK_MIB_MAX, "the primary took {peak_a} MiB");
    assert!(peak_b <= PEAK_MIB_MAX, "the standby took {peak_b} MiB");
}

/// What the snapshot shows of the transaction: nothing or everything.
fn is_there(snapshot: &Snapshot, rows: u64) -> bool {
    let first = snapshot.get(TABLE, key(0).as_bytes()).unwrap().is_some();
    for row in [1, rows / 3, rows / 2, rows - 1] {
        let other = snapshot.get(TABLE, key(row).as_bytes()).unwrap().is_some();
        assert_eq!(
            other,
            first,
            "row {row} against row 0 at {}",
            snapshot.lsn()
        );
    }
    let any = snapshot.scan(TABLE, ..).unwrap().next().is_some();
    assert_eq!(any, first, "the scan against row 0 at {}", snapshot.lsn());
    first
}

/// Reads until the transaction is there, then all of it; returns how often it was not.
fn watch(node: &Node, rows: u64) -> u64 {
    let mut nothing = 0;
    let begun = Instant::now();
    while !is_there(&node.snapshot().unwrap(), rows) {
        nothing += 1;
        assert!(
            begun.elapsed() < DEADLINE * PATIENCE,
            "the transaction never came"
        );
        std::thread::sleep(LOOK_EVERY);
    }
    nothing
}

fn check_rows(snapshot: &Snapshot, rows: u64) {
    let mut count = 0;
    for (row, found) in snapshot.scan(TABLE, ..).unwrap().enumerate() {
        let (found_key, found_value) = found.unwrap();
        assert_eq!(found_key, key(row as u64).as_bytes());
        assert!(
            found_value == value(row as u64),
            "the value of row {row} differs"
        );
        count += 1;
    }
    assert_eq!(count, rows);
}

async fn write(node: &Node, rows: u64) -> Lsn {
    let mut transaction = node.begin().unwrap();
    for row in 0..rows {
        transaction
            .put(TABLE, key(row).as_bytes(), &value(row))
            .unwrap();
    }
    transaction.commit().await.unwrap().lsn
}

#[test]
#[ignore = "no test: what the processes of the other one run"]
fn a_node_of_its_own() {
    let Some(dir) = std::env::var_os("MAINSTAY_TEST_DIR") else {
        return;
    };
    let text = |name: &str| std::env::var(name).unwrap();
    let rows = text("MAINSTAY_TEST_ROWS").parse::<u64>().unwrap();
    let follow = text("MAINSTAY_TEST_FOLLOW");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let builder = Node::builder(dir)
            .name(text("MAINSTAY_TEST_NAME"))
            .listen("127.0.0.1:0");
        let builder = builder.store(store()).sync("ANY 1 (*)".parse().unwrap());
        let node = match follow.as_str() {
            "" => builder.start().await.unwrap(),
            address => builder
                .follow(format!("postgres://{address}"))
                .start()
                .await
                .unwrap(),
        };
        let watched = node.clone();
        let watching = (!follow.is_empty())
            .then(|| tokio::task::spawn_blocking(move || watch(&watched, rows)));
        say(&format!("listening {}", node.listen_addr().unwrap()));
        let (sender, mut orders) = tokio::sync::mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                // A node that has ended takes no more orders.
                let _ = sender.blocking_send(line);
            }
        });
        let mut watching = watching;
        while let Some(order) = orders.recv().await {
            match order.split_once(' ').unwrap_or((&order, "")) {
                ("write", _) => say(&format!("committed {}", write(&node, rows).await)),
                ("until", lsn) => {
                    node.wait_for(lsn.parse().unwrap(), DEADLINE * PATIENCE)
                        .await
                        .unwrap();
                    let nothing = watching
                        .take()
                        .expect("a standby is watched")
                        .await
                        .unwrap();
                    say(&format!("seen nothing {nothing}"));
                    let snapshot = node.snapshot().unwrap();
                    tokio::task::spawn_blocking(move || check_rows(&snapshot, rows))
                        .await
                        .unwrap();
                    say("all rows are right");
                }
                _ => break,
            }
        }
        say(&format!("peak {}", peak_mib()));
        node.stop().await.unwrap();
    });
}
