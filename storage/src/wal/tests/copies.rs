//! A directory that was copied, and follows the one that it is a copy of.

use std::path::Path;
use std::sync::Arc;

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
