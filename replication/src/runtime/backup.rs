//! Serving BASE_BACKUP: a copy of the store and the log it needs, as one tar stream.
//!
//! The copy is taken at the store's durable position without holding up writers, and log from
//! there on is kept until the session ends. The archive has PostgreSQL's shape as far as its tools
//! look at it:
//!
//! ```text
//! backup_label    key: value lines: where the copy stands, cluster, timelines    (label.rs)
//! store/..        the store's files
//! pg_wal/         with WAL: the segments from the one in which replay begins to the end
//! pg_tblspc/      empty
//! ```
//!
//! Behind it comes the manifest (`manifest.rs`): every file but the log, which has checksums of
//! its own, and from where to where the log is needed. The start position is where replay begins,
//! which lies below the copy where an engine's transactions were open at the copy: what they had
//! written by then is in the log only. Start and end are at or below the commit LSN.
//!
//! The framing is PostgreSQL 15's: two result sets, one archive in CopyOut, the end position.

mod archive;
mod checksum;
pub(super) mod files;
pub(super) mod label;
pub(super) mod manifest;
pub(super) mod verify;

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_storage::{Lsn, OsDisk, Wal};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::protocol::throttle::Throttle;
use crate::runtime::session::Session;
use crate::runtime::stopped;
use crate::time::Moment;
use crate::wire::command::{BackupOptions, BackupTarget, Compression};
use crate::wire::result::{BackupBound, BackupTablespace, encode_complete};
use crate::wire::{BackendMessage, BackupMessage, CopyFormat, ErrorFields, sqlstate};

pub(super) use archive::{BACKUP_LOG, STORE};
use archive::{ChannelWriter, Packed, Plan};

/// Bytes of archive in one message.
const CHUNK_BYTES: usize = 256 << 10;

/// The same where a rate is set: PostgreSQL's, so that a low rate is not sent in bursts.
const CHUNK_BYTES_LIMITED: usize = 32 << 10;

/// Chunks that may wait for the connection.
const CHUNKS_MAX: usize = 8;

/// Bytes of queued output above which no more archive is taken up.
const QUEUED_BYTES_MAX: usize = 2 << 20;

/// Longest time in which a client takes nothing of what waits for it.
const STALLED_MAX: Duration = Duration::from_secs(300);

/// How often a client hears how far the backup is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How a backup is being sent.
struct Sending {
    throttle: Option<Throttle>,
    progress: bool,
    /// Bytes of archive so far.
    done: u64,
    reported: Moment,
    stopping: watch::Receiver<bool>,
}

/// Whether to go on, or to leave it because this node stops.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

impl Session {
    /// Serves BASE_BACKUP, and returns when commands are taken again.
    pub(crate) async fn base_backup(&mut self, options: BackupOptions) -> Result<()> {
        if let Some(why) = unsupported(&options) {
            self.error(*why);
            return Ok(());
        }
        let core = self.core.clone();
        if !core.is_primary()
            && let Err(error) = core.check_rows()
        {
            let state = sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;
            self.error(ErrorFields::error(state, error.to_string()));
            return Ok(());
        }
        let dir = files::copy_dir(core.wal.dir(), self.number);
        // Nothing is removed between the look at the checkpoint and its being held.
        let all = core.pin(Lsn::ZERO);
        let pinned = core.pin(core.wal.control().checkpoint);
        drop(all);
        let visit = self.visits_for_backup();
        let served = self.serve_backup(&dir, options).await;
        drop(visit);
        drop(pinned);
        remove_copy(&dir).await;
        served
    }

    async fn serve_backup(&mut self, dir: &Path, options: BackupOptions) -> Result<()> {
        let (copy, wal) = (self.core.copy_store.clone(), self.core.wal.clone());
        let (into, asked) = (dir.to_owned(), options.clone());
        let made = move || Plan::make(wal, into, copy, &asked);
        let plan = match joined(tokio::task::spawn_blocking(made).await)? {
            Ok(plan) => plan,
            Err(error) => {
                self.failed(&error.to_string());
                return Ok(());
            }
        };
        self.announce(&plan, options.progress);
        let (timeline, chunk) = (plan.label.timeline.number, chunk_bytes(&options));
        let (to, chunks) = mpsc::channel(CHUNKS_MAX);
        let writer = ChannelWriter::new(to, chunk);
        let packing = tokio::task::spawn_blocking(move || plan.pack(writer));
        let now = self.core.clock.now();
        let rate = options.max_rate_kb.map(|kb| u64::from(kb) << 10);
        let mut sending = Sending {
            throttle: rate.map(|rate| Throttle::new(rate, now)),
            progress: options.progress,
            done: 0,
            reported: now,
            stopping: self.core.stopping.subscribe(),
        };
        if self.send_archive(chunks, &mut sending).await? == Go::Stop {
            return Ok(());
        }
        match joined(packing.await)? {
            Ok(packed) => {
                self.finish(&packed, timeline, &sending);
                self.push(&mut sending.stopping).await.map(|_| ())
            }
            Err(error) => {
                self.failed(&error.to_string());
                Ok(())
            }
        }
    }

    async fn send_archive(
        &mut self,
        mut chunks: mpsc::Receiver<Bytes>,
        sending: &mut Sending,
    ) -> Result<Go> {
        loop {
            let chunk = tokio::select! {
                chunk = chunks.recv() => chunk,
                () = stopped(&mut sending.stopping) => return Ok(Go::Stop),
            };
            let Some(chunk) = chunk else {
                return Ok(Go::On);
            };
            let (bytes, now) = (chunk.len() as u64, self.core.clock.now());
            sending.done += bytes;
            self.link.queue(BackupMessage::content_head(chunk.len()));
            self.link.queue(chunk);
            if sending.progress && now - sending.reported >= PROGRESS_EVERY {
                sending.reported = now;
                self.message(&BackupMessage::Progress(sending.done));
            }
            let wait = sending.throttle.as_mut();
            let wait = wait.and_then(|throttle| throttle.sent(bytes, now));
            if wait.is_some() || self.link.queued() > QUEUED_BYTES_MAX {
                let pushed = self.push(&mut sending.stopping).await?;
                if pushed == Go::Stop {
                    return Ok(Go::Stop);
                }
            }
            if let Some(until) = wait {
                tokio::select! {
                    () = tokio::time::sleep_until(self.core.clock.instant(until)) => {}
                    () = stopped(&mut sending.stopping) => return Ok(Go::Stop),
                }
            }
        }
    }

    /// Waits until everything queued went out.
    async fn push(&mut self, stopping: &mut watch::Receiver<bool>) -> Result<Go> {
        tokio::select! {
            flushed = timeout(STALLED_MAX, self.link.flush()) => match flushed {
                Ok(flushed) => flushed.map(|()| Go::On),
                Err(_) => Err(Error::Silent {
                    peer: self.link.peer().to_owned(),
                    seconds: STALLED_MAX.as_secs(),
                }),
            },
            () = stopped(stopping) => Ok(Go::Stop),
        }
    }

    fn failed(&mut self, why: &str) {
        tracing::warn!(peer = %self.link.peer(), %why, "a base backup failed");
        let text = format!("the backup failed: {why}");
        self.error(ErrorFields::error("58030", text));
    }

    fn announce(&mut self, plan: &Plan, progress: bool) {
        let mut out = BytesMut::new();
        let bound = BackupBound {
            position: plan.label.replay,
            timeline: plan.label.timeline.number,
        };
        bound.result().encode(&mut out);
        let base = BackupTablespace {
            oid: None,
            location: None,
            size_kb: progress.then(|| plan.size().div_ceil(1024)),
        };
        BackupTablespace::result(&[base]).encode(&mut out);
        BackendMessage::CopyOutResponse(CopyFormat::default()).encode(&mut out);
        self.link.queue(out.freeze());
        let (name, location) = ("base.tar".to_owned(), String::new());
        self.message(&BackupMessage::Archive { name, location });
    }

    fn finish(&mut self, packed: &Packed, timeline: u32, sending: &Sending) {
        if sending.progress {
            self.message(&BackupMessage::Progress(sending.done));
        }
        if let Some(manifest) = &packed.manifest {
            self.message(&BackupMessage::Manifest);
            for chunk in manifest.as_bytes().chunks(CHUNK_BYTES_LIMITED) {
                self.message(&BackupMessage::Content(Bytes::copy_from_slice(chunk)));
            }
        }
        let mut out = BytesMut::new();
        BackendMessage::CopyDone.encode(&mut out);
        let bound = BackupBound {
            position: packed.end,
            timeline,
        };
        bound.result().encode(&mut out);
        encode_complete("BASE_BACKUP", &mut out);
        self.link.queue(out.freeze());
        self.ready();
    }

    fn message(&mut self, message: &BackupMessage) {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        self.link.queue(out.freeze());
    }
}

/// Why these options cannot be served, if they cannot.
fn unsupported(options: &BackupOptions) -> Option<Box<ErrorFields>> {
    let what = match &options.target {
        BackupTarget::Client if options.compression != Compression::None => {
            "compression by the server; let the client compress"
        }
        BackupTarget::Client if options.incremental => "an incremental backup",
        BackupTarget::Client => return None,
        BackupTarget::Legacy => "the framing from before PostgreSQL 15; say TARGET 'client'",
        BackupTarget::Server(_) | BackupTarget::Blackhole => {
            "a backup to another target than the client"
        }
    };
    let text = format!("this node does not serve {what}");
    Some(ErrorFields::error(sqlstate::FEATURE_NOT_SUPPORTED, text).into())
}

fn chunk_bytes(options: &BackupOptions) -> usize {
    match options.max_rate_kb {
        Some(_) => CHUNK_BYTES_LIMITED,
        None => CHUNK_BYTES,
    }
}

/// What a thread returned.
fn joined<T>(done: Result<T, tokio::task::JoinError>) -> Result<T> {
    done.map_err(|error| Error::Invalid(error.to_string()))
}

async fn remove_copy(dir: &Path) {
    let path = dir.to_owned();
    let removed = tokio::task::spawn_blocking(move || files::clear(&OsDisk, &path)).await;
    if let Err(error) = removed
        .map_err(|error| Error::Invalid(error.to_string()))
        .flatten()
    {
        tracing::warn!(path = %dir.display(), %error, "cannot remove the copy of a backup");
    }
}

/// Removes what backups of an earlier life of this node left behind.
pub(crate) fn remove_left_copies(wal: &Wal) {
    if let Err(error) = files::remove_left_copies(wal.dir()) {
        tracing::warn!(%error, "cannot remove the copy of an earlier backup");
    }
}
