//! Any course of calls, on both disks.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::disk::{Disk, DiskFile, OsDisk, SimDisk};

/// One call on the files `0` to `3` of two directories, for comparing the disks call by call.
#[derive(Debug, Clone)]
enum Step {
    Open(u8),
    Create(u8),
    Rename(u8, u8),
    Remove(u8),
    RemoveDir(u8),
    SyncFile(u8),
    Entry(u8),
    CreateDir(u8),
    List(u8),
    Exists(u8),
    Lock(u8),
    SyncDir(u8),
    Write(u8, u16, u16),
    SetLen(u8, u16),
    Read(u8, u16, u16),
    SyncData(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..12_u8;
    let slot = || 0..3_u8;
    let size = || 0..10_000_u16;
    prop_oneof![
        name().prop_map(Step::Open),
        name().prop_map(Step::Create),
        (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        name().prop_map(Step::Remove),
        name().prop_map(Step::RemoveDir),
        name().prop_map(Step::SyncFile),
        name().prop_map(Step::Entry),
        name().prop_map(Step::CreateDir),
        name().prop_map(Step::List),
        name().prop_map(Step::Exists),
        name().prop_map(Step::Lock),
        name().prop_map(Step::SyncDir),
        (slot(), size(), size()).prop_map(|(slot, at, len)| Step::Write(slot, at, len)),
        (slot(), size()).prop_map(|(slot, len)| Step::SetLen(slot, len)),
        (slot(), size(), size()).prop_map(|(slot, at, len)| Step::Read(slot, at, len)),
        slot().prop_map(Step::SyncData),
    ]
}

/// Names that are often files, often directories, often below one another.
fn named(dir: &Path, number: u8) -> PathBuf {
    let name = ["a", "b", "a/a", "a/b", "b/a", "b/a/a"][usize::from(number % 6)];
    dir.join(name)
}

/// Makes the call and tells how it ended, in words that both disks should agree on.
fn take(disk: &dyn Disk, dir: &Path, open: &mut Vec<Arc<dyn DiskFile>>, step: &Step) -> String {
    let mut keep = |file| {
        open.insert(0, file);
        open.truncate(3);
    };
    let told: Result<String, ErrorKind> = match step {
        Step::Open(n) => disk.open(&named(dir, *n)).map(|file| {
            keep(file);
            String::new()
        }),
        Step::Create(n) => disk.create(&named(dir, *n)).map(|file| {
            keep(file);
            String::new()
        }),
        Step::Rename(from, to) => {
            let renamed = disk.rename(&named(dir, *from), &named(dir, *to));
            renamed.map(|()| String::new())
        }
        Step::Remove(n) => disk.remove(&named(dir, *n)).map(|()| String::new()),
        Step::RemoveDir(n) => disk.remove_dir(&named(dir, *n)).map(|()| String::new()),
        Step::SyncFile(n) => disk.sync_file(&named(dir, *n)).map(|()| String::new()),
        Step::Entry(n) => disk
            .entry(&named(dir, *n))
            .map(|found| format!("{found:?}")),
        Step::CreateDir(n) => disk.create_dir(&named(dir, *n)).map(|()| String::new()),
        Step::List(n) => disk.list(&named(dir, *n)).map(|names| format!("{names:?}")),
        Step::Exists(n) => disk.exists(&named(dir, *n)).map(|found| found.to_string()),
        Step::Lock(n) => disk.lock(&named(dir, *n)).map(|_| String::new()),
        Step::SyncDir(n) => disk.sync_dir(&named(dir, *n)).map(|()| String::new()),
        Step::Write(slot, at, len) => with(open, *slot, |file| {
            let bytes: Vec<u8> = (0..*len)
                .map(|i| i.to_le_bytes()[0] ^ at.to_le_bytes()[0])
                .collect();
            file.write_all_at(&bytes, u64::from(*at))
                .map(|()| String::new())
        }),
        Step::SetLen(slot, len) => with(open, *slot, |file| {
            file.set_len(u64::from(*len)).map(|()| String::new())
        }),
        Step::Read(slot, at, len) => with(open, *slot, |file| {
            let mut bytes = vec![0; usize::from(*len)];
            let read = file.read_at(&mut bytes, u64::from(*at))?;
            Ok(format!("{} of {}: {:?}", read, file.len()?, &bytes[..read]))
        }),
        Step::SyncData(slot) => with(open, *slot, |file| file.sync_data().map(|()| String::new())),
    }
    .map_err(|error| error.kind());
    format!("{told:?}")
}

fn with(
    open: &[Arc<dyn DiskFile>],
    slot: u8,
    call: impl FnOnce(&dyn DiskFile) -> io::Result<String>,
) -> io::Result<String> {
    match open.get(usize::from(slot)) {
        Some(file) => call(&**file),
        None => Ok("no such slot".to_owned()),
    }
}

proptest! {
    #![proptest_config(Config { cases: 200, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_twin_answers_any_course_of_calls_as_the_real_disk_does(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let twin = SimDisk::new(1);
        let root = Path::new("/root");
        twin.create_dir(root).unwrap();
        let (mut real_files, mut twin_files) = (Vec::new(), Vec::new());
        for step in &steps {
            let real = take(&OsDisk, dir.path(), &mut real_files, step);
            let simulated = take(&twin, root, &mut twin_files, step);
            prop_assert_eq!(real, simulated, "{:?}", step);
        }
    }
}
