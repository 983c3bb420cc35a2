//! Backups that lie in a directory: checking one, restoring it, and starting on it in place.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_storage::{BACKUP_ARCHIVE, BACKUP_LABEL, BOOTSTRAP_DIR, Disk, DiskLock, OsDisk};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::install::{self, KEPT, LOG_ARCHIVE, Parts};
use super::unpack::{first_file, unpack_file};
use super::{Backup, UNPACKED, joined};
use crate::config::WalStreamingConfig;
use crate::error::{Error, Result};
use crate::runtime::backup::files::{self, Tree, io_error};
use crate::runtime::backup::label::Label;
use crate::runtime::backup::manifest::MANIFEST;
use crate::runtime::backup::verify::{Checked, damaged};
use crate::runtime::backup::{BACKUP_LOG, STORE};
use crate::runtime::client::Client;

/// Whether `dir` is a base backup that was not made a data directory yet.
///
/// # Errors
/// Disk errors; [`Error::Invalid`] for one in compressed archives, and for one without its label:
/// nobody knows where its log begins.
pub fn holds_backup(dir: &Path) -> Result<bool> {
    let there = files::names(&OsDisk, dir)?;
    let has = |wanted: &str| there.iter().any(|name| name == wanted);
    if has("control") {
        return Ok(false);
    }
    let compressed = there.iter().find(|name| {
        let more = name.strip_prefix(BACKUP_ARCHIVE);
        more.is_some_and(|more| more.starts_with('.'))
    });
    match compressed {
        Some(name) => Err(Error::Invalid(format!(
            "{} is a compressed base backup; decompress its archives first",
            dir.join(name).display()
        ))),
        None if has(BACKUP_LABEL) || has(BACKUP_ARCHIVE) => Ok(true),
        // Whatever is filled just now brings its label with the rest.
        None if has(MANIFEST) && !has(BOOTSTRAP_DIR) => Err(Error::Invalid(format!(
            "{}: {BACKUP_LABEL} is missing beside {MANIFEST}, and without it nobody knows where the \
             log of this backup begins; take the backup again",
            dir.display()
        ))),
        None => Ok(false),
    }
}

/// Checks the backup in `dir`: every file against the manifest, every record of its log. Nothing
/// is changed.
///
/// # Errors
/// [`Error::DamagedBackup`] for the first file that is not as it was; [`Error::Invalid`] for
/// archives; disk errors.
pub fn verify_backup(dir: &Path) -> Result<Backup> {
    refuse_no_backup(dir)?;
    if files::exists(&OsDisk, &dir.join(BACKUP_ARCHIVE))? {
        let dir = dir.display();
        return Err(Error::Invalid(format!(
            "{dir} holds a backup as tar archives, which are checked when they are restored; to \
             check it now, unpack {BACKUP_ARCHIVE} and, into its {BACKUP_LOG}, {LOG_ARCHIVE}, and \
             put {MANIFEST} beside them"
        )));
    }
    Ok(Backup::of(&Checked::of(dir)?))
}

/// Restores the backup in `from`, plain or as tar archives, into the data directory `dir`, which
/// is empty or missing. The backup is only read. The directory is a standby's: it follows, or is
/// promoted.
///
/// # Errors
/// [`Error::Refused`] when `dir` is not empty, [`Error::DamagedBackup`], disk errors. Nothing that
/// starts is in `dir` then; what was interrupted may be repeated.
pub fn restore_backup(from: &Path, dir: &Path, node_id: Option<Uuid>) -> Result<Backup> {
    refuse_no_backup(from)?;
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let begun = files::exists(&*disk, &dir.join(BOOTSTRAP_DIR))?;
    if !begun || files::exists(&*disk, &dir.join("control"))? {
        refuse_filled(dir)?;
    }
    let archived = files::exists(&*disk, &from.join(BACKUP_ARCHIVE))?;
    let before = match archived {
        // Nothing is touched before it is known to be whole.
        false => Some(Checked::of(from)?),
        true => None,
    };
    let (_lock, root) = begin_restore(&*disk, dir)?;
    let checked = match before {
        None => unpack_checked(&*disk, from, &root, &dir.join(BOOTSTRAP_DIR))?,
        Some(checked) => {
            copy_store(&*disk, from, &root)?;
            checked
        }
    };
    let parts = Parts {
        log: if archived { &root } else { from },
        store: &root,
    };
    install::install(&disk, dir, parts, &checked, node_id)?;
    Ok(Backup::of(&checked))
}

/// Locks and marks the data directory, and says where in it the backup is to be unpacked.
pub(super) fn begin_restore(disk: &dyn Disk, dir: &Path) -> Result<(Box<dyn DiskLock>, PathBuf)> {
    files::create_dir_durably(disk, dir)?;
    let lock = lock(disk, dir)?;
    let root = install::mark(disk, dir)?.join(UNPACKED);
    files::clear(disk, &root)?;
    Ok((lock, root))
}

/// Makes the configured data directory, which holds a base backup as PostgreSQL's tools or ours
/// wrote it, a data directory. Interrupted, it is repeated by the next call.
///
/// # Errors
/// [`Error::Foreign`] when an upstream that can be asked is of another cluster,
/// [`Error::DamagedBackup`], disk errors. The backup is unchanged then.
pub async fn adopt_backup(config: &WalStreamingConfig) -> Result<Backup> {
    let dir = config.data_dir.clone();
    if !config.follow.is_empty() {
        let label = match files::exists(&OsDisk, &dir.join(BACKUP_LABEL))? {
            true => Label::read(&dir)?,
            false => label_in(&dir.join(BACKUP_ARCHIVE))?,
        };
        check_cluster(config, label.system_id).await?;
    }
    let node_id = config.node_id;
    joined(spawn_blocking(move || adopt(&dir, node_id)).await)
}

fn adopt(dir: &Path, node_id: Option<Uuid>) -> Result<Backup> {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let log = dir.join("wal");
    if files::exists(&*disk, &log)? && !install::is_marked_in_place(&*disk, dir)? {
        return Err(Error::Refused(format!(
            "{} lies in a base backup, which holds no such directory; move it away",
            log.display()
        )));
    }
    let archived = files::exists(&*disk, &dir.join(BACKUP_ARCHIVE))?;
    let before = match archived {
        // Nothing is touched before it is known to be whole.
        false => Some(Checked::of(dir)?),
        true => None,
    };
    let _lock = lock(&*disk, dir)?;
    let staging = install::mark_in_place(&*disk, dir)?;
    let unpacked = staging.join(UNPACKED);
    let (root, checked) = match before {
        Some(checked) => (dir, checked),
        None => {
            files::clear(&*disk, &unpacked)?;
            let checked = unpack_checked(&*disk, dir, &unpacked, &staging)?;
            (&*unpacked, checked)
        }
    };
    let parts = Parts {
        log: root,
        store: root,
    };
    install::install(&disk, dir, parts, &checked, node_id)?;
    Ok(Backup::of(&checked))
}

/// Removes what an interrupted bootstrap left in a directory that is complete.
///
/// # Errors
/// Disk errors.
pub fn finish_bootstrap(dir: &Path) -> Result<()> {
    finish(&OsDisk, dir)
}

pub(super) fn finish(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let marked = files::exists(disk, &dir.join(BOOTSTRAP_DIR))?;
    match marked && files::exists(disk, &dir.join("control"))? {
        true => install::remove_remains(disk, dir),
        false => Ok(()),
    }
}

/// Unpacks the archives in `from` into `root` and checks them; on damage, `staging` is removed.
fn unpack_checked(disk: &dyn Disk, from: &Path, root: &Path, staging: &Path) -> Result<Checked> {
    let unpacked = unpack_archives(disk, from, root).and_then(|()| Checked::of(root));
    if unpacked.is_err() {
        // The first error is the one to tell.
        let _ = files::clear(disk, staging);
    }
    unpacked
}

fn unpack_archives(disk: &dyn Disk, from: &Path, root: &Path) -> Result<()> {
    unpack_file(disk, root, &from.join(BACKUP_ARCHIVE))?;
    let log = from.join(LOG_ARCHIVE);
    if files::exists(disk, &log)? {
        unpack_file(disk, &root.join(BACKUP_LOG), &log)?;
    }
    let manifest = from.join(MANIFEST);
    if files::exists(disk, &manifest)? {
        copy(disk, &manifest, &root.join(MANIFEST))?;
    }
    Ok(())
}

/// Copies what becomes part of a data directory.
pub(super) fn copy_store(disk: &dyn Disk, from: &Path, root: &Path) -> Result<()> {
    let tree = Tree::of(&from.join(STORE), STORE)?;
    for dir in &tree.dirs {
        files::create_dir(disk, &root.join(dir))?;
    }
    for (path, _) in &tree.files {
        copy(disk, &from.join(path), &root.join(path))?;
    }
    for name in KEPT {
        if files::exists(&OsDisk, &from.join(name))? {
            copy(disk, &from.join(name), &root.join(name))?;
        }
    }
    Ok(())
}

fn copy(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(|source| io_error("open", from, source))?;
    let copied = std::io::copy(&mut source, &mut files::create(disk, to)?);
    copied
        .map(|_| ())
        .map_err(|source| io_error("copy", from, source))
}

/// Refuses a directory that holds anything.
pub(super) fn refuse_filled(dir: &Path) -> Result<()> {
    let found = match fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|source| io_error("inspect", dir, source))?,
    };
    let shown = dir.display();
    let instead = "choose an empty directory, or one that does not exist";
    if !found.is_dir() {
        return Err(Error::Refused(format!(
            "{shown} is no directory; {instead}"
        )));
    }
    match files::names(&OsDisk, dir)?.first() {
        Some(name) => Err(Error::Refused(format!(
            "{shown} is not empty, it holds {name}; {instead}"
        ))),
        None => Ok(()),
    }
}

fn refuse_no_backup(dir: &Path) -> Result<()> {
    if holds_backup(dir)? {
        return Ok(());
    }
    let (label, archive) = (BACKUP_LABEL, BACKUP_ARCHIVE);
    Err(Error::Invalid(format!(
        "{} is no base backup: it has neither {label} nor {archive}",
        dir.display()
    )))
}

/// The label in an archive, of which it is the first member.
fn label_in(path: &Path) -> Result<Label> {
    let bytes = first_file(path, BACKUP_LABEL)?;
    let label = bytes.ok_or_else(|| "it does not begin with a label".to_owned());
    let label = label.and_then(|bytes| Label::parse(&String::from_utf8_lossy(&bytes)));
    label.map_err(|why| damaged(path, why))
}

/// Refuses to follow another cluster with this backup, if one of the upstreams can be asked.
async fn check_cluster(config: &WalStreamingConfig, expected: u64) -> Result<()> {
    for address in &config.follow {
        // One that cannot be reached is followed later, and says no then.
        let Ok(mut client) = Client::connect(config, address).await else {
            continue;
        };
        let found = client.system_identity().await?.system_id;
        if found != expected {
            return Err(Error::Foreign {
                peer: address.clone(),
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// Takes the lock of a data directory.
pub(super) fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>> {
    let path: PathBuf = dir.join("lock");
    disk.lock(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => Error::Storage(mainstay_storage::Error::Locked {
            path: dir.to_owned(),
        }),
        _ => io_error("lock", &path, source),
    })
}
