//! The only door to the file system: [`Disk`] and [`DiskFile`].
//!
//! Everything above speaks to these two traits, so that a twin which tears, loses, flips, fills
//! and fails can stand in for the real disk in tests. The promises are the operating system's:
//! written data are safe only after `sync` of the file returned, a new or renamed name only after
//! [`Disk::sync_dir`] of its directory. Nothing here retries a failed sync: after one, the kernel
//! may have dropped the pages and a second sync would report success for lost data.

#[cfg(all(test, feature = "sim"))]
mod contract;
mod os;
#[cfg(feature = "sim")]
mod sim;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use os::OsDisk;
#[cfg(feature = "sim")]
pub use sim::*;

/// What bears a name.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum DiskEntry {
    /// A file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link, or something that is no file of data.
    Other,
}

/// A file system, or its simulated twin.
pub trait Disk: Send + Sync + Debug {
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` when there is none, `PermissionDenied` on a read-only file or file system.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file that must not exist yet, readable by its owner only, and opens it for
    /// reading and writing. Its name is durable after [`sync_dir`](Self::sync_dir).
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing any file of the new name, or a directory, replacing an empty one.
    /// Durable after `sync_dir` of the directory (of both, where they differ).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory and its missing parents, accessible by its owner only. An existing one
    /// is left as it is. Each name created is durable after `sync_dir` of the directory above it.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes names created, renamed and removed in this directory durable.
    ///
    /// # Errors
    /// `NotADirectory` when it is a file.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the contents of a file durable, whoever wrote them; it need not be writable.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// What bears this name itself, if anything does: a link is not followed.
    fn entry(&self, path: &Path) -> io::Result<Option<DiskEntry>>;

    /// Names of the entries of a directory, sorted, directories among them.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Whether a file or directory of this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Removes a file, or a directory with all that is in it, by one call after another. A missing
    /// one is no error.
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        match self.entry(path)? {
            None => Ok(()),
            Some(DiskEntry::Dir) => {
                for name in self.list(path)? {
                    self.remove_tree(&path.join(name))?;
                }
                self.remove_dir(path)
            }
            Some(DiskEntry::File | DiskEntry::Other) => self.remove(path),
        }
    }

    /// Takes the exclusive lock that the file `path` stands for, creating the file if needed.
    /// It is held until the returned value is dropped or the process ends.
    ///
    /// # Errors
    /// `WouldBlock` when another holder, in this process or another, has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// Writes zeros to `file` from offset `at` up to `end`.
pub(crate) fn fill(file: &(impl DiskFile + ?Sized), mut at: u64, end: u64) -> io::Result<()> {
    while at < end {
        let part = (end - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..part as usize], at)?;
        at += part;
    }
    Ok(())
}

/// An exclusive lock; released when dropped.
pub trait DiskLock: Send + Sync + Debug {}

/// An open file. All offsets are in bytes from its start.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads at `offset` into `buffer`; fewer bytes than asked for at the end of the file or by
    /// chance, zero only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes `bytes` at `offset`, growing the file; may write fewer than given.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes written data durable (`fdatasync`): contents and size.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts or extends the file; an extension reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Takes space for `len` bytes of an empty file, which reads as zeros. What is written there
    /// later needs no more space, and its first write may cost more than one over what was written
    /// before. Durable after [`sync_data`](Self::sync_data).
    fn allocate(&self, len: u64) -> io::Result<()> {
        fill(self, 0, len)
    }

    /// Size in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buffer` from `offset`, retrying short and interrupted reads.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` at `offset`, retrying short and interrupted writes.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
