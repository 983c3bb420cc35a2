//! Checking a base backup that lies in a directory, file by file; nothing is changed.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use mainstay_storage::{BACKUP_LABEL, LogCheck, Lsn, OsDisk, TimelineHistory, segment_file_name};

use super::archive::{BACKUP_LOG, STORE};
use super::checksum::Checksum;
use super::files::{self, Tree, io_error};
use super::label::Label;
use super::manifest::{MANIFEST, MANIFEST_BYTES_MAX, Manifest, ManifestFile};
use crate::error::{Error, Result};

/// Bytes read from a file at once.
const READ_BYTES: usize = 1 << 20;

/// The store's lock file, which whoever looked into a backup by opening it leaves behind.
const STORE_LOCK: &str = "store/lock";

/// A backup that is what it was when it was taken.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) label: Label,
    pub(crate) history: TimelineHistory,
    /// The log up to here makes the copy of the store consistent, and is there.
    pub(crate) end: Lsn,
    pub(crate) files: usize,
    /// Bytes of files and log.
    pub(crate) bytes: u64,
}

impl Checked {
    /// Checks the backup in `root`.
    ///
    /// # Errors
    /// [`Error::DamagedBackup`] for the first file that is not as it should be; disk errors.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let manifest = read_manifest(root)?;
        let mut bytes = 0;
        for file in &manifest.files {
            check_file(root, file)?;
            bytes += file.size;
        }
        check_extra(root, &manifest)?;
        let path = root.join(BACKUP_LABEL);
        if !manifest.files.iter().any(|file| file.path == BACKUP_LABEL) {
            return Err(damaged(&path, "it is not in the manifest"));
        }
        let label = Label::read(root)?;
        let history = label.timelines()?;
        let log = manifest.log;
        let agree = (label.replay, label.timeline.number) == (log.start, log.timeline);
        if !agree || log.end < label.copy {
            return Err(damaged(&path, "it speaks of other log than the manifest"));
        }
        let size = label.segment_size;
        if log.end >= size.start_of(size.segment_of(Lsn::MAX)) {
            return Err(damaged(&path, "it needs log from where no log lies"));
        }
        let checked = Self {
            label,
            history,
            end: log.end,
            files: manifest.files.len(),
            bytes,
        };
        checked.check_log(root)?;
        let log = checked.end.bytes_since(checked.label.log_begin());
        Ok(Self {
            bytes: bytes + log,
            ..checked
        })
    }

    /// Hands the log that the backup needs to `take`, in order and in pieces, each with its
    /// position and the file that it comes from.
    ///
    /// # Errors
    /// What `take` returns; [`Error::DamagedBackup`] when log is missing; disk errors.
    pub(crate) fn read_log(
        &self,
        root: &Path,
        mut take: impl FnMut(Lsn, &[u8], &Path) -> Result<()>,
    ) -> Result<()> {
        let size = self.label.segment_size;
        let mut buffer = vec![0; READ_BYTES];
        let mut at = self.label.log_begin();
        while at < self.end {
            let path = self.segment(root, size.segment_of(at))?;
            let to = (at + size.bytes()).min(self.end);
            let mut file = File::open(&path).map_err(|source| io_error("open", &path, source))?;
            while at < to {
                let most = usize::try_from(to.bytes_since(at)).unwrap_or(READ_BYTES);
                let read = file.read(&mut buffer[..most.min(READ_BYTES)]);
                let read = read.map_err(|source| io_error("read", &path, source))?;
                if read == 0 {
                    let why = format!("it ends at {at}, but log up to {} is needed", self.end);
                    return Err(damaged(&path, why));
                }
                take(at, &buffer[..read], &path)?;
                at = at + read as u64;
            }
        }
        Ok(())
    }

    /// The file of a segment, which is named after the newest timeline that it was sent under.
    fn segment(&self, root: &Path, number: u64) -> Result<std::path::PathBuf> {
        let dir = root.join(BACKUP_LOG);
        let (size, spans) = (self.label.segment_size, self.history.spans());
        let name = |timeline| dir.join(segment_file_name(timeline, number, size));
        for span in spans.iter().rev() {
            let path = name(span.timeline.number);
            if files::exists(&OsDisk, &path)? {
                return Ok(path);
            }
        }
        let (path, end) = (name(self.label.timeline.number), self.end);
        let why = format!(
            "it is missing, but the backup needs log from {} up to {end}; a backup brings it when \
             it is taken with -X stream or -X fetch",
            self.label.log_begin()
        );
        Err(damaged(&path, why))
    }

    fn check_log(&self, root: &Path) -> Result<()> {
        let (label, end) = (&self.label, self.end);
        let history = self.history.clone();
        let begin = label.log_begin();
        let mut check = LogCheck::new(label.system_id, history, label.segment_size, begin);
        let mut last = None;
        self.read_log(root, |_, bytes, path| {
            last = Some(path.to_owned());
            let cluster = label.system_id;
            check.take(bytes).map_err(|why| {
                let why = format!("its log is damaged, or not that of cluster {cluster}: {why}");
                damaged(path, why)
            })
        })?;
        if check.end() != end || check.is_inside_record() {
            let path = last.unwrap_or_else(|| root.join(BACKUP_LOG));
            let why = format!("no record of its log ends at {end}, where the backup ends");
            return Err(damaged(&path, why));
        }
        Ok(())
    }
}

pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Error {
    Error::DamagedBackup {
        path: path.to_owned(),
        why: why.into(),
    }
}

fn read_manifest(root: &Path) -> Result<Manifest> {
    let path = root.join(MANIFEST);
    if !files::exists(&OsDisk, &path)? {
        let why = "it is missing: the backup was interrupted, or taken without a manifest";
        return Err(damaged(&path, why));
    }
    let bytes = files::read(&path, MANIFEST_BYTES_MAX as u64)?;
    Manifest::parse(&bytes).map_err(|why| damaged(&path, format!("the manifest {why}")))
}

fn check_file(root: &Path, listed: &ManifestFile) -> Result<()> {
    let path = root.join(&listed.path);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(&path, "it is in the manifest, but missing"));
        }
        opened => opened.map_err(|source| io_error("open", &path, source))?,
    };
    let found = file.metadata();
    let size = found
        .map_err(|source| io_error("inspect", &path, source))?
        .len();
    if size != listed.size {
        let expected = listed.size;
        let why = format!("it has {size} bytes, the manifest says {expected}");
        return Err(damaged(&path, why));
    }
    let Some((algorithm, expected)) = &listed.checksum else {
        return Ok(());
    };
    let mut checksum = Checksum::new(*algorithm);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => checksum.update(&buffer[..read]),
            Err(source) => return Err(io_error("read", &path, source)),
        }
    }
    let found = checksum.finish().unwrap_or_default();
    if !found.eq_ignore_ascii_case(expected) {
        let name = algorithm.as_str();
        let why = format!("its {name} is {found}, the manifest says {expected}");
        return Err(damaged(&path, why));
    }
    Ok(())
}

/// Refuses files in the store that the manifest does not list: a store may read any file there.
fn check_extra(root: &Path, manifest: &Manifest) -> Result<()> {
    let tree = Tree::of(&root.join(STORE), STORE)?;
    let listed = manifest.files.iter().map(|file| file.path.as_str());
    let listed = listed.collect::<std::collections::BTreeSet<_>>();
    let extra = tree.files.iter().find(|(path, _)| {
        let path = path.as_str();
        path != STORE_LOCK && !listed.contains(path)
    });
    match extra {
        Some((path, _)) => Err(damaged(&root.join(path), "it is not in the manifest")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_storage::{SegmentSize, Timeline};
    use uuid::Uuid;

    use super::super::manifest::{LogStretch, ManifestWriter};
    use super::*;
    use crate::wire::command::{ChecksumAlgorithm, ManifestMode};

    #[test]
    fn a_backup_that_needs_log_from_the_end_of_all_positions_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let timeline = Timeline {
            number: 1,
            id: Uuid::from_u128(1),
        };
        let label = Label {
            system_id: 42,
            segment_size: SegmentSize::MIN,
            replay: Lsn::new(u64::MAX - 9),
            copy: Lsn::new(u64::MAX - 9),
            timeline,
            history_begin: SegmentSize::MIN.first_lsn(),
            history: String::new(),
            begun: 0,
            name: String::new(),
        };
        let text = label.to_text();
        std::fs::write(dir.path().join(BACKUP_LABEL), &text).unwrap();
        let mut manifest = ManifestWriter::new(ManifestMode::Yes, ChecksumAlgorithm::None, 0);
        manifest.add(BACKUP_LABEL, text.len() as u64, None);
        let (start, end) = (label.replay, Lsn::MAX);
        let manifest = manifest.finish(LogStretch {
            timeline: 1,
            start,
            end,
        });
        std::fs::write(dir.path().join(MANIFEST), manifest).unwrap();
        let size = label.segment_size;
        let segment = segment_file_name(1, size.segment_of(label.replay), size);
        std::fs::create_dir(dir.path().join(BACKUP_LOG)).unwrap();
        std::fs::write(dir.path().join(BACKUP_LOG).join(segment), [0; 64]).unwrap();
        let refused = Checked::of(dir.path()).unwrap_err();
        assert!(matches!(refused, Error::DamagedBackup { .. }), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("from where no log lies"), "{text}");
    }
}
