//! The suite that every store passes, on memtables of several sizes.

use std::path::PathBuf;

use super::*;
use crate::store::conformance::{Specimen, conformance, random_life};

struct Lsm {
    bed: Bed,
    options: LsmOptions,
    directories: u64,
}

impl Lsm {
    fn new(options: LsmOptions) -> Self {
        Self {
            bed: Bed::new(),
            options,
            directories: 0,
        }
    }

    fn open(&self) -> (LsmStore, LsmReader) {
        let store = self.bed.open_with(self.options.clone());
        let reader = store.reader();
        (store, reader)
    }
}

impl Specimen for Lsm {
    type Store = LsmStore;
    type Reader = LsmReader;

    fn fresh(&mut self) -> (LsmStore, LsmReader) {
        self.bed = Bed::new();
        self.open()
    }

    /// Memory is gone, and nothing is flushed on the way.
    fn crash(&mut self, store: LsmStore, reader: LsmReader) -> (LsmStore, LsmReader) {
        drop((store, reader));
        self.open()
    }

    fn committed(&mut self, upto: Lsn) {
        self.bed.raise(upto);
    }

    fn directory(&mut self) -> PathBuf {
        self.directories += 1;
        let dir = self.bed.temp.path().join(self.directories.to_string());
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    fn open_copy(&mut self, dir: &Path) -> (LsmStore, LsmReader) {
        let store = LsmStore::open(dir, true, open_gate(), self.options.clone()).unwrap();
        let reader = store.reader();
        (store, reader)
    }
}

#[test]
fn the_store_does_what_every_store_must() {
    conformance(&mut Lsm::new(LsmOptions::default()), 1);
}

/// The written cases apply large transactions before they commit them, which waits for itself
/// where a memtable does not hold them.
#[test]
fn the_store_does_what_every_store_must_with_small_memtables() {
    let options = LsmOptions {
        memtable_bytes: 64 << 10,
        sealed_max: 64,
        ..small()
    };
    for seed in 2..5 {
        random_life(&mut Lsm::new(options.clone()), seed, 300);
    }
}
