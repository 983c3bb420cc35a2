//! What a reader is told where there is no log to read, or none that is good.

use std::fs;

use super::*;

/// A log of some hundred entries, of which memory holds hardly any.
fn on_disk(dir: &Path) -> (Wal, Vec<Range<Lsn>>) {
    let options = WalOptions {
        tail_bytes: 4096,
        ..options()
    };
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let wal = Wal::create(Arc::new(OsDisk), dir, new, &options).unwrap();
    let entries = (0..200).map(|n| append_flushed(&wal, format!("{n} {}", "x".repeat(300))));
    let entries = entries.collect();
    (wal, entries)
}

#[test]
fn a_reader_must_begin_at_a_record() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let range = append_flushed(&wal, "some bytes that are long enough to point into");
    let upto = wal.flushed().get();
    let inside = wal.reader(range.start + 8).unwrap().next_record(upto);
    assert!(matches!(inside, Err(Error::Invalid(_))));
    assert!(matches!(
        wal.reader(range.end + 8),
        Err(Error::Ahead { .. })
    ));
    assert_eq!(
        wal.reader(range.end).unwrap().next_record(upto).unwrap(),
        None
    );
}

#[test]
fn bytes_beyond_the_end_are_refused_with_the_end() {
    let dir = TempDir::new().unwrap();
    let (wal, entries) = on_disk(dir.path());
    let end = entries.last().unwrap().end;
    let mut bytes = LogBytes::new(wal);
    assert!(bytes.read(end, Lsn::MAX, 64).unwrap().is_empty());
    let ahead = bytes.read(end + 8, Lsn::MAX, 64);
    let wanted = end + 8;
    assert!(
        matches!(ahead, Err(Error::Ahead { wanted: w, end: e }) if (w, e) == (wanted, end)),
        "{ahead:?}"
    );
}

/// The damage came after the start, which would have found it.
#[test]
fn damage_that_a_reader_meets_is_named_with_its_file_and_place() {
    let dir = TempDir::new().unwrap();
    let (wal, entries) = on_disk(dir.path());
    let (flushed, hit) = (wal.flushed().get(), &entries[3]);
    let segment = fs::read_dir(wal.wal_dir())
        .unwrap()
        .map(|it| it.unwrap().path());
    let segment = segment.min().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at = wal.segment_size().offset_of(hit.start) as usize + 100;
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let mut reader = wal.reader(entries[0].start).unwrap();
    for _ in 0..3 {
        reader.next_entry(flushed).unwrap().unwrap();
    }
    let damaged = reader.next_entry(flushed);
    let Err(Error::Corrupt {
        path,
        what,
        at,
        proven,
        ..
    }) = damaged
    else {
        panic!("{damaged:?}");
    };
    assert_eq!((path, what), (segment, "record"));
    assert_eq!((at, proven), (hit.start, flushed));
}
