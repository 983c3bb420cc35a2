//! Replacing a node's data by a copy of another node's, while the old data can still be read.
//!
//! ```text
//! DIR/reseed.incoming/  the copy while it is received, and until it was found good
//! DIR/reseed/           the copy that is to take the place of the data
//! DIR/replaced/         the old data, from then until it has taken their place
//! ```
//!
//! The copy is received beside the old data, and accepted when it is whole, has what this node may
//! have confirmed, and knows what this node promised. From then on it takes their place piece by
//! piece, the control file last, so a crash leaves either the old data whole, or a directory
//! without a control file that [`finish`] completes at the next start. What the old self promised
//! to other nodes goes with the new data.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_storage::{Disk as _, OsDisk, Timeline, Wal, WalOptions, remove_broken_mark};

use crate::error::Result;

const CONTROL: &str = "control";

/// Where a copy is received, in the data directory `dir`.
pub(super) fn incoming(dir: &Path) -> PathBuf {
    dir.join("reseed.incoming")
}

/// Where the copy lies that is to take the place of the data.
fn staging(dir: &Path) -> PathBuf {
    dir.join("reseed")
}

/// Forgets a copy that was begun, and lies in `incoming`.
///
/// # Errors
/// Disk errors.
pub(super) fn clear(incoming: &Path) -> Result<()> {
    remove(incoming)
}

/// Notes in the complete copy what this node is bound by, and lets it take the place of the data
/// at the next [`finish`].
///
/// # Errors
/// The log's; disk errors.
pub(super) fn accept(
    dir: &Path,
    options: &WalOptions,
    promised: Option<Timeline>,
    attempted: Option<Timeline>,
) -> Result<()> {
    let copy = incoming(dir);
    let (wal, _) = Wal::open(Arc::new(OsDisk), &copy, options)?;
    wal.save_promises(promised, attempted)?;
    wal.close()?;
    rename(&copy, &staging(dir))?;
    sync(dir)
}

/// Puts a complete copy in the place of the data in `dir`, and removes them; does nothing when
/// there is no copy. One that is not complete is removed. Log and store must be closed.
///
/// # Errors
/// Disk errors; calling again goes on.
pub(super) fn finish(dir: &Path) -> Result<()> {
    let (copy, old) = (staging(dir), dir.join("replaced"));
    clear(&incoming(dir))?;
    if !exists(&copy.join(CONTROL))? {
        clear(&copy)?;
        return remove(&old);
    }
    make(&old)?;
    // Without a control file there is nothing here that a node would start on.
    move_over(&dir.join(CONTROL), &old.join(CONTROL))?;
    sync(dir)?;
    for name in ["wal", "store"] {
        let (new, place) = (copy.join(name), dir.join(name));
        if exists(&new)? {
            move_over(&place, &old.join(name))?;
            rename(&new, &place)?;
        }
    }
    sync(dir)?;
    // The rows that it speaks of are not here any more.
    remove_broken_mark(&OsDisk, dir)?;
    rename(&copy.join(CONTROL), &dir.join(CONTROL))?;
    sync(dir)?;
    clear(&copy)?;
    remove(&old)
}

/// Moves `from`, if it exists, to `to`, in place of what lies there.
fn move_over(from: &Path, to: &Path) -> Result<()> {
    if !exists(from)? {
        return Ok(());
    }
    remove(to)?;
    rename(from, to)
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(failed("create", dir))
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(failed("inspect", path))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(failed("move", from))
}

fn sync(dir: &Path) -> Result<()> {
    OsDisk.sync_dir(dir).map_err(failed("sync", dir))
}

/// Removes a file or a tree, if it exists.
fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(failed("remove", path))
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> crate::Error {
    let path = path.to_owned();
    move |source| mainstay_storage::Error::Io { op, path, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_storage::BROKEN_FILE;

    fn write(dir: &Path, what: &str) {
        for name in ["wal", "store"] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("file"), what).unwrap();
        }
        fs::write(dir.join(CONTROL), what).unwrap();
        // As a standby leaves it whose rows were found to be wrong.
        fs::write(dir.join(BROKEN_FILE), what).unwrap();
    }

    fn holds(dir: &Path, what: &str) {
        for path in ["wal/file", "store/file", CONTROL] {
            assert_eq!(fs::read_to_string(dir.join(path)).unwrap(), what, "{path}");
        }
        assert!(!staging(dir).exists() && !dir.join("replaced").exists());
        assert_eq!(dir.join(BROKEN_FILE).exists(), what == "old");
        assert!(!incoming(dir).exists());
    }

    #[test]
    fn a_copy_that_was_not_accepted_is_removed_and_the_data_stay() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "old");
        // Whole, but nobody said that it is good.
        write(&incoming(dir.path()), "new");
        finish(dir.path()).unwrap();
        holds(dir.path(), "old");
        finish(dir.path()).unwrap();
        holds(dir.path(), "old");
    }

    #[test]
    fn a_kill_after_any_step_is_completed_at_the_next_start() {
        // Each case is the directory as it is after so many moves.
        type Move = (&'static str, &'static str);
        let moves: [Move; 6] = [
            ("control", "replaced/control"),
            ("wal", "replaced/wal"),
            ("reseed/wal", "wal"),
            ("store", "replaced/store"),
            ("reseed/store", "store"),
            ("reseed/control", "control"),
        ];
        for done in 0..=moves.len() {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), "old");
            write(&staging(dir.path()), "new");
            make(&dir.path().join("replaced")).unwrap();
            for (from, to) in &moves[..done] {
                // The mark goes before the last move, without which the node does not start.
                if *to == CONTROL {
                    remove_broken_mark(&OsDisk, dir.path()).unwrap();
                }
                fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
            }
            finish(dir.path()).unwrap();
            holds(dir.path(), "new");
        }
    }
}
