//! A segment that is truncated, flipped, missing or swapped.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{DAMAGED, ROWS, assert_filled, assert_unchanged, contents, filled, value};
use crate::support::{Done, Start, assert_says, mainstay};

fn segment(start: &Start, number: u64) -> PathBuf {
    start
        .data()
        .join("wal")
        .join(format!("0000000100000000{number:08X}"))
}

/// Damages a filled node's log, and checks that the node refuses to start and names `file`, that
/// this changed nothing, and that mending the damage brings everything back.
#[track_caller]
fn refuses(damage: impl FnOnce(&Start), file: u64, parts: &[&str]) -> Done {
    let dir = TempDir::new().unwrap();
    let start = filled(&dir);
    let whole = contents(&start.data().join("wal"));
    damage(&start);
    let damaged = contents(&start.data());
    let done = start.refused();
    assert_eq!(done.code, DAMAGED, "{done:?}");
    let name = segment(&start, file)
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    assert_says(
        &done.err,
        &[&name, "is damaged", "corruption", "Nothing was changed"],
    );
    assert_says(&done.err, &["--follow", "--accept-loss-from"]);
    assert_says(&done.err, parts);
    assert_unchanged(&damaged, &start.data());
    let verify = mainstay(["wal".as_ref(), "verify".as_ref(), start.data().as_os_str()]);
    assert_eq!(verify.code, DAMAGED, "{verify:?}");
    assert_says(&verify.err, &[&name, "is damaged"]);
    for (path, bytes) in whole {
        fs::write(path, bytes).unwrap();
    }
    assert_filled(&start.start());
    done
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_a_segment_is_named() {
    refuses(
        |start| flip(&segment(start, 2), 500_000),
        2,
        &["record at 0/2"],
    );
}

#[test]
fn a_flipped_bit_in_the_last_segment_is_named_although_it_could_be_taken_for_a_torn_write() {
    refuses(
        |start| flip(&segment(start, 4), 200_000),
        4,
        &["record at 0/4"],
    );
}

#[test]
fn a_truncated_segment_is_named() {
    let truncate = |start: &Start| {
        let file = fs::File::options()
            .write(true)
            .open(segment(start, 3))
            .unwrap();
        file.set_len(400_000).unwrap();
    };
    refuses(truncate, 3, &["record at 0/3"]);
}

#[test]
fn a_missing_segment_is_named() {
    refuses(
        |start| fs::remove_file(segment(start, 2)).unwrap(),
        2,
        &["at 0/200000"],
    );
}

#[test]
fn a_missing_last_segment_is_named() {
    let remove = |start: &Start| {
        let names = fs::read_dir(start.data().join("wal")).unwrap();
        let names = names.map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
        // Prepared segments behind the end are of no use without it.
        for path in names {
            let name = path.file_name().unwrap().to_string_lossy();
            if name.len() == 24 && *name >= *"000000010000000000000004" {
                fs::remove_file(&path).unwrap();
            }
        }
    };
    refuses(remove, 4, &["at 0/400000"]);
}

#[test]
fn swapped_segments_are_named() {
    let swap = |start: &Start| {
        let (one, other) = (segment(start, 2), segment(start, 3));
        let aside = one.with_extension("aside");
        fs::rename(&one, &aside).unwrap();
        fs::rename(&other, &one).unwrap();
        fs::rename(&aside, &other).unwrap();
    };
    refuses(swap, 2, &["at 0/200000"]);
}

#[test]
fn loss_is_accepted_from_exactly_the_position_that_the_error_names() {
    let dir = TempDir::new().unwrap();
    let start = filled(&dir);
    flip(&segment(&start, 3), 500_000);
    let done = start.refused();
    assert_eq!(done.code, DAMAGED, "{done:?}");
    let named = done
        .err
        .rsplit("--accept-loss-from ")
        .next()
        .unwrap()
        .trim()
        .to_owned();
    let wrong = start
        .clone()
        .arg("--accept-loss-from", "0/300000")
        .refused();
    assert_eq!(wrong.code, DAMAGED, "{wrong:?}");
    let mut node = start.clone().arg("--accept-loss-from", &named).start();
    let rows = node.http.rows("t");
    assert!((15..ROWS).contains(&rows.len()), "{} rows", rows.len());
    for (row, (key, found)) in rows.iter().enumerate() {
        assert!(*key == format!("{row:04}") && *found == value(row), "{key}");
    }
    // What was given up is kept beside the log, and the node goes on without the flag.
    assert!(fs::read_dir(node.data().join("set-aside")).unwrap().count() > 0);
    node.http.put("t", "9999", b"new").ok();
    node.kill();
    let node = start.start();
    assert_eq!(node.http.get("t", "9999").ok().body, b"new");
    assert_eq!(node.http.rows("t").len(), rows.len() + 1);
}
