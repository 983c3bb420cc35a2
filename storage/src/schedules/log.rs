//! Group commit: whoever is told that a record is flushed finds it on the disk.

use std::path::Path;

use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};

use super::explore;
use super::stage::{DIR, PAYLOAD, RECORD, almost_full, append, assert_durable, begun, put};
use crate::control::ControlFile;
use crate::disk::{Disk, DiskFault, SimDisk};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::signal::WaitError;
use crate::sync::thread::{self, JoinHandle};
use crate::wal::Wal;

/// Appends a record and waits until it is flushed, `times` times.
fn appender(disk: &SimDisk, wal: &Wal, byte: u8, times: u8) -> JoinHandle<()> {
    let (disk, wal) = (disk.clone(), wal.clone());
    thread::spawn(move || {
        for byte in byte..byte + times {
            let end = append(&wal, byte).end;
            let flushed = match byte % 2 {
                0 => wal.flushed().wait_blocking(end, None),
                _ => block_on(wal.flushed().wait(end)),
            };
            assert!(flushed.unwrap() >= end);
            assert_durable(&disk, end, byte);
        }
    })
}

/// Looks at the ladder of positions again and again: none goes back, and their order holds.
fn watch_ladder(wal: &Wal) -> JoinHandle<()> {
    let wal = wal.clone();
    thread::spawn(move || {
        let mut before = [Lsn::ZERO; 5];
        for _ in 0..4 {
            // The lower ones first: whatever climbs meanwhile only widens the gaps.
            let signals = [wal.commit(), wal.flushed(), wal.written(), wal.sealed()];
            let [commit, flushed, written, sealed] = signals.map(|signal| signal.get());
            let now = [commit, flushed, written, sealed, wal.appended()];
            assert!(now.is_sorted(), "the ladder is broken: {now:?}");
            let [replayable, sealed] = [wal.replayable(), wal.sealed()].map(|signal| signal.get());
            assert!(commit <= replayable && replayable <= sealed);
            assert!(before.iter().zip(&now).all(|(was, is)| was <= is));
            before = now;
        }
    })
}

#[test]
fn what_is_acknowledged_is_on_the_disk_and_the_ladder_holds() {
    explore(|| {
        let (disk, wal) = begun(1 << 20);
        let threads = [
            appender(&disk, &wal, b'a', 2),
            appender(&disk, &wal, b'h', 2),
            watch_ladder(&wal),
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        wal.close().unwrap();
    });
}

#[test]
fn appenders_that_need_the_next_segment_get_it() {
    explore(|| {
        let (disk, wal) = almost_full();
        let threads = [b'a', b'h'].map(|byte| appender(&disk, &wal, byte, 2));
        for thread in threads {
            thread.join().unwrap();
        }
        wal.close().unwrap();
    });
}

/// Nobody waits for ever for room that nobody makes: each is refused, or finds it once there is
/// space again.
#[test]
fn a_full_disk_refuses_appenders_until_there_is_space() {
    explore(|| {
        let (disk, wal) = almost_full();
        disk.set_capacity(0);
        let appenders = [b'a', b'h'].map(|byte| {
            let (disk, wal) = (disk.clone(), wal.clone());
            thread::spawn(move || {
                let record = [put(vec![byte; PAYLOAD])];
                loop {
                    match wal.append(&record) {
                        Ok(range) => {
                            wal.flushed().wait_blocking(range.end, None).unwrap();
                            return assert_durable(&disk, range.end, byte);
                        }
                        Err(Error::Full { .. }) => thread::yield_now(),
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        });
        disk.clear_capacity();
        for appender in appenders {
            appender.join().unwrap();
        }
        wal.close().unwrap();
    });
}

#[test]
fn the_first_failure_ends_every_wait_and_nothing_is_flushed_after_it() {
    explore(|| {
        let (disk, wal) = begun(1 << 20);
        let k = thread_rng().gen_range(1..10);
        disk.fail_call(k, DiskFault::Io);
        let appenders = [b'a', b'h'].map(|byte| {
            let (disk, wal) = (disk.clone(), wal.clone());
            thread::spawn(move || {
                let record = [put(vec![byte; PAYLOAD])];
                for _ in 0..2 {
                    let Ok(range) = wal.append(&record) else {
                        return assert!(wal.poisoned().is_some());
                    };
                    match wal.flushed().wait_blocking(range.end, None) {
                        Ok(_) => assert_durable(&disk, range.end, byte),
                        Err(_) => assert!(wal.poisoned().is_some()),
                    }
                }
            })
        });
        let beyond = thread::spawn({
            let wal = wal.clone();
            move || wal.flushed().wait_blocking(Lsn::MAX, None)
        });
        for appender in appenders {
            appender.join().unwrap();
        }
        if wal.poisoned().is_none() {
            wal.stop();
        }
        assert_eq!(beyond.join().unwrap(), Err(WaitError::Closed));
        if let Some(Error::Poisoned { since, .. }) = wal.poisoned() {
            assert_eq!(wal.flushed().get(), since);
            assert!(wal.close().is_err(), "it was closed as if all were well");
        }
    });
}

/// What a process that is killed leaves in the system's hands: the commit position it had noted.
fn noted(disk: &SimDisk) -> Lsn {
    let disk: &dyn Disk = disk;
    let (_, mark) = ControlFile::open(disk, &Path::new(DIR).join("control")).unwrap();
    mark.commit
}

#[test]
fn a_commit_position_is_noted_before_it_is_shown() {
    explore(|| {
        let (disk, wal) = begun(1 << 20);
        wal.set_commit_follows(false);
        let first = wal.appended() + RECORD;
        let flusher = thread::spawn({
            let wal = wal.clone();
            move || {
                for byte in [b'a', b'b'] {
                    let end = append(&wal, byte).end;
                    wal.flushed().wait_blocking(end, None).unwrap();
                }
            }
        });
        let confirmer = thread::spawn({
            let wal = wal.clone();
            move || {
                let flushed = wal.flushed().wait_blocking(first, None);
                wal.advance_commit(flushed.unwrap());
            }
        });
        let shown = wal.commit().get();
        let noted_then = noted(&disk);
        assert!(
            noted_then >= shown,
            "{shown} was shown and {noted_then} noted"
        );
        for thread in [flusher, confirmer] {
            thread.join().unwrap();
        }
        let (shown, noted) = (wal.commit().get(), noted(&disk));
        assert!(noted >= shown, "{shown} was shown and {noted} noted");
        wal.close().unwrap();
    });
}

#[test]
fn what_a_primary_committed_counts_however_it_crosses_with_the_disk() {
    explore(|| {
        let (_, wal) = begun(1 << 20);
        wal.set_commit_follows(false);
        let end = append(&wal, b'a').end;
        let ladder = watch_ladder(&wal);
        let follower = thread::spawn({
            let wal = wal.clone();
            move || wal.follow_commit(end)
        });
        for position in [wal.replayable(), wal.commit()] {
            assert_eq!(position.wait_blocking(end, None), Ok(end));
        }
        for thread in [follower, ladder] {
            thread.join().unwrap();
        }
        wal.close().unwrap();
    });
}

/// A standby is told what is committed while it takes back the very log that this is about: either
/// it may be replayed, and the cut is refused, or what comes there instead is not committed.
#[test]
fn what_was_committed_of_log_that_is_cut_does_not_count_for_what_comes_instead() {
    explore(|| {
        let (disk, wal) = begun(1 << 20);
        wal.set_commit_follows(false);
        let told = append(&wal, b'o');
        let follower = thread::spawn({
            let wal = wal.clone();
            move || wal.follow_commit(told.end)
        });
        let cut = wal.cut(told.start);
        follower.join().unwrap();
        let end = match cut {
            Ok(_) => told.start,
            Err(Error::Invalid(_)) => told.end,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(wal.appended(), end);
        let instead = append(&wal, b'n').end;
        wal.flushed().wait_blocking(instead, None).unwrap();
        assert_eq!(wal.replayable().get(), end);
        assert_eq!(wal.commit().get(), end);
        assert!(noted(&disk) <= end, "{} was noted", noted(&disk));
        wal.close().unwrap();
    });
}
