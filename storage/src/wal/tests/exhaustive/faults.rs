//! Calls to the disk that fail, one after the other, and a disk that is full.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;

use super::bench::{DIR, SIZE, WAL};
use super::stage::{DEADLINE, create, entries, fill, flushed, open, options, put, timeline};
use super::whole;
use crate::disk::{CrashMode, Disk, DiskCall, DiskFault, DiskOp, SimDisk};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::timeline::Timeline;
use crate::wal::{NewLog, Wal};

/// What was promised to whom while the disk failed.
#[derive(Default)]
struct Promises {
    created: bool,
    acknowledged: Vec<(Lsn, Bytes)>,
    calls: u64,
    accepted: u32,
    timeline: u32,
    checkpoint: Lsn,
}

impl Promises {
    /// Appends and waits; failing is allowed, acknowledging what is poisoned is not.
    fn append(&mut self, wal: &Wal, payload: Bytes) {
        let poisoned = wal.poisoned().is_some();
        let Ok(range) = wal.append(&[put(payload.clone())]) else {
            return;
        };
        if wal
            .flushed()
            .wait_blocking(range.end, Some(DEADLINE))
            .is_ok()
        {
            assert!(!poisoned, "acknowledged after the log was poisoned");
            self.acknowledged.push((range.end, payload));
        } else {
            assert!(wal.poisoned().is_some(), "a wait ended without a reason");
        }
    }

    fn promote(&mut self, wal: &Wal, next: Timeline) {
        if wal.open_timeline(next, "failing").is_ok() {
            self.timeline = next.number;
        }
    }

    fn scenario(&mut self, disk: &SimDisk) -> Result<()> {
        let new = NewLog::new_cluster(SIZE);
        let shared: Arc<dyn Disk> = Arc::new(disk.until_crash());
        let wal = Wal::create(shared.clone(), Path::new(DIR), new, &options())?;
        (self.created, self.timeline) = (true, 1);
        for n in 0..3 {
            self.append(&wal, Bytes::from(vec![n; 240_000]));
        }
        self.accepted = match wal.accept_timeline(timeline(7, 7)) {
            Ok(true) => 7,
            _ => 0,
        };
        self.promote(&wal, timeline(8, 8));
        for n in 3..7 {
            self.append(&wal, Bytes::from(vec![n; 240_000]));
        }
        let durable = wal.flushed().get();
        if wal.checkpoint(durable).is_ok() {
            self.checkpoint = durable;
        }
        let _ = wal.remove_below(durable);
        self.append(&wal, Bytes::from_static(b"after the removal"));
        self.promote(&wal, timeline(9, 9));
        self.append(&wal, Bytes::from_static(b"last words"));
        let closed = wal.close();
        assert!(wal.poisoned().is_none() || closed.is_err());
        drop(wal);
        // A name whose sync failed is lost, as this disk sees it, but shown until the crash. Real
        // file systems refuse all service after that.
        let lost = |call: &DiskCall| call.op == DiskOp::SyncDir && call.error.is_some();
        if disk.trace().iter().any(lost) {
            return Ok(());
        }
        let (wal, _) = Wal::open(shared, Path::new(DIR), &options())?;
        for n in 10..14 {
            self.append(&wal, Bytes::from(vec![n; 240_000]));
        }
        Ok(())
    }

    fn check(&self, disk: &SimDisk, case: &str) {
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
        assert!(
            control.accepted_number >= self.accepted,
            "{case}: a promise was forgotten"
        );
        assert!(
            control.timeline_number >= self.timeline,
            "{case}: the timeline was forgotten"
        );
        flushed(&wal, "goes on");
    }
}

/// Runs the scenario with call `k` failing; `false` when there were fewer calls than that.
fn fail(k: u64, fault: DiskFault, late: bool, modes: &[CrashMode]) -> bool {
    let disk = SimDisk::new(k);
    if late {
        disk.fail_call_late(k, fault);
    } else {
        disk.fail_call(k, fault);
    }
    let case = format!("call {k} fails with {fault:?}, late {late}");
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn({
        let disk = disk.clone();
        move || {
            let mut promises = Promises::default();
            let _ = promises.scenario(&disk);
            promises.calls = disk.calls();
            done.send(()).unwrap();
            promises
        }
    });
    let waited = wait.recv_timeout(DEADLINE * 2);
    assert_ne!(
        waited,
        Err(mpsc::RecvTimeoutError::Timeout),
        "{case}: hangs"
    );
    let promises = thread.join().unwrap_or_else(|_| panic!("{case}: panicked"));
    for mode in modes {
        let disk = disk.copy();
        disk.crash(mode.clone());
        promises.check(&disk, &format!("{case}, {mode:?}"));
    }
    promises.calls >= k
}

#[test]
fn any_failing_call_loses_nothing_acknowledged() {
    const FAULTS: [DiskFault; 6] = [
        DiskFault::Io,
        DiskFault::NoSpace,
        DiskFault::Quota,
        DiskFault::ReadOnly,
        DiskFault::Interrupted,
        DiskFault::Short,
    ];
    let modes = [CrashMode::LoseUnsynced, CrashMode::Random];
    let mut k = 1;
    loop {
        let chosen = FAULTS.iter().enumerate();
        let chosen = chosen.filter(|(n, _)| whole() || (k + *n as u64).is_multiple_of(6));
        let faults = chosen.map(|(_, &fault)| fault).collect::<Vec<_>>();
        let mut reached = false;
        for fault in faults {
            reached |= fail(k, fault, false, &modes);
        }
        reached |= fail(k, DiskFault::Io, k % 3 == 0, &modes[..1]);
        if !reached {
            break;
        }
        k += 1;
    }
    assert!(k > 100, "only {k} calls");
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_space() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    let mut all = vec![flushed(&wal, vec![0; 240_000])];
    disk.set_capacity(0);
    let refused = loop {
        match wal.append(&[put(vec![1; 240_000])]) {
            Ok(range) => all.push(range.end),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    let end = wal.appended();
    wal.flushed().wait_blocking(end, Some(DEADLINE)).unwrap();
    assert_eq!(all.last(), Some(&end));
    for _ in 0..3 {
        let refused = wal.append(&[put(vec![1; 240_000])]);
        assert!(matches!(refused, Err(Error::Full { .. })));
        assert_eq!((wal.appended(), wal.poisoned().is_none()), (end, true));
    }
    let names = disk.list(Path::new(WAL)).unwrap();
    assert!(!names.contains(&"spare.tmp".to_owned()), "{names:?}");
    disk.clear_capacity();
    // The very next one, not the one after it.
    all.push(flushed(&wal, vec![2; 240_000]));
    assert_eq!(
        entries(&wal)
            .iter()
            .map(|(end, _)| *end)
            .collect::<Vec<_>>(),
        all
    );
    drop(wal);
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(open(disk).unwrap().1.end, all[all.len() - 1]);
}

#[test]
fn a_failure_to_prepare_a_segment_is_forgotten_once_there_is_space() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    flushed(&wal, vec![0; 240_000]);
    disk.set_capacity(0);
    // Reach for the next spare without needing it yet.
    while wal.appended() + SIZE.bytes() <= wal.shared().spares.covered_until() {
        flushed(&wal, vec![0; 100_000]);
    }
    let failed = |call: &DiskCall| call.path.ends_with("spare.tmp") && call.error.is_some();
    while !disk.trace().iter().any(failed) {
        std::thread::yield_now();
    }
    disk.clear_capacity();
    let many = vec![put(vec![1; 240_000]); 12];
    let end = wal.append(&many).unwrap().end;
    wal.flushed().wait_blocking(end, Some(DEADLINE)).unwrap();
}

#[test]
fn log_that_retention_gives_back_is_space_too() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    fill(&wal, 20, 240_000);
    disk.set_capacity(0);
    while let Ok(range) = wal.append(&[put(vec![1; 240_000])]) {
        wal.flushed()
            .wait_blocking(range.end, Some(DEADLINE))
            .unwrap();
    }
    let end = wal.appended();
    wal.checkpoint(end).unwrap();
    wal.remove_below(end).unwrap();
    fill(&wal, 12, 240_000);
}

#[test]
fn a_sync_that_failed_is_not_believed_after_a_restart() {
    // The page cache still shows what the failed sync gave up, and the next sync has nothing to
    // write: only a restart of the machine would tell.
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    flushed(&wal, "safe");
    // Until the other thread has nothing to do, its calls would be counted too.
    while wal.shared().spares.covered_until() < wal.appended() + SIZE.bytes() {
        std::thread::yield_now();
    }
    disk.clear_trace();
    flushed(&wal, "to count the calls");
    let calls = disk.trace();
    let sync = calls.iter().position(|call| call.op == DiskOp::SyncData);
    disk.fail_call(sync.unwrap() as u64 + 1, DiskFault::Io);
    let range = wal.append(&[put("lost on the disk")]).unwrap();
    assert!(
        wal.flushed()
            .wait_blocking(range.end, Some(DEADLINE))
            .is_err()
    );
    assert!(wal.poisoned().is_some());
    drop(wal);
    let (wal, recovered) = open(disk.clone()).unwrap();
    let all = entries(&wal);
    assert_eq!(recovered.end, wal.flushed().get());
    drop(wal);
    disk.crash(CrashMode::LoseUnsynced);
    let (wal, _) = open(disk).unwrap();
    assert_eq!(entries(&wal), all, "reported as flushed and gone");
}
