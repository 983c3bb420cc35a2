//! Filling an empty directory from another node, by BASE_BACKUP.
//!
//! Everything is received into `bootstrap/` inside the directory and moved to its place when it is
//! complete, the control file last: an interrupted bootstrap leaves a directory without a log,
//! which the next attempt clears and fills again.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use mainstay_storage::{Lsn, NewLog, OsDisk, Wal, WalOptions};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::config::WalStreamingConfig;
use crate::error::{Error, Result};
use crate::runtime::backup::Label;
use crate::runtime::client::{Answered, Client};
use crate::wire::command::{BackupOptions, Command};
use crate::wire::{BackendMessage, BackupMessage};

/// Where a base backup is received.
const STAGING: &str = "bootstrap";

/// Chunks that may wait for the disk.
const CHUNKS_MAX: usize = 8;

/// Bytes of received log appended at once.
const LOG_CHUNK_BYTES: u64 = 4 << 20;

/// Longest label that is read, in bytes.
const LABEL_BYTES_MAX: u64 = 1 << 20;

/// What a bootstrap received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrapped {
    /// Bytes of archive.
    pub bytes: u64,
    /// Where the copy of the store stands; log from here on completes it.
    pub start: Lsn,
}

/// Fills the configured data directory, which holds no log, from one of the configured upstreams,
/// so that it can be opened and go on from there.
///
/// # Errors
/// The last upstream's error when none could be copied; disk errors. The directory then still
/// holds no log.
pub async fn bootstrap(config: &WalStreamingConfig) -> Result<Bootstrapped> {
    check_empty(&config.data_dir)?;
    let mut failed = Error::Invalid("there is no node to take a base backup from".to_owned());
    for address in &config.follow {
        match from(config, address).await {
            Ok(done) => return Ok(done),
            Err(error) => {
                tracing::warn!(%address, %error, "cannot take a base backup");
                failed = error;
            }
        }
    }
    Err(failed)
}

/// Refuses a directory whose control file went missing: what lies there may be all that is left of
/// somebody's data. Leftovers of an interrupted bootstrap come with its own directory.
fn check_empty(dir: &Path) -> Result<()> {
    let interrupted = dir.join(STAGING).exists();
    let holds = ["wal", "store"]
        .into_iter()
        .find(|name| dir.join(name).exists());
    match holds {
        Some(name) if !interrupted => Err(Error::Invalid(format!(
            "{} holds a {name} directory, but no control file; restore the control file, or choose \
             an empty directory",
            dir.display()
        ))),
        _ => Ok(()),
    }
}

async fn from(config: &WalStreamingConfig, address: &str) -> Result<Bootstrapped> {
    let mut client = Client::connect(config, address).await?;
    let options = BackupOptions::default();
    match client.ask(&Command::BaseBackup(options)).await? {
        Answered::Copy => {}
        Answered::Done(_) => return Err(client.broken("it sent no backup")),
    }
    let dir = config.data_dir.clone();
    let (to_disk, chunks) = mpsc::channel(CHUNKS_MAX);
    let settings = (config.node_id, dir.clone());
    let unpacked = tokio::task::spawn_blocking(move || {
        let staging = dir.join(STAGING);
        unpack(&staging, ChannelReader::new(chunks))?;
        install(&settings.1, &staging, settings.0)
    });
    let received = receive(&mut client, to_disk).await;
    let installed = unpacked
        .await
        .map_err(|error| Error::Invalid(error.to_string()))?;
    let bytes = received?;
    Ok(Bootstrapped {
        bytes,
        start: installed?,
    })
}

/// Moves the archive's bytes to the thread that unpacks them.
async fn receive(client: &mut Client, to_disk: mpsc::Sender<Bytes>) -> Result<u64> {
    let mut bytes = 0;
    loop {
        match client.message().await? {
            BackendMessage::CopyData(payload) => {
                let message = BackupMessage::decode(payload);
                if let BackupMessage::Content(chunk) =
                    message.map_err(|source| client.wire(source))?
                {
                    bytes += chunk.len() as u64;
                    // The unpacking thread says itself why it ended.
                    let _ = to_disk.send(chunk).await;
                }
            }
            BackendMessage::ErrorResponse(error) => {
                return Err(Error::Answer {
                    peer: client.link.peer().to_owned(),
                    sqlstate: error.sqlstate.into_owned(),
                    message: error.message,
                });
            }
            BackendMessage::ReadyForQuery(_) => return Ok(bytes),
            _ => {}
        }
    }
}

fn unpack(staging: &Path, archive: ChannelReader) -> Result<()> {
    clear(staging)?;
    let failed = |source| io_error("unpack into", staging, source);
    std::fs::create_dir_all(staging).map_err(failed)?;
    // It marks an interrupted bootstrap, so it must be there before anything is moved.
    sync_dir(staging.parent().unwrap_or(staging))?;
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(false);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        // `unpack_in` refuses paths that leave the directory.
        if !entry.unpack_in(staging).map_err(failed)? {
            return Err(Error::Invalid(
                "the backup holds a path outside of itself".to_owned(),
            ));
        }
    }
    Ok(())
}

/// Makes what was received a data directory: store, log, and last the control file.
fn install(dir: &Path, staging: &Path, node_id: Option<Uuid>) -> Result<Lsn> {
    let label = read_label(&staging.join("backup_label"))?;
    let history = label.timelines()?;
    let disk = Arc::new(OsDisk);
    let options = WalOptions {
        segment_size: label.segment_size,
        ..WalOptions::new(super::wall_clock)
    };
    let new = NewLog {
        system_id: label.system_id,
        node_id: node_id.unwrap_or_else(Uuid::new_v4),
        history,
        begin: label.log_begin(),
        checkpoint: label.replay,
        own: false,
        store_created: true,
    };
    let prepared = staging.join("prepared");
    let wal = Wal::create(disk, &prepared, new, &options)?;
    copy_log(&wal, &label, &staging.join("log"))?;
    let flushed = wal.flushed().wait_blocking(label.start, None);
    flushed.map_err(|_| Error::Storage(mainstay_storage::Error::Closed))?;
    wal.close()?;
    drop(wal);
    sync_tree(&staging.join("store"))?;
    for name in ["store", "wal"] {
        clear(&dir.join(name))?;
    }
    move_to(&staging.join("store"), &dir.join("store"))?;
    move_to(&prepared.join("wal"), &dir.join("wal"))?;
    sync_dir(dir)?;
    move_to(&prepared.join("control"), &dir.join("control"))?;
    sync_dir(dir)?;
    clear(staging)?;
    Ok(label.start)
}

/// Appends the received log to `wal`, a chunk at a time.
fn copy_log(wal: &Wal, label: &Label, path: &Path) -> Result<()> {
    let failed = |source| io_error("read", path, source);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut at = label.log_begin();
    let mut held = Vec::new();
    loop {
        let read = file.by_ref().take(LOG_CHUNK_BYTES).read_to_end(&mut held);
        let ended = read.map_err(failed)? == 0;
        let bytes = Bytes::from(std::mem::take(&mut held));
        let end = match bytes.is_empty() {
            true => at,
            false => wal.append_raw(at, &bytes)?,
        };
        let taken = usize::try_from(end.bytes_since(at)).unwrap_or(bytes.len());
        held.extend_from_slice(&bytes[taken..]);
        at = end;
        if ended {
            break;
        }
    }
    if at != label.start || !held.is_empty() {
        let text = "the log in the backup is incomplete";
        return Err(Error::Invalid(text.to_owned()));
    }
    Ok(())
}

fn read_label(path: &Path) -> Result<Label> {
    let file = std::fs::File::open(path).map_err(|source| io_error("open", path, source))?;
    let mut text = String::new();
    let read = file.take(LABEL_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|source| io_error("read", path, source))?;
    Label::parse(&text)
}

fn clear(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| io_error("clear", dir, source)),
    }
}

fn move_to(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|source| io_error("move", from, source))
}

fn sync_dir(dir: &Path) -> Result<()> {
    let synced = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| io_error("sync", dir, source))
}

/// Makes every file of a received tree durable before anything refers to it.
fn sync_tree(dir: &Path) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|source| io_error("list", dir, source))?;
    for entry in entries {
        let path: PathBuf = entry
            .map_err(|source| io_error("list", dir, source))?
            .path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            sync_dir(&path)?;
        }
    }
    sync_dir(dir)
}

fn io_error(op: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Storage(mainstay_storage::Error::Io {
        op,
        path: path.to_owned(),
        source,
    })
}

/// Reads what arrives on a channel, on a thread that may block.
struct ChannelReader {
    from: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl ChannelReader {
    fn new(from: mpsc::Receiver<Bytes>) -> Self {
        Self {
            from,
            chunk: Bytes::new(),
        }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
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
