//! Transactions too large to hold: their entries, read from the log again.
//!
//! The range of such a transaction holds other transactions' entries too; they are passed over.
//! Log that ends, or is gone, before the commit is an error: half a transaction is never handed on
//! as a whole one.

use std::sync::Arc;

use super::{LogEntries, LogSource, is_change};
use crate::entry::{WalEntry, WalEntryType};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::EntrySource;

/// A transaction that was too large to hold.
pub(super) struct Reread {
    pub(super) id: u64,
    pub(super) begin: Lsn,
    pub(super) end: Lsn,
    pub(super) log: Arc<dyn LogSource>,
}

impl EntrySource for Reread {
    fn entries(&self) -> Box<dyn Iterator<Item = Result<WalEntry>> + '_> {
        Box::new(RereadEntries {
            of: self,
            log: Some(self.log.entries(self.begin, self.end)),
            reached: self.begin,
        })
    }
}

struct RereadEntries<'a> {
    of: &'a Reread,
    /// `None` after the commit or an error.
    log: Option<LogEntries>,
    reached: Lsn,
}

impl Iterator for RereadEntries<'_> {
    type Item = Result<WalEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = self.log.as_mut()?.next();
            let entry = match next {
                Some(Ok((entry, end))) => {
                    self.reached = end;
                    entry
                }
                Some(Err(error)) => {
                    self.log = None;
                    return Some(Err(error));
                }
                // Without its commit it would be half a transaction.
                None => {
                    self.log = None;
                    let (wanted, end) = (self.of.end, self.reached);
                    return Some(Err(Error::Ahead { wanted, end }));
                }
            };
            if entry.tx_id != Some(self.of.id) {
                continue;
            }
            if entry.entry_type == WalEntryType::TxCommit {
                self.log = None;
                return None;
            }
            if is_change(entry.entry_type) {
                return Some(Ok(entry));
            }
        }
    }
}
