//! What the next open finds, and what a closed database says.

use std::collections::BTreeMap;

use mainstay::{Database, Error};
use tempfile::TempDir;

use super::{Found, open_small, refused, rows, text};

/// The rows of every table.
fn everything(db: &Database) -> BTreeMap<String, Found> {
    let snapshot = db.snapshot().unwrap();
    let tables = snapshot.tables().unwrap().into_iter();
    tables
        .map(|table| {
            let rows = rows(&snapshot, &table);
            (table, rows)
        })
        .collect()
}

#[test]
fn what_was_acknowledged_is_there_after_a_drop_without_close() {
    let dir = TempDir::new().unwrap();
    let mut model = BTreeMap::<String, Found>::new();
    for life in 0_u32..6 {
        let db = open_small(dir.path());
        assert_eq!(everything(&db), model, "in life {life}");
        for round in 0..8_u32 {
            let value = vec![(life * 16 + round) as u8; 3000];
            let tables = ["one", "two", "three"];
            db.transaction(|tx| {
                for (at, table) in (0..).zip(tables) {
                    for row in 0..4 {
                        let key = (round * 7 + row + at + life * 3) % 40;
                        tx.put(table, &key.to_be_bytes(), &value)?;
                    }
                    tx.delete(table, &(round + life).to_be_bytes())?;
                }
                Ok(())
            })
            .unwrap();
            for (at, table) in (0..).zip(tables) {
                let table = model.entry(table.to_owned()).or_default();
                for row in 0..4 {
                    let key: u32 = (round * 7 + row + at + life * 3) % 40;
                    table.insert(key.to_be_bytes().to_vec(), value.clone());
                }
                table.remove(&(round + life).to_be_bytes()[..]);
            }
        }
        // What is not committed must not come back.
        let mut tx = db.begin().unwrap();
        tx.put("one", b"open", b"open").unwrap();
        tx.put("four", b"open", b"open").unwrap();
        if life % 2 == 1 {
            db.close().unwrap();
        }
    }
    assert_eq!(everything(&open_small(dir.path())), model);
}

#[test]
fn a_directory_is_opened_once_at_a_time() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path()).unwrap();
    db.put("t", b"k", b"v").unwrap();
    let error = Database::open(dir.path()).unwrap_err();
    let locked = matches!(
        error,
        Error::Storage(mainstay_storage::Error::Locked { .. })
    );
    assert!(locked, "{error:?}");
    let expected = format!(
        "{} is in use by another process; stop it first, or choose another directory",
        dir.path().display()
    );
    assert_eq!(error.to_string(), expected);
    // The attempt did no harm, and handles are counted.
    db.put("t", b"l", b"w").unwrap();
    let clone = db.clone();
    drop(db);
    assert_eq!(text(&clone, "t", "k").as_deref(), Some("v"));
    assert!(Database::open(dir.path()).is_err());
    drop(clone);
    let db = Database::open(dir.path()).unwrap();
    assert_eq!(text(&db, "t", "l").as_deref(), Some("w"));
}

#[test]
fn a_closed_database_says_so_and_gives_the_directory_back() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path()).unwrap();
    db.put("t", b"k", b"v").unwrap();
    let (table, snapshot) = (db.table("t"), db.snapshot().unwrap());
    let mut scan = snapshot.scan("t", ..).unwrap();
    let mut tx = db.begin().unwrap();
    tx.put("t", b"k", b"late").unwrap();
    let reader = db.begin().unwrap();
    db.close().unwrap();
    db.close().unwrap();
    let stopped = |what: &str, error: Option<Error>| {
        assert!(matches!(error, Some(Error::Stopped)), "{what}: {error:?}");
    };
    stopped("begin", db.begin().err());
    stopped("put", db.put("t", b"k", b"v").err());
    stopped("delete", db.delete("t", b"k").err());
    stopped("get", db.get("t", b"k").err());
    stopped("snapshot", db.snapshot().err());
    stopped("transaction", db.transaction(|_| Ok(())).err());
    stopped("table", table.get(b"k").err());
    stopped("an old snapshot", snapshot.get("t", b"k").err());
    stopped("an open transaction's read", reader.get("t", b"k").err());
    stopped("an open transaction", tx.commit_blocking().err());
    let item = scan.next().expect("an error");
    assert!(matches!(item, Err(mainstay_storage::Error::Closed)));
    // Handles, snapshots and transactions that are left over do not hold the directory.
    let again = Database::open(dir.path()).unwrap();
    assert_eq!(text(&again, "t", "k").as_deref(), Some("v"));
    drop((db, table, snapshot, scan, reader));
    again.put("t", b"k", b"new").unwrap();
    assert_eq!(text(&again, "t", "k").as_deref(), Some("new"));
}

#[test]
fn a_transaction_that_outlives_its_database_does_not_commit() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path()).unwrap();
    db.put("t", b"k", b"v").unwrap();
    let mut tx = db.begin().unwrap();
    tx.put("t", b"k", b"late").unwrap();
    drop(db);
    assert_eq!(refused(tx.commit_blocking()), "stopped");
    let db = Database::open(dir.path()).unwrap();
    assert_eq!(text(&db, "t", "k").as_deref(), Some("v"));
}
