//! Bits that flip under a log at rest.

use super::bench::{Bench, EVIDENCE, Evidence, Original, check, segment_path};
use super::whole;
use crate::lsn::Lsn;

fn flip_all(evidence: Evidence, step: usize) {
    let mut bench = Bench::new(&[]);
    bench.group(&[20]);
    bench.checkpoint();
    let durable = bench.notes.flushed;
    for sizes in [&[13, 0][..], &[50], &[9, 30]] {
        bench.group(sizes);
    }
    let hint = bench.notes.flushed;
    let original = Original::of(&bench.disk, 1);
    let bits = (original.used() + 48) * 8;
    let mut corrupt = 0;
    for bit in (0..bits).step_by(step) {
        let disk = bench.disk.copy();
        disk.flip_bit(segment_path(1), bit as u64);
        let case = || format!("bit {bit} flipped");
        let kept = check(&disk, &original, evidence, durable, hint, case);
        if evidence == Evidence::Intact {
            let inside = bit < original.used() * 8;
            assert_eq!(kept.is_none(), inside, "bit {bit}");
        }
        corrupt += usize::from(kept.is_none());
        assert!(kept.unwrap_or(Lsn::MAX) >= durable);
    }
    assert!(corrupt > 100);
}

#[test]
fn any_flipped_bit_is_damage_while_the_watermarks_are_there() {
    flip_all(Evidence::Intact, 1);
}

#[test]
fn any_flipped_bit_below_the_marks_is_damage_when_the_watermarks_are_gone() {
    let step = if whole() { 1 } else { 3 };
    flip_all(EVIDENCE[1], step);
    flip_all(EVIDENCE[2], step);
}

#[test]
fn a_record_copied_to_any_other_place_is_never_taken_for_log() {
    let mut bench = Bench::new(&[]);
    bench.group(&[100, 32]);
    bench.group(&[100, 32]);
    let original = Original::of(&bench.disk, 1);
    for record in &original.records {
        let (from, to) = (original.offset(record.start), original.offset(record.end));
        for at in (0..original.used() + 256).step_by(8) {
            let disk = bench.disk.copy();
            disk.patch_file(segment_path(1), at as u64, &original.bytes[from..to]);
            let case = || format!("{from}..{to} copied to {at}");
            let (durable, hint) = (crate::SegmentSize::MIN.first_lsn(), bench.notes.flushed);
            check(&disk, &original, Evidence::Intact, durable, hint, case);
        }
    }
}
