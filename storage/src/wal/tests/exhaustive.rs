//! The log's promises, tried in every way that can be enumerated, on the simulated disk.
//!
//! Torn writes, cuts and flipped bits are tried against an oracle that computes the one right
//! answer from the undamaged log; failing calls, crashes and exchanged files against what was
//! acknowledged before. Everything is decided by a seed, and a failure prints it;
//! `MAINSTAY_SEED=n` replays one. By default the largest enumerations are sampled. All of it is
//!
//! ```text
//! MAINSTAY_EXHAUSTIVE=1 cargo test --release -p mainstay-storage exhaustive
//! ```

mod bench;
mod crashes;
mod damage;
mod directory;
mod faults;
mod files;
mod overlap;
mod rules;
mod scenario;
mod stage;
mod torn;

use std::time::SystemTime;

/// Whether everything is to be enumerated, however long that takes.
fn whole() -> bool {
    std::env::var_os("MAINSTAY_EXHAUSTIVE").is_some_and(|value| value != "0")
}

/// The seeds of a random test: `count` of them, or the one that is to be replayed.
fn seeds(count: u64) -> Vec<u64> {
    let replayed = std::env::var("MAINSTAY_SEED").ok();
    match replayed.and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count * if whole() { 20 } else { 1 }).collect(),
    }
}

/// Every how many-th case of a large enumeration is tried in the usual run. Odd, so that a stride
/// through the bits of a log meets every bit of a byte and every place in a sector.
const STRIDE: u64 = 9;

/// The number of the day, or what `MAINSTAY_SEED` says: the usual run differs from day to day.
fn day() -> u64 {
    let replayed = std::env::var("MAINSTAY_SEED").ok();
    let replayed = replayed.and_then(|seed| seed.parse::<u64>().ok());
    replayed.unwrap_or_else(|| {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        since.as_secs() / 86_400
    })
}

/// Which cases of a large enumeration are tried: from which one on, and every how many-th. The
/// usual run begins elsewhere every day and tells where.
fn sampled() -> (u64, usize) {
    if whole() {
        return (0, 1);
    }
    let start = day() % STRIDE;
    println!("every {STRIDE}th case, beginning at {start}");
    (start, STRIDE as usize)
}

/// How to see a failure of `test` again.
fn replay(test: &str, seed: u64) -> String {
    format!("replay: MAINSTAY_SEED={seed} cargo test -p mainstay-storage {test}")
}

/// A small generator: enough to choose samples and payloads.
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        // Some zeros, so that a zeroed sector does not always differ.
        (0..len).map(|_| (self.next() % 5 * 61) as u8).collect()
    }
}
