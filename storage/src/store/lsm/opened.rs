//! Opening the tree: how the library is set up, and what the directory turns out to hold.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lsm_tree::config::{CompressionPolicy, PinningPolicy};
use lsm_tree::{
    AbstractTree, AnyTree, Cache, CompressionType, Config, SeqNo, SequenceNumberCounter, Tree,
};

use super::LsmOptions;
use super::engine::StopMerges;
use super::fault::{convert, corrupt};
use super::keys::APPLIED;
use super::writer::END_MAX;
use crate::error::Result;
use crate::lsn::Lsn;

/// A tree as it was found on disk.
pub(super) struct Opened {
    pub(super) tree: Tree,
    pub(super) counter: SequenceNumberCounter,
    /// The tables hold everything up to here.
    pub(super) durable: Lsn,
}

impl Opened {
    /// Opens the tree in a directory that was checked and is locked.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt), disk errors.
    pub(super) fn open(dir: &Path, options: &LsmOptions, stop: &Arc<AtomicBool>) -> Result<Self> {
        let counter = SequenceNumberCounter::default();
        let cache = Arc::new(Cache::with_capacity_bytes(options.block_cache));
        let all = PinningPolicy::all;
        // Whole blocks, pinned: a factor of six for point reads when the cache is small.
        let config = Config::new(dir, counter.clone(), SequenceNumberCounter::default())
            .use_cache(cache)
            .index_block_partitioning_policy(all(false))
            .filter_block_partitioning_policy(all(false))
            .index_block_pinning_policy(all(true))
            .filter_block_pinning_policy(all(true))
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .with_compaction_filter_factory(Some(Arc::new(StopMerges(stop.clone()))));
        let opened = config.open().map_err(|error| convert("open", dir, error))?;
        let AnyTree::Standard(tree) = opened else {
            return Err(corrupt(dir, "it separates keys and values".to_owned()));
        };
        // The memtables are empty: what is read now is durable. Where the newest version is a
        // row that is set, it says where that is by itself; the writer sees to the rest.
        let row = position(&tree, dir, &APPLIED)?;
        let highest = tree.get_highest_persisted_seqno();
        if let Some(highest) = highest.filter(|highest| *highest >= END_MAX.get()) {
            return Err(corrupt(dir, format!("it holds version {highest}")));
        }
        let durable = highest.map_or(row, |highest| row.max(Lsn::new(highest + 1)));
        Ok(Self {
            tree,
            counter,
            durable,
        })
    }
}

fn position(tree: &Tree, dir: &Path, key: &[u8]) -> Result<Lsn> {
    let row = tree.get(key, SeqNo::MAX);
    let Some(row) = row.map_err(|error| convert("get", dir, error))? else {
        return Ok(Lsn::ZERO);
    };
    match <[u8; 8]>::try_from(&*row) {
        Ok(bytes) => Ok(Lsn::new(u64::from_le_bytes(bytes))),
        Err(_) => Err(corrupt(dir, "its position has a wrong size".to_owned())),
    }
}
