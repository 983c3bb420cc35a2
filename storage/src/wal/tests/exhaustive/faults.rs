//! Calls to the disk that fail, one after the other, and a disk that is full.

use std::path::Path;
use std::sync::Arc;

use super::bench::{DIR, SIZE, WAL};
use super::scenario::{Plan, Promises, run};
use super::stage::{DEADLINE, create, entries, fill, flushed, open, options, put};
use super::{sampled, whole};
use crate::disk::{CrashMode, Disk, DiskCall, DiskFault, DiskOp, SimDisk};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::wal::{NewLog, Wal, WalOptions, segment_file_name};

const FAULTS: [DiskFault; 6] = [
    DiskFault::Io,
    DiskFault::NoSpace,
    DiskFault::Quota,
    DiskFault::ReadOnly,
    DiskFault::Interrupted,
    DiskFault::Short,
];

#[test]
fn any_failing_call_loses_nothing_acknowledged() {
    let calls = run(&Plan::default());
    for k in 1..=calls {
        for fault in FAULTS {
            // Each fault of each call meets one of the two crashes, and the long run both.
            let lost = whole() || (k + fault as u64).is_multiple_of(2);
            let other = if k % 3 == 0 {
                CrashMode::Nasty
            } else {
                CrashMode::Random
            };
            let modes = [(lost, CrashMode::LoseUnsynced), (whole() || !lost, other)];
            let modes = modes.into_iter().filter(|(chosen, _)| *chosen);
            let modes = modes.map(|(_, mode)| mode).collect();
            run(&Plan {
                failing: vec![(k, fault, false)],
                modes,
                ..Plan::default()
            });
        }
        // Its work is done, and its answer lost.
        let modes = vec![CrashMode::LoseUnsynced];
        run(&Plan {
            failing: vec![(k, DiskFault::Io, true)],
            modes,
            ..Plan::default()
        });
    }
    println!(
        "{calls} calls, each of which failed in {} ways",
        FAULTS.len() + 1
    );
    assert!(calls > 250, "only {calls} calls");
}

#[test]
fn any_failing_call_of_a_log_with_threads_loses_nothing_acknowledged() {
    let threads = true;
    let calls = run(&Plan {
        threads,
        ..Plan::default()
    });
    // Their number varies a little with the threads.
    for k in 1..=calls + 10 {
        for (n, fault) in FAULTS.into_iter().enumerate() {
            if whole() || (k + n as u64).is_multiple_of(6) {
                run(&Plan {
                    threads,
                    failing: vec![(k, fault, false)],
                    modes: vec![CrashMode::LoseUnsynced, CrashMode::Random],
                    ..Plan::default()
                });
            }
        }
    }
    assert!(calls > 250, "only {calls} calls");
}

#[test]
fn the_scenario_whose_calls_fail_does_all_it_is_to_do_when_none_does() {
    for threads in [false, true] {
        let disk = SimDisk::new(1);
        let promises = Promises::of_scenario(&disk, threads);
        promises.are_complete();
        for mode in [
            CrashMode::LoseUnsynced,
            CrashMode::KeepAll,
            CrashMode::Nasty,
        ] {
            let disk = disk.copy();
            disk.crash(mode);
            promises.check(&disk, "nothing failed");
        }
    }
}

#[test]
fn any_two_failing_calls_that_are_close_lose_nothing_acknowledged() {
    let calls = run(&Plan::default());
    let (start, step) = sampled();
    let pairs = (1..=calls).flat_map(|k| (1..=5).map(move |later| (k, k + later)));
    for (n, (first, second)) in pairs.enumerate().skip(start as usize).step_by(step) {
        for (m, fault) in FAULTS.into_iter().enumerate() {
            let other = FAULTS[(n + m) % FAULTS.len()];
            if whole() || n % FAULTS.len() == m {
                run(&Plan {
                    failing: vec![(first, fault, false), (second, other, false)],
                    modes: vec![CrashMode::LoseUnsynced, CrashMode::Random],
                    ..Plan::default()
                });
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_space() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    let mut all = vec![flushed(&wal, vec![0; 240_000])];
    disk.set_capacity(0);
    let refused = loop {
        match wal.append(&[put(vec![1; 240_000])]) {
            Ok(range) => all.push(range.end),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    let end = wal.appended();
    wal.flushed().wait_blocking(end, Some(DEADLINE)).unwrap();
    assert_eq!(all.last(), Some(&end));
    for _ in 0..3 {
        let refused = wal.append(&[put(vec![1; 240_000])]);
        assert!(matches!(refused, Err(Error::Full { .. })));
        assert_eq!((wal.appended(), wal.poisoned().is_none()), (end, true));
    }
    let names = disk.list(Path::new(WAL)).unwrap();
    assert!(!names.contains(&"spare.tmp".to_owned()), "{names:?}");
    disk.clear_capacity();
    // The very next one, not the one after it.
    all.push(flushed(&wal, vec![2; 240_000]));
    assert_eq!(
        entries(&wal)
            .iter()
            .map(|(end, _)| *end)
            .collect::<Vec<_>>(),
        all
    );
    drop(wal);
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(open(disk).unwrap().1.end, all[all.len() - 1]);
}

#[test]
fn a_failure_to_prepare_a_segment_is_forgotten_once_there_is_space() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    flushed(&wal, vec![0; 240_000]);
    disk.set_capacity(0);
    // Reach for the next spare without needing it yet.
    while wal.appended() + SIZE.bytes() <= wal.shared().spares.covered_until() {
        flushed(&wal, vec![0; 100_000]);
    }
    let failed = |call: &DiskCall| call.path.ends_with("spare.tmp") && call.error.is_some();
    while !disk.trace().iter().any(failed) {
        std::thread::yield_now();
    }
    disk.clear_capacity();
    let many = vec![put(vec![1; 240_000]); 12];
    let end = wal.append(&many).unwrap().end;
    wal.flushed().wait_blocking(end, Some(DEADLINE)).unwrap();
}

#[test]
fn log_that_retention_gives_back_is_space_too() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    fill(&wal, 20, 240_000);
    disk.set_capacity(0);
    while let Ok(range) = wal.append(&[put(vec![1; 240_000])]) {
        wal.flushed()
            .wait_blocking(range.end, Some(DEADLINE))
            .unwrap();
    }
    let end = wal.appended();
    wal.checkpoint(end).unwrap();
    wal.remove_below(end).unwrap();
    fill(&wal, 12, 240_000);
}

#[test]
fn a_sync_that_failed_is_not_believed_after_a_restart() {
    // The page cache still shows what the failed sync gave up, and the next sync has nothing to
    // write: only a restart of the machine would tell. What tells is noted twice, and either note
    // is enough, whichever of the two places comes first.
    for before in [0, 1] {
        for also in [None, Some(1), Some(2)] {
            a_sync_fails(before, also);
        }
    }
}

/// A sync fails after `before` groups more, and the call that is so many calls behind it `also`.
fn a_sync_fails(before: u8, also: Option<u64>) {
    let disk = SimDisk::new(1);
    let driven = WalOptions {
        driven: true,
        ..options()
    };
    let new = NewLog::new_cluster(SIZE);
    let wal = Wal::create(Arc::new(disk.clone()), Path::new(DIR), new, &driven).unwrap();
    let write = |payload: &'static str| {
        let end = wal.append(&[put(payload)]).unwrap().end;
        while wal.drive() {}
        wal.flushed().get() == end
    };
    assert!((0..=before).all(|_| write("safe")));
    disk.clear_trace();
    assert!(write("to count the calls"));
    let calls = disk.trace();
    let sync = calls.iter().position(|call| call.op == DiskOp::SyncData);
    let sync = sync.unwrap() as u64 + 1;
    disk.fail_call(sync, DiskFault::Io);
    if let Some(later) = also {
        disk.fail_call(sync + later, DiskFault::Io);
    }
    assert!(!write("lost on the disk"));
    assert!(wal.poisoned().is_some());
    drop(wal);
    // What is written once more ends where the log does, whatever has the name of a segment.
    let last = segment_file_name(1, SIZE.segment_of(Lsn::MAX), SIZE);
    disk.write_file(Path::new(WAL).join(last), &[0; 100]);
    let (wal, recovered) = open(disk.clone()).unwrap();
    let all = entries(&wal);
    assert_eq!(recovered.end, wal.flushed().get());
    drop(wal);
    disk.crash(CrashMode::LoseUnsynced);
    let (wal, _) = open(disk).unwrap_or_else(|error| panic!("{also:?}: {error}"));
    assert_eq!(entries(&wal), all, "{also:?}: reported as flushed and gone");
}
