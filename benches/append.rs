//! Appending to the log from 1, 8 and 64 threads: group commit.
//!
//! `synced` waits after each append until it survives a power cut, as a commit does. `unsynced`
//! waits once, at the end: what the log takes when nobody waits.

mod support;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mainstay_storage::{Wal, WalEntry, WalEntryType};

const SIZES: [usize; 2] = [100, 1024];
const APPENDERS: [u64; 3] = [1, 8, 64];

fn append(criterion: &mut Criterion) {
    for synced in [true, false] {
        let name = if synced {
            "append/synced"
        } else {
            "append/unsynced"
        };
        let mut group = criterion.benchmark_group(name);
        for size in SIZES {
            group.throughput(Throughput::ElementsAndBytes {
                elements: 1,
                bytes: size as u64,
            });
            for appenders in APPENDERS {
                let dir = tempfile::tempdir().expect("there is room");
                let wal = support::new_log(dir.path());
                let id = BenchmarkId::new(format!("{size}B"), appenders);
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|count| {
                        let took = run(&wal, size, appenders, count, synced);
                        support::trim(&wal);
                        took
                    });
                });
                wal.close().expect("the disk works");
            }
        }
    }
}

/// Appends `count` entries, rounded up to the same number from each thread, and scales to `count`.
fn run(wal: &Wal, size: usize, appenders: u64, count: u64, synced: bool) -> Duration {
    let each = count.div_ceil(appenders);
    let ready = Barrier::new(usize::try_from(appenders).expect("few") + 1);
    let took = std::thread::scope(|scope| {
        for _ in 0..appenders {
            let ready = &ready;
            let entry = WalEntry::new(WalEntryType::Insert, None, support::value(size));
            scope.spawn(move || {
                ready.wait();
                for _ in 0..each {
                    let place = wal.append(std::slice::from_ref(&entry));
                    let end = place.expect("the disk works").end;
                    if synced {
                        flushed(wal, end);
                    }
                }
            });
        }
        ready.wait();
        Instant::now()
    });
    flushed(wal, wal.appended());
    let took = took.elapsed();
    took.mul_f64(count as f64 / (each * appenders) as f64)
}

fn flushed(wal: &Wal, end: mainstay_storage::Lsn) {
    let waited = wal.flushed().wait_blocking(end, None);
    waited.expect("the disk works");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = append
}
criterion_main!(benches);
