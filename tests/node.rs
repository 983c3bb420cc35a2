//! `Node` in one process: a primary and its standbys, on free ports, driven by a runtime with one
//! worker, so that whatever blocks a thread that others need is a test that fails.

mod following;
mod given_up;
mod life;
mod policy;
mod promotion;
mod reading;
mod snapshots;
mod stalls;
mod verifying;

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay::{Error, Lsn, Node, NodeBuilder, SegmentSize, Snapshot};
use mainstay_storage::LsmOptions;
use tempfile::TempDir;

use crate::support::{DEADLINE, in_time};

/// A table's rows.
type Found = BTreeMap<Vec<u8>, Vec<u8>>;

/// Runs `work` on a runtime of one worker.
#[track_caller]
fn on_one_worker<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    in_time(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(work());
    });
}

/// A node with small segments that hears quickly of others, and listens on a free port.
fn node(dir: &TempDir, name: &str) -> NodeBuilder {
    let node = Node::builder(dir.path()).name(name).listen("127.0.0.1:0");
    let node = node.segment_size(SegmentSize::MIN);
    node.heartbeat(Duration::from_millis(100), Duration::from_secs(5))
}

/// A store that little fills.
fn small() -> LsmOptions {
    LsmOptions {
        memtable_bytes: 64 << 10,
        table_bytes: 64 << 10,
        ..LsmOptions::default()
    }
}

fn address(node: &Node) -> String {
    node.listen_addr().expect("it listens").to_string()
}

fn url(node: &Node) -> String {
    format!("postgres://{}", address(node))
}

async fn reach(node: &Node, lsn: Lsn) {
    // Sooner than the test as a whole, so that it is the one to say what is wrong.
    let reached = node.wait_for(lsn, DEADLINE / 2).await;
    reached.unwrap_or_else(|error| panic!("{error}: {:#?}", node.status()));
}

/// Waits until `done` says so, giving others the worker meanwhile.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let looking = async {
        let mut looks = tokio::time::interval(crate::support::LOOK_EVERY);
        while !done() {
            looks.tick().await;
        }
    };
    let looked = tokio::time::timeout(DEADLINE / 2, looking).await;
    looked.unwrap_or_else(|_| panic!("timed out waiting: {what}"));
}

fn rows(snapshot: &Snapshot, table: &str) -> Found {
    let rows = snapshot.scan(table, ..).unwrap();
    rows.map(|row| {
        let (key, value) = row.unwrap();
        (key.to_vec(), value.to_vec())
    })
    .collect()
}

/// All tables.
fn everything(node: &Node) -> BTreeMap<String, Found> {
    let snapshot = node.snapshot().unwrap();
    let tables = snapshot.tables().unwrap().into_iter();
    tables
        .map(|table| {
            let rows = rows(&snapshot, &table);
            (table, rows)
        })
        .collect()
}

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap()
}

/// Checks that `result` says that the node is no primary, and names the one that is.
#[track_caller]
fn assert_not_primary<T: std::fmt::Debug>(result: Result<T, Error>, name: &str, address: &str) {
    let expected = format!("{name} ({address})");
    let error = result.expect_err("a standby takes no writes");
    let told =
        format!("this node is not the primary, so it accepts no writes; the primary is {expected}");
    assert_eq!(error.to_string(), told);
    match error {
        Error::NotPrimary { primary } => assert_eq!(primary, Some(expected)),
        other => panic!("{other:?}"),
    }
}
