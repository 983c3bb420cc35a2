//! What every store must do, as a suite that any store can run.
//!
//! [`conformance`] drives a store through its seam alone, the way the node does: apply, checkpoint,
//! crash, replay, copy, read; and compares it with a model that is a sorted map for each position.
//! How a store is made, crashed and opened again is its [`Specimen`]'s business. The suite panics
//! at the first difference, and says with which seed the random part ran.

mod cases;
mod durability;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::entry::WalEntry;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::{Change, EntrySource, ReadAt, Store, TableId, Transaction};

/// How to make, crash and open the store under test. Whatever fails in here may panic.
pub trait Specimen {
    /// The store.
    type Store: Store;
    /// Its reader.
    type Reader: ReadAt;

    /// An empty store in a new place, for which nothing was [`committed`](Self::committed) yet.
    fn fresh(&mut self) -> (Self::Store, Self::Reader);

    /// Ends the current store as a crash would, without [`Store::close`] unless the suite called
    /// it, and opens what is durable of it.
    fn crash(&mut self, store: Self::Store, reader: Self::Reader) -> (Self::Store, Self::Reader);

    /// The log is flushed and committed up to `upto` from now on: a store that gates what it makes
    /// durable by itself raises its gate. The suite never asks for a checkpoint above it. It
    /// outlives crashes.
    fn committed(&mut self, upto: Lsn);

    /// A new, empty directory.
    fn directory(&mut self) -> PathBuf;

    /// Opens a copy that the current store's [`Store::snapshot`] wrote into `dir`.
    fn open_copy(&mut self, dir: &Path) -> (Self::Store, Self::Reader);
}

/// Runs the whole suite; `seed` picks the random part, and is printed.
///
/// # Panics
/// At the first thing that the store does otherwise than [`Store`] and [`ReadAt`] promise.
pub fn conformance<S: Specimen>(specimen: &mut S, seed: u64) {
    cases::run(specimen);
    durability::run(specimen);
    random_life(specimen, seed, 300);
}

/// Runs only the random part: `steps` operations on a fresh store.
///
/// # Panics
/// As [`conformance`].
pub fn random_life<S: Specimen>(specimen: &mut S, seed: u64, steps: usize) {
    random::run(specimen, seed, steps);
}

/// Contents of a store.
type Contents = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;

/// One transaction as the suite wrote it.
#[derive(Clone)]
struct Logged {
    begin: Lsn,
    end: Lsn,
    entries: Vec<WalEntry>,
}

impl Logged {
    fn transaction(&self) -> Transaction {
        let bytes = self.entries.iter().map(|entry| entry.data.len() as u64);
        let entries = Box::new(self.entries.clone());
        Transaction::new(1, self.begin, self.end, bytes.sum(), entries)
    }
}

/// A store under test, the log it was given and how far that is committed.
struct Case<'a, S: Specimen> {
    specimen: &'a mut S,
    /// Taken out only while it crashes.
    live: Option<(S::Store, S::Reader)>,
    log: Vec<Logged>,
    committed: Lsn,
}

/// Where the suite's logs begin.
const FIRST: Lsn = Lsn::new(16 << 20);

impl<'a, S: Specimen> Case<'a, S> {
    fn new(specimen: &'a mut S) -> Self {
        let live = Some(specimen.fresh());
        let log = Vec::new();
        Self {
            specimen,
            live,
            log,
            committed: Lsn::ZERO,
        }
    }

    fn store(&mut self) -> &mut S::Store {
        &mut self.live.as_mut().expect("only a crash takes it").0
    }

    fn reader(&self) -> &S::Reader {
        &self.live.as_ref().expect("only a crash takes it").1
    }

    fn end(&self) -> Lsn {
        self.log.last().map_or(FIRST, |last| last.end)
    }

    /// Appends a transaction to the log, without applying it.
    fn write(&mut self, changes: &[Change]) -> Logged {
        let begin = self.end();
        // As far apart as the records of such a log would be: three of at least 32 bytes.
        let mut end = begin + 2 * 32;
        let mut entries = Vec::new();
        for change in changes {
            let data = change.encode();
            let mut entry = WalEntry::new(change.entry_type(), Some(1), data);
            entry.lsn = end;
            entry.checksum = crc32fast::hash(&entry.data);
            end = end + 32 + (entry.data.len() as u64).next_multiple_of(8);
            entries.push(entry);
        }
        let logged = Logged {
            begin,
            end,
            entries,
        };
        self.log.push(logged.clone());
        logged
    }

    /// Appends and applies a transaction, and returns its end.
    fn apply(&mut self, changes: &[Change]) -> Lsn {
        let logged = self.write(changes);
        self.store().apply(&logged.transaction()).unwrap();
        assert_eq!(self.store().applied(), logged.end);
        assert_eq!(self.reader().applied(), logged.end);
        logged.end
    }

    /// Appends, commits and applies a transaction.
    fn commit(&mut self, changes: &[Change]) -> Lsn {
        let end = self.apply(changes);
        self.raise(end);
        end
    }

    fn raise(&mut self, upto: Lsn) {
        self.committed = self.committed.max(upto);
        self.specimen.committed(self.committed);
    }

    /// Asks for a checkpoint and checks what it says.
    fn checkpoint(&mut self, upto: Lsn) -> Lsn {
        let (before, upto) = (self.store().durable(), upto.min(self.committed));
        let durable = self.store().checkpoint(upto).unwrap();
        // A store may flush by itself up to the gate, so the argument alone is no bound here.
        assert!(before <= durable, "durable went back");
        assert!(durable <= self.committed, "more is durable than committed");
        assert!(self.store().durable() >= durable);
        assert!(self.store().durable() <= self.store().applied());
        durable
    }

    /// Crashes and opens the store, and checks that just what was durable is there.
    fn crash(&mut self) -> Lsn {
        let before = self.store().durable();
        let (store, reader) = self.live.take().expect("only a crash takes it");
        self.live = Some(self.specimen.crash(store, reader));
        let durable = self.store().durable();
        assert!(durable >= before, "a crash lost what was durable");
        assert!(
            durable <= self.committed,
            "more survived than was committed"
        );
        assert_eq!(self.store().applied(), durable);
        assert_eq!(self.reader().applied(), durable);
        self.check_at(durable);
        durable
    }

    /// Cuts off the log that was never committed, as a failover may. Only a store that has not
    /// applied it, or has just crashed, may be used further.
    fn cut(&mut self) {
        let committed = self.committed;
        self.log.retain(|logged| logged.end <= committed);
    }

    /// Applies the log again from the transaction with number `from` on.
    fn replay_from(&mut self, from: usize) {
        for logged in self.log.clone().into_iter().skip(from) {
            let before = self.store().applied();
            self.store().apply(&logged.transaction()).unwrap();
            assert_eq!(self.store().applied(), before.max(logged.end));
        }
        let end = self.log.last().map(|last| last.end);
        assert!(end.is_none_or(|end| self.store().applied() == end));
    }

    /// Applies again all that a crash took, and no more.
    fn replay(&mut self) {
        let durable = self.store().durable();
        let done = self.log.partition_point(|logged| logged.end <= durable);
        self.replay_from(done);
    }

    /// What a reader at `at` must see.
    fn model_at(&self, at: Lsn) -> Contents {
        let mut contents = Contents::new();
        for logged in self.log.iter().take_while(|logged| logged.end <= at) {
            for entry in &logged.entries {
                let (table, key, value) = Change::of(entry).unwrap().into_row();
                match value {
                    Some(value) => contents.insert((table, key.to_vec()), value.to_vec()),
                    None => contents.remove(&(table, key.to_vec())),
                };
            }
        }
        contents
    }

    /// Compares every row that was ever written, by scan and by key, as of `at`.
    fn check_at(&self, at: Lsn) {
        let keys = self.keys();
        check_contents(self.reader(), at, &self.model_at(at), &keys).unwrap();
    }

    fn check(&self) {
        self.check_at(self.reader().applied());
    }

    /// Every key that the log ever named.
    fn keys(&self) -> BTreeSet<(TableId, Bytes)> {
        let entries = self.log.iter().flat_map(|logged| &logged.entries);
        let rows = entries.map(|entry| Change::of(entry).unwrap().into_row());
        rows.map(|(table, key, _)| (table, key)).collect()
    }
}

/// Compares a store's contents as of `at` with what they must be.
///
/// # Errors
/// Those of the reader; a difference panics.
fn check_contents(
    reader: &impl ReadAt,
    at: Lsn,
    wanted: &Contents,
    keys: &BTreeSet<(TableId, Bytes)>,
) -> Result<()> {
    for (table, key) in keys {
        let found = reader.get(*table, key, at)?;
        let wanted = wanted.get(&(*table, key.to_vec()));
        assert_eq!(
            found.as_deref(),
            wanted.map(Vec::as_slice),
            "get of {table} {key:?} at {at}"
        );
    }
    let mut tables = keys
        .iter()
        .map(|(table, _)| *table)
        .collect::<BTreeSet<_>>();
    tables.extend([0, 1, 2, TableId::MAX]);
    for table in tables {
        let rows = scanned(reader, table, Bound::Unbounded, Bound::Unbounded, at)?;
        let wanted = wanted.iter().filter(|((of, _), _)| *of == table);
        let wanted = wanted.map(|((_, key), value)| (key.clone(), value.clone()));
        assert_eq!(rows, wanted.collect::<Vec<_>>(), "scan of {table} at {at}");
    }
    Ok(())
}

/// A scan's rows, collected.
fn scanned(
    reader: &impl ReadAt,
    table: TableId,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
    at: Lsn,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let rows = reader.scan(table, from, to, at)?;
    rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
        .collect()
}

/// Entries that end in a failure, as those of a transaction whose log is gone do.
struct Failing(Vec<WalEntry>);

impl EntrySource for Failing {
    fn entries(&self) -> Box<dyn Iterator<Item = Result<WalEntry>> + '_> {
        let gone = Error::Gap {
            wanted: FIRST,
            oldest: Lsn::MAX,
        };
        Box::new(self.0.iter().cloned().map(Ok).chain([Err(gone)]))
    }
}
