//! A directory that was copied, and follows the one that it is a copy of.

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::disk::SimDisk;
use crate::lsn::{Lsn, SegmentSize};
use crate::wal::{NewLog, Wal};

use super::{append_flushed, options, stream};

#[test]
fn a_copy_of_a_primary_that_follows_it_takes_none_of_its_marks_for_its_own() {
    let (disk, dir) = (SimDisk::new(1), Path::new("/node"));
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let primary = Wal::create(Arc::new(disk.clone()), dir, new, &options()).unwrap();
    append_flushed(&primary, "both have it");
    primary.close().unwrap();
    let copied = disk.copy();
    let open = |disk: SimDisk| Wal::open(Arc::new(disk), dir, &options()).unwrap().0;
    let (primary, copy) = (open(disk), open(copied.clone()));
    assert_ne!(copy.control().own_from, Lsn::MAX);
    append_flushed(&primary, "only the primary wrote it");
    stream(&primary, &copy, 100);
    copy.close().unwrap();
    assert_eq!(open(copied).control().own_from, Lsn::MAX);
    assert_ne!(primary.control().own_from, Lsn::MAX);
    primary.close().unwrap();
}

#[test]
fn a_copy_of_another_node_s_files_is_a_new_life_each_time() {
    let (disk, dir) = (SimDisk::new(1), Path::new("/a"));
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let wal = Wal::create(Arc::new(disk.clone()), dir, new, &options()).unwrap();
    let own = wal.identity();
    assert!(!wal.claim("a", Uuid::from_u128(1)).unwrap());
    assert_eq!(wal.identity(), own, "they were nobody's yet");
    wal.close().unwrap();
    drop(wal);
    let open = |disk: &SimDisk| {
        Wal::open(Arc::new(disk.clone()), dir, &options())
            .unwrap()
            .0
    };
    for life in [2, 3] {
        let life = Uuid::from_u128(life);
        let disk = disk.copy();
        let copy = open(&disk);
        assert!(copy.claim("b", life).unwrap());
        assert!(!copy.claim("b", Uuid::from_u128(9)).unwrap());
        copy.close().unwrap();
        drop(copy);
        let found = open(&disk).identity();
        assert_eq!((found.incarnation, found.node_id), (life, own.node_id));
    }
    let wal = open(&disk);
    assert!(!wal.claim("a", Uuid::from_u128(4)).unwrap());
    assert_eq!(wal.identity(), own);
}
