//! A durable embedded store: one process, one directory, no server and no runtime.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use mainstay_storage::{LsmOptions, Lsn, NewLog, OsDisk, Recovered, Wal, WalOptions};
use parking_lot::Mutex;

use crate::commit::Receipt;
use crate::engine::Engine;
use crate::error::Result;
use crate::keeper;
use crate::transaction::{Snapshot, WriteTransaction};

/// How often [`Database::transaction`] runs a transaction that conflicts before it gives up.
pub const CONFLICT_RETRIES_MAX: u32 = 16;

/// An open database. Clones are handles on the same one; dropping the last is harmless, and
/// [`close`](Self::close) makes the next open faster.
///
/// All methods may be called from any thread. Those that wait for the disk block the calling
/// thread; from async code use [`begin`](Self::begin) and
/// [`WriteTransaction::commit`](crate::WriteTransaction::commit), which do not.
///
/// ```
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// let db = mainstay::Database::open(dir.path())?;
/// db.put("users", b"ada", b"1815")?; // returns when it is on disk
/// assert_eq!(db.get("users", b"ada")?.as_deref(), Some(&b"1815"[..]));
/// db.close()?;
/// # Ok::<(), mainstay::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Arc<Engine>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Database {
    /// Opens the database in directory `dir`, creating it if there is none, and recovers it if it
    /// was not closed.
    ///
    /// # Errors
    /// The directory is in use, damaged, of a newer version, or the disk fails; the text says what
    /// to do. Nothing was changed then.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, &WalOptions::new(wall_clock), LsmOptions::default())
    }

    /// As [`open`](Self::open), with other sizes.
    ///
    /// ```
    /// use mainstay::{Database, LsmOptions, SegmentSize, WalOptions};
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// let log = WalOptions {
    ///     segment_size: SegmentSize::MIN, // fixed when the log is created
    ///     ..WalOptions::new(|| 0) // the time in microseconds, which only people read
    /// };
    /// let store = LsmOptions { memtable_bytes: 8 << 20, ..LsmOptions::default() };
    /// let db = Database::open_with(dir.path(), &log, store)?;
    /// # db.close()?;
    /// # Ok::<(), mainstay::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        dir: impl AsRef<Path>,
        options: &WalOptions,
        store: LsmOptions,
    ) -> Result<Self> {
        let wal = open_or_create(dir.as_ref(), options)?;
        // Nobody else confirms commits, so what is flushed is committed.
        wal.set_commit_follows(true);
        let end = wal.appended();
        let (engine, _) = Engine::open(wal, store, end)?;
        engine.open_for_writes();
        let keeper = keeper::start(engine.clone(), || Lsn::MAX)?;
        let keeper = Mutex::new(Some(keeper));
        Ok(Self {
            inner: Arc::new(Inner { engine, keeper }),
        })
    }

    /// Sets the value of `key` in `table`, creating the table if needed. Returns when it is on
    /// disk.
    ///
    /// # Errors
    /// As [`WriteTransaction::put`] and [`WriteTransaction::commit_at`].
    pub fn put(&self, table: &str, key: &[u8], value: &[u8]) -> Result<Receipt> {
        self.transaction(|tx| tx.put(table, key, value))
            .map(|((), receipt)| receipt)
    }

    /// Deletes `key` from `table`, if it is there. Returns when that is on disk.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete(&self, table: &str, key: &[u8]) -> Result<Receipt> {
        self.transaction(|tx| tx.delete(table, key))
            .map(|((), receipt)| receipt)
    }

    /// The committed value of `key` in `table`; `None` when there is no such key, or no such table.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let db = mainstay::Database::open(dir.path())?;
    /// db.put("users", b"ada", b"1815")?;
    /// assert_eq!(db.get("users", b"ada")?.as_deref(), Some(&b"1815"[..]));
    /// assert_eq!(db.get("users", b"alan")?, None);
    /// # Ok::<(), mainstay::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>> {
        self.snapshot()?.get(table, key)
    }

    /// All committed data as of now.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let db = mainstay::Database::open(dir.path())?;
    /// let empty = db.snapshot()?;
    /// db.put("users", b"ada", b"1815")?;
    /// assert!(empty.tables()?.is_empty());
    /// assert_eq!(db.snapshot()?.tables()?, ["users"]);
    /// # Ok::<(), mainstay::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped) after [`close`](Self::close).
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.inner.engine.snapshot()
    }

    /// Begins a write transaction.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let db = mainstay::Database::open(dir.path())?;
    /// let mut tx = db.begin()?;
    /// tx.put("users", b"ada", b"1815")?;
    /// tx.put("cities", b"london", b"ada")?;
    /// tx.commit_blocking()?; // in async code: tx.commit().await?
    /// assert!(db.get("cities", b"london")?.is_some());
    /// # Ok::<(), mainstay::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped) after [`close`](Self::close), or what stopped the
    /// log or the store.
    pub fn begin(&self) -> Result<WriteTransaction> {
        WriteTransaction::begin(self.inner.engine.clone())
    }

    /// Runs `work` in a transaction and commits it; again when it conflicts, up to
    /// [`CONFLICT_RETRIES_MAX`] times. Returns what `work` returned and the commit's receipt.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let db = mainstay::Database::open(dir.path())?;
    /// let (count, _) = db.transaction(|tx| {
    ///     let old = tx.get("counters", b"visits")?.map_or(0, |count| count[0]);
    ///     tx.put("counters", b"visits", &[old + 1])?;
    ///     Ok(old + 1)
    /// })?;
    /// assert_eq!(count, 1);
    /// # Ok::<(), mainstay::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `work` returns; as [`WriteTransaction::commit_at`].
    pub fn transaction<T>(
        &self,
        mut work: impl FnMut(&mut WriteTransaction) -> Result<T>,
    ) -> Result<(T, Receipt)> {
        for _ in 0..CONFLICT_RETRIES_MAX {
            let mut tx = self.begin()?;
            let done = work(&mut tx)?;
            match tx.commit_blocking() {
                Err(error) if error.is_conflict() => {}
                committed => return committed.map(|receipt| (done, receipt)),
            }
        }
        let mut tx = self.begin()?;
        let done = work(&mut tx)?;
        tx.commit_blocking().map(|receipt| (done, receipt))
    }

    /// A table's rows under one name. It need not exist yet.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let db = mainstay::Database::open(dir.path())?;
    /// let users = db.table("users");
    /// users.put(b"ada", b"1815")?;
    /// assert!(users.get(b"ada")?.is_some());
    /// # Ok::<(), mainstay::Error>(())
    /// ```
    pub fn table(&self, name: &str) -> Table {
        Table {
            database: self.clone(),
            name: name.to_owned(),
        }
    }

    /// Writes out what is in memory, marks the log as properly closed and releases the directory.
    /// Everything else, open snapshots and transactions included, is
    /// [`Stopped`](crate::Error::Stopped) then. A second call does nothing.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let db = mainstay::Database::open(dir.path())?;
    /// db.put("users", b"ada", b"1815")?;
    /// db.close()?;
    /// assert!(matches!(db.get("users", b"ada"), Err(mainstay::Error::Stopped)));
    /// let db = mainstay::Database::open(dir.path())?;
    /// assert!(db.get("users", b"ada")?.is_some());
    /// # Ok::<(), mainstay::Error>(())
    /// ```
    ///
    /// # Errors
    /// Disk errors; the next open then recovers as after a crash.
    pub fn close(&self) -> Result<()> {
        // Held until the end, so that a second call returns when the directory is free.
        let mut keeper = self.inner.keeper.lock();
        let Some(keeper) = keeper.take() else {
            return Ok(());
        };
        self.inner.engine.close_for_writes(None);
        keeper::close(&self.inner.engine, keeper, true)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.engine.close_for_writes(None);
        self.engine.store.close();
        self.engine.wal.stop();
        if let Some(keeper) = self.keeper.lock().take() {
            let _ = keeper.join();
        }
    }
}

/// One table of a [`Database`].
#[derive(Debug, Clone)]
pub struct Table {
    database: Database,
    name: String,
}

impl Table {
    /// As [`Database::put`].
    ///
    /// # Errors
    /// As [`Database::put`].
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Receipt> {
        self.database.put(&self.name, key, value)
    }

    /// As [`Database::delete`].
    ///
    /// # Errors
    /// As [`Database::delete`].
    pub fn delete(&self, key: &[u8]) -> Result<Receipt> {
        self.database.delete(&self.name, key)
    }

    /// As [`Database::get`].
    ///
    /// # Errors
    /// As [`Database::get`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.database.get(&self.name, key)
    }
}

/// Microseconds since 1970-01-01 UTC.
pub(crate) fn wall_clock() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

fn open_or_create(dir: &Path, options: &WalOptions) -> Result<Wal> {
    let disk = Arc::new(OsDisk);
    if Wal::exists(&*disk, dir)? {
        let (wal, recovered) = Wal::open(disk, dir, options)?;
        report(dir, &recovered);
        return Ok(wal);
    }
    let new = NewLog::new_cluster(options.segment_size);
    Ok(Wal::create(disk, dir, new, options)?)
}

/// Says what recovery found, where it is worth saying.
pub(crate) fn report(dir: &Path, recovered: &Recovered) {
    if let Some(torn) = &recovered.torn {
        tracing::warn!(
            dir = %dir.display(), at = %torn.at, bytes = torn.bytes,
            saved_to = %torn.saved_to.display(),
            "cut off a write that was never finished, and never acknowledged"
        );
    } else if !recovered.clean {
        tracing::info!(dir = %dir.display(), end = %recovered.end, "recovered after a crash");
    }
}
