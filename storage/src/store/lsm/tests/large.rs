//! Transactions that are larger than a memtable.

use std::sync::mpsc;
use std::thread;

use lsm_tree::AbstractTree;
use parking_lot::Mutex;

use super::*;
use crate::store::lsm::fixture::{copy_dir, names};

const OLD: u64 = 64;
const LARGE: u64 = 1 << 20;

/// About 40 KiB in 4 KiB memtables: new values for `old` rows, and deletions.
fn large() -> Vec<Change> {
    (0..100)
        .map(|n| match n % 4 {
            0 => delete(1, &format!("k{n:03}")),
            _ => put(1, &format!("k{n:03}"), vec![b'n'; 400]),
        })
        .collect()
}

fn with_old_rows(store: &LsmStore) -> Vec<(Bytes, Bytes)> {
    let old = (0..100)
        .map(|n| put(1, &format!("k{n:03}"), "old"))
        .collect::<Vec<_>>();
    store.insert(Lsn::new(OLD), &old).unwrap();
    scan(store, 1, Lsn::new(OLD))
}

#[test]
fn a_large_transaction_appears_whole() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    let old = with_old_rows(&store);
    store.reader().open_snapshot(Lsn::new(OLD)).unwrap();
    let watch = thread::spawn({
        let (store, old) = (store.clone(), old.clone());
        move || {
            while store.applied() < Lsn::new(LARGE) {
                assert_eq!(scan(&store, 1, Lsn::new(OLD)), old);
            }
        }
    });
    store.apply(&transaction(LARGE, &large())).unwrap();
    watch.join().unwrap();
    let new = expected();
    assert_eq!(scan(&store, 1, Lsn::new(LARGE)), new);
    settle(&store);
    assert_eq!(scan(&store, 1, Lsn::new(LARGE)), new);
    assert_eq!(scan(&store, 1, Lsn::new(OLD)), old, "the snapshot holds");
    assert_eq!(store.durable(), Lsn::new(LARGE));
    store.close();
    let store = bed.open();
    assert_eq!(store.oldest(), Lsn::new(LARGE));
    assert_eq!(scan(&store, 1, Lsn::new(LARGE)), new);
}

#[test]
fn a_large_transaction_waits_until_it_is_committed_and_flushed() {
    let bed = Bed::new();
    let store = bed.open();
    let (told, done) = mpsc::channel();
    thread::spawn({
        let store = store.clone();
        move || {
            store.insert(Lsn::new(LARGE), &large()).unwrap();
            told.send(()).unwrap();
        }
    });
    bed.flushed.raise(Lsn::new(LARGE - 1));
    bed.commit.raise(Lsn::new(LARGE));
    while bed.flushed.waiters() == 0 {
        thread::yield_now();
    }
    assert!(done.try_recv().is_err());
    assert_eq!(
        bed.bound.load(Ordering::SeqCst),
        0,
        "nothing is written before"
    );
    bed.flushed.raise(Lsn::new(LARGE));
    done.recv().unwrap();
    assert_eq!(store.applied(), Lsn::new(LARGE));
}

#[test]
fn a_large_transaction_out_of_order_is_refused_and_leaves_nothing() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    let mut twice = large();
    twice.push(put(1, "k000", "again"));
    let refused = store.apply(&transaction(LARGE, &twice));
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    assert_eq!(store.applied(), Lsn::ZERO);
    assert!(memory_is_empty(&store));
    // Handed in from memory it is put in order first.
    store.insert(Lsn::new(LARGE), &twice).unwrap();
    assert_eq!(get(&store, "k000", LARGE).as_deref(), Some("again"));
}

fn memory_is_empty(store: &LsmStore) -> bool {
    let tree = store.shared().horizon.tree().unwrap();
    tree.active_memtable().is_empty()
}

/// A log that does something before it gives out an entry the second time it is read: the first
/// reading checks, the second inserts.
struct Interrupted<F> {
    entries: Vec<WalEntry>,
    readings: AtomicU64,
    /// Returns an error in place of the entry with this number.
    before: F,
}

impl<F: Fn(usize) -> Result<()> + Send + Sync> crate::store::EntrySource for Interrupted<F> {
    fn entries(&self) -> Box<dyn Iterator<Item = Result<WalEntry>> + '_> {
        let second = self.readings.fetch_add(1, Ordering::SeqCst) == 1;
        let entries = self.entries.iter().cloned().enumerate();
        Box::new(entries.map(move |(number, entry)| match second {
            true => (self.before)(number).map(|()| entry),
            false => Ok(entry),
        }))
    }
}

fn interrupted(before: impl Fn(usize) -> Result<()> + Send + Sync + 'static) -> Transaction {
    let entry = |change: &Change| WalEntry::new(WalEntryType::Insert, Some(1), change.encode());
    let source = Interrupted {
        entries: large().iter().map(entry).collect(),
        readings: AtomicU64::new(0),
        before,
    };
    let (begin, end) = (Lsn::new(LARGE - 8), Lsn::new(LARGE));
    Transaction::new(1, begin, end, 1 << 20, Box::new(source))
}

fn expected() -> Vec<(Bytes, Bytes)> {
    let mut model = Model::default();
    model.apply(Lsn::new(LARGE), &large());
    model.scan(1, Lsn::new(LARGE))
}

#[test]
fn a_kill_while_its_tables_are_written_leaves_nothing_and_replay_completes_it() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    let old = with_old_rows(&store);
    // Tables that are merged while their directory is copied file by file would be missing in it,
    // which no kill does.
    store.checkpoint(Lsn::new(OLD)).unwrap();
    settle(&store);
    let (dir, copies) = (bed.dir(), bed.temp.path().join("copies"));
    let kill = {
        let copies = copies.clone();
        move |number: usize| {
            if number.is_multiple_of(10) {
                copy_dir(&dir, &copies.join(number.to_string()));
            }
            Ok(())
        }
    };
    store.apply(&interrupted(kill)).unwrap();
    assert_eq!(store.durable(), Lsn::new(LARGE));
    settle(&store);
    copy_dir(&bed.dir(), &copies.join("done"));
    store.close();
    for copy in names(&copies) {
        let store = LsmStore::open(&copies.join(&copy), true, open_gate(), small()).unwrap();
        if copy == "done" {
            assert_eq!(store.applied(), Lsn::new(LARGE));
        } else {
            assert_eq!(store.applied(), Lsn::new(OLD), "copy {copy}");
            assert_eq!(scan(&store, 1, Lsn::new(OLD)), old);
            store.apply(&transaction(LARGE, &large())).unwrap();
        }
        assert_eq!(scan(&store, 1, Lsn::new(LARGE)), expected());
    }
    assert_eq!(names(&copies).len(), 11);
}

#[test]
fn a_large_transaction_that_failed_halfway_can_be_inserted_again() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    let old = with_old_rows(&store);
    let failing = interrupted(|number| match number {
        50 => Err(Error::Invalid("the log is gone".to_owned())),
        _ => Ok(()),
    });
    let refused = store.apply(&failing);
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    assert_eq!(store.applied(), Lsn::new(OLD));
    assert_eq!(scan(&store, 1, Lsn::new(OLD)), old);
    store.apply(&failing).unwrap();
    assert_eq!(scan(&store, 1, Lsn::new(LARGE)), expected());
}

#[test]
fn closing_ends_a_large_transaction_that_is_under_way() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    with_old_rows(&store);
    let closing = Mutex::new(None);
    let closer = store.clone();
    let stopped = interrupted(move |number| {
        if number == 20 {
            let store = closer.clone();
            *closing.lock() = Some(thread::spawn(move || store.close()));
        }
        if number >= 20 {
            while !closer.shared().work.is_stopped() {
                thread::yield_now();
            }
        }
        Ok(())
    });
    assert!(matches!(store.apply(&stopped), Err(Error::Closed)));
    drop(stopped);
    store.close();
    drop(store);
    let store = bed.open();
    assert!(store.applied() <= Lsn::new(OLD));
}

#[test]
fn what_is_inserted_after_a_large_transaction_hides_it() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    with_old_rows(&store);
    store.apply(&transaction(LARGE, &large())).unwrap();
    let later = LARGE + 64;
    store
        .insert(Lsn::new(later), &[put(1, "k001", "later")])
        .unwrap();
    assert_eq!(get(&store, "k001", later).as_deref(), Some("later"));
    store.checkpoint(Lsn::new(later)).unwrap();
    settle(&store);
    assert_eq!(get(&store, "k001", later).as_deref(), Some("later"));
    assert_eq!(get(&store, "k000", later), None);
}
