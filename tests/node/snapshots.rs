//! Long reads on a standby: they hold up neither receiving nor applying, what they cost is bounded,
//! and they end with a plain error.

use std::path::Path;

use mainstay::{Error, Level, LsmOptions, Node, Receipt, Snapshot};
use mainstay_storage::Error as StorageError;
use tempfile::TempDir;

use super::{node, on_one_worker, reach, until, url};

/// Rows, and bytes of each; every round writes all of them anew.
const ROWS: u32 = 64;
const ROW: usize = 16 << 10;
const ROUNDS: u8 = 40;

const MEMTABLE: u64 = 256 << 10;

/// Memory that snapshots may hold where that is what ends them.
const HELD: u64 = 2 << 20;

/// Log that may be applied after one where that is what ends them.
const AGE: u64 = 8 << 20;

/// All that a store holds on disk is what it is told to keep, some times over while it merges.
const DISK: u64 = 4 * (ROWS as u64 * ROW as u64 + HELD + AGE);

/// Writes all rows, each in a transaction that fits into memory.
async fn write(a: &Node, round: u8) -> Receipt {
    for row in 0..ROWS {
        let mut tx = a.begin().unwrap();
        tx.put("t", &row.to_be_bytes(), &[round; ROW]).unwrap();
        tx.commit_at(Level::Async).await.unwrap();
    }
    a.put("rounds", b"round", &[round]).await.unwrap()
}

/// Bytes of the files below `dir`.
fn on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => on_disk(&entry.path()),
        // A merge may have removed it by now.
        _ => entry.metadata().map_or(0, |found| found.len()),
    });
    sizes.sum()
}

#[track_caller]
fn assert_too_old(snapshot: &Snapshot, mut rows: mainstay::Rows) {
    let too_old =
        |error: &Error| matches!(error, Error::Storage(StorageError::SnapshotTooOld { .. }));
    let got = snapshot.get("t", &0_u32.to_be_bytes()).unwrap_err();
    assert!(
        too_old(&got) && got.to_string().contains("open a new one"),
        "{got}"
    );
    let next = rows.next().map(|row| row.map_err(Error::from));
    assert!(
        matches!(&next, Some(Err(error)) if too_old(error)),
        "{next:?}"
    );
    assert!(rows.next().is_none());
}

/// A snapshot, and a scan that was begun, which nobody touches while the standby goes on.
fn long_read(limits: LsmOptions, held_max: u64) {
    on_one_worker(async move || {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let a = node(&dirs[0], "a").start().await.unwrap();
        let first = write(&a, 0).await;
        let b = node(&dirs[1], "b")
            .follow(url(&a))
            .store(limits)
            .start()
            .await
            .unwrap();
        reach(&b, first.lsn).await;
        let old = b.snapshot().unwrap();
        let mut rows = old.scan("t", ..).unwrap();
        assert_eq!(rows.next().unwrap().unwrap().1[0], 0);
        let (mut held, mut disk) = (0, 0);
        for round in 1..=ROUNDS {
            let receipt = write(&a, round).await;
            // Were it held up, this would not come.
            reach(&b, receipt.lsn).await;
            held = held.max(b.store_status().pinned_bytes);
            disk = disk.max(on_disk(&dirs[1].path().join("store")));
        }
        // It ended while nobody looked.
        until("the old snapshot has ended", || {
            b.store_status().oldest_snapshot != Some(old.lsn())
        })
        .await;
        assert_too_old(&old, rows);
        println!("it held {held} bytes of memory, and the store {disk} bytes of disk");
        assert!(held <= held_max, "{held} bytes of memory were held");
        assert!(disk <= DISK, "{disk} bytes of disk were held");
        // Others do not notice.
        let young = b.snapshot().unwrap();
        assert_eq!(
            young.get("t", &0_u32.to_be_bytes()).unwrap().unwrap()[0],
            ROUNDS
        );
        assert_eq!(young.scan("t", ..).unwrap().count(), ROWS as usize);
        drop((young, old));
        b.stop().await.unwrap();
        a.stop().await.unwrap();
    });
}

#[test]
fn a_long_read_on_a_standby_ends_once_it_holds_too_much_memory() {
    let limits = LsmOptions {
        memtable_bytes: MEMTABLE,
        table_bytes: MEMTABLE,
        snapshot_bytes: HELD,
        ..LsmOptions::default()
    };
    // Two more are written out before the next look, each with a transaction over its size.
    long_read(limits, HELD + 2 * (MEMTABLE + 2 * ROW as u64));
}

#[test]
fn a_long_read_on_a_standby_ends_once_it_is_too_old() {
    let limits = LsmOptions {
        memtable_bytes: MEMTABLE,
        table_bytes: MEMTABLE,
        snapshot_age: AGE,
        ..LsmOptions::default()
    };
    long_read(limits, 2 * AGE);
}
