//! Inserting transactions: into a memtable, or straight into tables when one cannot hold them.
//!
//! All rows of a transaction carry the version `end - 1`, so a reader at `end` is the first to see
//! them, and [`Shared::applied`] moves only when they are all there. A memtable is sealed between
//! transactions. Its newest version then says up to where everything is in it or in older ones; if
//! that version sets no row, but only removes some, or its transaction has none, the row of the
//! applied position is added: a merge may drop what removes, but never the newest row that is set.
//!
//! A transaction that is larger than a memtable never lies in one. Once it may reach disk, what
//! came before is flushed, its rows are written to tables in the order of their keys, and one edit
//! makes all of them part of the tree. A crash before that edit leaves files that the next open
//! removes; after it, everything is durable. Memory does not grow with the transaction.

use lsm_tree::{AbstractTree, Tree};

use super::engine::Shared;
use super::keys::{self, Op};
use super::work::Sealed;
use crate::entry::{WalEntry, WalEntryType};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::{Change, Transaction};

/// Above this the library's counter ends.
pub(super) const END_MAX: Lsn = Lsn::new(1 << 62);

/// What inserting needs to remember.
pub(super) struct Writer {
    tree: Option<Tree>,
    /// Everything up to here is in sealed memtables or in tables.
    sealed: Lsn,
    /// Where the last transaction ends that set a row.
    set: Lsn,
    /// Whether the active memtable has reached its size.
    full: bool,
}

/// Operations in the order in which they are inserted.
pub(super) type Ops<'a> = Box<dyn Iterator<Item = Result<Op>> + 'a>;

impl Writer {
    pub(super) fn new(tree: Tree, durable: Lsn) -> Self {
        Self {
            tree: Some(tree),
            sealed: durable,
            set: durable,
            full: false,
        }
    }

    /// Lets go of the tree.
    pub(super) fn shut(&mut self) {
        self.tree = None;
    }

    fn tree(&self) -> Result<&Tree> {
        self.tree.as_ref().ok_or(Error::Closed)
    }

    /// Inserts one row with the version of a transaction that ends at `end`, and returns the size
    /// of the memtable.
    fn insert(&mut self, (key, value): Op, end: Lsn) -> Result<u64> {
        let (tree, version) = (self.tree()?, end.get() - 1);
        let (_, size) = match value {
            Some(value) => {
                let inserted = tree.insert(key, value, version);
                self.set = end;
                inserted
            }
            None => tree.remove(key, version),
        };
        Ok(size)
    }
}

impl Shared {
    /// Inserts a transaction that fits into a memtable.
    pub(super) fn insert_whole(&self, end: Lsn, ops: Vec<Op>) -> Result<()> {
        self.check_turn(end)?;
        self.make_room()?;
        if self.work.look(|state| state.level0) >= self.options.level0_slow {
            self.work.pause();
        }
        let mut writer = self.writer.lock();
        writer.tree()?;
        for op in ops {
            writer.full = writer.insert(op, end)? >= self.options.memtable_bytes;
        }
        self.applied.raise(end);
        if writer.full && self.has_room() {
            self.seal(&mut writer)?;
        }
        Ok(())
    }

    /// Makes a transaction of `bytes` part of the tables, once it may reach disk, and waits for
    /// space if there is none. Its operations come in climbing order of their keys, each time that
    /// they are asked for.
    ///
    /// # Errors
    /// Nothing of the transaction is there then, and it can be inserted again.
    pub(super) fn insert_large<'a>(
        &self,
        end: Lsn,
        bytes: u64,
        ops: impl Fn() -> Ops<'a>,
    ) -> Result<()> {
        let tree = self.make_way(end)?;
        loop {
            match self.write_tables(&tree, end, ops()) {
                Err(error) if self.wait_for_space(&tree, &error, bytes * 2, "large") => {}
                written => break written?,
            }
        }
        self.writer.lock().sealed = end;
        Ok(())
    }

    /// As [`insert_large`](Self::insert_large), for operations that can be asked for once only;
    /// want of space is an error then.
    pub(super) fn insert_once(&self, end: Lsn, ops: Ops<'_>) -> Result<()> {
        let tree = self.make_way(end)?;
        self.write_tables(&tree, end, ops)?;
        self.writer.lock().sealed = end;
        Ok(())
    }

    /// Waits until what ends at `end` may reach disk and everything before it is there.
    ///
    /// # Errors
    /// [`Error::Closed`] where it never will, because the log has ended before.
    fn make_way(&self, end: Lsn) -> Result<Tree> {
        self.check_turn(end)?;
        let gate = [&self.gate.flushed, &self.gate.commit];
        self.work.until(|turn| match self.gate.reached() >= end {
            true => Some(Ok(())),
            false => (!turn.wait_for(&gate, end)).then_some(Err(Error::Closed)),
        })??;
        self.wait_for_room()?;
        let tree = {
            let mut writer = self.writer.lock();
            self.seal(&mut writer)?;
            writer.tree()?.clone()
        };
        // Tables are told apart by age, so those of older transactions come first.
        self.work.until(|turn| {
            let crowded = turn.state.level0 >= self.options.level0_stop;
            if turn.state.sealed.is_empty() && !crowded {
                return Some(());
            }
            turn.wait();
            None
        })?;
        Ok(tree)
    }

    /// Seals what is in memory when `when` says so of what was applied; never inside a
    /// transaction. Returns without doing so when too many memtables wait already.
    pub(super) fn seal_if(&self, when: impl FnOnce(Lsn) -> bool) -> Result<()> {
        let mut writer = self.writer.lock();
        writer.tree()?;
        let applied = self.applied.get();
        if applied > writer.sealed && self.has_room() && when(applied) {
            self.seal(&mut writer)?;
        }
        Ok(())
    }

    fn seal(&self, writer: &mut Writer) -> Result<()> {
        let applied = self.applied.get();
        if applied > writer.sealed && applied > writer.set {
            writer.insert(keys::applied(applied), applied)?;
        }
        writer.sealed = applied;
        writer.full = false;
        let Some(memtable) = writer.tree()?.rotate_memtable() else {
            return Ok(());
        };
        let sealed = Sealed {
            highest: memtable.get_highest_seqno().expect("it is not empty"),
            memtable,
        };
        assert_eq!(sealed.end(), applied, "a memtable says where it ends");
        self.work.change(|state| state.sealed.push_back(sealed));
        Ok(())
    }

    /// Makes sure that the active memtable takes another transaction.
    fn make_room(&self) -> Result<()> {
        if !self.writer.lock().full {
            return self.work.fault.check();
        }
        self.wait_for_room()?;
        let mut writer = self.writer.lock();
        match writer.full {
            true => self.seal(&mut writer),
            false => Ok(()),
        }
    }

    /// Waits until one more memtable may be sealed.
    ///
    /// # Errors
    /// [`Error::Closed`] where none ever will, because the log has ended.
    fn wait_for_room(&self) -> Result<()> {
        if !self.has_room() {
            self.work.change(|state| state.stalls += 1);
            tracing::warn!(
                dir = %self.dir.display(), gate = %self.gate.reached(),
                "inserts wait: memory is full of what may not reach disk yet"
            );
        }
        let gate = [&self.gate.flushed, &self.gate.commit];
        self.work.until(|turn| {
            if turn.state.sealed.len() < self.options.sealed_max {
                return Some(Ok(()));
            }
            match turn.state.sealed.front().map(Sealed::end) {
                Some(end) if self.gate.reached() < end => {
                    return (!turn.wait_for(&gate, end)).then_some(Err(Error::Closed));
                }
                _ => turn.wait(),
            }
            None
        })?
    }

    fn has_room(&self) -> bool {
        self.work
            .look(|state| state.sealed.len() < self.options.sealed_max)
    }

    /// # Panics
    /// When the transaction does not come after the one before it.
    fn check_turn(&self, end: Lsn) -> Result<()> {
        let applied = self.applied.get();
        assert!(end > applied, "inserted {end} after {applied}");
        let refused = |why: String| Err(Error::Refused { at: end, why });
        if end > END_MAX {
            return refused(format!("the store keeps positions up to {END_MAX}"));
        }
        Ok(())
    }
}

/// Sorts the operations of a transaction by key and keeps the last of each.
pub(super) fn in_key_order(mut ops: Vec<Op>) -> Vec<Op> {
    ops.sort_by(|a, b| a.0.cmp(&b.0));
    ops.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    ops
}

/// Bytes that operations take in a memtable, without the library's own.
pub(super) fn bytes_of(ops: &[Op]) -> u64 {
    ops.iter().map(keys::size).sum()
}

/// What a transaction from the log does to the tree, in the order of its entries.
pub(super) fn ops_of(transaction: &Transaction) -> impl Iterator<Item = Result<Op>> + '_ {
    let entries = transaction.entries();
    entries.filter_map(|entry| op(entry).transpose())
}

/// What an entry does to the tree; nothing for those that are not about rows.
fn op(entry: Result<WalEntry>) -> Result<Option<Op>> {
    let entry = entry?;
    match entry.entry_type {
        WalEntryType::Insert
        | WalEntryType::Update
        | WalEntryType::Delete
        | WalEntryType::SchemaChange => Ok(Some(keys::op(&Change::decode(&entry.data)?)?)),
        WalEntryType::Checkpoint => Ok(None),
        other => Err(Error::Refused {
            at: entry.lsn,
            why: format!("the store does not know entries of type {other:?}"),
        }),
    }
}

/// # Errors
/// Keys that do not climb.
pub(super) fn check_order(end: Lsn, ops: impl Iterator<Item = Result<Op>>) -> Result<()> {
    let mut last = None;
    for op in ops {
        let (key, _) = op?;
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err(Error::Refused {
                at: end,
                why: "the entries of this large transaction are not in order of their keys"
                    .to_owned(),
            });
        }
        last = Some(key);
    }
    Ok(())
}
