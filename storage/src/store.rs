//! The seam for engines: [`Store`], and the [`Transaction`]s it applies.
//!
//! A store keeps data; the log keeps the promise. A store is handed whole committed transactions
//! in log order, keeps with its data the position up to which it has applied them, and says from
//! where the log must be replayed after a crash. It never sees half a transaction, never decides
//! what is committed, and knows no peers.

mod change;
#[cfg(any(test, feature = "sim"))]
pub mod conformance;
mod key;
mod lsm;
mod memory;
mod read;

use std::fmt;
use std::path::Path;

use crate::entry::WalEntry;
use crate::error::Result;
use crate::lsn::Lsn;

pub use change::*;
pub use key::*;
pub use lsm::*;
pub use memory::*;
pub use read::*;

/// A committed transaction, as it lies in the log.
///
/// The entries of a small one are held in memory; those of a large one are read from the log again
/// each time [`entries`](Self::entries) is called, so a transaction never has to fit in memory.
pub struct Transaction {
    /// Its id in the log; 0 for an entry that was a transaction of its own.
    pub tx_id: u64,
    /// Where its first record starts.
    pub begin: Lsn,
    /// Where its last record ends (exclusive). Its version: a reader at this position sees it.
    pub end: Lsn,
    /// Sum of the sizes of its entries' data, in bytes.
    pub bytes: u64,
    source: Box<dyn EntrySource>,
}

/// Where a transaction's entries come from.
pub trait EntrySource: Send + Sync {
    /// The transaction's entries, without `TxBegin` and `TxCommit`, from the first on.
    fn entries(&self) -> Box<dyn Iterator<Item = Result<WalEntry>> + '_>;
}

impl EntrySource for Vec<WalEntry> {
    fn entries(&self) -> Box<dyn Iterator<Item = Result<WalEntry>> + '_> {
        Box::new(self.iter().cloned().map(Ok))
    }
}

impl Transaction {
    /// A transaction with its entries' source.
    pub fn new(tx_id: u64, begin: Lsn, end: Lsn, bytes: u64, source: Box<dyn EntrySource>) -> Self {
        Self {
            tx_id,
            begin,
            end,
            bytes,
            source,
        }
    }

    /// Its entries in log order, without `TxBegin` and `TxCommit`.
    ///
    /// # Errors
    /// An item is an error when the log cannot be read any more; the transaction must then not be
    /// applied.
    pub fn entries(&self) -> Box<dyn Iterator<Item = Result<WalEntry>> + '_> {
        self.source.entries()
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Transaction {} {}..{} ({} bytes)",
            self.tx_id, self.begin, self.end, self.bytes
        )
    }
}

/// A storage engine under the log.
///
/// * [`apply`](Self::apply) is called with transactions in climbing order of their `end`, each
///   whole, from the one after [`durable`](Self::durable) on when the store was just opened.
/// * `durable <= applied`, both climb.
/// * What [`checkpoint`](Self::checkpoint) makes durable never exceeds its argument: log above it
///   may still be lost, and a store that kept it could not follow the new primary.
pub trait Store: Send {
    /// End of the last transaction applied, in memory or durably. It belongs to the data and is
    /// kept atomically with them.
    fn applied(&self) -> Lsn;

    /// Up to where the store survives a crash by itself; replay starts here. Log below it may be
    /// removed.
    fn durable(&self) -> Lsn;

    /// Applies one transaction. Nothing of it is visible to readers before the call returns.
    /// One whose `end` is at or below [`applied`](Self::applied) is skipped.
    ///
    /// # Errors
    /// The store is then unchanged, or must be reopened; the transaction was not applied.
    fn apply(&mut self, transaction: &Transaction) -> Result<()>;

    /// Whether it may be given transactions that the primary has committed while they are on their
    /// way to this node's disk. Only where it neither shows nor keeps what is above this log's own
    /// commit position: a power cut may take that from the log.
    fn runs_ahead(&self) -> bool {
        false
    }

    /// Makes durable what can be made durable at or below `upto`, and returns
    /// [`durable`](Self::durable). May do nothing when little is pending.
    ///
    /// # Errors
    /// Disk errors; what was durable stays durable.
    fn checkpoint(&mut self, upto: Lsn) -> Result<Lsn>;

    /// Writes a consistent copy of the durable state into the directory `into`, which exists and
    /// is empty, and returns its position: log from there on completes it.
    ///
    /// # Errors
    /// Disk errors; the copy is then incomplete and must be thrown away.
    fn snapshot(&mut self, into: &Path) -> Result<Lsn>;

    /// Flushes nothing, releases everything. Called once, last.
    ///
    /// # Errors
    /// Disk errors while closing.
    fn close(&mut self) -> Result<()>;
}
