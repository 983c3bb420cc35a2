//! Making a data directory out of a backup that was checked.
//!
//! The log is rebuilt record by record inside `bootstrap/`, everything is made durable and moved
//! to its place, the control file last. Until then `bootstrap/` says that the directory is
//! incomplete, so whatever was interrupted is done again from the begin; after that only remains
//! are left to remove.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{
    BACKUP_ARCHIVE, BACKUP_LABEL, BOOTSTRAP_DIR, Disk, Lsn, NewLog, Wal, WalOptions,
};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::runtime::backup::manifest::MANIFEST;
use crate::runtime::backup::verify::Checked;
use crate::runtime::backup::{BACKUP_LOG, STORE, files};

/// The archive of the log that `pg_basebackup -Ft -X stream` writes.
pub(super) const LOG_ARCHIVE: &str = "pg_wal.tar";

/// What says whom a standby follows, written by `pg_basebackup -R`.
pub(super) const KEPT: [&str; 2] = ["standby.signal", "postgresql.auto.conf"];

/// In `bootstrap/`: the backup lies in the data directory itself.
const IN_PLACE: &str = "in_place";

/// What a backup consists of besides store, log and [`KEPT`].
const REMAINS: [&str; 6] = [
    BACKUP_LABEL,
    MANIFEST,
    BACKUP_LOG,
    "pg_tblspc",
    BACKUP_ARCHIVE,
    LOG_ARCHIVE,
];

/// Where the parts of a backup lie.
#[derive(Debug, Copy, Clone)]
pub(super) struct Parts<'a> {
    /// What holds `pg_wal/`; it is only read.
    pub(super) log: &'a Path,
    /// What holds `store/`, and what else goes to the data directory; on the same file system.
    pub(super) store: &'a Path,
}

/// Marks `dir` as incomplete, durably, and returns the path of `bootstrap/`.
pub(super) fn mark(disk: &dyn Disk, dir: &Path) -> Result<PathBuf> {
    let staging = dir.join(BOOTSTRAP_DIR);
    files::create_dir_durably(disk, dir)?;
    files::create_dir_durably(disk, &staging)?;
    Ok(staging)
}

/// As [`mark`], for a backup that lies in `dir` itself: what is left of it then goes.
pub(super) fn mark_in_place(disk: &dyn Disk, dir: &Path) -> Result<PathBuf> {
    let staging = mark(disk, dir)?;
    files::create_dir(disk, &staging.join(IN_PLACE))?;
    files::sync_dir(disk, &staging)?;
    Ok(staging)
}

/// Whether the backup that lies in `dir` is being converted, or was when it was interrupted.
pub(super) fn is_marked_in_place(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    files::exists(disk, &dir.join(BOOTSTRAP_DIR).join(IN_PLACE))
}

/// Makes `dir`, which is marked, a data directory.
pub(super) fn install(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    parts: Parts<'_>,
    checked: &Checked,
    node_id: Option<Uuid>,
) -> Result<()> {
    let prepared = dir.join(BOOTSTRAP_DIR).join("prepared");
    files::clear(&**disk, &prepared)?;
    make_log(disk, &prepared, parts.log, checked, node_id)?;
    let disk = &**disk;
    let (from, to) = (parts.store.join(STORE), dir.join(STORE));
    files::create_dir(disk, &from)?;
    files::sync_tree(disk, &from)?;
    if from != to {
        files::clear(disk, &to)?;
        files::move_to(disk, &from, &to)?;
        for name in KEPT {
            let path = parts.store.join(name);
            if files::exists(disk, &path)? {
                files::sync_file(disk, &path)?;
                files::move_to(disk, &path, &dir.join(name))?;
            }
        }
    }
    files::clear(disk, &dir.join("wal"))?;
    files::move_to(disk, &prepared.join("wal"), &dir.join("wal"))?;
    files::sync_dir(disk, dir)?;
    files::move_to(disk, &prepared.join("control"), &dir.join("control"))?;
    files::sync_dir(disk, dir)?;
    remove_remains(disk, dir)
}

/// Removes what is left of a backup in a directory that has its control file; the mark last.
/// Nothing but a backup that lay there itself is removed beside the mark.
pub(super) fn remove_remains(disk: &dyn Disk, dir: &Path) -> Result<()> {
    if is_marked_in_place(disk, dir)? {
        for name in REMAINS {
            files::clear(disk, &dir.join(name))?;
        }
        files::sync_dir(disk, dir)?;
    }
    files::clear(disk, &dir.join(BOOTSTRAP_DIR))
}

/// Writes the backup's log into the new data directory `prepared`.
fn make_log(
    disk: &Arc<dyn Disk>,
    prepared: &Path,
    root: &Path,
    checked: &Checked,
    node_id: Option<Uuid>,
) -> Result<()> {
    let label = &checked.label;
    let options = WalOptions {
        segment_size: label.segment_size,
        ..WalOptions::new(crate::runtime::wall_clock)
    };
    let new = NewLog {
        system_id: label.system_id,
        node_id: node_id.unwrap_or_else(Uuid::new_v4),
        history: checked.history.clone(),
        begin: label.log_begin(),
        checkpoint: label.replay,
        own: false,
        store_created: true,
    };
    let wal = Wal::create(disk.clone(), prepared, new, &options)?;
    // A standby is told what is committed, and all of this is.
    wal.set_commit_follows(false);
    let mut at = label.log_begin();
    let mut held = Vec::new();
    checked.read_log(root, |_, bytes, _| {
        held.extend_from_slice(bytes);
        let whole = Bytes::from(std::mem::take(&mut held));
        let end = wal.append_raw(at, &whole)?;
        let taken = usize::try_from(end.bytes_since(at)).unwrap_or(whole.len());
        held.extend_from_slice(&whole[taken..]);
        at = end;
        Ok(())
    })?;
    if at != checked.end || !held.is_empty() {
        let text = "the log in the backup is incomplete";
        return Err(Error::Invalid(text.to_owned()));
    }
    finish_log(&wal, checked.end, label.copy)
}

fn finish_log(wal: &Wal, end: Lsn, copy: Lsn) -> Result<()> {
    let flushed = wal.flushed().wait_blocking(end, None);
    flushed.map_err(|_| Error::Storage(mainstay_storage::Error::Closed))?;
    wal.advance_commit(end);
    wal.update_control(|control| control.flush_bound = control.flush_bound.max(copy))?;
    Ok(wal.close()?)
}
