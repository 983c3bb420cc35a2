//! Data directories that cannot be used: of another cluster, of a newer format, in use, read-only,
//! full, of a standby.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use mainstay::{Database, Error, LsmOptions, SegmentSize, WalOptions};
use mainstay_storage::checksum;
use tempfile::TempDir;

use super::mounts::Mount;
use super::{
    FAILED, REFUSED, ROWS, assert_filled, assert_unchanged, contents, fill, filled, start,
    start_in, value,
};
use crate::support::{Start, assert_says, until};

#[test]
fn a_directory_of_another_cluster_does_not_follow() {
    let dir = TempDir::new().unwrap();
    let start_a = filled(&dir);
    let other = start(&dir, "other").start();
    other.http.put("t", "0000", b"of the other cluster").ok();
    let mut astray = start_a.clone().follow(&other).start();
    until("it says that this is wrong", || {
        astray
            .said()
            .contains("cannot follow why=the upstream belongs to cluster")
    });
    assert_eq!(astray.http.status()["status"], "broken");
    assert_eq!(astray.http.put("t", "0000", b"changed").status, 421);
    astray.terminate();
    // It was a primary before, and is one again.
    let node = start_a.start();
    assert_filled(&node);
    node.http.put("more", "1", b"1").ok();
    assert_eq!(other.http.rows("t").len(), 1);
    assert_eq!(other.http.status()["standbys"], serde_json::json!([]));
}

#[test]
fn a_standbys_directory_does_not_start_as_a_primary() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    let mut standby = start(&dir, "b").follow(&primary).start();
    let end = fill(&primary);
    standby.http.wait_for(end);
    standby.terminate();
    let alone = start(&dir, "b");
    let done = alone.refused();
    assert_eq!(done.code, REFUSED, "{done:?}");
    assert_says(&done.err, &["standby", "--follow"]);
    let standby = alone.follow(&primary).start();
    assert_filled(&standby);
    assert_eq!(standby.http.status()["role"], "standby");
}

#[test]
fn a_promoted_standbys_directory_starts_as_a_primary() {
    let dir = TempDir::new().unwrap();
    let mut primary = start(&dir, "a").start();
    let mut standby = start(&dir, "b").follow(&primary).start();
    let end = fill(&primary);
    standby.http.wait_for(end);
    primary.kill();
    standby.http.promote();
    standby.kill();
    let node = start(&dir, "b").start();
    assert_eq!(node.http.status()["role"], "primary");
    assert_filled(&node);
    node.http.put("more", "1", b"1").ok();
}

/// Rewrites both slots of a control file as a newer version would.
fn make_control_newer(start: &Start) {
    const SLOT: usize = 32 << 10;
    let path = start.data().join("control");
    let mut bytes = fs::read(&path).unwrap();
    for slot in bytes[..2 * SLOT].chunks_mut(SLOT) {
        slot[8..12].copy_from_slice(&9_u32.to_le_bytes());
        let length = u32::from_le_bytes(slot[12..16].try_into().unwrap()) as usize;
        let crc = checksum(&[&slot[..24], &slot[28..28 + length]].concat());
        slot[24..28].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

/// Rewrites a segment's header as a newer version would.
fn make_segment_newer(start: &Start) {
    let path = start.data().join("wal/000000010000000000000003");
    let mut bytes = fs::read(&path).unwrap();
    let (record, payload) = bytes.split_at_mut(32);
    assert_eq!(&payload[..8], b"MAINSTAY");
    payload[8..12].copy_from_slice(&9_u32.to_le_bytes());
    // System id, timeline number, promotion id and LSN, the header without its CRC, the payload.
    let covered = [
        &payload[16..24],
        &payload[24..28],
        &payload[32..48],
        &payload[56..64],
        &record[..4],
        &record[8..],
        &payload[..80],
    ];
    let crc = checksum(&covered.concat());
    record[4..8].copy_from_slice(&crc.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// Checks that a node refuses a directory that was changed so, names what is newer, and changes
/// nothing.
#[track_caller]
fn is_left_alone(make_newer: impl FnOnce(&Start), says: &str) {
    let dir = TempDir::new().unwrap();
    let start = filled(&dir);
    let ours = contents(&start.data());
    make_newer(&start);
    let newer = contents(&start.data());
    let done = start.refused();
    assert_eq!(done.code, REFUSED, "{done:?}");
    assert_says(
        &done.err,
        &[says, "this version reads up to", "version that wrote it"],
    );
    assert_unchanged(&newer, &start.data());
    for (path, bytes) in ours {
        fs::write(path, bytes).unwrap();
    }
    assert_filled(&start.start());
}

#[test]
fn a_control_file_of_a_newer_format_is_left_alone() {
    is_left_alone(make_control_newer, "control has format 9");
}

#[test]
fn a_segment_of_a_newer_format_is_left_alone() {
    is_left_alone(make_segment_newer, "000000010000000000000003 has format 9");
}

#[test]
fn a_directory_in_use_is_refused_and_its_node_goes_on() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    fill(&node);
    let done = node.start().refused();
    assert_eq!(done.code, FAILED, "{done:?}");
    assert_says(
        &done.err,
        &[&node.data().to_string_lossy(), "in use by another process"],
    );
    assert_filled(&node);
    // The same with the other role: an upstream changes nothing about the lock.
    let done = node.start().clone().follow(&node).refused();
    assert_says(&done.err, &["in use by another process"]);
    node.http.put("more", "1", b"1").ok();
}

#[test]
fn a_read_only_directory_is_named() {
    let dir = TempDir::new().unwrap();
    let start = filled(&dir);
    let at = dir.path().join("mounted");
    let Some(mount) = Mount::read_only(&start.data(), &at.join("a")) else {
        return;
    };
    let before = contents(&start.data());
    let done = start_in(&at, "a").refused();
    assert_eq!(done.code, FAILED, "{done:?}");
    assert_says(
        &done.err,
        &[&at.join("a").to_string_lossy(), "Read-only file system"],
    );
    assert_unchanged(&before, &start.data());
    drop(mount);
    assert_filled(&start.start());
}

#[test]
fn on_a_full_disk_writes_are_refused_until_there_is_space() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("small");
    let Some(mount) = Mount::memory(&at, "40m") else {
        return;
    };
    let ballast = at.join("ballast");
    fs::write(&ballast, vec![1; 24 << 20]).unwrap();
    let mut node = start_in(&at, "a").start();
    let mut acknowledged = 0;
    let refused = loop {
        let answer = node
            .http
            .put("t", &format!("{acknowledged:04}"), &value(acknowledged));
        if answer.status != 200 {
            break answer;
        }
        acknowledged += 1;
        assert!(acknowledged < 400, "the disk is never full");
    };
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert_says(
        &refused.text(),
        &["no space left", "nothing was written", "resumes by itself"],
    );
    assert!(acknowledged >= 10, "{acknowledged} rows");
    let check = |rows: crate::support::Rows| {
        for (row, (key, found)) in rows.iter().enumerate() {
            assert!(*key == format!("{row:04}") && *found == value(row), "{key}");
        }
        assert_eq!(rows.len(), acknowledged);
    };
    check(node.http.rows("t"));
    // Even so it can be killed and started again.
    node.kill();
    node = node.start().clone().start();
    check(node.http.rows("t"));
    fs::remove_file(&ballast).unwrap();
    until("writing resumes by itself", || {
        node.http
            .put("t", &format!("{acknowledged:04}"), &value(acknowledged))
            .status
            == 200
    });
    acknowledged += ROWS;
    for row in acknowledged - ROWS..acknowledged {
        node.http.put("t", &format!("{row:04}"), &value(row)).ok();
    }
    node.kill();
    node = node.start().clone().start();
    assert_eq!(node.http.rows("t").len(), acknowledged);
    node.terminate();
    drop(node);
    drop(mount);
}

/// Takes all the space that is left in `dir`.
fn fill_up(dir: &Path) {
    let mut ballast = fs::File::create(dir.join("ballast")).unwrap();
    let mut chunk = 1 << 20;
    while chunk > 0 {
        if ballast.write_all(&vec![1; chunk]).is_err() {
            chunk /= 2;
        }
    }
}

/// A value that several of fit into a memtable, or, every tenth time, one that does not.
fn small(row: usize) -> Vec<u8> {
    let len = if row % 10 == 9 { 120_000 } else { 12_000 };
    vec![b'a' + (row % 26) as u8; len]
}

#[test]
fn a_store_whose_disk_was_full_goes_on_by_itself() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("small");
    let Some(mount) = Mount::memory(&at, "64m") else {
        return;
    };
    let log = WalOptions {
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 0)
    };
    let store = LsmOptions {
        memtable_bytes: 64 << 10,
        table_bytes: 64 << 10,
        ..LsmOptions::default()
    };
    let open = || Database::open_with(at.join("a"), &log, store.clone()).unwrap();
    let db = open();
    // The segment at hand has room for more than memory takes.
    db.put("t", b"0000", &small(0)).unwrap();
    fill_up(&at);
    let writing = db.clone();
    let writer = std::thread::spawn(move || {
        for row in 1..400 {
            let key = format!("{row:04}");
            until("it is written", || {
                match writing.put("t", key.as_bytes(), &small(row)) {
                    Ok(_) => true,
                    Err(Error::Storage(mainstay_storage::Error::Full { .. })) => false,
                    Err(error) => panic!("{error}"),
                }
            });
        }
    });
    until("its store has met the full disk", || {
        // A table that was begun, and for which there was nothing.
        let tables = fs::read_dir(at.join("a/store/tables")).unwrap();
        let mut sizes = tables.map(|table| table.unwrap().metadata().map_or(1, |it| it.len()));
        sizes.any(|size| size == 0) || writer.is_finished()
    });
    fs::remove_file(at.join("ballast")).unwrap();
    writer.join().expect("writing resumes by itself");
    let check = |db: &Database| {
        let snapshot = db.snapshot().unwrap();
        for row in 0..400 {
            let found = snapshot.get("t", format!("{row:04}").as_bytes()).unwrap();
            assert!(found.is_some_and(|found| *found == small(row)), "{row}");
        }
    };
    check(&db);
    db.close().unwrap();
    drop(db);
    check(&open());
    drop(mount);
}

#[test]
fn a_new_node_on_a_full_disk_says_so_and_starts_once_there_is_space() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("small");
    let Some(mount) = Mount::memory(&at, "20m") else {
        return;
    };
    let ballast = at.join("ballast");
    fs::write(&ballast, vec![1; (20 << 20) - (256 << 10)]).unwrap();
    let start = start_in(&at, "a");
    let done = start.refused();
    assert_says(&done.err, &["space"]);
    fs::remove_file(&ballast).unwrap();
    let node = start.start();
    node.http.put("t", "1", b"1").ok();
    drop(node);
    drop(mount);
}

#[test]
fn a_standby_without_room_for_the_copy_says_so_and_is_filled_when_there_is() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    for row in 0..30 {
        let value = vec![b'x'; 100_000];
        primary.http.put("large", &format!("{row:02}"), &value).ok();
    }
    let standby = start(&dir, "b").follow(&primary);
    let Some(small) = Mount::memory(&standby.data(), "2m") else {
        return;
    };
    let done = standby.refused();
    assert_says(&done.err, &["no space left", "bootstrap"]);
    assert!(!standby.data().join("control").exists());
    drop(small);
    let standby = standby.start();
    standby.http.wait_for(primary.http.position("commit"));
    assert_eq!(standby.http.rows("large").len(), 30);
}
