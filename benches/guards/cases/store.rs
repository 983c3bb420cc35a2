//! Transactions into the store: committed here, replayed from the log, and read.

use std::ops::Bound;
use std::path::Path;

use mainstay::{Database, Level, LsmOptions};
use mainstay_storage::{Applicator, FlushGate, LsmStore, ReadAt, Wal, block_on};

use super::{TABLE, counted, drive, filled_log, key, options, value};

const TRANSACTIONS: u64 = 100;
const ROWS: u64 = 10;

/// 500 transactions of one row, each until it has its place in the log and is in the store.
pub(super) fn commit_rows(dir: &Path) {
    commit(dir, 500, 1);
}

/// Ten of 100 rows.
pub(super) fn commit_transactions(dir: &Path) {
    commit(dir, 10, 100);
}

fn commit(dir: &Path, transactions: u64, rows: u64) {
    let database = Database::open_with(dir, &options(), LsmOptions::default());
    let database = database.expect("an empty directory takes a database");
    let put = |first: u64, rows: u64| {
        let mut transaction = database.begin().expect("it is open");
        for row in first..first + rows {
            transaction.put("rows", &key(row), &value()).expect("a row");
        }
        // A higher level waits for the disk, and does nothing else.
        block_on(transaction.commit_at(Level::Async))
            .expect("no conflict")
            .lsn
    };
    // The first one creates the table.
    let before = put(0, 1);
    let after =
        counted(|| (0..transactions).fold(before, |_, number| put(1 + number * rows, rows)));
    assert!(after.bytes_since(before) > transactions * rows * value().len() as u64);
}

/// 100 transactions of ten rows from the log into the store, as after a crash and on a standby.
pub(super) fn apply(dir: &Path) {
    let wal = filled_log(&dir.join("log"), TRANSACTIONS, ROWS);
    let mut store = store(&dir.join("store"), &wal);
    let end = wal.appended();
    let applied = counted(|| {
        let mut applicator = Applicator::new(&wal, &store).expect("a log");
        applicator.apply_upto(&mut store, end).expect("a sound log")
    });
    assert_eq!((applied, store.applied()), (end, end));
    store.close();
    wal.stop();
}

/// 1,000 rows read by their keys, from memory.
pub(super) fn get(dir: &Path) {
    let (wal, store) = filled_store(dir);
    let (reader, at) = (store.reader(), store.applied());
    let found = counted(|| {
        let rows = 0..TRANSACTIONS * ROWS;
        let found = rows.filter(|row| {
            let value = reader.get(TABLE, &key(*row), at).expect("in memory");
            value.is_some()
        });
        found.count() as u64
    });
    assert_eq!(found, TRANSACTIONS * ROWS);
    store.close();
    wal.stop();
}

/// The same rows in the order of their keys, five times.
pub(super) fn scan(dir: &Path) {
    let (wal, store) = filled_store(dir);
    let (reader, at) = (store.reader(), store.applied());
    let found = counted(|| {
        let scans = (0..5).map(|_| {
            let rows = reader.scan(TABLE, Bound::Unbounded, Bound::Unbounded, at);
            let rows = rows.expect("in memory").filter(Result::is_ok);
            rows.count() as u64
        });
        scans.sum::<u64>()
    });
    assert_eq!(found, 5 * TRANSACTIONS * ROWS);
    store.close();
    wal.stop();
}

fn filled_store(dir: &Path) -> (Wal, LsmStore) {
    let wal = filled_log(&dir.join("log"), TRANSACTIONS, ROWS);
    let mut store = store(&dir.join("store"), &wal);
    let end = drive(&wal);
    let mut applicator = Applicator::new(&wal, &store).expect("a log");
    applicator.apply_upto(&mut store, end).expect("a sound log");
    (wal, store)
}

fn store(dir: &Path, wal: &Wal) -> LsmStore {
    let gate = FlushGate {
        flushed: wal.flushed().clone(),
        commit: wal.commit().clone(),
        raise_bound: Box::new(|_| Ok(())),
    };
    LsmStore::open(dir, false, gate, LsmOptions::default()).expect("an empty directory")
}
