//! Log that is sent to a standby while the primary's own flush still runs, and power cuts then.
//!
//! The standby has each group flushed before the primary even writes it, which is as far ahead as
//! it can get. At that moment either node may lose its power, or both.

use std::sync::Arc;

use parking_lot::Mutex;

use super::bench::SIZE;
use super::stage::{
    Recorder, create, entries, fill, open, put, standby, stream, stream_to, timeline,
};
use super::{Dice, replay, seeds};
use crate::disk::{CrashMode, SimDisk};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::wal::Wal;

/// Both disks at one moment, and what was committed by then.
struct Moment {
    primary: SimDisk,
    standby: SimDisk,
    committed: Lsn,
}

/// A primary that sends its log before it is flushed here, and the moments at which it did.
fn run(seed: u64) -> Vec<Moment> {
    let (here, there) = (SimDisk::new(seed), SimDisk::new(seed + 1));
    let recorder = Recorder::new(here.clone());
    let primary = create(recorder.clone());
    primary.set_commit_follows(false);
    let follower = standby(&primary, there.clone());
    let moments = Arc::new(Mutex::new(Vec::new()));
    let (seen, sender, receiver) = (moments.clone(), primary.clone(), follower.clone());
    let dice = Mutex::new(Dice(seed));
    recorder.before_write(move || {
        let (flushed, sealed) = (sender.flushed().get(), sender.sealed().get());
        assert!(flushed < sealed, "nothing is ahead of the flush");
        let early = dice.lock().below(4) > 0;
        if early {
            sender.allow_overlap().unwrap();
        }
        stream_to(if early { sealed } else { flushed }, &sender, &receiver);
        // What both have flushed is committed, and told.
        let committed = flushed.min(receiver.flushed().get());
        sender.advance_commit(committed);
        receiver.advance_commit(committed);
        seen.lock().push(Moment {
            primary: here.copy(),
            standby: there.copy(),
            committed,
        });
    });
    let mut dice = Dice(seed + 2);
    for _ in 0..12 {
        let (count, len) = (1 + dice.below(5), dice.below(120_000));
        let len = usize::try_from(len).unwrap();
        let group = (0..count).map(|_| put(dice.bytes(len))).collect::<Vec<_>>();
        let end = primary.append(&group).unwrap().end;
        primary.flushed().wait_blocking(end, None).unwrap();
    }
    drop((primary, follower));
    std::mem::take(&mut *moments.lock())
}

/// Goes on with what is left of both nodes as the product does; says whether the standby had been
/// ahead.
fn go_on(case: &str, primary: &Wal, follower: &Wal, committed: Lsn) -> bool {
    follower.set_commit_follows(false);
    primary.set_commit_follows(false);
    let (end, theirs) = (primary.appended(), follower.appended());
    assert!(
        end >= committed,
        "{case}: {committed} is committed, {end} is left"
    );
    assert!(
        theirs >= committed,
        "{case}: the standby has {theirs} of {committed}"
    );
    let kept = committed_of(follower, committed);
    assert!(
        committed_of(primary, committed) == kept,
        "{case}: different committed log"
    );
    let ahead = theirs > end;
    assert!(
        !ahead || primary.must_begin_timeline(),
        "{case}: nothing noted that log was sent early"
    );
    if primary.must_begin_timeline() {
        let refused = primary.append(&[put("in the old timeline")]);
        assert!(
            matches!(refused, Err(Error::Behind { .. })),
            "{case}: {refused:?}"
        );
        let fork = primary.open_timeline(timeline(2, 7), "went on").unwrap();
        assert_eq!(fork, end, "{case}");
    }
    fill(primary, 5, 60_000);
    if ahead {
        follower
            .cut(end)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
    }
    if primary.timeline() != follower.timeline() {
        follower.adopt_history(&primary.history()).unwrap();
    }
    stream(primary, follower);
    assert!(
        entries(follower) == entries(primary),
        "{case}: the nodes differ"
    );
    assert!(
        committed_of(follower, committed) == kept,
        "{case}: committed log vanished"
    );
    ahead
}

fn committed_of(wal: &Wal, committed: Lsn) -> Vec<(Lsn, bytes::Bytes)> {
    let all = entries(wal).into_iter();
    all.take_while(|(end, _)| *end <= committed).collect()
}

#[test]
fn a_standby_that_got_log_before_the_primary_flushed_it_comes_back_to_one_log() {
    let test = "a_standby_that_got_log_before";
    let (mut ahead, mut rolled) = (0, false);
    for seed in seeds(6) {
        let moments = run(seed);
        for (n, moment) in moments.iter().enumerate() {
            let modes = [
                CrashMode::LoseUnsynced,
                CrashMode::Random,
                CrashMode::KeepAll,
            ];
            for (m, mode) in modes.into_iter().enumerate() {
                let case = format!("moment {n}, {mode:?}; {}", replay(test, seed));
                let (here, there) = (moment.primary.copy(), moment.standby.copy());
                here.reseed(seed * 1_000 + n as u64);
                here.crash(mode);
                if m == 1 {
                    there.crash(CrashMode::LoseUnsynced);
                } else {
                    // A process that ends keeps what the system has.
                    there.crash(CrashMode::KeepAll);
                }
                let primary = open(here)
                    .unwrap_or_else(|error| panic!("{case}: {error}"))
                    .0;
                let follower = open(there)
                    .unwrap_or_else(|error| panic!("{case}: {error}"))
                    .0;
                ahead += usize::from(go_on(&case, &primary, &follower, moment.committed));
                rolled |= SIZE.segment_of(primary.appended()) > SIZE.segment_of(primary.oldest());
            }
        }
    }
    assert!(ahead > 20, "the standby was ahead {ahead} times only");
    assert!(rolled, "no segment was begun");
}

#[test]
fn a_log_that_was_closed_properly_needs_no_new_timeline() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    wal.allow_overlap().unwrap();
    fill(&wal, 3, 100);
    assert!(wal.overlaps() && !wal.must_begin_timeline());
    wal.close().unwrap();
    drop(wal);
    let (wal, _) = open(disk.clone()).unwrap();
    assert!(!wal.overlaps() && !wal.must_begin_timeline());
    wal.allow_overlap().unwrap();
    drop(wal);
    disk.crash(CrashMode::LoseUnsynced);
    // However often it crashes, or is closed, before it goes on.
    for close in [false, true, false] {
        let (wal, _) = open(disk.clone()).unwrap();
        assert!(wal.overlaps() && wal.must_begin_timeline());
        if close {
            wal.close().unwrap();
        }
        drop(wal);
        disk.crash(CrashMode::LoseUnsynced);
    }
    let (wal, _) = open(disk.clone()).unwrap();
    wal.open_timeline(timeline(2, 7), "went on").unwrap();
    assert!(wal.overlaps() && !wal.must_begin_timeline());
    fill(&wal, 1, 100);
    wal.close().unwrap();
    drop(wal);
    assert!(!open(disk).unwrap().0.must_begin_timeline());
}
