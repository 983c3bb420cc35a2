//! Tests of write transactions: against sorted maps, and against the meaning of "serializable".

mod serial;

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::disk::{Disk, OsDisk};
use crate::entry::WalEntry;
use crate::error::Error;
use crate::store::{CATALOG, Change, KEY_MAX, MemoryReader, MemoryStore, Store, Transaction};

type Model = BTreeMap<(TableId, Vec<u8>), Option<Vec<u8>>>;

fn write_set(dir: &Path, bytes_max: usize) -> WriteSet {
    WriteSet::new(Arc::new(OsDisk), dir).with_bytes_max(bytes_max)
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0u8..4, 1..4)
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        Just(Bound::Unbounded),
        key().prop_map(Bound::Included),
        key().prop_map(Bound::Excluded),
    ]
}

fn slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// A put of so many bytes, or a deletion.
fn write() -> impl Strategy<Value = (TableId, Vec<u8>, Option<usize>)> {
    let len = prop_oneof![Just(0), 1..60usize, Just(700)];
    (1..3u32, key(), prop::option::weighted(0.7, len))
}

fn fill(set: &mut WriteSet, writes: &[(TableId, Vec<u8>, Option<usize>)]) -> Model {
    let mut model = Model::new();
    for (n, (table, key, len)) in writes.iter().enumerate() {
        let value = len.map(|len| vec![n.to_le_bytes()[0]; len]);
        match value.clone() {
            Some(value) => set.put(*table, key, value).unwrap(),
            None => set.delete(*table, key).unwrap(),
        }
        model.insert((*table, key.clone()), value);
    }
    model
}

fn plain(writes: Writes<'_>) -> Model {
    let mut last = None;
    let plain = writes.map(|write| {
        let ((table, key), value) = write.unwrap();
        let key = (table, key.to_vec());
        assert!(last.as_ref() < Some(&key), "out of order, or twice");
        last = Some(key.clone());
        (key, value.map(|value| value.to_vec()))
    });
    plain.collect()
}

proptest! {
    #[test]
    fn a_write_set_is_a_sorted_map_however_often_it_spills(
        writes in prop::collection::vec(write(), 0..300),
        bytes_max in prop::sample::select(vec![0, 300, 2_000, 1 << 20]),
        (from, to) in (bound(), bound()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut set = write_set(dir.path(), bytes_max);
        let model = fill(&mut set, &writes);
        prop_assert_eq!(set.is_empty(), model.is_empty());
        prop_assert_eq!(set.count().unwrap(), model.len() as u64);
        for (table, key, _) in &writes {
            let value = set.get(*table, key).unwrap().expect("it was written");
            prop_assert_eq!(value.map(|v| v.to_vec()), model[&(*table, key.clone())].clone());
        }
        prop_assert_eq!(set.get(1, b"never").unwrap(), None);
        let size = |((_, key), value): (&(_, Vec<u8>), &Option<Vec<u8>>)| {
            (key.len() + value.as_ref().map_or(0, Vec::len)) as u64
        };
        let exact = model.iter().map(size).sum::<u64>();
        prop_assert!(set.bytes() == exact || (set.has_spilled() && set.bytes() > exact));
        if let Some(range) = KeyRange::new(slice(&from), slice(&to)).unwrap() {
            let in_range = plain(set.range(1, &range));
            let mut wanted = model.clone();
            wanted.retain(|(table, key), _| {
                let bounds = (slice(&from), slice(&to));
                *table == 1 && RangeBounds::<[u8]>::contains(&bounds, key.as_slice())
            });
            prop_assert_eq!(in_range, wanted);
        }
        let changes = set.changes().map(|change| change.unwrap().into_row());
        let changes = changes.map(|(t, k, v)| ((t, k.to_vec()), v.map(|v| v.to_vec())));
        prop_assert_eq!(changes.collect::<Model>(), model.clone());
        prop_assert_eq!(plain(set.merge()), model);
        drop(set);
        prop_assert!(OsDisk.list(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_draft_sees_its_own_writes_over_its_snapshot(
        stored in prop::collection::vec(write(), 0..60),
        later in prop::collection::vec(write(), 0..60),
        own in prop::collection::vec(write(), 0..60),
        bytes_max in prop::sample::select(vec![0, 1_000, 1 << 20]),
        (from, to) in (bound(), bound()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = MemoryStore::new(Arc::new(OsDisk));
        let mut first = write_set(dir.path(), 1 << 20);
        let mut model = fill(&mut first, &stored);
        apply(&mut store, &first, 100);
        let writes = write_set(dir.path(), bytes_max);
        let mut draft = Draft::new(store.reader(), Lsn::new(100), writes).unwrap();
        let mut second = write_set(dir.path(), 1 << 20);
        fill(&mut second, &later);
        apply(&mut store, &second, 200);
        store.checkpoint(Lsn::MAX).unwrap();
        model.extend(fill(&mut draft.writes, &own));
        for (table, key, _) in stored.iter().chain(&later).chain(&own) {
            let found = draft.get(*table, key).unwrap().map(|value| value.to_vec());
            prop_assert_eq!(found, model.get(&(*table, key.clone())).cloned().flatten());
        }
        let scan = draft.scan(1, slice(&from), slice(&to)).unwrap();
        // What is written now is not seen by the scan that is under way.
        for (_, key, _) in &stored {
            draft.delete(1, key).unwrap();
        }
        let rows = scan.map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap());
        let bounds = (slice(&from), slice(&to));
        let wanted = model
            .into_iter()
            .filter(|((table, _), _)| *table == 1)
            .filter(|((_, key), _)| RangeBounds::<[u8]>::contains(&bounds, key.as_slice()))
            .filter_map(|((_, key), value)| Some((key, value?)));
        prop_assert_eq!(rows.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    }
}

/// Applies a write set to a store, as a commit that ends at `end`.
fn apply(store: &mut MemoryStore, writes: &WriteSet, end: u64) {
    let entry = |change: Change| WalEntry::new(change.entry_type(), Some(1), change.encode());
    let entries = writes.changes().map(|change| entry(change.unwrap()));
    let entries = Box::new(entries.collect::<Vec<_>>());
    let transaction = Transaction::new(1, Lsn::new(end - 1), Lsn::new(end), 1, entries);
    store.apply(&transaction).unwrap();
}

#[test]
fn many_spills_become_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut set = write_set(dir.path(), 1_000);
    for n in 0..5_000u32 {
        set.put(1, &(n % 3_000).to_be_bytes(), vec![1; 400])
            .unwrap();
        // Eight of each level and one that is being merged, and there are few levels.
        assert!(OsDisk.list(dir.path()).unwrap().len() <= 8 * 5);
    }
    assert_eq!(set.count().unwrap(), 3_000);
    assert_eq!(set.get(1, &[0; 4]).unwrap().unwrap().unwrap().len(), 400);
}

#[test]
fn a_write_that_cannot_spill_is_refused_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut set = write_set(&dir.path().join("missing"), 1_000);
    set.put(1, b"a", vec![1; 600]).unwrap();
    let full = set.put(1, b"b", vec![2; 600]);
    assert!(
        matches!(full, Err(Error::Io { op: "create", .. })),
        "{full:?}"
    );
    assert_eq!(set.get(1, b"b").unwrap(), None);
    assert_eq!(set.count().unwrap(), 1);
    OsDisk.create_dir(&dir.path().join("missing")).unwrap();
    set.put(1, b"b", vec![2; 600]).unwrap();
    assert!(set.has_spilled());
    assert_eq!(set.count().unwrap(), 2);
}

#[test]
fn creating_a_table_is_logged_before_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut set = write_set(dir.path(), 0);
    set.put(7, b"ada", "1815").unwrap();
    set.create_table(7, "people").unwrap();
    set.delete(CATALOG, b"persons").unwrap();
    let name = "people".to_owned();
    let wanted = [
        Change::CreateTable { table: 7, name },
        Change::delete(CATALOG, "persons"),
        Change::put(7, "ada", "1815"),
    ];
    assert_eq!(set.changes().collect::<Result<Vec<_>>>().unwrap(), wanted);
}

#[test]
fn what_no_store_takes_is_refused_when_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut set = write_set(dir.path(), 0);
    let long = vec![1; KEY_MAX + 1];
    assert!(set.put(1, b"", "v").is_err());
    assert!(set.put(1, &long, "v").is_err());
    assert!(set.delete(1, b"").is_err());
    assert!(set.put(CATALOG, b"people", "7").is_err());
    assert!(set.create_table(CATALOG, "people").is_err());
    assert!(set.create_table(7, "").is_err());
    assert!(set.is_empty());
    set.put(1, &long[1..], "v").unwrap();
}

#[test]
fn a_draft_keeps_its_snapshot_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = MemoryStore::new(Arc::new(OsDisk));
    let mut set = write_set(dir.path(), 1 << 20);
    set.put(1, b"a", "1").unwrap();
    apply(&mut store, &set, 100);
    let draft = Draft::new(store.reader(), Lsn::new(100), write_set(dir.path(), 0)).unwrap();
    apply(&mut store, &set, 200);
    store.checkpoint(Lsn::MAX).unwrap();
    assert_eq!(draft.get(1, b"a").unwrap().unwrap(), "1");
    drop(draft);
    store.checkpoint(Lsn::MAX).unwrap();
    let late = Draft::<MemoryReader>::new(store.reader(), Lsn::new(100), set);
    assert!(matches!(late, Err(Error::SnapshotTooOld { .. })));
}
