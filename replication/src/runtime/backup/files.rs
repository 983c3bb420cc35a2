//! Files of base backups: reading, syncing, moving and removing whole trees.
//!
//! A backup's files lie beside the log and belong to whatever store there is, so they are reached
//! by the file system's own calls. An error names the path.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mainstay_storage::{Disk as _, OsDisk};

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

pub(crate) fn exists(path: &Path) -> Result<bool> {
    fs::exists(path).map_err(|source| io_error("inspect", path, source))
}

/// Names in a directory, sorted; none where there is no such directory.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| io_error("list", dir, source))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| io_error("list", dir, source))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
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
        for entry in names(dir)? {
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
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    OsDisk
        .create_dir(dir)
        .map_err(|source| io_error("create", dir, source))
}

/// As [`create_dir`], with names that survive a power cut.
pub(crate) fn create_dir_durably(dir: &Path) -> Result<()> {
    let mut made = vec![dir];
    for path in dir.ancestors().skip(1) {
        if path.as_os_str().is_empty() || exists(path)? {
            break;
        }
        made.push(path);
    }
    create_dir(dir)?;
    for path in made.into_iter().rev() {
        let above = path.parent().unwrap_or(path);
        match OsDisk.sync_dir(above) {
            // It is none of ours, and whoever may write there made the name.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced.map_err(|source| io_error("sync", above, source))?,
        }
    }
    Ok(())
}

/// Creates a file that does not exist yet, for the owner alone.
pub(crate) fn create(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let created = options.open(path);
    created.map_err(|source| io_error("create", path, source))
}

/// Removes a file or a whole directory, which may be missing.
pub(crate) fn clear(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| io_error("remove", path, source)),
    }
}

pub(crate) fn move_to(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| io_error("move", from, source))
}

/// Makes a file's content, or a directory's names, durable.
pub(crate) fn sync(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| io_error("sync", path, source))
}

/// Makes every file of a tree durable before anything refers to it.
pub(crate) fn sync_tree(dir: &Path) -> Result<()> {
    let tree = Tree::of(dir, ".")?;
    let files = tree.files.iter().map(|(path, _)| path);
    for path in files.chain(tree.dirs.iter().rev()) {
        sync(&dir.join(path))?;
    }
    Ok(())
}

/// Removes the copies that backups of an earlier life of this node left in its directory.
pub(crate) fn remove_left_copies(dir: &Path) -> Result<()> {
    for name in names(dir)? {
        if name.strip_prefix(COPY_PREFIX).is_some_and(is_number) {
            clear(&dir.join(name))?;
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
