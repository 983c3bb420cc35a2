//! Driving the log into a store: the one redo.
//!
//! Crash recovery, a standby's apply and restore all go through an [`Applicator`]: it reads the
//! log from the checkpoint, assembles whole transactions and hands them to the store, never beyond
//! the position it is given. It decides nothing about that position: whoever calls it knows what
//! is flushed and what is committed.

use std::fmt;
use std::sync::Arc;

use crate::entry::WalEntry;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::redo::{LogSource, RedoOptions, TransactionAssembler};
use crate::store::Store;
use crate::wal::{Wal, WalReader};

/// Replays a log into a store, in steps.
pub struct Applicator {
    reader: WalReader,
    assembler: TransactionAssembler,
}

impl Applicator {
    /// Replay of `wal` into `store`, from the checkpoint on.
    ///
    /// # Errors
    /// [`Error::Gap`] when the log that the store needs was removed; [`Error::Corrupt`] when the
    /// store holds more than the log, which happens when one of them was replaced.
    pub fn new(wal: &Wal, store: &dyn Store) -> Result<Self> {
        let control = wal.control();
        let end = wal.appended();
        if store.durable() > end {
            return Err(Error::Corrupt {
                path: wal.dir().to_owned(),
                what: "the end of the log",
                at: end,
                proven: store.durable(),
                why: format!("the store already holds log up to {}", store.durable()),
            });
        }
        let reader = wal.reader(control.checkpoint)?;
        let log = Arc::new(wal.clone());
        let assembler = TransactionAssembler::new(store.applied(), log, RedoOptions::default());
        Ok(Self { reader, assembler })
    }

    /// Applies every transaction that ends at or below `upto`, and returns the position up to
    /// which the log was read.
    ///
    /// # Errors
    /// The log's or the store's; what was applied before stays applied, and calling again goes on
    /// from the failed transaction only for an error of the log.
    pub fn apply_upto(&mut self, store: &mut dyn Store, upto: Lsn) -> Result<Lsn> {
        while let Some((entry, end)) = self.reader.next_entry(upto)? {
            if let Some(transaction) = self.assembler.push(entry, end)? {
                store.apply(&transaction)?;
            }
        }
        Ok(self.reader.at())
    }

    /// Where a replay after a crash must begin, for a store that is durable up to `durable`: the
    /// position to checkpoint the log at.
    pub fn safe_restart(&mut self, durable: Lsn) -> Lsn {
        self.assembler.safe_restart(durable)
    }

    /// Up to where the log was read.
    pub fn position(&self) -> Lsn {
        self.reader.at()
    }
}

impl fmt::Debug for Applicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Applicator(at {})", self.position())
    }
}

impl LogSource for Wal {
    fn entries(
        &self,
        from: Lsn,
        to: Lsn,
    ) -> Box<dyn Iterator<Item = Result<(WalEntry, Lsn)>> + Send> {
        let mut reader = match self.reader(from) {
            Ok(reader) => reader,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        Box::new(std::iter::from_fn(move || {
            reader.next_entry(to).transpose()
        }))
    }
}
