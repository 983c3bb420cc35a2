//! Keys of rows, and ranges of them.
//!
//! What a key may be is decided here, once, for everything that takes one. A range is brought
//! into one half-open form, so that no ordered map is ever asked for an inverted range, which
//! would panic.

use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};

use super::{KEY_MAX, TableId};
use crate::error::{Error, Result};

/// A row's table and key: the order in which stores and write sets keep rows.
pub type RowKey = (TableId, Bytes);

/// Refuses a key that no store takes.
///
/// # Errors
/// [`Error::Invalid`] when it is empty, [`Error::TooLarge`] above [`KEY_MAX`] bytes.
pub fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(Error::Invalid(
            "a key is empty; the shortest has one byte".into(),
        ));
    }
    if key.len() > KEY_MAX {
        return Err(Error::TooLarge {
            what: "key",
            size: key.len() as u64,
            max: KEY_MAX as u64,
        });
    }
    Ok(())
}

/// Keys from `start` (inclusive) to `end` (exclusive; `None` is the end of the table), never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) start: Bytes,
    pub(crate) end: Option<Bytes>,
}

impl KeyRange {
    /// The range between two bounds, or `None` when no key can lie in it.
    ///
    /// # Errors
    /// As [`check_key`], for the bounds.
    pub(crate) fn new(from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Option<Self>> {
        for bound in [from, to] {
            if let Bound::Included(key) | Bound::Excluded(key) = bound {
                check_key(key)?;
            }
        }
        let start = match from {
            Bound::Unbounded => Bytes::new(),
            Bound::Included(key) => Bytes::copy_from_slice(key),
            Bound::Excluded(key) => successor(key),
        };
        let end = match to {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(successor(key)),
            Bound::Excluded(key) => Some(Bytes::copy_from_slice(key)),
        };
        let some = end.as_ref().is_none_or(|end| start < *end);
        Ok(some.then_some(Self { start, end }))
    }

    /// Every key of a table.
    pub(crate) fn all() -> Self {
        Self {
            start: Bytes::new(),
            end: None,
        }
    }

    /// Just one key.
    pub(crate) fn one(key: &[u8]) -> Self {
        Self {
            start: Bytes::copy_from_slice(key),
            end: Some(successor(key)),
        }
    }

    /// As bounds of a map ordered by [`RowKey`].
    pub(crate) fn of_table(&self, table: TableId) -> (Bound<RowKey>, Bound<RowKey>) {
        let end = match (&self.end, table.checked_add(1)) {
            (Some(end), _) => Bound::Excluded((table, end.clone())),
            (None, Some(next)) => Bound::Excluded((next, Bytes::new())),
            (None, None) => Bound::Unbounded,
        };
        (Bound::Included((table, self.start.clone())), end)
    }

    /// Its part from the start up to and with `key`.
    pub(crate) fn upto(&self, key: &[u8]) -> Self {
        Self {
            start: self.start.clone(),
            end: Some(successor(key)),
        }
    }
}

/// The lowest key above `key`.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::ops::RangeBounds;

    fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
        let key = prop::collection::vec(0u8..3, 1..4);
        prop_oneof![
            Just(Bound::Unbounded),
            key.clone().prop_map(Bound::Included),
            key.prop_map(Bound::Excluded),
        ]
    }

    fn slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
        bound.as_ref().map(Vec::as_slice)
    }

    proptest! {
        #[test]
        fn a_range_holds_exactly_the_keys_between_its_bounds(
            from in bound(),
            to in bound(),
            keys in prop::collection::btree_set(prop::collection::vec(0u8..3, 1..5), 0..40),
            table in prop::sample::select(vec![0, 7, TableId::MAX]),
        ) {
            let bounds = (slice(&from), slice(&to));
            let wanted = keys
                .iter()
                .filter(|key| RangeBounds::<[u8]>::contains(&bounds, key.as_slice()))
                .collect::<Vec<_>>();
            let mut rows = keys
                .iter()
                .map(|key| (table, Bytes::from(key.clone())))
                .collect::<BTreeSet<RowKey>>();
            rows.insert((table.wrapping_add(1), Bytes::from_static(b"a")));
            rows.insert((table.wrapping_sub(1), Bytes::from_static(b"a")));
            let found = match KeyRange::new(slice(&from), slice(&to)).unwrap() {
                None => Vec::new(),
                Some(range) => rows
                    .range(range.of_table(table))
                    .map(|(_, key)| key.to_vec())
                    .collect(),
            };
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn a_bad_key_is_refused_as_a_bound_too() {
        assert!(check_key(b"").is_err());
        assert!(check_key(&vec![1; KEY_MAX]).is_ok());
        assert!(check_key(&vec![1; KEY_MAX + 1]).is_err());
        let long = vec![1; KEY_MAX + 1];
        assert!(KeyRange::new(Bound::Unbounded, Bound::Excluded(&long)).is_err());
        assert!(KeyRange::new(Bound::Included(b""), Bound::Unbounded).is_err());
    }
}
