//! The cases: what a regression would hurt, each on an input that never changes.
//!
//! A case prepares its input in the empty directory that it is given, does the work inside
//! [`counted`], and sees that the work was done: what fails early would look fast. Logs have no
//! threads here, so nothing happens at a moment that chance decides.

mod commits;
mod log;
mod store;
mod stream;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{
    Change, Lsn, NewLog, OsDisk, SegmentSize, Wal, WalEntry, WalEntryType, WalOptions,
};

/// Prepares, does and checks the work.
pub(crate) type Case = fn(&Path);

/// All of them, by name.
pub(crate) const ALL: [(&str, Case); 19] = [
    ("append-1", log::append_one_by_one),
    ("append-64", log::append_units),
    ("write", log::write),
    ("decode", log::decode),
    ("read-file", log::read_file),
    ("receive", log::receive),
    ("recovery", log::recovery),
    ("checksum", log::checksum),
    ("send", stream::send),
    ("stream-decode", stream::decode),
    ("status", stream::status),
    ("sender", stream::sender),
    ("commit", commits::policy),
    ("release", commits::release),
    ("local-commit-1", store::commit_rows),
    ("local-commit-100", store::commit_transactions),
    ("apply", store::apply),
    ("get", store::get),
    ("scan", store::scan),
];

/// Does `work`, and counts it.
fn counted<T>(work: impl FnOnce() -> T) -> T {
    // The C library puts together what was freed when more than a little is asked for: now, and not
    // while somebody counts.
    drop(black_box(Vec::<u8>::with_capacity(64 << 10)));
    only_this_is_counted(work)
}

/// By its name callgrind knows when to count, so no other function may have it in its own.
#[inline(never)]
fn only_this_is_counted<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

/// The case of that name.
pub(crate) fn find(name: &str) -> Option<Case> {
    ALL.iter()
        .find(|(known, _)| *known == name)
        .map(|(_, case)| *case)
}

/// The table that all rows go to.
const TABLE: u32 = 1;

/// Bytes of a row's value.
const VALUE_BYTES: usize = 100;

fn options() -> WalOptions {
    WalOptions {
        segment_size: SegmentSize::MIN,
        driven: true,
        ..WalOptions::new(|| 0)
    }
}

/// A new log in `dir`, which writes only when it is driven. Its identity is drawn by chance; all of
/// them have the same length.
fn new_log(dir: &Path) -> Wal {
    let new = NewLog::new_cluster(SegmentSize::MIN);
    Wal::create(Arc::new(OsDisk), dir, new, &options()).expect("an empty directory takes a log")
}

/// A log in `dir` that `transactions` of `rows` rows each were written to.
fn filled_log(dir: &Path, transactions: u64, rows: u64) -> Wal {
    let wal = new_log(dir);
    for number in 0..transactions {
        wal.append(&transaction(number, rows))
            .expect("there is room");
    }
    drive(&wal);
    wal
}

/// Writes and syncs what is queued.
fn drive(wal: &Wal) -> Lsn {
    while wal.drive() {}
    assert_eq!(wal.flushed().get(), wal.appended(), "not all was written");
    wal.appended()
}

/// Entries of a transaction that puts `rows` rows.
fn transaction(number: u64, rows: u64) -> Vec<WalEntry> {
    let id = Some(number + 1);
    let begin = WalEntry::new(WalEntryType::TxBegin, id, "");
    let commit = WalEntry::new(WalEntryType::TxCommit, id, "");
    let changes = (number * rows..).take(usize::try_from(rows).expect("few"));
    let changes = changes.map(|row| {
        let change = Change::put(TABLE, key(row).to_vec(), value());
        WalEntry::new(change.entry_type(), id, change.encode())
    });
    std::iter::once(begin)
        .chain(changes)
        .chain([commit])
        .collect()
}

/// The key of a row: spread over the key space, and the same in every run.
fn key(row: u64) -> [u8; 8] {
    row.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()
}

fn value() -> Bytes {
    vec![7; VALUE_BYTES].into()
}
