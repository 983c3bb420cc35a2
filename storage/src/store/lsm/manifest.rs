//! The store's directory before the library sees it: the checks that the library leaves out.
//!
//! A tree whose `current` file is gone opens as an empty one, and the open after that deletes
//! every table; a damaged manifest may show half of the rows. So a directory is looked at here
//! first, and only opened when it is whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::fault::corrupt;
use crate::disk::{Disk, DiskLock, OsDisk};
use crate::error::{Error, Result};

/// Names the manifest and carries its hash.
pub(super) const CURRENT: &str = "current";
/// Directory of the tables.
pub(super) const TABLES: &str = "tables";
/// Our own lock; the library takes none.
const LOCK: &str = "lock";
/// Id, hash, kind of hash.
const CURRENT_LEN: usize = 8 + 16 + 1;

/// Prepares `dir` for opening: creates it if it may be new, locks it, checks what is there, and
/// removes temporary files that a kill left behind.
///
/// # Errors
/// [`Error::Corrupt`] when a tree should be there and is not, or is damaged; [`Error::Locked`];
/// disk errors.
pub(super) fn prepare(dir: &Path, must_exist: bool) -> Result<Box<dyn DiskLock>> {
    let current = dir.join(CURRENT);
    let exists = |path: &Path| {
        OsDisk
            .exists(path)
            .map_err(|error| Error::io("look for", path, error))
    };
    if must_exist && !exists(&current)? {
        let why = "it is missing although the control file says that there is a store".to_owned();
        return Err(corrupt(&current, why));
    }
    if !exists(dir)? {
        let io = |op, error| Error::io(op, dir, error);
        OsDisk
            .create_dir(dir)
            .map_err(|error| io("create", error))?;
        let parent = dir.parent().unwrap_or(Path::new("/"));
        OsDisk.sync_dir(parent).map_err(|error| io("sync", error))?;
    }
    let lock = lock(dir)?;
    if exists(&current)? {
        check(dir)?;
    } else if exists(&dir.join(TABLES))? && !list(&dir.join(TABLES))?.is_empty() {
        let why = "it is missing, but there are tables".to_owned();
        return Err(corrupt(&current, why));
    }
    for name in list(dir)?.iter().filter(|name| name.starts_with(".tmp")) {
        let path = dir.join(name);
        OsDisk
            .remove(&path)
            .map_err(|error| Error::io("remove", &path, error))?;
    }
    Ok(lock)
}

/// Checks that the manifest is the one that `current` names, byte by byte, and that nothing lies
/// among the tables that the library would stumble over. Reads no table.
///
/// # Errors
/// [`Error::Corrupt`], disk errors.
pub(super) fn check(dir: &Path) -> Result<()> {
    let (id, hash) = current(dir)?;
    let path = manifest(dir, id);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(corrupt(
                &path,
                "it is named by `current`, but missing".to_owned(),
            ));
        }
        read => read.map_err(|error| Error::io("read", &path, error))?,
    };
    if xxhash_rust::xxh3::xxh3_128(&bytes) != hash {
        let why = "its hash differs from the one in `current`".to_owned();
        return Err(corrupt(&path, why));
    }
    let tables = dir.join(TABLES);
    if !tables.is_dir() {
        return Err(corrupt(&tables, "it is missing".to_owned()));
    }
    for name in list(&tables)? {
        let path = tables.join(&name);
        if name.parse::<u64>().is_err() || !path.is_file() {
            return Err(corrupt(&path, "it is not a table".to_owned()));
        }
    }
    Ok(())
}

/// Id and hash of the manifest that `current` names.
pub(super) fn current(dir: &Path) -> Result<(u64, u128)> {
    let path = dir.join(CURRENT);
    let bytes = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let Ok(bytes) = <[u8; CURRENT_LEN]>::try_from(bytes.as_slice()) else {
        let why = format!("it has {} bytes instead of {CURRENT_LEN}", bytes.len());
        return Err(corrupt(&path, why));
    };
    let (id, rest) = bytes.split_first_chunk().expect("25 bytes hold 8");
    let (hash, kind) = rest.split_first_chunk().expect("17 bytes hold 16");
    if kind != [0] {
        return Err(corrupt(&path, "its kind of hash is unknown".to_owned()));
    }
    Ok((u64::from_le_bytes(*id), u128::from_le_bytes(*hash)))
}

/// Path of the manifest `id`.
pub(super) fn manifest(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("v{id}"))
}

/// Names in a directory.
pub(super) fn list(dir: &Path) -> Result<Vec<String>> {
    OsDisk
        .list(dir)
        .map_err(|error| Error::io("list", dir, error))
}

fn lock(dir: &Path) -> Result<Box<dyn DiskLock>> {
    OsDisk
        .lock(&dir.join(LOCK))
        .map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::Locked {
                path: dir.to_owned(),
            },
            _ => Error::io("lock", dir, error),
        })
}
