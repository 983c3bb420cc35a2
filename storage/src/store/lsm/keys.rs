//! How rows lie in the tree: keys, the rows the store keeps for itself, and the limits of both.
//!
//! A key is branch (four bytes, big-endian; 0), table number (four bytes, big-endian), user key.
//! Everything is checked here before it reaches the library, which panics on what it refuses.

use std::io::Read;
use std::ops::Bound;

use bytes::Bytes;
use lsm_tree::{InternalValue, SeqNo, Slice, ValueType};

use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::store::{CATALOG, Change, KEY_MAX, TableId, VALUE_MAX};

/// Bytes before the user key.
pub(super) const PREFIX: usize = 8;

/// The row that says up to where the tables contain everything, when their newest version does
/// not. It lies in a branch of its own, after all others, so a table that has it overlaps those of
/// later rows and cannot be moved down unread.
pub(super) const APPLIED: [u8; PREFIX + 1] = [255, 255, 255, 255, 255, 255, 255, 255, b'a'];

/// What one change does to the tree: a key, and its new value or none.
pub(super) type Op = (Slice, Option<Slice>);

/// A range of keys, as the library takes it.
pub(super) type Range = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// What a change does to the tree.
///
/// # Errors
/// [`Error::TooLarge`] or [`Error::Invalid`] on a key or value outside the limits.
pub(super) fn op(change: &Change) -> Result<Op> {
    match change {
        Change::Put { table, key, value } => {
            check_value(value)?;
            Ok((row(*table, key)?, Some(Slice::from(&value[..]))))
        }
        Change::Delete { table, key } => Ok((row(*table, key)?, None)),
        Change::CreateTable { table, name } => {
            let value = Slice::from(table.to_le_bytes());
            Ok((row(CATALOG, name.as_bytes())?, Some(value)))
        }
    }
}

/// The operation that notes `position` in the row [`APPLIED`].
pub(super) fn applied(position: Lsn) -> Op {
    let value = Slice::from(position.get().to_le_bytes());
    (Slice::from(APPLIED), Some(value))
}

/// The row of an operation of a transaction with `version`, as tables hold it.
pub(super) fn internal((key, value): Op, version: SeqNo) -> InternalValue {
    match value {
        Some(value) => InternalValue::from_components(key, value, version, ValueType::Value),
        None => InternalValue::new_tombstone(key, version),
    }
}

/// Bytes that an operation adds to a memtable, without the library's own.
pub(super) fn size(op: &Op) -> u64 {
    (op.0.len() + op.1.as_ref().map_or(0, |value| value.len())) as u64
}

/// The key of a row.
pub(super) fn row(table: TableId, key: &[u8]) -> Result<Slice> {
    check_key(key)?;
    let prefix = prefix(table);
    let joined = Slice::from_reader(&mut prefix.chain(key), PREFIX + key.len());
    Ok(joined.expect("memory has the bytes"))
}

/// The range of a table between two bounds, or `None` when nothing can lie in it.
pub(super) fn range(table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Option<Range>> {
    for bound in [from, to] {
        if let Bound::Included(key) | Bound::Excluded(key) = bound {
            check_key(key)?;
        }
    }
    let empty = match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from >= to,
        _ => false,
    };
    if empty {
        return Ok(None);
    }
    let from = match from {
        Bound::Included(key) => Bound::Included(join(table, key)),
        Bound::Excluded(key) => Bound::Excluded(join(table, key)),
        Bound::Unbounded => Bound::Included(join(table, &[])),
    };
    let to = match to {
        Bound::Included(key) => Bound::Included(join(table, key)),
        Bound::Excluded(key) => Bound::Excluded(join(table, key)),
        // The next table's prefix, in the next branch after the last table.
        Bound::Unbounded => Bound::Excluded((u64::from(table) + 1).to_be_bytes().to_vec()),
    };
    Ok(Some((from, to)))
}

/// A slice of the library as bytes. Small ones are copied: they may be part of a whole block.
pub(super) fn bytes(slice: Slice) -> Bytes {
    const COPY_MAX: usize = 4096;
    if slice.len() <= COPY_MAX {
        Bytes::copy_from_slice(&slice)
    } else {
        Bytes::from_owner(slice)
    }
}

fn prefix(table: TableId) -> [u8; PREFIX] {
    u64::from(table).to_be_bytes()
}

fn join(table: TableId, key: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(PREFIX + key.len());
    joined.extend_from_slice(&prefix(table));
    joined.extend_from_slice(key);
    joined
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(Error::Invalid("a key must not be empty".to_owned()));
    }
    check("key", key.len(), KEY_MAX)
}

fn check_value(value: &[u8]) -> Result<()> {
    check("value", value.len(), VALUE_MAX)
}

fn check(what: &'static str, size: usize, max: usize) -> Result<()> {
    if size <= max {
        return Ok(());
    }
    Err(Error::TooLarge {
        what,
        size: size as u64,
        max: max as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_stays_inside_its_table() {
        let all = range(7, Bound::Unbounded, Bound::Unbounded).unwrap();
        let (from, to) = all.unwrap();
        assert_eq!(from, Bound::Included(vec![0, 0, 0, 0, 0, 0, 0, 7]));
        assert_eq!(to, Bound::Excluded(vec![0, 0, 0, 0, 0, 0, 0, 8]));
        let last = range(u32::MAX, Bound::Unbounded, Bound::Unbounded).unwrap();
        assert_eq!(
            last.unwrap().1,
            Bound::Excluded(vec![0, 0, 0, 1, 0, 0, 0, 0])
        );
    }

    #[test]
    fn inverted_and_empty_bounds_are_an_empty_range() {
        let (a, b) = (&b"a"[..], &b"b"[..]);
        let empty = |from, to| range(1, from, to).unwrap().is_none();
        assert!(empty(Bound::Included(b), Bound::Included(a)));
        assert!(empty(Bound::Included(a), Bound::Excluded(a)));
        assert!(empty(Bound::Excluded(a), Bound::Included(a)));
        assert!(!empty(Bound::Included(a), Bound::Included(a)));
        assert!(!empty(Bound::Excluded(a), Bound::Excluded(b)));
    }

    #[test]
    fn keys_and_values_outside_the_limits_are_refused() {
        let longest = vec![0xff; KEY_MAX];
        assert_eq!(row(u32::MAX, &longest).unwrap().len(), 65_535);
        let longer = vec![0; KEY_MAX + 1];
        assert!(matches!(row(1, &longer), Err(Error::TooLarge { .. })));
        assert!(matches!(row(1, &[]), Err(Error::Invalid(_))));
        let bound = range(1, Bound::Excluded(&longer), Bound::Unbounded);
        assert!(matches!(bound, Err(Error::TooLarge { .. })));
    }
}
