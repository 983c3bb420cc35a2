//! The log: appended, written, read, received and recovered.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{LogBytes, Lsn, OsDisk, Wal, WalEntry, WalEntryType};

use super::{VALUE_BYTES, counted, drive, filled_log, options, value};

/// Transactions in a log that is read, and rows in each.
const TRANSACTIONS: u64 = 200;
const ROWS: u64 = 10;

/// Entries in it: rows, begins and commits.
const ENTRIES: u64 = TRANSACTIONS * (ROWS + 2);

/// Bytes that come from a connection at once.
const RECEIVED_BYTES: usize = 64 << 10;

/// 2,000 entries of 100 bytes, each by itself: checksum, place, queue.
pub(super) fn append_one_by_one(dir: &Path) {
    let wal = started(dir);
    let entry = [WalEntry::new(WalEntryType::Insert, None, value())];
    let begin = wal.appended();
    counted(|| {
        for _ in 0..2000 {
            wal.append(&entry).expect("there is room");
        }
    });
    assert!(wal.appended().bytes_since(begin) >= 2000 * VALUE_BYTES as u64);
    wal.stop();
}

/// As many in units of 64 entries that belong together.
pub(super) fn append_units(dir: &Path) {
    let wal = started(dir);
    let entry = WalEntry::new(WalEntryType::Insert, None, value());
    let entries = vec![entry; 64];
    let begin = wal.appended();
    counted(|| {
        for _ in 0..32 {
            wal.append(&entries).expect("there is room");
        }
    });
    assert!(wal.appended().bytes_since(begin) >= 32 * 64 * VALUE_BYTES as u64);
    wal.stop();
}

/// What the writer does with 50 groups of 40 entries: headers, one buffer, one write, one sync.
pub(super) fn write(dir: &Path) {
    let wal = started(dir);
    let entry = [WalEntry::new(WalEntryType::Insert, None, value())];
    for _ in 0..50 {
        for _ in 0..40 {
            wal.append(&entry).expect("there is room");
        }
        counted(|| while wal.drive() {});
    }
    drive(&wal);
    wal.stop();
}

/// 2,400 entries read from memory, and each record checked.
pub(super) fn decode(dir: &Path) {
    let wal = filled_log(dir, TRANSACTIONS, ROWS);
    assert_eq!(counted(|| entries(&wal)), ENTRIES);
    wal.stop();
}

/// The same from the file.
pub(super) fn read_file(dir: &Path) {
    filled_log(dir, TRANSACTIONS, ROWS)
        .close()
        .expect("the disk works");
    let wal = opened(dir);
    assert_eq!(counted(|| entries(&wal)), ENTRIES);
    wal.stop();
}

/// The same log as a standby takes it, in pieces of 64 KiB: checked, queued, written, synced.
pub(super) fn receive(dir: &Path) {
    let (primary, standby) = (dir.join("primary"), dir.join("standby"));
    let primary = filled_log(&primary, TRANSACTIONS, ROWS);
    let from = primary.oldest();
    let pieces = pieces(&primary, from);
    let standby = copy_without_log(&primary, &standby);
    let end = counted(|| {
        let (mut at, mut kept) = (from, Vec::new());
        for piece in pieces {
            kept.extend_from_slice(&piece);
            let received = Bytes::from(std::mem::take(&mut kept));
            let end = standby.append_raw(at, &received).expect("sound log");
            let taken = usize::try_from(end - at).expect("little");
            kept.extend_from_slice(&received[taken..]);
            at = end;
            while standby.drive() {}
        }
        at
    });
    assert_eq!((end, standby.flushed().get()), (primary.appended(), end));
    primary.stop();
    standby.stop();
}

/// A log of one segment and a half, opened after a crash.
pub(super) fn recovery(dir: &Path) {
    let wal = filled_log(dir, 4 * TRANSACTIONS, ROWS);
    let end = wal.appended();
    wal.stop();
    drop(wal);
    let opened = counted(|| opened(dir));
    assert_eq!(opened.appended(), end);
    opened.stop();
}

/// The checksum of 4 MiB, by what the processor has for it.
pub(super) fn checksum(_: &Path) {
    let bytes = vec![7; 4 << 20];
    assert_ne!(counted(|| mainstay_storage::checksum(&bytes)), 0);
}

/// A log whose first segment has begun and whose next is ready.
fn started(dir: &Path) -> Wal {
    filled_log(dir, 1, 1)
}

fn opened(dir: &Path) -> Wal {
    let (wal, recovered) = Wal::open(Arc::new(OsDisk), dir, &options()).expect("a sound log");
    assert!(recovered.torn.is_none());
    wal
}

fn entries(wal: &Wal) -> u64 {
    let upto = wal.appended();
    let mut reader = wal.reader(wal.oldest()).expect("the log begins there");
    let mut count = 0;
    while reader.next_entry(upto).expect("a sound log").is_some() {
        count += 1;
    }
    count
}

/// The bytes of a log as they come from a connection.
fn pieces(wal: &Wal, from: Lsn) -> Vec<Bytes> {
    let mut log = LogBytes::new(wal.clone());
    let (mut at, mut pieces) = (from, Vec::new());
    while at < wal.appended() {
        let piece = log
            .read(at, wal.appended(), RECEIVED_BYTES)
            .expect("a sound log");
        at = at + piece.len() as u64;
        pieces.push(piece);
    }
    pieces
}

/// An empty log in `dir` that the log of `primary` can be received into.
fn copy_without_log(primary: &Wal, dir: &Path) -> Wal {
    let new = mainstay_storage::NewLog {
        system_id: primary.identity().system_id,
        history: (*primary.history()).clone(),
        own: false,
        ..mainstay_storage::NewLog::new_cluster(primary.segment_size())
    };
    let wal = Wal::create(Arc::new(OsDisk), dir, new, &options());
    wal.expect("an empty directory takes a log")
}
