//! Damage to a simulated disk: bits that flip, sectors that cannot be read, writes that go astray.
//!
//! What is chosen at random is chosen by the seed that is given, not by the disk's own dice, so
//! that a fault changes nothing else about a run. Only bytes that hold something are chosen: a
//! fault among the zeros of a preallocated file would hit nothing anybody relies on.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::SimDisk;
use super::content::{Content, PAGE_BYTES};
use super::file::{Mishap, SECTOR_BYTES};
use super::random::Random;
use super::state::State;

impl SimDisk {
    /// Makes the device lose the next write: reads show it until a crash, the disk never has it.
    pub fn lose_next_write(&self) {
        self.lose_next_write_below("");
    }

    /// Makes the device lose the next write to `path`, or to a file below it. A file counts by the
    /// name that it was opened by.
    pub fn lose_next_write_below(&self, path: impl AsRef<Path>) {
        self.mislay(path.as_ref(), Mishap::Lost);
    }

    /// Makes the device put the next write at `to_offset` of its file instead, as far as that is
    /// within the file. Reads show it where it belongs until a crash.
    pub fn misdirect_next_write(&self, to_offset: u64) {
        self.mislay(Path::new(""), Mishap::Misdirected(to_offset));
    }

    /// Makes the device put the next write to `path`, or to a file below it, at other sectors of
    /// the same file, which `seed` chooses; where it should have gone the old bytes stay. Whole
    /// sectors move, as a device moves them. Reads show it where it belongs until a crash. A file
    /// of a single sector has no other place: such a write is lost.
    pub fn misdirect_next_write_below(&self, path: impl AsRef<Path>, seed: u64) {
        self.mislay(path.as_ref(), Mishap::Astray(seed));
    }

    /// Whether a write that is to be lost or misdirected has still to come.
    pub fn awaits_mishap(&self) -> bool {
        self.state.lock().mishap.is_some()
    }

    fn mislay(&self, path: &Path, mishap: Mishap) {
        self.state.lock().mishap = Some((path.to_owned(), mishap));
    }

    /// Makes reads of the 512-byte sector around `offset` fail with `EIO` until it is rewritten
    /// as a whole.
    ///
    /// # Panics
    /// When there is no such file.
    #[track_caller]
    pub fn fail_reads(&self, path: impl AsRef<Path>, offset: u64) {
        self.with_file(path.as_ref(), |file| file.make_unreadable(offset));
    }

    /// Makes reads of `sectors` sectors in a row fail as [`fail_reads`](Self::fail_reads) does, at
    /// a place of `path`, or of a file below it, which `seed` chooses among what is on the disk;
    /// fewer at the end of the file. Returns the file and the offsets in bytes; `None` where there
    /// is nothing to choose from.
    pub fn fail_random_reads(
        &self,
        path: impl AsRef<Path>,
        seed: u64,
        sectors: u64,
    ) -> Option<(PathBuf, Range<u64>)> {
        let (file, at) = self.random_byte(path.as_ref(), &mut Random::new(seed))?;
        let begin = at - at % SECTOR_BYTES;
        let length = self.with_file(&file, |file| file.durable().len());
        let end = length.next_multiple_of(SECTOR_BYTES);
        let end = end.min(begin + sectors * SECTOR_BYTES);
        for at in (begin..end).step_by(SECTOR_BYTES as usize) {
            self.fail_reads(&file, at);
        }
        Some((file, begin..end))
    }

    /// Inverts a bit of what is on the disk, counted from the file's start, the lowest of a byte
    /// first; readers see it at once. Nothing happens beyond the end.
    ///
    /// # Panics
    /// When there is no such file.
    #[track_caller]
    pub fn flip_bit(&self, path: impl AsRef<Path>, bit: u64) {
        self.damage(path.as_ref(), |content| content.flip(bit));
    }

    /// Inverts a bit as [`flip_bit`](Self::flip_bit) does, of `path` or of a file below it, which
    /// `seed` chooses among what is on the disk. Returns the file and the bit; `None` where there
    /// is nothing to choose from.
    pub fn flip_random_bit(&self, path: impl AsRef<Path>, seed: u64) -> Option<(PathBuf, u64)> {
        let mut random = Random::new(seed);
        let (file, at) = self.random_byte(path.as_ref(), &mut random)?;
        let bit = at * 8 + random.next() % 8;
        self.flip_bit(&file, bit);
        Some((file, bit))
    }

    /// Overwrites what is on the disk within the file; readers see it at once.
    ///
    /// # Panics
    /// When there is no such file.
    #[track_caller]
    pub fn patch_file(&self, path: impl AsRef<Path>, offset: u64, bytes: &[u8]) {
        self.damage(path.as_ref(), |content| content.patch(bytes, offset));
    }

    #[track_caller]
    fn damage(&self, path: &Path, change: impl FnMut(&mut Content)) {
        self.with_file(path, |file| file.damage(change));
    }

    /// A byte in a page that is on the disk and holds something.
    fn random_byte(&self, path: &Path, random: &mut Random) -> Option<(PathBuf, u64)> {
        let state = self.state.lock();
        let files = state.tree.files().into_iter();
        let pages = files
            .filter(|file| file.starts_with(path))
            .flat_map(|file| {
                let pages = durable_pages(&state, &file);
                pages.into_iter().map(move |page| (file.clone(), page))
            })
            .collect::<Vec<_>>();
        if pages.is_empty() {
            return None;
        }
        let (file, page) = pages[random.index(pages.len())].clone();
        let length = usize::try_from(page.end - page.start).unwrap_or(PAGE_BYTES);
        Some((file, page.start + random.index(length) as u64))
    }
}

fn durable_pages(state: &State, file: &Path) -> Vec<Range<u64>> {
    match state.tree.lookup_file(file) {
        Ok(id) => state.tree.file(id).durable().pages().collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::disk::{CrashMode, Disk, DiskFile};

    fn with_files() -> SimDisk {
        let disk = SimDisk::new(1);
        disk.write_file("/a/log/1", &[0x11; 6000]);
        disk.write_file("/a/log/2", &[0x22; 100]);
        disk.write_file("/a/log/preallocated", &[0; 50_000]);
        disk.write_file("/a/control", &[0x33; 10]);
        disk
    }

    fn contents(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
        let files = disk.files().into_iter();
        files
            .map(|path| (path.clone(), disk.read_file(path)))
            .collect()
    }

    fn opened(disk: &SimDisk, path: &str) -> Arc<dyn DiskFile> {
        disk.open(Path::new(path)).unwrap()
    }

    #[test]
    fn a_random_flip_changes_the_one_bit_it_names_and_lasts() {
        let mut hit = BTreeSet::new();
        for seed in 0..200 {
            let disk = with_files();
            let (file, bit) = disk.flip_random_bit("/a/log", seed).unwrap();
            let expected = with_files();
            expected.flip_bit(&file, bit);
            assert_ne!(contents(&disk), contents(&with_files()), "seed {seed}");
            disk.crash(CrashMode::LoseUnsynced);
            assert_eq!(contents(&disk), contents(&expected), "seed {seed}");
            hit.insert((file, bit / 8 / 4096));
        }
        let log = |n, page| (PathBuf::from(format!("/a/log/{n}")), page);
        assert_eq!(hit, BTreeSet::from([log(1, 0), log(1, 1), log(2, 0)]));
    }

    #[test]
    fn the_same_seed_hits_the_same_place_and_leaves_the_disk_s_own_dice_alone() {
        let run = |seed: Option<u64>| {
            let disk = with_files();
            let place = seed.and_then(|seed| disk.flip_random_bit("/", seed));
            opened(&disk, "/a/log/1")
                .write_all_at(&[9; 3000], 6000)
                .unwrap();
            disk.crash(CrashMode::Random);
            (place, disk.read_file("/a/log/1").len())
        };
        assert_eq!(run(Some(5)), run(Some(5)));
        assert_ne!(run(Some(5)).0, run(Some(6)).0);
        assert_eq!(run(Some(5)).1, run(None).1);
    }

    #[test]
    fn nothing_is_hit_where_nothing_is_written() {
        let disk = SimDisk::new(1);
        disk.write_file("/a/preallocated", &[0; 50_000]);
        let file = disk.create(Path::new("/a/pending")).unwrap();
        file.write_all_at(&[1; 5000], 0).unwrap();
        assert_eq!(disk.flip_random_bit("/", 1), None);
        assert_eq!(disk.fail_random_reads("/", 1, 1), None);
        file.sync_data().unwrap();
        assert!(disk.flip_random_bit("/", 1).is_some());
        assert_eq!(disk.flip_random_bit("/b", 1), None);
    }

    #[test]
    fn random_sectors_stay_unreadable_until_they_are_rewritten() {
        let mut lengths = BTreeSet::new();
        for seed in 0..50 {
            let disk = with_files();
            let (path, hit) = disk.fail_random_reads("/a/log/1", seed, 2).unwrap();
            let bad = hit.clone().step_by(512).collect::<Vec<_>>();
            disk.crash(CrashMode::KeepAll);
            let file = disk.open(&path).unwrap();
            let mut sector = [0; 512];
            let mut failing = || {
                let offsets = (0..6000).step_by(512);
                let failed = offsets.filter(|&at| file.read_at(&mut sector, at).is_err());
                failed.collect::<Vec<_>>()
            };
            assert_eq!(failing(), bad, "seed {seed}");
            for (n, &at) in bad.iter().enumerate() {
                file.write_all_at(&[4; 512], at).unwrap();
                assert_eq!(failing(), bad[n + 1..], "seed {seed}");
            }
            lengths.insert(bad.len());
        }
        assert_eq!(lengths, BTreeSet::from([1, 2]));
    }

    #[test]
    fn only_a_write_below_the_named_directory_is_lost() {
        let disk = with_files();
        disk.lose_next_write_below("/a/log");
        opened(&disk, "/a/control")
            .write_all_at(b"kept", 0)
            .unwrap();
        assert!(disk.awaits_mishap());
        let log = opened(&disk, "/a/log/2");
        log.write_all_at(b"lost", 0).unwrap();
        assert!(!disk.awaits_mishap());
        log.write_all_at(b"kept", 50).unwrap();
        log.sync_data().unwrap();
        opened(&disk, "/a/control").sync_data().unwrap();
        disk.crash(CrashMode::LoseUnsynced);
        assert_eq!(&disk.read_file("/a/control")[..4], b"kept");
        assert_eq!(&disk.read_file("/a/log/2")[..4], [0x22; 4]);
        assert_eq!(&disk.read_file("/a/log/2")[50..54], b"kept");
    }

    #[test]
    fn a_write_that_goes_astray_moves_whole_sectors_to_another_place_of_its_file() {
        let old = (0..8192_u32)
            .map(|at| (at / 512) as u8 + 1)
            .collect::<Vec<_>>();
        let mut targets = BTreeSet::new();
        for seed in 0..300 {
            let disk = SimDisk::new(1);
            disk.write_file("/log", &old);
            let file = opened(&disk, "/log");
            disk.misdirect_next_write_below("/log", seed);
            file.write_all_at(&[0xAB; 600], 1100).unwrap();
            file.sync_data().unwrap();
            let mut intended = old.clone();
            intended[1100..1700].fill(0xAB);
            assert_eq!(disk.read_file("/log"), intended, "seed {seed}");
            disk.crash(CrashMode::LoseUnsynced);
            let found = disk.read_file("/log");
            let at = |to: usize| {
                let mut expected = old.clone();
                expected[to..to + 1024].copy_from_slice(&intended[1024..2048]);
                expected == found
            };
            let to = (0..=14).map(|sector| sector * 512).find(|&to| at(to));
            let to = to.unwrap_or_else(|| panic!("seed {seed}: not moved as a whole"));
            assert_ne!(to, 1024, "seed {seed}: it went where it belongs");
            targets.insert(to);
        }
        assert_eq!(targets.len(), 14, "{targets:?}");
    }

    #[test]
    fn a_write_that_has_nowhere_else_to_go_is_lost() {
        let disk = SimDisk::new(1);
        disk.write_file("/small", &[1; 300]);
        let file = opened(&disk, "/small");
        disk.misdirect_next_write_below("/", 1);
        file.write_all_at(&[2; 10], 5).unwrap();
        file.sync_data().unwrap();
        disk.crash(CrashMode::LoseUnsynced);
        assert_eq!(disk.read_file("/small"), [1; 300]);
    }
}
