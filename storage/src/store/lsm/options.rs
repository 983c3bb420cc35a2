//! The store's sizes and limits.

use crate::error::{Error, Result};

/// Level 0 is written with one byte for its length; far below that, it is slow to read.
const LEVEL0_MAX: usize = 200;

/// Sizes and limits of a store. They may differ from one opening to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LsmOptions {
    /// Size in bytes at which a memtable is sealed. A transaction with more than this many bytes
    /// of keys and values is written to tables at once.
    pub memtable_bytes: u64,
    /// How many sealed memtables may wait; the next insert that needs one waits too.
    pub sealed_max: usize,
    /// Cache for blocks of tables, in bytes.
    pub block_cache: u64,
    /// Size in bytes at which merged tables are cut.
    pub table_bytes: u64,
    /// Tables in level 0 from which on they are merged into level 1, which holds as many of
    /// `table_bytes` before it is merged further. More cost a read a little each, and make merges
    /// fewer and longer.
    pub level0_merge: u8,
    /// Runs in level 0 from which on each insert pauses for a moment.
    pub level0_slow: usize,
    /// Runs in level 0 from which on nothing is flushed; memory fills up, and inserts wait.
    pub level0_stop: usize,
    /// How far the applied position may be ahead of an open snapshot, in bytes of log. A snapshot
    /// that is older ends at the next flush or merge. Age is measured in log because an old
    /// snapshot of a store that nobody writes costs nothing.
    pub snapshot_age: u64,
    /// How many bytes of flushed memtables open snapshots may hold in memory; beyond, the oldest
    /// end at the next flush or merge.
    pub snapshot_bytes: u64,
}

impl Default for LsmOptions {
    fn default() -> Self {
        Self {
            memtable_bytes: 48 << 20,
            sealed_max: 4,
            block_cache: 64 << 20,
            table_bytes: 64 << 20,
            level0_merge: 8,
            level0_slow: 16,
            level0_stop: 24,
            snapshot_age: 16 << 30,
            snapshot_bytes: 512 << 20,
        }
    }
}

impl LsmOptions {
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::Invalid(format!("store options: {why}")));
        if self.memtable_bytes == 0 || self.table_bytes == 0 || self.sealed_max == 0 {
            return refuse("memtable_bytes, table_bytes and sealed_max must be above zero");
        }
        if self.level0_stop > LEVEL0_MAX || self.level0_stop < 8 {
            return refuse("level0_stop must lie between 8 and 200");
        }
        if self.level0_slow > self.level0_stop {
            return refuse("level0_slow must not be above level0_stop");
        }
        if self.level0_merge == 0 || usize::from(self.level0_merge) > self.level0_stop {
            // Above, nothing would ever be flushed again.
            return refuse("level0_merge must lie between 1 and level0_stop");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_would_never_flush_or_merge_are_refused() {
        let with = |merge, slow, stop| LsmOptions {
            level0_merge: merge,
            level0_slow: slow,
            level0_stop: stop,
            ..LsmOptions::default()
        };
        for (good, options) in [
            (true, LsmOptions::default()),
            (true, with(1, 8, 8)),
            (true, with(8, 8, 8)),
            (true, with(200, 200, LEVEL0_MAX)),
            (false, with(0, 8, 8)),
            (false, with(9, 8, 8)),
            (false, with(4, 9, 8)),
            (false, with(4, 4, 7)),
            (false, with(4, 4, LEVEL0_MAX + 1)),
        ] {
            assert_eq!(options.check().is_ok(), good, "{options:?}");
        }
        for empty in [
            LsmOptions {
                memtable_bytes: 0,
                ..LsmOptions::default()
            },
            LsmOptions {
                table_bytes: 0,
                ..LsmOptions::default()
            },
            LsmOptions {
                sealed_max: 0,
                ..LsmOptions::default()
            },
        ] {
            assert!(empty.check().is_err(), "{empty:?}");
        }
    }
}
