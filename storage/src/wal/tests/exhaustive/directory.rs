//! Every file of a data directory, gone wrong in every way in which files do.
//!
//! What must be answered follows from what a file is for, and stands in one table. The log refuses
//! what it cannot do without, naming it and changing nothing, and does without the rest: never is
//! something else taken for the log, and never less.

use std::path::{Path, PathBuf};

use super::bench::{CONTROL, DIR, SIZE, WAL};
use super::files::{Answer, Log, segment};
use super::stage::{create, fill, flushed, open, timeline};
use crate::disk::{Disk, SimDisk};
use crate::lsn::Lsn;
use crate::wal::{BROKEN_FILE, BrokenMark};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Control,
    /// A segment of the log, and how many of its bytes hold log.
    Segment(usize),
    /// The history of the current timeline.
    History,
    /// Not needed to open the log: the lock, spares, what other timelines left, what was cut off,
    /// and the mark on a store.
    Aside,
}

/// Two promotions, a cut, slots, promises, and a mark on the store: every kind of file there is.
fn directory(closed: bool) -> Log {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    wal.set_commit_follows(false);
    fill(&wal, 5, 240_000);
    let fork = wal.flushed().get();
    wal.save_promises(Some(timeline(7, 7)), None).unwrap();
    flushed(&wal, "cut off again");
    wal.cut(fork).unwrap();
    wal.open_timeline(timeline(8, 8), "first").unwrap();
    fill(&wal, 4, 240_000);
    wal.open_timeline(timeline(9, 9), "second").unwrap();
    fill(&wal, 4, 240_000);
    let slots = |control: &mut crate::control::Control| control.slots = vec![5; 90];
    wal.update_control(slots).unwrap();
    let at = SIZE.first_lsn();
    let why = "a row differs".to_owned();
    wal.mark_broken(&BrokenMark { at, why }).unwrap();
    flushed(&wal, "the last one");
    // Until the other thread has made a spare.
    while wal.shared().spares.covered_until() < wal.appended() + SIZE.bytes() {
        std::thread::yield_now();
    }
    Log::of(wal, disk, closed)
}

fn role(log: &Log, path: &Path) -> Role {
    let live = [segment(1, 1), segment(8, 2), segment(9, 3), segment(9, 4)];
    if path == Path::new(CONTROL) {
        return Role::Control;
    }
    if path == Path::new(WAL).join("00000009.history") {
        return Role::History;
    }
    match live.iter().position(|segment| segment == path) {
        Some(n) => {
            let end = log.end.min(SIZE.start_of(n as u64 + 2));
            let used = end.bytes_since(SIZE.start_of(n as u64 + 1));
            Role::Segment(usize::try_from(used).unwrap())
        }
        None => Role::Aside,
    }
}

/// How one file may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Deleted,
    Renamed,
    Cut(usize),
    Zeroed,
    Extended,
    Copied,
    Directory,
    Unreadable,
}

impl Wrong {
    /// All of them, for a file of `len` bytes.
    fn all(len: usize) -> Vec<Self> {
        let mut all = vec![
            Self::Deleted,
            Self::Renamed,
            Self::Zeroed,
            Self::Extended,
            Self::Copied,
            Self::Directory,
            Self::Unreadable,
        ];
        let lengths = [0, 1, 27, 512, 4096, len / 3, len / 2, len - len.min(1)];
        all.extend(lengths.into_iter().filter(|&cut| cut < len).map(Self::Cut));
        all
    }

    fn befall(self, disk: &SimDisk, path: &Path) {
        let bytes = disk.read_file(path);
        let beside = path.with_file_name("renamed");
        match self {
            Self::Deleted => disk.remove_file(path),
            Self::Renamed => disk.rename(path, &beside).unwrap(),
            Self::Cut(len) => disk.write_file(path, &bytes[..len]),
            Self::Zeroed => disk.write_file(path, &vec![0; bytes.len()]),
            Self::Extended => disk.write_file(path, &[&bytes[..], &[0xA5; 5000]].concat()),
            Self::Copied => disk.write_file(beside, &bytes),
            Self::Directory => {
                disk.remove_file(path);
                disk.create_dir(path).unwrap();
            }
            Self::Unreadable if bytes.is_empty() => {}
            Self::Unreadable => disk.fail_reads(path, 0),
        }
    }

    /// The table: what opening must answer.
    fn answer(self, role: Role, path: &Path) -> Answer {
        // All that this log's control file holds in a slot; the other slot has a copy of it.
        const SLOT: usize = 512;
        match (self, role) {
            (Self::Copied, _) => Answer::Same,
            (Self::Directory, Role::Aside) if path.ends_with("lock") => Answer::Io,
            (_, Role::Aside) => Answer::Same,
            (Self::Directory | Self::Unreadable, _) => Answer::Io,
            (Self::Deleted | Self::Renamed, Role::Control) => Answer::Io,
            (Self::Extended, Role::Control | Role::Segment(_)) => Answer::Same,
            (Self::Cut(len), Role::Control) if len >= SLOT => Answer::Same,
            (Self::Cut(len), Role::Segment(used)) if len >= used => Answer::Same,
            _ => Answer::Corrupt,
        }
    }
}

/// The file is not what its role needs, because it holds another file's bytes.
fn answer_to_other_bytes(role: Role) -> Answer {
    match role {
        Role::Aside => Answer::Same,
        Role::Control | Role::Segment(_) | Role::History => Answer::Corrupt,
    }
}

fn worse(one: Answer, other: Answer) -> Answer {
    if one == Answer::Same { other } else { one }
}

fn files(log: &Log) -> Vec<(PathBuf, Role)> {
    let files = log.disk.files().into_iter();
    let files = files.map(|path| (path.clone(), role(log, &path)));
    let files = files.collect::<Vec<_>>();
    let count = |wanted: fn(&Role) -> bool| files.iter().filter(|(_, role)| wanted(role)).count();
    assert_eq!(count(|role| matches!(role, Role::Segment(_))), 4);
    assert_eq!(count(|role| *role == Role::History), 1);
    // Lock, mark, spares, two segments and a history of others, and what was cut off.
    assert!(count(|role| *role == Role::Aside) >= 7, "{files:?}");
    files
}

#[test]
fn any_file_of_a_directory_that_goes_wrong_is_named_or_not_missed() {
    for closed in [true, false] {
        let log = directory(closed);
        for (path, role) in files(&log) {
            for wrong in Wrong::all(log.disk.read_file(&path).len()) {
                let case = format!("{} {wrong:?}, closed {closed}", path.display());
                log.expect(wrong.answer(role, &path), &case, |disk| {
                    wrong.befall(disk, &path);
                });
            }
        }
    }
}

#[test]
fn any_two_files_of_a_directory_that_are_exchanged_are_named_or_not_missed() {
    for closed in [true, false] {
        let log = directory(closed);
        let files = files(&log);
        for (n, (path, role)) in files.iter().enumerate() {
            for (other, others_role) in &files[n + 1..] {
                let (here, there) = (log.disk.read_file(path), log.disk.read_file(other));
                if here == there {
                    continue;
                }
                let case = |what: &str| {
                    format!(
                        "{} {what} {}, closed {closed}",
                        path.display(),
                        other.display()
                    )
                };
                let (mine, theirs) = (
                    answer_to_other_bytes(*role),
                    answer_to_other_bytes(*others_role),
                );
                log.expect(mine, &case("is a copy of"), |disk| {
                    disk.write_file(path, &there)
                });
                log.expect(theirs, &case("was copied over"), |disk| {
                    disk.write_file(other, &here);
                });
                log.expect(worse(mine, theirs), &case("exchanged with"), |disk| {
                    disk.write_file(path, &there);
                    disk.write_file(other, &here);
                });
            }
        }
    }
}

/// A log whose control file was last changed by a promotion, behind which there is more log.
fn promoted() -> Log {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    fill(&wal, 3, 100_000);
    wal.open_timeline(timeline(2, 2), "promoted").unwrap();
    fill(&wal, 3, 100_000);
    Log::of(wal, disk, false)
}

#[test]
fn damage_to_one_slot_of_the_control_file_makes_nobody_forget_anything() {
    for (n, log) in [promoted(), directory(true), directory(false)]
        .iter()
        .enumerate()
    {
        for slot in [0, 32 << 10] {
            for byte in (0..300).step_by(7) {
                let case = format!("log {n}, byte {byte} of the slot at {slot} flipped");
                log.expect(Answer::Same, &case, |disk| {
                    disk.flip_bit(CONTROL, (slot + byte) * 8 + byte % 8);
                });
            }
            let case = format!("log {n}, the slot at {slot} was never written");
            log.expect(Answer::Same, &case, |disk| {
                disk.patch_file(CONTROL, slot, &vec![0; 32 << 10]);
            });
        }
    }
}

#[test]
fn spares_of_any_kind_do_no_harm_to_the_log_that_goes_on_in_them() {
    let log = directory(false);
    let spare = |path: &PathBuf| path.display().to_string().contains("spare-");
    let spares = log
        .disk
        .files()
        .into_iter()
        .filter(spare)
        .collect::<Vec<_>>();
    assert!(!spares.is_empty());
    for wrong in Wrong::all(1 << 20) {
        let disk = log.disk.copy();
        spares.iter().for_each(|path| wrong.befall(&disk, path));
        let (wal, recovered) = open(disk.clone()).unwrap();
        assert_eq!(recovered.end, log.end, "{wrong:?}");
        fill(&wal, 20, 240_000);
        let end = wal.flushed().get();
        drop(wal);
        disk.crash(crate::disk::CrashMode::LoseUnsynced);
        assert_eq!(open(disk).unwrap().1.end, end, "{wrong:?}");
    }
}

#[test]
fn a_mark_on_a_store_is_only_gone_when_its_file_is() {
    let log = directory(true);
    let path = Path::new(DIR).join(BROKEN_FILE);
    for wrong in Wrong::all(log.disk.read_file(&path).len()) {
        let disk = log.disk.copy();
        wrong.befall(&disk, &path);
        let (wal, _) = open(disk).unwrap();
        let gone = matches!(wal.broken(), Ok(None));
        let deleted = matches!(wrong, Wrong::Deleted | Wrong::Renamed);
        assert_eq!(gone, deleted, "{wrong:?}");
    }
    assert!(log.end > Lsn::ZERO);
}
