//! Serving BASE_BACKUP: a copy of the store and the log it needs, as one tar stream.
//!
//! The copy is taken at the store's durable position without holding up writers, and log from
//! there on is kept until the session ends. The archive holds
//!
//! ```text
//! backup_label    key: value lines: where the copy stands, cluster, timelines     (Label)
//! log             from the segment in which replay begins up to where the copy stands
//! store/..        the store's files
//! ```
//!
//! Replay begins below the copy where an engine's transactions were open at the copy: what they had
//! written by then is in the log only.
//!
//! The framing is PostgreSQL 15's: two result sets, one archive in CopyOut, the end position.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use mainstay_storage::{LogBytes, Lsn, SegmentSize, Timeline, TimelineHistory, Wal};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::runtime::core::CopyStore;
use crate::runtime::session::Session;
use crate::wire::command::BackupOptions;
use crate::wire::result::{BackupBound, BackupTablespace, encode_complete};
use crate::wire::{BackendMessage, BackupMessage, CopyFormat, ErrorFields};

/// Bytes of archive in one message.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks that may wait for the connection.
const CHUNKS_MAX: usize = 8;

/// Bytes of queued output above which no more archive is taken up.
const QUEUED_BYTES_MAX: usize = 2 << 20;

/// What a backup says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) system_id: u64,
    pub(crate) segment_size: SegmentSize,
    /// Where the copy of the store stands, and the log in the backup ends.
    pub(crate) start: Lsn,
    /// From where the log is replayed into the copy, at or below `start`.
    pub(crate) replay: Lsn,
    pub(crate) timeline: Timeline,
    pub(crate) history_begin: Lsn,
    /// The history file's text; empty on timeline 1.
    pub(crate) history: String,
}

impl Label {
    /// First position of the log in the backup.
    pub(crate) fn log_begin(&self) -> Lsn {
        let number = self.segment_size.segment_of(self.replay);
        self.segment_size.start_of(number)
    }

    pub(crate) fn timelines(&self) -> Result<TimelineHistory> {
        TimelineHistory::parse(&self.history, self.timeline, self.history_begin)
            .map_err(|error| Error::Invalid(format!("backup label: {error}")))
    }

    pub(crate) fn to_text(&self) -> String {
        let Self {
            system_id,
            start,
            replay,
            timeline,
            history_begin,
            ..
        } = self;
        let bytes = self.segment_size.bytes();
        format!(
            "MAINSTAY BACKUP: 1\nSYSTEM ID: {system_id}\nSEGMENT SIZE: {bytes}\n\
             START WAL LOCATION: {start}\nREPLAY FROM: {replay}\nSTART TIMELINE: {}\nPROMOTION ID: {}\n\
             LOG BEGIN: {history_begin}\nHISTORY:\n{}",
            timeline.number, timeline.id, self.history
        )
    }

    /// Reads a label.
    ///
    /// # Errors
    /// On anything that [`to_text`](Self::to_text) does not write.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = |what: &str| Error::Invalid(format!("backup label: {what} cannot be read"));
        let (head, history) = text
            .split_once("HISTORY:\n")
            .ok_or_else(|| bad("its end"))?;
        let value = |key: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines
                .into_iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
        };
        let field = |key: &'static str| value(key).ok_or_else(|| bad(key));
        if field("MAINSTAY BACKUP")? != "1" {
            return Err(bad("its version"));
        }
        let size = field("SEGMENT SIZE")?
            .parse()
            .ok()
            .and_then(SegmentSize::new);
        let number = field("START TIMELINE")?
            .parse()
            .map_err(|_| bad("its timeline"))?;
        let id = field("PROMOTION ID")?
            .parse()
            .map_err(|_| bad("its promotion id"))?;
        Ok(Self {
            system_id: field("SYSTEM ID")?
                .parse()
                .map_err(|_| bad("its system id"))?,
            segment_size: size.ok_or_else(|| bad("its segment size"))?,
            start: field("START WAL LOCATION")?
                .parse()
                .map_err(|_| bad("its position"))?,
            replay: field("REPLAY FROM")?
                .parse()
                .map_err(|_| bad("its replay"))?,
            timeline: Timeline { number, id },
            history_begin: field("LOG BEGIN")?.parse().map_err(|_| bad("its begin"))?,
            history: history.to_owned(),
        })
    }
}

impl Session {
    /// Serves BASE_BACKUP, and returns when commands are taken again.
    pub(crate) async fn base_backup(&mut self, _options: BackupOptions) -> Result<()> {
        let dir = self.core.wal.dir().join(format!("backup-{}", self.number));
        let pinned = self.core.pin(self.core.wal.control().checkpoint);
        let served = self.serve_backup(&dir).await;
        drop(pinned);
        remove_dir(&dir).await;
        served
    }

    async fn serve_backup(&mut self, dir: &Path) -> Result<()> {
        let copy = self.core.copy_store.clone();
        let (wal, into) = (self.core.wal.clone(), dir.to_owned());
        let prepared = tokio::task::spawn_blocking(move || prepare(&wal, &into, copy)).await;
        let prepared = prepared.map_err(|error| Error::Invalid(error.to_string()))?;
        let label = match prepared {
            Ok(label) => label,
            Err(error) => {
                self.error(ErrorFields::error("58030", error.to_string()));
                return Ok(());
            }
        };
        self.announce(&label);
        let (to_link, mut chunks) = mpsc::channel(CHUNKS_MAX);
        let (files, packing) = (dir.to_owned(), label.clone());
        let log = LogBytes::new(self.core.wal.clone());
        let packed = tokio::task::spawn_blocking(move || {
            pack(&files, &packing, log, ChannelWriter::new(to_link))
        });
        let mut done = 0;
        while let Some(chunk) = chunks.recv().await {
            done += Bytes::len(&chunk) as u64;
            self.message(&BackupMessage::Content(chunk));
            if self.link.queued() > QUEUED_BYTES_MAX {
                self.link.flush().await?;
            }
        }
        let packed = packed
            .await
            .map_err(|error| Error::Invalid(error.to_string()))?;
        if let Err(error) = packed {
            self.error(ErrorFields::error(
                "58030",
                format!("the backup failed: {error}"),
            ));
            return Ok(());
        }
        self.message(&BackupMessage::Progress(done));
        self.finish(&label);
        self.link.flush().await
    }

    fn announce(&mut self, label: &Label) {
        let mut out = BytesMut::new();
        let bound = BackupBound {
            position: label.start,
            timeline: label.timeline.number,
        };
        bound.result().encode(&mut out);
        let base = BackupTablespace {
            oid: None,
            location: None,
            size_kb: None,
        };
        BackupTablespace::result(&[base]).encode(&mut out);
        BackendMessage::CopyOutResponse(CopyFormat::default()).encode(&mut out);
        self.link.queue(out.freeze());
        let (name, location) = ("base.tar".to_owned(), String::new());
        self.message(&BackupMessage::Archive { name, location });
    }

    fn finish(&mut self, label: &Label) {
        let mut out = BytesMut::new();
        BackendMessage::CopyDone.encode(&mut out);
        let end = self.core.wal.commit().get();
        let bound = BackupBound {
            position: end,
            timeline: label.timeline.number,
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

/// Copies the store into `dir` and says which log belongs to it.
fn prepare(wal: &Wal, dir: &Path, copy: Option<CopyStore>) -> Result<Label> {
    // Taken first: replay from here completes every later copy too.
    let checkpoint = wal.control().checkpoint;
    wal.disk().create_dir(dir).map_err(|source| {
        Error::Storage(mainstay_storage::Error::Io {
            op: "create",
            path: dir.to_owned(),
            source,
        })
    })?;
    // Without a store of ours, a standby begins with the oldest log.
    let copied = match copy {
        Some(copy) => (copy.0)(dir)?,
        None => wal.oldest(),
    };
    // A store that has nothing durable yet begins with the log.
    let start = copied.max(wal.control().log_begin);
    let history = wal.history();
    let timeline = history.owner(start);
    let history = history
        .until(timeline.number)
        .unwrap_or_else(|| (*history).clone());
    Ok(Label {
        system_id: wal.identity().system_id,
        segment_size: wal.segment_size(),
        start,
        replay: start.min(checkpoint.max(wal.control().log_begin)),
        timeline,
        history_begin: wal.control().history_begin,
        history: history.to_text(),
    })
}

/// Writes the archive.
fn pack(dir: &Path, label: &Label, log: LogBytes, writer: ChannelWriter) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(CHUNK_BYTES, writer));
    let text = label.to_text();
    append(
        &mut archive,
        "backup_label",
        text.len() as u64,
        text.as_bytes(),
    )?;
    let (at, to) = (label.log_begin(), label.start);
    append(
        &mut archive,
        "log",
        to.bytes_since(at),
        LogRange { log, at, to },
    )?;
    archive.append_dir_all("store", dir)?;
    archive.into_inner()?.flush()
}

/// A stretch of log, read as a file.
struct LogRange {
    log: LogBytes,
    at: Lsn,
    to: Lsn,
}

impl Read for LogRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.log.read(self.at, self.to, buffer.len());
        let bytes = bytes.map_err(io::Error::other)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at = self.at + bytes.len() as u64;
        Ok(bytes.len())
    }
}

fn append(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_cksum();
    archive.append_data(&mut header, name, content)
}

async fn remove_dir(dir: &Path) {
    let path: PathBuf = dir.to_owned();
    let removed = tokio::fs::remove_dir_all(&path).await;
    if let Err(error) = removed.filter_missing() {
        tracing::warn!(path = %path.display(), %error, "cannot remove the copy of a backup");
    }
}

trait FilterMissing {
    fn filter_missing(self) -> io::Result<()>;
}

impl FilterMissing for io::Result<()> {
    fn filter_missing(self) -> io::Result<()> {
        match self {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Hands what is written to a channel, from a thread that may block.
struct ChannelWriter {
    to: mpsc::Sender<Bytes>,
}

impl ChannelWriter {
    fn new(to: mpsc::Sender<Bytes>) -> Self {
        Self { to }
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            let sent = self.to.blocking_send(Bytes::copy_from_slice(chunk));
            sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_label_round_trips_and_a_damaged_one_is_refused() {
        let one = Timeline {
            number: 1,
            id: Uuid::from_u128(1),
        };
        let two = Timeline {
            number: 2,
            id: Uuid::from_u128(2),
        };
        let mut history = TimelineHistory::new(one, Lsn::new(16 << 20));
        history.open(two, Lsn::new(17 << 20), "x").unwrap();
        let label = Label {
            system_id: 7,
            segment_size: SegmentSize::DEFAULT,
            start: Lsn::new(70 << 20),
            replay: Lsn::new(40 << 20),
            timeline: two,
            history_begin: Lsn::new(16 << 20),
            history: history.to_text(),
        };
        let text = label.to_text();
        assert_eq!(Label::parse(&text).unwrap(), label);
        assert_eq!(label.timelines().unwrap(), history);
        assert_eq!(label.log_begin(), Lsn::new(32 << 20));
        for cut in 0..text.find("HISTORY").unwrap() {
            assert!(Label::parse(&text[..cut]).is_err());
        }
        assert!(Label::parse(&text.replace("BACKUP: 1", "BACKUP: 9")).is_err());
    }
}
