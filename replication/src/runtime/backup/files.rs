//! Files of base backups: reading, syncing, moving and removing whole trees.
//!
//! What is made of a backup goes through a [`Disk`], so that a simulated one shows what a power cut
//! leaves of it. What a backup is made of, and one that is looked at, is read by the file system's
//! own calls. An error names the path.

use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_storage::{Disk, DiskEntry, DiskFile, OsDisk};

use crate::error::{Error, Result};

/// Deepest that directories of a backup may lie in each other.
const DEPTH_MAX: usize = 16;

pub(crate) fn io_error(op: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Storage(mainstay_storage::Error::Io {
        op,
        path: path.to_owned(),
        source,
    })
}

/// A file's content, of at most `max` bytes.
pub(crate) fn read(path: &Path, max: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|source| io_error("open", path, source))?;
    let mut bytes = Vec::new();
    let read = file.take(max + 1).read_to_end(&mut bytes);
    let read = read.map_err(|source| io_error("read", path, source))?;
    if read as u64 > max {
        let path = path.display();
        return Err(Error::Invalid(format!("{path} is longer than {max} bytes")));
    }
    Ok(bytes)
}

pub(crate) fn exists(disk: &dyn Disk, path: &Path) -> Result<bool> {
    let found = disk.exists(path);
    found.map_err(|source| io_error("inspect", path, source))
}

/// Names in a directory, sorted; none where there is no such directory.
pub(crate) fn names(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(|source| io_error("list", dir, source)),
    }
}

/// What lies below a directory.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Paths of directories, each before what lies in it.
    pub(crate) dirs: Vec<String>,
    /// Paths and sizes of files.
    pub(crate) files: Vec<(String, u64)>,
}

impl Tree {
    /// Lists what lies below `dir`, by paths that begin with `name`.
    ///
    /// # Errors
    /// Disk errors; [`Error::Invalid`] for what is neither file nor directory.
    pub(crate) fn of(dir: &Path, name: &str) -> Result<Self> {
        let mut tree = Self::default();
        tree.walk(dir, name, 0)?;
        Ok(tree)
    }

    fn walk(&mut self, dir: &Path, name: &str, depth: usize) -> Result<()> {
        self.dirs.push(name.to_owned());
        for entry in names(&OsDisk, dir)? {
            let path = dir.join(&entry);
            let named = format!("{name}/{entry}");
            let found = fs::symlink_metadata(&path);
            let found = found.map_err(|source| io_error("inspect", &path, source))?;
            if found.is_dir() && depth < DEPTH_MAX {
                self.walk(&path, &named, depth + 1)?;
            } else if found.is_file() {
                self.files.push((named, found.len()));
            } else {
                let path = path.display();
                return Err(Error::Invalid(format!("{path} does not belong there")));
            }
        }
        Ok(())
    }
}

/// Creates a directory, and those above it, for the owner alone.
pub(crate) fn create_dir(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let created = disk.create_dir(dir);
    created.map_err(|source| io_error("create", dir, source))
}

/// As [`create_dir`], with names that survive a power cut.
pub(crate) fn create_dir_durably(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let mut made = vec![dir];
    for path in dir.ancestors().skip(1) {
        if path.as_os_str().is_empty() || exists(disk, path)? {
            break;
        }
        made.push(path);
    }
    create_dir(disk, dir)?;
    for path in made.into_iter().rev() {
        let above = path.parent().unwrap_or(path);
        match disk.sync_dir(above) {
            // It is none of ours, and whoever may write there made the name.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced.map_err(|source| io_error("sync", above, source))?,
        }
    }
    Ok(())
}

/// Creates a file that does not exist yet, for the owner alone.
pub(crate) fn create(disk: &dyn Disk, path: &Path) -> Result<NewFile> {
    let file = disk.create(path);
    Ok(NewFile {
        file: file.map_err(|source| io_error("create", path, source))?,
        len: 0,
    })
}

/// A file that is written from its begin on.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: Arc<dyn DiskFile>,
    len: u64,
}

impl NewFile {
    pub(crate) fn into_file(self) -> Arc<dyn DiskFile> {
        self.file
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(bytes, self.len)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Removes a file or a whole directory, which may be missing.
pub(crate) fn clear(disk: &dyn Disk, path: &Path) -> Result<()> {
    let removed = disk.remove_tree(path);
    removed.map_err(|source| io_error("remove", path, source))
}

/// Empties a directory, which keeps its own name and rights.
pub(crate) fn clear_content(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for name in names(disk, dir)? {
        clear(disk, &dir.join(name))?;
    }
    Ok(())
}

pub(crate) fn move_to(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    let moved = disk.rename(from, to);
    moved.map_err(|source| io_error("move", from, source))
}

/// Makes a file's content durable.
pub(crate) fn sync_file(disk: &dyn Disk, path: &Path) -> Result<()> {
    let synced = disk.sync_file(path);
    synced.map_err(|source| io_error("sync", path, source))
}

/// Makes a directory's names durable.
pub(crate) fn sync_dir(disk: &dyn Disk, path: &Path) -> Result<()> {
    let synced = disk.sync_dir(path);
    synced.map_err(|source| io_error("sync", path, source))
}

/// Makes every file of a tree durable before anything refers to it.
pub(crate) fn sync_tree(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for name in names(disk, dir)? {
        let path = dir.join(name);
        let found = disk.entry(&path);
        match found.map_err(|source| io_error("inspect", &path, source))? {
            Some(DiskEntry::Dir) => sync_tree(disk, &path)?,
            Some(DiskEntry::File) => sync_file(disk, &path)?,
            Some(DiskEntry::Other) | None => {
                let path = path.display();
                return Err(Error::Invalid(format!("{path} does not belong there")));
            }
        }
    }
    sync_dir(disk, dir)
}

/// Removes the copies that backups of an earlier life of this node left in its directory.
pub(crate) fn remove_left_copies(dir: &Path) -> Result<()> {
    for name in names(&OsDisk, dir)? {
        if name.strip_prefix(COPY_PREFIX).is_some_and(is_number) {
            clear(&OsDisk, &dir.join(name))?;
        }
    }
    Ok(())
}

const COPY_PREFIX: &str = "backup-";

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Where the copy for one session's backup lies.
pub(crate) fn copy_dir(dir: &Path, session: u64) -> PathBuf {
    dir.join(format!("{COPY_PREFIX}{session}"))
}

/// Bytes of the files below `dir`; what vanishes meanwhile is not counted.
pub(crate) fn bytes_below(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        listed => listed?,
    };
    for entry in listed {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&entry.path())?,
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_directory_are_those_of_all_files_below() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), [0; 100]).unwrap();
        std::fs::write(dir.path().join("c"), [0; 23]).unwrap();
        assert_eq!(bytes_below(dir.path()).unwrap(), 123);
        assert_eq!(bytes_below(&dir.path().join("missing")).unwrap(), 0);
    }
}
