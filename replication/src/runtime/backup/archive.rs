//! Making the archive of a base backup: the copy of the store, and the tar stream over it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use mainstay_storage::{
    BACKUP_LABEL, LogBytes, Lsn, OsDisk, Timeline, TimelineHistory, Wal, segment_file_name,
};
use tokio::sync::mpsc;

use super::checksum::Checksum;
use super::files::{self, Tree};
use super::label::Label;
use super::manifest::{LogStretch, ManifestWriter};
use crate::error::Result;
use crate::runtime::core::CopyStore;
use crate::wire::command::{BackupOptions, ChecksumAlgorithm, ManifestMode};

/// The store's directory in a backup and in a data directory.
pub(crate) const STORE: &str = "store";

/// Where the log lies in a backup, as in PostgreSQL's.
pub(crate) const BACKUP_LOG: &str = "pg_wal";

/// Directories that stock tools look for, besides the log's.
pub(crate) const EMPTY_DIRS: [&str; 2] = ["pg_wal/archive_status", "pg_tblspc"];

/// What a tar archive's members are multiples of, in bytes.
const BLOCK: usize = 512;

/// What is to be sent.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) label: Label,
    wal: Wal,
    /// Where the copy of the store lies.
    dir: PathBuf,
    store: Tree,
    with_log: bool,
    manifest: ManifestMode,
    algorithm: ChecksumAlgorithm,
    begun_us: i64,
}

/// What was sent.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The log up to here makes the backup consistent.
    pub(crate) end: Lsn,
    /// The manifest's text, if one was asked for.
    pub(crate) manifest: Option<String>,
}

impl Plan {
    /// Copies the store into `dir` and says which log belongs to it. What holds the log from the
    /// checkpoint on must be there already.
    ///
    /// # Errors
    /// The store's, disk errors.
    pub(crate) fn make(
        wal: Wal,
        dir: PathBuf,
        copy: Option<CopyStore>,
        options: &BackupOptions,
    ) -> Result<Self> {
        // Taken first: replay from here completes every later copy too.
        let checkpoint = wal.control().checkpoint;
        files::clear(&OsDisk, &dir)?;
        files::create_dir(&OsDisk, &dir)?;
        // Without a store of ours, a standby begins with the oldest log.
        let copied = match copy {
            Some(copy) => (copy.0)(&dir)?,
            None => wal.oldest(),
        };
        let control = wal.control();
        // A store that has nothing durable yet begins with the log.
        let copied = copied.max(control.log_begin);
        let history = wal.history();
        let timeline = timeline_of(&history, wal.commit().get().max(copied));
        let until = history.until(timeline.number);
        let begun_us = crate::runtime::wall_clock();
        let label = Label {
            system_id: wal.identity().system_id,
            segment_size: wal.segment_size(),
            replay: copied.min(checkpoint.max(control.log_begin)),
            copy: copied,
            timeline,
            history_begin: control.history_begin,
            history: until.unwrap_or_else(|| (*history).clone()).to_text(),
            begun: begun_us.div_euclid(1_000_000),
            name: options.label.clone(),
        };
        Ok(Self {
            store: Tree::of(&dir, STORE)?,
            label,
            wal,
            dir,
            with_log: options.wal,
            manifest: options.manifest,
            algorithm: options
                .manifest_checksums
                .unwrap_or(ChecksumAlgorithm::Crc32c),
            begun_us,
        })
    }

    /// About how many bytes the archive will have.
    pub(crate) fn size(&self) -> u64 {
        let store = self.store.files.iter().map(|(_, size)| size).sum::<u64>();
        let log = match self.with_log {
            true => self.wal.commit().get().bytes_since(self.label.log_begin()),
            false => 0,
        };
        store + log
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// Disk errors, `BrokenPipe` when nobody wants it any more, and when a timeline began
    /// meanwhile.
    pub(crate) fn pack(&self, to: ChannelWriter) -> io::Result<Packed> {
        let mut packing = Packing {
            archive: tar::Builder::new(to),
            manifest: ManifestWriter::new(self.manifest, self.algorithm, self.begun_us),
            algorithm: self.algorithm,
            modified: self.label.begun.unsigned_abs(),
        };
        let label = self.label.to_text();
        packing.file(BACKUP_LABEL, label.len() as u64, label.as_bytes())?;
        for dir in &self.store.dirs {
            packing.dir(dir)?;
        }
        for (name, size) in &self.store.files {
            let inside = name.strip_prefix(STORE).unwrap_or(name);
            let path = self.dir.join(inside.trim_start_matches('/'));
            packing.file(name, *size, std::fs::File::open(path)?)?;
        }
        for dir in [BACKUP_LOG].iter().chain(&EMPTY_DIRS) {
            packing.dir(dir)?;
        }
        // As late as possible, so that a restore comes as far as possible.
        let end = self.wal.commit().get().max(self.label.copy);
        if timeline_of(&self.wal.history(), end) != self.label.timeline {
            let why = "a new timeline began while the backup was taken; take it again";
            return Err(io::Error::other(why));
        }
        if self.with_log {
            self.pack_log(&mut packing, end)?;
        }
        packing.archive.into_inner()?.flush()?;
        let stretch = LogStretch {
            timeline: self.label.timeline.number,
            start: self.label.replay,
            end,
        };
        let wanted = self.manifest != ManifestMode::No;
        Ok(Packed {
            end,
            manifest: wanted.then(|| packing.manifest.finish(stretch)),
        })
    }

    /// The segments of the log; the last only as far as it is needed. They are not in the
    /// manifest, since every record has a checksum of its own.
    fn pack_log(&self, packing: &mut Packing, end: Lsn) -> io::Result<()> {
        let size = self.label.segment_size;
        let mut at = self.label.log_begin();
        while at < end {
            let number = size.segment_of(at);
            let to = (at + size.bytes()).min(end);
            let name = segment_file_name(self.label.timeline.number, number, size);
            let log = LogBytes::new(self.wal.clone());
            let range = LogRange { log, at, to };
            let name = format!("{BACKUP_LOG}/{name}");
            packing.member(&name, to.bytes_since(at), range)?;
            at = to;
        }
        Ok(())
    }
}

/// The timeline of the last byte below `end`.
fn timeline_of(history: &TimelineHistory, end: Lsn) -> Timeline {
    let first = history.spans()[0].begin;
    history.owner(Lsn::new(end.get().saturating_sub(1)).max(first))
}

struct Packing {
    archive: tar::Builder<ChannelWriter>,
    manifest: ManifestWriter,
    algorithm: ChecksumAlgorithm,
    modified: u64,
}

impl Packing {
    fn dir(&mut self, name: &str) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Directory, 0o700, 0);
        let name = format!("{name}/");
        self.archive.append_data(&mut header, name, io::empty())
    }

    fn header(&self, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(self.modified);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    fn member(&mut self, name: &str, size: u64, content: impl Read) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Regular, 0o600, size);
        let mut content = Exactly {
            content,
            left: size,
        };
        // The library would read 8 KiB at a time, and its reader's bytes would be copied twice.
        self.archive.append_data(&mut header, name, io::empty())?;
        self.archive.get_mut().take_in(&mut content)?;
        if content.left > 0 {
            let why = format!("{name} changed while it was read");
            return Err(io::Error::other(why));
        }
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        let padding = usize::try_from(padding).expect("less than a block");
        self.archive.get_mut().write_all(&[0; BLOCK][..padding])
    }

    /// A member that stands in the manifest.
    fn file(&mut self, name: &str, size: u64, content: impl Read) -> io::Result<()> {
        let mut summed = Summed {
            content,
            checksum: Checksum::new(self.algorithm),
        };
        self.member(name, size, &mut summed)?;
        let digits = summed.checksum.finish();
        self.manifest.add(name, size, digits.as_deref());
        Ok(())
    }
}

/// Reads no more than was announced, and knows whether it was less.
struct Exactly<R> {
    content: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let read = self.content.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Computes a checksum of what is read.
struct Summed<R> {
    content: R,
    checksum: Checksum,
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.checksum.update(&buffer[..read]);
        Ok(read)
    }
}

/// A stretch of log, read as a file.
struct LogRange {
    log: LogBytes,
    at: Lsn,
    to: Lsn,
}

impl Read for LogRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.to || buffer.is_empty() {
            return Ok(0);
        }
        let bytes = self.log.read(self.at, self.to, buffer.len());
        let bytes = bytes.map_err(io::Error::other)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at = self.at + bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// Hands what is written to a channel, from a thread that may block. Chunks that nobody has any
/// more are filled again: touching fresh memory costs as much as reading a file into it.
pub(crate) struct ChannelWriter {
    to: mpsc::Sender<Bytes>,
    /// What comes next, in its first `filled` bytes. It is as long as a chunk.
    next: BytesMut,
    filled: usize,
    /// Chunks that were sent, oldest first.
    sent: VecDeque<Bytes>,
}

impl ChannelWriter {
    /// Sends `chunk` bytes at a time, and what is left when it is flushed.
    pub(crate) fn new(to: mpsc::Sender<Bytes>, chunk: usize) -> Self {
        Self {
            to,
            next: BytesMut::zeroed(chunk),
            filled: 0,
            sent: VecDeque::new(),
        }
    }

    /// As `io::copy`, straight into the chunks.
    fn take_in(&mut self, from: &mut impl Read) -> io::Result<()> {
        loop {
            match from.read(&mut self.next[self.filled..]) {
                Ok(0) => return Ok(()),
                Ok(read) => self.advance(read)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Notes that `more` bytes were filled in.
    fn advance(&mut self, more: usize) -> io::Result<()> {
        self.filled += more;
        match self.filled == self.next.len() {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// A chunk to fill, with anything in it.
    fn free(&mut self) -> BytesMut {
        let chunk = self.next.len();
        let unused = self.sent.front().is_some_and(Bytes::is_unique);
        let oldest = unused.then(|| self.sent.pop_front()).flatten();
        match oldest.map(Bytes::try_into_mut) {
            Some(Ok(mut free)) => {
                free.resize(chunk, 0);
                free
            }
            _ => BytesMut::zeroed(chunk),
        }
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = &mut self.next[self.filled..];
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.advance(taken)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let free = self.free();
        let mut chunk = mem::replace(&mut self.next, free);
        chunk.truncate(mem::take(&mut self.filled));
        let chunk = chunk.freeze();
        self.sent.push_back(chunk.clone());
        let sent = self.to.blocking_send(chunk);
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads 7 bytes at a time at most.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(7);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn whatever_is_written_or_taken_in_goes_out_in_whole_chunks_and_a_rest() {
        let all = (0..1000).map(|n| (n % 251) as u8).collect::<Vec<_>>();
        for cut in [0, 1, 99, 100, 101, 500, 999, 1000] {
            let (to, mut chunks) = mpsc::channel(20);
            let mut writer = ChannelWriter::new(to, 100);
            writer.write_all(&all[..cut]).unwrap();
            writer.take_in(&mut Trickle(&all[cut..])).unwrap();
            writer.flush().unwrap();
            drop(writer);
            let mut came = Vec::new();
            while let Some(chunk) = chunks.blocking_recv() {
                assert_eq!(chunk.len(), 100, "1000 bytes are ten chunks");
                came.extend_from_slice(&chunk);
            }
            assert_eq!(came, all, "{cut}");
        }
        let (to, chunks) = mpsc::channel(1);
        drop(chunks);
        let unheard = ChannelWriter::new(to, 100).take_in(&mut Trickle(&all));
        assert_eq!(unheard.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn chunks_are_filled_again_once_nobody_has_them() {
        let (to, mut chunks) = mpsc::channel(20);
        let mut writer = ChannelWriter::new(to, 100);
        writer.write_all(&[1; 250]).unwrap();
        writer.flush().unwrap();
        let kept = chunks.blocking_recv().unwrap();
        drop([chunks.blocking_recv(), chunks.blocking_recv()]);
        writer.write_all(&[2; 100]).unwrap();
        assert_eq!(kept[..], [1; 100], "somebody has it");
        drop(kept);
        let held = writer.sent.len();
        for _ in 0..10 {
            writer.write_all(&[3; 100]).unwrap();
            assert!(chunks.blocking_recv().is_some());
        }
        assert!(writer.sent.len() <= held, "{}", writer.sent.len());
        writer.write_all(&[4; 30]).unwrap();
        writer.flush().unwrap();
        assert_eq!(chunks.blocking_recv().unwrap()[..], [3; 100]);
        assert_eq!(chunks.blocking_recv().unwrap()[..], [4; 30]);
    }

    #[test]
    fn members_of_any_size_are_read_back() {
        let sizes = [0, 1, 511, 512, 513, 1024, 5000];
        let (to, mut chunks) = mpsc::channel(100);
        let mut packing = Packing {
            archive: tar::Builder::new(ChannelWriter::new(to, 1000)),
            manifest: ManifestWriter::new(ManifestMode::No, ChecksumAlgorithm::None, 0),
            algorithm: ChecksumAlgorithm::None,
            modified: 0,
        };
        for size in sizes {
            let content = vec![7; size];
            packing
                .member(&format!("m{size}"), size as u64, &content[..])
                .unwrap();
        }
        let short = packing.member("short", 9, &[7; 8][..]).unwrap_err();
        assert!(short.to_string().contains("changed"), "{short}");
        packing.archive.get_mut().flush().unwrap();
        drop(packing);
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.blocking_recv() {
            bytes.extend_from_slice(&chunk);
        }
        let mut archive = tar::Archive::new(&bytes[..]);
        let read = archive.entries().unwrap().take(sizes.len()).map(|entry| {
            let mut content = Vec::new();
            entry.unwrap().read_to_end(&mut content).unwrap();
            assert!(content.iter().all(|&byte| byte == 7));
            content.len()
        });
        assert_eq!(read.collect::<Vec<_>>(), sizes);
    }
}
