//! The writes of a transaction that are in memory, by key.
//!
//! Who loads many rows mostly writes their keys in climbing order, and then each goes behind the
//! last without a search. With the first key that does not climb all of them move to a map.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::mem;
use std::ops::Bound;

use bytes::Bytes;

use super::merge::{Source, Write};
use crate::store::RowKey;

/// The last write of each key.
pub(super) enum Held {
    /// In climbing order.
    Climbing(Vec<Write>),
    /// Written in any other.
    Any(BTreeMap<RowKey, Option<Bytes>>),
}

impl Default for Held {
    fn default() -> Self {
        Self::Climbing(Vec::new())
    }
}

impl Held {
    /// Writes `value` and returns what was written to the key before, if anything.
    pub(super) fn insert(&mut self, key: RowKey, value: Option<Bytes>) -> Option<Option<Bytes>> {
        let writes = match self {
            Self::Any(map) => return map.insert(key, value),
            Self::Climbing(writes) => writes,
        };
        match writes.last_mut().map(|last| (last.0.cmp(&key), last)) {
            None | Some((Ordering::Less, _)) => {
                writes.push((key, value));
                None
            }
            Some((Ordering::Equal, last)) => Some(mem::replace(&mut last.1, value)),
            Some((Ordering::Greater, _)) => {
                let mut map = mem::take(writes).into_iter().collect::<BTreeMap<_, _>>();
                let before = map.insert(key, value);
                *self = Self::Any(map);
                before
            }
        }
    }

    pub(super) fn get(&self, key: &RowKey) -> Option<&Option<Bytes>> {
        match self {
            Self::Climbing(writes) => {
                let at = writes.binary_search_by(|(held, _)| held.cmp(key)).ok()?;
                Some(&writes[at].1)
            }
            Self::Any(map) => map.get(key),
        }
    }

    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Climbing(writes) => writes.len(),
            Self::Any(map) => map.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in key order.
    pub(super) fn all(&self) -> Source<'_> {
        self.range((Bound::Unbounded, Bound::Unbounded))
    }

    /// Those between two bounds, in key order.
    ///
    /// # Panics
    /// When the bounds cross.
    pub(super) fn range(&self, bounds: (Bound<RowKey>, Bound<RowKey>)) -> Source<'_> {
        let writes = match self {
            Self::Climbing(writes) => writes,
            Self::Any(map) => {
                let rows = map.range(bounds);
                return Box::new(rows.map(|(key, value)| Ok((key.clone(), value.clone()))));
            }
        };
        let below = |key: &RowKey| writes.partition_point(|(held, _)| held < key);
        let with = |key: &RowKey| writes.partition_point(|(held, _)| held <= key);
        let start = match &bounds.0 {
            Bound::Unbounded => 0,
            Bound::Included(key) => below(key),
            Bound::Excluded(key) => with(key),
        };
        let end = match &bounds.1 {
            Bound::Unbounded => writes.len(),
            Bound::Included(key) => with(key),
            Bound::Excluded(key) => below(key),
        };
        Box::new(writes[start..end].iter().cloned().map(Ok))
    }

    /// All of them, in key order, and none is left.
    pub(super) fn take(&mut self) -> Vec<Write> {
        match mem::take(self) {
            Self::Climbing(writes) => writes,
            Self::Any(map) => map.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_map_in_whatever_order_its_keys_come(
            climbing in prop::collection::vec((0..3_u8, any::<Option<u8>>()), 0..20),
            any in prop::collection::vec((0..60_u8, any::<Option<u8>>()), 0..20),
            bounds in (0..60_u8, 0..60_u8),
        ) {
            let mut key = 0;
            let climbing = climbing.into_iter().map(|(step, value)| {
                key += step;
                (key, value)
            });
            let (mut held, mut model) = (Held::default(), BTreeMap::new());
            let row = |key: u8| (1, Bytes::from(vec![key]));
            for (key, value) in climbing.chain(any) {
                let value = value.map(|byte| Bytes::from(vec![byte]));
                let before = held.insert(row(key), value.clone());
                prop_assert_eq!(before, model.insert(row(key), value));
                prop_assert_eq!(held.len(), model.len());
            }
            for key in 0..60 {
                prop_assert_eq!(held.get(&row(key)), model.get(&row(key)));
            }
            let (low, high) = (row(bounds.0.min(bounds.1)), row(bounds.0.max(bounds.1) + 1));
            let ranges = [
                (Bound::Included(low.clone()), Bound::Excluded(high.clone())),
                (Bound::Excluded(low), Bound::Included(high)),
                (Bound::Unbounded, Bound::Unbounded),
            ];
            for bounds in ranges {
                let found = held.range(bounds.clone()).map(Result::unwrap);
                let wanted = model.range(bounds).map(|(key, value)| (key.clone(), value.clone()));
                prop_assert!(found.eq(wanted));
            }
            prop_assert_eq!(held.take(), model.into_iter().collect::<Vec<_>>());
            prop_assert!(held.is_empty());
        }
    }
}
