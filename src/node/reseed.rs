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

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_storage::{Disk, Timeline, Wal, WalOptions, remove_broken_mark};

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
pub(super) fn clear(disk: &dyn Disk, incoming: &Path) -> Result<()> {
    remove(disk, incoming)
}

/// Notes in the complete copy what this node is bound by, and lets it take the place of the data
/// at the next [`finish`].
///
/// # Errors
/// The log's; disk errors.
pub(super) fn accept(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    options: &WalOptions,
    promised: Option<Timeline>,
    attempted: Option<Timeline>,
) -> Result<()> {
    let copy = incoming(dir);
    let (wal, _) = Wal::open(disk.clone(), &copy, options)?;
    wal.save_promises(promised, attempted)?;
    wal.close()?;
    rename(&**disk, &copy, &staging(dir))?;
    sync(&**disk, dir)
}

/// Puts a complete copy in the place of the data in `dir`, and removes them; does nothing when
/// there is no copy. One that is not complete is removed. Log and store must be closed.
///
/// # Errors
/// Disk errors; calling again goes on.
pub(super) fn finish(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let (copy, old) = (staging(dir), dir.join("replaced"));
    remove(disk, &incoming(dir))?;
    if !exists(disk, &copy.join(CONTROL))? {
        remove(disk, &copy)?;
        return remove(disk, &old);
    }
    disk.create_dir(&old).map_err(failed("create", &old))?;
    // Without a control file there is nothing here that a node would start on.
    move_over(disk, &dir.join(CONTROL), &old.join(CONTROL))?;
    sync(disk, dir)?;
    for name in ["wal", "store"] {
        let (new, place) = (copy.join(name), dir.join(name));
        if exists(disk, &new)? {
            move_over(disk, &place, &old.join(name))?;
            rename(disk, &new, &place)?;
        }
    }
    sync(disk, dir)?;
    // The rows that it speaks of are not here any more.
    remove_broken_mark(disk, dir)?;
    rename(disk, &copy.join(CONTROL), &dir.join(CONTROL))?;
    sync(disk, dir)?;
    remove(disk, &copy)?;
    remove(disk, &old)
}

/// Moves `from`, if it exists, to `to`, in place of what lies there.
fn move_over(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    if !exists(disk, from)? {
        return Ok(());
    }
    remove(disk, to)?;
    rename(disk, from, to)
}

fn exists(disk: &dyn Disk, path: &Path) -> Result<bool> {
    disk.exists(path).map_err(failed("inspect", path))
}

fn rename(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    disk.rename(from, to).map_err(failed("move", from))
}

fn sync(disk: &dyn Disk, dir: &Path) -> Result<()> {
    disk.sync_dir(dir).map_err(failed("sync", dir))
}

/// Removes a file or a tree, if it exists.
fn remove(disk: &dyn Disk, path: &Path) -> Result<()> {
    disk.remove_tree(path).map_err(failed("remove", path))
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> crate::Error {
    let path = path.to_owned();
    move |source| mainstay_storage::Error::Io { op, path, source }.into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mainstay_storage::{BROKEN_FILE, CrashMode, NewLog, OsDisk, SegmentSize, SimDisk};
    use uuid::Uuid;

    use super::*;

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
        finish(&OsDisk, dir.path()).unwrap();
        holds(dir.path(), "old");
        finish(&OsDisk, dir.path()).unwrap();
        holds(dir.path(), "old");
    }

    const DIR: &str = "/srv/b";
    const MODES: [CrashMode; 6] = [
        CrashMode::LoseUnsynced,
        CrashMode::KeepAll,
        CrashMode::Random,
        CrashMode::Nasty,
        CrashMode::Random,
        CrashMode::Nasty,
    ];

    fn options() -> WalOptions {
        WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        }
    }

    fn timeline(number: u32) -> Option<Timeline> {
        let id = Uuid::from_u128(u128::from(number));
        Some(Timeline { number, id })
    }

    /// A life's data: a log, and tables that are as they were when this life wrote them.
    fn live(disk: &SimDisk, dir: &Path, life: u128) {
        let new = NewLog {
            node_id: Uuid::from_u128(life),
            ..NewLog::new_cluster(SegmentSize::MIN)
        };
        let wal = Wal::create(Arc::new(disk.clone()), dir, new, &options()).unwrap();
        wal.close().unwrap();
        disk.write_file(dir.join("store/current"), &life.to_le_bytes());
        disk.write_file(dir.join("store/tables").join(life.to_string()), b"rows");
    }

    /// Old data that are bound by two promises and marked as broken, and a copy beside them.
    fn before(seed: u64) -> SimDisk {
        let (disk, dir) = (SimDisk::new(seed), Path::new(DIR));
        live(&disk, dir, 1);
        let (wal, _) = Wal::open(Arc::new(disk.clone()), dir, &options()).unwrap();
        wal.save_promises(timeline(8), timeline(9)).unwrap();
        wal.close().unwrap();
        disk.write_file(dir.join(BROKEN_FILE), b"old");
        live(&disk, &incoming(dir), 2);
        disk
    }

    /// Says whose data there are, of which none is missing and none another's.
    fn data(case: &str, disk: &SimDisk) -> u128 {
        let dir = Path::new(DIR);
        let opened = Wal::open(Arc::new(disk.clone()), dir, &options());
        let (wal, _) = opened.unwrap_or_else(|error| panic!("{case}: {error}"));
        let (life, control) = (wal.identity().node_id.as_u128(), wal.control());
        let bound = (control.promised(), control.attempted());
        assert_eq!(
            bound,
            (timeline(8), timeline(9)),
            "{case}: it forgot a promise"
        );
        wal.close().unwrap();
        let current = disk.read_file(dir.join("store/current"));
        assert_eq!(current, life.to_le_bytes(), "{case}: another life's tables");
        let tables = disk.list(&dir.join("store/tables")).unwrap();
        assert_eq!(tables, [life.to_string()], "{case}");
        life
    }

    /// As [`data`], of a directory in which nothing is left to do.
    fn whose(case: &str, disk: &SimDisk) -> u128 {
        let (dir, life) = (Path::new(DIR), data(case, disk));
        let broken = disk.exists(&dir.join(BROKEN_FILE)).unwrap();
        assert_eq!(
            broken,
            life == 1,
            "{case}: the mark belongs to the old rows"
        );
        for name in ["reseed", "reseed.incoming", "replaced"] {
            assert!(
                !disk.exists(&dir.join(name)).unwrap(),
                "{case}: {name} is left"
            );
        }
        life
    }

    /// Cuts the power `first` calls after the copy is there, and `second` calls into the start
    /// after that; says whose data there are then, and whether the calls were enough.
    fn cut(first: u64, second: Option<u64>, mode: &CrashMode, seed: u64) -> (u128, bool) {
        let case = format!("{first} calls, {second:?} of the start, {mode:?}, seed {seed}");
        let disk = before(seed);
        disk.cut_power_after(first);
        let shared: Arc<dyn Disk> = Arc::new(disk.until_crash());
        let dir = Path::new(DIR);
        let accepted = accept(&shared, dir, &options(), timeline(8), timeline(9));
        let done = accepted.is_ok() && finish(&*shared, dir).is_ok();
        disk.crash(mode.clone());
        // Whoever opens it without knowing of copies finds one life's data, or none.
        if disk.exists(&dir.join(CONTROL)).unwrap() {
            data(&case, &disk.copy());
        }
        if let Some(second) = second {
            disk.cut_power_after(second);
            let _ = finish(&disk.until_crash(), dir);
            disk.crash(mode.clone());
        }
        finish(&disk, dir).unwrap_or_else(|error| panic!("{case}: {error}"));
        let life = whose(&case, &disk);
        assert!(
            life == 2 || accepted.is_err(),
            "{case}: the copy was accepted, and is gone"
        );
        if life == 1 {
            live(&disk, &incoming(dir), 2);
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            accept(&shared, dir, &options(), timeline(8), timeline(9)).unwrap();
            finish(&*shared, dir).unwrap();
            assert_eq!(
                whose(&case, &disk),
                2,
                "{case}: not the second time, either"
            );
        }
        (life, done)
    }

    #[test]
    fn a_power_cut_after_any_call_leaves_the_old_data_or_the_copy_and_every_promise() {
        let (mut old, mut new) = (0, 0);
        for first in 0.. {
            let mut all_done = false;
            for (n, mode) in MODES.iter().enumerate() {
                let seed = first * 10 + n as u64;
                let (life, done) = cut(first, None, mode, seed);
                *if life == 1 { &mut old } else { &mut new } += 1;
                all_done = done;
                // The start that follows is cut off as well, somewhere.
                cut(first, Some(seed * 7 % 40), mode, seed);
            }
            if all_done {
                break;
            }
        }
        println!("{old} power cuts left the old data, {new} the copy");
        assert!(old > 50 && new > 100, "{old} and {new}");
    }
}
