//! Single rules of the log that are easily broken, one by one.

use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;

use super::bench::{DIR, SIZE, segment_path};
use super::stage::{
    DEADLINE, create, entries, flushed, leave, open, options, put, standby, stream, timeline,
};
use crate::disk::{CrashMode, SimDisk};
use crate::entry::{WalEntry, WalEntryType};
use crate::error::Error;
use crate::wal::{NewLog, Wal, WalOptions};

#[test]
fn a_log_that_ends_just_before_its_segment_s_end_is_reopened_there() {
    for left in [0, 8, 16, 24, 32] {
        let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
        let wal = create(disk.clone());
        leave(&wal, left);
        let (end, before) = (wal.appended(), entries(&wal));
        assert_eq!(
            SIZE.bytes() - SIZE.offset_of(end),
            if left == 0 { SIZE.bytes() } else { left }
        );
        let follower = standby(&wal, other.clone());
        stream(&wal, &follower);
        assert_eq!(follower.appended(), end);
        for wal in [wal, follower] {
            wal.close().unwrap();
        }
        for disk in [disk, other] {
            let (wal, recovered) = open(disk.clone()).unwrap();
            assert!(recovered.clean, "{left}");
            assert_eq!(
                (recovered.end, entries(&wal)),
                (end, before.clone()),
                "{left}"
            );
            drop(wal);
            disk.crash(CrashMode::LoseUnsynced);
            let (wal, recovered) = open(disk).unwrap();
            assert_eq!((recovered.end, recovered.torn), (end, None), "{left}");
            wal.close().unwrap();
        }
    }
}

#[test]
fn a_standby_takes_the_end_of_a_segment_with_what_follows() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    let wal = create(disk);
    leave(&wal, 16);
    let follower = standby(&wal, other);
    stream(&wal, &follower);
    let end = follower.appended();
    assert_eq!(
        follower
            .append_raw(end, &bytes::Bytes::from_static(&[0; 16]))
            .unwrap(),
        end
    );
    flushed(&wal, "in the next segment");
    stream(&wal, &follower);
    assert_eq!(entries(&follower), entries(&wal));
}

#[test]
fn a_handle_that_outlives_the_close_changes_nothing() {
    let disk = SimDisk::new(1);
    let old = create(disk.clone());
    let mut end = flushed(&old, vec![1; 200_000]);
    old.close().unwrap();
    let wal = open(disk.clone()).unwrap().0;
    (0..12).for_each(|_| end = flushed(&wal, vec![2; 200_000]));
    wal.checkpoint(end).unwrap();
    assert!(matches!(
        old.checkpoint(old.flushed().get()),
        Err(Error::Closed)
    ));
    assert!(matches!(old.renew_incarnation(), Err(Error::Closed)));
    assert!(matches!(
        old.save_promises(Some(timeline(9, 9)), None),
        Err(Error::Closed)
    ));
    assert!(matches!(old.remove_below(end), Err(Error::Closed)));
    old.close().unwrap();
    drop(wal);
    assert_eq!(open(disk).unwrap().1.end, end);
}

#[test]
fn a_loss_that_was_accepted_once_is_not_damage_the_next_time() {
    for closed in [true, false] {
        let disk = SimDisk::new(1);
        let wal = create(disk.clone());
        let kept = flushed(&wal, "kept");
        let lost = flushed(&wal, "damaged");
        flushed(&wal, "lost with it");
        let incarnation = wal.identity().incarnation;
        drop(wal);
        disk.flip_bit(segment_path(1), 8 * (SIZE.offset_of(lost) - 3));
        let refused = open(disk.clone());
        assert!(matches!(refused, Err(Error::Corrupt { at, .. }) if at == kept));
        let accepting = WalOptions {
            accept_loss_from: Some(kept),
            ..options()
        };
        let dir = Path::new(DIR);
        let (wal, recovered) = Wal::open(Arc::new(disk.clone()), dir, &accepting).unwrap();
        assert_eq!(recovered.end, kept);
        assert_ne!(wal.identity().incarnation, incarnation);
        if closed {
            wal.close().unwrap();
        }
        drop(wal);
        disk.crash(CrashMode::LoseUnsynced);
        let (wal, recovered) = open(disk).unwrap();
        assert_eq!((recovered.end, recovered.clean), (kept, closed));
        assert_eq!(entries(&wal), [(kept, "kept".into())]);
    }
}

#[test]
fn configs_are_appended_while_the_log_is_cut_and_checkpointed() {
    let wal = create(SimDisk::new(1));
    wal.set_commit_follows(false);
    let (done, wait) = mpsc::channel();
    let threads = (0..3).map(|n| {
        let (wal, done) = (wal.clone(), done.clone());
        std::thread::spawn(move || {
            for round in 0..300u32 {
                let config = Bytes::from(round.to_le_bytes().to_vec());
                match n {
                    0 => drop(wal.append_config(config).unwrap()),
                    1 => drop(wal.cut(wal.flushed().get())),
                    _ => drop(wal.checkpoint(wal.commit().get())),
                }
            }
            done.send(()).unwrap();
        })
    });
    let threads = threads.collect::<Vec<_>>();
    threads
        .iter()
        .for_each(|_| wait.recv_timeout(DEADLINE).expect("a deadlock"));
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_config_in_the_midst_of_other_entries_counts() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    let config = WalEntry::new(WalEntryType::Config, None, "the voters");
    let end = wal
        .append_new_timeline(&[config, put("something else")])
        .unwrap()
        .end;
    let (found, at) = wal.config();
    assert_eq!(found, "the voters");
    wal.flushed().wait_blocking(end, Some(DEADLINE)).unwrap();
    wal.checkpoint(end).unwrap();
    drop(wal);
    assert_eq!(open(disk).unwrap().0.config(), (found, at));
}

#[test]
fn a_new_log_outlives_a_power_cut_with_all_its_directories() {
    let disk = SimDisk::new(1);
    let dir = Path::new("/var/lib/deep/db");
    let new = NewLog::new_cluster(SIZE);
    let wal = Wal::create(Arc::new(disk.clone()), dir, new, &options()).unwrap();
    let end = flushed(&wal, "acknowledged");
    drop(wal);
    disk.crash(CrashMode::LoseUnsynced);
    let (_, recovered) = Wal::open(Arc::new(disk), dir, &options()).unwrap();
    assert_eq!(recovered.end, end);
}
