//! One segment file: its name, its header record's payload, and where records go in it.
//!
//! A file is named `TTTTTTTTXXXXXXXXYYYYYYYY` as PostgreSQL names them (timeline, and the segment's
//! number split at 4 GiB), and its offset 0 is the segment's first LSN. It holds
//!
//! ```text
//! +----------------+--------+--------+-- ~ --+--------+------------------------+
//! | segment header | record | record |       | record | filler, or < 32 zeros  |
//! | record, 112 B  |        |        |       |        | when nothing fits      |
//! +----------------+--------+--------+-- ~ --+--------+------------------------+
//!
//! header payload  0       8         12       16          24       28   32         48
//!                 +-------+---------+--------+-----------+--------+----+----------+
//!                 | magic | version | size   | system id | timeline| 0 | promotion|
//!                 | 8     | u32     | u32    | u64       | u32     |u32| id 16    |
//!                 +-------+---------+--------+-----------+--------+----+----------+
//!                 48           56          64            72             76   80
//!                 +------------+-----------+-------------+--------------+----+
//!                 | segment id | start LSN | created at  | CRC-32 of the| 0  |
//!                 | u64        | u64       | i64, µs     | segment      | u32|
//!                 |            |           | since 1970  | before, u32  |    |
//!                 +------------+-----------+-------------+--------------+----+
//! ```
//!
//! All integers are little-endian. This room computes names and places; it opens no file.

use uuid::Uuid;

use crate::lsn::{Lsn, SegmentSize};
use crate::timeline::Timeline;
use crate::wal::record::{RECORD_HEADER_LEN, record_len};

/// First bytes of a segment header's payload.
pub const SEGMENT_MAGIC: [u8; 8] = *b"MAINSTAY";

/// Version of the segment and record format.
pub const FORMAT_VERSION: u32 = 1;

/// Size of a segment header's payload in bytes.
pub const SEGMENT_HEADER_LEN: usize = 80;

/// Size of the whole segment header record.
pub const SEGMENT_HEADER_RECORD_LEN: u64 = record_len(SEGMENT_HEADER_LEN) as u64;

/// One segment of a log: an engine's own, handed over whole, or one of ours as listed.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct WalSegment {
    /// Its number.
    pub segment_id: u64,
    /// First position in it.
    pub start_lsn: Lsn,
    /// First position after it.
    pub end_lsn: Lsn,
    /// Bytes of it that hold log: `end_lsn - start_lsn`.
    pub size: u64,
    /// CRC-32 (IEEE) of those bytes.
    pub checksum: u32,
    /// When it was begun, in microseconds since 1970-01-01 UTC.
    pub created_at: i64,
}

impl WalSegment {
    /// The description's bytes, as they go into the log.
    pub fn encode(&self) -> Vec<u8> {
        let config = bincode::config::standard();
        bincode::encode_to_vec(self, config).expect("plain numbers always encode")
    }

    /// Reads a description.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) on anything but what [`encode`](Self::encode)
    /// wrote.
    pub fn decode(bytes: &[u8]) -> crate::Result<Self> {
        let config = bincode::config::standard().with_limit::<256>();
        match bincode::decode_from_slice(bytes, config) {
            Ok((segment, read)) if read == bytes.len() => Ok(segment),
            _ => Err(crate::Error::Invalid(
                "a segment's description cannot be read".to_owned(),
            )),
        }
    }
}

/// CRC-32 (IEEE) of `bytes`, as entries and segments carry it.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// What the first record of every segment file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Size of every segment of this log, in bytes.
    pub segment_size: u32,
    /// The cluster.
    pub system_id: u64,
    /// The timeline that wrote it.
    pub timeline: Timeline,
    /// The segment's number.
    pub segment_id: u64,
    /// The segment's first position.
    pub start_lsn: Lsn,
    /// When it was begun, in microseconds since 1970-01-01 UTC.
    pub created_at: i64,
    /// CRC-32 of all bytes of the segment before it; 0 for the first.
    pub previous_crc: u32,
}

impl SegmentHeader {
    /// The payload's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.segment_size.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.system_id.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.timeline.number.to_le_bytes());
        bytes[32..48].copy_from_slice(self.timeline.id.as_bytes());
        bytes[48..56].copy_from_slice(&self.segment_id.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.start_lsn.get().to_le_bytes());
        bytes[64..72].copy_from_slice(&self.created_at.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.previous_crc.to_le_bytes());
        bytes
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// The format version found, when it is not [`FORMAT_VERSION`]; 0 when it is no header.
    pub fn decode(payload: &[u8]) -> Result<Self, u32> {
        let bytes: &[u8; SEGMENT_HEADER_LEN] = payload.try_into().map_err(|_| 0u32)?;
        if bytes[0..8] != SEGMENT_MAGIC {
            return Err(0);
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if u32_at(8) != FORMAT_VERSION {
            return Err(u32_at(8));
        }
        let id = Uuid::from_bytes(bytes[32..48].try_into().expect("16 bytes"));
        Ok(Self {
            segment_size: u32_at(12),
            system_id: u64_at(16),
            timeline: Timeline {
                number: u32_at(24),
                id,
            },
            segment_id: u64_at(48),
            start_lsn: Lsn::new(u64_at(56)),
            created_at: i64::from_le_bytes(bytes[64..72].try_into().expect("8 bytes")),
            previous_crc: u32_at(72),
        })
    }
}

/// Name of the file of segment `number` on timeline `timeline`, as PostgreSQL names it.
///
/// ```
/// use mainstay_storage::{SegmentSize, segment_file_name};
/// assert_eq!(segment_file_name(1, 1, SegmentSize::DEFAULT), "000000010000000000000001");
/// assert_eq!(segment_file_name(2, 256, SegmentSize::DEFAULT), "000000020000000100000000");
/// ```
pub fn segment_file_name(timeline: u32, number: u64, size: SegmentSize) -> String {
    let per_4_gib = (1u64 << 32) / size.bytes();
    format!(
        "{timeline:08X}{:08X}{:08X}",
        number / per_4_gib,
        number % per_4_gib
    )
}

/// Timeline and segment number that a file name stands for; `None` for any other name.
pub fn parse_segment_file_name(name: &str, size: SegmentSize) -> Option<(u32, u64)> {
    let upper_hex = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    if name.len() != 24 || !name.bytes().all(upper_hex) {
        return None;
    }
    let part = |at: usize| u32::from_str_radix(&name[at..at + 8], 16).ok();
    let per_4_gib = (1u64 << 32) / size.bytes();
    let (timeline, high, low) = (part(0)?, part(8)?, u64::from(part(16)?));
    (low < per_4_gib).then(|| (timeline, u64::from(high) * per_4_gib + low))
}

/// Where the next record goes: the arithmetic that appenders reserve by and the writer seals by.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) next: Lsn,
    pub(crate) size: SegmentSize,
}

/// What precedes a record at its place.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The end of the segment before is filled from here on.
    pub(crate) fill_from: Option<Lsn>,
    /// A new segment begins here, with its header record.
    pub(crate) header_at: Option<Lsn>,
    /// Where the record starts.
    pub(crate) at: Lsn,
}

impl Cursor {
    /// Bytes left in the segment that `next` is in; a whole segment at its start.
    pub(crate) fn space(&self) -> u64 {
        self.size.bytes() - self.size.offset_of(self.next)
    }

    /// Places a record of `payload` bytes, which must be within the payload limit.
    pub(crate) fn place(&mut self, payload: usize) -> Placed {
        let len = record_len(payload) as u64;
        let mut placed = Placed {
            fill_from: None,
            header_at: None,
            at: self.next,
        };
        if self.size.offset_of(self.next) != 0 && len > self.space() {
            placed.fill_from = Some(self.next);
            self.next = self.next + self.space();
        }
        if self.size.offset_of(self.next) == 0 {
            placed.header_at = Some(self.next);
            self.next = self.next + SEGMENT_HEADER_RECORD_LEN;
        }
        placed.at = self.next;
        self.next = self.next + len;
        placed
    }
}

/// Bytes at the end of a segment that are too few for a record, and zero.
pub(crate) const REST_MAX: u64 = RECORD_HEADER_LEN as u64 - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_of_a_segment_header() {
        let header = SegmentHeader {
            segment_size: 16 << 20,
            system_id: 0x1122_3344_5566_7788,
            timeline: Timeline {
                number: 3,
                id: Uuid::from_u128(0xABCD),
            },
            segment_id: 5,
            start_lsn: Lsn::new(0x500_0000),
            created_at: 1_700_000_000_000_000,
            previous_crc: 0xDEAD_BEEF,
        };
        let bytes = header.encode();
        let hex = bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        assert_eq!(
            hex,
            concat!(
                "4d41494e53544159",
                "01000000",
                "00000001",
                "8877665544332211",
                "03000000",
                "00000000",
                "0000000000000000000000000000abcd",
                "0500000000000000",
                "0000000500000000",
                "00401e18240a0600",
                "efbeadde",
                "00000000"
            )
        );
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        let mut newer = bytes;
        newer[8] = 9;
        assert_eq!(SegmentHeader::decode(&newer), Err(9));
        assert_eq!(SegmentHeader::decode(&bytes[1..]), Err(0));
    }

    #[test]
    fn file_names_are_postgresql_s_and_parse_back() {
        for size in [
            SegmentSize::MIN,
            SegmentSize::DEFAULT,
            SegmentSize::new(1 << 30).unwrap(),
        ] {
            for number in [1, 3, 4, 255, 256, 4096, 1 << 33] {
                let name = segment_file_name(7, number, size);
                assert_eq!(
                    parse_segment_file_name(&name, size),
                    Some((7, number)),
                    "{name}"
                );
            }
        }
        for bad in [
            "",
            "00000001",
            "00000001000000000000000g",
            "000000010000000000000100",
        ] {
            assert_eq!(
                parse_segment_file_name(bad, SegmentSize::DEFAULT),
                None,
                "{bad}"
            );
        }
    }

    #[test]
    fn records_never_cross_a_segment() {
        let size = SegmentSize::MIN;
        let mut cursor = Cursor {
            next: size.first_lsn(),
            size,
        };
        let first = cursor.place(100);
        assert_eq!(first.header_at, Some(size.first_lsn()));
        assert_eq!(first.at, size.first_lsn() + SEGMENT_HEADER_RECORD_LEN);
        for payload in (0..3000).cycle().step_by(7).take(2000) {
            let placed = cursor.place(payload);
            let end = placed.at + record_len(payload) as u64;
            assert_eq!(
                size.segment_of(placed.at),
                size.segment_of(Lsn::new(end.get() - 1))
            );
            assert_eq!(cursor.next, end);
            assert!(placed.fill_from.is_none() || placed.header_at.is_some());
        }
        let largest = size.payload_max();
        let placed = cursor.place(largest);
        assert_eq!(
            size.segment_of(placed.at),
            size.segment_of(Lsn::new(cursor.next.get() - 1))
        );
    }

    fn any_timeline() -> impl Strategy<Value = Timeline> {
        (any::<u32>(), any::<u128>()).prop_map(|(number, id)| Timeline {
            number,
            id: Uuid::from_u128(id),
        })
    }

    proptest! {
        #[test]
        fn every_segment_header_round_trips(
            (segment_size, system_id, segment_id) in any::<(u32, u64, u64)>(),
            timeline in any_timeline(),
            (start, created_at, previous_crc) in any::<(u64, i64, u32)>(),
        ) {
            let header = SegmentHeader {
                segment_size,
                system_id,
                timeline,
                segment_id,
                start_lsn: Lsn::new(start),
                created_at,
                previous_crc,
            };
            let bytes = header.encode();
            prop_assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
            let longer = [&bytes[..], &[0]].concat();
            for len in (0..bytes.len()).chain([longer.len()]) {
                prop_assert_eq!(SegmentHeader::decode(&longer[..len]), Err(0));
            }
        }

        #[test]
        fn every_description_of_a_segment_round_trips(
            (segment_id, start, end) in any::<(u64, u64, u64)>(),
            (size, checksum, created_at) in any::<(u64, u32, i64)>(),
        ) {
            let segment = WalSegment {
                segment_id,
                start_lsn: Lsn::new(start),
                end_lsn: Lsn::new(end),
                size,
                checksum,
                created_at,
            };
            let mut bytes = segment.encode();
            prop_assert_eq!(WalSegment::decode(&bytes).unwrap(), segment);
            for len in 0..bytes.len() {
                prop_assert!(WalSegment::decode(&bytes[..len]).is_err());
            }
            bytes.push(0);
            prop_assert!(WalSegment::decode(&bytes).is_err());
        }

        #[test]
        fn every_name_of_a_segment_is_read_back(timeline: u32, at: u64, shift in 20u32..31) {
            let size = SegmentSize::new(1 << shift).unwrap();
            let number = size.segment_of(Lsn::new(at));
            let name = segment_file_name(timeline, number, size);
            prop_assert_eq!(parse_segment_file_name(&name, size), Some((timeline, number)));
        }
    }
}
