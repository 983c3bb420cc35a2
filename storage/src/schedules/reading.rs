//! Readers of the newest log, while the writer adds to it, drops what is old and takes back what is
//! cut: they get exactly the bytes that were appended there, or are told that they are not there.

use bytes::Bytes;

use super::explore;
use super::stage::{PAYLOAD, RECORD, SIZE, append, begun, segment};
use crate::disk::SimDisk;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::sync::thread::{self, JoinHandle};
use crate::wal::{LogBytes, Wal};

/// What was read, and from where on.
type Piece = (Lsn, Bytes);

fn assert_in_file(disk: &SimDisk, pieces: Vec<Piece>) {
    for (from, bytes) in pieces {
        let at = usize::try_from(SIZE.offset_of(from)).unwrap();
        let file = &segment(disk, from)[at..][..bytes.len()];
        assert_eq!(bytes, file, "read from {from}");
    }
}

/// Follows what is sealed, as a sender does that does not wait for the disk, up to `end`.
fn follower(wal: &Wal, end: Lsn, step: usize) -> JoinHandle<Vec<Piece>> {
    let wal = wal.clone();
    thread::spawn(move || {
        let mut bytes = LogBytes::new(wal.clone());
        let (mut at, mut read) = (wal.oldest(), Vec::new());
        while at < end {
            let upto = wal.sealed().wait_blocking(at + 1, None).unwrap();
            let piece = bytes.read(at, upto, step).unwrap();
            assert!(!piece.is_empty() && piece.len() <= step);
            assert!(at + piece.len() as u64 <= upto);
            read.push((at, piece.clone()));
            at = at + piece.len() as u64;
        }
        read
    })
}

/// Looks at places of the newest log that the ring may or may not hold.
fn browser(wal: &Wal, from: Lsn) -> JoinHandle<Vec<Piece>> {
    let wal = wal.clone();
    thread::spawn(move || {
        let bytes = LogBytes::new(wal.clone());
        let places = [2, 0, 3, 1].map(|n| from + n * RECORD + 8);
        let look = |at| Some((at, bytes.read_memory(at, wal.sealed().get().max(at), 64)?));
        places.into_iter().filter_map(look).collect()
    })
}

#[test]
fn readers_get_what_was_appended_from_memory_or_from_the_file() {
    explore(|| {
        // Two records stay in memory, so that readers are overtaken.
        let (disk, wal) = begun(2 * PAYLOAD);
        let from = wal.appended();
        let end = from + 4 * RECORD;
        let readers = [
            follower(&wal, end, 48),
            follower(&wal, end, 1 << 20),
            browser(&wal, from),
        ];
        for byte in b'a'..=b'd' {
            append(&wal, byte);
        }
        let read = readers.map(|reader| reader.join().unwrap());
        wal.flushed().wait_blocking(end, None).unwrap();
        for pieces in read {
            assert_in_file(&disk, pieces);
        }
        wal.close().unwrap();
    });
}

#[test]
fn readers_of_log_that_is_cut_get_the_old_or_the_new_and_never_both() {
    explore(|| {
        let (_disk, wal) = begun(1 << 20);
        wal.set_commit_follows(false);
        let from = wal.appended();
        for byte in [b'o', b'o'] {
            let end = append(&wal, byte).end;
            wal.flushed().wait_blocking(end, None).unwrap();
        }
        let readers = [true, false].map(|memory| {
            let wal = wal.clone();
            thread::spawn(move || {
                let mut bytes = LogBytes::new(wal.clone());
                for _ in 0..2 {
                    let upto = from + 2 * RECORD;
                    let read = match memory {
                        true => bytes.read_memory(from, upto, 1 << 20),
                        false => match bytes.read(from, upto, 1 << 20) {
                            Ok(read) => Some(read),
                            Err(Error::Ahead { .. }) => None,
                            Err(other) => panic!("{other}"),
                        },
                    };
                    let read = read.unwrap_or_default();
                    let payloads = read.chunks(usize::try_from(RECORD).unwrap());
                    let mut found = payloads.flat_map(|record| &record[record.len() - PAYLOAD..]);
                    let first = found.next().copied();
                    assert!(first.is_none_or(|first| b"on".contains(&first)));
                    assert!(found.all(|byte| Some(*byte) == first), "{read:?}");
                }
            })
        });
        wal.cut(from).unwrap();
        for byte in [b'n', b'n'] {
            append(&wal, byte);
        }
        for reader in readers {
            reader.join().unwrap();
        }
        wal.close().unwrap();
    });
}
