//! What files hold, and what of it would survive a power cut.
//!
//! A file has two contents: what a reader sees, and what was synced. A directory has two lists of
//! entries, and changes to them that wait for a sync of the directory. At a power cut what was not
//! synced is lost, stays, or stays in part: any subset of 4 KiB pages, either size, and changes of
//! directories in any choice that keeps the order of those that depend on one another. A rename is
//! one change. The page of a sync that failed counts as clean afterwards, as it does in Linux, and
//! is lost although it can still be read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use fuser::Errno;

use super::faults::{Call, Faults};
use crate::sim::random::Random;

/// What the disk keeps or loses at once.
const PAGE: usize = 4096;

/// The directory that is mounted.
pub(super) const ROOT: u64 = 1;

pub(super) type Result<T> = std::result::Result<T, Errno>;

/// An entry of a directory.
type Slot = (u64, OsString);

/// A file or directory.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) mode: u32,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    File(File),
    Dir(Dir),
}

#[derive(Debug, Clone, Default)]
pub(super) struct File {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Pages that differ or may.
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Dir {
    now: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
}

/// Entries that change at once: to a file or directory, or to nothing.
#[derive(Debug, Clone)]
struct Change(Vec<(Slot, Option<u64>)>);

/// How much of something survives a power cut.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Survives {
    Nothing,
    Everything,
    Something,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Image {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    /// Changes of directories that no sync made durable, oldest first.
    changes: Vec<Change>,
    pub(super) faults: Faults,
}

impl File {
    fn touch(&mut self, from: usize, to: usize) {
        self.dirty.extend(from / PAGE..to.div_ceil(PAGE));
    }

    fn resize(&mut self, len: usize) {
        let (low, high) = (len.min(self.now.len()), len.max(self.now.len()));
        self.now.resize(len, 0);
        self.touch(low, high);
    }

    fn sync(&mut self) {
        self.keep(self.now.len(), |_| true);
    }

    /// Makes the dirty pages that are chosen durable, and the size.
    fn keep(&mut self, len: usize, mut chosen: impl FnMut(usize) -> bool) {
        self.durable.resize(len, 0);
        for page in std::mem::take(&mut self.dirty) {
            let from = page * PAGE;
            let to = (from + PAGE).min(len).min(self.now.len());
            if chosen(page) && from < to {
                self.durable[from..to].copy_from_slice(&self.now[from..to]);
            }
        }
    }
}

impl Change {
    fn touches(&self, slots: &BTreeSet<Slot>) -> bool {
        self.0.iter().any(|(slot, _)| slots.contains(slot))
    }

    fn slots(&self) -> impl Iterator<Item = Slot> {
        self.0.iter().map(|(slot, _)| slot.clone())
    }
}

impl Image {
    pub(super) fn new() -> Self {
        let root = Inode {
            mode: 0o755,
            kind: Kind::Dir(Dir::default()),
        };
        Self {
            inodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            changes: Vec::new(),
            faults: Faults::default(),
        }
    }

    pub(super) fn inode(&self, ino: u64) -> Result<&Inode> {
        self.inodes.get(&ino).ok_or(Errno::ESTALE)
    }

    fn file(&mut self, ino: u64) -> Result<&mut File> {
        match self.inodes.get_mut(&ino).map(|inode| &mut inode.kind) {
            Some(Kind::File(file)) => Ok(file),
            Some(Kind::Dir(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ESTALE),
        }
    }

    fn dir(&self, ino: u64) -> Result<&Dir> {
        match &self.inode(ino)?.kind {
            Kind::Dir(dir) => Ok(dir),
            Kind::File(_) => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn size(&self, ino: u64) -> Result<u64> {
        Ok(match &self.inode(ino)?.kind {
            Kind::File(file) => file.now.len() as u64,
            Kind::Dir(_) => 0,
        })
    }

    /// Bytes that files take, those without a name too.
    pub(super) fn used(&self) -> u64 {
        let files = self.inodes.values().map(|inode| match &inode.kind {
            Kind::File(file) => file.now.len() as u64,
            Kind::Dir(_) => 0,
        });
        files.sum()
    }

    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> Result<u64> {
        let found = self.dir(parent)?.now.get(name);
        found.copied().ok_or(Errno::ENOENT)
    }

    pub(super) fn entries(&self, dir: u64) -> Result<Vec<(OsString, u64)>> {
        let now = self.dir(dir)?.now.iter();
        Ok(now.map(|(name, ino)| (name.clone(), *ino)).collect())
    }

    pub(super) fn read(&mut self, ino: u64, offset: usize, bytes: usize) -> Result<Vec<u8>> {
        let now = &self.file(ino)?.now;
        let from = offset.min(now.len());
        let to = from.saturating_add(bytes).min(now.len());
        Ok(now[from..to].to_vec())
    }

    pub(super) fn write(&mut self, ino: u64, offset: usize, bytes: &[u8]) -> Result<()> {
        let end = offset + bytes.len();
        let more = end.saturating_sub(self.file(ino)?.now.len());
        self.ask(Call::Write, ino, more)?;
        let file = self.file(ino)?;
        if end > file.now.len() {
            file.resize(end);
        }
        file.now[offset..end].copy_from_slice(bytes);
        file.touch(offset, end);
        Ok(())
    }

    pub(super) fn resize(&mut self, ino: u64, len: usize) -> Result<()> {
        let more = len.saturating_sub(self.file(ino)?.now.len());
        self.ask(Call::Write, ino, more)?;
        self.file(ino)?.resize(len);
        Ok(())
    }

    pub(super) fn set_mode(&mut self, ino: u64, mode: u32) -> Result<()> {
        self.inodes.get_mut(&ino).ok_or(Errno::ESTALE)?.mode = mode & 0o7777;
        Ok(())
    }

    /// Makes a file or directory.
    pub(super) fn make(&mut self, slot: (u64, &OsStr), mode: u32, kind: Kind) -> Result<u64> {
        let (parent, name) = slot;
        if self.dir(parent)?.now.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.ask(Call::Change, parent, 0)?;
        let ino = self.next;
        self.next += 1;
        let mode = mode & 0o7777;
        self.inodes.insert(ino, Inode { mode, kind });
        self.change(vec![((parent, name.to_owned()), Some(ino))]);
        Ok(ino)
    }

    pub(super) fn link(&mut self, ino: u64, slot: (u64, &OsStr)) -> Result<()> {
        let (parent, name) = slot;
        if self.dir(parent)?.now.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.ask(Call::Change, parent, 0)?;
        self.change(vec![((parent, name.to_owned()), Some(ino))]);
        Ok(())
    }

    pub(super) fn remove(&mut self, parent: u64, name: &OsStr) -> Result<()> {
        let ino = self.lookup(parent, name)?;
        if let Kind::Dir(dir) = &self.inode(ino)?.kind
            && !dir.now.is_empty()
        {
            return Err(Errno::ENOTEMPTY);
        }
        self.ask(Call::Change, parent, 0)?;
        self.change(vec![((parent, name.to_owned()), None)]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> Result<()> {
        let ino = self.lookup(from.0, from.1)?;
        self.ask(Call::Change, from.0, 0)?;
        self.change(vec![
            ((from.0, from.1.to_owned()), None),
            ((to.0, to.1.to_owned()), Some(ino)),
        ]);
        Ok(())
    }

    /// Makes what a file holds durable, and not its name.
    pub(super) fn sync(&mut self, ino: u64) -> Result<()> {
        let asked = self.ask(Call::Sync, ino, 0);
        let lies = self.faults.lies;
        let file = self.file(ino)?;
        if asked.is_err() {
            file.dirty.clear();
        } else if !lies {
            file.sync();
        }
        asked
    }

    /// Makes the entries of a directory durable, with all that they depend on.
    pub(super) fn sync_dir(&mut self, dir: u64) -> Result<()> {
        self.ask(Call::Sync, dir, 0)?;
        if self.faults.lies {
            return Ok(());
        }
        let mut needed = BTreeSet::new();
        let mut chosen = vec![false; self.changes.len()];
        for (at, change) in self.changes.iter().enumerate().rev() {
            if change.slots().any(|(parent, _)| parent == dir) || change.touches(&needed) {
                needed.extend(change.slots());
                chosen[at] = true;
            }
        }
        let mut chosen = chosen.into_iter();
        let (synced, rest) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|_| chosen.next() == Some(true));
        self.changes = rest;
        self.make_durable(synced);
        Ok(())
    }

    /// Cuts the power: what was not synced survives as far as is said. Everything that is left is
    /// durable then, and faults are over.
    pub(super) fn cut(&mut self, pages: Survives, entries: Survives, random: &mut Random) {
        self.faults = Faults::default();
        let mut lost = BTreeSet::new();
        let changes = std::mem::take(&mut self.changes).into_iter();
        let kept = changes.filter(|change| {
            let keep = !change.touches(&lost) && survives(entries, random);
            if !keep {
                lost.extend(change.slots());
            }
            keep
        });
        let kept = kept.collect();
        self.make_durable(kept);
        for inode in self.inodes.values_mut() {
            match &mut inode.kind {
                Kind::Dir(dir) => dir.now = dir.durable.clone(),
                Kind::File(file) => {
                    let len = match survives(pages, random) {
                        true => file.now.len(),
                        false => file.durable.len(),
                    };
                    file.keep(len, |_| survives(pages, random));
                    file.now = file.durable.clone();
                }
            }
        }
        self.forget_unreachable();
    }

    fn ask(&mut self, call: Call, ino: u64, more: usize) -> Result<()> {
        let path = self.path(ino);
        let space = self.faults.space.map(|space| (self.used(), space));
        self.faults.ask(call, &path, space, more as u64)
    }

    /// The path of a file or directory below the root; of what has no name, nothing.
    fn path(&self, ino: u64) -> String {
        if !self.faults.by_path() {
            return String::new();
        }
        let dirs = self
            .inodes
            .iter()
            .filter_map(|(at, inode)| match &inode.kind {
                Kind::Dir(dir) => Some((*at, dir)),
                Kind::File(_) => None,
            });
        let mut named = dirs.flat_map(|(at, dir)| dir.now.iter().map(move |entry| (at, entry)));
        match named.find(|(_, (_, of))| **of == ino) {
            Some((parent, (name, _))) => format!("{}/{}", self.path(parent), name.display()),
            None => String::new(),
        }
    }

    fn change(&mut self, entries: Vec<(Slot, Option<u64>)>) {
        for ((parent, name), ino) in &entries {
            if let Some(Kind::Dir(dir)) = self.inodes.get_mut(parent).map(|at| &mut at.kind) {
                set(&mut dir.now, name, *ino);
            }
        }
        self.changes.push(Change(entries));
    }

    fn make_durable(&mut self, changes: Vec<Change>) {
        for ((parent, name), ino) in changes.into_iter().flat_map(|change| change.0) {
            if let Some(Kind::Dir(dir)) = self.inodes.get_mut(&parent).map(|at| &mut at.kind) {
                set(&mut dir.durable, &name, ino);
            }
        }
    }

    fn forget_unreachable(&mut self) {
        let (mut reachable, mut next) = (BTreeSet::new(), vec![ROOT]);
        while let Some(ino) = next.pop() {
            if reachable.insert(ino)
                && let Ok(dir) = self.dir(ino)
            {
                next.extend(dir.now.values());
            }
        }
        self.inodes.retain(|ino, _| reachable.contains(ino));
    }
}

fn set(entries: &mut BTreeMap<OsString, u64>, name: &OsStr, ino: Option<u64>) {
    match ino {
        Some(ino) => entries.insert(name.to_owned(), ino),
        None => entries.remove(name),
    };
}

fn survives(how: Survives, random: &mut Random) -> bool {
    match how {
        Survives::Nothing => false,
        Survives::Everything => true,
        Survives::Something => random.one_in(2),
    }
}

mod tests {
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    fn file(image: &mut Image, of: &str) -> u64 {
        let kind = Kind::File(File::default());
        image.make((ROOT, name(of)), 0o600, kind).unwrap()
    }

    fn cut(image: &mut Image, how: Survives) {
        image.cut(how, how, &mut Random::new(1));
    }

    fn content(image: &mut Image, of: &str) -> Option<Vec<u8>> {
        let ino = image.lookup(ROOT, name(of)).ok()?;
        Some(image.read(ino, 0, usize::MAX).unwrap())
    }

    #[test]
    fn what_was_not_synced_is_lost_and_what_was_is_not() {
        let mut image = Image::new();
        let ino = file(&mut image, "f");
        image.write(ino, 0, b"synced").unwrap();
        image.sync(ino).unwrap();
        image.sync_dir(ROOT).unwrap();
        image.write(ino, 0, b"SYNCED and more").unwrap();
        cut(&mut image, Survives::Nothing);
        assert_eq!(content(&mut image, "f").unwrap(), b"synced");
    }

    #[test]
    fn a_name_needs_a_sync_of_its_directory_and_a_rename_is_one_change() {
        let mut image = Image::new();
        let ino = file(&mut image, "tmp");
        image.write(ino, 0, b"new").unwrap();
        image.sync(ino).unwrap();
        cut(&mut image, Survives::Nothing);
        assert_eq!(content(&mut image, "tmp"), None);
        file(&mut image, "old");
        file(&mut image, "tmp");
        image.sync_dir(ROOT).unwrap();
        image
            .rename((ROOT, name("tmp")), (ROOT, name("old")))
            .unwrap();
        for seed in 0..20 {
            let mut image = Image {
                inodes: image.inodes.clone(),
                next: image.next,
                changes: image.changes.clone(),
                faults: Faults::default(),
            };
            image.cut(
                Survives::Nothing,
                Survives::Something,
                &mut Random::new(seed),
            );
            let names = image.entries(ROOT).unwrap();
            assert!(
                names.len() == 2 || (names.len() == 1 && names[0].0 == "old"),
                "{names:?}"
            );
        }
    }

    #[test]
    fn a_change_never_survives_one_that_it_depends_on() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let mut image = Image::new();
            file(&mut image, "a");
            image.rename((ROOT, name("a")), (ROOT, name("b"))).unwrap();
            image.rename((ROOT, name("b")), (ROOT, name("c"))).unwrap();
            image.cut(
                Survives::Nothing,
                Survives::Something,
                &mut Random::new(seed),
            );
            let names = image.entries(ROOT).unwrap().into_iter();
            seen.insert(names.map(|(name, _)| name).collect::<Vec<_>>());
        }
        let expected: [Vec<OsString>; 4] =
            [vec![], vec!["a".into()], vec!["b".into()], vec!["c".into()]];
        assert_eq!(seen, BTreeSet::from(expected));
    }

    #[test]
    fn any_subset_of_pages_and_either_size_survives() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let mut image = Image::new();
            let ino = file(&mut image, "f");
            image.write(ino, 0, &[b'o'; PAGE]).unwrap();
            image.sync(ino).unwrap();
            image.sync_dir(ROOT).unwrap();
            image.write(ino, 0, &[b'n'; 2 * PAGE]).unwrap();
            image.cut(
                Survives::Something,
                Survives::Nothing,
                &mut Random::new(seed),
            );
            let all = content(&mut image, "f").unwrap();
            let pages = all.chunks(PAGE).map(|page| char::from(page[0]));
            seen.insert(pages.collect::<String>());
        }
        let expected = ["o", "n", "o\0", "n\0", "on", "nn"].map(str::to_owned);
        assert_eq!(seen, BTreeSet::from(expected));
    }

    #[test]
    fn pages_of_a_failed_sync_are_lost_although_a_later_one_succeeds() {
        let mut image = Image::new();
        let ino = file(&mut image, "f");
        image.sync_dir(ROOT).unwrap();
        image.write(ino, 0, b"text").unwrap();
        image.faults.fail(Call::Sync, "/f", Errno::EIO);
        assert!(image.sync(ino).is_err());
        image.sync(ino).unwrap();
        assert_eq!(content(&mut image, "f").unwrap(), b"text");
        cut(&mut image, Survives::Everything);
        assert_ne!(content(&mut image, "f").unwrap(), b"text");
    }
}
