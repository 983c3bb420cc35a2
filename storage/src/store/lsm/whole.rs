//! Everything the store holds, as one ordered run of rows; and putting single rows right in it.
//!
//! Two stores that are to be alike are compared here below tables and names: a key is the whole key
//! of the tree, branch and table number included, so the catalog is compared as well and nothing
//! that was ever added is forgotten. Only the row that says how far this node's own tables go is
//! left out.
//!
//! Rows that are put right go straight to tables, as a large transaction does, under a position
//! that is a place in the log of its own: above every version that lies in tables by then, below
//! every one that comes later, and durable in one edit. So a crash leaves all of
//! it or nothing, and no replay brings back what was there.

use std::ops::Bound;

use bytes::Bytes;
use lsm_tree::Slice;

use super::LsmStore;
use super::horizon::EDIT_SLACK;
use super::keys::{APPLIED, Op, PREFIX};
use super::reader::LsmReader;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::{KEY_MAX, Rows, TableId, VALUE_MAX};

/// Longest key of a row among all of a store, in bytes.
pub const WHOLE_KEY_MAX: usize = PREFIX + KEY_MAX;

/// A row that is to be put right: its key among all rows, and its value or none.
pub type MendedRow = (Bytes, Option<Bytes>);

/// The table and the key of a row that goes by `key` among all rows, if it is one of a table.
pub fn table_of_whole_key(key: &[u8]) -> Option<(TableId, &[u8])> {
    let (prefix, key) = key.split_first_chunk::<PREFIX>()?;
    let table = TableId::try_from(u64::from_be_bytes(*prefix)).ok()?;
    Some((table, key))
}

impl LsmReader {
    /// All rows as of `at` whose keys lie above `after` (from the first, without one) and up to
    /// `upto`, which counts (to the last, without one), in order. The keys are those of the whole
    /// store, not of one table. It ends as a [`scan`](crate::ReadAt::scan) does.
    ///
    /// # Errors
    /// As a scan's; [`Error::Invalid`] for a bound over [`WHOLE_KEY_MAX`] bytes.
    pub fn whole(&self, after: Option<&[u8]>, upto: Option<&[u8]>, at: Lsn) -> Result<Rows> {
        for bound in [after, upto].into_iter().flatten() {
            check_key(bound)?;
        }
        let at = self.position(at)?;
        let to = upto.filter(|upto| *upto < &APPLIED[..]);
        let from = after.unwrap_or_default();
        if from >= to.unwrap_or(&APPLIED) {
            return Ok(Box::new(std::iter::empty()));
        }
        let range = (
            after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_vec())),
            to.map_or(Bound::Excluded(APPLIED.to_vec()), |to| {
                Bound::Included(to.to_vec())
            }),
        );
        self.rows(range, at, 0)
    }
}

impl LsmStore {
    /// Sets rows as a transaction that ends at `at` would, and returns when they are durable,
    /// together with everything before. No transaction may end in the [`MEND_ROOM`] bytes of log
    /// below `at`, nor be open there. `rows` come in climbing order of their keys, each once; they
    /// are asked for once.
    ///
    /// # Errors
    /// [`Error::Refused`] when transactions up to `at`, or too close below it, were applied, or the
    /// rows are out of order; whatever `rows` ends with; disk errors. Nothing was set then.
    pub fn mend(&self, at: Lsn, rows: &mut dyn Iterator<Item = Result<MendedRow>>) -> Result<()> {
        let shared = self.shared();
        let _inserting = shared.inserting.lock();
        let applied = shared.applied.get();
        if at < applied + MEND_ROOM {
            return Err(Error::Refused {
                at,
                why: format!("rows cannot be put right here: the store has log up to {applied}"),
            });
        }
        let mut last = None;
        let ops = rows.map(move |row| {
            let op = op(row?)?;
            if last.as_ref().is_some_and(|last| *last >= op.0) {
                return Err(Error::Invalid("rows came out of order".to_owned()));
            }
            last = Some(op.0.clone());
            Ok(op)
        });
        shared.insert_once(at, Box::new(ops))
    }
}

/// Bytes of log that have to lie between the last transaction and the position of rows that are put
/// right: one record.
pub const MEND_ROOM: u64 = EDIT_SLACK;

fn op((key, value): MendedRow) -> Result<Op> {
    check_key(&key)?;
    if key.len() <= PREFIX || *key >= APPLIED[..] {
        return Err(Error::Invalid("a row's key is no key of a row".to_owned()));
    }
    if let Some(value) = value.as_ref().filter(|value| value.len() > VALUE_MAX) {
        return Err(Error::TooLarge {
            what: "value",
            size: value.len() as u64,
            max: VALUE_MAX as u64,
        });
    }
    let value = value.map(|value| Slice::from(&value[..]));
    Ok((Slice::from(&key[..]), value))
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() || key.len() > WHOLE_KEY_MAX {
        return Err(Error::Invalid(format!(
            "a key of {} bytes is none of a row",
            key.len()
        )));
    }
    Ok(())
}
