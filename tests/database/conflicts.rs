//! Transactions at the same time: serializable, the first to commit wins.

use std::ops::Bound;
use std::thread;

use mainstay::{CONFLICT_RETRIES_MAX, Database, Error, Receipt, Result, WriteTransaction};
use tempfile::TempDir;

use super::{rows, text};

fn open(dir: &TempDir) -> Database {
    let db = Database::open(dir.path()).unwrap();
    let mut tx = db.begin().unwrap();
    for key in [&b"a"[..], b"b", b"c"] {
        tx.put("t", key, b"0").unwrap();
    }
    tx.commit_blocking().unwrap();
    db
}

/// Checks that `result` is the conflict with what `winner` committed.
#[track_caller]
fn assert_conflict(result: Result<Receipt>, winner: &Receipt) {
    let error = result.expect_err("it must conflict");
    assert!(error.is_conflict(), "{error:?}");
    let with = match error {
        Error::Storage(mainstay_storage::Error::Conflict { with }) => with,
        other => panic!("{other:?}"),
    };
    assert_eq!(with, winner.lsn);
    let told = Error::from(mainstay_storage::Error::Conflict { with }).to_string();
    let expected = format!(
        "transaction conflicts with one that committed at {}; run it again",
        winner.lsn
    );
    assert_eq!(told, expected);
}

fn increment(tx: &mut WriteTransaction, key: &[u8]) -> Result<()> {
    let old = tx.get("t", key)?.expect("it is there");
    let old: u64 = std::str::from_utf8(&old)
        .expect("a number")
        .parse()
        .expect("a number");
    tx.put("t", key, (old + 1).to_string().as_bytes())
}

#[test]
fn the_second_to_change_a_row_conflicts_and_succeeds_when_run_again() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir);
    let (mut first, mut second) = (db.begin().unwrap(), db.begin().unwrap());
    increment(&mut first, b"a").unwrap();
    increment(&mut second, b"a").unwrap();
    second.put("t", b"b", b"lost").unwrap();
    let winner = first.commit_blocking().unwrap();
    assert_conflict(second.commit_blocking(), &winner);
    // Nothing of it happened.
    assert_eq!(text(&db, "t", "a").as_deref(), Some("1"));
    assert_eq!(text(&db, "t", "b").as_deref(), Some("0"));
    let mut again = db.begin().unwrap();
    increment(&mut again, b"a").unwrap();
    again.commit_blocking().unwrap();
    assert_eq!(text(&db, "t", "a").as_deref(), Some("2"));
}

#[test]
fn two_that_write_the_same_rows_unread_conflict_too() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir);
    let both = |tx: &mut WriteTransaction, value: &[u8]| {
        tx.put("t", b"a", value)?;
        tx.put("t", b"b", value)
    };
    let (mut first, mut second) = (db.begin().unwrap(), db.begin().unwrap());
    both(&mut first, b"1").unwrap();
    both(&mut second, b"2").unwrap();
    let winner = first.commit_blocking().unwrap();
    assert_conflict(second.commit_blocking(), &winner);
    assert_eq!(text(&db, "t", "b").as_deref(), Some("1"));
}

#[test]
fn write_skew_is_refused() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir);
    // Each checks that the other is still on call, and leaves.
    let (mut first, mut second) = (db.begin().unwrap(), db.begin().unwrap());
    assert!(first.get("t", b"b").unwrap().is_some());
    first.delete("t", b"a").unwrap();
    assert!(second.get("t", b"a").unwrap().is_some());
    second.delete("t", b"b").unwrap();
    let winner = first.commit_blocking().unwrap();
    assert_conflict(second.commit_blocking(), &winner);
    assert_eq!(text(&db, "t", "b").as_deref(), Some("0"));
}

#[test]
fn a_row_that_appears_in_a_range_that_was_read_is_refused() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir);
    let upper = (Bound::Excluded(&b"b"[..]), Bound::Unbounded);
    for table in ["t", "not there yet"] {
        let mut reader = db.begin().unwrap();
        let count = reader.scan(table, upper).unwrap().count();
        let sum = count.to_string();
        reader
            .put("sums", table.as_bytes(), sum.as_bytes())
            .unwrap();
        let winner = db.put(table, b"bb", b"phantom").unwrap();
        assert_conflict(reader.commit_blocking(), &winner);
    }
    // A row that is gone conflicts as well as one that came.
    let mut reader = db.begin().unwrap();
    assert_eq!(reader.scan_prefix("t", b"b").unwrap().count(), 2);
    reader.put("sums", b"t", b"2").unwrap();
    let winner = db.delete("t", b"bb").unwrap();
    assert_conflict(reader.commit_blocking(), &winner);
}

#[test]
fn what_does_not_touch_does_not_conflict() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir);
    // Other rows, and a range beside the changed one.
    let mut reader = db.begin().unwrap();
    reader.get("t", b"a").unwrap();
    assert_eq!(reader.scan("t", ..&b"b"[..]).unwrap().count(), 1);
    reader.put("t", b"a", b"1").unwrap();
    db.put("t", b"b", b"1").unwrap();
    db.put("t", b"bb", b"1").unwrap();
    db.put("u", b"a", b"1").unwrap();
    reader.commit_blocking().unwrap();
    // One that wrote nothing, however stale.
    let idle = db.begin().unwrap();
    assert_eq!(idle.scan("t", ..).unwrap().count(), 4);
    db.put("t", b"a", b"2").unwrap();
    idle.commit_blocking().unwrap();
    // A single write that read nothing: it may as well have run later.
    let mut blind = db.begin().unwrap();
    blind.put("t", b"a", b"blind").unwrap();
    db.put("t", b"a", b"3").unwrap();
    blind.commit_blocking().unwrap();
    assert_eq!(text(&db, "t", "a").as_deref(), Some("blind"));
}

#[test]
fn a_transaction_that_is_dropped_leaves_nothing_and_holds_nobody_up() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir);
    let before = rows(&db.snapshot().unwrap(), "t");
    let mut tx = db.begin().unwrap();
    increment(&mut tx, b"a").unwrap();
    tx.delete("t", b"b").unwrap();
    tx.put("new", b"k", b"v").unwrap();
    drop(tx);
    assert_eq!(rows(&db.snapshot().unwrap(), "t"), before);
    assert_eq!(db.snapshot().unwrap().tables().unwrap(), ["t"]);
    let mut tx = db.begin().unwrap();
    increment(&mut tx, b"a").unwrap();
    tx.commit_blocking().unwrap();
    assert_eq!(text(&db, "t", "a").as_deref(), Some("1"));
}

#[test]
fn a_transaction_that_conflicts_is_run_again_until_it_gives_up() {
    let dir = TempDir::new().unwrap();
    let db = open(&dir);
    let mut runs = 0;
    let (_, receipt) = db
        .transaction(|tx| {
            increment(tx, b"a")?;
            runs += 1;
            if runs <= 2 {
                db.put("t", b"a", b"10")?;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(runs, 3);
    assert_eq!(text(&db, "t", "a").as_deref(), Some("11"));
    assert!(db.snapshot().unwrap().lsn() >= receipt.lsn);
    let mut runs = 0;
    let hopeless = db.transaction(|tx| {
        increment(tx, b"a")?;
        runs += 1;
        db.put("t", b"a", b"10").map(|_| ())
    });
    assert!(hopeless.expect_err("it always conflicts").is_conflict());
    assert_eq!(runs, CONFLICT_RETRIES_MAX + 1);
    // What the work itself returns ends it at once.
    let mut runs = 0;
    let failed: Result<((), Receipt)> = db.transaction(|tx| {
        runs += 1;
        tx.put("t", b"a", b"lost")?;
        Err(Error::Usage("no".to_owned()))
    });
    assert!(matches!(failed, Err(Error::Usage(_))), "{failed:?}");
    assert_eq!((runs, text(&db, "t", "a").as_deref()), (1, Some("10")));
}

#[test]
fn no_increment_of_many_threads_is_lost() {
    const THREADS: u64 = 4;
    const EACH: u64 = 40;
    let dir = TempDir::new().unwrap();
    let db = open(&dir);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    // Conflicts are so likely here that giving up may happen; it changes nothing.
                    while let Err(error) = db.transaction(|tx| increment(tx, b"a")) {
                        assert!(error.is_conflict(), "{error}");
                    }
                }
            });
        }
    });
    let expected = (THREADS * EACH).to_string();
    assert_eq!(text(&db, "t", "a"), Some(expected));
}

#[test]
fn threads_that_create_tables_at_once_all_get_theirs() {
    const THREADS: usize = 8;
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path()).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let db = &db;
            scope.spawn(move || {
                let name = format!("table-{thread}");
                db.put(&name, b"k", name.as_bytes()).unwrap();
                db.put("shared", name.as_bytes(), b"v").unwrap();
            });
        }
    });
    for thread in 0..THREADS {
        let name = format!("table-{thread}");
        assert_eq!(text(&db, &name, "k"), Some(name.clone()));
    }
    let snapshot = db.snapshot().unwrap();
    assert_eq!(rows(&snapshot, "shared").len(), THREADS);
    assert_eq!(snapshot.tables().unwrap().len(), THREADS + 1);
}
