//! Commits from async code: they do not hold the worker, and giving up leaves all or nothing.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use mainstay::{Database, Level, WriteTransaction};
use tempfile::TempDir;

use super::{open_small, rows, text};
use crate::support::in_time;

/// How often a commit is tried before it must have been seen waiting once.
const TRIES_MAX: u64 = 200;

#[test]
fn a_commit_waits_without_holding_the_only_worker() {
    in_time(|| {
        let dir = TempDir::new().unwrap();
        let db = Database::open(dir.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        runtime.block_on(async {
            let turns = Arc::new(AtomicU64::new(0));
            let counting = turns.clone();
            let other = tokio::spawn(async move {
                loop {
                    counting.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            });
            let mut waited = 0;
            for round in 0..TRIES_MAX {
                let mut tx = db.begin().unwrap();
                tx.put("t", b"round", &round.to_le_bytes()).unwrap();
                let before = turns.load(Ordering::Relaxed);
                tx.commit().await.unwrap();
                // Without a break in between, the other task cannot have had a turn.
                waited += u64::from(turns.load(Ordering::Relaxed) > before);
                if waited == 3 {
                    break;
                }
            }
            other.abort();
            assert_eq!(waited, 3, "the other task never ran while a commit waited");
        });
    });
}

/// Wakes a thread: the smallest runtime there is.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn a_commit_needs_no_runtime_of_any_kind() {
    in_time(|| {
        let dir = TempDir::new().unwrap();
        let db = Database::open(dir.path()).unwrap();
        for level in Level::ALL {
            let mut tx = db.begin().unwrap();
            tx.put("t", level.as_str().as_bytes(), b"v").unwrap();
            let waker = Waker::from(Arc::new(Unpark(thread::current())));
            let mut context = Context::from_waker(&waker);
            let mut commit = pin!(tx.commit_at(level));
            let receipt = loop {
                match commit.as_mut().poll(&mut context) {
                    Poll::Ready(receipt) => break receipt.unwrap(),
                    Poll::Pending => thread::park(),
                }
            };
            // There are no standbys that a stronger level could speak of.
            assert_eq!(receipt.level, level.min(Level::Local));
            assert!(!receipt.is_durable_elsewhere());
            let seen = text(&db, "t", level.as_str()).is_some();
            assert!(seen || level == Level::Async, "{level}");
        }
    });
}

fn write(tx: &mut WriteTransaction, row: u64) {
    for table in ["one", "two", "three"] {
        tx.put(table, &row.to_be_bytes(), &[7; 4000]).unwrap();
    }
}

/// The rows of the three tables, which have to be the same in each.
#[track_caller]
fn whole(db: &Database) -> Vec<u64> {
    let snapshot = db.snapshot().unwrap();
    let one = rows(&snapshot, "one");
    assert_eq!(one, rows(&snapshot, "two"));
    assert_eq!(one, rows(&snapshot, "three"));
    let keys = one.into_keys();
    keys.map(|key| u64::from_be_bytes(key.try_into().unwrap()))
        .collect()
}

#[test]
fn a_commit_that_is_given_up_leaves_everything_or_nothing() {
    in_time(|| {
        let dir = TempDir::new().unwrap();
        let db = open_small(dir.path());
        let mut context = Context::from_waker(Waker::noop());
        let mut decided = Vec::new();
        let mut pending = 0;
        for row in 0..100 {
            let mut tx = db.begin().unwrap();
            write(&mut tx, row);
            let mut commit = Box::pin(tx.commit());
            match row % 3 {
                // Given up before it began: it never happens.
                0 => {}
                // Given up after it began: it has its place in the log and stays.
                1 => {
                    pending += u64::from(commit.as_mut().poll(&mut context).is_pending());
                    decided.push(row);
                }
                _ => {
                    drop(commit);
                    let mut tx = db.begin().unwrap();
                    write(&mut tx, row);
                    tx.commit_blocking().unwrap();
                    decided.push(row);
                    assert_eq!(whole(&db), decided);
                    continue;
                }
            }
            drop(commit);
            // What readers see meanwhile is whole, and nothing acknowledged is missing.
            let seen = whole(&db);
            let missing = decided.iter().filter(|row| !seen.contains(row));
            assert!(missing.count() <= 1, "{seen:?} of {decided:?}");
        }
        assert!(pending > 0, "no commit was ever given up while it waited");
        db.put("last", b"k", b"v").unwrap();
        assert_eq!(whole(&db), decided);
        // What was given up may still hold the directory for a moment.
        db.close().unwrap();
        assert_eq!(whole(&open_small(dir.path())), decided);
    });
}

#[test]
fn a_commit_that_is_given_up_counts_against_later_ones() {
    let dir = TempDir::new().unwrap();
    let db = Database::open(dir.path()).unwrap();
    db.put("t", b"k", b"0").unwrap();
    let (mut first, mut second) = (db.begin().unwrap(), db.begin().unwrap());
    for tx in [&mut first, &mut second] {
        assert!(tx.get("t", b"k").unwrap().is_some());
        tx.put("t", b"k", b"1").unwrap();
    }
    let mut given_up = Box::pin(first.commit());
    let mut context = Context::from_waker(Waker::noop());
    let polled = given_up.as_mut().poll(&mut context);
    assert!(!matches!(polled, Poll::Ready(Err(_))));
    drop(given_up);
    let lost = second.commit_blocking().expect_err("it was overtaken");
    assert!(lost.is_conflict(), "{lost}");
}
