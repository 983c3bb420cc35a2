//! Unpacking the archive of a base backup, whoever made it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::runtime::backup::files::{self, io_error};

/// Unpacks a tar stream into the directory `root`: plain files and directories inside of it.
///
/// # Errors
/// Disk errors, an archive that is damaged or cut off; [`Error::Invalid`] for anything else in it.
pub(super) fn unpack(root: &Path, archive: impl Read) -> Result<()> {
    let failed = |source| io_error("unpack into", root, source);
    files::create_dir(root)?;
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(false);
    archive.set_preserve_mtime(false);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir()) {
            let path = entry.path().map_err(failed)?.display().to_string();
            let text = format!("the backup holds {path}, which is neither file nor directory");
            return Err(Error::Invalid(text));
        }
        // `unpack_in` refuses paths that leave the directory.
        if !entry.unpack_in(root).map_err(failed)? {
            let text = "the backup holds a path outside of itself";
            return Err(Error::Invalid(text.to_owned()));
        }
    }
    Ok(())
}

/// Unpacks the tar file `path` into the directory `root`.
///
/// # Errors
/// As [`unpack`].
pub(super) fn unpack_file(root: &Path, path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|source| io_error("open", path, source))?;
    unpack(root, io::BufReader::with_capacity(1 << 18, file))
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
