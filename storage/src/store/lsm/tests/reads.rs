//! Reading beside everything else, and what is refused.

use std::sync::atomic::AtomicBool;
use std::thread;

use super::*;
use crate::store::KEY_MAX;

#[test]
fn a_read_sees_exactly_what_ends_at_or_below_its_position() {
    let bed = Bed::new();
    let store = bed.open();
    store
        .insert(Lsn::new(64), &[put(1, "k", "a"), put(2, "k", "other")])
        .unwrap();
    store
        .insert(Lsn::new(128), &[put(1, "k", "b"), put(1, "k", "c")])
        .unwrap();
    store
        .insert(Lsn::new(192), &[put(1, "k", "d"), delete(1, "k")])
        .unwrap();
    assert_eq!(get(&store, "k", 0), None);
    assert_eq!(get(&store, "k", 63), None);
    assert_eq!(get(&store, "k", 64).as_deref(), Some("a"));
    assert_eq!(get(&store, "k", 127).as_deref(), Some("a"));
    assert_eq!(get(&store, "k", 128).as_deref(), Some("c"));
    assert_eq!(get(&store, "k", 192), None);
    assert_eq!(scan(&store, 1, Lsn::new(128)).len(), 1);
    // Ahead of what is applied there is nothing more to see.
    assert_eq!(get(&store, "k", 1 << 40), None);
    assert_eq!(scan(&store, 2, Lsn::MAX).len(), 1);
}

#[test]
fn bounds_are_kept_and_checked() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX); // one key is larger than a memtable
    let store = bed.open();
    let rows = ["a", "b", "c", "d"].map(|key| put(1, key, key.to_owned()));
    store.insert(Lsn::new(64), &rows).unwrap();
    let create = Change::CreateTable {
        table: 1,
        name: "b".to_owned(),
    };
    store.insert(Lsn::new(128), &[create]).unwrap();
    let reader = store.reader();
    let keys = |from, to| {
        let rows = reader.scan(1, from, to, Lsn::new(128)).unwrap();
        let keys = rows.map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap());
        keys.collect::<String>()
    };
    let (b, c) = (&b"b"[..], &b"c"[..]);
    assert_eq!(keys(Bound::Unbounded, Bound::Unbounded), "abcd");
    assert_eq!(keys(Bound::Included(b), Bound::Included(c)), "bc");
    assert_eq!(keys(Bound::Excluded(b), Bound::Unbounded), "cd");
    assert_eq!(keys(Bound::Unbounded, Bound::Excluded(b)), "a");
    assert_eq!(keys(Bound::Included(c), Bound::Included(b)), "");
    let id = reader.get(0, b"b", Lsn::new(128)).unwrap().unwrap();
    assert_eq!(&*id, 1u32.to_le_bytes());
    let long = vec![b'k'; KEY_MAX + 1];
    let at = Lsn::new(128);
    assert!(matches!(
        reader.get(1, &long, at),
        Err(Error::TooLarge { .. })
    ));
    assert!(matches!(reader.get(1, b"", at), Err(Error::Invalid(_))));
    let refused = reader.scan(1, Bound::Included(&long), Bound::Unbounded, at);
    assert!(matches!(refused.err(), Some(Error::TooLarge { .. })));
    let long = String::from_utf8(long).unwrap();
    let refused = store.insert(Lsn::new(192), &[put(1, "ok", "v"), put(1, &long, "v")]);
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
    assert_eq!(store.applied(), at, "nothing of it was inserted");
    store
        .insert(Lsn::new(192), &[put(1, &long[1..], "v")])
        .unwrap();
    assert_eq!(get(&store, &long[1..], 192).as_deref(), Some("v"));
}

#[test]
fn readers_are_right_during_flush_and_merge() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    // Every transaction gives all rows the same value, so a mixed answer shows.
    let write = |n: u64| {
        let rows = (0..20).map(|key| put(1, &format!("k{key}"), vec![n as u8; 40]));
        store
            .insert(Lsn::new(64 * n), &rows.collect::<Vec<_>>())
            .unwrap();
    };
    write(1);
    let stop = Arc::new(AtomicBool::new(false));
    let readers = (0..3).map(|_| {
        let (reader, stop) = (store.reader(), stop.clone());
        thread::spawn(move || {
            let mut reads = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let at = reader.open_committed().unwrap();
                let expected = vec![(at.get() / 64) as u8; 40];
                for _ in 0..3 {
                    let value = reader.get(1, b"k7", at).unwrap().unwrap();
                    assert_eq!(value, expected);
                    let rows = reader
                        .scan(1, Bound::Unbounded, Bound::Unbounded, at)
                        .unwrap();
                    let rows = rows.map(|row| row.unwrap().1).collect::<Vec<_>>();
                    assert_eq!(rows.len(), 20);
                    assert!(rows.iter().all(|value| *value == expected));
                    reads += 1;
                }
                reader.close_snapshot(at);
            }
            reads
        })
    });
    let readers = readers.collect::<Vec<_>>();
    (2..1_000).for_each(write);
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    assert_eq!(store.status().oldest_snapshot, None);
}

/// Transactions of half a memtable each, all durable.
fn flood(store: &LsmStore, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let change = put(1, "k", vec![n as u8; 2 << 10]);
        store.insert(Lsn::new(64 * n), &[change]).unwrap();
        store.checkpoint(store.applied()).unwrap();
    }
}

#[test]
fn positions_below_the_watermark_are_refused() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    flood(&store, 1..10);
    let reader = store.reader();
    let refused = reader.get(1, b"k", Lsn::new(64));
    assert!(matches!(refused, Err(Error::SnapshotTooOld { .. })));
    assert!(matches!(
        reader.open_snapshot(Lsn::new(64)),
        Err(Error::SnapshotTooOld { .. })
    ));
    let scan = reader.scan(1, Bound::Unbounded, Bound::Unbounded, Lsn::new(64));
    assert!(matches!(scan.err(), Some(Error::SnapshotTooOld { .. })));
    store.close();
    let store = bed.open();
    assert_eq!(store.oldest(), Lsn::new(64 * 9));
    let refused = store.reader().get(1, b"k", Lsn::new(64 * 9 - 1));
    assert!(matches!(refused, Err(Error::SnapshotTooOld { .. })));
    assert!(get_raw(&store, 64 * 9).is_some());
}

fn get_raw(store: &LsmStore, at: u64) -> Option<Bytes> {
    store.reader().get(1, b"k", Lsn::new(at)).unwrap()
}

#[test]
fn an_open_snapshot_keeps_its_rows_until_it_is_closed() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    flood(&store, 1..2);
    let reader = store.reader();
    reader.open_snapshot(Lsn::new(64)).unwrap();
    reader.open_snapshot(Lsn::new(64)).unwrap();
    flood(&store, 2..20);
    assert_eq!(get_raw(&store, 64).unwrap()[0], 1);
    assert!(store.status().pinned_bytes > 10 * (2 << 10));
    reader.close_snapshot(Lsn::new(64));
    flood(&store, 20..25);
    assert_eq!(get_raw(&store, 64).unwrap()[0], 1);
    reader.close_snapshot(Lsn::new(64));
    flood(&store, 25..30);
    assert!(reader.get(1, b"k", Lsn::new(64)).is_err());
    assert!(
        store.status().pinned_bytes < 10 * (2 << 10),
        "their memory is free again"
    );
}

/// What ends a snapshot, with its scan, and spares a younger one.
fn ends_the_oldest(options: LsmOptions) {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open_with(options);
    flood(&store, 1..2);
    let reader = store.reader();
    reader.open_snapshot(Lsn::new(64)).unwrap();
    let rows = reader.scan(1, Bound::Unbounded, Bound::Unbounded, Lsn::new(64));
    let mut rows = rows.unwrap();
    flood(&store, 2..40);
    let young = store.applied();
    reader.open_snapshot(young).unwrap();
    flood(&store, 40..42);
    let refused = reader.get(1, b"k", Lsn::new(64));
    assert!(matches!(refused, Err(Error::SnapshotTooOld { .. })));
    assert!(matches!(
        rows.next(),
        Some(Err(Error::SnapshotTooOld { .. }))
    ));
    assert!(rows.next().is_none());
    assert_eq!(get_raw(&store, young.get()).unwrap()[0], 39);
    reader.close_snapshot(Lsn::new(64));
    reader.close_snapshot(young);
    assert_eq!(store.status().oldest_snapshot, None);
}

#[test]
fn a_snapshot_that_is_too_old_ends() {
    ends_the_oldest(LsmOptions {
        snapshot_age: 64 * 20,
        ..small()
    });
}

#[test]
fn a_snapshot_that_pins_too_much_memory_ends() {
    ends_the_oldest(LsmOptions {
        snapshot_bytes: 30 << 10,
        ..small()
    });
}

#[test]
fn closing_ends_reads_and_scans_and_the_directory_opens_again() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    flood(&store, 1..10);
    let reader = store.reader();
    let at = store.applied();
    let rows = reader.scan(1, Bound::Unbounded, Bound::Unbounded, at);
    let mut rows = rows.unwrap();
    drop(store); // the last handle
    let next = rows.next();
    assert!(matches!(next, Some(Err(Error::Closed))), "{next:?}");
    assert!(matches!(reader.get(1, b"k", at), Err(Error::Closed)));
    assert!(matches!(reader.open_snapshot(at), Err(Error::Closed)));
    let store = bed.open();
    flood(&store, 10..20);
    drop((rows, reader)); // too late to harm the new instance
    store.close();
    assert_eq!(get_raw(&bed.open(), 64 * 19).unwrap()[0], 19);
    assert!(matches!(
        store.insert(Lsn::new(1 << 20), &[]),
        Err(Error::Closed)
    ));
    assert!(matches!(store.checkpoint(at), Err(Error::Closed)));
}

#[test]
fn applying_again_changes_nothing() {
    let bed = Bed::new();
    let store = bed.open();
    store.apply(&transaction(64, &[put(1, "k", "a")])).unwrap();
    store.apply(&transaction(64, &[put(1, "k", "b")])).unwrap();
    assert_eq!(get(&store, "k", 64).as_deref(), Some("a"));
}

#[test]
#[should_panic(expected = "inserted 0/40 after 0/80")]
fn inserting_out_of_order_is_our_own_mistake() {
    let bed = Bed::new();
    let store = bed.open();
    store.insert(Lsn::new(128), &[]).unwrap();
    let _ = store.insert(Lsn::new(64), &[]);
}

#[test]
fn entries_that_are_not_changes_are_refused() {
    let bed = Bed::new();
    let store = bed.open();
    let (begin, end) = (Lsn::new(8), Lsn::new(64));
    for (entry_type, fits) in [
        (WalEntryType::Insert, false),
        (WalEntryType::BranchOp, false),
        (WalEntryType::Checkpoint, true),
    ] {
        let entries = vec![WalEntry::new(entry_type, None, "no change")];
        let transaction = Transaction::new(0, begin, end, 9, Box::new(entries));
        assert_eq!(store.apply(&transaction).is_ok(), fits, "{entry_type:?}");
    }
}
