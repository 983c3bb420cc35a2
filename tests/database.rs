//! `Database` as a program without a runtime uses it: what its transactions promise, what it
//! refuses, and what the next open finds.

mod conflicts;
mod limits;
mod reading;
mod reopening;
mod waiting;

use std::collections::BTreeMap;
use std::path::Path;

use mainstay::{Database, Error, SegmentSize, Snapshot};
use mainstay_storage::{LsmOptions, WalOptions};

/// A table's rows.
type Found = BTreeMap<Vec<u8>, Vec<u8>>;

/// Opens a database whose memory is small, so that little data goes all the way to tables, and
/// whose segments are small, so that the log has several.
#[track_caller]
fn open_small(dir: &Path) -> Database {
    let options = WalOptions {
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 0)
    };
    let store = LsmOptions {
        memtable_bytes: 64 << 10,
        table_bytes: 64 << 10,
        ..LsmOptions::default()
    };
    Database::open_with(dir, &options, store).unwrap()
}

/// All rows of a table; they have to come in ascending order.
#[track_caller]
fn rows(snapshot: &Snapshot, table: &str) -> Found {
    let rows = snapshot.scan(table, ..).unwrap();
    let rows = rows
        .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
        .collect::<Result<Vec<_>, _>>()
        .unwrap();
    assert!(rows.is_sorted_by(|a, b| a.0 < b.0), "the order of {table}");
    rows.into_iter().collect()
}

/// The value of a key as text.
#[track_caller]
fn text(db: &Database, table: &str, key: &str) -> Option<String> {
    let value = db.get(table, key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// The error of something that must fail.
#[track_caller]
fn refused<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}
