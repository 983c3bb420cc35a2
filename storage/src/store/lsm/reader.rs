//! Reading the store at a position, beside flush, compaction and inserts.
//!
//! No read waits for any of them longer than a version edit takes, and none panics: keys, bounds
//! and positions are checked before the library sees them.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lsm_tree::{AbstractTree, Guard, IterGuardImpl};
use parking_lot::{Mutex, MutexGuard};

use super::engine::Shared;
use super::fault::convert;
use super::keys::{self, PREFIX, Range};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::{ReadAt, Rows, TableId};

/// Reads of a [`LsmStore`](super::LsmStore) at a position. Clones are handles on the same store;
/// once it is closed they answer [`Error::Closed`].
#[derive(Clone)]
pub struct LsmReader {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for LsmReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LsmReader")
    }
}

impl LsmReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The lowest position that can be read now. It climbs; open snapshots hold it back.
    pub fn oldest(&self) -> Lsn {
        self.shared.horizon.floor()
    }

    /// Registers the newest position that is both committed and applied, and returns it. Reading
    /// the two and calling [`open_snapshot`](ReadAt::open_snapshot) does the same, but may come
    /// too late when a flush lies between.
    ///
    /// # Errors
    /// As `open_snapshot`.
    pub fn open_committed(&self) -> Result<Lsn> {
        let mut last = None;
        loop {
            let at = self.shared.visible();
            match self.open_snapshot(at) {
                // The floor has risen past the position; so has what is visible, unless the log
                // is still being replayed.
                Err(Error::SnapshotTooOld { .. }) if last != Some(at) => last = Some(at),
                opened => return opened.map(|()| at),
            }
        }
    }

    /// The rows of a range, as of a position to read at, without the first `cut` bytes of their
    /// keys.
    pub(super) fn rows(&self, range: Range, at: Lsn, cut: usize) -> Result<Rows> {
        let slot = Arc::new(ScanSlot::new(Slot::Done));
        let scan = Scan {
            number: self.shared.horizon.add_scan(at, &slot)?,
            shared: self.shared.clone(),
            slot,
            at,
            cut,
        };
        scan.start(range)?;
        Ok(Box::new(scan))
    }

    /// The position to read at for `at`. Above what is applied lie only rows of transactions that
    /// are being inserted, which nobody may see.
    pub(super) fn position(&self, at: Lsn) -> Result<Lsn> {
        self.shared.work.fault.check()?;
        Ok(at.min(self.shared.applied.get()))
    }
}

impl ReadAt for LsmReader {
    fn get(&self, table: TableId, key: &[u8], at: Lsn) -> Result<Option<Bytes>> {
        let key = keys::row(table, key)?;
        let at = self.position(at)?;
        let live = self.shared.horizon.at(at)?;
        let value = live.tree().get(key, at.get());
        let value = value.map_err(|error| convert("get", &self.shared.dir, error))?;
        Ok(value.map(keys::bytes))
    }

    /// The scan registers `at` for itself and ends when it is dropped, when the store is closed,
    /// or when `at` becomes too old.
    fn scan(&self, table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>, at: Lsn) -> Result<Rows> {
        let range = keys::range(table, from, to)?;
        let at = self.position(at)?;
        let Some(range) = range else {
            drop(self.shared.horizon.at(at)?);
            return Ok(Box::new(std::iter::empty()));
        };
        self.rows(range, at, PREFIX)
    }

    fn applied(&self) -> Lsn {
        self.shared.applied.get()
    }

    fn open_snapshot(&self, at: Lsn) -> Result<()> {
        self.shared.work.fault.check()?;
        self.shared.horizon.open(at)
    }

    fn close_snapshot(&self, at: Lsn) {
        self.shared.horizon.close(at);
    }
}

type Iter = Box<dyn DoubleEndedIterator<Item = IterGuardImpl> + Send>;

/// Where a scan's iterator lies, so that the store can take it away. It pins tables: one that
/// outlived the tree could delete a file of the next instance, whose number it shares.
pub(super) struct ScanSlot {
    slot: Mutex<Slot>,
    /// The lowest position that can be read, once the scan's own is below it. Set without waiting
    /// for a step that is under way, which may skip any number of deleted rows.
    too_old: AtomicU64,
}

/// What is in it.
pub(super) enum Slot {
    /// It runs.
    Open(Iter),
    /// Its position is below this one now.
    TooOld {
        /// The lowest that can be read.
        oldest: Lsn,
    },
    /// The store was closed.
    Closed,
    /// It has said all it had to.
    Done,
}

impl ScanSlot {
    pub(super) fn new(slot: Slot) -> Self {
        Self {
            slot: Mutex::new(slot),
            too_old: AtomicU64::new(0),
        }
    }

    /// Ends a scan whose position is below `oldest` now: at once, or behind the step under way.
    pub(super) fn end_too_old(&self, oldest: Lsn) {
        self.too_old.store(oldest.get(), Ordering::SeqCst);
        self.look_at_age();
    }

    /// Takes the iterator away if it is too old, unless a step is under way, which looks itself
    /// when it has let go.
    fn look_at_age(&self) {
        let oldest = Lsn::new(self.too_old.load(Ordering::SeqCst));
        if !oldest.is_zero()
            && let Some(slot) = self.slot.try_lock()
        {
            end(slot, Slot::TooOld { oldest });
        }
    }

    /// Ends a scan because the store is closed; waits for the step under way.
    pub(super) fn close(&self) {
        end(self.slot.lock(), Slot::Closed);
    }
}

/// Replaces a running iterator by the reason why it ended.
fn end(mut slot: MutexGuard<'_, Slot>, reason: Slot) {
    if matches!(*slot, Slot::Open(_)) {
        *slot = reason;
    }
}

struct Scan {
    shared: Arc<Shared>,
    slot: Arc<ScanSlot>,
    number: u64,
    at: Lsn,
    /// Bytes of a key that are not shown.
    cut: usize,
}

impl Scan {
    /// The iterator goes into the slot while the tree is held, so that whoever shuts the store
    /// finds either no iterator or one that it can take away.
    fn start(&self, range: Range) -> Result<()> {
        let mut slot = self.slot.slot.lock();
        let live = self.shared.horizon.at(self.at)?;
        *slot = Slot::Open(live.tree().range(range, self.at.get(), None));
        Ok(())
    }

    fn step(&self, slot: &mut Slot) -> Result<Option<(Bytes, Bytes)>> {
        self.shared.work.fault.check()?;
        match slot {
            Slot::Open(iter) => {
                let Some(row) = iter.next() else {
                    return Ok(None);
                };
                let row = row.into_inner();
                let (key, value) = row.map_err(|error| convert("scan", &self.shared.dir, error))?;
                Ok(Some((
                    Bytes::copy_from_slice(&key[self.cut..]),
                    keys::bytes(value),
                )))
            }
            Slot::TooOld { oldest } => Err(Error::SnapshotTooOld {
                at: self.at,
                oldest: *oldest,
            }),
            Slot::Closed => Err(Error::Closed),
            Slot::Done => Ok(None),
        }
    }
}

impl Iterator for Scan {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut slot = self.slot.slot.lock();
        let item = self.step(&mut slot).transpose();
        if !matches!(item, Some(Ok(_))) {
            *slot = Slot::Done;
        }
        drop(slot);
        self.slot.look_at_age();
        item
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        *self.slot.slot.lock() = Slot::Done;
        self.shared.horizon.remove_scan(self.number, self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> ScanSlot {
        ScanSlot::new(Slot::Open(Box::new(std::iter::empty())))
    }

    #[test]
    fn a_scan_that_becomes_too_old_in_the_middle_of_a_step_holds_up_nobody_and_ends_behind_it() {
        let scan = running();
        let step = scan.slot.lock();
        // On this thread: were it to wait for the step, this would not return.
        scan.end_too_old(Lsn::new(64));
        assert!(matches!(*step, Slot::Open(_)));
        drop(step);
        scan.look_at_age();
        assert!(matches!(*scan.slot.lock(), Slot::TooOld { oldest } if oldest == Lsn::new(64)));
    }

    #[test]
    fn a_scan_that_nobody_steps_ends_at_once() {
        let scan = running();
        scan.end_too_old(Lsn::new(64));
        assert!(matches!(*scan.slot.lock(), Slot::TooOld { .. }));
        let scan = running();
        scan.look_at_age();
        assert!(matches!(*scan.slot.lock(), Slot::Open(_)));
        scan.close();
        assert!(matches!(*scan.slot.lock(), Slot::Closed));
    }
}
