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

#[test]
fn what_only_removes_rows_or_nothing_does_not_take_the_position_with_it() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let mut store = bed.open();
    let mut end = 0;
    for round in 0..8 {
        for changes in [
            vec![put(1, "a", "1"), put(1, "b", "2")],
            vec![delete(1, "a"), put(1, "c", "3")],
            vec![delete(1, "a"), delete(1, "b"), delete(1, "c")],
            vec![],
        ] {
            end += 64;
            store.apply(&transaction(end, &changes)).unwrap();
            store = again(&bed, store, end);
            let left = scan(&store, 1, Lsn::new(end)).len();
            assert_eq!(left, [2, 2, 0, 0][(end / 64 - 1) as usize % 4], "{round}");
        }
    }
}

#[test]
fn a_large_transaction_that_only_removes_rows_keeps_the_position_too() {
    let bed = Bed::new();
    bed.raise(Lsn::MAX);
    let store = bed.open();
    let name = |n: u32| format!("{n:0>200}");
    let rows = (0..40).map(|n| put(1, &name(n), "v")).collect::<Vec<_>>();
    store.apply(&transaction(64, &rows)).unwrap();
    let rows = (0..40).map(|n| delete(1, &name(n))).collect::<Vec<_>>();
    store.apply(&transaction(128, &rows)).unwrap();
    let store = again(&bed, store, 128);
    assert!(scan(&store, 1, Lsn::new(128)).is_empty());
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
