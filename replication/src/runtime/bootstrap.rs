//! Base backups on the side of who takes and restores them.
//!
//! ```text
//!   BASE_BACKUP ── receive ──▶ DIR/bootstrap/unpacked ─┐
//!   base.tar    ── unpack  ──▶ DIR/bootstrap/unpacked ─┼─ check ── install ──▶ DIR
//!   backup directory ────────────────────────────────  ┘
//! ```
//!
//! Everything is prepared in `bootstrap/` inside the data directory and moved to its place when it
//! is complete, the control file last (`install.rs`): whatever was interrupted leaves a directory
//! that does not start, and that the next attempt fills again. A transfer that breaks off is
//! begun again, at the next address if there are several.

#[cfg(test)]
mod crashes;
#[cfg(feature = "fuzz")]
pub(super) mod fuzz;
mod install;
mod receive;
mod restore;
mod unpack;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{BOOTSTRAP_DIR, Disk, DiskLock, Lsn, OsDisk};
use tokio::task::spawn_blocking;

pub use self::receive::BackupRequest;
pub use self::restore::{
    adopt_backup, finish_bootstrap, holds_backup, restore_backup, verify_backup,
};

use self::install::Parts;
use self::receive::OnProgress;
use self::restore::lock;
use crate::config::WalStreamingConfig;
use crate::error::{Error, Result};
use crate::runtime::backup::files;
use crate::runtime::backup::verify::Checked;
use crate::runtime::client::Client;

/// How often a transfer that broke off is begun again.
const RESTARTS_MAX: u32 = 10;

/// Pause before the first restart of a transfer; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);

/// Longest pause before a restart.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where a backup is unpacked, in `bootstrap/`.
const UNPACKED: &str = "unpacked";

/// What a bootstrap received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrapped {
    /// Bytes of archive.
    pub bytes: u64,
    /// Where the directory stands; log from here on completes it.
    pub start: Lsn,
}

/// A base backup in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// What its taker called it.
    pub label: String,
    /// The cluster.
    pub system_id: u64,
    /// Number of the timeline it was taken on.
    pub timeline: u32,
    /// From where its log is replayed.
    pub start: Lsn,
    /// Up to where it holds everything.
    pub end: Lsn,
    /// Files in its manifest.
    pub files: usize,
    /// Bytes of its files and log.
    pub bytes: u64,
}

impl Backup {
    fn of(checked: &Checked) -> Self {
        let label = &checked.label;
        Self {
            label: label.name.clone(),
            system_id: label.system_id,
            timeline: label.timeline.number,
            start: label.replay,
            end: checked.end,
            files: checked.files,
            bytes: checked.bytes,
        }
    }
}

/// Fills the configured data directory, which holds no log, from one of the configured upstreams,
/// so that it can be opened and go on from there. A transfer that breaks off is begun again.
///
/// # Errors
/// The last upstream's error when none could be copied; disk errors. The directory then still
/// holds no log.
pub async fn bootstrap(config: &WalStreamingConfig) -> Result<Bootstrapped> {
    check_empty(&config.data_dir)?;
    let request = BackupRequest {
        label: format!("bootstrap of {}", config.name),
        max_rate_kb: None,
    };
    let mut told = 0;
    let mut tell = |bytes: u64, total: u64| {
        if bytes >> 30 > told {
            told = bytes >> 30;
            tracing::info!(bytes, total, "receiving a base backup");
        }
    };
    let staging = config.data_dir.join(BOOTSTRAP_DIR);
    let place = Place {
        disk: Arc::new(OsDisk),
        root: staging.join(UNPACKED),
        clear: staging,
        data: Some(config.data_dir.clone()),
    };
    let mut transfer = Transfer {
        config,
        request: &request,
        place: &place,
        held: None,
    };
    let bytes = transfer.run(&mut tell).await?;
    // Nobody else may open the directory before it is complete.
    let _held = transfer.held.take();
    let (dir, node_id) = (config.data_dir.clone(), config.node_id);
    let installed = spawn_blocking(move || {
        let checked = Checked::of(&place.root)?;
        let parts = Parts {
            log: &place.root,
            store: &place.root,
        };
        install::install(&place.disk, &dir, parts, &checked, node_id)?;
        Ok(checked.end)
    });
    let start = joined(installed.await)?;
    Ok(Bootstrapped { bytes, start })
}

/// Takes a base backup of one of the configured upstreams into `dir`, which is empty or missing:
/// plain files, with the log that they need and a manifest. `on_progress` is told how many bytes
/// have come of about how many, again from zero when the transfer had to begin again.
///
/// # Errors
/// [`Error::Refused`] when `dir` is not empty, the last upstream's error, disk errors,
/// [`Error::DamagedBackup`]. What had come remains in `dir`, without its manifest.
pub async fn take_backup(
    config: &WalStreamingConfig,
    dir: &Path,
    request: &BackupRequest,
    on_progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Backup> {
    restore::refuse_filled(dir)?;
    let place = Place {
        disk: Arc::new(OsDisk),
        root: dir.to_owned(),
        clear: dir.to_owned(),
        data: None,
    };
    let mut transfer = Transfer {
        config,
        request,
        place: &place,
        held: None,
    };
    transfer.run(on_progress).await?;
    let checked = spawn_blocking(move || {
        let checked = Checked::of(&place.root)?;
        files::sync_tree(&*place.disk, &place.root)?;
        Ok(checked)
    });
    Ok(Backup::of(&joined(checked.await)?))
}

/// Where a transfer goes.
#[derive(Debug, Clone)]
struct Place {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// What is emptied before each attempt.
    clear: PathBuf,
    /// The data directory that is marked and locked meanwhile, if it is one.
    data: Option<PathBuf>,
}

/// One backup's way here, over as many attempts as it takes.
struct Transfer<'a> {
    config: &'a WalStreamingConfig,
    request: &'a BackupRequest,
    place: &'a Place,
    /// The data directory's lock, from the first attempt that something came of.
    held: Option<Box<dyn DiskLock>>,
}

impl Transfer<'_> {
    /// Tries the upstreams in turn until one sent a whole backup; returns its bytes.
    async fn run(&mut self, on_progress: OnProgress<'_>) -> Result<u64> {
        let (mut begun, mut restarts, mut pause) = (false, 0, PAUSE);
        loop {
            let text = "there is no node to take a base backup from";
            let mut failed = Error::Invalid(text.to_owned());
            for address in &self.config.follow {
                match self.from(address, &mut begun, on_progress).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => {
                        tracing::warn!(%address, %error, "cannot take a base backup");
                        failed = error;
                    }
                }
            }
            restarts += 1;
            // Who never answered may not be there at all, and a full disk stays full.
            if !begun || restarts > RESTARTS_MAX || matches!(failed, Error::Storage(_)) {
                return Err(failed);
            }
            tracing::info!(restarts, "the transfer broke off and begins again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One attempt; `begun` says afterwards whether a backup was on its way.
    async fn from(
        &mut self,
        address: &str,
        begun: &mut bool,
        on_progress: OnProgress<'_>,
    ) -> Result<u64> {
        let mut client = Client::connect(self.config, address).await?;
        let total = receive::begin(&mut client, self.request).await?;
        *begun = true;
        // Only now, so that a node that is not there costs nothing.
        let (place, held) = (self.place.clone(), self.held.take());
        self.held = joined(spawn_blocking(move || place.make_ready(held)).await)?;
        on_progress(0, total);
        let Place { disk, root, .. } = self.place;
        receive::receive(&mut client, disk, root, total, on_progress).await
    }
}

impl Place {
    /// Locks and marks a data directory, and removes what an earlier attempt left.
    fn make_ready(&self, held: Option<Box<dyn DiskLock>>) -> Result<Option<Box<dyn DiskLock>>> {
        let disk = &*self.disk;
        files::create_dir_durably(disk, self.data.as_ref().unwrap_or(&self.root))?;
        let held = match (&self.data, held) {
            (Some(dir), None) => Some(lock(disk, dir)?),
            (_, held) => held,
        };
        files::clear_content(disk, &self.clear)?;
        if let Some(dir) = &self.data {
            install::mark(disk, dir)?;
        }
        Ok(held)
    }
}

/// What a thread returned.
fn joined<T>(done: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    done.map_err(|error| Error::Invalid(error.to_string()))
        .flatten()
}

/// Refuses a directory whose control file went missing: what lies there may be all that is left of
/// somebody's data. Leftovers of an interrupted bootstrap come with its own directory.
fn check_empty(dir: &Path) -> Result<()> {
    if holds_backup(dir)? {
        return Err(Error::Invalid(format!(
            "{} holds a base backup; open that, or choose an empty directory",
            dir.display()
        )));
    }
    if files::exists(&OsDisk, &dir.join(BOOTSTRAP_DIR))? {
        return Ok(());
    }
    let there = files::names(&OsDisk, dir)?;
    let holds = there
        .iter()
        .find(|name| ["wal", "store"].contains(&name.as_str()));
    match holds {
        Some(name) => Err(Error::Invalid(format!(
            "{} holds a {name} directory, but no control file; restore the control file, or choose \
             an empty directory",
            dir.display()
        ))),
        None => Ok(()),
    }
}
