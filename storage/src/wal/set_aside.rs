//! Keeping what is cut off the log, for whoever wants to look at it.
//!
//! Nothing that was ever written is destroyed by a cut: it goes to a file in `set-aside/` named
//! after its timeline and position. The files are never read again by the log.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// Most pieces kept for one position; a further one replaces the last.
const SAME_POSITION_MAX: u32 = 100;

/// A free name for one piece of log.
pub(crate) struct Aside<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    path: PathBuf,
}

impl<'a> Aside<'a> {
    /// Chooses a name in `dir`, which is created if needed.
    pub(crate) fn new(disk: &'a dyn Disk, dir: &'a Path, timeline: u32, at: Lsn) -> Result<Self> {
        let made = disk
            .create_dir(dir)
            .and_then(|()| disk.sync_dir(dir.parent().unwrap_or(dir)));
        made.map_err(|source| Error::io("create", dir, source))?;
        let named = |n: u32| dir.join(format!("{timeline:08X}-{:016X}.{n}.log", at.get()));
        let mut path = named(0);
        for n in 0..SAME_POSITION_MAX {
            path = named(n);
            if !disk
                .exists(&path)
                .map_err(|source| Error::io("inspect", &path, source))?
            {
                break;
            }
        }
        Ok(Self { disk, dir, path })
    }

    /// Writes a copy and makes it durable.
    pub(crate) fn save(self, bytes: &[u8]) -> Result<PathBuf> {
        let write = || -> io::Result<()> {
            if self.disk.exists(&self.path)? {
                self.disk.remove(&self.path)?;
            }
            let file = self.disk.create(&self.path)?;
            file.write_all_at(bytes, 0)?;
            file.sync_data()?;
            self.disk.sync_dir(self.dir)
        };
        write().map_err(|source| Error::io("save", &self.path, source))?;
        Ok(self.path)
    }

    /// Moves a whole file here and returns its new path and size in bytes.
    pub(crate) fn take_file(self, file: &Path) -> Result<(PathBuf, u64)> {
        let take = || -> io::Result<u64> {
            let bytes = self.disk.open(file)?.len()?;
            self.disk.rename(file, &self.path)?;
            self.disk.sync_dir(self.dir)?;
            Ok(bytes)
        };
        let bytes = take().map_err(|source| Error::io("set aside", file, source))?;
        Ok((self.path, bytes))
    }
}
