//! Redo: transactions a second from the log into a store.
//!
//! Each round applies the same log to a new store: what a standby does, and what a restart does.
//! The store in memory shows what reading, checking and assembling the log costs by itself; the
//! difference to the LSM store is the store's.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use mainstay_storage::{
    Applicator, FlushGate, LsmOptions, LsmStore, Lsn, MemoryStore, OsDisk, Store, Wal, WalEntry,
    WalEntryType,
};

/// Rows in the log.
const ROWS: u64 = 100_000;

const VALUE_BYTES: usize = 100;

fn apply(criterion: &mut Criterion) {
    for rows in [1, 100] {
        let dir = tempfile::tempdir().expect("there is room");
        let wal = support::new_log(dir.path());
        let end = fill(&wal, rows);
        let mut group = criterion.benchmark_group(format!("apply/{rows}_rows_a_transaction"));
        group.sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(ROWS / rows));
        group.bench_function("lsm", |bencher| {
            bencher.iter_custom(|count| {
                rounds(count, || {
                    let dir = tempfile::tempdir().expect("there is room");
                    let mut store = lsm(dir.path(), &wal);
                    let took = redo(&wal, &mut store, end);
                    store.close();
                    took
                })
            });
        });
        group.bench_function("memory", |bencher| {
            bencher.iter_custom(|count| {
                rounds(count, || {
                    redo(&wal, &mut MemoryStore::new(Arc::new(OsDisk)), end)
                })
            });
        });
        group.finish();
        wal.close().expect("the disk works");
    }
}

fn fill(wal: &Wal, rows: u64) -> Lsn {
    let value = support::value(VALUE_BYTES);
    for first in (0..ROWS).step_by(usize::try_from(rows).expect("few")) {
        let tx = (rows > 1).then_some(first + 1);
        let mut entries = (first..first + rows)
            .map(|number| support::row(number, &value, tx))
            .collect::<Vec<_>>();
        if tx.is_some() {
            entries.insert(0, WalEntry::new(WalEntryType::TxBegin, tx, ""));
            entries.push(WalEntry::new(WalEntryType::TxCommit, tx, ""));
        }
        wal.append(&entries).expect("the disk works");
    }
    let flushed = wal.flushed().wait_blocking(wal.appended(), None);
    flushed.expect("the disk works")
}

fn lsm(dir: &Path, wal: &Wal) -> LsmStore {
    let gate = FlushGate {
        flushed: wal.flushed().clone(),
        commit: wal.commit().clone(),
        raise_bound: Box::new(|_| Ok(())),
    };
    LsmStore::open(dir, false, gate, LsmOptions::default()).expect("an empty directory")
}

fn redo(wal: &Wal, store: &mut dyn Store, end: Lsn) -> Duration {
    let began = Instant::now();
    let mut applicator = Applicator::new(wal, store).expect("a log");
    let at = applicator.apply_upto(store, end).expect("a sound log");
    assert_eq!(at, end);
    began.elapsed()
}

fn rounds(count: u64, mut round: impl FnMut() -> Duration) -> Duration {
    (0..count).map(|_| round()).sum()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = apply
}
criterion_main!(benches);
