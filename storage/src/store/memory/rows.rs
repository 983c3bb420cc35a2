//! Rows in versions, and the versions' end.
//!
//! A row is the list of its versions by climbing position. A version that was superseded is kept
//! until the oldest readable position has passed its successor. This room knows positions only,
//! not who reads at them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::lsn::Lsn;
use crate::store::key::successor;
use crate::store::{KeyRange, RowKey, TableId};

/// Every version of every row that can still be read.
#[derive(Default)]
pub(super) struct VersionedRows {
    rows: BTreeMap<RowKey, Vec<(Lsn, Option<Bytes>)>>,
    /// Positions below it cannot be read.
    oldest: Lsn,
    /// By climbing position: the row whose versions before that position are superseded there.
    superseded: VecDeque<Superseded>,
    superseded_bytes: u64,
}

struct Superseded {
    at: Lsn,
    key: RowKey,
    bytes: u64,
}

impl VersionedRows {
    /// The rows of an image, readable from its position on.
    pub(super) fn of_image(image: &BTreeMap<RowKey, Bytes>, position: Lsn) -> Self {
        let row =
            |(key, value): (&RowKey, &Bytes)| (key.clone(), vec![(position, Some(value.clone()))]);
        Self {
            rows: image.iter().map(row).collect(),
            oldest: position,
            ..Self::default()
        }
    }

    /// The lowest position that can be read.
    pub(super) fn oldest(&self) -> Lsn {
        self.oldest
    }

    /// Adds a version; `at` is above those of all versions before.
    pub(super) fn insert(&mut self, key: &RowKey, at: Lsn, value: Option<Bytes>) {
        let versions = self.rows.entry(key.clone()).or_default();
        let last = versions.last().and_then(|(_, value)| value.as_ref());
        let bytes = last.map_or(0, |value| value.len()) + key.1.len();
        // A deletion too must be visited again: it leaves when nobody can see what was before.
        if !versions.is_empty() || value.is_none() {
            self.superseded_bytes += bytes as u64;
            self.superseded.push_back(Superseded {
                at,
                key: key.clone(),
                bytes: bytes as u64,
            });
        }
        versions.push((at, value));
    }

    /// The value of a row as of a readable position.
    pub(super) fn get(&self, key: &RowKey, at: Lsn) -> Option<Bytes> {
        visible(self.rows.get(key)?, at).cloned()
    }

    /// Copies up to `max` rows of a range into `into`, and returns the rest of the range, or
    /// `None` at its end.
    pub(super) fn scan(
        &self,
        table: TableId,
        range: KeyRange,
        at: Lsn,
        max: usize,
        into: &mut VecDeque<(Bytes, Bytes)>,
    ) -> Option<KeyRange> {
        for ((_, key), versions) in self.rows.range(range.of_table(table)) {
            if let Some(value) = visible(versions, at) {
                into.push_back((key.clone(), value.clone()));
            }
            if into.len() >= max {
                let start = successor(key);
                let end = range.end;
                return Some(KeyRange { start, end });
            }
        }
        None
    }

    /// Makes `needed` the oldest readable position, and drops what only older ones could see.
    pub(super) fn prune(&mut self, needed: Lsn) {
        self.oldest = self.oldest.max(needed);
        let oldest = self.oldest;
        while self
            .superseded
            .front()
            .is_some_and(|next| next.at <= oldest)
            && let Some(superseded) = self.superseded.pop_front()
        {
            self.superseded_bytes -= superseded.bytes;
            self.forget(&superseded.key);
        }
    }

    /// Raises the oldest readable position, at most to `upto`, until at most `bytes` of
    /// superseded versions are kept.
    pub(super) fn prune_to_size(&mut self, upto: Lsn, bytes: u64) {
        while self.superseded_bytes > bytes {
            match self.superseded.front() {
                Some(next) if next.at <= upto => self.prune(next.at),
                _ => return,
            }
        }
    }

    /// Drops the versions of a row that the oldest readable position does not see.
    fn forget(&mut self, key: &RowKey) {
        let Some(versions) = self.rows.get_mut(key) else {
            return;
        };
        let below = versions.partition_point(|(at, _)| *at <= self.oldest);
        let Some(newest) = below.checked_sub(1) else {
            return;
        };
        let deleted = versions[newest].1.is_none();
        versions.drain(..if deleted { below } else { newest });
        if versions.is_empty() {
            self.rows.remove(key);
        }
    }

    /// Number of rows and of versions kept.
    #[cfg(test)]
    pub(super) fn count(&self) -> (usize, usize) {
        (self.rows.len(), self.rows.values().map(Vec::len).sum())
    }
}

/// The newest version at or below `at`.
fn visible(versions: &[(Lsn, Option<Bytes>)], at: Lsn) -> Option<&Bytes> {
    let below = versions.partition_point(|(version, _)| *version <= at);
    versions[..below].last()?.1.as_ref()
}
