//! What the simulated disk does beyond the contract: crashes, faults, copies.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::*;
use crate::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// A disk with one durable file of `bytes` at `/d/f`, and a handle on it.
fn with_file(bytes: &[u8]) -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new(1);
    disk.write_file("/d/f", bytes);
    let file = disk.open(Path::new("/d/f")).unwrap();
    (disk, file)
}

fn names(disk: &SimDisk) -> Vec<String> {
    let files = disk.files();
    files
        .iter()
        .map(|path| path.display().to_string())
        .collect()
}

fn tear(keep: u64, fill: Fill, keep_size: bool) -> CrashMode {
    CrashMode::Sectors(SectorChoice {
        path: "/d/f".into(),
        keep,
        fill,
        keep_size,
        keep_rest: false,
    })
}

#[test]
fn a_crash_loses_what_was_written_after_the_last_sync() {
    let (disk, file) = with_file(b"0123456789");
    file.write_all_at(b"AB", 0).unwrap();
    file.set_len(4).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"xy", 3).unwrap();
    assert_eq!(disk.read_file("/d/f"), b"AB2xy");
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(disk.read_file("/d/f"), b"AB23");
}

#[test]
fn a_crash_may_keep_everything() {
    let (disk, file) = with_file(b"0123456789");
    file.write_all_at(b"AB", 20).unwrap();
    file.set_len(21).unwrap();
    disk.rename(Path::new("/d/f"), Path::new("/d/g")).unwrap();
    disk.crash(CrashMode::KeepAll);
    assert_eq!(names(&disk), ["/d/g"]);
    assert_eq!(disk.read_file("/d/g"), b"0123456789\0\0\0\0\0\0\0\0\0\0A");
}

#[test]
fn a_synced_file_without_a_synced_name_is_lost() {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    for (name, sync_name) in [("/d/kept", true), ("/d/lost", false)] {
        let file = disk.create(Path::new(name)).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        file.sync_data().unwrap();
        if sync_name {
            disk.sync_dir(Path::new("/d")).unwrap();
        }
    }
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(names(&disk), ["/d/kept"]);
}

#[test]
fn a_directory_whose_own_name_was_not_synced_takes_its_files_along() {
    let disk = SimDisk::new(1);
    disk.create_dir(Path::new("/d/e")).unwrap();
    disk.create(Path::new("/d/e/f")).unwrap();
    disk.sync_dir(Path::new("/d/e")).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(disk.list(Path::new("/")).unwrap(), [""; 0]);
    assert_eq!(disk.state.lock().tree.nodes.len(), 1);
}

#[test]
fn a_rename_across_directories_needs_both_synced() {
    let disk = SimDisk::new(1);
    disk.write_file("/a/f", b"x");
    disk.write_file("/b/other", b"");
    disk.rename(Path::new("/a/f"), Path::new("/b/f")).unwrap();
    let both = disk.copy();
    both.sync_dir(Path::new("/b")).unwrap();
    both.crash(CrashMode::LoseUnsynced);
    assert_eq!(names(&both), ["/a/f", "/b/f", "/b/other"]);
    let neither = disk.copy();
    neither.sync_dir(Path::new("/a")).unwrap();
    neither.crash(CrashMode::LoseUnsynced);
    assert_eq!(names(&neither), ["/b/other"]);
}

/// The sets of files that crashes leave after two creations and a replacing rename.
fn outcomes(mode: &CrashMode) -> BTreeSet<Vec<String>> {
    let disk = SimDisk::new(3);
    disk.write_file("/d/a", b"old");
    disk.create(Path::new("/d/b")).unwrap();
    disk.create(Path::new("/d/c")).unwrap();
    disk.rename(Path::new("/d/b"), Path::new("/d/a")).unwrap();
    let crashes = (0..200).map(|_| {
        let copy = disk.copy();
        copy.crash(mode.clone());
        let mut found = names(&copy);
        found.push(copy.read_file("/d/a").len().to_string());
        found
    });
    crashes.collect()
}

#[test]
fn names_survive_in_order_or_in_nasty_mode_in_any_combination() {
    let listed = |sets: &[&[&str]]| -> BTreeSet<Vec<String>> {
        let owned = |set: &&[&str]| set.iter().map(|name| (*name).to_owned()).collect();
        sets.iter().map(owned).collect()
    };
    let in_order = [
        &["/d/a", "3"][..],
        &["/d/a", "/d/b", "3"],
        &["/d/a", "/d/b", "/d/c", "3"],
        &["/d/a", "/d/c", "0"],
    ];
    assert_eq!(outcomes(&CrashMode::Random), listed(&in_order));
    let mut any = in_order.to_vec();
    any.extend([&["/d/a", "0"][..], &["/d/a", "/d/c", "3"]]);
    assert_eq!(outcomes(&CrashMode::Nasty), listed(&any));
}

#[test]
fn handles_and_locks_end_with_the_machine() {
    let (disk, file) = with_file(b"x");
    let lock = disk.lock(Path::new("/d/lock")).unwrap();
    let process = disk.until_crash();
    assert!(process.exists(Path::new("/d/f")).unwrap());
    disk.crash(CrashMode::KeepAll);
    let before = disk.calls();
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(file.write_at(b"y", 0).is_err());
    assert!(file.sync_data().is_err());
    assert!(file.len().is_err());
    assert!(process.open(Path::new("/d/f")).is_err());
    assert_eq!(disk.calls(), before);
    let again = disk.lock(Path::new("/d/lock")).unwrap();
    drop((lock, file));
    let held = disk.lock(Path::new("/d/lock")).unwrap_err();
    assert_eq!(held.kind(), ErrorKind::WouldBlock);
    drop(again);
    disk.until_crash().lock(Path::new("/d/lock")).unwrap();
}

#[test]
fn every_subset_of_pending_sectors_can_be_had_with_every_fill() {
    let old: Vec<u8> = vec![1; 2 * SECTOR];
    let (disk, file) = with_file(&old);
    file.write_all_at(&[2; 2 * SECTOR], SECTOR as u64 - 12)
        .unwrap();
    assert_eq!(disk.pending_sectors("/d/f"), [0, 512, 1024]);
    for keep in 0..8_u64 {
        for (fill, filled) in [
            (Fill::Old, None),
            (Fill::Zero, Some(0)),
            (Fill::Ones, Some(0xFF)),
        ] {
            for keep_size in [false, true] {
                let copy = disk.copy();
                copy.crash(tear(keep, fill, keep_size));
                let mut expected = old.clone();
                expected.resize(3 * SECTOR - 12, 0);
                for (at, expected) in expected.iter_mut().enumerate().skip(SECTOR - 12) {
                    if keep & (1 << (at / SECTOR)) != 0 {
                        *expected = 2;
                    } else if let Some(byte) = filled {
                        *expected = byte;
                    }
                }
                expected.truncate(if keep_size {
                    3 * SECTOR - 12
                } else {
                    2 * SECTOR
                });
                assert_eq!(
                    copy.read_file("/d/f"),
                    expected,
                    "{keep} {fill:?} {keep_size}"
                );
            }
        }
    }
}

#[test]
fn a_torn_sector_leaves_its_synced_bytes_alone() {
    let (disk, file) = with_file(&[1; 100]);
    file.write_all_at(&[2; 100], 100).unwrap();
    disk.crash(tear(0, Fill::Garbage, true));
    let bytes = disk.read_file("/d/f");
    assert_eq!(bytes[..100], [1; 100]);
    assert!(bytes[100..].iter().collect::<BTreeSet<_>>().len() > 50);
}

#[test]
fn a_choice_of_sectors_says_what_becomes_of_the_rest() {
    for keep_rest in [false, true] {
        let (disk, file) = with_file(&[1; 100]);
        file.write_all_at(&[2; 100], 0).unwrap();
        file.set_len(50).unwrap();
        disk.create(Path::new("/d/g")).unwrap();
        disk.crash(CrashMode::Sectors(SectorChoice {
            path: "/d/f".into(),
            keep: 1,
            fill: Fill::Old,
            keep_size: true,
            keep_rest,
        }));
        assert_eq!(disk.read_file("/d/f"), [2; 50]);
        assert_eq!(disk.exists(Path::new("/d/g")).unwrap(), keep_rest);
    }
}

#[test]
#[should_panic(expected = "cannot tear /d/f")]
fn tearing_a_missing_file_is_a_mistake_of_the_test() {
    SimDisk::new(0).crash(tear(0, Fill::Old, false));
}

#[test]
fn a_random_crash_touches_nothing_that_was_synced() {
    let (disk, file) = with_file(&[1; 8 * SECTOR]);
    file.write_all_at(&[2; 3 * SECTOR], 100).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[3; 2 * SECTOR], 4 * SECTOR as u64 + 7)
        .unwrap();
    file.write_all_at(&[4; SECTOR], 8 * SECTOR as u64).unwrap();
    let mut kinds = BTreeSet::new();
    for _ in 0..300 {
        let copy = disk.copy();
        copy.crash(CrashMode::Random);
        let bytes = copy.read_file("/d/f");
        assert_eq!(bytes[..100], [1; 100]);
        assert_eq!(bytes[100..100 + 3 * SECTOR], [2; 3 * SECTOR]);
        assert_eq!(bytes[100 + 3 * SECTOR..4 * SECTOR + 7], [1; SECTOR - 93]);
        assert_eq!(bytes[6 * SECTOR + 7..8 * SECTOR], [1; 2 * SECTOR - 7]);
        let sector = &bytes[5 * SECTOR..6 * SECTOR];
        let uniform = sector.iter().all(|byte| *byte == sector[0]);
        kinds.insert(if uniform { sector[0] } else { 99 });
        kinds.insert(if bytes.len() == 8 * SECTOR { 100 } else { 101 });
    }
    assert_eq!(kinds, BTreeSet::from([0, 1, 3, 99, 100, 101]));
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        disk.write_file("/f", &[1; 5000]);
        let file = disk.open(Path::new("/f")).unwrap();
        disk.fail_call(1, DiskFault::Short);
        let short = file.write_at(&[2; 4000], 3000).unwrap();
        file.write_all_at(&[3; 4000], 9000).unwrap();
        disk.crash(CrashMode::Random);
        (short, disk.read_file("/f"))
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn the_planned_call_fails_with_the_planned_error_and_does_nothing() {
    let cases = [
        (DiskFault::Io, None),
        (DiskFault::NoSpace, Some(ErrorKind::StorageFull)),
        (DiskFault::Quota, Some(ErrorKind::QuotaExceeded)),
        (DiskFault::ReadOnly, Some(ErrorKind::ReadOnlyFilesystem)),
        (DiskFault::Interrupted, Some(ErrorKind::Interrupted)),
    ];
    for (fault, kind) in cases {
        let (disk, file) = with_file(b"old");
        disk.fail_call(2, fault);
        assert_eq!(file.len().unwrap(), 3);
        let error = file.write_at(b"new", 0).unwrap_err();
        assert_eq!(error.raw_os_error(), fault.errno());
        assert!(kind.is_none_or(|kind| kind == error.kind()), "{error:?}");
        assert_eq!(disk.read_file("/d/f"), b"old");
        assert_eq!(file.write_at(b"new", 0).unwrap(), 3);
        disk.fail_call(1, fault);
        assert!(disk.remove(Path::new("/d/f")).is_err());
        assert!(disk.exists(Path::new("/d/f")).unwrap());
    }
}

#[test]
fn a_late_failure_comes_after_the_work() {
    let (disk, file) = with_file(b"old");
    file.write_all_at(b"new", 0).unwrap();
    disk.fail_call_late(1, DiskFault::Io);
    assert!(file.sync_data().is_err());
    disk.fail_call_late(1, DiskFault::Io);
    assert!(disk.lock(Path::new("/d/lock")).is_err());
    disk.lock(Path::new("/d/lock")).unwrap();
    disk.fail_call_late(1, DiskFault::Io);
    assert!(disk.rename(Path::new("/d/f"), Path::new("/d/g")).is_err());
    assert_eq!(disk.read_file("/d/g"), b"new");
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(disk.read_file("/d/f"), b"new");
}

#[test]
fn short_transfers_and_interruptions_are_survived_by_the_whole_transfers() {
    let (disk, file) = with_file(&[]);
    let bytes: Vec<u8> = (0..=255).collect();
    for k in [1, 3, 4] {
        disk.fail_call(k, DiskFault::Short);
    }
    disk.fail_call(2, DiskFault::Interrupted);
    file.write_all_at(&bytes, 0).unwrap();
    assert_eq!(disk.calls(), 6);
    disk.fail_call(1, DiskFault::Interrupted);
    disk.fail_call(2, DiskFault::Short);
    let mut read = vec![0; 256];
    file.read_exact_at(&mut read, 0).unwrap();
    assert_eq!(read, bytes);
    assert_eq!(disk.calls(), 9);
}

#[test]
fn a_failed_sync_gives_up_pages_that_reads_still_show() {
    let (disk, file) = with_file(b"old");
    file.write_all_at(b"new longer", 0).unwrap();
    disk.fail_call(1, DiskFault::Io);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(disk.read_file("/d/f"), b"new longer");
    assert_eq!(disk.pending_sectors("/d/f"), [0; 0]);
    disk.crash(CrashMode::KeepAll);
    assert_eq!(disk.read_file("/d/f"), b"old");
}

#[test]
fn a_failed_sync_of_a_directory_gives_up_its_names() {
    let disk = SimDisk::new(0);
    disk.create(Path::new("/f")).unwrap();
    disk.fail_call(1, DiskFault::Io);
    assert!(disk.sync_dir(Path::new("/")).is_err());
    disk.sync_dir(Path::new("/")).unwrap();
    assert_eq!(names(&disk), ["/f"]);
    disk.crash(CrashMode::KeepAll);
    assert_eq!(names(&disk), [""; 0]);
}

#[test]
fn planned_failures_outlive_a_crash_unless_cleared() {
    let (disk, _) = with_file(b"");
    disk.fail_call(1, DiskFault::Io);
    disk.crash(CrashMode::KeepAll);
    assert!(disk.list(Path::new("/")).is_err());
    disk.fail_call(1, DiskFault::Io);
    disk.lose_next_write();
    disk.clear_faults();
    let file = disk.open(Path::new("/d/f")).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(disk.read_file("/d/f"), b"x");
}

#[test]
fn a_full_disk_takes_overwrites_but_nothing_new() {
    let disk = SimDisk::new(0);
    disk.set_capacity(3 * 4096);
    let file = disk.create(Path::new("/f")).unwrap();
    file.write_all_at(&[0; 2 * 4096], 0).unwrap();
    assert_eq!(file.write_at(&[1; 3 * 4096], 4096).unwrap(), 2 * 4096);
    let full = file.write_at(&[1; 10], 3 * 4096).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(full.raw_os_error(), Some(28));
    file.write_all_at(&[2; 3 * 4096], 0).unwrap();
    file.sync_data().unwrap();
    let refused = disk.create(Path::new("/g")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StorageFull);
    disk.remove(Path::new("/f")).unwrap();
    assert!(
        disk.create(Path::new("/g")).is_err(),
        "the open file still takes its space"
    );
    drop(file);
    disk.create(Path::new("/g")).unwrap();
    disk.clear_capacity();
}

#[test]
fn an_absurd_size_is_refused() {
    let (_, file) = with_file(b"");
    for offset in [content::FILE_BYTES_MAX, u64::MAX] {
        let error = file.write_at(b"x", offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }
    assert!(file.set_len(content::FILE_BYTES_MAX + 1).is_err());
    file.set_len(content::FILE_BYTES_MAX).unwrap();
}

#[test]
fn an_unreadable_sector_fails_reads_until_it_is_rewritten() {
    let (disk, file) = with_file(&[7; 2000]);
    disk.fail_reads("/d/f", 1030);
    disk.crash(CrashMode::KeepAll);
    assert!(file.len().is_err());
    let file = disk.open(Path::new("/d/f")).unwrap();
    let mut buffer = [0; 512];
    assert_eq!(file.read_at(&mut buffer, 512).unwrap(), 512);
    let error = file.read_at(&mut buffer, 600).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
    file.write_all_at(&[8; 512], 1024).unwrap();
    assert_eq!(file.read_at(&mut buffer, 1024).unwrap(), 512);
    assert_eq!(buffer, [8; 512]);
}

#[test]
fn damage_is_durable_and_seen_at_once() {
    let (disk, _) = with_file(&[0; 10]);
    disk.flip_bit("/d/f", 8 * 3 + 7);
    disk.flip_bit("/d/f", 8 * 10);
    disk.patch_file("/d/f", 8, b"abc");
    let expected = b"\0\0\0\x80\0\0\0\0ab";
    assert_eq!(disk.read_file("/d/f"), expected);
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(disk.read_file("/d/f"), expected);
}

#[test]
fn a_lost_write_shows_until_the_cache_is_dropped() {
    let (disk, file) = with_file(b"0123456789");
    disk.lose_next_write();
    file.write_all_at(b"ABCD", 8).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.read_file("/d/f"), b"x1234567ABCD");
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(disk.read_file("/d/f"), b"x123456789\0\0");
}

#[test]
fn a_misdirected_write_hits_the_wrong_place() {
    let (disk, file) = with_file(b"0123456789");
    disk.misdirect_next_write(2);
    file.write_all_at(b"AB", 6).unwrap();
    disk.misdirect_next_write(u64::MAX);
    file.write_all_at(b"CD", 8).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.read_file("/d/f"), b"012345ABCD");
    disk.crash(CrashMode::Random);
    assert_eq!(disk.read_file("/d/f"), b"01AB456789");
}

#[test]
fn the_trace_tells_each_call_and_how_it_ended() {
    let disk = SimDisk::new(0);
    let file = disk.create(Path::new("/f")).unwrap();
    file.write_all_at(b"abc", 5).unwrap();
    disk.rename(Path::new("/f"), Path::new("/g")).unwrap();
    disk.fail_call(1, DiskFault::NoSpace);
    assert!(file.sync_data().is_err());
    let trace = disk.trace();
    let ops: Vec<_> = trace.iter().map(|call| (call.number, call.op)).collect();
    let expected = [
        DiskOp::Create,
        DiskOp::Write,
        DiskOp::Rename,
        DiskOp::SyncData,
    ];
    assert_eq!(ops, (1..).zip(expected).collect::<Vec<_>>());
    assert_eq!((trace[1].offset, trace[1].len), (5, 3));
    assert_eq!(trace[2].to.as_deref(), Some(Path::new("/g")));
    assert_eq!(&*trace[3].path, Path::new("/f"));
    assert_eq!(trace[3].error, Some(ErrorKind::StorageFull));
    disk.clear_trace();
    assert_eq!(disk.trace(), []);
    assert_eq!(disk.calls(), 4);
}

#[test]
fn the_trace_is_bounded() {
    let disk = SimDisk::new(0);
    for _ in 0..DISK_TRACE_MAX + 10 {
        disk.exists(Path::new("/")).unwrap();
    }
    let trace = disk.trace();
    assert_eq!(trace.len(), DISK_TRACE_MAX);
    assert_eq!(trace[0].number, 11);
}

#[test]
fn a_copy_goes_its_own_way() {
    let (disk, file) = with_file(b"old");
    file.write_all_at(b"new", 0).unwrap();
    let _lock = disk.lock(Path::new("/d/lock")).unwrap();
    let copy = disk.copy();
    assert_eq!(copy.calls(), 0);
    let _free = copy.lock(Path::new("/d/lock")).unwrap();
    copy.crash(CrashMode::LoseUnsynced);
    assert_eq!(copy.read_file("/d/f"), b"old");
    assert_eq!(disk.read_file("/d/f"), b"new");
    file.write_all_at(b"!", 3).unwrap();
    file.sync_data().unwrap();
    assert_eq!(copy.read_file("/d/f"), b"old");
}

#[test]
fn files_put_and_taken_are_so_durably_even_where_changes_were_pending() {
    let disk = SimDisk::new(0);
    disk.create_dir(Path::new("/d")).unwrap();
    let file = disk.create(Path::new("/d/f")).unwrap();
    file.write_all_at(b"pending", 0).unwrap();
    disk.write_file("/d/f", b"put");
    assert_eq!(file.len().unwrap(), 3);
    disk.write_file("/d/g", b"");
    disk.remove_file("/d/g");
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(names(&disk), ["/d/f"]);
    assert_eq!(disk.read_file("/d/f"), b"put");
}

#[test]
fn what_nothing_leads_to_is_forgotten() {
    let disk = SimDisk::new(0);
    for _ in 0..10 {
        let file = disk.create(Path::new("/tmp")).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        disk.rename(Path::new("/tmp"), Path::new("/f")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    assert_eq!(disk.state.lock().tree.nodes.len(), 2);
}

#[test]
fn a_machine_whose_power_is_cut_does_a_few_calls_and_no_more() {
    let (disk, file) = with_file(b"");
    disk.cut_power_after(2);
    file.write_all_at(b"ab", 0).unwrap();
    file.sync_data().unwrap();
    assert!(file.write_all_at(b"cd", 2).is_err());
    assert!(disk.list(Path::new("/")).is_err());
    disk.crash(CrashMode::KeepAll);
    assert_eq!(disk.read_file("/d/f"), b"ab");
    assert!(disk.list(Path::new("/")).is_ok(), "the power is back");
}

#[test]
fn a_sync_that_is_held_makes_nothing_durable_before_it_is_released() {
    let (disk, file) = with_file(b"");
    let copies = disk.clone();
    disk.hold_syncs("/");
    file.write_all_at(b"slow", 0).unwrap();
    let syncing = std::thread::spawn(move || file.sync_data());
    let early = copies.copy();
    early.crash(CrashMode::LoseUnsynced);
    assert_eq!(early.read_file("/d/f"), b"");
    disk.release_syncs();
    syncing.join().unwrap().unwrap();
    disk.crash(CrashMode::LoseUnsynced);
    assert_eq!(disk.read_file("/d/f"), b"slow");
}

#[test]
fn a_crash_ends_a_sync_that_is_held() {
    let (disk, file) = with_file(b"");
    disk.hold_syncs("/");
    let syncing = std::thread::spawn(move || file.sync_data());
    disk.crash(CrashMode::LoseUnsynced);
    assert!(syncing.join().unwrap().is_err());
}
