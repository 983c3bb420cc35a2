//! What a transaction looked at.
//!
//! A key is a range of one key; ranges that touch become one. Beyond a bound the set grows coarser
//! instead of larger: a table of which too much was read counts as read whole. That can only add
//! conflicts, never hide one.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use crate::error::Result;
use crate::store::{KeyRange, RowKey, TableId};

/// Keys and ranges that a transaction's reads are remembered as. Beyond it the table with the
/// most of them counts as read whole.
pub const READ_SET_MAX: usize = 65_536;

/// Bytes that they take. Beyond it as beyond [`READ_SET_MAX`].
pub const READ_SET_BYTES_MAX: usize = 16 << 20;

/// The keys and ranges that a transaction read, whether rows were there or not.
#[derive(Debug)]
pub struct ReadSet {
    tables: HashMap<TableId, Ranges>,
    /// Every table counts as read whole.
    everything: bool,
    count: usize,
    bytes: usize,
    max: usize,
}

/// Ranges that neither overlap nor touch: start, and end (exclusive; `None` is the table's).
type Ranges = BTreeMap<Bytes, Option<Bytes>>;

impl Default for ReadSet {
    fn default() -> Self {
        Self {
            tables: HashMap::new(),
            everything: false,
            count: 0,
            bytes: 0,
            max: READ_SET_MAX,
        }
    }
}

impl ReadSet {
    /// Remembers at most `count` keys and ranges, instead of [`READ_SET_MAX`].
    #[must_use]
    pub fn with_max(mut self, count: usize) -> Self {
        self.max = count;
        self
    }

    /// Adds a key.
    pub fn add_key(&mut self, table: TableId, key: &[u8]) {
        self.add(table, KeyRange::one(key));
    }

    /// Adds the keys between two bounds.
    ///
    /// # Errors
    /// As [`check_key`](crate::check_key), for the bounds.
    pub fn add_range(
        &mut self,
        table: TableId,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<()> {
        if let Some(range) = KeyRange::new(from, to)? {
            self.add(table, range);
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, table: TableId, range: KeyRange) {
        if self.everything {
            return;
        }
        let ranges = self.tables.entry(table).or_default();
        let (mut start, mut end) = (range.start, range.end);
        if let Some((first, until)) = ranges.range(..=start.clone()).next_back()
            && until.as_ref().is_none_or(|until| *until >= start)
        {
            if reaches(until.as_ref(), end.as_ref()) {
                return;
            }
            start = first.clone();
        }
        // Whatever begins inside, or where it ends, becomes part of it.
        let inside = |next: &Bytes| end.as_ref().is_none_or(|end| next <= end);
        let mut swallowed = Vec::new();
        for (next, until) in ranges
            .range(start.clone()..)
            .take_while(|(next, _)| inside(next))
        {
            swallowed.push((next.clone(), until.clone()));
        }
        for (next, until) in swallowed {
            ranges.remove(&next);
            self.count -= 1;
            self.bytes -= cost(&next, until.as_ref());
            if reaches(until.as_ref(), end.as_ref()) {
                end = until;
            }
        }
        self.count += 1;
        self.bytes += cost(&start, end.as_ref());
        ranges.insert(start, end);
        while self.count > self.max || self.bytes > READ_SET_BYTES_MAX {
            self.coarsen();
        }
    }

    /// Takes the table with the most ranges as read whole, or everything when none has several.
    fn coarsen(&mut self) {
        let most = self
            .tables
            .iter_mut()
            .max_by_key(|(_, ranges)| ranges.len());
        match most {
            Some((_, ranges)) if ranges.len() > 1 => {
                for (start, end) in std::mem::take(ranges) {
                    self.count -= 1;
                    self.bytes -= cost(&start, end.as_ref());
                }
                let KeyRange { start, end } = KeyRange::all();
                self.count += 1;
                self.bytes += cost(&start, end.as_ref());
                ranges.insert(start, end);
            }
            _ => {
                self.everything = true;
                self.tables.clear();
                (self.count, self.bytes) = (0, 0);
            }
        }
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && !self.everything
    }

    /// Number of keys and ranges remembered.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether a key counts as read.
    pub fn contains(&self, table: TableId, key: &[u8]) -> bool {
        self.everything
            || self
                .tables
                .get(&table)
                .is_some_and(|ranges| holds(ranges, key))
    }

    /// The ranges, as bounds of a map ordered by [`RowKey`]; `None` when everything counts.
    pub(super) fn ranges(&self) -> Option<impl Iterator<Item = (Bound<RowKey>, Bound<RowKey>)>> {
        let of_table = |(table, ranges): (&TableId, &'_ Ranges)| {
            let table = *table;
            let bounds = ranges.iter().map(move |(start, end)| {
                let (start, end) = (start.clone(), end.clone());
                KeyRange { start, end }.of_table(table)
            });
            bounds.collect::<Vec<_>>()
        };
        (!self.everything).then(|| self.tables.iter().flat_map(of_table))
    }
}

/// Whether a range that ends at `end` ends at or after one that ends at `other`.
fn reaches(end: Option<&Bytes>, other: Option<&Bytes>) -> bool {
    match (end, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(end), Some(other)) => end >= other,
    }
}

fn holds(ranges: &Ranges, key: &[u8]) -> bool {
    let below = (Bound::Unbounded, Bound::Included(key));
    let nearest = ranges.range::<[u8], _>(below).next_back();
    nearest.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < end.as_ref()))
}

/// What a range takes in memory, in bytes.
fn cost(start: &Bytes, end: Option<&Bytes>) -> usize {
    128 + start.len() + end.map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::RangeBounds;

    type Read = (TableId, Bound<Vec<u8>>, Bound<Vec<u8>>);

    fn read() -> impl Strategy<Value = Read> {
        let key = || prop::collection::vec(0u8..3, 1..4);
        let bound = move || {
            prop_oneof![
                1 => Just(Bound::Unbounded),
                3 => key().prop_map(Bound::Included),
                3 => key().prop_map(Bound::Excluded),
            ]
        };
        let one = (1..4u32, key());
        prop_oneof![
            2 => one.prop_map(|(t, k)| (t, Bound::Included(k.clone()), Bound::Included(k))),
            1 => (1..4u32, bound(), bound()),
        ]
    }

    fn slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
        bound.as_ref().map(Vec::as_slice)
    }

    proptest! {
        #[test]
        fn it_holds_just_what_was_read_and_at_a_bound_no_less(
            reads in prop::collection::vec(read(), 0..40),
            probes in prop::collection::vec((1..4u32, prop::collection::vec(0u8..3, 1..5)), 50),
            max in prop::sample::select(vec![1, 3, 1_000]),
        ) {
            let mut set = ReadSet::default().with_max(max);
            for (table, from, to) in &reads {
                set.add_range(*table, slice(from), slice(to)).unwrap();
                prop_assert!(set.count() <= max);
                let counted = set.tables.values().map(BTreeMap::len).sum::<usize>();
                prop_assert_eq!(set.count(), counted);
            }
            for (table, key) in probes {
                let inside = |(of, from, to): &Read| {
                    let bounds = (slice(from), slice(to));
                    *of == table && RangeBounds::<[u8]>::contains(&bounds, key.as_slice())
                };
                let was_read = reads.iter().any(inside);
                let held = set.contains(table, &key);
                prop_assert!(held == was_read || (held && max < 1_000));
                let row = (table, Bytes::from(key));
                let in_ranges = set.ranges().is_none_or(|mut all| all.any(|r| r.contains(&row)));
                prop_assert_eq!(in_ranges, held);
            }
        }
    }

    #[test]
    fn keys_read_one_after_the_other_are_one_range() {
        let mut set = ReadSet::default();
        let range = KeyRange::new(Bound::Included(b"a"), Bound::Unbounded)
            .unwrap()
            .unwrap();
        for n in 0..10_000u32 {
            set.add(1, range.upto(format!("b{n:05}").as_bytes()));
        }
        assert_eq!(set.count(), 1);
        assert!(set.contains(1, b"b00500") && !set.contains(1, b"c"));
    }

    #[test]
    fn long_keys_are_bounded_by_their_bytes() {
        let mut set = ReadSet::default();
        for n in 0..1_000u32 {
            let mut key = vec![7; 60_000];
            key[..4].copy_from_slice(&n.to_be_bytes());
            set.add_key(n % 2, &key);
            assert!(set.bytes <= READ_SET_BYTES_MAX);
        }
        assert!(set.contains(0, b"any") && set.contains(1, b"any") && !set.contains(2, b"any"));
    }
}
