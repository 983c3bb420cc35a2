//! Base backups: by PostgreSQL's tool, by our own verbs, and as the way a standby begins.

mod damaged;
mod interrupted;
mod stock;
mod verbs;

use std::path::Path;

use tempfile::TempDir;

use crate::support::{Done, Node, Start, mainstay};

/// A node in small segments, so that a backup has several.
fn start(dir: &TempDir, name: &str) -> Start {
    Start::new(dir.path(), name).arg("--segment-size", "1MiB")
}

/// Writes `count` rows of some 100 kB; returns the end of the last.
fn fill(node: &Node, prefix: &str, count: usize) -> u64 {
    let value = |row: usize| vec![b'a' + (row % 26) as u8; 90_000 + 777 * row];
    let rows = 0..count;
    let written = rows.map(|row| {
        node.http
            .put("t", &format!("{prefix}{row:03}"), &value(row))
    });
    let ends = written.map(|answer| answer.ok().lsn());
    ends.max().expect("there are rows")
}

/// Checks that `node`, once it is there, has the rows that `other` has.
#[track_caller]
fn assert_same_rows(node: &Node, other: &Node, table: &str) {
    node.http.wait_for(other.http.position("commit"));
    let (left, right) = (node.http.rows(table), other.http.rows(table));
    assert!(!right.is_empty());
    assert_eq!(left.len(), right.len());
    for (key, value) in right {
        assert!(left.get(&key) == Some(&value), "{key} differs");
    }
}

/// Runs `mainstay backup` of `node` into `into`.
fn backup(node: &Node, into: &Path, more: &[&str]) -> Done {
    let (url, into) = (node.url(), into.to_string_lossy());
    let mut args = vec!["backup", "--from", &url, &into];
    args.extend(more);
    mainstay(args)
}

/// Runs `mainstay backup verify`.
fn verify(dir: &Path) -> Done {
    mainstay(["backup".as_ref(), "verify".as_ref(), dir.as_os_str()])
}

/// Runs `mainstay restore`.
fn restore(from: &Path, data: &Path) -> Done {
    let (from, data) = (from.as_os_str(), data.as_os_str());
    mainstay(["restore".as_ref(), from, "--data".as_ref(), data])
}
