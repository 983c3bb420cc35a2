//! What a node's store takes, what can be seen of it, and that it is what it should be.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{Applicator, Disk, Lsn, MemoryStore, ReadAt, Store, TableId};

use super::{Done, Node, RowKey, Trouble, World, broken};
use crate::sim::clients::{self, ACCOUNTS, LISTS};

/// Where a store writes a copy of itself for the moment.
pub(super) const COPY: &str = "/copy";

impl Node {
    /// The store takes what is committed, and makes some of that durable at times.
    pub(super) fn apply(&mut self, world: &mut World<'_>) -> Done {
        let before = self.store.applied();
        let life = self.life.as_mut().expect("it runs");
        let commit = life.wal.commit().get();
        let replayable = life.wal.replayable().get();
        life.applicator.apply_upto(&mut self.store, replayable)?;
        let applied = self.store.applied();
        // Before the log that tells what is shown may be removed.
        self.check_shown(applied.min(commit), world)?;
        if world.random.one_in(200) {
            self.checkpoint(commit)?;
            self.remove_log(world)?;
        }
        if applied > before && world.random.one_in(50) {
            self.check_rows(world)?;
        }
        Ok(())
    }

    /// Makes durable what is applied up to `upto`, so that replay begins later.
    pub(super) fn checkpoint(&mut self, upto: Lsn) -> Done {
        let life = self.life.as_mut().expect("it runs");
        let durable = self.store.checkpoint(upto)?;
        let restart = life.applicator.safe_restart(durable);
        if restart > life.wal.control().checkpoint {
            life.wal.checkpoint(restart)?;
        }
        Ok(())
    }

    /// Everything below `upto` is visible here, or confirmed.
    pub(super) fn check_shown(&mut self, upto: Lsn, world: &mut World<'_>) -> Done {
        let name = self.name.clone();
        let life = self.life();
        if upto > life.checked {
            let shown = world.oracle.shown(&life.wal, life.checked, upto);
            shown.map_err(|trouble| match trouble {
                Trouble::Broken(why) => Trouble::Broken(format!("{name}: {why}")),
                other => other,
            })?;
            life.checked = upto;
        }
        Ok(())
    }

    /// The store's rows are what the committed log makes of them, each transaction once and whole.
    fn check_rows(&self, world: &World<'_>) -> Done {
        let (rows, applied) = (self.rows()?, self.store.applied());
        let name = &self.name;
        let total = clients::total(rows.iter().filter(|((table, _), _)| *table == ACCOUNTS));
        if total != clients::TOTAL {
            return broken(format!("{name} at {applied}: the accounts hold {total}"));
        }
        match world.oracle.rows_at(applied) {
            Some(digest) if digest != clients::digest(&rows) => broken(format!(
                "{name} at {applied}: its rows are not what the log makes of them"
            )),
            _ => Ok(()),
        }
    }

    /// All rows of its store.
    pub(in crate::sim) fn rows(&self) -> Done<BTreeMap<RowKey, Bytes>> {
        all_rows(&self.store)
    }

    /// Everything that is in the log, committed or not: what a transaction here reads.
    pub(super) fn look_at_all(&mut self) -> Done {
        let mut copy = self.copy_of_store()?;
        let life = self.life.as_mut().expect("it runs");
        let mut applicator = Applicator::new(&life.wal, &copy)?;
        applicator.apply_upto(&mut copy, life.wal.flushed().get())?;
        life.view = all_rows(&copy)?;
        Ok(())
    }

    fn copy_of_store(&mut self) -> Done<MemoryStore> {
        let disk = self.snapshot()?;
        Ok(MemoryStore::open_snapshot(Arc::new(disk), Path::new(COPY))?)
    }

    /// A disk with a copy of what the store made durable.
    pub(super) fn snapshot(&mut self) -> Done<mainstay_storage::SimDisk> {
        let into = Path::new(COPY);
        let made = self.store_disk.create_dir(into);
        if let Err(error) = made.or_else(|error| match error.kind() {
            ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        }) {
            return broken(format!("a disk without faults: {error}"));
        }
        self.store.snapshot(into)?;
        let copy = self.store_disk.copy();
        for file in self.store_disk.files() {
            self.store_disk.remove_file(file);
        }
        Ok(copy)
    }
}

fn all_rows(store: &MemoryStore) -> Done<BTreeMap<RowKey, Bytes>> {
    let (reader, at) = (store.reader(), store.applied());
    let mut all = BTreeMap::new();
    for table in [LISTS, ACCOUNTS] {
        let rows = reader.scan(table, Bound::Unbounded, Bound::Unbounded, at)?;
        for row in rows {
            let (key, value) = row?;
            all.insert((table as TableId, key), value);
        }
    }
    Ok(all)
}
