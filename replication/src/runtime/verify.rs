//! Comparing this standby's rows with its primary's while both run, and mending what differs.
//!
//! ```text
//! standby                                              primary
//!   holds its replay back
//!   VERIFY_BEGIN timeline                        ───▶  keeps its newest position readable
//!                                                ◀───  that position
//!   applies up to it, keeps it readable; replay goes on
//!   VERIFY_RANGES rows, after, upto              ───▶  cuts its rows there, digests them
//!                                                ◀───  where each range ends, its digest
//!   digests its own rows up to the same keys     ...   again and again
//! ```
//!
//! To mend, the primary writes a record of its own to the log first, in which no transaction ends:
//! its place is where the standby's mended rows belong. The replay stays held until they are
//! durable; log is received, flushed and confirmed meanwhile. What differs and what to look at next
//! is decided in [`protocol::verify`](crate::protocol::verify).
//!
//! Neither side holds more in memory than one answer, [`ANSWER_KEYS_MAX`] bytes of keys or
//! [`PAGE_BYTES`] bytes of rows and one row, and what the store keeps for one open position. A
//! position that the store gives up for its own limits is exchanged for a later one. One comparison
//! at a time on each node.

mod cut;
mod drive;
mod mend;
mod serve;
mod sides;
#[cfg(test)]
mod tests;

use std::time::Duration;

use mainstay_storage::{Lsn, MendedRow, Result as StorageResult, Rows};

use crate::wire::result::ANSWER_ROWS_MAX;

pub(crate) use drive::Verification;
pub use drive::{Compared, Mended};
pub(crate) use serve::{Served, serve};

/// Most bytes of keys in one answer.
pub(crate) const ANSWER_KEYS_MAX: usize = 1 << 20;

/// Bytes of rows after which an answer ends with the range at hand.
pub(crate) const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Time after which an answer ends with the range at hand, well before the other side gives up.
pub(crate) const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// Bytes of shipped rows after which an answer ends.
pub(crate) const PAGE_BYTES: usize = 1 << 20;

/// Most shipped rows in one answer, however small they are, and the row that ends the last one.
pub(crate) const PAGE_ROWS_MAX: usize = ANSWER_ROWS_MAX - 1;

/// Most bytes of one value in one piece.
pub(crate) const PIECE_BYTES: usize = 512 << 10;

/// How long the position of a comparison may take to be committed and applied.
pub(crate) const POSITION_TIMEOUT: Duration = Duration::from_secs(5);

/// How often both sides try to find a position that each can read.
pub(crate) const POSITION_TRIES_MAX: u32 = 5;

/// All rows of an engine's store, to be compared with another node's. Keys are those of the whole
/// store, as [`LsmReader::whole`](mainstay_storage::LsmReader::whole) has them. Every call may wait
/// for the disk.
pub trait Contents: Send + Sync {
    /// Keeps the newest position that is committed and applied readable, and returns it.
    ///
    /// # Errors
    /// The store's.
    fn hold_newest(&self) -> StorageResult<Lsn>;

    /// Keeps `at` readable.
    ///
    /// # Errors
    /// [`SnapshotTooOld`](mainstay_storage::Error::SnapshotTooOld) when it is not any more.
    fn hold(&self, at: Lsn) -> StorageResult<()>;

    /// Ends one hold.
    fn release(&self, at: Lsn);

    /// All rows above `after`, up to and with `upto`, as of `at`, in the order of their keys.
    ///
    /// # Errors
    /// The store's, at once or as an item.
    fn rows(&self, after: Option<&[u8]>, upto: Option<&[u8]>, at: Lsn) -> StorageResult<Rows>;

    /// On a primary: appends a record in which no transaction ends, while none is open, and returns
    /// where it ends. Everything before it is in the store then.
    ///
    /// # Errors
    /// When nothing may be written here; the log's.
    fn place(&self) -> Result<Lsn, String>;

    /// Sets rows durably, as if a transaction with them ended at `at`.
    ///
    /// # Errors
    /// As [`LsmStore::mend`](mainstay_storage::LsmStore::mend); nothing was set then.
    fn mend(
        &self,
        at: Lsn,
        rows: &mut dyn Iterator<Item = StorageResult<MendedRow>>,
    ) -> StorageResult<()>;

    /// A row's table and key for people, by the names known at `at`.
    fn describe(&self, key: &[u8], at: Lsn) -> String;
}
