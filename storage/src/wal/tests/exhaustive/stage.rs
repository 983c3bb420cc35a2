//! Whole logs with their threads on the simulated disk, and a disk that remembers every state.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

use super::bench::{DIR, SIZE};
use crate::disk::{Disk, DiskEntry, DiskFile, DiskLock, SimDisk};
use crate::entry::{WalEntry, WalEntryType};
use crate::error::Result;
use crate::lsn::Lsn;
use crate::timeline::Timeline;
use crate::wal::{
    LogBytes, NewLog, Recovered, Wal, WalOptions, parse_segment_file_name, record_len,
};

/// Far longer than anything here takes; a wait that is not over by then hangs.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn options() -> WalOptions {
    WalOptions {
        segment_size: SIZE,
        ..WalOptions::new(|| 7)
    }
}

pub(super) fn create(disk: impl Disk + 'static) -> Wal {
    let new = NewLog::new_cluster(SIZE);
    Wal::create(Arc::new(disk), Path::new(DIR), new, &options()).unwrap()
}

pub(super) fn open(disk: impl Disk + 'static) -> Result<(Wal, Recovered)> {
    Wal::open(Arc::new(disk), Path::new(DIR), &options())
}

/// A standby of `primary` that holds nothing yet.
pub(super) fn standby(primary: &Wal, disk: impl Disk + 'static) -> Wal {
    let new = NewLog {
        history: (*primary.history()).clone(),
        system_id: primary.identity().system_id,
        own: false,
        ..NewLog::new_cluster(SIZE)
    };
    let wal = Wal::create(Arc::new(disk), Path::new(DIR), new, &options()).unwrap();
    wal.set_commit_follows(false);
    wal
}

pub(super) fn stream(primary: &Wal, standby: &Wal) {
    stream_to(primary.flushed().get(), primary, standby);
}

/// As `stream`, up to `upto`, flushed by the primary or not.
pub(super) fn stream_to(upto: Lsn, primary: &Wal, standby: &Wal) {
    let mut bytes = LogBytes::new(primary.clone());
    let mut at = standby.appended();
    let mut carry = Vec::new();
    while at + (carry.len() as u64) < upto {
        let more = bytes.read(at + carry.len() as u64, upto, 300_000).unwrap();
        carry.extend_from_slice(&more);
        let end = standby.append_raw(at, &Bytes::from(carry.clone())).unwrap();
        carry.drain(..usize::try_from(end - at).unwrap());
        at = end;
    }
    standby.flushed().wait_blocking(at, Some(DEADLINE)).unwrap();
}

pub(super) fn put(payload: impl Into<Bytes>) -> WalEntry {
    WalEntry::new(WalEntryType::Insert, None, payload)
}

/// Appends, waits until it is flushed, and returns the end.
pub(super) fn flushed(wal: &Wal, payload: impl Into<Bytes>) -> Lsn {
    let end = wal.append(&[put(payload)]).unwrap().end;
    wal.flushed().wait_blocking(end, Some(DEADLINE)).unwrap();
    end
}

/// Appends `times` entries of `len` bytes, each flushed before the next.
pub(super) fn fill(wal: &Wal, times: u8, len: usize) {
    for n in 0..times {
        flushed(wal, vec![n; len]);
    }
}

/// Appends until exactly `left` bytes are left of the segment.
pub(super) fn leave(wal: &Wal, left: u64) {
    if SIZE.offset_of(wal.appended()) == 0 {
        flushed(wal, "a segment's first");
    }
    loop {
        let wanted = SIZE.bytes() - SIZE.offset_of(wal.appended()) - left;
        let record = if wanted > 250_000 { 200_000 } else { wanted };
        flushed(
            wal,
            vec![b'f'; usize::try_from(record).unwrap() - record_len(0)],
        );
        if record == wanted {
            return;
        }
    }
}

/// Ends and payloads of all entries an engine wrote.
pub(super) fn entries(wal: &Wal) -> Vec<(Lsn, Bytes)> {
    let mut reader = wal.reader(wal.oldest()).unwrap();
    let upto = wal.flushed().get();
    std::iter::from_fn(|| reader.next_entry(upto).unwrap())
        .map(|(entry, end)| (end, entry.data))
        .collect()
}

pub(super) fn timeline(number: u32, id: u128) -> Timeline {
    Timeline {
        number,
        id: Uuid::from_u128(id),
    }
}

/// A state of the disk, and what had been acknowledged by then.
#[derive(Clone)]
pub(super) struct State {
    pub(super) disk: SimDisk,
    pub(super) acknowledged: u64,
    /// How many states there were before.
    pub(super) number: usize,
}

/// A disk that keeps a copy of its state after every call that changed something.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    disk: SimDisk,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    states: Mutex<Vec<State>>,
    acknowledged: AtomicU64,
    asked: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
    before_write: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Recorder {
    pub(super) fn new(disk: SimDisk) -> Self {
        let shared = Arc::default();
        Self { disk, shared }
    }

    /// Notes how much is acknowledged from now on, in whatever unit the test counts.
    pub(super) fn acknowledge(&self, upto: u64) {
        self.shared.acknowledged.store(upto, Ordering::SeqCst);
    }

    /// Asks `how_much` is acknowledged from now on, at each call.
    pub(super) fn acknowledge_what_says(&self, how_much: impl Fn() -> u64 + Send + Sync + 'static) {
        let set = self.shared.asked.set(Box::new(how_much));
        assert!(set.is_ok(), "only once");
    }

    /// The states since the last time.
    pub(super) fn take(&self) -> Vec<State> {
        std::mem::take(&mut self.shared.states.lock())
    }

    /// Calls `act` from now on before each write to a segment, on the thread that writes: the log
    /// is sealed up to the end of that write then, and not flushed.
    pub(super) fn before_write(&self, act: impl Fn() + Send + Sync + 'static) {
        let set = self.shared.before_write.set(Box::new(act));
        assert!(set.is_ok(), "only once");
    }

    fn keep<T>(&self, result: io::Result<T>) -> io::Result<T> {
        // Read first: what is acknowledged between the two is in the copy all the same.
        let acknowledged = match self.shared.asked.get() {
            Some(how_much) => how_much(),
            None => self.shared.acknowledged.load(Ordering::SeqCst),
        };
        let disk = self.disk.copy();
        let mut states = self.shared.states.lock();
        let number = states.len();
        states.push(State {
            disk,
            acknowledged,
            number,
        });
        result
    }

    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let name = path.file_name().and_then(|name| name.to_str());
        let segment = name.is_some_and(|name| parse_segment_file_name(name, SIZE).is_some());
        let recorder = self.clone();
        Arc::new(RecordedFile {
            file,
            segment,
            recorder,
        })
    }
}

impl Disk for Recorder {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path).map(|file| self.file(path, file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let created = self.disk.create(path).map(|file| self.file(path, file));
        self.keep(created)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.keep(self.disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.keep(self.disk.remove(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.keep(self.disk.remove_dir(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.keep(self.disk.create_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.keep(self.disk.sync_dir(path))
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.keep(self.disk.sync_file(path))
    }

    fn entry(&self, path: &Path) -> io::Result<Option<DiskEntry>> {
        self.disk.entry(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.keep(self.disk.lock(path))
    }
}

#[derive(Debug)]
struct RecordedFile {
    file: Arc<dyn DiskFile>,
    segment: bool,
    recorder: Recorder,
}

impl DiskFile for RecordedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let before = self.recorder.shared.before_write.get();
        if let Some(act) = before.filter(|_| self.segment) {
            act();
        }
        self.recorder.keep(self.file.write_at(bytes, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.recorder.keep(self.file.sync_data())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.recorder.keep(self.file.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
