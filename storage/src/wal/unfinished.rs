//! Directories that are on the way to becoming a data directory, and must not be taken for empty.

use std::path::Path;

use crate::disk::Disk;
use crate::error::{Error, Result};

/// The directory inside a data directory where a base backup is received or converted. While it is
/// there and there is no control file, what lies beside it is incomplete.
pub const BOOTSTRAP_DIR: &str = "bootstrap";

/// What a base backup says about itself; at the root of one that was not converted yet.
pub const BACKUP_LABEL: &str = "backup_label";

/// The archive that holds the label of a base backup that was not unpacked.
pub const BACKUP_ARCHIVE: &str = "base.tar";

/// Refuses to begin a log where the data of another one lie.
pub(super) fn refuse_unfinished(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let holds = |name: &str| {
        let path = dir.join(name);
        disk.exists(&path)
            .map_err(|source| Error::io("inspect", &path, source))
    };
    let shown = dir.display();
    if holds(BOOTSTRAP_DIR)? {
        return Err(Error::Invalid(format!(
            "{shown} was being filled from a base backup, which was interrupted; follow the same \
             node again, or repeat the restore, to fill it from the begin"
        )));
    }
    if holds(BACKUP_LABEL)? || holds(BACKUP_ARCHIVE)? {
        return Err(Error::Invalid(format!(
            "{shown} holds a base backup, and a new log would hide it; start a node on it, restore \
             it into another directory, or choose an empty one"
        )));
    }
    Ok(())
}
