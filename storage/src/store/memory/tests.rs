//! Tests of the memory store: the suite that every store runs, and what only this one promises.

use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::disk::{OsDisk, SimDisk};
use crate::entry::WalEntryType;
use crate::store::conformance::{Specimen, conformance, random_life};

struct Memory {
    dir: TempDir,
    copies: usize,
}

impl Specimen for Memory {
    type Store = MemoryStore;
    type Reader = MemoryReader;

    fn fresh(&mut self) -> (MemoryStore, MemoryReader) {
        let store = MemoryStore::new(Arc::new(OsDisk));
        let reader = store.reader();
        (store, reader)
    }

    fn crash(&mut self, mut store: MemoryStore, old: MemoryReader) -> (MemoryStore, MemoryReader) {
        store.crash();
        assert!(matches!(old.get(1, b"k", Lsn::MAX), Err(Error::Closed)));
        let reader = store.reader();
        (store, reader)
    }

    fn committed(&mut self, _: Lsn) {}

    fn directory(&mut self) -> PathBuf {
        self.copies += 1;
        let dir = self.dir.path().join(self.copies.to_string());
        OsDisk.create_dir(&dir).unwrap();
        dir
    }

    fn open_copy(&mut self, dir: &Path) -> (MemoryStore, MemoryReader) {
        let store = MemoryStore::open_snapshot(Arc::new(OsDisk), dir).unwrap();
        let reader = store.reader();
        (store, reader)
    }
}

fn specimen() -> Memory {
    let dir = tempfile::tempdir().unwrap();
    Memory { dir, copies: 0 }
}

fn put(end: u64, key: &str, value: impl Into<Bytes>) -> Transaction {
    let change = Change::put(1, key.to_owned(), value);
    let entry = WalEntry::new(WalEntryType::Insert, None, change.encode());
    let begin = Lsn::new(end - 8);
    Transaction::new(0, begin, Lsn::new(end), 8, Box::new(vec![entry]))
}

#[test]
fn the_memory_store_conforms() {
    conformance(&mut specimen(), 0);
    (1..20).for_each(|seed| random_life(&mut specimen(), seed, 300));
}

#[test]
fn versions_that_nobody_can_read_are_dropped() {
    let mut store = MemoryStore::new(Arc::new(OsDisk));
    let reader = store.reader();
    for n in 1..=100 {
        store.apply(&put(n * 8, "k", "v")).unwrap();
    }
    reader.open_snapshot(Lsn::new(400)).unwrap();
    assert_eq!(store.checkpoint(Lsn::new(500)).unwrap(), Lsn::new(496));
    let count = |store: &MemoryStore| store.shared.read().rows.count();
    assert_eq!(count(&store), (1, 51), "400 and everything above is needed");
    assert!(reader.open_snapshot(Lsn::new(392)).is_err());
    reader.close_snapshot(Lsn::new(400));
    reader.close_snapshot(Lsn::new(400)); // once too often changes nothing
    store.checkpoint(Lsn::MAX).unwrap();
    assert_eq!(count(&store), (1, 1));
    let mut gone = put(808, "k", "");
    let data = Change::delete(1, "k").encode();
    gone = Transaction::new(
        0,
        gone.begin,
        gone.end,
        8,
        Box::new(vec![WalEntry::new(WalEntryType::Delete, None, data)]),
    );
    store.apply(&gone).unwrap();
    store.checkpoint(Lsn::MAX).unwrap();
    assert_eq!(count(&store), (0, 0), "a deletion leaves nothing behind");
}

#[test]
fn a_snapshot_that_pins_too_much_ends() {
    let mut store = MemoryStore::new(Arc::new(OsDisk)).with_history_max(10_000);
    let reader = store.reader();
    store.apply(&put(8, "k", "first")).unwrap();
    reader.open_snapshot(Lsn::new(8)).unwrap();
    let mut rows = reader
        .scan(1, Bound::Unbounded, Bound::Unbounded, Lsn::new(8))
        .unwrap();
    for n in 2..=20 {
        store.apply(&put(n * 8, "k", vec![0; 1_000])).unwrap();
        store.checkpoint(Lsn::MAX).unwrap();
        let got = reader.get(1, b"k", Lsn::new(8));
        if n < 10 {
            assert_eq!(got.unwrap().unwrap(), "first");
        } else if n > 12 {
            assert!(matches!(got, Err(Error::SnapshotTooOld { .. })));
        }
    }
    assert!(matches!(
        rows.next(),
        Some(Err(Error::SnapshotTooOld { .. }))
    ));
    assert!(rows.next().is_none(), "an ended scan stays ended");
    reader.open_snapshot(Lsn::new(160)).unwrap();
}

#[test]
fn a_long_scan_is_not_held_up_by_replay_and_sees_none_of_it() {
    let mut store = MemoryStore::new(Arc::new(OsDisk));
    let reader = store.reader();
    for n in 1..=1_000 {
        store.apply(&put(n * 8, &format!("{n:04}"), "old")).unwrap();
    }
    let at = Lsn::new(8_000);
    reader.open_snapshot(at).unwrap();
    let mut seen = 0;
    for row in reader
        .scan(1, Bound::Unbounded, Bound::Unbounded, at)
        .unwrap()
    {
        assert_eq!(row.unwrap().1, "old");
        seen += 1;
        let key = format!("{:04}", 1_001 - seen);
        store.apply(&put(8_000 + seen * 8, &key, "new")).unwrap();
        store.checkpoint(Lsn::MAX).unwrap();
    }
    assert_eq!(seen, 1_000);
}

const COPY: &str = "/copy/memory-store";

fn copied() -> (Arc<SimDisk>, Vec<u8>) {
    let disk = Arc::new(SimDisk::new(1));
    disk.create_dir(Path::new("/copy")).unwrap();
    let mut store = MemoryStore::new(disk.clone());
    store.apply(&put(8, "key", "value")).unwrap();
    store.checkpoint(Lsn::MAX).unwrap();
    store.snapshot(Path::new("/copy")).unwrap();
    let bytes = disk.read_file(COPY);
    (disk, bytes)
}

#[test]
fn the_bytes_of_a_copy_never_change() {
    let (_, bytes) = copied();
    let mut wanted = b"MAINSTAY\x01\0\0\0\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    wanted.extend(b"\x01\x03key\x05value");
    wanted.extend(crc32fast::hash(&wanted).to_le_bytes());
    assert_eq!(bytes, wanted);
}

#[test]
fn a_copy_of_a_newer_format_says_so() {
    let (disk, mut bytes) = copied();
    bytes[8] = 2;
    let body = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..body]).to_le_bytes();
    bytes[body..].copy_from_slice(&crc);
    disk.write_file(COPY, &bytes);
    let opened = MemoryStore::open_snapshot(disk, Path::new("/copy"));
    assert!(matches!(opened, Err(Error::Format { found: 2, .. })));
}

proptest! {
    #[test]
    fn every_copy_holds_what_was_copied(
        rows in prop::collection::btree_map(
            (1u32..4, prop::collection::vec(any::<u8>(), 1..20)),
            prop::collection::vec(any::<u8>(), 0..20),
            0..20,
        ),
        position: u64,
    ) {
        let (disk, dir) = (SimDisk::new(1), Path::new("/copy"));
        disk.create_dir(dir).unwrap();
        let rows = rows.into_iter();
        let image = rows.map(|((table, key), value)| ((table, key.into()), value.into()));
        let image = image.collect::<std::collections::BTreeMap<_, _>>();
        super::snapshot::write(&disk, dir, &image, Lsn::new(position)).unwrap();
        let read = super::snapshot::read(&disk, dir).unwrap();
        prop_assert_eq!(read, (image, Lsn::new(position)));
    }

    #[test]
    fn a_damaged_copy_is_refused(at: usize, flip in 1u8.., cut: usize, more: u8) {
        let (disk, bytes) = copied();
        let mut flipped = bytes.clone();
        flipped[at % bytes.len()] ^= flip;
        let cut = bytes[..cut % bytes.len()].to_vec();
        for damaged in [flipped, cut, [bytes, vec![more]].concat()] {
            disk.write_file(COPY, &damaged);
            let opened = MemoryStore::open_snapshot(disk.clone(), Path::new("/copy"));
            let refused = matches!(opened, Err(Error::Corrupt { .. }));
            prop_assert!(refused);
        }
    }
}
