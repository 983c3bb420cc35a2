//! All that can be fuzzed, crate by crate. What a target does stands in the crate whose bytes it
//! takes in, in `src/fuzz.rs`.

use mainstay_storage::fuzz::Target;

/// Every target.
pub(crate) fn all() -> impl Iterator<Item = Target> {
    let storage = mainstay_storage::fuzz::TARGETS.into_iter();
    let replication = mainstay_replication::fuzz::TARGETS.into_iter();
    storage.chain(replication).chain(mainstay::fuzz::TARGETS)
}
