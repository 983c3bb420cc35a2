//! Writes that tear: every cut of the last segment, every subset of sectors of the last group.

use super::bench::{
    Bench, EVIDENCE, Evidence, Original, SEGMENTS, SIZE, Segments, check, recover, segment_path,
};
use super::{Dice, replay, seeds, whole};
use crate::disk::{CrashMode, Fill, SectorChoice, SimDisk};
use crate::lsn::Lsn;

/// Three flushed groups in the second segment of a log, the first of them noted durably.
fn three_groups() -> (Bench, Lsn) {
    let mut bench = Bench::new();
    bench.fill_until(96);
    bench.group(&[300, 61]);
    bench.checkpoint();
    let durable = bench.notes.flushed;
    bench.group(&[40, 0, 180]);
    bench.group(&[7, 120]);
    bench.group(&[33]);
    (bench, durable)
}

#[test]
fn a_log_cut_at_any_byte_keeps_what_is_proven_or_is_corrupt() {
    let (bench, durable) = three_groups();
    let original = Original::of(&bench.disk, 2);
    assert_eq!(original.end, bench.notes.flushed);
    let hint = bench.notes.flushed;
    let old = recycled();
    let mut dice = Dice(5);
    let garbage = (0..old.len())
        .map(|_| dice.next() as u8)
        .collect::<Vec<_>>();
    let (zeros, ones) = (vec![0; old.len()], vec![0xFF; old.len()]);
    let fills = [None, Some(zeros), Some(ones), Some(garbage), Some(old)];
    let mut outcomes = [0, 0];
    for evidence in EVIDENCE {
        for at in (0..original.used() + 40).chain([4096, 500_000, (1 << 20) - 1]) {
            for (n, fill) in fills.iter().enumerate() {
                let disk = bench.disk.copy();
                match fill {
                    None => disk.write_file(segment_path(2), &original.bytes[..at]),
                    Some(fill) => {
                        // Up to where the write ends that was cut off, or a little behind the log.
                        let end = original.used().max(at + 40).min(1 << 20);
                        disk.patch_file(segment_path(2), at as u64, &fill[at..end]);
                    }
                }
                let case = || format!("cut at byte {at}, what follows is fill {n}");
                let kept = check(&disk, &original, evidence, durable, hint, case);
                outcomes[usize::from(kept.is_none())] += 1;
            }
        }
    }
    assert!(outcomes.iter().all(|&count| count > 1000), "{outcomes:?}");
}

/// What a recycled segment holds: valid records of the same log, in another place.
pub(super) fn recycled() -> Vec<u8> {
    let mut bench = Bench::new();
    (0..6).for_each(|_| bench.fill_until(0));
    for size in [500, 100, 3000, 8, 0, 700, 2000, 64, 64, 900] {
        bench.group(&[size, 24]);
    }
    let mut bytes = bench.disk.read_file(segment_path(7));
    // The end of the file holds old log as well, where a group may cross into the next one.
    let tail = bytes.len() - 8192;
    let (head, end) = bytes.split_at_mut(tail);
    end.copy_from_slice(&head[..8192]);
    bytes
}

/// A group that was written and not synced when the machine stopped.
struct Unfinished {
    disk: SimDisk,
    /// The segment as it would have been.
    original: Original,
    durable: Lsn,
    flushed: Lsn,
    name: String,
}

/// Lays one group of `sizes` behind flushed log that leaves `left` bytes of the segment.
fn unfinished(sizes: &[usize], left: u64, kind: Segments, old: &[u8]) -> Unfinished {
    let mut bench = Bench::in_segments(kind, old);
    bench.group(&[200]);
    bench.checkpoint();
    let durable = bench.notes.flushed;
    if left < SIZE.bytes() / 2 {
        bench.fill_until(left);
    } else {
        bench.group(&[90]);
    }
    bench.group(sizes);
    let disk = bench.notes.unsynced.take().unwrap();
    let number = SIZE.segment_of(Lsn::new(bench.file.end.lsn.get() - 1));
    let original = Original::of(&disk, number);
    let last = original.records.last().unwrap();
    Unfinished {
        flushed: last.flushed_upto,
        original,
        durable,
        disk,
        name: format!("{sizes:?} left {left} in {kind:?} segments"),
    }
}

fn tear(torn: &Unfinished, keep: u64, fill: Fill, keep_size: bool, hints: bool, seed: u64) {
    let disk = torn.disk.copy();
    disk.reseed(seed);
    let path = segment_path(torn.original.number);
    disk.crash(CrashMode::Sectors(SectorChoice {
        path,
        keep,
        fill,
        keep_size,
        keep_rest: hints,
    }));
    let evidence = if hints {
        Evidence::Intact
    } else {
        Evidence::HintsLost
    };
    let case = || {
        let name = &torn.name;
        format!(
            "{name}: sectors {keep:b} kept, others {fill:?}, size kept {keep_size}, hints {hints}"
        )
    };
    let (original, flushed) = (&torn.original, torn.flushed);
    let kept = check(&disk, original, evidence, torn.durable, flushed, case);
    let kept = kept.unwrap_or_else(|| panic!("{}: a torn write was called damage", case()));
    assert!(kept >= flushed, "{}: lost flushed log", case());
    assert!(
        original
            .records
            .iter()
            .any(|record| record.end == kept || record.start == kept),
        "{}: the log ends inside a record",
        case()
    );
}

/// Tears one group in every way: each subset of its sectors arrives, with each fill for the others,
/// with the new size or the old one. Returns how many ways that were. Whether the watermarks and
/// other files survive goes by turns.
fn tear_all(torn: &Unfinished, kind: Segments) -> u64 {
    let path = segment_path(torn.original.number);
    let sectors = torn.disk.pending_sectors(&path);
    assert!((1..=12).contains(&sectors.len()), "{}", sectors.len());
    let synced = torn.disk.copy();
    synced.crash(CrashMode::LoseUnsynced);
    let grows = synced.read_file(&path).len() < torn.disk.read_file(&path).len();
    if kind == Segments::Extended && !grows {
        return 0; // What is left is a segment of zeros.
    }
    // Bytes that were zero before stay old and become zero alike.
    let fills = [Fill::Zero, Fill::Garbage, Fill::Ones, Fill::Old];
    let fills = &fills[..if kind == Segments::Recycled { 4 } else { 3 }];
    let sizes = if grows { &[true, false][..] } else { &[true] };
    let mut ways = 0;
    for keep in 0..1u64 << sectors.len() {
        for &fill in fills {
            for &keep_size in sizes {
                let hints = !(keep + ways).is_multiple_of(3);
                tear(torn, keep, fill, keep_size, hints, ways);
                ways += 1;
            }
        }
    }
    ways
}

#[test]
fn any_subset_of_the_sectors_of_an_unsynced_group_is_recovered() {
    let old = recycled();
    let groups: [&[usize]; 8] = [
        &[60],
        &[700, 10],
        &[0, 480, 1000],
        &[300, 8, 1500, 40],
        &[1024 - 32, 1024 - 32],
        &[2000, 24, 24, 600, 0],
        &[8, 8, 8, 8, 3900, 8],
        &[900, 900, 900, 900, 900, 600],
    ];
    let mut ways = 0;
    for sizes in groups {
        // In the middle of a segment, up to its very end, and over it into the next one.
        let exactly = sizes
            .iter()
            .map(|size| (size + 39) as u64 / 8 * 8)
            .sum::<u64>();
        let middle = SIZE.bytes();
        let all = [middle, 40, exactly, exactly + 24, exactly + 32];
        // The largest, of twelve sectors, is tried everywhere in the long run alone.
        let places = if whole() || exactly < 4096 { 5 } else { 2 };
        for &left in &all[..places] {
            for kind in SEGMENTS {
                ways += tear_all(&unfinished(sizes, left, kind, &old), kind);
            }
        }
    }
    println!("{ways} ways to tear a write");
    assert!(ways > 90_000, "{ways}");
}

#[test]
fn what_recovery_keeps_survives_the_next_power_cut() {
    // The process dies between write and sync, and the machine some time after the restart.
    let torn = unfinished(&[300, 40], SIZE.bytes(), Segments::Zeroed, &[]);
    let disk = torn.disk.copy();
    let kept = recover(&disk, Evidence::Intact).unwrap().end.lsn;
    assert_eq!(kept, torn.original.end);
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(recover(&disk, Evidence::Intact).unwrap().end.lsn, kept);
}

#[test]
fn random_crashes_amid_random_groups_lose_nothing_flushed() {
    let old = recycled();
    for seed in seeds(40) {
        let mut dice = Dice(seed);
        let kind = SEGMENTS[dice.below(4) as usize];
        let mut bench = Bench::in_segments(kind, &old);
        for _ in 0..=dice.below(4) {
            match dice.below(5) {
                0 => bench.fill_until(dice.below(8) * 8),
                1 => bench.checkpoint(),
                _ => {}
            }
            let sizes = (0..=dice.below(4)).map(|_| dice.below(3000) as usize);
            bench.group(&sizes.collect::<Vec<_>>());
        }
        let disk = bench.notes.unsynced.take().unwrap();
        let number = SIZE.segment_of(Lsn::new(bench.file.end.lsn.get() - 1));
        let original = Original::of(&disk, number);
        let flushed = original.records.last().unwrap().flushed_upto;
        let durable = bench.notes.control.get().watermark;
        disk.reseed(seed);
        disk.crash(if seed % 2 == 0 {
            CrashMode::Random
        } else {
            CrashMode::Nasty
        });
        let case = || replay("random_crashes_amid_random_groups", seed);
        let evidence = Evidence::HintsLost;
        let kept = check(&disk, &original, evidence, durable, flushed, case);
        assert!(kept.is_some_and(|kept| kept >= flushed), "{}", case());
    }
}
