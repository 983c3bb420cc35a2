//! Reading and writing: snapshots, and write transactions up to their commit.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{CATALOG, Draft, LsmReader, Lsn, ReadAt, Rows, TableId, check_key};

use crate::engine::{Engine, Placed, TABLE_NAME_MAX};
use crate::error::{Error, Result};

/// The data as of one position in the log. It does not change, whatever is committed meanwhile,
/// and holds back nobody; what it holds is memory, and beyond the store's limits it ends with
/// `SnapshotTooOld`.
///
/// ```
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// let db = mainstay::Database::open(dir.path())?;
/// db.put("users", b"ada", b"1815")?;
/// let snapshot = db.snapshot()?;
/// db.put("users", b"ada", b"1852")?;
/// assert_eq!(snapshot.get("users", b"ada")?.as_deref(), Some(&b"1815"[..]));
/// # Ok::<(), mainstay::Error>(())
/// ```
#[derive(Debug)]
pub struct Snapshot {
    engine: Arc<Engine>,
    at: Lsn,
}

impl Snapshot {
    /// What is committed and in the store now.
    pub(crate) fn open(engine: Arc<Engine>) -> Result<Self> {
        let at = engine.reader().open_committed()?;
        Ok(Self { engine, at })
    }

    /// What is in the store at `at`, which was registered for it.
    pub(crate) fn registered(engine: Arc<Engine>, at: Lsn) -> Self {
        Self { engine, at }
    }

    /// The position: it shows the transactions that end at or below it.
    pub fn lsn(&self) -> Lsn {
        self.at
    }

    /// The value of `key` in `table`; `None` when there is no such key, or no such table.
    ///
    /// # Errors
    /// A key outside 1 to [`KEY_MAX`](mainstay_storage::KEY_MAX) bytes, `SnapshotTooOld`, disk
    /// errors.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>> {
        check_table_name(table)?;
        check_key(key)?;
        match self.engine.table(table, self.at)? {
            Some(id) => Ok(self.engine.reader().get(id, key, self.at)?),
            None => Ok(None),
        }
    }

    /// The rows of `table` whose keys are in `range`, in ascending order.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let db = mainstay::Database::open(dir.path())?;
    /// for (name, born) in [("ada", "1815"), ("alan", "1912"), ("grace", "1906")] {
    ///     db.put("users", name.as_bytes(), born.as_bytes())?;
    /// }
    /// let names = |rows: mainstay::Rows| -> Vec<_> {
    ///     rows.map(|row| row.expect("a row").0).collect()
    /// };
    /// let snapshot = db.snapshot()?;
    /// assert_eq!(names(snapshot.scan("users", ..)?), ["ada", "alan", "grace"]);
    /// assert_eq!(names(snapshot.scan("users", &b"adb"[..]..&b"g"[..])?), ["alan"]);
    /// assert_eq!(names(snapshot.scan_prefix("users", b"a")?), ["ada", "alan"]);
    /// # Ok::<(), mainstay::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`get`](Self::get), at once or as an item.
    pub fn scan<'a>(&self, table: &str, range: impl RangeBounds<&'a [u8]>) -> Result<Rows> {
        let (from, to) = check_bounds(&range)?;
        check_table_name(table)?;
        let Some(id) = self.engine.table(table, self.at)? else {
            return Ok(Box::new(std::iter::empty()));
        };
        Ok(self.engine.reader().scan(id, from, to, self.at)?)
    }

    /// The rows of `table` whose keys begin with `prefix`, in ascending order.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub fn scan_prefix(&self, table: &str, prefix: &[u8]) -> Result<Rows> {
        let end = after_prefix(prefix);
        self.scan(table, prefix_bounds(prefix, end.as_deref()))
    }

    /// The names of all tables, sorted.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub fn tables(&self) -> Result<Vec<String>> {
        let (from, to) = (Bound::Unbounded, Bound::Unbounded);
        let rows = self.engine.reader().scan(CATALOG, from, to, self.at)?;
        rows.map(|row| Ok(String::from_utf8_lossy(&row?.0).into_owned()))
            .collect()
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.engine.reader().close_snapshot(self.at);
    }
}

/// A write transaction. It reads its own writes over a snapshot of everything decided when it
/// began, and is serializable: its commit fails with a conflict if what it read or wrote was
/// changed meanwhile. Dropping it rolls it back.
///
/// Under a synchronous policy it may read what is not committed yet; such values are provisional
/// until its own commit succeeds.
///
/// ```
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// # let db = mainstay::Database::open(dir.path())?;
/// let mut tx = db.begin()?;
/// tx.put("users", b"ada", b"1815")?;
/// assert_eq!(tx.scan("users", ..)?.count(), 1); // it sees its own writes
/// assert_eq!(db.get("users", b"ada")?, None); // nobody else does before the commit
/// tx.delete("users", b"ada")?;
/// drop(tx); // as if it had never been
/// # Ok::<(), mainstay::Error>(())
/// ```
#[derive(Debug)]
pub struct WriteTransaction {
    engine: Arc<Engine>,
    /// Present until the commit.
    draft: Option<Draft<LsmReader>>,
    at: Lsn,
    /// The table that it wrote to last, once it writes for a second time.
    written: Option<(String, TableId)>,
}

impl WriteTransaction {
    pub(crate) fn begin(engine: Arc<Engine>) -> Result<Self> {
        let draft = engine.begin()?;
        let at = draft.snapshot();
        Ok(Self {
            engine,
            draft: Some(draft),
            at,
            written: None,
        })
    }

    /// Sets the value of `key` in `table`, creating the table if needed.
    ///
    /// # Errors
    /// A key outside 1 to [`KEY_MAX`](mainstay_storage::KEY_MAX) bytes, a value over
    /// [`VALUE_MAX`](mainstay_storage::VALUE_MAX) or a quarter of a log segment, a bad table name;
    /// the transaction goes on without the write.
    pub fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
        check_key(key)?;
        let max = self.engine.wal.segment_size().payload_max() - key.len() - RECORD_OVERHEAD;
        if value.len() > max {
            let (size, max) = (value.len() as u64, max as u64);
            return Err(mainstay_storage::Error::TooLarge {
                what: "a value",
                size,
                max,
            }
            .into());
        }
        let put = self.table_for_write(table).and_then(|id| {
            let value = Bytes::copy_from_slice(value);
            Ok(self.draft_mut().put(id, key, value)?)
        });
        put.map_err(|error| self.engine.explain(error))
    }

    /// Deletes `key` from `table`, if it is there.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete(&mut self, table: &str, key: &[u8]) -> Result<()> {
        check_key(key)?;
        let deleted = self.table(table).and_then(|id| match id {
            Some(id) => Ok(self.draft_mut().delete(id, key)?),
            None => Ok(()),
        });
        deleted.map_err(|error| self.engine.explain(error))
    }

    /// The value of `key` in `table`, as this transaction sees it.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>> {
        check_key(key)?;
        match self.table(table)? {
            Some(id) => Ok(self.draft().get(id, key)?),
            None => Ok(None),
        }
    }

    /// The rows of `table` whose keys are in `range`, in ascending order, as this transaction sees
    /// them. Writes made after the call do not show.
    ///
    /// # Errors
    /// As [`Snapshot::scan`].
    pub fn scan<'a>(&self, table: &str, range: impl RangeBounds<&'a [u8]>) -> Result<Rows> {
        let (from, to) = check_bounds(&range)?;
        let Some(id) = self.table(table)? else {
            return Ok(Box::new(std::iter::empty()));
        };
        Ok(self.draft().scan(id, from, to)?)
    }

    /// The rows of `table` whose keys begin with `prefix`.
    ///
    /// # Errors
    /// As [`scan`](Self::scan).
    pub fn scan_prefix(&self, table: &str, prefix: &[u8]) -> Result<Rows> {
        let end = after_prefix(prefix);
        self.scan(table, prefix_bounds(prefix, end.as_deref()))
    }

    /// Decides the transaction and gives it its place in the log, without waiting.
    pub(crate) fn place(mut self) -> Result<Placed> {
        let mut draft = self.draft.take().expect("present until the commit");
        self.engine.commit(&mut draft)
    }

    /// As [`place`](Self::place), or `None` and nothing done when that would hold up this thread.
    pub(crate) fn place_at_once(&mut self) -> Option<Result<Placed>> {
        let engine = self.engine.clone();
        engine.commit_at_once(self.draft_mut())
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The number of a table as this transaction sees it: its own new tables are in the draft.
    fn table(&self, table: &str) -> Result<Option<TableId>> {
        check_table_name(table)?;
        if let Some(id) = self.engine.table(table, self.at)? {
            return Ok(Some(id));
        }
        let id = self.draft().get(CATALOG, table.as_bytes())?;
        Ok(id
            .and_then(|id| id.as_ref().try_into().ok())
            .map(TableId::from_le_bytes))
    }

    fn table_for_write(&mut self, table: &str) -> Result<TableId> {
        if let Some((_, id)) = self.written.as_ref().filter(|(name, _)| name == table) {
            return Ok(*id);
        }
        if let Some(id) = self.table(table)? {
            let again = !self.draft().writes().is_empty();
            self.written = again.then(|| (table.to_owned(), id));
            return Ok(id);
        }
        // Two transactions that create a table at once both scan the catalog, so one conflicts.
        let id = self.engine.next_table(self.draft())?;
        self.draft_mut().create_table(id, table)?;
        Ok(id)
    }

    fn draft(&self) -> &Draft<LsmReader> {
        self.draft.as_ref().expect("present until the commit")
    }

    fn draft_mut(&mut self) -> &mut Draft<LsmReader> {
        self.draft.as_mut().expect("present until the commit")
    }
}

impl Drop for WriteTransaction {
    fn drop(&mut self) {
        self.engine.end(self.at);
    }
}

/// What a change's encoding may take beside its key and value, in bytes.
const RECORD_OVERHEAD: usize = 64;

pub(crate) fn check_table_name(table: &str) -> Result<()> {
    if table.is_empty() || table.len() > TABLE_NAME_MAX || table.contains('\0') {
        let len = table.len();
        return Err(Error::Usage(format!(
            "a table name of {len} bytes; it must have 1 to {TABLE_NAME_MAX} bytes and no NUL"
        )));
    }
    Ok(())
}

/// The two bounds of a range of keys.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The bounds of a range; each has to be a key that there may be.
fn check_bounds<'a>(range: &impl RangeBounds<&'a [u8]>) -> Result<Bounds<'a>> {
    let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
    for bound in [bounds.0, bounds.1] {
        if let Bound::Included(key) | Bound::Excluded(key) = bound {
            check_key(key)?;
        }
    }
    Ok(bounds)
}

fn prefix_bounds<'a>(prefix: &'a [u8], end: Option<&'a [u8]>) -> Bounds<'a> {
    let from = if prefix.is_empty() {
        Bound::Unbounded
    } else {
        Bound::Included(prefix)
    };
    (from, end.map_or(Bound::Unbounded, Bound::Excluded))
}

/// The first key after all that begin with `prefix`; `None` when there is none.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xFF)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key_that_does_not_begin_with_it() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xFF\xFF"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xFF"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
