//! What a transaction wrote: the last write of each key.
//!
//! Writes are kept in memory up to a limit, and beyond it in sorted [runs](super::spill) on disk,
//! so a transaction may be larger than memory. Whichever way, they are read back in key order,
//! each key once: so they go into the log, and so no store ever sees a key twice in one
//! transaction.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::held::Held;
use super::merge::{Source, Write, Writes};
use super::spill::{Run, RunRows};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::store::{CATALOG, Change, KeyRange, RowKey, TableId, check_key, check_value};

/// Bytes of writes that a transaction holds in memory, unless said otherwise: 64 MiB.
pub const WRITE_SET_BYTES_MAX: usize = 64 << 20;

/// What a write costs beside its key and value, in bytes.
const WRITE_COST: usize = 96;

/// Runs of one level before they become one of the next.
const RUNS_MAX: usize = 8;

/// A transaction's own writes.
pub struct WriteSet {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    bytes_max: usize,
    /// The writes since the last spill.
    writes: Held,
    /// What they cost in memory.
    held: usize,
    /// Keys and values of `writes`, in bytes.
    bytes: u64,
    /// The oldest first; levels never climb.
    runs: Vec<Arc<Run>>,
}

impl WriteSet {
    /// An empty write set; beyond [`WRITE_SET_BYTES_MAX`] it spills into files in the existing
    /// directory `dir`, which are removed with it.
    pub fn new(disk: Arc<dyn Disk>, dir: impl Into<PathBuf>) -> Self {
        Self {
            disk,
            dir: dir.into(),
            bytes_max: WRITE_SET_BYTES_MAX,
            writes: Held::default(),
            held: 0,
            bytes: 0,
            runs: Vec::new(),
        }
    }

    /// Holds at most `bytes` in memory, and one write more.
    #[must_use]
    pub fn with_bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Sets a key's value.
    ///
    /// # Errors
    /// [`Error::Invalid`] on an empty key or the catalog's table, [`Error::TooLarge`] on a key or
    /// value above its limit; disk errors when it has to spill. Nothing was written then.
    pub fn put(&mut self, table: TableId, key: &[u8], value: impl Into<Bytes>) -> Result<()> {
        if table == CATALOG {
            return Err(Error::Invalid(
                "the catalog takes no values; create a table instead".into(),
            ));
        }
        let value = value.into();
        check_value(&value)?;
        self.insert(table, key, Some(value))
    }

    /// Deletes a key, whether it exists or not. In the catalog, that drops a table's name.
    ///
    /// # Errors
    /// As [`put`](Self::put), but for the catalog.
    pub fn delete(&mut self, table: TableId, key: &[u8]) -> Result<()> {
        self.insert(table, key, None)
    }

    /// Names table number `table`: writes the catalog's row `name`.
    ///
    /// # Errors
    /// As [`Change::check`]; disk errors when it has to spill.
    pub fn create_table(&mut self, table: TableId, name: &str) -> Result<()> {
        let name = name.to_owned();
        let change = Change::CreateTable { table, name };
        change.check()?;
        let (catalog, key, number) = change.into_row();
        self.insert(catalog, &key, number)
    }

    fn insert(&mut self, table: TableId, key: &[u8], value: Option<Bytes>) -> Result<()> {
        check_key(key)?;
        let size = |value: &Option<Bytes>| key.len() + value.as_ref().map_or(0, Bytes::len);
        let added = size(&value);
        if !self.writes.is_empty() && self.held + added + WRITE_COST > self.bytes_max {
            self.spill()?;
        }
        self.held += added + WRITE_COST;
        self.bytes += added as u64;
        let key_owned = Bytes::copy_from_slice(key);
        if let Some(before) = self.writes.insert((table, key_owned), value) {
            let removed = size(&before);
            self.held -= removed + WRITE_COST;
            self.bytes -= removed as u64;
        }
        Ok(())
    }

    /// What the transaction wrote to a key: nothing, or its value, `None` when deleted.
    ///
    /// # Errors
    /// Disk errors when it has spilled.
    pub fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Option<Bytes>>> {
        self.get_row(&(table, Bytes::copy_from_slice(key)))
    }

    pub(super) fn get_row(&self, key: &RowKey) -> Result<Option<Option<Bytes>>> {
        if let Some(value) = self.writes.get(key) {
            return Ok(Some(value.clone()));
        }
        for run in self.runs.iter().rev() {
            if let Some(value) = run.get(key)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.runs.is_empty()
    }

    /// Whether just one key was written.
    pub fn is_single(&self) -> bool {
        self.writes.len() == 1 && self.runs.is_empty()
    }

    /// Number of keys held in memory.
    pub(super) fn held(&self) -> usize {
        self.writes.len()
    }

    /// Whether some of it lies on disk.
    pub fn has_spilled(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Sum of its keys' and values' sizes, in bytes. Of a key written again after a spill every
    /// spilled write counts until runs are merged.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.runs.iter().map(|run| run.bytes).sum::<u64>()
    }

    /// Number of keys written; that many changes [`changes`](Self::changes) gives. Reads every
    /// spilled key.
    ///
    /// # Errors
    /// Disk errors when it has spilled.
    pub fn count(&self) -> Result<u64> {
        if self.runs.is_empty() {
            return Ok(self.writes.len() as u64);
        }
        self.merge()
            .try_fold(0, |count, write| write.map(|_| count + 1))
    }

    /// Every key with its last write, in key order.
    pub fn merge(&self) -> Writes<'_> {
        let start = (0, Bytes::new());
        let mut sources = sources(rows_from(&self.runs, &start));
        sources.push(self.writes.all());
        Writes::merge(sources)
    }

    /// Every key written, in order.
    pub fn keys(&self) -> impl Iterator<Item = Result<RowKey>> + '_ {
        self.merge().map(|write| write.map(|(key, _)| key))
    }

    /// The changes to log, in key order, so the tables created come first.
    pub fn changes(&self) -> impl Iterator<Item = Result<Change>> + '_ {
        self.merge().map(|write| write.map(change))
    }

    /// Takes out what is in memory, as [`changes`](Self::changes): all there is if nothing has
    /// [spilled](Self::has_spilled).
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        (self.held, self.bytes) = (0, 0);
        self.writes.take().into_iter().map(change).collect()
    }

    /// The writes to a range as they are now, independent of later ones.
    pub(super) fn range(&self, table: TableId, range: &KeyRange) -> Writes<'static> {
        let bounds = range.of_table(table);
        let start = (table, range.start.clone());
        let end = range.end.clone();
        // An error is let through, to be seen.
        let inside = move |write: &Result<Write>| match write {
            Ok(((of, key), _)) => *of == table && end.as_ref().is_none_or(|end| key < end),
            Err(_) => true,
        };
        let runs = rows_from(&self.runs, &start);
        let mut sources = sources(runs.map(|rows| rows.take_while(inside.clone())));
        let own = self.writes.range(bounds);
        sources.push(Box::new(own.collect::<Vec<_>>().into_iter()));
        Writes::merge(sources)
    }

    /// Moves the writes in memory to a new run, and merges runs where there are many of a level.
    /// On an error every write is still in one place or the other.
    fn spill(&mut self) -> Result<()> {
        let run = Run::write(&self.disk, &self.dir, 0, self.writes.all())?;
        self.runs.push(Arc::new(run));
        self.writes = Held::default();
        (self.held, self.bytes) = (0, 0);
        self.merge_runs()
    }

    fn merge_runs(&mut self) -> Result<()> {
        while let Some(last) = self.runs.last() {
            let level = last.level;
            let first = self.runs.partition_point(|run| run.level > level);
            if self.runs.len() - first < RUNS_MAX {
                return Ok(());
            }
            let start = (0, Bytes::new());
            let rows = Writes::merge(sources(rows_from(&self.runs[first..], &start)));
            let merged = Run::write(&self.disk, &self.dir, level + 1, rows)?;
            self.runs.truncate(first);
            self.runs.push(Arc::new(merged));
        }
        Ok(())
    }
}

/// The rows of each run from `start` on.
fn rows_from(runs: &[Arc<Run>], start: &RowKey) -> impl Iterator<Item = RunRows> {
    runs.iter().map(move |run| run.from(start))
}

fn sources<'a, I>(rows: impl Iterator<Item = I>) -> Vec<Source<'a>>
where
    I: Iterator<Item = Result<Write>> + Send + 'a,
{
    rows.map(|rows| Box::new(rows) as Source<'a>).collect()
}

/// A write as the change that goes into the log.
fn change(((table, key), value): Write) -> Change {
    match value {
        None => Change::Delete { table, key },
        Some(value) if table == CATALOG => {
            let number = value
                .as_ref()
                .try_into()
                .expect("the catalog holds numbers");
            Change::CreateTable {
                table: TableId::from_le_bytes(number),
                name: String::from_utf8(key.into()).expect("table names are text"),
            }
        }
        Some(value) => Change::Put { table, key, value },
    }
}

impl fmt::Debug for WriteSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, runs) = (self.bytes(), self.runs.len());
        write!(f, "WriteSet({bytes} bytes, {runs} runs)")
    }
}
