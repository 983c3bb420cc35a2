//! Bad input: each gets a clear error, and nothing is lost by it.

mod damage;
mod directory;
mod mounts;
mod orders;
mod peers;
mod rows;
mod settings;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{Node, Start};

/// Rows that a filled node holds; they fill several segments.
const ROWS: usize = 30;

/// Exit codes of the command line.
const FAILED: Option<i32> = Some(1);
const USAGE: Option<i32> = Some(2);
const REFUSED: Option<i32> = Some(4);
const DAMAGED: Option<i32> = Some(5);

fn start(dir: &TempDir, name: &str) -> Start {
    start_in(dir.path(), name)
}

fn start_in(dir: &Path, name: &str) -> Start {
    Start::new(dir, name)
        .arg("--segment-size", "1MiB")
        .arg("--wal-keep-size", "1GiB")
}

fn value(row: usize) -> Vec<u8> {
    vec![b'a' + (row % 26) as u8; 120_000 + row]
}

/// Writes the rows, all acknowledged; returns where the last one ends.
fn fill(node: &Node) -> u64 {
    let ends = (0..ROWS).map(|row| {
        node.http
            .put("t", &format!("{row:04}"), &value(row))
            .ok()
            .lsn()
    });
    ends.max().expect("there are rows")
}

/// Checks that the node holds exactly the rows that were acknowledged.
#[track_caller]
fn assert_filled(node: &Node) {
    let rows = node.http.rows("t");
    assert_eq!(rows.len(), ROWS);
    for (row, (key, found)) in rows.iter().enumerate() {
        assert!(*key == format!("{row:04}") && *found == value(row), "{key}");
    }
}

/// A node's directory with all the rows in its log, as a power cut leaves it.
fn filled(dir: &TempDir) -> Start {
    let mut node = start(dir, "a").start();
    fill(&node);
    node.kill();
    node.start().clone()
}

/// Every file under `dir` with its content.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                files.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Checks that two looks at a directory found the same files with the same content.
#[track_caller]
fn assert_unchanged(before: &BTreeMap<PathBuf, Vec<u8>>, dir: &Path) {
    let after = contents(dir);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(&after));
    for (path, bytes) in before {
        assert!(after[path] == *bytes, "{} was changed", path.display());
    }
}
