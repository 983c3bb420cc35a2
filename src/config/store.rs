//! The store's sizes, as the command line, the environment and the file `[store]` say them.

use clap::Args;
use serde::Deserialize;

use super::{ConfigError, Size};
use crate::LsmOptions;

/// Tables smaller than this are too many.
const MEMTABLE_BYTES_MIN: u64 = 1 << 20;

/// What was said; the rest is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreSizes {
    /// Size at which memory is sealed and written out; several may wait for it [default: 48MiB]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_MEMTABLE_SIZE")]
    memtable_size: Option<Size>,
    /// Cache for what lies on disk [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_BLOCK_CACHE")]
    block_cache: Option<Size>,
    /// Log applied after a snapshot was opened from which on it ends [default: 16GiB]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_SNAPSHOT_AGE")]
    snapshot_age: Option<Size>,
    /// Memory that open snapshots may hold; beyond, the oldest end [default: 512MiB]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_SNAPSHOT_MEMORY")]
    snapshot_memory: Option<Size>,
}

impl StoreSizes {
    /// These, and where they say nothing, `other`.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            memtable_size: self.memtable_size.or(other.memtable_size),
            block_cache: self.block_cache.or(other.block_cache),
            snapshot_age: self.snapshot_age.or(other.snapshot_age),
            snapshot_memory: self.snapshot_memory.or(other.snapshot_memory),
        }
    }

    /// The defaults with these.
    ///
    /// # Errors
    /// When memory would be written out in too small parts.
    pub(super) fn settle(&self) -> Result<LsmOptions, ConfigError> {
        let defaults = LsmOptions::default();
        let or = |size: Option<Size>, default| size.map_or(default, |size| size.0);
        let memtable_bytes = or(self.memtable_size, defaults.memtable_bytes);
        if memtable_bytes < MEMTABLE_BYTES_MIN {
            let what = format!("store.memtable_size is {memtable_bytes} bytes; 1MiB is the least");
            return Err(ConfigError::Unusable(what));
        }
        Ok(LsmOptions {
            memtable_bytes,
            // Tables are cut as large as what is written out at once.
            table_bytes: defaults.table_bytes.min(memtable_bytes),
            block_cache: or(self.block_cache, defaults.block_cache),
            snapshot_age: or(self.snapshot_age, defaults.snapshot_age),
            snapshot_bytes: or(self.snapshot_memory, defaults.snapshot_bytes),
            ..defaults
        })
    }
}
