//! Unpacking the archive of a base backup, whoever made it.

use std::fs::File;
use std::io::{self, Read};
use std::panic::resume_unwind;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use bytes::{Buf, Bytes};
use mainstay_storage::{Disk, DiskFile};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::runtime::backup::STORE;
use crate::runtime::backup::files::{self, io_error};
use crate::runtime::backup::label::LABEL_BYTES_MAX;

/// Files that may wait to be synced.
const SYNCS_MAX: usize = 16;

/// Bytes of one write of a file that is unpacked.
const WRITE_BYTES: usize = 256 << 10;

/// Unpacks a tar stream into the directory `root`: plain files and directories inside of it.
///
/// # Errors
/// Disk errors, an archive that is damaged or cut off; [`Error::Invalid`] for anything else in it.
pub(super) fn unpack(disk: &dyn Disk, root: &Path, archive: impl Read) -> Result<()> {
    unpack_and(disk, root, archive, |_, _| Ok(()))
}

/// As [`unpack`]; the disk takes the files of the store in while the next ones come. They are
/// synced for good, with their names, by whoever takes them over.
///
/// # Errors
/// As [`unpack`]. A sync that failed is told here, and only here: the system says it once.
pub(super) fn unpack_and_sync(disk: &dyn Disk, root: &Path, archive: impl Read) -> Result<()> {
    let (files, written) = sync_channel::<(PathBuf, Arc<dyn DiskFile>)>(SYNCS_MAX);
    thread::scope(|scope| {
        let syncing = scope.spawn(move || {
            written.iter().try_for_each(|(path, file)| {
                let synced = file.sync_data();
                synced.map_err(|source| io_error("sync", &path, source))
            })
        });
        let unpacked = unpack_and(disk, root, archive, |name, file| {
            match name.starts_with(STORE) && files.send((root.join(name), file)).is_err() {
                true => Err(Error::Invalid("a file could not be synced".to_owned())),
                false => Ok(()),
            }
        });
        drop(files);
        // It knows better why there was nobody to send to.
        syncing
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))?;
        unpacked
    })
}

/// As [`unpack`], and tells `written` of each file, by its path in the archive.
///
/// # Errors
/// As [`unpack`], and those of `written`.
fn unpack_and(
    disk: &dyn Disk,
    root: &Path,
    archive: impl Read,
    mut written: impl FnMut(&Path, Arc<dyn DiskFile>) -> Result<()>,
) -> Result<()> {
    let failed = |source| io_error("unpack into", root, source);
    files::create_dir(disk, root)?;
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.into_owned();
        let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        if !name.components().all(inside) {
            let name = name.display();
            let text = format!("the backup holds {name}, a path outside of itself");
            return Err(Error::Invalid(text));
        }
        let path = root.join(&name);
        match entry.header().entry_type() {
            kind if kind.is_dir() => files::create_dir(disk, &path)?,
            kind if kind.is_file() => written(&name, write(disk, &path, &mut entry)?)?,
            _ => {
                let name = name.display();
                let text = format!("the backup holds {name}, which is neither file nor directory");
                return Err(Error::Invalid(text));
            }
        }
    }
    // What pads the archive is taken too, so that who stops reading early has failed.
    let padding = io::copy(&mut archive.into_inner(), &mut io::sink());
    padding.map(|_| ()).map_err(failed)
}

/// Writes a member to a file that does not exist yet.
fn write(
    disk: &dyn Disk,
    path: &Path,
    entry: &mut tar::Entry<'_, impl Read>,
) -> Result<Arc<dyn DiskFile>> {
    let failed = |source| io_error("write", path, source);
    if let Some(dir) = path.parent() {
        files::create_dir(disk, dir)?;
    }
    let mut file = io::BufWriter::with_capacity(WRITE_BYTES, files::create(disk, path)?);
    let written = io::copy(entry, &mut file).map_err(failed)?;
    let file = file
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    match written == entry.size() {
        true => Ok(file.into_file()),
        false => Err(failed(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Unpacks the tar file `path` into the directory `root`.
///
/// # Errors
/// As [`unpack`].
pub(super) fn unpack_file(disk: &dyn Disk, root: &Path, path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|source| io_error("open", path, source))?;
    unpack(disk, root, io::BufReader::with_capacity(1 << 18, file))
}

/// The first member of the tar file `path`, if it is the file `name`, which is small.
///
/// # Errors
/// Disk errors, no tar file.
pub(super) fn first_file(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let failed = |source| io_error("read", path, source);
    let file = File::open(path).map_err(|source| io_error("open", path, source))?;
    let mut archive = tar::Archive::new(file);
    let first = archive.entries().map_err(failed)?.next();
    let Some(entry) = first.transpose().map_err(failed)? else {
        return Ok(None);
    };
    if entry.path().map_err(failed)?.as_os_str() != name {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = entry.take(LABEL_BYTES_MAX).read_to_end(&mut bytes);
    read.map(|_| Some(bytes)).map_err(failed)
}

/// Reads what arrives on a channel, on a thread that may block.
pub(super) struct ChannelReader {
    from: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl ChannelReader {
    pub(super) fn new(from: mpsc::Receiver<Bytes>) -> Self {
        Self {
            from,
            chunk: Bytes::new(),
        }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.from.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let len = self.chunk.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.chunk[..len]);
        self.chunk.advance(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use mainstay_storage::{DiskCall, DiskFault, DiskOp, OsDisk, SimDisk};

    use super::*;
    use tempfile::TempDir;

    /// An archive of one member of this kind.
    fn archive(name: &str, kind: tar::EntryType) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o600);
        header.set_size(if kind.is_file() { 4 } else { 0 });
        // Set byte by byte: the library refuses to write what must be refused when it is read.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if kind.is_symlink() {
            header.set_link_name("/etc").unwrap();
        }
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        if kind.is_file() {
            bytes.extend_from_slice(b"text");
            bytes.resize(1024, 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    #[test]
    fn nothing_is_unpacked_outside_of_the_directory_and_no_links() {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("root");
        unpack(
            &OsDisk,
            &root,
            &archive("store/x", tar::EntryType::Regular)[..],
        )
        .unwrap();
        assert_eq!(std::fs::read(root.join("store/x")).unwrap(), b"text");
        let refused = [
            archive("../out", tar::EntryType::Regular),
            archive("store/../../out", tar::EntryType::Regular),
            archive("link", tar::EntryType::Symlink),
            archive("link", tar::EntryType::Link),
            archive("pipe", tar::EntryType::Fifo),
        ];
        for bytes in refused {
            let error = unpack(&OsDisk, &root, &bytes[..]).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{error}");
        }
        assert_eq!(files::names(&OsDisk, dir.path()).unwrap(), ["root"]);
        assert_eq!(files::names(&OsDisk, &root).unwrap(), ["store"]);
    }

    #[test]
    fn an_archive_that_was_cut_off_is_an_error() {
        let dir = TempDir::new().unwrap();
        let bytes = archive("x", tar::EntryType::Regular);
        for cut in [100, 513, 515] {
            assert!(
                unpack(&OsDisk, dir.path(), &bytes[..cut]).is_err(),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_sync_that_fails_while_the_next_file_comes_is_an_error() {
        let bytes = archive("store/x", tar::EntryType::Regular);
        let root = Path::new("/root");
        let disk = SimDisk::new(1);
        unpack_and_sync(&disk, root, &bytes[..]).unwrap();
        let trace = disk.trace();
        let syncs = trace.iter().filter(|call| call.op == DiskOp::SyncData);
        let [sync] = &syncs.collect::<Vec<_>>()[..] else {
            panic!("{trace:?}");
        };
        let failing = SimDisk::new(1);
        failing.fail_call(sync.number, DiskFault::Io);
        let error = unpack_and_sync(&failing, root, &bytes[..]).unwrap_err();
        assert!(error.to_string().contains("sync"), "{error}");
        let log = archive("pg_wal/x", tar::EntryType::Regular);
        disk.clear_trace();
        unpack_and_sync(&disk, root, &log[..]).unwrap();
        let synced = |call: &DiskCall| call.op == DiskOp::SyncData;
        assert!(!disk.trace().iter().any(synced), "log is written anew");
    }
}
