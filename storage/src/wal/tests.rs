//! The log as its users see it, on a real directory.

use super::*;
use crate::disk::OsDisk;
use crate::entry::{WalEntry, WalEntryType};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;
use tempfile::TempDir;

mod commit;
mod control;
mod copies;
mod driven;
mod exhaustive;
mod hands;
mod raw;
mod reading;
mod timelines;

fn options() -> WalOptions {
    WalOptions {
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 1_700_000_000_000_000)
    }
}

fn create(dir: &Path) -> Wal {
    Wal::create(
        Arc::new(OsDisk),
        dir,
        NewLog::new_cluster(SegmentSize::MIN),
        &options(),
    )
    .unwrap()
}

fn open(dir: &Path) -> (Wal, Recovered) {
    Wal::open(Arc::new(OsDisk), dir, &options()).unwrap()
}

fn put(text: impl Into<Bytes>) -> WalEntry {
    WalEntry::new(WalEntryType::Insert, None, text)
}

fn append_flushed(wal: &Wal, text: impl Into<Bytes>) -> Range<Lsn> {
    let range = wal.append(&[put(text)]).unwrap();
    wal.flushed().wait_blocking(range.end, None).unwrap();
    range
}

fn texts(wal: &Wal, from: Lsn) -> Vec<Bytes> {
    let mut reader = wal.reader(from).unwrap();
    let upto = wal.flushed().get();
    std::iter::from_fn(|| reader.next_entry(upto).unwrap())
        .map(|(entry, _)| entry.data)
        .collect()
}

/// Copies of a directory's log on a second node, as streaming makes them.
fn standby_of(primary: &Wal, dir: &Path) -> Wal {
    let new = NewLog {
        system_id: primary.identity().system_id,
        node_id: Uuid::new_v4(),
        history: (*primary.history()).clone(),
        begin: primary.oldest(),
        checkpoint: primary.oldest(),
        own: false,
        store_created: false,
    };
    Wal::create(Arc::new(OsDisk), dir, new, &options()).unwrap()
}

fn stream(primary: &Wal, standby: &Wal, chunk: usize) {
    let mut bytes = LogBytes::new(primary.clone());
    let mut carry = bytes::BytesMut::new();
    let upto = primary.flushed().get();
    let mut at = standby.appended();
    while at + (carry.len() as u64) < upto {
        let from = at + carry.len() as u64;
        carry.extend_from_slice(&bytes.read(from, upto, chunk).unwrap());
        let end = standby.append_raw(at, &carry.clone().freeze()).unwrap();
        let _ = carry.split_to((end - at) as usize);
        at = end;
    }
    standby.flushed().wait_blocking(upto, None).unwrap();
}

fn assert_same_files(a: &Wal, b: &Wal) {
    let end = a.flushed().get().min(b.flushed().get());
    let (mut left, mut right) = (LogBytes::new(a.clone()), LogBytes::new(b.clone()));
    let mut at = b.oldest().max(a.oldest());
    while at < end {
        let bytes = left.read(at, end, 64 << 10).unwrap();
        let mut same = bytes::BytesMut::new();
        while same.len() < bytes.len() {
            let from = at + same.len() as u64;
            let more = right.read(from, end, bytes.len() - same.len()).unwrap();
            same.extend_from_slice(&more);
        }
        assert_eq!(bytes, same.freeze(), "bytes differ at or after {at}");
        at = at + bytes.len() as u64;
    }
}

#[test]
fn what_was_flushed_is_there_after_a_reopen() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let first = wal.segment_size().first_lsn();
    let entries = (0..5000).map(|n| format!("entry {n} {}", "x".repeat(n % 700)));
    let entries = entries.map(Bytes::from).collect::<Vec<_>>();
    for chunk in entries.chunks(7) {
        let chunk = chunk.iter().cloned().map(put).collect::<Vec<_>>();
        wal.append(&chunk).unwrap();
    }
    let end = wal.appended();
    wal.flushed().wait_blocking(end, None).unwrap();
    assert_eq!(texts(&wal, first), entries);
    wal.close().unwrap();
    let (wal, recovered) = open(dir.path());
    assert!(recovered.clean && recovered.torn.is_none());
    assert_eq!((recovered.end, wal.appended()), (end, end));
    assert_eq!(texts(&wal, first), entries);
    // Not closed this time.
    append_flushed(&wal, "after");
    drop(wal);
    let (wal, recovered) = open(dir.path());
    assert!(!recovered.clean && recovered.torn.is_none());
    assert_eq!(texts(&wal, first).last().unwrap(), "after");
}

#[test]
fn many_appenders_get_distinct_places_and_share_syncs() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let threads = (0..16).map(|n| {
        let wal = wal.clone();
        std::thread::spawn(move || {
            let append = |i: i32| {
                let range = wal
                    .append(&[put(format!("{n}-{i}")), put("second")])
                    .unwrap();
                wal.flushed().wait_blocking(range.end, None).unwrap();
                range.start
            };
            (0..100).map(append).collect::<Vec<_>>()
        })
    });
    let threads = threads.collect::<Vec<_>>();
    let starts = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap());
    let starts = starts.collect::<BTreeSet<_>>();
    assert_eq!(starts.len(), 1600);
    let all = texts(&wal, wal.segment_size().first_lsn());
    assert_eq!(all.len(), 3200);
    assert!(
        all.chunks(2)
            .all(|pair| pair[0] != "second" && pair[1] == "second"),
        "interleaved"
    );
}

#[test]
fn a_standby_holds_the_same_bytes_across_segments() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let primary = create(a.path());
    for n in 0..300 {
        primary
            .append(&[put(vec![b'a' + (n % 26) as u8; n * 37 % 20_000])])
            .unwrap();
    }
    primary
        .flushed()
        .wait_blocking(primary.appended(), None)
        .unwrap();
    let standby = standby_of(&primary, b.path());
    stream(&primary, &standby, 10_007);
    assert_same_files(&primary, &standby);
    drop(standby);
    let (standby, recovered) = open(b.path());
    assert_eq!(recovered.end, primary.appended());
    append_flushed(&primary, "more");
    stream(&primary, &standby, 1 << 20);
    assert_same_files(&primary, &standby);
}

#[test]
fn a_standby_refuses_foreign_damaged_and_misplaced_bytes() {
    let (a, b, c) = (
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
        TempDir::new().unwrap(),
    );
    let (primary, stranger) = (create(a.path()), create(c.path()));
    append_flushed(&primary, "one");
    append_flushed(&stranger, "one");
    let standby = standby_of(&primary, b.path());
    let first = standby.appended();
    let end = primary.appended();
    let bytes = LogBytes::new(primary.clone())
        .read(first, end, 1 << 20)
        .unwrap();
    let foreign = LogBytes::new(stranger).read(first, end, 1 << 20).unwrap();
    assert!(matches!(
        standby.append_raw(first, &foreign),
        Err(Error::Refused { .. })
    ));
    let misplaced = standby.append_raw(first + 8, &bytes);
    assert!(matches!(misplaced, Err(Error::NotContiguous { .. })));
    let second = first + SEGMENT_HEADER_RECORD_LEN;
    for at in [first, second] {
        let record = bytes.slice((at - first) as usize..);
        for byte in 0..record.len().min(SEGMENT_HEADER_RECORD_LEN as usize) {
            let mut damaged = record.to_vec();
            damaged[byte] ^= 0x10;
            // A longer length may just look incomplete: then nothing is taken, without an error.
            let took = standby.append_raw(at, &damaged.into());
            assert!(
                took.is_err() || took.unwrap() == at,
                "byte {byte} was taken"
            );
            assert_eq!(standby.appended(), at, "byte {byte} moved the log");
        }
        let header = record.slice(..record.len().min(SEGMENT_HEADER_RECORD_LEN as usize));
        standby.append_raw(at, &header).unwrap();
    }
    assert_eq!(standby.appended(), end);
}

#[test]
fn entries_are_checked_before_anything_is_appended() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let start = wal.appended();
    let wrong = WalEntry {
        lsn: Lsn::new(8),
        ..put("x")
    };
    let damaged = WalEntry {
        checksum: 1,
        ..put("x")
    };
    let large = put(vec![0; wal.segment_size().payload_max() + 1]);
    let internal = WalEntry::new(WalEntryType::Filler, None, "x");
    assert!(matches!(
        wal.append(&[put("ok"), wrong]),
        Err(Error::NotContiguous { .. })
    ));
    assert!(matches!(
        wal.append(&[put("ok"), damaged]),
        Err(Error::Refused { .. })
    ));
    assert!(matches!(
        wal.append(&[put("ok"), large]),
        Err(Error::TooLarge { .. })
    ));
    assert!(matches!(
        wal.append(&[put("ok"), internal]),
        Err(Error::Invalid(_))
    ));
    assert_eq!(wal.appended(), start);
    let first = wal.append(&[put("x")]).unwrap();
    let next = WalEntry {
        lsn: first.end,
        checksum: crc32fast::hash(b"y"),
        ..put("y")
    };
    assert_eq!(wal.append(&[next]).unwrap().start, first.end);
    wal.append(&[put(vec![0; wal.segment_size().payload_max()])])
        .unwrap();
}

#[test]
fn a_directory_is_opened_once_and_never_created_twice() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let again = Wal::open(Arc::new(OsDisk), dir.path(), &options());
    assert!(matches!(again, Err(Error::Locked { .. })));
    drop(wal);
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let again = Wal::create(Arc::new(OsDisk), dir.path(), new, &options());
    assert!(matches!(again, Err(Error::Invalid(_))));
    std::fs::remove_file(dir.path().join("control")).unwrap();
    append_nothing_and_expect_orphans(dir.path());
}

fn append_nothing_and_expect_orphans(dir: &Path) {
    std::fs::write(dir.join("wal/000000010000000000000001"), b"").unwrap();
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let orphaned = Wal::create(Arc::new(OsDisk), dir, new, &options());
    assert!(
        orphaned
            .unwrap_err()
            .to_string()
            .contains("no control file")
    );
}

#[test]
fn removed_log_is_a_gap_and_its_files_are_used_again() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let first = wal.oldest();
    let mut slow = wal.reader(first).unwrap();
    for _ in 0..40 {
        wal.append(&[put(vec![7; 200_000])]).unwrap();
    }
    let end = wal.appended();
    wal.flushed().wait_blocking(end, None).unwrap();
    assert_eq!(
        wal.remove_below(end).unwrap(),
        first,
        "the checkpoint still needs it"
    );
    wal.checkpoint(end).unwrap();
    let oldest = wal.remove_below(end).unwrap();
    assert!(oldest > first && oldest <= end);
    assert!(matches!(wal.reader(first), Err(Error::Gap { .. })));
    let mut bytes = LogBytes::new(wal.clone());
    while bytes.read_memory(first, end, 1).is_some() {
        wal.append(&[put(vec![7; 200_000])]).unwrap();
        wal.flushed().wait_blocking(wal.appended(), None).unwrap();
    }
    assert!(matches!(bytes.read(first, end, 1), Err(Error::Gap { .. })));
    let gap = std::iter::repeat_with(|| slow.next_record(end)).find_map(Result::err);
    assert!(matches!(gap, Some(Error::Gap { .. })));
    let names = std::fs::read_dir(dir.path().join("wal")).unwrap();
    let spares = names.filter(|name| {
        let name = name.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("spare")
    });
    assert!(spares.count() >= 1);
    for _ in 0..20 {
        wal.append(&[put(vec![8; 200_000])]).unwrap();
    }
    let (before, end) = (wal.oldest(), wal.appended());
    wal.flushed().wait_blocking(end, None).unwrap();
    drop((wal, slow, bytes));
    let (wal, recovered) = open(dir.path());
    assert_eq!((recovered.end, wal.oldest()), (end, before));
}

#[test]
fn a_live_reader_follows_without_gap_or_duplicate() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let reader = std::thread::spawn({
        let wal = wal.clone();
        move || {
            let mut reader = wal.reader(wal.oldest()).unwrap();
            let mut seen = 0;
            while seen < 2000 {
                let upto = wal.flushed().get();
                while let Some((entry, _)) = reader.next_entry(upto).unwrap() {
                    assert_eq!(entry.data, format!("{seen}"));
                    seen += 1;
                }
                if seen < 2000 {
                    wal.flushed()
                        .wait_blocking(upto + 1, Some(Duration::from_secs(60)))
                        .unwrap();
                }
            }
        }
    });
    for n in 0..2000 {
        wal.append(&[put(format!("{n}"))]).unwrap();
    }
    reader.join().unwrap();
}

#[test]
fn promises_are_durable() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let promised = Timeline {
        number: 4,
        id: Uuid::from_u128(1),
    };
    wal.save_promises(Some(promised), None).unwrap();
    drop(wal);
    let (wal, _) = open(dir.path());
    let control = wal.control();
    assert_eq!(
        (control.promised(), control.attempted()),
        (Some(promised), None)
    );
    assert_eq!(control.highest_number(), 4);
}

#[test]
fn the_newest_config_survives_reopens_checkpoints_and_cuts() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    wal.set_commit_follows(false);
    assert_eq!(wal.config(), (Bytes::new(), Lsn::ZERO));
    let first = wal.append_config(Bytes::from_static(b"first")).unwrap().end;
    wal.flushed().wait_blocking(first, None).unwrap();
    wal.checkpoint(first).unwrap();
    let second = wal
        .append_config(Bytes::from_static(b"second"))
        .unwrap()
        .end;
    assert_eq!(wal.config(), (Bytes::from_static(b"second"), second));
    wal.flushed().wait_blocking(second, None).unwrap();
    drop(wal);
    let (wal, _) = open(dir.path());
    assert_eq!(wal.config(), (Bytes::from_static(b"second"), second));
    wal.set_commit_follows(false);
    drop(wal);
    let (wal, _) = open(dir.path());
    assert_eq!(wal.config().1, second);
    let large = Bytes::from(vec![0; crate::CONFIG_BYTES_MAX + 1]);
    assert!(matches!(
        wal.append_config(large),
        Err(Error::TooLarge { .. })
    ));
}
