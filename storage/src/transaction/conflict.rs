//! Which keys were committed lately, and whether a transaction may still commit.
//!
//! The window remembers the keys of every commit that the snapshot of another transaction, open at
//! that time, does not see. It is bounded: when it is full, or a commit too large for it comes, a
//! floor rises, and transactions whose snapshot is below the floor conflict without being looked
//! at. The window holds positions and keys; it takes no locks and reads no store. Whoever commits
//! validates, appends and records under one lock of its own, so that no commit comes between.

use std::collections::{BTreeMap, VecDeque};

use super::read_set::ReadSet;
use super::write_set::WriteSet;
use crate::canary;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::RowKey;

/// Keys that a window remembers.
pub const CONFLICT_KEYS_MAX: usize = 1 << 20;

/// Bytes that a window's keys take.
pub const CONFLICT_BYTES_MAX: usize = 128 << 20;

/// What a key costs beside its bytes.
const KEY_COST: usize = 128;

/// The keys of recent commits, and the snapshots that are open.
#[derive(Debug)]
pub struct ConflictWindow {
    /// The last commit of each key.
    by_key: BTreeMap<RowKey, Lsn>,
    /// The keys of each commit, by climbing end.
    commits: VecDeque<(Lsn, Vec<RowKey>)>,
    /// Keys in `commits`, and what they take.
    keys: usize,
    bytes: usize,
    keys_max: usize,
    /// Commits at or below it are forgotten.
    floor: Lsn,
    /// No snapshot is opened below it any more.
    readable: Lsn,
    /// Open snapshots, and how often each is open.
    snapshots: BTreeMap<Lsn, usize>,
}

impl ConflictWindow {
    /// A window for transactions that read at `readable` or above: the position that is applied
    /// when it is made.
    pub fn new(readable: Lsn) -> Self {
        Self {
            by_key: BTreeMap::new(),
            commits: VecDeque::new(),
            keys: 0,
            bytes: 0,
            keys_max: CONFLICT_KEYS_MAX,
            floor: readable,
            readable,
            snapshots: BTreeMap::new(),
        }
    }

    /// Remembers at most `keys` keys, instead of [`CONFLICT_KEYS_MAX`].
    #[must_use]
    pub fn with_keys_max(mut self, keys: usize) -> Self {
        self.keys_max = keys;
        self
    }

    /// A transaction that reads at `snapshot` begins: what commits after it is remembered until
    /// [`close`](Self::close).
    pub fn open(&mut self, snapshot: Lsn) {
        *self.snapshots.entry(snapshot).or_default() += 1;
    }

    /// One of the transactions that read at `snapshot` has ended.
    pub fn close(&mut self, snapshot: Lsn) {
        if let Some(count) = self.snapshots.get_mut(&snapshot) {
            *count -= 1;
            if *count == 0 {
                self.snapshots.remove(&snapshot);
                self.prune();
            }
        }
    }

    /// Transactions that begin from now on read at `readable` or above: what has been applied.
    /// Commits that nobody has to be checked against are forgotten.
    pub fn advance(&mut self, readable: Lsn) {
        self.readable = self.readable.max(readable);
        self.prune();
    }

    /// Whether a transaction that read `reads` at `snapshot` may commit `writes` now.
    ///
    /// One that wrote nothing always may, and so may a single write without a read. Work is in
    /// proportion to what committed since `snapshot` at most, and to what was read and written
    /// where that is less and in memory.
    ///
    /// # Errors
    /// [`Error::Conflict`] when something that it read or wrote was committed after `snapshot`, or
    /// may have been; disk errors of a spilled write set.
    pub fn validate(&self, reads: &ReadSet, writes: &WriteSet, snapshot: Lsn) -> Result<()> {
        if canary("last-committer-wins")
            || writes.is_empty()
            || (writes.is_single() && reads.is_empty())
        {
            return Ok(());
        }
        if snapshot < self.floor {
            return Err(Error::Conflict { with: self.floor });
        }
        let recent = self.recent(snapshot).map(|(_, keys)| keys.len()).sum();
        if recent == 0 {
            return Ok(());
        }
        self.validate_reads(reads, snapshot, recent)?;
        self.validate_writes(writes, snapshot, recent)
    }

    /// Commits above a snapshot, the newest first.
    fn recent(&self, snapshot: Lsn) -> impl Iterator<Item = &(Lsn, Vec<RowKey>)> {
        let newest = self.commits.iter().rev();
        newest.take_while(move |(end, _)| *end > snapshot)
    }

    fn validate_reads(&self, reads: &ReadSet, snapshot: Lsn, recent: usize) -> Result<()> {
        // Looking up few reads is cheap, but a range may hold more keys than committed lately.
        if let Some(ranges) = reads.ranges().filter(|_| reads.count() < recent) {
            let inside = ranges.flat_map(|range| self.by_key.range(range));
            let mut looked_at = 0;
            for (_, end) in inside.take(recent + 1) {
                if *end > snapshot {
                    return Err(Error::Conflict { with: *end });
                }
                looked_at += 1;
            }
            if looked_at <= recent {
                return Ok(());
            }
        }
        for (end, keys) in self.recent(snapshot) {
            if keys.iter().any(|(table, key)| reads.contains(*table, key)) {
                return Err(Error::Conflict { with: *end });
            }
        }
        Ok(())
    }

    fn validate_writes(&self, writes: &WriteSet, snapshot: Lsn, recent: usize) -> Result<()> {
        if writes.has_spilled() || recent < writes.held() {
            for (end, keys) in self.recent(snapshot) {
                for key in keys {
                    if writes.get_row(key)?.is_some() {
                        return Err(Error::Conflict { with: *end });
                    }
                }
            }
            return Ok(());
        }
        for key in writes.keys() {
            match self.by_key.get(&key?) {
                Some(end) if *end > snapshot => return Err(Error::Conflict { with: *end }),
                _ => {}
            }
        }
        Ok(())
    }

    /// A transaction that wrote `keys` committed; `end` is the end of its last record. A key that
    /// cannot be read any more counts as every key.
    ///
    /// # Panics
    /// When `end` is not above those recorded before: commits are recorded in log order.
    pub fn record(&mut self, keys: impl IntoIterator<Item = Result<RowKey>>, end: Lsn) {
        self.check_order(end);
        let mut own = Vec::new();
        let mut bytes = 0;
        for key in keys {
            let Ok(key) = key else {
                return self.forget_all(end);
            };
            bytes += KEY_COST + key.1.len();
            own.push(key);
            if own.len() > self.keys_max || bytes > CONFLICT_BYTES_MAX {
                return self.forget_all(end);
            }
        }
        for key in &own {
            self.by_key.insert(key.clone(), end);
        }
        self.keys += own.len();
        self.bytes += bytes;
        self.commits.push_back((end, own));
        while self.keys > self.keys_max || self.bytes > CONFLICT_BYTES_MAX {
            self.forget_oldest();
        }
        self.prune();
    }

    /// As [`record`](Self::record), of a transaction that read at `snapshot`. While no other one
    /// is open that does not see it, its keys are not even looked at.
    ///
    /// # Panics
    /// As [`record`](Self::record).
    pub fn record_own(
        &mut self,
        snapshot: Lsn,
        keys: impl IntoIterator<Item = Result<RowKey>>,
        end: Lsn,
    ) {
        let mut below = self.snapshots.range(..end);
        let others = below.any(|(at, count)| *count > usize::from(*at == snapshot));
        match others || self.readable < end {
            true => self.record(keys, end),
            false => {
                self.check_order(end);
                self.forget_all(end);
            }
        }
    }

    /// Transactions whose snapshot is below conflict.
    pub fn floor(&self) -> Lsn {
        self.floor
    }

    /// Number of keys remembered; one that committed again counts again.
    pub fn keys(&self) -> usize {
        self.keys
    }

    fn check_order(&self, end: Lsn) {
        let last = self.commits.back().map_or(self.floor, |(end, _)| *end);
        assert!(end > last, "commit at {end} recorded after {last}");
    }

    fn prune(&mut self) {
        let lowest = self.snapshots.keys().next();
        let needed = lowest.map_or(self.readable, |lowest| self.readable.min(*lowest));
        while self.commits.front().is_some_and(|(end, _)| *end <= needed) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((end, keys)) = self.commits.pop_front() else {
            return;
        };
        self.keys -= keys.len();
        for key in keys {
            self.bytes -= KEY_COST + key.1.len();
            // It may have committed again since.
            if self.by_key.get(&key) == Some(&end) {
                self.by_key.remove(&key);
            }
        }
        self.floor = end;
    }

    fn forget_all(&mut self, end: Lsn) {
        self.by_key.clear();
        self.commits.clear();
        (self.keys, self.bytes) = (0, 0);
        self.floor = end;
    }
}
