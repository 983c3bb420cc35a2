//! Transfers and conversions that end in the middle: nothing half-done ever starts.

use std::path::Path;

use tempfile::TempDir;

use super::{assert_same_rows, backup, fill, restore, start, verify};
use crate::support::{Proxy, Then, assert_says, mainstay, until};

/// Bytes after which a transfer breaks: in the middle of the store.
const MIDDLE: u64 = 1 << 20;

#[test]
fn a_standby_that_was_killed_while_it_was_filled_begins_again() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 20);
    let proxy = Proxy::to(&primary.replication, MIDDLE, Then::Hold, 1);
    let standby = start(&dir, "b");
    let begun = standby.clone().arg("--follow", proxy.url()).begin();
    until("the transfer stops in the middle", || proxy.broken() == 1);
    until("something is there", || {
        standby.data().join("bootstrap").exists()
    });
    drop(begun);
    assert!(!standby.data().join("control").exists());
    let refused = standby.refused();
    assert_says(&refused.err, &["interrupted", "follow"]);
    assert!(!standby.data().join("control").exists());
    let standby = standby.follow(&primary).start();
    assert_same_rows(&standby, &primary, "t");
    assert!(!standby.data().join("bootstrap").exists());
}

#[test]
fn a_standby_that_is_being_filled_stops_when_it_is_told_to() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 20);
    let proxy = Proxy::to(&primary.replication, MIDDLE, Then::Hold, 1);
    let standby = start(&dir, "b").arg("--follow", proxy.url());
    let mut begun = standby.begin();
    until("the transfer stops in the middle", || proxy.broken() == 1);
    assert_eq!(begun.interrupt(), Some(0), "{}", begun.said());
    let standby = standby.start();
    assert_same_rows(&standby, &primary, "t");
}

#[test]
fn a_transfer_that_breaks_off_begins_again_by_itself() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 20);
    let proxy = Proxy::to(&primary.replication, MIDDLE, Then::Cut, 2);
    let standby = start(&dir, "b").arg("--follow", proxy.url()).start();
    assert_eq!(proxy.broken(), 2);
    assert_same_rows(&standby, &primary, "t");
    let proxy = Proxy::to(&primary.replication, MIDDLE, Then::Cut, 2);
    let kept = dir.path().join("kept");
    let into = kept.to_string_lossy().into_owned();
    mainstay(["backup", "--from", &proxy.url(), &into]).ok();
    assert_eq!(proxy.broken(), 2);
    verify(&kept).ok();
}

#[test]
fn a_backup_that_was_interrupted_is_no_backup() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 5);
    let kept = dir.path().join("b");
    backup(&primary, &kept, &[]).ok();
    std::fs::remove_file(kept.join("backup_manifest")).unwrap();
    for done in [
        verify(&kept),
        restore(&kept, &dir.path().join("c")),
        start(&dir, "b").refused(),
        start(&dir, "b").follow(&primary).refused(),
    ] {
        assert_ne!(done.code, Some(0));
        assert_says(&done.err, &["backup_manifest", "interrupted", "again"]);
    }
    assert!(!dir.path().join("c").exists());
    assert!(!kept.join("control").exists() && kept.join("backup_label").exists());
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        match path.is_dir() {
            true => copy_tree(&path, &to),
            false => drop(std::fs::copy(&path, &to).unwrap()),
        }
    }
}

#[test]
fn a_backup_without_its_label_is_no_backup() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 5);
    let kept = dir.path().join("b");
    backup(&primary, &kept, &[]).ok();
    std::fs::remove_file(kept.join("backup_label")).unwrap();
    for done in [
        verify(&kept),
        restore(&kept, &dir.path().join("c")),
        start(&dir, "b").refused(),
        start(&dir, "b").follow(&primary).refused(),
    ] {
        assert_ne!(done.code, Some(0));
        assert_says(
            &done.err,
            &["backup_label is missing", "take the backup again"],
        );
    }
    assert!(!dir.path().join("c").exists() && !kept.join("control").exists());
}

#[test]
fn a_conversion_that_was_killed_anywhere_is_done_by_the_next_start() {
    let dir = TempDir::new().unwrap();
    let mut primary = start(&dir, "a").start();
    fill(&primary, "row-", 10);
    let kept = dir.path().join("kept");
    backup(&primary, &kept, &[]).ok();
    restore(&kept, &dir.path().join("done")).ok();
    let rows = primary.http.rows("t");
    let (done, gone) = (dir.path().join("done"), primary.url());
    primary.kill();
    // The states that a kill can leave, made by hand, since none of them lasts a millisecond.
    type Damage<'a> = Box<dyn Fn(&Path) + 'a>;
    let states: [(&str, Damage<'_>); 4] = [
        (
            "marked",
            Box::new(|data| {
                std::fs::create_dir_all(data.join("bootstrap/prepared/wal")).unwrap();
                std::fs::create_dir_all(data.join("bootstrap/in_place")).unwrap();
                std::fs::write(data.join("bootstrap/prepared/wal/x"), b"half").unwrap();
            }),
        ),
        (
            "moved",
            Box::new(|data| {
                std::fs::create_dir_all(data.join("bootstrap/in_place")).unwrap();
                copy_tree(&done.join("wal"), &data.join("wal"));
            }),
        ),
        (
            "complete",
            Box::new(|data| {
                std::fs::create_dir_all(data.join("bootstrap/in_place")).unwrap();
                copy_tree(&done.join("wal"), &data.join("wal"));
                std::fs::copy(done.join("control"), data.join("control")).unwrap();
            }),
        ),
        (
            "cleaned",
            Box::new(|data| {
                std::fs::create_dir_all(data.join("bootstrap/in_place")).unwrap();
                copy_tree(&done.join("wal"), &data.join("wal"));
                std::fs::copy(done.join("control"), data.join("control")).unwrap();
                std::fs::remove_file(data.join("backup_label")).unwrap();
                std::fs::remove_file(data.join("backup_manifest")).unwrap();
            }),
        ),
    ];
    for (name, state) in states {
        let data = dir.path().join(name);
        copy_tree(&kept, &data);
        state(&data);
        let node = start(&dir, name).arg("--follow", &gone).start();
        assert!(node.http.rows("t") == rows, "{name}");
        for left in ["bootstrap", "backup_label", "backup_manifest", "pg_wal"] {
            assert!(!data.join(left).exists(), "{name}: {left} is left");
        }
    }
}

#[test]
fn a_start_on_a_backup_may_be_killed_at_any_time() {
    let dir = TempDir::new().unwrap();
    let mut primary = start(&dir, "a").start();
    fill(&primary, "row-", 20);
    let kept = dir.path().join("kept");
    backup(&primary, &kept, &[]).ok();
    let (rows, gone) = (primary.http.rows("t"), primary.url());
    primary.kill();
    let data = dir.path().join("b");
    copy_tree(&kept, &data);
    let node = start(&dir, "b").arg("--follow", &gone);
    for reached in [
        "lock",
        "bootstrap",
        "bootstrap/prepared/wal",
        "wal",
        "control",
    ] {
        let begun = node.begin();
        until(reached, || data.join(reached).exists());
        drop(begun);
    }
    assert!(node.start().http.rows("t") == rows);
}

#[test]
fn a_restore_that_was_killed_is_repeated() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 10);
    let kept = dir.path().join("kept");
    backup(&primary, &kept, &[]).ok();
    let data = dir.path().join("b");
    copy_tree(&kept.join("store"), &data.join("bootstrap/unpacked/store"));
    copy_tree(&kept.join("store"), &data.join("store"));
    let refused = start(&dir, "b").refused();
    assert_says(&refused.err, &["interrupted", "restore"]);
    restore(&kept, &data).ok();
    let standby = start(&dir, "b").follow(&primary).start();
    assert_same_rows(&standby, &primary, "t");
}
