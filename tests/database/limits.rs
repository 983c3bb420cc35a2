//! What is too large, empty or otherwise no good is refused with a clear text, and costs nothing
//! but itself.

use mainstay::{Database, Error, SegmentSize, Snapshot, TABLE_NAME_MAX, WriteTransaction};
use mainstay_storage::KEY_MAX;
use tempfile::TempDir;

use super::{open_small, refused, rows, text};
use crate::support::assert_says;

/// A way to use a table and a key.
type Way<'a> = dyn Fn(&mut WriteTransaction, &Snapshot) -> Result<(), Error> + 'a;

/// The text of the same error from every way to use `table` and `key`.
#[track_caller]
fn refused_everywhere(db: &Database, table: &str, key: &[u8]) -> String {
    let ways: [&Way<'_>; 7] = [
        &|tx, _| tx.put(table, key, b"v"),
        &|tx, _| tx.delete(table, key),
        &|tx, _| tx.get(table, key).map(drop),
        &|_, snapshot| snapshot.get(table, key).map(drop),
        &|_, _| db.put(table, key, b"v").map(drop),
        &|_, _| db.delete(table, key).map(drop),
        &|_, _| db.get(table, key).map(drop),
    ];
    let snapshot = db.snapshot().unwrap();
    let mut said = Vec::new();
    for way in ways {
        let mut tx = db.begin().unwrap();
        tx.put("t", b"beside", b"kept").unwrap();
        said.push(refused(way(&mut tx, &snapshot)));
        // The transaction goes on without it.
        tx.put("t", b"after", b"kept").unwrap();
        tx.commit_blocking().unwrap();
        db.delete("t", b"beside").unwrap();
        assert_eq!(text(db, "t", "after").as_deref(), Some("kept"));
        db.delete("t", b"after").unwrap();
    }
    let first = said.swap_remove(0);
    assert_eq!(said, vec![first.clone(); said.len()]);
    first
}

#[test]
fn keys_have_one_to_key_max_bytes() {
    let dir = TempDir::new().unwrap();
    let db = open_small(dir.path());
    let longest = vec![7; KEY_MAX];
    db.put("t", &longest, b"v").unwrap();
    for table in ["t", "not there"] {
        let said = refused_everywhere(&db, table, b"");
        assert_eq!(said, "a key is empty; the shortest has one byte");
        // The last is longer than any log record.
        for len in [KEY_MAX + 1, 1 << 20] {
            let said = refused_everywhere(&db, table, &vec![7; len]);
            let expected = format!("key of {len} bytes is over the limit of {KEY_MAX} bytes");
            assert_eq!(said, expected);
        }
    }
    drop(db);
    let db = open_small(dir.path());
    let rows = rows(&db.snapshot().unwrap(), "t");
    assert_eq!(rows.into_keys().collect::<Vec<_>>(), [longest]);
    assert_eq!(db.snapshot().unwrap().tables().unwrap(), ["t"]);
}

#[test]
fn table_names_have_one_to_255_bytes_and_no_nul() {
    let dir = TempDir::new().unwrap();
    let db = open_small(dir.path());
    let longest = "ä".repeat(TABLE_NAME_MAX / 2) + "x";
    assert_eq!(longest.len(), TABLE_NAME_MAX);
    db.put("t", b"k", b"v").unwrap();
    db.put(&longest, b"k", b"v").unwrap();
    let (long, longer) = ("n".repeat(TABLE_NAME_MAX + 1), "n".repeat(1 << 20));
    for (name, len) in [
        ("", 0),
        ("a\0b", 3),
        (&long, long.len()),
        (&longer, longer.len()),
    ] {
        let said = refused_everywhere(&db, name, b"k");
        let expected = format!(
            "a table name of {len} bytes; it must have 1 to {TABLE_NAME_MAX} bytes and no NUL"
        );
        assert_eq!(said, expected);
        let snapshot = db.snapshot().unwrap();
        assert_eq!(refused(snapshot.scan(name, ..)), expected);
        assert_eq!(refused(snapshot.scan_prefix(name, b"k")), expected);
        assert_eq!(refused(db.begin().unwrap().scan(name, ..)), expected);
    }
    drop(db);
    let db = open_small(dir.path());
    assert_eq!(db.snapshot().unwrap().tables().unwrap(), ["t", &longest]);
    assert_eq!(text(&db, &longest, "k").as_deref(), Some("v"));
}

#[test]
fn bounds_of_a_range_have_the_limits_of_keys() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path()).unwrap();
    db.put("t", b"k", b"v").unwrap();
    let long = vec![7; KEY_MAX + 1];
    let (snapshot, tx) = (db.snapshot().unwrap(), db.begin().unwrap());
    for table in ["t", "not there"] {
        for said in [
            refused(snapshot.scan(table, &long[..]..)),
            refused(tx.scan(table, ..&long[..])),
            refused(snapshot.scan_prefix(table, &long)),
        ] {
            assert_says(&said, &["key", "over the limit of 65527 bytes"]);
        }
        for said in [
            refused(snapshot.scan(table, &b""[..]..)),
            refused(tx.scan(table, ..=&b""[..])),
        ] {
            assert_says(&said, &["key is empty"]);
        }
    }
}

#[test]
fn a_value_has_to_fit_into_a_quarter_of_a_segment() {
    let dir = TempDir::new().unwrap();
    let db = open_small(dir.path());
    let quarter = usize::try_from(SegmentSize::MIN.bytes()).unwrap() / 4;
    let refused_size = quarter + 1;
    let said = refused(db.put("t", b"k", &vec![1; refused_size]));
    assert_says(
        &said,
        &[&format!("a value of {refused_size} bytes"), "limit"],
    );
    // The limit that the text states is the one that holds, whatever the key.
    for key in [&b"k"[..], &[7; KEY_MAX]] {
        let said = refused(db.put("t", key, &vec![1; refused_size]));
        let limit = said.split(' ').rev().nth(1).expect("N bytes");
        let limit = limit.parse::<usize>().unwrap();
        assert!(limit > quarter - KEY_MAX - 128, "{said}");
        let mut tx = db.begin().unwrap();
        tx.put("t", key, &vec![2; limit]).unwrap();
        tx.put("t", b"beside", b"kept").unwrap();
        let more = refused(tx.put("t", b"more", &vec![3; refused_size]));
        assert_says(&more, &["a value of"]);
        assert_says(
            &refused(tx.put("t", key, &vec![3; limit + 1])),
            &["a value of"],
        );
        tx.commit_blocking().unwrap();
    }
    let before = rows(&db.snapshot().unwrap(), "t");
    assert_eq!(before.len(), 3);
    assert!(
        before
            .values()
            .all(|value| value != b"k" && value.iter().all(|&it| it != 3))
    );
    drop(db);
    let db = open_small(dir.path());
    assert_eq!(rows(&db.snapshot().unwrap(), "t"), before);
}

#[test]
fn a_transaction_may_be_larger_than_a_segment_and_a_memtable() {
    const ROWS: u32 = 64;
    let dir = TempDir::new().unwrap();
    let db = open_small(dir.path());
    let value = vec![5; 100 << 10];
    let write = |tx: &mut WriteTransaction| {
        (0..ROWS).try_for_each(|row| tx.put("t", &row.to_be_bytes(), &value))
    };
    let mut tx = db.begin().unwrap();
    write(&mut tx).unwrap();
    drop(tx);
    assert_eq!(db.snapshot().unwrap().scan("t", ..).unwrap().count(), 0);
    db.transaction(write).unwrap();
    db.put("t", b"zz", b"after").unwrap();
    drop(db);
    let db = open_small(dir.path());
    let found = rows(&db.snapshot().unwrap(), "t");
    assert_eq!(found.len(), ROWS as usize + 1);
    let whole = found.iter().filter(|(_, found)| **found == value);
    assert_eq!(whole.count(), ROWS as usize);
}
