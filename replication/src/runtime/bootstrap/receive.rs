//! The client's side of BASE_BACKUP: one transfer from one node into a directory.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_storage::Disk;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::unpack::{ChannelReader, unpack_and_sync};
use crate::error::{Error, Result};
use crate::runtime::backup::files::{self, io_error};
use crate::runtime::backup::manifest::{MANIFEST, MANIFEST_BYTES_MAX};
use crate::runtime::client::{Answered, Client};
use crate::wire::command::{BackupOptions, BackupTarget, Command, ManifestMode};
use crate::wire::result::BackupTablespace;
use crate::wire::{BackendMessage, BackupMessage};

/// Chunks that may wait for the disk.
const CHUNKS_MAX: usize = 8;

/// Longest silence of a server that sends a backup.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What is asked of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupRequest {
    /// What the backup is called; empty for a name that says nothing.
    pub label: String,
    /// Most kilobytes a second, 32 to 1,048,576.
    pub max_rate_kb: Option<u32>,
}

/// Told how many bytes have come, and of about how many.
pub(super) type OnProgress<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// Asks for a backup; when this returns about how many bytes it will have, it begins to come.
pub(super) async fn begin(client: &mut Client, request: &BackupRequest) -> Result<u64> {
    let mut options = BackupOptions {
        progress: true,
        wal: true,
        fast_checkpoint: true,
        wait: false,
        max_rate_kb: request.max_rate_kb,
        manifest: ManifestMode::Yes,
        target: BackupTarget::Client,
        ..BackupOptions::default()
    };
    if !request.label.is_empty() {
        options.label.clone_from(&request.label);
    }
    match client.ask(&Command::BaseBackup(options)).await? {
        Answered::Copy(before) => {
            let spaces = before.sets.get(1).map(BackupTablespace::read).transpose();
            let spaces = spaces.map_err(|source| client.wire(source))?;
            let kilobytes = spaces.unwrap_or_default().into_iter().map(|it| it.size_kb);
            let kilobytes = kilobytes.map(Option::unwrap_or_default);
            Ok(kilobytes.fold(0, u64::saturating_add).saturating_mul(1024))
        }
        Answered::Done(_) => Err(client.broken("it sent no backup")),
    }
}

/// Receives a backup into the directory `root`, the manifest last, and returns its bytes. What
/// arrived is not durable yet.
pub(super) async fn receive(
    client: &mut Client,
    disk: &Arc<dyn Disk>,
    root: &Path,
    total: u64,
    on_progress: OnProgress<'_>,
) -> Result<u64> {
    let (to_disk, chunks) = mpsc::channel(CHUNKS_MAX);
    let (at, into) = (disk.clone(), root.to_owned());
    let unpacked = tokio::task::spawn_blocking(move || {
        unpack_and_sync(&*at, &into, ChannelReader::new(chunks))
    });
    let received = copy(client, to_disk, &mut |bytes| on_progress(bytes, total)).await;
    let unpacked = unpacked.await;
    let unpacked = unpacked.map_err(|error| Error::Invalid(error.to_string()))?;
    // A transfer that broke explains an archive without an end.
    let received = received?;
    unpacked?;
    if received.manifest.is_empty() {
        return Err(client.broken("it sent no manifest"));
    }
    keep_manifest(&**disk, root, &received.manifest)?;
    Ok(received.bytes)
}

/// Adds the manifest, all of it or nothing.
pub(super) fn keep_manifest(disk: &dyn Disk, root: &Path, manifest: &[u8]) -> Result<()> {
    let (path, unfinished) = (root.join(MANIFEST), root.join(UNFINISHED));
    let written = files::create(disk, &unfinished)?.write_all(manifest);
    written.map_err(|source| io_error("write", &unfinished, source))?;
    files::sync_file(disk, &unfinished)?;
    files::move_to(disk, &unfinished, &path)
}

/// The manifest before all of it is there, by the name that PostgreSQL's tools use.
const UNFINISHED: &str = "backup_manifest.tmp";

struct Received {
    bytes: u64,
    manifest: Vec<u8>,
}

/// Moves the archive's bytes to the thread that unpacks them.
async fn copy(
    client: &mut Client,
    to_disk: mpsc::Sender<Bytes>,
    on_progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Received> {
    let mut to_disk = Some(to_disk);
    let mut received = Received {
        bytes: 0,
        manifest: Vec::new(),
    };
    loop {
        let message = timeout(SILENCE_MAX, client.message()).await;
        let message = message.unwrap_or_else(|_| {
            Err(Error::Silent {
                peer: client.link.peer().to_owned(),
                seconds: SILENCE_MAX.as_secs(),
            })
        })?;
        let payload = match message {
            BackendMessage::CopyData(payload) => payload,
            BackendMessage::ErrorResponse(error) => {
                return Err(Error::Answer {
                    peer: client.link.peer().to_owned(),
                    sqlstate: error.sqlstate.into_owned(),
                    message: error.message,
                });
            }
            BackendMessage::ReadyForQuery(_) => return Ok(received),
            _ => continue,
        };
        let message = BackupMessage::decode(payload);
        match (message.map_err(|source| client.wire(source))?, &to_disk) {
            (BackupMessage::Content(chunk), Some(to_disk)) => {
                received.bytes += chunk.len() as u64;
                on_progress(received.bytes);
                if to_disk.send(chunk).await.is_err() {
                    // The unpacking thread says itself why it ended.
                    return Ok(received);
                }
            }
            (BackupMessage::Content(chunk), None) => {
                if received.manifest.len() + chunk.len() > MANIFEST_BYTES_MAX {
                    return Err(client.broken("its manifest is too long"));
                }
                received.manifest.extend_from_slice(&chunk);
            }
            (BackupMessage::Manifest, _) => to_disk = None,
            (BackupMessage::Archive { .. } | BackupMessage::Progress(_), _) => {}
        }
    }
}
