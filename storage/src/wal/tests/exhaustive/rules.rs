//! Single rules of the log that are easily broken, one by one.

use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use uuid::Uuid;

use super::bench::{DIR, SIZE, WAL, segment_path};
use super::stage::{
    DEADLINE, create, entries, fill, flushed, leave, open, options, put, standby, stream, timeline,
};
use crate::disk::{CrashMode, SimDisk};
use crate::entry::{WalEntry, WalEntryType};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::signal::WaitError;
use crate::wal::record::{PayloadCrc, RecordHead, seal};
use crate::wal::segment::{SegmentHeader, segment_file_name};
use crate::wal::{LogBytes, NewLog, Wal, WalOptions};

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
    assert!(matches!(
        old.claim("b", Uuid::from_u128(9)),
        Err(Error::Closed)
    ));
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
        assert_eq!((recovered.end, recovered.torn), (kept, None));
        let loss = recovered.loss.expect("it was flushed");
        assert!(loss.from == kept && loss.proven >= lost);
        let words = loss.to_string();
        assert!(
            words.contains("flushed") && words.contains("are lost"),
            "{words}"
        );
        assert!(words.contains("set-aside"), "{words}");
        assert_ne!(wal.identity().incarnation, incarnation);
        if closed {
            wal.close().unwrap();
        }
        drop(wal);
        disk.crash(CrashMode::LoseUnsynced);
        let (wal, recovered) = open(disk).unwrap();
        assert_eq!((recovered.end, recovered.clean), (kept, closed));
        assert!(recovered.loss.is_none(), "it was told once");
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
fn a_log_that_was_closed_in_a_recycled_segment_is_not_torn() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    for n in 0..25 {
        let end = flushed(&wal, vec![n; 240_000]);
        wal.checkpoint(end).unwrap();
        wal.remove_below(end).unwrap();
    }
    wal.close().unwrap();
    let bytes = disk.read_file(segment_path(SIZE.segment_of(wal.appended())));
    let used = usize::try_from(SIZE.offset_of(wal.appended())).unwrap();
    assert!(bytes[used..].iter().any(|&byte| byte != 0), "not recycled");
    let (wal, recovered) = open(disk).unwrap();
    assert_eq!((recovered.clean, recovered.torn), (true, None));
    flushed(&wal, "goes on");
}

#[test]
fn a_backup_whose_store_is_ahead_of_its_log_has_no_hole() {
    let disk = SimDisk::new(1);
    let primary = create(SimDisk::new(2));
    fill(&primary, 14, 240_000);
    let new = NewLog {
        history: (*primary.history()).clone(),
        system_id: primary.identity().system_id,
        own: false,
        checkpoint: primary.appended(),
        ..NewLog::new_cluster(SIZE)
    };
    let shared = Arc::new(disk.clone());
    let wal = Wal::create(shared, Path::new(DIR), new, &options()).unwrap();
    assert_eq!(wal.appended(), SIZE.first_lsn());
    let bytes = LogBytes::new(primary.clone()).read(SIZE.first_lsn(), Lsn::MAX, 300_000);
    let end = wal.append_raw(SIZE.first_lsn(), &bytes.unwrap()).unwrap();
    wal.flushed().wait_blocking(end, Some(DEADLINE)).unwrap();
    drop(wal);
    let (wal, recovered) = open(disk).unwrap();
    assert_eq!((recovered.end, wal.oldest()), (end, SIZE.first_lsn()));
    stream(&primary, &wal);
    assert_eq!(entries(&wal), entries(&primary));
}

#[test]
fn the_segment_before_the_checkpoint_is_missed_when_the_log_ends_there() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    leave(&wal, 0);
    wal.checkpoint(wal.appended()).unwrap();
    wal.close().unwrap();
    disk.remove_file(segment_path(1));
    assert!(matches!(open(disk), Err(Error::Corrupt { .. })));
}

#[test]
fn a_standby_refuses_a_segment_that_does_not_begin_with_its_header() {
    let disk = SimDisk::new(1);
    let primary = create(SimDisk::new(2));
    let wal = standby(&primary, disk);
    let owner = wal.shared().owner.read().clone();
    let sealed = |entry_type, payload: &[u8]| {
        let head = RecordHead {
            entry_type,
            flags: 0,
            tx_id: 0,
            flushed_upto: Lsn::ZERO,
        };
        let place = owner.place(SIZE.first_lsn());
        let (header, _) = seal(&place, 0, &head, payload, &PayloadCrc::of(payload));
        Bytes::from([&header, payload].concat())
    };
    let header = SegmentHeader {
        segment_size: 2 << 20,
        system_id: owner.system_id,
        timeline: wal.timeline(),
        segment_id: 1,
        start_lsn: SIZE.first_lsn(),
        created_at: 0,
        previous_crc: 0,
    };
    for bytes in [
        sealed(WalEntryType::Insert, &[1; 80]),
        sealed(WalEntryType::SegmentHeader, &[1; 80]),
        sealed(WalEntryType::SegmentHeader, &header.encode()),
    ] {
        let refused = wal.append_raw(SIZE.first_lsn(), &bytes);
        assert!(matches!(refused, Err(Error::Refused { .. })));
    }
}

#[test]
fn files_that_look_like_spares_do_no_harm() {
    let disk = SimDisk::new(1);
    drop(create(disk.clone()));
    for name in [
        "spare-18446744073709551615",
        "spare-+3",
        "spare-007",
        "spare-",
        "spare-x",
    ] {
        disk.write_file(format!("{WAL}/{name}"), b"not a segment");
    }
    disk.write_file(format!("{WAL}/spare-9000000000"), b"too short");
    let (wal, _) = open(disk.clone()).unwrap();
    fill(&wal, 12, 240_000);
    let all = entries(&wal);
    drop(wal);
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(entries(&open(disk).unwrap().0), all);
}

#[test]
fn a_writer_that_panics_ends_every_wait() {
    let wal = create(SimDisk::new(1));
    // A draft in the wrong place breaks an invariant of the writer.
    wal.shared().queue.lock().cursor.next = wal.appended() + 8;
    let end = wal.append(&[put("misplaced")]).unwrap().end;
    assert!(matches!(
        wal.flushed().wait_blocking(end, Some(DEADLINE)),
        Err(WaitError::Closed)
    ));
    assert!(matches!(
        wal.append(&[put("more")]),
        Err(Error::Poisoned { .. })
    ));
    assert!(wal.close().is_err());
}

#[test]
fn a_segment_that_a_new_timeline_took_over_never_stands_for_it() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    flushed(&wal, "on the first timeline");
    wal.open_timeline(timeline(2, 2), "x").unwrap();
    fill(&wal, 12, 240_000);
    wal.checkpoint(wal.appended()).unwrap();
    drop(wal);
    // As after a removal that was interrupted.
    disk.remove_file(format!("{WAL}/{}", segment_file_name(2, 1, SIZE)));
    let (wal, _) = open(disk.clone()).unwrap();
    assert_eq!(wal.oldest(), SIZE.start_of(2));
    wal.remove_below(SIZE.start_of(2)).unwrap();
    wal.remove_below(Lsn::MAX).unwrap();
    let old = disk.files().iter().any(|path| *path == segment_path(1));
    assert!(!old, "the old timeline's copy stays for ever");
}

#[test]
fn a_reader_follows_to_a_rival_timeline_of_the_same_number() {
    let disk = SimDisk::new(1);
    let winner = create(SimDisk::new(2));
    let fork = flushed(&winner, "shared");
    let loser = standby(&winner, disk.clone());
    stream(&winner, &loser);
    winner.open_timeline(timeline(2, 1), "won").unwrap();
    loser.open_timeline(timeline(2, 2), "lost").unwrap();
    flushed(&winner, "what the winner wrote");
    flushed(&loser, "what the loser wrote first");
    drop(loser);
    let forgetful = WalOptions {
        tail_bytes: 0,
        ..options()
    };
    let (wal, _) = Wal::open(Arc::new(disk), Path::new(DIR), &forgetful).unwrap();
    let mut bytes = LogBytes::new(wal.clone());
    let before = bytes.read(fork, Lsn::MAX, 32).unwrap();
    wal.set_commit_follows(false);
    wal.cut(fork).unwrap();
    assert!(bytes.read(fork, Lsn::MAX, 32).unwrap().is_empty());
    wal.adopt_history(&winner.history()).unwrap();
    stream(&winner, &wal);
    flushed(&winner, "push the first out of memory");
    stream(&winner, &wal);
    assert!(bytes.read_memory(fork, Lsn::MAX, 32).is_none());
    let after = bytes.read(fork, Lsn::MAX, 32).unwrap();
    assert_ne!(before, after);
    assert_eq!(
        after,
        LogBytes::new(winner).read(fork, Lsn::MAX, 32).unwrap()
    );
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

#[test]
fn a_timeline_that_begins_in_the_rest_of_a_segment_is_followed_and_recovered() {
    // From no room at all to room for its first record and a little more.
    for left in (0..=160).step_by(8) {
        let (here, there) = (SimDisk::new(1), SimDisk::new(2));
        let old = create(here.clone());
        leave(&old, left);
        let follower = standby(&old, there.clone());
        stream(&old, &follower);
        let fork = old.appended();
        // Half a record is all that the primary's last write left behind.
        let lost = old.append(&[put("never flushed")]).unwrap().end;
        assert!(lost > fork, "{left}");
        drop(old);
        here.crash(CrashMode::LoseUnsynced);
        let (old, _) = open(here).unwrap();
        let opened = follower.open_timeline(timeline(2, 7), "half").unwrap();
        assert!(
            opened >= follower.oldest() && opened <= follower.appended(),
            "{left}"
        );
        flushed(&follower, "on the new one");
        let flushed_there = entries(&follower);
        let common = old.flushed().get().min(opened);
        old.set_commit_follows(false);
        if old.appended() > common {
            old.cut(common).unwrap();
        }
        old.adopt_history(&follower.history()).unwrap();
        stream(&follower, &old);
        assert_eq!(entries(&old), flushed_there, "{left} bytes left");
        drop(follower);
        there.crash(CrashMode::LoseUnsynced);
        let (again, recovered) = open(there).unwrap();
        assert!(recovered.torn.is_none(), "{left}: {:?}", recovered.torn);
        assert_eq!(entries(&again), flushed_there, "{left} bytes left");
        assert_eq!(again.timeline(), timeline(2, 7), "{left}");
    }
}

#[test]
fn a_segment_is_not_named_after_a_timeline_that_only_begins_behind_it() {
    // A standby hears of a timeline, far behind its own end, that is replaced by another one
    // which begins at the same place.
    let (winner, disk) = (create(SimDisk::new(1)), SimDisk::new(2));
    fill(&winner, 2, 200_000);
    let slow = standby(&winner, disk.clone());
    stream(&winner, &slow);
    fill(&winner, 5, 200_000);
    let rival = standby(&winner, SimDisk::new(3));
    stream(&winner, &rival);
    let early = standby(&winner, SimDisk::new(4));
    let fork = rival.open_timeline(timeline(2, 1), "replaced").unwrap();
    assert!(
        SIZE.segment_of(fork) > SIZE.segment_of(slow.appended()),
        "one segment is enough"
    );
    fill(&rival, 1, 100);
    slow.adopt_history(&rival.history()).unwrap();
    early.adopt_history(&rival.history()).unwrap();
    stream(&rival, &slow);
    winner.open_timeline(timeline(3, 2), "stays").unwrap();
    fill(&winner, 1, 100);
    slow.cut(fork).unwrap();
    slow.adopt_history(&winner.history()).unwrap();
    stream(&winner, &slow);
    assert!(
        entries(&slow) == entries(&winner),
        "not all of it can be read"
    );
    drop(slow);
    disk.crash(CrashMode::LoseUnsynced);
    let (slow, _) = open(disk).unwrap();
    assert!(
        entries(&slow) == entries(&winner),
        "not all of it is found again"
    );
}

#[test]
fn what_a_rival_of_the_same_number_left_of_a_segment_never_stands_for_it() {
    let (primary, disk) = (create(SimDisk::new(1)), SimDisk::new(2));
    fill(&primary, 2, 200_000);
    let rival = standby(&primary, disk.clone());
    stream(&primary, &rival);
    let fork = rival.open_timeline(timeline(2, 2), "lost").unwrap();
    fill(&rival, 3, 100);
    // The timeline of that number that counts begins segments later.
    fill(&primary, 9, 200_000);
    primary.open_timeline(timeline(2, 1), "won").unwrap();
    fill(&primary, 1, 100);
    rival.cut(fork).unwrap();
    rival.adopt_history(&primary.history()).unwrap();
    stream(&primary, &rival);
    drop(rival);
    disk.crash(CrashMode::LoseUnsynced);
    let (rival, _) = open(disk).unwrap();
    assert!(entries(&rival) == entries(&primary));
}

#[test]
fn a_file_named_after_the_last_segment_that_can_be_does_no_harm() {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    fill(&wal, 12, 200_000);
    let end = wal.appended();
    drop(wal);
    for timeline in [1, 7] {
        let last = SIZE.segment_of(Lsn::MAX);
        let name = segment_file_name(timeline, last, SIZE);
        disk.write_file(Path::new(WAL).join(name), &[0; 100]);
    }
    let (wal, recovered) = open(disk).unwrap();
    assert_eq!((recovered.end, recovered.torn), (end, None));
    wal.checkpoint(end).unwrap();
    assert!(wal.remove_below(end).unwrap() > SIZE.first_lsn());
}
