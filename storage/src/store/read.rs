//! Reading a store at a position.
//!
//! A [`ReadAt`] answers as of a log position: it shows exactly the transactions whose `end` is at
//! or below it. It keeps no open snapshots itself; whoever reads at a position first registers it
//! with [`ReadAt::open_snapshot`], so that the rows it needs are kept.

use std::ops::Bound;

use bytes::Bytes;

use crate::error::Result;
use crate::lsn::Lsn;

/// Number of a table. 0 is the catalog: its keys are table names, its values the tables' numbers
/// as four little-endian bytes.
pub type TableId = u32;

/// The catalog's own number.
pub const CATALOG: TableId = 0;

/// Longest user key in bytes; the shortest is 1.
pub const KEY_MAX: usize = 65_535 - 8;

/// Longest value in bytes that goes into one log record; [`WalEntry`](crate::WalEntry)s larger
/// than a quarter of the segment size are refused by the log.
pub const VALUE_MAX: usize = 64 << 20;

/// Rows of a scan, in key order: key and value.
pub type Rows = Box<dyn Iterator<Item = Result<(Bytes, Bytes)>> + Send>;

/// Reads of a store as of a position.
pub trait ReadAt: Send + Sync {
    /// The value of `key` in `table` as of `at`.
    ///
    /// # Errors
    /// [`SnapshotTooOld`](crate::Error::SnapshotTooOld) when `at` is below what can still be read,
    /// [`TooLarge`](crate::Error::TooLarge) or [`Invalid`](crate::Error::Invalid) on a key outside
    /// 1..=[`KEY_MAX`] bytes, disk errors.
    fn get(&self, table: TableId, key: &[u8], at: Lsn) -> Result<Option<Bytes>>;

    /// The rows of `table` whose keys lie between the bounds, as of `at`, in ascending order.
    /// Inverted bounds are an empty range.
    ///
    /// # Errors
    /// As [`get`](Self::get), at once or as an item.
    fn scan(&self, table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>, at: Lsn) -> Result<Rows>;

    /// The highest position that can be read: everything at or below it has been applied. Under a
    /// log it may be above the commit position, which is what others may be shown.
    fn applied(&self) -> Lsn;

    /// Registers `at` so that its rows are kept until [`close_snapshot`](Self::close_snapshot).
    ///
    /// # Errors
    /// [`SnapshotTooOld`](crate::Error::SnapshotTooOld) when they are gone already.
    fn open_snapshot(&self, at: Lsn) -> Result<()>;

    /// Ends one registration of `at`.
    fn close_snapshot(&self, at: Lsn);
}
