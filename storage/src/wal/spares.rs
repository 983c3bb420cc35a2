//! Segment files made ready before they are needed.
//!
//! A spare is a file of full segment size, zero-filled and synced, or a segment that retention gave
//! back. Writing into it changes no metadata, so flushing the log costs the disk one write. It is
//! filled little by little, because a sync of the log waits for whatever the disk has to do. While
//! log comes in bulk its space is only taken: zeros would be as much for the disk as the log is,
//! and cost more than the metadata that each sync then writes.
//!
//! Making one is the only step of writing the log that may run out of space; it happens before any
//! record is placed there, so a full disk refuses writes and damages nothing.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, fill};
use crate::error::{Error, Result};
use crate::lsn::{Lsn, SegmentSize};
use crate::sync::Mutex;

/// Most spares that are kept when retention gives segments back: twice the log between two
/// checkpoints of a store, in segments of the usual size. New files cost far more.
pub(crate) const SPARES_MAX: usize = 8;

/// Zeros between two syncs while a spare is filled. A sync of the log that comes between them waits
/// for so many at most: half a millisecond on a disk that takes 500 MB/s, where a whole segment of
/// 16 MiB is 6 ms and more.
const GENTLE_BYTES: usize = 256 << 10;

const READY_PREFIX: &str = "spare-";
const UNFINISHED: &str = "spare.tmp";

/// The spare files of one log.
#[derive(Debug)]
pub(crate) struct Spares {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    size: SegmentSize,
    ready: Mutex<Ready>,
    /// Held while one is made: two makers would share the unfinished file.
    making: Mutex<()>,
}

#[derive(Debug, Default)]
struct Ready {
    names: VecDeque<String>,
    made: u64,
    /// Segments exist up to here: those begun, and one for each spare. Taking a spare begins a
    /// segment, so it changes nothing here.
    covered_until: Lsn,
}

impl Spares {
    /// The spares found in `dir`, among the file names `names`; an unfinished one is removed. What
    /// is no file of a segment's size is not taken for one.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        size: SegmentSize,
        names: &[String],
    ) -> Result<Self> {
        let number = |name: &String| {
            let number = name.strip_prefix(READY_PREFIX)?.parse::<u64>().ok()?;
            // Any other name is not of our making.
            (number < u64::MAX / 2 && *name == format!("{READY_PREFIX}{number}")).then_some(number)
        };
        let made = names
            .iter()
            .filter_map(number)
            .max()
            .map_or(0, |highest| highest + 1);
        let whole = |name: &String| {
            let length = disk.open(&dir.join(name)).and_then(|file| file.len());
            length.is_ok_and(|length| length == size.bytes())
        };
        let ready = names
            .iter()
            .filter(|name| number(name).is_some() && whole(name))
            .cloned()
            .collect();
        if names.iter().any(|name| name == UNFINISHED) {
            let path = dir.join(UNFINISHED);
            disk.remove(&path)
                .map_err(|source| Error::io("remove", &path, source))?;
        }
        let ready = Mutex::new(Ready {
            names: ready,
            made,
            covered_until: Lsn::ZERO,
        });
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            size,
            ready,
            making: Mutex::new(()),
        })
    }

    /// Log may be placed up to here.
    pub(crate) fn covered_until(&self) -> Lsn {
        self.ready.lock().covered_until
    }

    /// The log ends at `end`: the segment it is in, if it is inside one, has begun.
    pub(crate) fn cover_from(&self, end: Lsn) {
        let mut ready = self.ready.lock();
        let begun = u64::from(self.size.offset_of(end) != 0);
        let whole = self.size.segment_of(end) + begun + ready.names.len() as u64;
        ready.covered_until = self.size.start_of(whole);
    }

    /// How many are ready.
    pub(crate) fn count(&self) -> usize {
        self.ready.lock().names.len()
    }

    /// Makes one more: where log comes in `bulk` its space is only taken. Zeros are written little
    /// by little until there is no more time for it, as `haste` says.
    ///
    /// # Errors
    /// [`Error::Full`] without space, after removing what was begun; other disk errors.
    pub(crate) fn make(&self, bulk: bool, haste: impl Fn() -> bool) -> Result<()> {
        let _making = self.making.lock();
        let unfinished = self.dir.join(UNFINISHED);
        match self.fill(&unfinished, bulk, haste) {
            Ok(()) => {}
            Err(error) => {
                // Give the space back at once; the next attempt starts over either way.
                let _ = self.disk.remove(&unfinished);
                return Err(self.explain(&unfinished, error));
            }
        }
        let mut ready = self.ready.lock();
        let name = format!("{READY_PREFIX}{}", ready.made);
        self.disk
            .rename(&unfinished, &self.dir.join(&name))
            .map_err(|source| Error::io("rename", &unfinished, source))?;
        ready.made += 1;
        ready.names.push_back(name);
        ready.covered_until = ready.covered_until + self.size.bytes();
        Ok(())
    }

    /// Takes a ready one, to be renamed by the caller.
    pub(crate) fn take(&self) -> Option<PathBuf> {
        self.ready
            .lock()
            .names
            .pop_front()
            .map(|name| self.dir.join(name))
    }

    /// Gives a segment that is not needed any more the name of a spare, or removes it when there
    /// are enough with `others` that were renamed just now. It becomes one by [`add`](Self::add).
    pub(crate) fn recycle(&self, segment: &Path, others: usize) -> Result<Option<String>> {
        let mut ready = self.ready.lock();
        if ready.names.len() + others >= SPARES_MAX {
            self.disk
                .remove(segment)
                .map_err(|source| Error::io("remove", segment, source))?;
            return Ok(None);
        }
        let name = format!("{READY_PREFIX}{}", ready.made);
        self.disk
            .rename(segment, &self.dir.join(&name))
            .map_err(|source| Error::io("rename", segment, source))?;
        ready.made += 1;
        Ok(Some(name))
    }

    /// Takes over recycled segments as spares, once their names are durable: what is written to one
    /// before is found under its old name after a power cut.
    pub(crate) fn add(&self, names: Vec<String>) {
        let mut ready = self.ready.lock();
        for name in names {
            ready.names.push_back(name);
            ready.covered_until = ready.covered_until + self.size.bytes();
        }
    }

    fn fill(&self, path: &Path, bulk: bool, haste: impl Fn() -> bool) -> io::Result<()> {
        let file = match self.disk.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(path)?;
                self.disk.create(path)?
            }
            created => created?,
        };
        match bulk {
            true => file.allocate(self.size.bytes())?,
            false => self.fill_with_zeros(&*file, haste)?,
        }
        file.sync_data()
    }

    fn fill_with_zeros(&self, file: &dyn DiskFile, haste: impl Fn() -> bool) -> io::Result<()> {
        let size = self.size.bytes();
        for at in (0..size).step_by(GENTLE_BYTES) {
            if at > 0 && !haste() {
                file.sync_data()?;
            }
            fill(file, at, size.min(at + GENTLE_BYTES as u64))?;
        }
        Ok(())
    }

    fn explain(&self, path: &Path, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full {
                path: self.dir.clone(),
            },
            _ => Error::io("prepare a segment in", path, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::disk::{DiskOp, SimDisk};

    const DIR: &str = "/wal";

    /// A disk, and no spares on it.
    fn empty() -> (SimDisk, Spares) {
        let (disk, dir) = (SimDisk::new(1), Path::new(DIR));
        disk.create_dir(dir).unwrap();
        let spares = Spares::open(Arc::new(disk.clone()), dir, SegmentSize::MIN, &[]);
        (disk, spares.unwrap())
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind_and_space_heals_it() {
        let (disk, spares) = empty();
        let dir = Path::new(DIR);
        disk.set_capacity(512 << 10);
        assert!(matches!(
            spares.make(false, || true),
            Err(Error::Full { .. })
        ));
        assert_eq!(disk.list(dir).unwrap(), Vec::<String>::new());
        disk.set_capacity(4 << 20);
        spares.make(false, || false).unwrap();
        assert_eq!(spares.count(), 1);
        let names = disk.list(dir).unwrap();
        let again = Spares::open(Arc::new(disk.clone()), dir, SegmentSize::MIN, &names).unwrap();
        assert_eq!(again.count(), 1);
        assert_eq!(disk.read_file(again.take().unwrap()).len(), 1 << 20);
    }

    #[test]
    fn it_is_filled_little_by_little_while_there_is_time() {
        let (disk, spares) = empty();
        let syncs = |haste: &dyn Fn() -> bool| {
            disk.clear_trace();
            spares.make(false, haste).unwrap();
            let name = spares.take().unwrap();
            assert_eq!(disk.read_file(name), vec![0; 1 << 20]);
            let trace = disk.trace();
            let syncs = trace.iter().filter(|call| call.op == DiskOp::SyncData);
            syncs.count()
        };
        assert_eq!(syncs(&|| false), 4);
        assert_eq!(syncs(&|| true), 1);
        let asked = AtomicU64::new(0);
        let late = || asked.fetch_add(1, Ordering::Relaxed) > 0;
        assert_eq!(syncs(&late), 2);
    }
}
