//! The two files of the record, and their lines.
//!
//! `current.ndjson` is appended to; when it is full it becomes `older.ndjson`, in place of what was
//! there. A last line without its end is what a crash left of one, and is cut when the file is
//! opened. A line that cannot be read, of a newer version for one, is passed over and kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::{Draft, Event};
use crate::error::Result;

/// Longest file in bytes: the record takes twice as much at most.
pub(super) const FILE_BYTES_MAX: u64 = 4 << 20;

/// Longest line in bytes; the metadata of a longer one is left out.
const LINE_BYTES_MAX: usize = 32 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    max: u64,
    open: Option<Open>,
    /// Whether the last write failed, so that a full disk is told of once.
    failing: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    len: u64,
    next_id: u64,
}

impl Files {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            max: FILE_BYTES_MAX,
            open: None,
            failing: false,
        }
    }

    #[cfg(test)]
    pub(super) fn with_max(dir: &Path, max: u64) -> Self {
        Self {
            max,
            ..Self::new(dir)
        }
    }

    fn current(&self) -> PathBuf {
        self.dir.join("current.ndjson")
    }

    fn older(&self) -> PathBuf {
        self.dir.join("older.ndjson")
    }

    /// Appends `drafts`; what cannot be written is lost, with a warning for the first.
    pub(super) fn append(&mut self, drafts: impl IntoIterator<Item = Draft>, node_id: &str) {
        let mut lost = 0_u64;
        let mut failed = None;
        for draft in drafts {
            if failed.is_none()
                && let Err(error) = self.append_one(draft, node_id)
            {
                // What is there of it is looked at again before the next write.
                self.open = None;
                failed = Some(error);
            }
            lost += u64::from(failed.is_some());
        }
        if failed.is_none()
            && let Some(open) = &self.open
        {
            failed = open.file.sync_data().err();
        }
        if let Some(error) = &failed
            && !self.failing
        {
            let dir = self.dir.display();
            tracing::warn!(%dir, %error, lost, "events cannot be written and are lost");
        }
        self.failing = failed.is_some();
    }

    fn append_one(&mut self, draft: Draft, node_id: &str) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let line = line(draft.into_event(open.next_id, node_id.to_owned()))?;
        let len = line.len() as u64;
        if open.len > 0 && open.len + len > self.max {
            drop(open.file);
            fs::rename(self.current(), self.older())?;
            open.file = self.appendable()?;
            open.len = 0;
        }
        if let Err(error) = open.file.write_all(&line) {
            // Half a line is no use; if this fails too it is cut at the next open.
            let _ = open.file.set_len(open.len);
            return Err(error);
        }
        open.len += len;
        open.next_id += 1;
        self.open = Some(open);
        Ok(())
    }

    /// Opens the newer file behind its last whole line.
    fn open(&self) -> io::Result<Open> {
        fs::create_dir_all(&self.dir)?;
        let (older, current) = (bytes(&self.older())?, bytes(&self.current())?);
        let whole = current.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |at| at + 1);
        let file = self.appendable()?;
        let len = whole as u64;
        if whole < current.len() {
            file.set_len(len)?;
        }
        let last = ids(&older).chain(ids(&current[..whole])).max();
        Ok(Open {
            file,
            len,
            next_id: last.unwrap_or(0) + 1,
        })
    }

    fn appendable(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).open(self.current())
    }

    /// Everything in the record, oldest first.
    ///
    /// # Errors
    /// Disk errors.
    pub(super) fn read(&self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        for path in [self.older(), self.current()] {
            let failed = |source| mainstay_storage::Error::Io {
                op: "read",
                path: path.clone(),
                source,
            };
            let bytes = bytes(&path).map_err(failed)?;
            events.extend(lines(&bytes).filter_map(|line| serde_json::from_slice(line).ok()));
        }
        Ok(events)
    }
}

/// A file's bytes; none where there is no file.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.filter_map(|line| line.strip_suffix(b"\n"))
}

/// The ids in a file, also of lines whose other parts cannot be read.
fn ids(bytes: &[u8]) -> impl Iterator<Item = u64> {
    #[derive(serde::Deserialize)]
    struct Id {
        id: u64,
    }
    lines(bytes).filter_map(|line| serde_json::from_slice::<Id>(line).ok().map(|line| line.id))
}

fn line(mut event: Event) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&event)?;
    if line.len() >= LINE_BYTES_MAX {
        event.metadata.clear();
        event.metadata.insert("left_out".to_owned(), true.into());
        line = serde_json::to_vec(&event)?;
    }
    line.push(b'\n');
    Ok(line)
}
