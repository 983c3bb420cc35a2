//! A log without threads: nothing happens but what its caller does.

use std::path::Path;
use std::sync::Arc;

use crate::disk::{CrashMode, DiskCall, DiskFault, DiskOp, SimDisk};
use crate::entry::{WalEntry, WalEntryType};
use crate::lsn::SegmentSize;
use crate::wal::{NewLog, Wal, WalOptions};

const DIR: &str = "/node";

fn options() -> WalOptions {
    WalOptions {
        driven: true,
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 7)
    }
}

fn begun() -> (SimDisk, Wal) {
    let disk = SimDisk::new(1);
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let wal = Wal::create(Arc::new(disk.clone()), Path::new(DIR), new, &options());
    (disk, wal.unwrap())
}

#[test]
fn a_driven_log_writes_when_it_is_driven_and_where_an_append_needs_room() {
    let (disk, wal) = begun();
    let put = |len: usize| [WalEntry::new(WalEntryType::Insert, None, vec![7; len])];
    // The first needs a segment, which is made on the spot.
    let first = wal.append(&put(100)).unwrap().end;
    assert!(wal.sealed().get() < first && wal.flushed().get() < first);
    while wal.sealed().get() < first {
        assert!(wal.drive(), "nothing to do");
    }
    assert!(
        wal.flushed().get() < first,
        "it is synced in a step of its own"
    );
    while wal.drive() {}
    assert_eq!((wal.sealed().get(), wal.flushed().get()), (first, first));
    assert!(!wal.drive(), "there was more to do");
    // So do the next ones, which also write what is in the way.
    for _ in 0..40 {
        wal.append(&put(250_000)).unwrap();
    }
    let end = wal.appended();
    wal.close().unwrap();
    drop(wal);
    let (wal, recovered) = Wal::open(Arc::new(disk.clone()), Path::new(DIR), &options()).unwrap();
    assert!(recovered.clean);
    assert_eq!(recovered.end, end);
    // A full disk refuses, and a later attempt finds space.
    disk.set_capacity(0);
    let mut refused = 0;
    while refused == 0 {
        refused += usize::from(wal.append(&put(250_000)).is_err());
    }
    disk.clear_capacity();
    wal.append(&put(250_000)).unwrap();
}

#[test]
fn a_segment_whose_removal_is_not_durable_is_never_written_to() {
    let (options, dir) = (options(), Path::new(DIR));
    let put = || [WalEntry::new(WalEntryType::Insert, None, vec![7; 250_000])];
    let mut failed = 0;
    for call in 1..12 {
        let disk = SimDisk::new(call);
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let wal = Wal::create(Arc::new(disk.until_crash()), dir, new, &options).unwrap();
        for _ in 0..13 {
            wal.append(&put()).unwrap();
        }
        while wal.drive() {}
        let end = wal.flushed().get();
        wal.advance_commit(end);
        wal.checkpoint(end).unwrap();
        disk.fail_call(call, DiskFault::Io);
        failed += u64::from(wal.remove_below(end).is_err());
        disk.clear_faults();
        // What comes next is written to whatever became a spare.
        for _ in 0..20 {
            wal.append(&put()).unwrap();
        }
        while wal.drive() {}
        wal.stop();
        drop(wal);
        disk.crash(CrashMode::LoseUnsynced);
        let (wal, _) = Wal::open(Arc::new(disk), dir, &options).unwrap();
        let mut reader = wal.reader(wal.oldest()).unwrap();
        let upto = wal.flushed().get();
        while reader.next_entry(upto).unwrap().is_some() {}
    }
    assert!(failed > 3, "{failed} removals failed");
}

#[test]
fn segments_for_log_that_comes_in_bulk_are_not_filled_with_zeros() {
    let (disk, wal) = begun();
    // How often the disk is asked for each spare that appends of `len` bytes need: once where its
    // space is only taken, and again and again where it is filled little by little.
    let syncs = |len: usize| {
        disk.clear_trace();
        let end = wal.appended() + 4 * SegmentSize::MIN.bytes();
        while wal.appended() < end {
            let entry = WalEntry::new(WalEntryType::Insert, None, vec![7; len]);
            wal.append(&[entry]).unwrap();
            while wal.drive() {}
        }
        let trace = disk.trace();
        let count = |op| {
            let of = |call: &&DiskCall| call.op == op && call.path.ends_with("spare.tmp");
            trace.iter().filter(of).count()
        };
        assert!(count(DiskOp::Create) >= 3, "it made no spares");
        count(DiskOp::SyncData) as f64 / count(DiskOp::Create) as f64
    };
    let little = syncs(10_000);
    assert!(little > 2.0, "{little}");
    // What the last small group asked for is still filled.
    syncs(200_000);
    assert!((syncs(200_000) - 1.0).abs() < 1e-9);
}
