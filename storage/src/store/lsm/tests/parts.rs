//! Transactions that are larger than a memtable.

use std::sync::mpsc;
use std::thread;

use lsm_tree::AbstractTree;

use super::*;

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
    let mut model = Model::default();
    model.apply(Lsn::new(LARGE), &large());
    let new = model.scan(1, Lsn::new(LARGE));
    assert_eq!(scan(&store, 1, Lsn::new(LARGE)), new);
    assert_eq!(scan(&store, 1, Lsn::new(OLD)), old);
    assert!(store.checkpoint(store.applied()).unwrap() == Lsn::new(LARGE));
    store.close();
    let store = bed.open();
    assert_eq!(store.oldest(), Lsn::new(LARGE));
    assert_eq!(scan(&store, 1, Lsn::new(LARGE)), new);
}

#[test]
fn a_large_transaction_waits_until_it_is_committed() {
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
    bed.flushed.raise(Lsn::MAX);
    bed.commit.raise(Lsn::new(LARGE - 1));
    while bed.commit.waiters() == 0 {
        thread::yield_now();
    }
    assert!(done.try_recv().is_err());
    assert!(memory_is_empty(&store));
    bed.commit.raise(Lsn::new(LARGE));
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

/// Copies the durable state before each flush of a part, and returns the copies.
fn killed_between_parts(bed: &Bed) -> Vec<std::path::PathBuf> {
    let (ask, asked) = mpsc::channel();
    let (answer, go_on) = mpsc::channel::<()>();
    let go_on = Mutex::new(go_on);
    let gate = FlushGate {
        raise_bound: Box::new(move |to| {
            ask.send(to).unwrap();
            go_on.lock().recv().unwrap();
            Ok(())
        }),
        ..open_gate()
    };
    let store = LsmStore::open(&bed.dir(), false, gate, small()).unwrap();
    let inserter = thread::spawn({
        let store = store.clone();
        move || {
            with_old_rows(&store);
            store.apply(&transaction(LARGE, &large())).unwrap();
            store.checkpoint(Lsn::new(LARGE)).unwrap();
        }
    });
    let mut copies = Vec::new();
    while store.durable() < Lsn::new(LARGE) {
        let Ok(bound) = asked.recv_timeout(std::time::Duration::from_millis(10)) else {
            continue;
        };
        let copy = bed.temp.path().join(format!("copy {}", copies.len()));
        std::fs::create_dir(&copy).unwrap();
        let durable = store.snapshot(&copy).unwrap();
        assert!(durable <= Lsn::new(OLD));
        assert!(bound == Lsn::new(OLD) || bound == Lsn::new(LARGE));
        copies.push(copy);
        answer.send(()).unwrap();
    }
    inserter.join().unwrap();
    copies
}

#[test]
fn a_crash_between_parts_shows_nothing_of_them_and_replay_completes_them() {
    let bed = Bed::new();
    let copies = killed_between_parts(&bed);
    assert!(copies.len() > 5);
    let mut model = Model::default();
    model.apply(Lsn::new(LARGE), &large());
    let new = model.scan(1, Lsn::new(LARGE));
    for (flushes, copy) in copies.iter().enumerate() {
        let store = LsmStore::open(copy, true, open_gate(), small()).unwrap();
        assert!(store.applied() <= Lsn::new(OLD));
        let read = store.reader().get(1, b"k001", store.applied());
        match flushes {
            // Before the first part is on disk, everything below it can be read.
            0 | 1 => assert!(read.is_ok()),
            _ => assert!(matches!(read, Err(Error::SnapshotTooOld { .. }))),
        }
        if store.applied() < Lsn::new(OLD) {
            with_old_rows_unread(&store);
        }
        store.apply(&transaction(LARGE, &large())).unwrap();
        assert_eq!(scan(&store, 1, Lsn::new(LARGE)), new);
        assert_eq!(store.checkpoint(Lsn::new(LARGE)).unwrap(), Lsn::new(LARGE));
        assert_eq!(scan(&store, 1, Lsn::new(LARGE)), new);
    }
}

fn with_old_rows_unread(store: &LsmStore) {
    let old = (0..100)
        .map(|n| put(1, &format!("k{n:03}"), "old"))
        .collect::<Vec<_>>();
    store.insert(Lsn::new(OLD), &old).unwrap();
}

/// A log that fails after some entries, the first time or always.
struct Failing {
    entries: Vec<WalEntry>,
    reads: Arc<AtomicU64>,
}

impl crate::store::EntrySource for Failing {
    fn entries(&self) -> Box<dyn Iterator<Item = Result<WalEntry>> + '_> {
        // The first reading checks, the second inserts.
        let fails = self.reads.fetch_add(1, Ordering::SeqCst) == 1;
        let good = if fails { 50 } else { self.entries.len() };
        let error = fails.then(|| Err(Error::Invalid("the log is gone".to_owned())));
        Box::new(self.entries[..good].iter().cloned().map(Ok).chain(error))
    }
}

#[test]
fn a_large_transaction_that_failed_halfway_comes_first() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    let entry = |change: &Change| WalEntry::new(WalEntryType::Insert, Some(1), change.encode());
    let failing = Failing {
        entries: large().iter().map(entry).collect(),
        reads: Arc::default(),
    };
    let (begin, end) = (Lsn::new(LARGE - 8), Lsn::new(LARGE));
    let large = Transaction::new(1, begin, end, 1 << 20, Box::new(failing));
    assert!(matches!(store.apply(&large), Err(Error::Invalid(_))));
    assert_eq!(store.applied(), Lsn::ZERO);
    assert!(scan(&store, 1, Lsn::ZERO).is_empty() || store.oldest() > Lsn::ZERO);
    let other = store.insert(Lsn::new(LARGE + 64), &[put(1, "k", "v")]);
    assert!(matches!(other, Err(Error::Refused { .. })));
    store.apply(&large).unwrap();
    assert_eq!(scan(&store, 1, end).len(), 75);
}
