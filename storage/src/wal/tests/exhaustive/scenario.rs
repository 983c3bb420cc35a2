//! The life of a log, and what it promised to whom while its disk failed.
//!
//! Everything that changes the directory of a log happens once: creation, appends, new segments,
//! checkpoint, slots, promises, removal, a new timeline, a cut, a rewind, another's history, the
//! mark on the store, closing and opening again. Any step may fail; what matters is what was
//! answered.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;

use super::bench::{DIR, SIZE, WAL};
use super::stage::{DEADLINE, entries, flushed, open, options, put, timeline};
use crate::disk::{CrashMode, Disk, DiskCall, DiskFault, DiskOp, SimDisk};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::timeline::Timeline;
use crate::wal::{BrokenMark, NewLog, Wal, WalOptions};

/// What befalls the disk of a scenario.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    /// The scenario's log has threads; otherwise each run makes the same calls in the same order.
    pub(super) threads: bool,
    /// Number of the call, how it fails, and whether it does its work before it does.
    pub(super) failing: Vec<(u64, DiskFault, bool)>,
    /// The machine has power for so many calls.
    pub(super) power: Option<u64>,
    /// In how many ways the machine stops at the end, each of them once.
    pub(super) modes: Vec<CrashMode>,
}

/// Runs the scenario by this plan, crashes, and checks what was promised. Returns how many calls
/// there were.
pub(super) fn run(plan: &Plan) -> u64 {
    let first = plan.failing.first().map(|(k, ..)| *k);
    let disk = SimDisk::new(first.or(plan.power).unwrap_or(1));
    if let Some(calls) = plan.power {
        disk.cut_power_after(calls);
    }
    for &(k, fault, late) in &plan.failing {
        match late {
            true => disk.fail_call_late(k, fault),
            false => disk.fail_call(k, fault),
        }
    }
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn({
        let (disk, threads) = (disk.clone(), plan.threads);
        move || {
            let promises = Promises::of_scenario(&disk, threads);
            done.send(()).unwrap();
            promises
        }
    });
    let waited = wait.recv_timeout(DEADLINE * 2);
    let timeout = Err(mpsc::RecvTimeoutError::Timeout);
    assert_ne!(waited, timeout, "{plan:?}: hangs");
    let promises = thread
        .join()
        .unwrap_or_else(|_| panic!("{plan:?}: panicked"));
    let calls = disk.calls();
    if let Err(why) = syncs_once(&disk.trace()) {
        panic!("{plan:?}: {why}");
    }
    for mode in &plan.modes {
        let disk = disk.copy();
        disk.crash(mode.clone());
        promises.check(&disk, &format!("{plan:?}, then {mode:?}"));
    }
    calls
}

/// Whether no sync that failed was tried again: what it was to make durable has to be written anew
/// before, and a segment is not touched again before it was opened anew.
fn syncs_once(trace: &[DiskCall]) -> std::result::Result<(), String> {
    let mut failed = BTreeSet::new();
    for call in trace {
        let segment = call.path.starts_with(WAL) && call.path.extension().is_none();
        let again = failed.contains(&call.path);
        match call.op {
            DiskOp::Open | DiskOp::Create => drop(failed.remove(&call.path)),
            DiskOp::Write if again && segment => return Err(format!("written to: {call:?}")),
            DiskOp::Write if call.error.is_none() => drop(failed.remove(&call.path)),
            DiskOp::SyncData if again => return Err(format!("synced again: {call:?}")),
            DiskOp::SyncData if call.error.is_some() => drop(failed.insert(call.path.clone())),
            _ => {}
        }
    }
    Ok(())
}

/// What a store's mark may be found to be.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Mark {
    #[default]
    Absent,
    Present,
    Either,
}

/// What was promised.
#[derive(Debug, Default)]
pub(super) struct Promises {
    threads: bool,
    created: bool,
    acknowledged: Vec<(Lsn, Bytes)>,
    accepted: u32,
    timeline: u32,
    checkpoint: Lsn,
    slots: u8,
    config: Lsn,
    mark: Mark,
}

impl Promises {
    /// Runs the scenario until it ends or cannot go on.
    pub(super) fn of_scenario(disk: &SimDisk, threads: bool) -> Self {
        let mut promises = Self {
            threads,
            ..Self::default()
        };
        let _ = promises.live(disk);
        promises
    }

    fn options(&self) -> WalOptions {
        WalOptions {
            driven: !self.threads,
            ..options()
        }
    }

    /// Waits until `end` is flushed, or does the work itself.
    fn is_flushed(&self, wal: &Wal, end: Lsn) -> bool {
        if self.threads {
            wal.flushed().wait_blocking(end, Some(DEADLINE)).is_ok()
        } else {
            while wal.drive() {}
            wal.flushed().get() >= end
        }
    }

    /// Appends and waits; failing is allowed, acknowledging what is poisoned is not.
    fn append(&mut self, wal: &Wal, payload: impl Into<Bytes>) {
        let payload = payload.into();
        let poisoned = wal.poisoned().is_some();
        let Ok(range) = wal.append(&[put(payload.clone())]) else {
            return;
        };
        if self.is_flushed(wal, range.end) {
            assert!(!poisoned, "acknowledged after the log was poisoned");
            self.acknowledged.push((range.end, payload));
        } else {
            assert!(wal.poisoned().is_some(), "a wait ended without a reason");
        }
    }

    fn fill(&mut self, wal: &Wal, payloads: std::ops::Range<u8>) {
        for n in payloads {
            self.append(wal, vec![n; 240_000]);
        }
    }

    fn promote(&mut self, wal: &Wal, next: Timeline) {
        if wal.open_timeline(next, "failing").is_ok() {
            self.timeline = next.number;
        }
    }

    fn save_slots(&mut self, wal: &Wal, version: u8) {
        if wal
            .update_control(|control| control.slots = vec![version; 40])
            .is_ok()
        {
            self.slots = version;
        }
    }

    fn save_config(&mut self, wal: &Wal) {
        let appended = wal.append_config(Bytes::from_static(b"the voters"));
        if let Ok(range) = appended
            && self.is_flushed(wal, range.end)
        {
            self.config = range.end;
        }
    }

    fn clean_up(&mut self, wal: &Wal) {
        let durable = wal.flushed().get();
        if wal.checkpoint(durable).is_ok() {
            self.checkpoint = durable;
        }
        let _ = wal.remove_below(durable);
    }

    /// Gives up what is at and above `to`, which another primary's timeline leaves out.
    fn take_back(&mut self, to: Lsn, taken: impl FnOnce() -> bool) -> bool {
        self.acknowledged.retain(|(end, _)| *end <= to);
        if self.config > to {
            self.config = Lsn::ZERO;
        }
        taken()
    }

    /// What a primary does that lost its place to another one: cuts, and follows.
    fn change_sides(&mut self, wal: &Wal, next: Timeline) {
        let fork = wal.flushed().get();
        wal.set_commit_follows(false);
        self.append(wal, "what the other primary never saw");
        self.append(wal, vec![0x77; 5000]);
        if !self.take_back(fork, || wal.cut(fork).is_ok()) {
            return;
        }
        self.append(wal, "what another one never saw");
        wal.advance_commit(wal.flushed().get());
        if !self.take_back(fork, || wal.rewind(fork).is_ok()) {
            return;
        }
        let mut theirs = wal.history().reached(fork);
        theirs.open(next, fork, "won").unwrap();
        if wal.adopt_history(&theirs).is_ok() {
            self.timeline = next.number;
        }
        wal.set_commit_follows(true);
    }

    fn mark(&mut self, wal: &Wal) {
        let mark = BrokenMark {
            at: SIZE.first_lsn(),
            why: "a row is missing".to_owned(),
        };
        self.mark = match wal.mark_broken(&mark) {
            Ok(()) => Mark::Present,
            Err(_) => Mark::Either,
        };
    }

    fn lift(&mut self, wal: &Wal) {
        self.mark = match wal.lift_broken() {
            Ok(()) => Mark::Absent,
            Err(_) => Mark::Either,
        };
    }

    fn first_life(&mut self, wal: &Wal) {
        self.fill(wal, 0..3);
        if wal.save_promises(Some(timeline(7, 7)), None).is_ok() {
            self.accepted = 7;
        }
        self.promote(wal, timeline(8, 8));
        self.save_slots(wal, 1);
        self.fill(wal, 3..7);
        self.save_config(wal);
        self.clean_up(wal);
        self.append(wal, "after the removal");
        self.mark(wal);
        self.change_sides(wal, timeline(9, 9));
        self.append(wal, "on the other side");
        self.lift(wal);
        self.promote(wal, timeline(10, 10));
        self.save_slots(wal, 2);
        self.append(wal, "last words");
        let closed = wal.close();
        assert!(wal.poisoned().is_none() || closed.is_err());
    }

    fn live(&mut self, disk: &SimDisk) -> Result<()> {
        let new = NewLog::new_cluster(SIZE);
        let shared: Arc<dyn Disk> = Arc::new(disk.until_crash());
        let dir = Path::new(DIR);
        let wal = Wal::create(shared.clone(), dir, new, &self.options())?;
        (self.created, self.timeline) = (true, 1);
        self.first_life(&wal);
        drop(wal);
        // A name whose sync failed is lost, as this disk sees it, but shown until the crash. Real
        // file systems refuse all service after that.
        let lost = |call: &DiskCall| call.op == DiskOp::SyncDir && call.error.is_some();
        if disk.trace().iter().any(lost) {
            return Ok(());
        }
        let (wal, _) = Wal::open(shared, dir, &self.options())?;
        self.fill(&wal, 10..14);
        self.save_slots(&wal, 3);
        self.mark(&wal);
        // No checkpoint: it would leave behind what the first life damaged.
        wal.close()
    }

    /// Checks that every step was taken, and answered.
    pub(super) fn are_complete(&self) {
        assert_eq!(self.acknowledged.len(), 3 + 4 + 1 + 1 + 1 + 4);
        assert_eq!((self.accepted, self.timeline, self.slots), (7, 10, 3));
        assert_eq!(self.mark, Mark::Present);
        assert!(self.config > Lsn::ZERO && self.checkpoint >= self.config);
    }

    /// Opens what a crash has left, and holds it against what was promised.
    pub(super) fn check(&self, disk: &SimDisk, case: &str) {
        let (wal, recovered) = match open(disk.clone()) {
            Ok(opened) => opened,
            Err(Error::Io { .. }) if !self.created => return,
            Err(error) => panic!("{case}: {error}"),
        };
        let (found, oldest) = (entries(&wal), wal.oldest());
        for (end, payload) in self.acknowledged.iter().filter(|(end, _)| *end > oldest) {
            let there = found
                .iter()
                .any(|(at, found)| at == end && found == payload);
            assert!(
                there,
                "{case}: lost what ended at {end}; ends at {}",
                recovered.end
            );
        }
        let control = wal.control();
        assert!(oldest <= self.checkpoint.max(SIZE.first_lsn()), "{case}");
        assert!(control.checkpoint >= self.checkpoint, "{case}: checkpoint");
        let promised = control.promised_number;
        assert!(promised >= self.accepted, "{case}: a promise was forgotten");
        let number = control.timeline_number;
        assert!(number >= self.timeline, "{case}: timeline forgotten");
        let slots = control.slots.first().copied().unwrap_or(0);
        assert!(slots >= self.slots, "{case}: slots were forgotten");
        assert!(wal.config().1 >= self.config, "{case}: policy forgotten");
        let marked = wal.broken().unwrap().is_some();
        match self.mark {
            Mark::Present => assert!(marked, "{case}: the mark is gone"),
            Mark::Absent => assert!(!marked, "{case}: the mark came back"),
            Mark::Either => {}
        }
        let end = flushed(&wal, "goes on");
        drop(wal);
        // What was found counts from now on, whatever became of the machine before.
        disk.crash(CrashMode::LoseUnsynced);
        match open(disk.clone()) {
            Ok((_, recovered)) => assert_eq!(recovered.end, end, "{case}: the second time"),
            Err(error) => panic!("{case}: the second time: {error}"),
        }
    }
}
