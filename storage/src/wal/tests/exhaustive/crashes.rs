//! Power cuts after every single call to the disk.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::bench::{DIR, SIZE};
use super::scenario::{Plan, run};
use super::stage::{
    Recorder, State, create, entries, fill, flushed, leave, open, options, standby, stream,
    timeline,
};
use super::whole;
use crate::disk::{CrashMode, SimDisk};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::wal::segment::REST_MAX;
use crate::wal::{NewLog, Recovered, Wal};

const MODES: [CrashMode; 5] = [
    CrashMode::LoseUnsynced,
    CrashMode::KeepAll,
    CrashMode::Random,
    CrashMode::Nasty,
    CrashMode::Random,
];

/// Cuts the power in each of `states` in several ways, opens what is left, and lets `check` judge.
fn after_each(states: &[State], check: impl Fn(&str, &State, SimDisk)) {
    assert!(states.len() > 2, "nothing was recorded");
    let rounds = if whole() { 20 } else { 1 };
    for (n, state) in states.iter().enumerate() {
        for (m, mode) in (0..rounds).flat_map(|_| &MODES).enumerate() {
            let disk = state.disk.copy();
            let seed = (n * 100 + m) as u64;
            disk.reseed(seed);
            disk.crash(mode.clone());
            check(&format!("call {n}, {mode:?}, seed {seed}"), state, disk);
        }
    }
}

fn reopen(case: &str, disk: &SimDisk) -> (Wal, Recovered) {
    open(disk.clone()).unwrap_or_else(|error| panic!("{case}: {error}"))
}

/// Everything below what was acknowledged is there, the log goes on, and one more power cut changes
/// nothing.
fn holds(case: &str, state: &State, disk: SimDisk, all: &[(Lsn, Bytes)]) -> (Wal, Vec<Lsn>) {
    if whole() || state.number.is_multiple_of(2) {
        goes_on(case, disk.copy());
    }
    let (wal, _) = reopen(case, &disk);
    let found = entries(&wal);
    let oldest = wal.oldest();
    let expected = all.iter().filter(|(end, _)| *end > oldest);
    let expected = expected.take(found.len()).cloned().collect::<Vec<_>>();
    assert!(found == expected, "{case}: other entries");
    let end = found.last().map_or(Lsn::ZERO, |(end, _)| *end);
    let acknowledged = Lsn::new(state.acknowledged);
    assert!(end >= acknowledged, "{case}: {end} of {acknowledged} left");
    drop(wal);
    disk.crash(CrashMode::LoseUnsynced);
    let (wal, _) = reopen(case, &disk);
    assert!(
        entries(&wal) == found,
        "{case}: the second power cut took something"
    );
    (wal, found.into_iter().map(|(end, _)| end).collect())
}

/// What is written from here on, into the next segment, is there after a power cut as well.
fn goes_on(case: &str, disk: SimDisk) {
    let (wal, _) = reopen(case, &disk);
    fill(&wal, 6, 200_000);
    let all = entries(&wal);
    drop(wal);
    disk.crash(CrashMode::LoseUnsynced);
    assert!(
        entries(&reopen(case, &disk).0) == all,
        "{case}: goes on otherwise"
    );
}

#[test]
fn a_power_cut_after_any_call_in_the_life_of_a_log_takes_back_nothing_that_was_answered() {
    let calls = run(&Plan::default());
    for k in 0..=calls {
        let rounds = if whole() { 10 } else { 1 };
        let modes = (0..rounds).flat_map(|_| MODES).collect();
        let power = Some(k);
        run(&Plan {
            power,
            modes,
            ..Plan::default()
        });
    }
    println!("the power was cut after each of {calls} calls");
    assert!(calls > 300, "only {calls} calls");
}

#[test]
fn an_interrupted_creation_leaves_nothing_or_a_log() {
    let disk = SimDisk::new(1);
    let recorder = Recorder::new(disk);
    let wal = create(recorder.clone());
    drop(wal);
    after_each(&recorder.take(), |case, _, disk| {
        let create = || {
            let new = NewLog::new_cluster(SIZE);
            Wal::create(Arc::new(disk.clone()), Path::new(DIR), new, &options())
        };
        let wal = match create() {
            Ok(wal) => wal,
            Err(Error::Invalid(_)) => reopen(case, &disk).0,
            Err(error) => panic!("{case}: {error}"),
        };
        let end = flushed(&wal, "works");
        drop(wal);
        disk.crash(CrashMode::LoseUnsynced);
        assert_eq!(reopen(case, &disk).1.end, end, "{case}");
    });
}

#[test]
fn segments_roll_checkpoint_and_recycle_without_losing_anything() {
    let disk = SimDisk::new(1);
    let recorder = Recorder::new(disk);
    let wal = create(recorder.clone());
    recorder.take();
    let mut all = Vec::new();
    for n in 0..14u8 {
        let payload = Bytes::from(vec![n; if n % 3 == 0 { 40 } else { 240_000 }]);
        let end = flushed(&wal, payload.clone());
        recorder.acknowledge(end.get());
        all.push((end, payload));
        if n % 4 == 3 {
            wal.checkpoint(end).unwrap();
            wal.remove_below(end).unwrap();
        }
    }
    wal.close().unwrap();
    drop(wal);
    after_each(&recorder.take(), |case, state, disk| {
        holds(case, state, disk, &all);
    });
}

/// Bytes at a segment's end that are no record: a log that ends before them must not have been
/// called flushed behind them.
#[test]
fn what_was_called_flushed_at_a_segment_s_end_is_there_after_a_power_cut() {
    for left in [0, 8, 16, REST_MAX / 8 * 8, REST_MAX / 8 * 8 + 8, 200] {
        let recorder = Recorder::new(SimDisk::new(1));
        let primary = create(SimDisk::new(2));
        leave(&primary, left);
        flushed(&primary, "the next segment's first");
        let standby = standby(&primary, recorder.clone());
        recorder.take();
        let shown = standby.flushed().clone();
        recorder.acknowledge_what_says(move || shown.get().get());
        stream(&primary, &standby);
        let wanted = standby.flushed().get();
        let states = recorder.take();
        assert!(states.iter().any(|state| state.acknowledged > 0));
        after_each(&states, |case, state, disk| {
            let (wal, found) = reopen(case, &disk);
            let before = Lsn::new(state.acknowledged);
            assert!(
                found.end >= before,
                "{left} left, {case}: {} of {before}",
                found.end
            );
            stream(&primary, &wal);
            assert_eq!(wal.flushed().get(), wanted, "{left} left, {case}");
        });
    }
}

#[test]
fn an_interrupted_promotion_leaves_the_old_timeline_or_the_new_one() {
    for left in [SIZE.bytes() / 2, 0, 8] {
        let disk = SimDisk::new(1);
        let recorder = Recorder::new(disk);
        let wal = create(recorder.clone());
        leave(&wal, left);
        let end = flushed(&wal, "before");
        let before = entries(&wal);
        recorder.take();
        recorder.acknowledge(end.get());
        let fork = wal.open_timeline(timeline(2, 5), "test").unwrap();
        assert_eq!(fork, end);
        drop(wal);
        after_each(&recorder.take(), |case, state, disk| {
            let (wal, _) = holds(case, state, disk.clone(), &before);
            let number = wal.timeline().number;
            assert!(number == 1 || wal.timeline() == timeline(2, 5), "{case}");
            // Whichever it is goes on, into the next segment, and is promoted after all: this
            // time with the fork elsewhere.
            fill(&wal, 6, 200_000);
            let rival = timeline(number + 1, 9);
            wal.open_timeline(rival, "again").unwrap();
            flushed(&wal, "on the rival");
            let after = entries(&wal);
            drop(wal);
            disk.crash(CrashMode::LoseUnsynced);
            let (wal, _) = reopen(case, &disk);
            assert_eq!(wal.timeline(), rival, "{case}");
            assert!(entries(&wal) == after, "{case}");
        });
    }
}

/// A primary that was promoted to timeline 2, a rival that was too, and what both had before.
fn rivals(recorder: &Recorder) -> (Wal, Wal, Lsn) {
    let winner = create(SimDisk::new(2));
    for n in 0..3 {
        flushed(&winner, vec![n; 240_000]);
    }
    let loser = standby(&winner, recorder.clone());
    stream(&winner, &loser);
    let fork = winner.open_timeline(timeline(2, 1), "won").unwrap();
    loser.advance_commit(fork);
    loser.open_timeline(timeline(2, 2), "lost").unwrap();
    // Small ones first: flushed one by one, each is a mark that the earlier ones were.
    fill(&loser, 9, 700);
    for n in 0..7 {
        flushed(&winner, vec![10 + n; 200_000]);
        loser
            .append(&[super::stage::put(vec![20 + n; 190_000])])
            .unwrap();
    }
    loser
        .flushed()
        .wait_blocking(loser.appended(), Some(super::stage::DEADLINE))
        .unwrap();
    (winner, loser, fork)
}

#[test]
fn an_interrupted_cut_can_be_repeated() {
    let recorder = Recorder::new(SimDisk::new(1));
    let (winner, loser, fork) = rivals(&recorder);
    let all = entries(&loser);
    recorder.take();
    recorder.acknowledge(fork.get());
    assert!(loser.cut(fork).unwrap().is_some());
    let mut states = recorder.take();
    // What was cut does not come back once that is done.
    for mode in MODES {
        let disk = states.last().expect("it was written").disk.copy();
        disk.crash(mode.clone());
        let (_, found) = reopen("cut", &disk);
        assert_eq!(found.end, fork, "{mode:?}");
    }
    drop(loser);
    // The moment after it counts as well, whenever the power is cut.
    states.extend(recorder.take());
    after_each(&states, |case, state, disk| {
        let (wal, _) = holds(case, state, disk.clone(), &all);
        wal.set_commit_follows(false);
        wal.cut(fork).unwrap();
        wal.adopt_history(&winner.history()).unwrap();
        stream(&winner, &wal);
        drop(wal);
        disk.crash(CrashMode::LoseUnsynced);
        let (wal, _) = reopen(case, &disk);
        assert!(entries(&wal) == entries(&winner), "{case}");
    });
}

#[test]
fn an_interrupted_change_of_sides_leaves_either_history() {
    let recorder = Recorder::new(SimDisk::new(1));
    let (winner, loser, fork) = rivals(&recorder);
    loser.cut(fork).unwrap();
    let all = entries(&loser);
    recorder.take();
    recorder.acknowledge(fork.get());
    loser.adopt_history(&winner.history()).unwrap();
    let states = recorder.take();
    drop(loser);
    after_each(&states, |case, state, disk| {
        let (wal, _) = holds(case, state, disk.clone(), &all);
        let known = [timeline(2, 1), timeline(2, 2)].contains(&wal.timeline());
        assert!(known, "{case}: {}", wal.timeline());
        wal.set_commit_follows(false);
        wal.adopt_history(&winner.history()).unwrap();
        stream(&winner, &wal);
        drop(wal);
        disk.crash(CrashMode::LoseUnsynced);
        let (wal, _) = reopen(case, &disk);
        assert!(entries(&wal) == entries(&winner), "{case}");
    });
}

#[test]
fn a_recovery_that_is_interrupted_is_repeated() {
    let disk = SimDisk::new(1);
    let recorder = Recorder::new(disk);
    let wal = create(recorder.clone());
    let mut all = Vec::new();
    for n in 0..6u8 {
        recorder.take();
        let payload = Bytes::from(vec![n; 220_000]);
        let end = flushed(&wal, payload.clone());
        recorder.acknowledge(end.get());
        all.push((end, payload));
    }
    drop(wal);
    let torn = recorder.take();
    for (n, state) in torn.iter().enumerate() {
        for seed in 0..4 {
            let disk = state.disk.copy();
            disk.reseed(seed);
            disk.crash(CrashMode::Random);
            let recorder = Recorder::new(disk.clone());
            recorder.acknowledge(state.acknowledged);
            drop(open(recorder.clone()).unwrap());
            after_each(&recorder.take(), |case, state, disk| {
                holds(&format!("after call {n}, {case}"), state, disk, &all);
            });
        }
    }
}
