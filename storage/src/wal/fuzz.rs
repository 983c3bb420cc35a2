//! Fuzzing the log: records, whole directories, and log from a peer.
//!
//! What a valid record is stands here a second time ([`valid_record`]), written from the drawing
//! in `record.rs` and not from its code, so that what the log accepts is judged by somebody else.

mod image;
mod received;
mod records;
mod recovery;

pub(crate) use received::received;
pub(crate) use records::{record, segment};
pub(crate) use recovery::recovery;

use std::path::Path;

use crate::disk::SimDisk;
use crate::lsn::Lsn;
use crate::timeline::TimelineHistory;
use crate::wal::record::Place;
use crate::wal::segment::segment_file_name;
use crate::wal::{SegmentSize, directory};

/// Segments of every log here.
const SIZE: SegmentSize = SegmentSize::MIN;

/// Where the log lies on its simulated disk.
const DIR: &str = "/db";

/// Length of the record that `bytes` begin with, and its CRC, if it is valid at `place`.
fn valid_record(bytes: &[u8], place: &Place) -> Option<(usize, u32)> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (payload, crc) = (number(0)? as usize, number(4)?);
    let end = 32_usize.checked_add(payload)?;
    let len = end.next_multiple_of(8);
    let known = matches!(bytes.get(12)?, 1..=9 | 64..=67);
    let padding = bytes.get(end..len)?;
    let zeros = bytes[14..16] == [0; 2] && padding.iter().all(|byte| *byte == 0);
    let covered = [
        &place.system_id.to_le_bytes()[..],
        &place.timeline.number.to_le_bytes(),
        place.timeline.id.as_bytes(),
        &place.lsn.get().to_le_bytes(),
        &bytes[..4],
        &bytes[8..end],
    ];
    (known && zeros && crc32fast::hash(&covered.concat()) == crc).then_some((len, crc))
}

/// Checks that the log on `disk` from `begin`, a segment's start, up to `end` is a chain of valid
/// records that belong there, with nothing between them.
fn check_log(disk: &SimDisk, system_id: u64, history: &TimelineHistory, begin: Lsn, end: Lsn) {
    let (mut at, mut previous) = (begin, None);
    let mut segment = Vec::new();
    while at < end {
        let number = SIZE.segment_of(at);
        let offset = usize::try_from(SIZE.offset_of(at)).expect("within a segment");
        if offset == 0 || segment.is_empty() {
            let last = Lsn::new(at.get() | (SIZE.bytes() - 1));
            let name = segment_file_name(history.owner(last).number, number, SIZE);
            segment = disk.read_file(directory::wal_dir(Path::new(DIR)).join(name));
            // What lies behind its end is nobody's.
            assert!(segment.len() as u64 >= SIZE.bytes(), "segment {number}");
            segment.truncate(1 << 20);
        }
        let bytes = &segment[offset..];
        if bytes.len() < 32 {
            assert!(bytes.iter().all(|byte| *byte == 0), "no zeros at {at}");
            at = at + bytes.len() as u64;
            continue;
        }
        let place = Place {
            system_id,
            timeline: history.owner(at),
            lsn: at,
        };
        let (len, crc) = valid_record(bytes, &place).expect("a record that is not valid");
        let chained = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        assert!(
            previous.is_none_or(|crc| crc == chained),
            "no chain at {at}"
        );
        assert!(offset != 0 || bytes[12] == 64, "no header at {at}");
        (at, previous) = (at + len as u64, Some(crc));
    }
    assert_eq!(at, end, "no record ends there");
}
