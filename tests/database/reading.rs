//! What readers see: their own writes, one moment, ranges in order, tables apart.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mainstay::{Database, Result, WriteTransaction};
use tempfile::TempDir;

use super::{Found, open_small, rows, text};

#[test]
fn a_transaction_sees_its_own_writes_and_others_see_them_at_its_commit() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path()).unwrap();
    db.put("t", b"kept", b"old").unwrap();
    db.put("t", b"gone", b"old").unwrap();
    let mut tx = db.begin().unwrap();
    tx.put("t", b"kept", b"new").unwrap();
    tx.put("t", b"more", b"new").unwrap();
    tx.delete("t", b"gone").unwrap();
    tx.put("other", b"kept", b"new").unwrap();
    let own = |table: &str, key: &[u8]| tx.get(table, key).unwrap();
    assert_eq!(own("t", b"kept").as_deref(), Some(&b"new"[..]));
    assert_eq!(own("t", b"more").as_deref(), Some(&b"new"[..]));
    assert_eq!(own("t", b"gone"), None);
    assert_eq!(own("other", b"kept").as_deref(), Some(&b"new"[..]));
    assert_eq!(text(&db, "t", "kept").as_deref(), Some("old"));
    assert_eq!(text(&db, "t", "more"), None);
    assert_eq!(text(&db, "t", "gone").as_deref(), Some("old"));
    assert_eq!(db.snapshot().unwrap().tables().unwrap(), ["t"]);
    let receipt = tx.commit_blocking().unwrap();
    let after = db.snapshot().unwrap();
    assert!(after.lsn() >= receipt.lsn);
    let expected = [("kept", "new"), ("more", "new")];
    assert_eq!(rows(&after, "t"), found(&expected));
    assert_eq!(rows(&after, "other"), found(&[("kept", "new")]));
}

fn found(rows: &[(&str, &str)]) -> Found {
    let rows = rows.iter().map(|(key, value)| {
        let (key, value) = (key.as_bytes(), value.as_bytes());
        (key.to_vec(), value.to_vec())
    });
    rows.collect()
}

#[test]
fn a_write_that_returned_is_seen_by_the_next_read() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let receipt = db.put("t", b"k", b"0").unwrap();
    assert!(db.snapshot().unwrap().lsn() >= receipt.lsn);
    for round in 1..=300 {
        let value = round.to_string();
        db.put("t", b"k", value.as_bytes()).unwrap();
        assert_eq!(text(&db, "t", "k"), Some(value));
    }
}

#[test]
fn a_snapshot_shows_its_moment_while_everything_changes() {
    let dir = TempDir::new().unwrap();
    let db = open_small(dir.path());
    let key = |row: u32| format!("{row:04}").into_bytes();
    let mut before = Found::new();
    let mut tx = db.begin().unwrap();
    for row in 0..400 {
        tx.put("t", &key(row), b"before").unwrap();
        before.insert(key(row), b"before".to_vec());
    }
    tx.commit_blocking().unwrap();
    let snapshot = db.snapshot().unwrap();
    let (at, mut running) = (snapshot.lsn(), snapshot.scan("t", ..).unwrap());
    for round in 0..20_u32 {
        db.transaction(|tx| {
            for row in (round % 3..400).step_by(3) {
                match row % 2 {
                    0 => tx.put("t", &key(row), &[7; 1024])?,
                    _ => tx.delete("t", &key(row))?,
                }
            }
            tx.put("t", &key(1000 + round), b"new")
        })
        .unwrap();
        assert_eq!(rows(&snapshot, "t"), before, "after round {round}");
        // A scan that began before goes on as it began.
        let row = running.next().expect("there is more").unwrap();
        assert_eq!(
            (row.0.to_vec(), row.1.to_vec()),
            (key(round), b"before".to_vec())
        );
        assert_eq!(snapshot.get("t", &key(1000 + round)).unwrap(), None);
    }
    assert_eq!(snapshot.lsn(), at);
    let now = rows(&db.snapshot().unwrap(), "t");
    assert_eq!(now.len(), 200 + 20);
    assert_ne!(now, before);
}

#[test]
fn a_snapshot_can_be_opened_at_any_moment() {
    let dir = TempDir::new().unwrap();
    let db = open_small(dir.path());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<u64> {
            let mut opened = 0;
            while !done.load(Ordering::Relaxed) {
                let snapshot = db.snapshot()?;
                let one = snapshot.get("t", b"one")?;
                assert_eq!(one, snapshot.get("t", b"two")?, "at {}", snapshot.lsn());
                opened += 1;
            }
            Ok(opened)
        });
        for round in 0_u64..300 {
            let value = round.to_le_bytes().repeat(1024);
            db.transaction(|tx| {
                tx.put("t", b"one", &value)?;
                tx.put("t", b"two", &value)
            })
            .unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap().unwrap() > 0);
    });
}

/// Keys that lie close to each other, with some of the bytes that a prefix ends at.
fn keys() -> Vec<Vec<u8>> {
    let bytes = [0, 1, b'a', b'b', 0xFE, 0xFF];
    let short = bytes.map(|byte| vec![byte]);
    let long = bytes
        .into_iter()
        .flat_map(|first| bytes.map(|second| vec![first, second]));
    let longer = [
        b"aaa".to_vec(),
        b"a\xFF\xFF".to_vec(),
        b"\xFF\xFF\xFF".to_vec(),
    ];
    short.into_iter().chain(long).chain(longer).collect()
}

fn within(model: &Found, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let inside = |key: &[u8]| {
        let above = match from {
            Bound::Included(from) => key >= from,
            Bound::Excluded(from) => key > from,
            Bound::Unbounded => true,
        };
        above
            && match to {
                Bound::Included(to) => key <= to,
                Bound::Excluded(to) => key < to,
                Bound::Unbounded => true,
            }
    };
    let rows = model.iter().filter(|(key, _)| inside(key));
    rows.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Compares every range and prefix of the table `t` with the model.
fn compare(model: &Found, scan: &dyn Fn(Range<'_>) -> mainstay_storage::Rows) {
    let taken = |range: Range<'_>| {
        let rows = scan(range).map(|row| {
            let (key, value) = row.unwrap();
            (key.to_vec(), value.to_vec())
        });
        rows.collect::<Vec<_>>()
    };
    let keys = keys();
    let bounds = |key| [Bound::Included(key), Bound::Excluded(key), Bound::Unbounded];
    for from in &keys {
        for to in &keys {
            for from in bounds(&from[..]) {
                for to in bounds(&to[..]) {
                    let expected = within(model, from, to);
                    assert_eq!(taken(Range::Between(from, to)), expected, "{from:?} {to:?}");
                }
            }
        }
        let prefixed = model.iter().filter(|(key, _)| key.starts_with(from));
        let expected = prefixed.map(|(key, value)| (key.clone(), value.clone()));
        let expected = expected.collect::<Vec<_>>();
        assert_eq!(taken(Range::Prefix(from)), expected, "prefix {from:?}");
    }
    let all = within(model, Bound::Unbounded, Bound::Unbounded);
    assert_eq!(taken(Range::Prefix(b"")), all);
}

enum Range<'a> {
    Between(Bound<&'a [u8]>, Bound<&'a [u8]>),
    Prefix(&'a [u8]),
}

fn change(tx: &mut WriteTransaction, model: &mut Found, step: usize, value: &[u8]) -> Result<()> {
    for (at, key) in keys().into_iter().enumerate() {
        match (at + step) % 4 {
            0 | 1 => {
                tx.put("t", &key, value)?;
                model.insert(key, value.to_vec());
            }
            2 => {
                tx.delete("t", &key)?;
                model.remove(&key);
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn every_range_and_prefix_holds_what_it_should_in_order() {
    let dir = TempDir::new().unwrap();
    let db = open_small(dir.path());
    // Rows of a neighbour must not show up at the ends.
    db.put("s", b"a", b"of s").unwrap();
    let mut model = Found::new();
    let mut tx = db.begin().unwrap();
    change(&mut tx, &mut model, 0, b"first").unwrap();
    tx.commit_blocking().unwrap();
    db.put("u", b"a", b"of u").unwrap();
    let snapshot = db.snapshot().unwrap();
    compare(&model, &|range| {
        match range {
            Range::Between(from, to) => snapshot.scan("t", (from, to)),
            Range::Prefix(prefix) => snapshot.scan_prefix("t", prefix),
        }
        .unwrap()
    });
    // The same with own writes over what is there.
    let mut tx = db.begin().unwrap();
    change(&mut tx, &mut model, 1, b"second").unwrap();
    compare(&model, &|range| {
        match range {
            Range::Between(from, to) => tx.scan("t", (from, to)),
            Range::Prefix(prefix) => tx.scan_prefix("t", prefix),
        }
        .unwrap()
    });
    assert_ne!(rows(&db.snapshot().unwrap(), "t"), model);
    tx.commit_blocking().unwrap();
    assert_eq!(rows(&db.snapshot().unwrap(), "t"), model);
}

#[test]
fn tables_do_not_touch_each_other() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path()).unwrap();
    let names = ["b", "a", "aa", "a/b", "ä", "with space"];
    for name in names {
        db.table(name).put(b"k", name.as_bytes()).unwrap();
    }
    db.delete("a", b"k").unwrap();
    db.delete("never", b"k").unwrap();
    for name in names {
        let expected = (name != "a").then(|| name.to_owned());
        assert_eq!(text(&db, name, "k"), expected);
        let got = db.table(name).get(b"k").unwrap();
        assert_eq!(got.is_some(), name != "a");
    }
    assert_eq!(text(&db, "never", "k"), None);
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(db.snapshot().unwrap().tables().unwrap(), sorted);
}
