//! Write transactions above a store's snapshots, up to their commit.
//!
//! A [`Draft`] reads a store as of one position, keeps its own writes in a [`WriteSet`], sees them
//! over the snapshot, and remembers in a [`ReadSet`] what it looked at. Whether it may commit, a
//! [`ConflictWindow`] answers. Committing itself, which needs the log, is not this room's
//! business.
//!
//! Isolation is serializable, first committer wins: a transaction commits only if nothing that it
//! read or wrote was changed by a transaction that committed after its snapshot, so it could as
//! well have run alone at its commit. Reads count as the keys and ranges looked at, present or
//! absent, so there are no phantoms. A transaction that wrote nothing never conflicts: it ran
//! alone at its snapshot. Nor does a blind write of a single key: it ran alone at its commit.

mod conflict;
mod held;
mod merge;
mod read_set;
mod spill;
mod write_set;

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::Result;
use crate::lsn::Lsn;
use crate::store::{Change, KeyRange, ReadAt, Rows, TableId, check_key};

pub use conflict::*;
pub use merge::Writes;
pub use read_set::*;
pub use spill::remove_spills;
pub use write_set::*;

/// A write transaction before its commit.
///
/// Its snapshot is registered with the store until the draft is dropped.
pub struct Draft<R: ReadAt> {
    reader: R,
    at: Lsn,
    /// Shared with the draft's scans, which note what they looked at as they go.
    reads: Arc<Mutex<ReadSet>>,
    writes: WriteSet,
}

impl<R: ReadAt> Draft<R> {
    /// A draft that reads as of `at` and keeps its writes in `writes`.
    ///
    /// The caller registers `at` with the [`ConflictWindow`] first ([`ConflictWindow::open`]).
    ///
    /// # Errors
    /// [`SnapshotTooOld`](crate::Error::SnapshotTooOld) when `at` cannot be read any more.
    pub fn new(reader: R, at: Lsn, writes: WriteSet) -> Result<Self> {
        reader.open_snapshot(at)?;
        Ok(Self {
            reader,
            at,
            reads: Arc::default(),
            writes,
        })
    }

    /// The position that it reads at.
    pub fn snapshot(&self) -> Lsn {
        self.at
    }

    /// The value of a key: the draft's own, or the snapshot's.
    ///
    /// # Errors
    /// As [`ReadAt::get`]; disk errors.
    pub fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>> {
        check_key(key)?;
        if let Some(own) = self.writes.get(table, key)? {
            return Ok(own);
        }
        // Noted first: what was not noted must not be seen.
        self.reads.lock().add_key(table, key);
        self.reader.get(table, key, self.at)
    }

    /// The rows between two bounds in ascending order: the draft's own as they are now, over the
    /// snapshot's. Later writes do not show in a scan that is under way.
    ///
    /// What counts as read is what the iterator was asked for: a scan given up early conflicts
    /// with no change beyond its last row.
    ///
    /// # Errors
    /// As [`ReadAt::scan`]; disk errors.
    pub fn scan(&self, table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Rows> {
        let Some(range) = KeyRange::new(from, to)? else {
            return Ok(Box::new(std::iter::empty()));
        };
        let own = self.writes.range(table, &range);
        let rows = self.reader.scan(table, from, to, self.at)?;
        let rows = rows.map(move |row| row.map(|(key, value)| ((table, key), Some(value))));
        Ok(Box::new(DraftScan {
            rows: Some(own.over(Box::new(rows))),
            table,
            range,
            reads: self.reads.clone(),
        }))
    }

    /// Sets a key's value.
    ///
    /// # Errors
    /// As [`WriteSet::put`].
    pub fn put(&mut self, table: TableId, key: &[u8], value: impl Into<Bytes>) -> Result<()> {
        self.writes.put(table, key, value)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`WriteSet::delete`].
    pub fn delete(&mut self, table: TableId, key: &[u8]) -> Result<()> {
        self.writes.delete(table, key)
    }

    /// Names table number `table`.
    ///
    /// # Errors
    /// As [`WriteSet::create_table`].
    pub fn create_table(&mut self, table: TableId, name: &str) -> Result<()> {
        self.writes.create_table(table, name)
    }

    /// What it wrote.
    pub fn writes(&self) -> &WriteSet {
        &self.writes
    }

    /// Takes out what it wrote, in key order, so that the tables created come first: all of it if
    /// nothing has [spilled](WriteSet::has_spilled). For whoever commits it, after it was
    /// [validated](Self::validate); its snapshot stays.
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.writes.take_changes()
    }

    /// Whether it may commit now; see [`ConflictWindow::validate`].
    ///
    /// # Errors
    /// [`Conflict`](crate::Error::Conflict); disk errors.
    pub fn validate(&self, window: &ConflictWindow) -> Result<()> {
        window.validate(&self.reads.lock(), &self.writes, self.at)
    }
}

impl<R: ReadAt> Drop for Draft<R> {
    fn drop(&mut self) {
        self.reader.close_snapshot(self.at);
    }
}

impl<R: ReadAt> fmt::Debug for Draft<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, writes) = (self.at, &self.writes);
        write!(f, "Draft(at {at}, {writes:?})")
    }
}

/// A scan of a draft. It notes what was looked at before it hands a row out.
struct DraftScan {
    /// `None` after the end or an error.
    rows: Option<Writes<'static>>,
    table: TableId,
    range: KeyRange,
    reads: Arc<Mutex<ReadSet>>,
}

impl Iterator for DraftScan {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.rows.as_mut()?.next() {
                Some(Ok(((_, key), Some(value)))) => {
                    let seen = self.range.upto(&key);
                    self.reads.lock().add(self.table, seen);
                    return Some(Ok((key, value)));
                }
                Some(Ok((_, None))) => {}
                Some(Err(error)) => {
                    self.rows = None;
                    return Some(Err(error));
                }
                None => {
                    self.rows = None;
                    self.reads.lock().add(self.table, self.range.clone());
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
