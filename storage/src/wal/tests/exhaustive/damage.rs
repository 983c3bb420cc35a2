//! Bits that flip under a log at rest.

use super::bench::{Bench, EVIDENCE, Evidence, Original, SIZE, check, segment_path};
use super::torn::recycled;
use super::{Dice, STRIDE, day, replay, sampled, whole};
use crate::disk::SimDisk;
use crate::lsn::Lsn;

const LOG_BYTES: usize = 64 << 10;
const SECTOR: usize = 512;

/// A log of 64 KiB in three flushed groups, the first of them noted durably.
struct AtRest {
    disk: SimDisk,
    original: Original,
    durable: Lsn,
    flushed: Lsn,
    /// Where the second group ends: marks in the third prove it.
    marked: Lsn,
    /// Of each damage that was tried, whether the log was called damaged, or cut.
    corrupt: u64,
    cut: u64,
}

impl AtRest {
    fn new() -> Self {
        let mut bench = Bench::new();
        let mut dice = Dice(11);
        // Payloads from nothing up to several sectors, in groups of about a third of the log.
        let mut sizes = |bytes: usize| {
            let mut left = bytes;
            std::iter::from_fn(|| {
                let size = [0, 7, 60, 300, 512, 900, 2200][dice.below(7) as usize];
                left = left.checked_sub(size + 40)?;
                Some(size)
            })
            .collect::<Vec<_>>()
        };
        bench.group(&sizes(21_000));
        bench.checkpoint();
        let durable = bench.notes.flushed;
        bench.group(&sizes(22_000));
        let marked = bench.notes.flushed;
        let mut last = sizes(20_000);
        let used = SIZE.offset_of(marked) as usize;
        let taken = last.iter().map(|size| (size + 39) / 8 * 8).sum::<usize>();
        last.push(LOG_BYTES - used - taken - 32);
        bench.group(&last);
        let original = Original::of(&bench.disk, 1);
        assert_eq!(original.used(), LOG_BYTES);
        Self {
            disk: bench.disk.copy(),
            original,
            durable,
            flushed: bench.notes.flushed,
            marked,
            corrupt: 0,
            cut: 0,
        }
    }

    /// Recovers what `change` made of the log: by one kind of evidence, which goes by turns, or in
    /// the long run by each.
    fn try_with(&mut self, test: &str, case: String, change: impl Fn(&SimDisk)) {
        // Another one for the same case when it is its day again.
        let turn = (self.corrupt + self.cut + day() / STRIDE) as usize % EVIDENCE.len();
        for (n, evidence) in EVIDENCE.into_iter().enumerate() {
            if !whole() && n != turn {
                continue;
            }
            let disk = self.disk.copy();
            change(&disk);
            let case = || format!("{case}; {}", replay(test, day()));
            let (original, hint) = (&self.original, self.flushed);
            let kept = check(&disk, original, evidence, self.durable, hint, case);
            match kept {
                None => self.corrupt += 1,
                Some(_) => self.cut += 1,
            }
            // Whatever the oracle thinks of the marks: damage this small leaves one in the third
            // group, which proves the second.
            let proven = match evidence {
                Evidence::Intact => self.flushed,
                Evidence::HintsLost => self.marked,
                Evidence::Standby => self.durable,
            };
            assert!(kept.unwrap_or(Lsn::MAX) >= proven, "{}", case());
        }
    }

    fn done(self, least: u64) {
        let (corrupt, cut) = (self.corrupt, self.cut);
        println!("{corrupt} times damage, {cut} times a torn write");
        assert!(corrupt.min(cut) > least, "{corrupt} {cut}");
    }
}

#[test]
fn any_flipped_bit_is_damage_where_the_log_is_proven_and_a_torn_write_elsewhere() {
    let mut log = AtRest::new();
    let (start, step) = sampled();
    for bit in (start..LOG_BYTES as u64 * 8).step_by(step) {
        let flip = |disk: &SimDisk| disk.flip_bit(segment_path(1), bit);
        log.try_with("any_flipped_bit", format!("bit {bit} flipped"), flip);
    }
    log.done(10_000);
}

#[test]
fn any_byte_that_became_all_zeros_or_ones_is_never_taken_for_log() {
    let mut log = AtRest::new();
    let (start, step) = sampled();
    for at in (start..LOG_BYTES as u64).step_by(step) {
        for byte in [0x00, 0xFF] {
            let patch = |disk: &SimDisk| disk.patch_file(segment_path(1), at, &[byte]);
            let case = format!("byte {at} became {byte:02X}");
            log.try_with("any_byte_that_became", case, patch);
        }
    }
    log.done(1_000);
}

/// Sectors that hold other bytes, by number.
type Pieces = Vec<(usize, Vec<u8>)>;

/// What may become of whole sectors, each with its name.
fn sector_damage(log: &[u8], old: &[u8], garbage: &[u8]) -> Vec<(String, Pieces)> {
    let sectors = LOG_BYTES / SECTOR;
    let of = |bytes: &[u8], n: usize| bytes[n * SECTOR..(n + 1) * SECTOR].to_vec();
    let mut all = Vec::new();
    for n in 0..sectors {
        for (what, bytes) in [
            ("zeroed", vec![0; SECTOR]),
            ("all ones", vec![0xFF; SECTOR]),
            ("garbage", of(garbage, n)),
            ("stale", of(old, n)),
        ] {
            all.push((format!("sector {n} {what}"), vec![(n, bytes)]));
        }
        for m in (0..sectors).filter(|&m| m != n) {
            let (here, there) = (of(log, n), of(log, m));
            if n < m {
                let swapped = vec![(n, there), (m, here.clone())];
                all.push((format!("sectors {n} and {m} swapped"), swapped));
            }
            let copied = vec![(m, here.clone())];
            all.push((format!("sector {n} copied over {m}"), copied));
            let astray = vec![(n, of(old, n)), (m, here)];
            all.push((format!("sector {n} written to {m} instead"), astray));
        }
    }
    all
}

#[test]
fn sectors_that_are_lost_stale_swapped_or_misdirected_are_never_taken_for_log() {
    let mut log = AtRest::new();
    let old = recycled();
    let mut dice = Dice(13);
    let garbage = (0..LOG_BYTES)
        .map(|_| dice.next() as u8)
        .collect::<Vec<_>>();
    let all = sector_damage(&log.original.bytes, &old, &garbage);
    let (start, step) = sampled();
    for (case, pieces) in all.iter().skip(start as usize).step_by(step) {
        let patch = |disk: &SimDisk| {
            for (sector, bytes) in pieces {
                disk.patch_file(segment_path(1), (sector * SECTOR) as u64, bytes);
            }
        };
        log.try_with("sectors_that_are_lost", case.clone(), patch);
    }
    log.done(500);
}

#[test]
fn what_lies_behind_the_end_of_the_log_is_cut_off_and_nothing_else() {
    let log = AtRest::new();
    for evidence in EVIDENCE {
        for bit in LOG_BYTES as u64 * 8..(LOG_BYTES as u64 + 48) * 8 {
            let disk = log.disk.copy();
            disk.flip_bit(segment_path(1), bit);
            let case = || format!("bit {bit} flipped behind the end");
            let original = &log.original;
            let kept = check(&disk, original, evidence, log.durable, log.flushed, case);
            assert_eq!(kept, Some(log.flushed), "bit {bit}");
        }
    }
}

#[test]
fn a_record_copied_to_any_other_place_is_never_taken_for_log() {
    let mut bench = Bench::new();
    bench.group(&[100, 32]);
    bench.group(&[100, 32]);
    let original = Original::of(&bench.disk, 1);
    for record in &original.records {
        let (from, to) = (original.offset(record.start), original.offset(record.end));
        for at in (0..original.used() + 256).step_by(8) {
            let disk = bench.disk.copy();
            disk.patch_file(segment_path(1), at as u64, &original.bytes[from..to]);
            let case = || format!("{from}..{to} copied to {at}");
            let (durable, hint) = (SIZE.first_lsn(), bench.notes.flushed);
            check(&disk, &original, Evidence::Intact, durable, hint, case);
        }
    }
}
