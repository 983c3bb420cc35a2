//! From the log's entries to whole transactions: the one redo.
//!
//! Crash recovery, a standby's apply, restore and rewind all push the log's entries, in log order,
//! into a [`TransactionAssembler`] and hand the transactions that come out to a store. What it
//! promises: every committed transaction once, whole, in the order of the commits, however an
//! engine interleaved them, and never one that was rolled back. What it holds is bounded: a
//! transaction too large to hold is read from the log again. A sequence that no writer produces is
//! refused, not guessed at.
//!
//! Replay after a crash may not begin at the store's durable position: a transaction that commits
//! after it may have begun before it. [`TransactionAssembler::safe_restart`] says where to begin.
//! From there on, entries at or below the durable position whose transaction began even earlier
//! belong to transactions that ended below it too, and are passed over.

mod reread;
mod spans;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::canary;
use crate::entry::{WalEntry, WalEntryType};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::{EntrySource, Transaction};
use reread::Reread;
use spans::Spans;

/// Bytes of entries that open transactions hold in memory, in all: 64 MiB.
pub const TRANSACTIONS_BYTES_MAX: usize = 64 << 20;

/// Transactions open at a time.
pub const TRANSACTIONS_OPEN_MAX: usize = 65_536;

/// What an entry costs beside its data, in bytes.
const ENTRY_COST: usize = size_of::<WalEntry>();

/// Entries read from the log, each with the end of its record.
pub type LogEntries = Box<dyn Iterator<Item = Result<(WalEntry, Lsn)>> + Send>;

/// The log, for reading parts of it again.
pub trait LogSource: Send + Sync {
    /// The entries whose records start in `from..to`, in log order. Their LSNs are set. An error,
    /// as when the log there was removed, ends them.
    fn entries(&self, from: Lsn, to: Lsn) -> LogEntries;
}

/// Limits of a [`TransactionAssembler`].
#[derive(Debug, Copy, Clone)]
pub struct RedoOptions {
    /// Bytes of entries that open transactions hold in memory, in all. Above it the largest are
    /// read from the log again. Default [`TRANSACTIONS_BYTES_MAX`].
    pub bytes_max: usize,
    /// Transactions open at a time; one more is refused. Default [`TRANSACTIONS_OPEN_MAX`].
    pub open_max: usize,
}

impl Default for RedoOptions {
    fn default() -> Self {
        Self {
            bytes_max: TRANSACTIONS_BYTES_MAX,
            open_max: TRANSACTIONS_OPEN_MAX,
        }
    }
}

/// Assembles transactions from entries pushed in log order.
pub struct TransactionAssembler {
    options: RedoOptions,
    log: Arc<dyn LogSource>,
    /// What the store has already; of an unknown transaction nothing above it is accepted.
    applied: Lsn,
    /// End of the last entry pushed.
    position: Lsn,
    /// End of the last transaction that ended with a commit.
    committed: Lsn,
    open: HashMap<u64, Open>,
    /// The `begin` of every open transaction.
    begins: BTreeSet<Lsn>,
    /// What the open transactions hold, in bytes.
    held: usize,
    ended: Spans,
}

struct Open {
    begin: Lsn,
    /// Sum of the entries' data.
    bytes: u64,
    /// The entries, or `None` when they must be read again.
    entries: Option<Vec<WalEntry>>,
    /// What `entries` cost.
    held: usize,
}

impl TransactionAssembler {
    /// An assembler for log that begins at or below [`safe_restart`](Self::safe_restart) of
    /// `applied`, the position that the store has applied, or for a whole log with
    /// [`Lsn::ZERO`].
    pub fn new(applied: Lsn, log: Arc<dyn LogSource>, options: RedoOptions) -> Self {
        Self {
            options,
            log,
            applied,
            position: Lsn::ZERO,
            committed: applied,
            open: HashMap::new(),
            begins: BTreeSet::new(),
            held: 0,
            ended: Spans::default(),
        }
    }

    /// Takes the next entry, whose record ends at `end`, and returns the transaction that it
    /// completes, if any. One that the store has already, by the position given to
    /// [`new`](Self::new), is not returned.
    ///
    /// # Errors
    /// [`Error::Refused`] when the entry cannot come next: it lies before the one pushed last, a
    /// transaction begins twice, goes on or ends without having begun, or too many are open.
    /// Nothing has changed then.
    pub fn push(&mut self, entry: WalEntry, end: Lsn) -> Result<Option<Transaction>> {
        if entry.lsn < self.position || end <= entry.lsn {
            let why = format!("the entry up to {end} does not follow {}", self.position);
            return Err(refused(&entry, why));
        }
        let complete = match entry.entry_type {
            WalEntryType::TxBegin => self.begin(&entry).map(|()| None),
            WalEntryType::TxCommit => self.commit(&entry, end),
            WalEntryType::TxRollback => self.roll_back(&entry, end).map(|()| None),
            WalEntryType::NewTimeline if canary("open-across-a-timeline") => Ok(None),
            WalEntryType::NewTimeline => {
                self.roll_back_all(end);
                Ok(None)
            }
            entry_type if is_change(entry_type) => self.change(entry, end),
            // The others say something about the log, never about contents.
            _ => Ok(None),
        }?;
        self.position = end;
        Ok(complete)
    }

    /// End of the last entry pushed; zero before the first.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Where the oldest open transaction begins.
    pub fn oldest_open(&self) -> Option<Lsn> {
        self.begins.first().copied()
    }

    /// Number of open transactions.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Bytes that open transactions hold in memory.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Where replay must begin for a store whose durable position is `durable`: at or below it,
    /// and not inside a transaction that ended above it, or is still open. Log below may be
    /// removed. `durable` climbs from call to call.
    pub fn safe_restart(&mut self, durable: Lsn) -> Lsn {
        let open = self.oldest_open().unwrap_or(Lsn::MAX);
        if canary("checkpoint-inside-a-transaction") {
            return durable;
        }
        durable.min(open).min(self.ended.begin_across(durable))
    }

    fn begin(&mut self, entry: &WalEntry) -> Result<()> {
        let Some(id) = entry.tx_id.filter(|id| *id != 0) else {
            return Err(refused(entry, "a transaction begins without an id".into()));
        };
        if let Some(open) = self.open.get(&id) {
            let why = format!(
                "transaction {id} begins again, it is open since {}",
                open.begin
            );
            return Err(refused(entry, why));
        }
        if self.open.len() >= self.options.open_max {
            let why = format!("more than {} transactions are open", self.options.open_max);
            return Err(refused(entry, why));
        }
        let open = Open {
            begin: entry.lsn,
            bytes: 0,
            entries: Some(Vec::new()),
            held: 0,
        };
        self.begins.insert(open.begin);
        self.open.insert(id, open);
        Ok(())
    }

    fn change(&mut self, entry: WalEntry, end: Lsn) -> Result<Option<Transaction>> {
        let Some(id) = entry.tx_id else {
            let (begin, bytes) = (entry.lsn, entry.data.len() as u64);
            return Ok(self.complete(0, begin, end, bytes, Box::new(vec![entry])));
        };
        let Some(open) = self.open.get_mut(&id) else {
            return self.pass_over(&entry, end).map(|()| None);
        };
        open.bytes += entry.data.len() as u64;
        if let Some(entries) = &mut open.entries {
            let cost = entry.data.len() + ENTRY_COST;
            open.held += cost;
            self.held += cost;
            entries.push(entry);
        }
        if self.held > self.options.bytes_max {
            self.let_go_of_largest();
        }
        Ok(None)
    }

    fn commit(&mut self, entry: &WalEntry, end: Lsn) -> Result<Option<Transaction>> {
        let Some((id, open)) = self.close(entry, end)? else {
            return Ok(None);
        };
        let source: Box<dyn EntrySource> = match open.entries {
            Some(entries) => Box::new(entries),
            None => Box::new(Reread {
                id,
                begin: open.begin,
                end,
                log: self.log.clone(),
            }),
        };
        Ok(self.complete(id, open.begin, end, open.bytes, source))
    }

    fn complete(
        &mut self,
        id: u64,
        begin: Lsn,
        end: Lsn,
        bytes: u64,
        source: Box<dyn EntrySource>,
    ) -> Option<Transaction> {
        self.note_end(begin, end);
        self.committed = self.committed.max(end);
        (end > self.applied || canary("replay-what-is-there"))
            .then(|| Transaction::new(id, begin, end, bytes, source))
    }

    fn roll_back(&mut self, entry: &WalEntry, end: Lsn) -> Result<()> {
        if let Some((_, open)) = self.close(entry, end)? {
            self.note_end(open.begin, end);
        }
        Ok(())
    }

    fn roll_back_all(&mut self, end: Lsn) {
        if let Some(begin) = self.oldest_open() {
            self.note_end(begin, end);
        }
        self.open.clear();
        self.begins.clear();
        self.held = 0;
    }

    /// Remembers a transaction that another one committed inside: the store's position may come to
    /// lie between its ends.
    fn note_end(&mut self, begin: Lsn, end: Lsn) {
        if self.committed > begin {
            self.ended.push(begin, end);
        }
    }

    /// Takes out the transaction that `entry` ends; `None` when it is to be passed over.
    fn close(&mut self, entry: &WalEntry, end: Lsn) -> Result<Option<(u64, Open)>> {
        let Some(id) = entry.tx_id else {
            return Err(refused(entry, "a transaction ends without an id".into()));
        };
        let Some(open) = self.open.remove(&id) else {
            return self.pass_over(entry, end).map(|()| None);
        };
        self.begins.remove(&open.begin);
        self.held -= open.held;
        Ok(Some((id, open)))
    }

    /// Accepts an entry of a transaction whose begin was not pushed, if the store has it.
    fn pass_over(&self, entry: &WalEntry, end: Lsn) -> Result<()> {
        if end <= self.applied {
            return Ok(());
        }
        let id = entry.tx_id.unwrap_or_default();
        let what = entry.entry_type;
        Err(refused(
            entry,
            format!("{what:?} of transaction {id}, which is not open"),
        ))
    }

    /// Lets go of the largest, down to well below the limit: it costs a look at every open
    /// transaction, and so happens once in many entries.
    fn let_go_of_largest(&mut self) {
        let enough = self.options.bytes_max / 4 * 3;
        let mut holding = self.open.values_mut().collect::<Vec<_>>();
        holding.sort_unstable_by_key(|open| Reverse(open.held));
        for open in holding {
            if self.held <= enough {
                return;
            }
            self.held -= open.held;
            open.held = 0;
            open.entries = None;
        }
    }
}

impl fmt::Debug for TransactionAssembler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, held, position) = (self.open.len(), self.held, self.position);
        write!(
            f,
            "TransactionAssembler(at {position}, {open} open, {held} bytes)"
        )
    }
}

/// Whether entries of this type are handed to the store. Every type is named, so that a new one
/// cannot be forgotten.
fn is_change(entry_type: WalEntryType) -> bool {
    match entry_type {
        WalEntryType::Insert
        | WalEntryType::Update
        | WalEntryType::Delete
        | WalEntryType::SchemaChange
        | WalEntryType::BranchOp => true,
        WalEntryType::TxBegin
        | WalEntryType::TxCommit
        | WalEntryType::TxRollback
        | WalEntryType::NewTimeline
        | WalEntryType::Checkpoint
        | WalEntryType::SegmentHeader
        | WalEntryType::Filler
        | WalEntryType::Config => false,
    }
}

fn refused(entry: &WalEntry, why: String) -> Error {
    Error::Refused { at: entry.lsn, why }
}

#[cfg(test)]
mod tests;
