//! The commit position: what is told of it counts once, as far as the log is there.

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::{append_flushed, create, open};
use crate::disk::{CrashMode, SimDisk};
use crate::entry::{WalEntry, WalEntryType};
use crate::error::Error;
use crate::lsn::{Lsn, SegmentSize};
use crate::wal::{NewLog, Wal, WalOptions};

const DIR: &str = "/node";

fn options() -> WalOptions {
    WalOptions {
        driven: true,
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 7)
    }
}

/// A standby's log, in which something is flushed.
fn standby() -> (SimDisk, Wal) {
    let disk = SimDisk::new(1);
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let wal = Wal::create(Arc::new(disk.clone()), Path::new(DIR), new, &options()).unwrap();
    wal.set_commit_follows(false);
    put(&wal);
    while wal.drive() {}
    (disk, wal)
}

fn put(wal: &Wal) -> Lsn {
    let entry = WalEntry::new(WalEntryType::Insert, None, vec![7; 100]);
    wal.append(&[entry]).unwrap().end
}

/// Lets the log have its bytes up to `end`, without a sync.
fn seal(wal: &Wal, end: Lsn) {
    while wal.sealed().get() < end {
        assert!(wal.drive(), "nothing to do");
    }
}

/// Commit, replayable, flushed.
fn positions(wal: &Wal) -> [Lsn; 3] {
    [wal.commit(), wal.replayable(), wal.flushed()].map(|position| position.get())
}

#[test]
fn what_a_primary_committed_is_replayed_once_sealed_and_committed_once_flushed() {
    let (_, wal) = standby();
    let [_, _, flushed] = positions(&wal);
    let (first, second) = (put(&wal), put(&wal));
    wal.follow_commit(first);
    assert_eq!(
        positions(&wal),
        [flushed; 3],
        "what is there already counts"
    );
    seal(&wal, second);
    assert_eq!(positions(&wal), [flushed, first, flushed]);
    // In between it may be told more.
    wal.follow_commit(second);
    assert_eq!(positions(&wal), [flushed, second, flushed]);
    while wal.drive() {}
    assert_eq!(positions(&wal), [second; 3]);
    // Less than it knows changes nothing.
    wal.follow_commit(first);
    assert_eq!(positions(&wal), [second; 3]);
}

#[test]
fn what_a_primary_committed_does_not_count_before_it_is_there() {
    let (_, wal) = standby();
    let first = put(&wal);
    wal.follow_commit(first + 4096);
    let second = put(&wal);
    while wal.drive() {}
    assert_eq!(positions(&wal), [first, first, second]);
}

#[test]
fn no_cut_takes_what_may_have_been_replayed_and_a_rewind_forgets_that_it_was_committed() {
    let (_, wal) = standby();
    let kept = wal.flushed().get();
    put(&wal);
    while wal.drive() {}
    let told = put(&wal);
    wal.follow_commit(told);
    seal(&wal, told);
    let refused = wal.cut(kept);
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    wal.rewind(kept).unwrap().expect("there was more");
    assert_eq!(positions(&wal), [kept; 3]);
    // Other log lies there now.
    let other = put(&wal);
    while wal.drive() {}
    assert_eq!(positions(&wal), [kept, kept, other]);
}

#[test]
fn no_cut_takes_what_is_replayed_while_it_waits_for_the_disk() {
    let (_, wal) = standby();
    let kept = wal.flushed().get();
    let told = put(&wal);
    wal.follow_commit(told);
    let refused = wal.cut(kept);
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(positions(&wal), [told; 3]);
}

#[test]
fn a_power_cut_takes_what_was_replayed_ahead_and_nothing_that_was_shown() {
    let (disk, wal) = standby();
    let first = put(&wal);
    wal.follow_commit(first);
    while wal.drive() {}
    let second = put(&wal);
    wal.follow_commit(second);
    seal(&wal, second);
    assert_eq!(positions(&wal), [first, second, first]);
    disk.crash(CrashMode::LoseUnsynced);
    drop(wal);
    let (wal, _) = Wal::open(Arc::new(disk), Path::new(DIR), &options()).unwrap();
    assert_eq!(wal.flushed().get(), first, "as far as was shown");
}

#[test]
fn where_the_commit_position_follows_so_does_what_may_be_replayed() {
    let (_, wal) = standby();
    wal.set_commit_follows(true);
    let end = put(&wal);
    while wal.drive() {}
    assert_eq!(positions(&wal), [end; 3]);
}

#[test]
fn a_commit_position_that_was_shown_is_known_after_a_kill() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    wal.set_commit_follows(false);
    let shown = append_flushed(&wal, "committed elsewhere too").end;
    append_flushed(&wal, "not yet");
    wal.advance_commit(shown);
    drop(wal);
    let (wal, recovered) = open(dir.path());
    assert!(!recovered.clean);
    assert_eq!(wal.commit().get(), shown);
}
