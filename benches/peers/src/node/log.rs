//! A node without a store: the log and its replication alone, which is what PostgreSQL's streaming
//! of log is compared with. It needs no old log any more every now and then, as if it had a store.

use std::time::{Duration, Instant};

use mainstay_replication::protocol::slot::SLOTS_MAX;
use mainstay_replication::{WalReplicator, WalStreamingConfig, bootstrap};
use mainstay_storage::{Change, Lsn, WalEntry};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{Given, Orders, key, number};

/// Rows of one append in a bulk load.
const BULK_ROWS: u64 = 256;

/// How far a bulk load may be ahead of the disk, in bytes; a writer that waits for nothing would
/// measure memory.
const BULK_AHEAD: u64 = 64 << 20;

/// Longest time until a standby has everything.
const FLUSH_MAX: Duration = Duration::from_secs(60);

/// For the most standbys that are measured, each also while it takes its base backup.
const SENDERS_MAX: usize = 64;

/// Log between two checkpoints, in bytes; that of a store is the same.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// The log and its replication, without a store.
pub(super) struct Log<'a> {
    runtime: &'a Runtime,
    config: WalStreamingConfig,
    node: WalReplicator,
}

impl<'a> Log<'a> {
    pub(super) fn start(runtime: &'a Runtime, given: &Given<'_>, checkpoints: bool) -> Self {
        let config = WalStreamingConfig {
            data_dir: given.dir.to_owned(),
            name: given.name.to_owned(),
            listen: Some("127.0.0.1:0".to_owned()),
            follow: given.follow.map(str::to_owned).into_iter().collect(),
            follow_slot: given.follow.map(|_| given.name.to_owned()),
            wal_keep_size: CHECKPOINT_BYTES,
            weighs_copy: false,
            max_replication_slots: SLOTS_MAX,
            max_wal_senders: SENDERS_MAX,
            ..WalStreamingConfig::default()
        };
        let node = WalReplicator::new(config.clone(), vec![]);
        runtime.block_on(async {
            if !config.follow.is_empty() {
                bootstrap(&config).await.expect("a base backup");
            }
            node.start().await.expect("a free port");
        });
        if checkpoints {
            runtime.spawn(checkpoint(node.clone()));
        }
        Self {
            runtime,
            config,
            node,
        }
    }

    /// Appends rows of `size` bytes until there are `bytes` more of log, as fast as the disk is.
    fn bulk(&self, bytes: u64, size: usize) -> Value {
        let value = bytes::Bytes::from(vec![7; size]);
        let rows = (0..BULK_ROWS).map(|row| {
            let change = Change::put(1, key(row).to_vec(), value.clone());
            WalEntry::new(change.entry_type(), None, change.encode())
        });
        let rows = rows.collect::<Vec<_>>();
        let wal = self.node.wal().expect("it runs");
        let (from, begun) = (wal.appended(), Instant::now());
        let end = loop {
            let end = wal.append(&rows).expect("the disk works").end;
            if end.bytes_since(from) >= bytes {
                break end;
            }
            if end.bytes_since(wal.flushed().get()) > BULK_AHEAD {
                let near = Lsn::new(end.get() - BULK_AHEAD / 2);
                let flushed = wal.flushed().wait_blocking(near, None);
                flushed.expect("it runs");
            }
        };
        let appended = begun.elapsed().as_secs_f64();
        wal.flushed().wait_blocking(end, None).expect("it runs");
        json!({
            "seconds": appended,
            "flushed_seconds": begun.elapsed().as_secs_f64(),
            "bytes": end.bytes_since(from),
            "end": end.to_string(),
        })
    }

    fn flushed(&self, lsn: Lsn) -> Value {
        let begun = Instant::now();
        let wal = self.node.wal().expect("it runs");
        let waited = wal.flushed().wait_blocking(lsn, Some(FLUSH_MAX));
        waited.unwrap_or_else(|error| panic!("{error}: {:?}", self.node.problem()));
        json!({ "seconds": begun.elapsed().as_secs_f64() })
    }

    fn pause(&self) -> Value {
        let stopped = self.runtime.block_on(self.node.stop());
        stopped.expect("the disk works");
        json!({})
    }

    fn resume(&mut self) -> Value {
        let begun = Instant::now();
        self.node = WalReplicator::new(self.config.clone(), vec![]);
        let started = self.runtime.block_on(self.node.start());
        started.expect("a sound log");
        self.runtime.spawn(checkpoint(self.node.clone()));
        json!({ "seconds": begun.elapsed().as_secs_f64() })
    }
}

impl Orders for Log<'_> {
    fn address(&self) -> String {
        self.node.listen_addr().expect("it listens").to_string()
    }

    fn carry_out(&mut self, order: &[&str]) -> Value {
        match *order {
            ["bulk", bytes, size] => self.bulk(number(bytes), number(size)),
            ["flushed", lsn] => self.flushed(lsn.parse().expect("a position")),
            ["pause"] => self.pause(),
            ["resume"] => self.resume(),
            ref other => panic!("no order {other:?}"),
        }
    }
}

/// Needs no old log any more every now and then, as a store does: segments are recycled.
async fn checkpoint(node: WalReplicator) {
    let wal = node.wal().expect("it runs");
    let mut at = wal.commit().get();
    while let Ok(commit) = wal.commit().reached(at + CHECKPOINT_BYTES).await {
        if node.checkpoint(commit).await.is_err() {
            return;
        }
        at = commit;
    }
}
