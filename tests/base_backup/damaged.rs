//! Backups that must not be used, and places where none may go: each says what, where and how to
//! mend it, and changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::stock::pg_basebackup;
use super::{backup, fill, restore, start, verify};
use crate::support::{Done, Node, assert_says};

/// Everything below a directory.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(content(&path)),
            false => drop(found.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    found
}

struct Kept {
    dir: TempDir,
    primary: Node,
    backup: PathBuf,
}

/// A node with rows, and a backup of it where `b`'s data would be.
fn kept() -> Kept {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 5);
    let backup_dir = dir.path().join("b");
    backup(&primary, &backup_dir, &[]).ok();
    Kept {
        primary,
        backup: backup_dir,
        dir,
    }
}

impl Kept {
    /// Checks that verifying, restoring and starting all refuse, with these words, and change
    /// nothing.
    #[track_caller]
    fn assert_refused(&self, words: &[&str]) {
        let before = content(&self.backup);
        let target = self.dir.path().join("target");
        let tried: [Done; 3] = [
            verify(&self.backup),
            restore(&self.backup, &target),
            start(&self.dir, "b").follow(&self.primary).refused(),
        ];
        for done in tried {
            assert_eq!(done.code, Some(5), "{done:?}");
            assert_says(&done.err, words);
            assert_says(&done.err, &["take the backup again"]);
        }
        assert!(content(&self.backup) == before, "something was changed");
        assert!(!target.exists(), "something was created");
    }
}

#[test]
fn a_manifest_with_one_flipped_digit_is_refused() {
    let kept = kept();
    let path = kept.backup.join("backup_manifest");
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text.find("\"Size\": ").unwrap() + "\"Size\": ".len();
    let mut bytes = text.into_bytes();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    kept.assert_refused(&["backup_manifest", "checksum", "damaged or edited"]);
}

#[test]
fn the_first_damaged_file_is_named() {
    let kept = kept();
    let table = std::fs::read_dir(kept.backup.join("store/tables")).unwrap();
    let table = table.map(|entry| entry.unwrap().path()).min().unwrap();
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let name = table.to_string_lossy().into_owned();
    kept.assert_refused(&[&name, "CRC32C", "the manifest says"]);
    std::fs::write(&table, b"short").unwrap();
    kept.assert_refused(&[&name, "5 bytes"]);
    std::fs::remove_file(&table).unwrap();
    kept.assert_refused(&[&name, "missing"]);
}

#[test]
fn a_file_that_nobody_listed_is_refused() {
    let kept = kept();
    std::fs::write(kept.backup.join("store/tables/99"), b"?").unwrap();
    kept.assert_refused(&["store/tables/99", "not in the manifest"]);
}

#[test]
fn log_that_is_damaged_or_missing_is_refused() {
    let kept = kept();
    let segment = kept.backup.join("pg_wal/000000010000000000000001");
    let whole = std::fs::read(&segment).unwrap();
    let mut bytes = whole.clone();
    bytes[300_000] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    kept.assert_refused(&["pg_wal/000000010000000000000001", "damaged"]);
    std::fs::write(&segment, &whole[..whole.len() / 2]).unwrap();
    kept.assert_refused(&["pg_wal/000000010000000000000001", "ends at"]);
    std::fs::remove_file(&segment).unwrap();
    kept.assert_refused(&["pg_wal/000000010000000000000001", "-X stream"]);
}

#[test]
fn log_of_another_cluster_is_refused() {
    let kept = kept();
    let other = start(&kept.dir, "other").start();
    fill(&other, "row-", 5);
    let foreign = kept.dir.path().join("foreign");
    backup(&other, &foreign, &[]).ok();
    let name = "pg_wal/000000010000000000000001";
    std::fs::copy(foreign.join(name), kept.backup.join(name)).unwrap();
    kept.assert_refused(&[name, "not that of cluster"]);
}

#[test]
fn a_backup_of_another_cluster_is_not_started_on() {
    let kept = kept();
    let other = start(&kept.dir, "other").start();
    fill(&other, "row-", 1);
    let before = content(&kept.backup);
    let done = start(&kept.dir, "b").follow(&other).refused();
    assert_eq!(done.code, Some(4), "{done:?}");
    assert_says(
        &done.err,
        &["belongs to cluster", &other.replication, "point it at"],
    );
    assert!(content(&kept.backup) == before);
    drop(start(&kept.dir, "b").follow(&kept.primary).start());
}

#[test]
fn archives_of_another_cluster_are_not_started_on() {
    let kept = kept();
    let other = start(&kept.dir, "other").start();
    fill(&other, "row-", 1);
    let archives = kept.dir.path().join("c");
    let options = ["-Ft", "-X", "stream"];
    let Some(done) = pg_basebackup(&kept.primary, &archives, &options) else {
        return;
    };
    done.ok();
    let before = content(&archives);
    let done = start(&kept.dir, "c").follow(&other).refused();
    assert_eq!(done.code, Some(4), "{done:?}");
    assert_says(&done.err, &["belongs to cluster", &other.replication]);
    assert!(content(&archives) == before);
}

#[test]
fn damaged_archives_are_refused_and_kept() {
    let kept = kept();
    let archives = kept.dir.path().join("c");
    let options = ["-Ft", "-X", "stream"];
    let Some(done) = pg_basebackup(&kept.primary, &archives, &options) else {
        return;
    };
    done.ok();
    let path = archives.join("base.tar");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let before = content(&archives);
    let target = kept.dir.path().join("target");
    for done in [
        restore(&archives, &target),
        start(&kept.dir, "c").follow(&kept.primary).refused(),
    ] {
        assert_eq!(done.code, Some(5), "{done:?}");
        assert_says(&done.err, &["the manifest says"]);
    }
    let mut after = content(&archives);
    after.remove(&archives.join("lock"));
    assert!(after == before);
    assert!(!target.join("bootstrap").exists() && !target.join("control").exists());
}

#[test]
fn a_directory_that_is_not_empty_is_neither_restored_nor_backed_up_into() {
    let kept = kept();
    let target = kept.dir.path().join("target");
    std::fs::create_dir_all(&target).unwrap();
    std::fs::write(target.join("precious"), b"1").unwrap();
    for done in [
        restore(&kept.backup, &target),
        backup(&kept.primary, &target, &[]),
    ] {
        assert_eq!(done.code, Some(4), "{done:?}");
        assert_says(
            &done.err,
            &["target is not empty", "precious", "choose an empty"],
        );
    }
    assert_eq!(content(&target).len(), 1);
    let done = restore(&kept.backup, &kept.primary.data());
    assert_eq!(done.code, Some(4), "{done:?}");
    let done = restore(&target, &kept.dir.path().join("c"));
    assert_says(&done.err, &["target is no base backup"]);
}

#[test]
fn a_backup_without_its_log_says_how_to_take_it() {
    let kept = kept();
    let none = kept.dir.path().join("none");
    let Some(done) = pg_basebackup(&kept.primary, &none, &["-X", "none"]) else {
        return;
    };
    done.ok();
    let done = verify(&none);
    assert_eq!(done.code, Some(5));
    assert_says(&done.err, &["pg_wal", "missing", "-X stream"]);
}

#[test]
fn compressed_archives_are_refused_with_the_way_out() {
    let kept = kept();
    let zipped = kept.dir.path().join("c");
    let options = ["-Ft", "-z", "-X", "fetch"];
    let Some(done) = pg_basebackup(&kept.primary, &zipped, &options) else {
        return;
    };
    done.ok();
    let before = content(&zipped);
    for done in [verify(&zipped), start(&kept.dir, "c").refused()] {
        assert_says(&done.err, &["base.tar.gz", "decompress"]);
    }
    assert!(content(&zipped) == before);
}
