//! Where a store that is opened again says that it stands, whatever merges have dropped.

use super::*;
use crate::store::lsm::fixture::names;

/// Opens the store again after everything up to `end` reached its tables and was merged.
fn again(bed: &Bed, store: LsmStore, end: u64) -> LsmStore {
    assert_eq!(store.checkpoint(Lsn::new(end)).unwrap(), Lsn::new(end));
    settle(&store);
    store.close();
    let store = bed.open();
    assert_eq!(store.durable(), Lsn::new(end));
    settle(&store);
    store
}

/// Merges begin at four runs here, so what is merged last depends on how many lie there before.
#[test]
fn what_only_removes_rows_or_nothing_does_not_take_the_position_with_it() {
    let mut merged = [false; 4];
    for before in 0..4 {
        let bed = Bed::new();
        bed.raise(Lsn::MAX);
        let mut store = bed.open();
        for n in 1..=before {
            store
                .apply(&transaction(n * 64, &[put(1, "a", "0")]))
                .unwrap();
            store = again(&bed, store, n * 64);
        }
        let mut end = before * 64;
        for step in 0..32 {
            let changes = match step % 4 {
                0 => vec![put(1, "a", "1"), put(1, "b", "2")],
                1 => vec![delete(1, "a"), put(1, "c", "3")],
                2 => vec![delete(1, "a"), delete(1, "b"), delete(1, "c")],
                _ => vec![],
            };
            end += 64;
            store.apply(&transaction(end, &changes)).unwrap();
            store = again(&bed, store, end);
            merged[step % 4] |= store.status().level0_runs == 0;
            let left = scan(&store, 1, Lsn::new(end)).len();
            assert_eq!(left, [2, 2, 0, 0][step % 4], "{before} before, step {step}");
        }
    }
    assert_eq!(merged, [true; 4], "each was the newest of a merge");
}

#[test]
fn a_large_transaction_that_only_removes_rows_keeps_the_position_too() {
    let name = |n: u32| format!("{n:0>200}");
    let mut merged = false;
    for before in 1..=4 {
        let bed = Bed::new();
        bed.raise(Lsn::MAX);
        let mut store = bed.open();
        for n in 1..=before {
            let rows = (0..40).map(|n| put(1, &name(n), "v")).collect::<Vec<_>>();
            store.apply(&transaction(n * 64, &rows)).unwrap();
            store = again(&bed, store, n * 64);
        }
        let end = (before + 1) * 64;
        let rows = (0..40).map(|n| delete(1, &name(n))).collect::<Vec<_>>();
        store.apply(&transaction(end, &rows)).unwrap();
        let store = again(&bed, store, end);
        merged |= store.status().level0_runs == 0;
        assert!(scan(&store, 1, Lsn::new(end)).is_empty());
    }
    assert!(merged, "its tables were never merged");
}

/// A row in each table that lies after all others would be in the way.
#[test]
fn tables_of_climbing_keys_are_never_written_again() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    for n in 1..=1_000 {
        let row = put(1, &format!("{n:08}"), vec![b'v'; 100]);
        store.apply(&transaction(n * 64, &[row])).unwrap();
    }
    let store = again(&bed, store, 64_000);
    let tables = names(&bed.dir().join("tables"));
    assert!(tables.len() > 20, "{}", tables.len());
    // They are numbered in the order in which they were written.
    let written = tables.iter().map(|name| name.parse::<usize>().unwrap());
    assert_eq!(written.max(), Some(tables.len() - 1));
    assert_eq!(scan(&store, 1, Lsn::new(64_000)).len(), 1_000);
}

/// Such a version can only come from elsewhere: the store itself refuses to write it.
#[test]
fn a_version_above_all_positions_is_refused_when_it_is_found() {
    use lsm_tree::{AbstractTree, AnyTree, Config, SequenceNumberCounter};

    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    store.insert(Lsn::new(64), &[put(1, "k", "v")]).unwrap();
    assert_eq!(store.checkpoint(Lsn::new(64)).unwrap(), Lsn::new(64));
    let beyond = super::super::writer::END_MAX + 64;
    let refused = store.insert(beyond, &[put(1, "k", "v")]);
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    store.close();
    let counter = SequenceNumberCounter::default();
    let config = Config::new(bed.dir(), counter.clone(), SequenceNumberCounter::default());
    let AnyTree::Standard(tree) = config.open().unwrap() else {
        unreachable!("no key-value separation was asked for")
    };
    tree.insert("k", "v", beyond.get());
    let memtable = tree.rotate_memtable().unwrap();
    let written = tree.flush_to_tables(memtable.iter().map(Ok));
    let (tables, _) = written.unwrap().unwrap();
    counter.set(beyond.get() + 1);
    let registered = tree.register_tables(&tables, None, None, &[memtable.id()], 0);
    registered.unwrap();
    drop((tables, memtable, tree));
    let opened = LsmStore::open(&bed.dir(), true, bed.gate(), small());
    assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
}
