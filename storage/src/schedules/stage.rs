//! What the scenarios of the log stand on: a log that was made once, and a look at its disk.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use uuid::Uuid;

use super::run_seed;
use crate::disk::{CrashMode, SimDisk};
use crate::entry::{WalEntry, WalEntryType};
use crate::lsn::{Lsn, SegmentSize};
use crate::timeline::{Timeline, TimelineHistory};
use crate::wal::{NewLog, RECORD_HEADER_LEN, Wal, WalOptions, record_len, segment_file_name};

pub(super) const DIR: &str = "/node";
pub(super) const SIZE: SegmentSize = SegmentSize::MIN;

/// Bytes of payload of every record that a scenario appends, unless it says otherwise.
pub(super) const PAYLOAD: usize = 40;
/// And of the whole record.
pub(super) const RECORD: u64 = record_len(PAYLOAD) as u64;

/// Disks with a log that was closed properly: one at its begin, and one with room for less than
/// two records in its segment and no other segment made ready.
struct Images {
    begun: SimDisk,
    almost_full: SimDisk,
}

static IMAGES: OnceLock<Images> = OnceLock::new();

/// Makes the images, before any schedule that counts: a schedule that had to make them would be
/// another one than when it is run again.
pub(super) fn prepare() {
    IMAGES.get_or_init(|| {
        let (begun, almost_full) = (SimDisk::new(1), SimDisk::new(2));
        let disks = [begun.clone(), almost_full.clone()];
        run_seed(0, 1, move || {
            let disks = disks.each_ref();
            let [begun, almost_full] = disks.map(create);
            append(&begun, b'0');
            begun.close().unwrap();
            append(&almost_full, b'0');
            while space(&almost_full) > 2 * RECORD {
                let len = usize::try_from(space(&almost_full) - RECORD - 8).unwrap();
                let payload = vec![b'f'; (len.min(250_000) - RECORD_HEADER_LEN) & !7];
                almost_full.append(&[put(payload)]).unwrap();
            }
            almost_full.close().unwrap();
        });
        let ready = almost_full.files().into_iter();
        for spare in ready.filter(|path| path.to_string_lossy().contains("spare")) {
            almost_full.remove_file(spare);
        }
        Images { begun, almost_full }
    });
}

fn space(wal: &Wal) -> u64 {
    SIZE.bytes() - SIZE.offset_of(wal.appended())
}

fn create(disk: &SimDisk) -> Wal {
    let (number, id) = (1, Uuid::from_u128(1));
    let begin = SIZE.first_lsn();
    let new = NewLog {
        system_id: 1,
        node_id: Uuid::from_u128(2),
        history: TimelineHistory::new(Timeline { number, id }, begin),
        ..NewLog::new_cluster(SIZE)
    };
    Wal::create(
        Arc::new(disk.clone()),
        Path::new(DIR),
        new,
        &options(1 << 20),
    )
    .unwrap()
}

fn options(tail_bytes: usize) -> WalOptions {
    WalOptions {
        segment_size: SIZE,
        tail_bytes,
        ..WalOptions::new(|| 7)
    }
}

/// A log with one record, that keeps `tail_bytes` in memory.
pub(super) fn begun(tail_bytes: usize) -> (SimDisk, Wal) {
    opened(&IMAGES.get().expect("prepared").begun, tail_bytes)
}

/// A log whose segment is full after the next record.
pub(super) fn almost_full() -> (SimDisk, Wal) {
    opened(&IMAGES.get().expect("prepared").almost_full, 1 << 20)
}

fn opened(image: &SimDisk, tail_bytes: usize) -> (SimDisk, Wal) {
    let disk = image.copy();
    let wal = open(&disk, tail_bytes);
    (disk, wal)
}

pub(super) fn open(disk: &SimDisk, tail_bytes: usize) -> Wal {
    let disk = Arc::new(disk.clone());
    Wal::open(disk, Path::new(DIR), &options(tail_bytes))
        .unwrap()
        .0
}

pub(super) fn put(payload: impl Into<Bytes>) -> WalEntry {
    WalEntry::new(WalEntryType::Insert, None, payload)
}

/// Appends a record full of `byte`, and does not wait.
pub(super) fn append(wal: &Wal, byte: u8) -> Range<Lsn> {
    wal.append(&[put(vec![byte; PAYLOAD])]).unwrap()
}

/// What the file of the segment that `at` is in holds.
pub(super) fn segment(disk: &SimDisk, at: Lsn) -> Vec<u8> {
    let name = segment_file_name(1, SIZE.segment_of(at), SIZE);
    disk.read_file(PathBuf::from(DIR).join("wal").join(name))
}

/// The record that ends at `end` is full of `byte`, also if the power goes now.
pub(super) fn assert_durable(disk: &SimDisk, end: Lsn, byte: u8) {
    let left = disk.copy();
    left.crash(CrashMode::LoseUnsynced);
    let from = usize::try_from(SIZE.offset_of(Lsn::new(end.get() - PAYLOAD as u64))).unwrap();
    let payload = &segment(&left, Lsn::new(end.get() - 1))[from..][..PAYLOAD];
    assert_eq!(payload, [byte; PAYLOAD], "acknowledged and not on the disk");
}
