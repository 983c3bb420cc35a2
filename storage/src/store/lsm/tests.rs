//! Tests of the store from outside: a bed to open it on, and a model to compare it with.

mod conformance;
mod copies;
mod gate;
mod kills;
mod large;
mod model;
mod position;
mod reads;
mod whole;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::entry::{WalEntry, WalEntryType};
use crate::store::{ReadAt, TableId};

/// A directory, and the log's side of a store: positions and the durable bound.
struct Bed {
    temp: TempDir,
    flushed: Signal,
    commit: Signal,
    bound: Arc<AtomicU64>,
}

impl Bed {
    fn new() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
            flushed: Signal::new(Lsn::ZERO),
            commit: Signal::new(Lsn::ZERO),
            bound: Arc::default(),
        }
    }

    fn dir(&self) -> std::path::PathBuf {
        self.temp.path().join("store")
    }

    fn gate(&self) -> FlushGate {
        let bound = self.bound.clone();
        FlushGate {
            flushed: self.flushed.clone(),
            commit: self.commit.clone(),
            raise_bound: Box::new(move |to| {
                bound.fetch_max(to.get(), Ordering::SeqCst);
                Ok(())
            }),
        }
    }

    fn open(&self) -> LsmStore {
        self.open_with(small())
    }

    fn open_with(&self, options: LsmOptions) -> LsmStore {
        LsmStore::open(&self.dir(), self.dir().exists(), self.gate(), options).unwrap()
    }

    /// Everything up to `to` is flushed and committed.
    fn raise(&self, to: Lsn) {
        self.flushed.raise(to);
        self.commit.raise(to);
    }
}

/// A gate that is always open.
fn open_gate() -> FlushGate {
    FlushGate {
        flushed: Signal::new(Lsn::MAX),
        commit: Signal::new(Lsn::MAX),
        raise_bound: Box::new(|_| Ok(())),
    }
}

/// Sizes at which a few transactions go all the way down.
fn small() -> LsmOptions {
    LsmOptions {
        memtable_bytes: 4 << 10,
        table_bytes: 8 << 10,
        block_cache: 1 << 20,
        level0_merge: 4,
        ..LsmOptions::default()
    }
}

/// Waits until no tables are merged, now or next.
fn settle(store: &LsmStore) {
    while store.status().merging {
        std::thread::yield_now();
    }
}

fn put(table: TableId, key: &str, value: impl Into<Bytes>) -> Change {
    Change::Put {
        table,
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.into(),
    }
}

fn delete(table: TableId, key: &str) -> Change {
    Change::Delete {
        table,
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

/// A transaction as it comes from the log.
fn transaction(end: u64, changes: &[Change]) -> Transaction {
    let entry = |change: &Change| WalEntry::new(WalEntryType::Insert, Some(1), change.encode());
    let entries = changes.iter().map(entry).collect::<Vec<_>>();
    let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
    let (begin, end) = (Lsn::new(end - 8), Lsn::new(end));
    Transaction::new(1, begin, end, bytes, Box::new(entries))
}

fn get(store: &LsmStore, key: &str, at: u64) -> Option<String> {
    let value = store
        .reader()
        .get(1, key.as_bytes(), Lsn::new(at))
        .unwrap()?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

/// Rows of a table as of a position.
fn scan(store: &LsmStore, table: TableId, at: Lsn) -> Vec<(Bytes, Bytes)> {
    let rows = store
        .reader()
        .scan(table, Bound::Unbounded, Bound::Unbounded, at);
    rows.unwrap().collect::<Result<Vec<_>>>().unwrap()
}

/// Every version of every row, in plain memory.
#[derive(Default)]
struct Model {
    rows: BTreeMap<(TableId, Bytes), Versions>,
}

/// Values of a row, oldest first; `None` where it was deleted.
type Versions = Vec<(Lsn, Option<Bytes>)>;

impl Model {
    fn apply(&mut self, end: Lsn, changes: &[Change]) {
        for change in changes {
            let (row, value) = match change.clone() {
                Change::Put { table, key, value } => ((table, key), Some(value)),
                Change::Delete { table, key } => ((table, key), None),
                Change::CreateTable { table, name } => {
                    let value = Bytes::copy_from_slice(&table.to_le_bytes());
                    ((0, Bytes::from(name)), Some(value))
                }
            };
            self.rows.entry(row).or_default().push((end, value));
        }
    }

    fn get(&self, table: TableId, key: &Bytes, at: Lsn) -> Option<Bytes> {
        let versions = self.rows.get(&(table, key.clone()))?;
        let newest = versions.iter().rev().find(|(end, _)| *end <= at);
        newest.and_then(|(_, value)| value.clone())
    }

    fn scan(&self, table: TableId, at: Lsn) -> Vec<(Bytes, Bytes)> {
        let keys = self.rows.keys().filter(|(of, _)| *of == table);
        keys.filter_map(|(_, key)| Some((key.clone(), self.get(table, key, at)?)))
            .collect()
    }
}
