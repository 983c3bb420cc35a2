//! A log without threads: nothing happens but what its caller does.

use std::path::Path;
use std::sync::Arc;

use crate::disk::SimDisk;
use crate::entry::{WalEntry, WalEntryType};
use crate::lsn::SegmentSize;
use crate::wal::{NewLog, Wal, WalOptions};

#[test]
fn a_driven_log_writes_when_it_is_driven_and_where_an_append_needs_room() {
    let disk = SimDisk::new(1);
    let options = WalOptions {
        driven: true,
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 7)
    };
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let dir = Path::new("/node");
    let wal = Wal::create(Arc::new(disk.clone()), dir, new, &options).unwrap();
    let put = |len: usize| [WalEntry::new(WalEntryType::Insert, None, vec![7; len])];
    // The first needs a segment, which is made on the spot.
    let first = wal.append(&put(100)).unwrap().end;
    assert!(wal.sealed().get() < first && wal.flushed().get() < first);
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
    let (wal, recovered) = Wal::open(Arc::new(disk.clone()), dir, &options).unwrap();
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
