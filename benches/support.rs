//! What the benchmarks share: logs on the real disk, kept short, and percentiles.
//!
//! Everything lies in a temporary directory, so `TMPDIR` chooses the disk that is measured.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_storage::{Change, NewLog, OsDisk, SegmentSize, Wal, WalEntry, WalOptions};

/// The table that all rows go to.
pub(crate) const TABLE: u32 = 1;

/// A new, empty log in `dir`.
pub(crate) fn new_log(dir: &Path) -> Wal {
    let options = WalOptions::new(|| 0);
    let new = NewLog::new_cluster(SegmentSize::DEFAULT);
    Wal::create(Arc::new(OsDisk), dir, new, &options).expect("an empty directory takes a log")
}

/// Gives back what is flushed, as a node does that has checkpointed its store.
pub(crate) fn trim(wal: &Wal) {
    let flushed = wal.flushed().get();
    wal.checkpoint(flushed).expect("the disk works");
    wal.remove_below(flushed).expect("the disk works");
}

/// A value of `len` bytes. Nothing on its way compresses.
pub(crate) fn value(len: usize) -> Bytes {
    vec![7; len].into()
}

/// The change that puts row `number` with a value of `len` bytes, as an entry of transaction `tx`.
pub(crate) fn row(number: u64, value: &Bytes, tx: Option<u64>) -> WalEntry {
    // Spread over the key space, and the same in every run.
    let key = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    let change = Change::put(TABLE, key.to_vec(), value.clone());
    WalEntry::new(change.entry_type(), tx, change.encode())
}

/// Prints the percentiles that criterion does not show.
pub(crate) fn print_percentiles(what: &str, samples: &mut [Duration]) {
    samples.sort_unstable();
    let Some(last) = samples.len().checked_sub(1) else {
        return;
    };
    let mut line = String::new();
    for (name, of) in [("p50", 50), ("p99", 99), ("p99.9", 999)] {
        let at = if of > 100 {
            last * of / 1000
        } else {
            last * of / 100
        };
        let _ = write!(line, "  {name} {:.2?}", samples[at]);
    }
    let _ = write!(line, "  max {:.2?}", samples[last]);
    eprintln!("{what}: {} samples{line}", samples.len());
}
