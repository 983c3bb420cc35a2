//! Which positions can still be read: snapshots, scans, and the floor under both.
//!
//! The floor is the watermark of the last edit: below it, merges may have dropped rows and the
//! library may have forgotten the table lists that had them, so it panics, or after a reopen
//! silently answers with less. Every read is checked against the floor under the same lock that
//! raises it. The floor stays below open snapshots, until one is too old or pins too much memory;
//! then it ends, with its scans.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use lsm_tree::Tree;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::reader::ScanSlot;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// A version edit's number lies above the versions in its tables by at most this much: one, and
/// one more for each edit that was under way. The shortest record of the log is as long.
pub(super) const EDIT_SLACK: u64 = 32;

/// See the module.
pub(super) struct Horizon {
    /// Taken before `live` where both are needed.
    open: Mutex<Open>,
    live: RwLock<Live>,
}

/// The tree as readers see it.
pub(super) struct Live {
    tree: Option<Tree>,
    floor: Lsn,
}

#[derive(Default)]
struct Open {
    /// How often each position is registered.
    snapshots: BTreeMap<Lsn, usize>,
    scans: BTreeMap<u64, (Lsn, Weak<ScanSlot>)>,
    next_scan: u64,
}

impl Horizon {
    pub(super) fn new(tree: Tree, floor: Lsn) -> Self {
        Self {
            open: Mutex::default(),
            live: RwLock::new(Live {
                tree: Some(tree),
                floor,
            }),
        }
    }

    /// The lowest position that can be read.
    pub(super) fn floor(&self) -> Lsn {
        self.live.read().floor
    }

    /// The oldest registered position.
    pub(super) fn oldest(&self) -> Option<Lsn> {
        self.open.lock().snapshots.keys().next().copied()
    }

    /// The tree for a read at `at`. While the guard lives, what the read needs stays; it is held
    /// for one call of the library.
    ///
    /// # Errors
    /// [`Error::SnapshotTooOld`], [`Error::Closed`].
    pub(super) fn at(&self, at: Lsn) -> Result<RwLockReadGuard<'_, Live>> {
        let live = self.live.read();
        if live.tree.is_none() {
            return Err(Error::Closed);
        }
        if at < live.floor {
            let oldest = live.floor;
            return Err(Error::SnapshotTooOld { at, oldest });
        }
        Ok(live)
    }

    /// The tree, for work that reads nothing at a position.
    pub(super) fn tree(&self) -> Result<Tree> {
        self.live.read().tree.clone().ok_or(Error::Closed)
    }

    /// Registers `at`; see [`close`](Self::close).
    ///
    /// # Errors
    /// [`Error::SnapshotTooOld`], [`Error::Closed`].
    pub(super) fn open(&self, at: Lsn) -> Result<()> {
        let mut open = self.open.lock();
        drop(self.at(at)?);
        *open.snapshots.entry(at).or_default() += 1;
        Ok(())
    }

    /// Ends one registration of `at`. Nothing happens when it was ended already.
    pub(super) fn close(&self, at: Lsn) {
        let mut open = self.open.lock();
        if let Some(count) = open.snapshots.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                open.snapshots.remove(&at);
            }
        }
    }

    /// Registers `at` for a scan and makes the scan known, so that it can be ended from here.
    /// Returns its number.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    pub(super) fn add_scan(&self, at: Lsn, slot: &Arc<ScanSlot>) -> Result<u64> {
        let mut open = self.open.lock();
        drop(self.at(at)?);
        *open.snapshots.entry(at).or_default() += 1;
        let number = open.next_scan;
        open.next_scan += 1;
        open.scans.insert(number, (at, Arc::downgrade(slot)));
        Ok(number)
    }

    /// Forgets a scan and ends its registration.
    pub(super) fn remove_scan(&self, number: u64, at: Lsn) {
        self.open.lock().scans.remove(&number);
        self.close(at);
    }

    /// Raises the floor as far as open snapshots allow, at most to `visible`, and returns it.
    /// Snapshots below `too_old` are ended.
    pub(super) fn raise(&self, visible: Lsn, too_old: Lsn) -> Lsn {
        let mut open = self.open.lock();
        let kept = open.snapshots.split_off(&too_old.min(visible));
        let ended = std::mem::replace(&mut open.snapshots, kept);
        let oldest = open.snapshots.keys().next().copied();
        let floor = {
            let mut live = self.live.write();
            live.floor = live.floor.max(oldest.unwrap_or(visible).min(visible));
            live.floor
        };
        let scans = match ended.is_empty() {
            true => Vec::new(),
            false => open.scans_below(floor),
        };
        drop(open);
        for at in ended.keys() {
            tracing::warn!(%at, %floor, "snapshot ended: it was too old or held too much memory");
        }
        for slot in scans {
            slot.end_too_old(floor);
        }
        floor
    }

    /// Ends every scan and lets go of the tree. Reads are refused from now on.
    pub(super) fn shut(&self) {
        let scans = {
            let mut open = self.open.lock();
            self.live.write().tree = None;
            open.snapshots.clear();
            open.scans_below(Lsn::MAX)
        };
        for slot in scans {
            slot.close();
        }
    }
}

impl Open {
    fn scans_below(&self, floor: Lsn) -> Vec<Arc<ScanSlot>> {
        let below = self.scans.values().filter(|(at, _)| *at < floor);
        below.filter_map(|(_, slot)| slot.upgrade()).collect()
    }
}

impl Live {
    /// The tree; the guard that leads here was only given out while there is one.
    pub(super) fn tree(&self) -> &Tree {
        self.tree.as_ref().expect("checked when the guard was made")
    }
}
