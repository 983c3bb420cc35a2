//! A store in memory, with a modelled durable image.
//!
//! [`MemoryStore`] keeps every row in versions, as the seam asks, and beside them the image that a
//! crash would leave: the contents at [`Store::durable`]. [`MemoryStore::crash`] returns to it. The
//! simulator runs on this store, and so does whoever wants a replicated cache; a process that ends
//! takes it along, so nothing but a [snapshot](Store::snapshot) ever reaches a disk. It knows no
//! log: what it has to replay, its caller reads.

mod rows;
mod snapshot;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{Change, KeyRange, ReadAt, RowKey, Rows, Store, TableId, Transaction, check_key};
use crate::disk::Disk;
use crate::entry::WalEntry;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use rows::VersionedRows;

/// Bytes of superseded versions kept for open snapshots, unless said otherwise: 256 MiB. Above it
/// the oldest snapshots end with [`Error::SnapshotTooOld`].
pub const MEMORY_HISTORY_MAX: u64 = 256 << 20;

/// Rows that a scan copies out under one lock.
const SCAN_CHUNK: usize = 256;

/// Changed rows of one transaction: the last write of each key.
type Writes = BTreeMap<RowKey, Option<Bytes>>;

/// A multi-version store in memory.
pub struct MemoryStore {
    disk: Arc<dyn Disk>,
    history_max: u64,
    shared: Arc<RwLock<State>>,
    /// The contents at `durable`.
    image: BTreeMap<RowKey, Bytes>,
    durable: Lsn,
    /// What [`Store::checkpoint`] may move into the image, by climbing end. It holds no bytes that
    /// `shared` does not hold too, and is as long as the log that a crash would replay.
    pending: VecDeque<(Lsn, Writes)>,
}

/// Reads a [`MemoryStore`]. Clones are handles on the same store; they end with
/// [`Error::Closed`] when it crashes, is closed or dropped.
#[derive(Clone)]
pub struct MemoryReader {
    shared: Arc<RwLock<State>>,
}

struct State {
    rows: VersionedRows,
    applied: Lsn,
    /// Open snapshots, and how often each is registered.
    snapshots: BTreeMap<Lsn, usize>,
    closed: bool,
}

impl MemoryStore {
    /// An empty store that applied nothing. Its snapshots are written through `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self::with_image(disk, BTreeMap::new(), Lsn::ZERO)
    }

    /// Reads a copy that [`Store::snapshot`] wrote into `dir`. The store stands at the copy's
    /// position, and what is older cannot be read.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the copy is damaged or incomplete, [`Error::Format`] when a newer
    /// version wrote it, disk errors.
    pub fn open_snapshot(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self> {
        let (image, position) = snapshot::read(disk.as_ref(), dir)?;
        Ok(Self::with_image(disk, image, position))
    }

    fn with_image(disk: Arc<dyn Disk>, image: BTreeMap<RowKey, Bytes>, durable: Lsn) -> Self {
        Self {
            disk,
            history_max: MEMORY_HISTORY_MAX,
            shared: Arc::new(RwLock::new(State::of_image(&image, durable))),
            image,
            durable,
            pending: VecDeque::new(),
        }
    }

    /// Keeps at most `bytes` of superseded versions, instead of [`MEMORY_HISTORY_MAX`].
    #[must_use]
    pub fn with_history_max(mut self, bytes: u64) -> Self {
        self.history_max = bytes;
        self
    }

    /// A reader of this store as it lives now.
    pub fn reader(&self) -> MemoryReader {
        let shared = self.shared.clone();
        MemoryReader { shared }
    }

    /// What a crash does: everything above [`Store::durable`] is gone, readers and their
    /// snapshots end.
    pub fn crash(&mut self) {
        self.shared.write().closed = true;
        self.pending.clear();
        let state = State::of_image(&self.image, self.durable);
        self.shared = Arc::new(RwLock::new(state));
    }
}

impl State {
    fn of_image(image: &BTreeMap<RowKey, Bytes>, durable: Lsn) -> Self {
        Self {
            rows: VersionedRows::of_image(image, durable),
            applied: durable,
            snapshots: BTreeMap::new(),
            closed: false,
        }
    }

    /// Whether `at` can still be read.
    fn check(&self, at: Lsn) -> Result<()> {
        if self.closed {
            return Err(Error::Closed);
        }
        let oldest = self.rows.oldest();
        if at < oldest {
            return Err(Error::SnapshotTooOld { at, oldest });
        }
        Ok(())
    }

    /// Drops the versions that no snapshot open now, nor one opened at or above `durable` later,
    /// can see; and above the limit also those that only the oldest snapshots see.
    fn prune(&mut self, durable: Lsn, history_max: u64) {
        let lowest = self.snapshots.keys().next();
        let needed = lowest.map_or(durable, |lowest| durable.min(*lowest));
        self.rows.prune(needed);
        self.rows.prune_to_size(durable, history_max);
    }
}

impl Store for MemoryStore {
    fn applied(&self) -> Lsn {
        self.shared.read().applied
    }

    fn durable(&self) -> Lsn {
        self.durable
    }

    fn apply(&mut self, transaction: &Transaction) -> Result<()> {
        {
            let state = self.shared.read();
            if state.closed {
                return Err(Error::Closed);
            }
            if transaction.end <= state.applied {
                return Ok(());
            }
        }
        let mut writes = Writes::new();
        for entry in transaction.entries() {
            collect(&mut writes, &entry?)?;
        }
        let mut state = self.shared.write();
        for (key, value) in &writes {
            state.rows.insert(key, transaction.end, value.clone());
        }
        state.applied = transaction.end;
        state.prune(self.durable, self.history_max);
        self.pending.push_back((transaction.end, writes));
        Ok(())
    }

    fn checkpoint(&mut self, upto: Lsn) -> Result<Lsn> {
        while self.pending.front().is_some_and(|(end, _)| *end <= upto)
            && let Some((end, writes)) = self.pending.pop_front()
        {
            for (key, value) in writes {
                match value {
                    Some(value) => self.image.insert(key, value),
                    None => self.image.remove(&key),
                };
            }
            self.durable = end;
        }
        let mut state = self.shared.write();
        state.prune(self.durable, self.history_max);
        Ok(self.durable)
    }

    fn snapshot(&mut self, into: &Path) -> Result<Lsn> {
        snapshot::write(self.disk.as_ref(), into, &self.image, self.durable)?;
        Ok(self.durable)
    }

    fn close(&mut self) -> Result<()> {
        self.shared.write().closed = true;
        Ok(())
    }
}

/// Adds one entry's change to a transaction's writes.
fn collect(writes: &mut Writes, entry: &WalEntry) -> Result<()> {
    let (table, key, value) = Change::of(entry)?.into_row();
    // A slice would keep the whole buffer alive that the log was read into.
    let own = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
    writes.insert((table, own(key)), value.map(own));
    Ok(())
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.shared.write().closed = true;
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (applied, durable) = (self.applied(), self.durable);
        write!(f, "MemoryStore(applied {applied}, durable {durable})")
    }
}

impl ReadAt for MemoryReader {
    fn get(&self, table: TableId, key: &[u8], at: Lsn) -> Result<Option<Bytes>> {
        check_key(key)?;
        let state = self.shared.read();
        state.check(at)?;
        Ok(state.rows.get(&(table, Bytes::copy_from_slice(key)), at))
    }

    fn scan(&self, table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>, at: Lsn) -> Result<Rows> {
        let range = KeyRange::new(from, to)?;
        self.shared.read().check(at)?;
        Ok(Box::new(Scan {
            shared: self.shared.clone(),
            table,
            at,
            left: range,
            ready: VecDeque::new(),
        }))
    }

    fn applied(&self) -> Lsn {
        self.shared.read().applied
    }

    fn open_snapshot(&self, at: Lsn) -> Result<()> {
        let mut state = self.shared.write();
        state.check(at)?;
        *state.snapshots.entry(at).or_default() += 1;
        Ok(())
    }

    fn close_snapshot(&self, at: Lsn) {
        let mut state = self.shared.write();
        if let Some(count) = state.snapshots.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                state.snapshots.remove(&at);
            }
        }
    }
}

impl fmt::Debug for MemoryReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryReader(applied {})", self.applied())
    }
}

/// Copies rows out some at a time, so that a slow reader never holds up replay.
struct Scan {
    shared: Arc<RwLock<State>>,
    table: TableId,
    at: Lsn,
    /// What was not read yet.
    left: Option<KeyRange>,
    ready: VecDeque<(Bytes, Bytes)>,
}

impl Iterator for Scan {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            let range = self.left.take()?;
            let state = self.shared.read();
            if let Err(error) = state.check(self.at) {
                return Some(Err(error));
            }
            let rows = &state.rows;
            self.left = rows.scan(self.table, range, self.at, SCAN_CHUNK, &mut self.ready);
        }
        self.ready.pop_front().map(Ok)
    }
}

#[cfg(test)]
mod tests;
