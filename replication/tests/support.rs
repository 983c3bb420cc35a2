//! Starting nodes, and waiting for what they should come to.

use std::path::Path;
use std::time::{Duration, Instant};

use mainstay_replication::{WalReplicator, WalStreamingConfig, bootstrap};
use mainstay_storage::{LogBytes, Lsn, SegmentSize, Wal, WalEntry, WalEntryType};

/// Longest time that anything may take here.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Lets `RUST_LOG` show what nodes say.
fn trace() {
    // Another test may have been first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
}

pub(crate) fn config(dir: &Path, name: &str) -> WalStreamingConfig {
    trace();
    WalStreamingConfig {
        data_dir: dir.to_owned(),
        name: name.to_owned(),
        listen: Some("127.0.0.1:0".to_owned()),
        segment_size: SegmentSize::MIN,
        heartbeat_interval: Duration::from_millis(100),
        heartbeat_timeout: Duration::from_secs(2),
        ..WalStreamingConfig::default()
    }
}

pub(crate) async fn primary(dir: &Path, sync: Option<&str>) -> WalReplicator {
    let sync = sync.map(|policy| policy.parse().unwrap());
    let node = WalReplicator::new(
        WalStreamingConfig {
            sync,
            ..config(dir, "a")
        },
        vec![],
    );
    node.start().await.unwrap();
    node
}

/// A standby of `primary`, filled by a base backup.
pub(crate) async fn standby(dir: &Path, name: &str, primary: &WalReplicator) -> WalReplicator {
    let follow = vec![primary.listen_addr().unwrap().to_string()];
    let config = WalStreamingConfig {
        follow,
        ..config(dir, name)
    };
    bootstrap(&config).await.unwrap();
    let node = WalReplicator::new(config, vec![]);
    node.start().await.unwrap();
    node
}

pub(crate) fn put(text: &str) -> WalEntry {
    WalEntry::new(WalEntryType::Insert, None, text.to_owned())
}

/// Waits until `done` says so; panics with `what` otherwise.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn assert_same_log(a: &Wal, b: &Wal) {
    let end = a.flushed().get().min(b.flushed().get());
    let (mut left, mut right) = (LogBytes::new(a.clone()), LogBytes::new(b.clone()));
    let mut at = a.oldest().max(b.oldest());
    assert!(at < end, "nothing to compare");
    while at < end {
        let bytes = left.read(at, end, 4096).unwrap();
        let mut at_right = at;
        let mut same = Vec::new();
        while same.len() < bytes.len() {
            let more = right.read(at_right, end, bytes.len() - same.len()).unwrap();
            at_right = at_right + more.len() as u64;
            same.extend_from_slice(&more);
        }
        assert_eq!(&bytes[..], &same[..], "the logs differ at or after {at}");
        at = at_right;
    }
}

pub(crate) fn flushed(node: &WalReplicator) -> Lsn {
    node.wal().unwrap().flushed().get()
}

/// What `work` returns, which must come in time.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, work).await;
    done.expect("it took too long")
}
