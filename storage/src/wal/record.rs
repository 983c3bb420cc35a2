//! One record of the log: its bytes, and what makes them valid.
//!
//! ```text
//! offset  0        4        8        12   13    14    16         24            32
//!         +--------+--------+--------+----+-----+-----+----------+-------------+---------+-----+
//!         | length | crc    | prev   |type|flags| 0   | tx id    | flushed     | payload | pad |
//!         | u32    | u32    | crc u32| u8 | u8  | u16 | u64      | upto u64    | length  | 0-7 |
//!         +--------+--------+--------+----+-----+-----+----------+-------------+---------+-----+
//! ```
//!
//! All integers are little-endian. `length` counts the payload only; records start at multiples of
//! eight, the padding between is zero and checked. The CRC-32 (IEEE) covers, in this order, the
//! cluster's system id, the number and id of the timeline that owns the record's LSN, the LSN, the
//! header without the CRC itself, and the payload. So bytes that were misplaced, recycled or taken
//! from another cluster or timeline never pass, and neither do zeros: type 0 does not exist.
//! `prev` is the CRC of the record before, which chains the log. `flushed_upto` is how far the
//! writer of the record had flushed when it sealed it.

use bytes::Bytes;
use crc32fast::Hasher;

use crate::entry::WalEntryType;
use crate::lsn::Lsn;
use crate::timeline::Timeline;

/// Size of a record's header in bytes.
pub const RECORD_HEADER_LEN: usize = 32;

/// Size in the log of a record with `payload` bytes of payload: header, payload, padding.
pub const fn record_len(payload: usize) -> usize {
    (RECORD_HEADER_LEN + payload).next_multiple_of(8)
}

/// What a record's CRC covers besides its own bytes: whose log, and where in it.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The cluster.
    pub system_id: u64,
    /// The timeline that owns the position by history.
    pub timeline: Timeline,
    /// Where the record starts.
    pub lsn: Lsn,
}

/// The fields of a record's header, without length and checksums.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct RecordHead {
    /// What the record says.
    pub entry_type: WalEntryType,
    /// Reserved for the entry type's use; 0 today.
    pub flags: u8,
    /// The transaction, 0 for none.
    pub tx_id: u64,
    /// How far its writer had flushed when it sealed the record.
    pub flushed_upto: Lsn,
}

/// CRC-32 of a payload, to be folded into the record's CRC without reading the payload again.
#[derive(Debug, Clone)]
pub(crate) struct PayloadCrc {
    /// `None` for a short payload: joining two checksums takes longer than going over it.
    hasher: Option<Hasher>,
}

/// Payload from which on its checksum is computed before its place is known, in bytes.
const COMPUTED_MIN: usize = 16 << 10;

impl PayloadCrc {
    /// Computes the checksum of `payload`, if that pays.
    pub(crate) fn of(payload: &[u8]) -> Self {
        let computed = || {
            let mut hasher = Hasher::new();
            hasher.update(payload);
            hasher
        };
        let hasher = (payload.len() >= COMPUTED_MIN).then(computed);
        Self { hasher }
    }

    /// The checksum itself, of the `payload` that this was made of.
    pub(crate) fn value(&self, payload: &[u8]) -> u32 {
        match &self.hasher {
            Some(hasher) => hasher.clone().finalize(),
            None => crc32fast::hash(payload),
        }
    }
}

/// Makes the header of a record: its 32 bytes, and the record's CRC for the next one's `prev`.
///
/// # Panics
/// When the payload is longer than `u32::MAX`, which the payload limit excludes.
pub(crate) fn seal(
    place: &Place,
    prev_crc: u32,
    head: &RecordHead,
    payload: &[u8],
    crc: &PayloadCrc,
) -> ([u8; RECORD_HEADER_LEN], u32) {
    let mut bytes = [0; RECORD_HEADER_LEN];
    let length = u32::try_from(payload.len()).expect("payload is over 4 GiB");
    bytes[0..4].copy_from_slice(&length.to_le_bytes());
    bytes[8..12].copy_from_slice(&prev_crc.to_le_bytes());
    bytes[12] = head.entry_type.number();
    bytes[13] = head.flags;
    bytes[16..24].copy_from_slice(&head.tx_id.to_le_bytes());
    bytes[24..32].copy_from_slice(&head.flushed_upto.get().to_le_bytes());
    let mut hasher = place_hasher(place, &bytes);
    match &crc.hasher {
        Some(computed) => hasher.combine(computed),
        None => hasher.update(payload),
    }
    let crc = hasher.finalize();
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    (bytes, crc)
}

/// A record that was read and found valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it starts.
    pub lsn: Lsn,
    /// Where the next byte after it and its padding lies.
    pub end: Lsn,
    /// Its header's fields.
    pub head: RecordHead,
    /// Its own CRC.
    pub crc: u32,
    /// The CRC of the record before it.
    pub prev_crc: u32,
    /// Its payload.
    pub payload: Bytes,
}

/// Why bytes are not a valid record at a place.
#[derive(Debug, Copy, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// The header is all zeros: nothing was written here.
    #[error("nothing is written there")]
    Empty,
    /// The bytes end before the record does.
    #[error("the record is cut short")]
    Short,
    /// The length exceeds what a record may have here.
    #[error("its length of {0} bytes is impossible there")]
    Length(u32),
    /// The type is not one this version knows.
    #[error("its type {0} is unknown")]
    Type(u8),
    /// The checksum disagrees.
    #[error("CRC {found:08x}, expected {expected:08x}")]
    Crc {
        /// In the header.
        found: u32,
        /// Computed over the bytes.
        expected: u32,
    },
    /// It does not follow the record before it.
    #[error("it follows a record with CRC {found:08x}, but the one before it has {expected:08x}")]
    Chain {
        /// In the header.
        found: u32,
        /// Of the record before.
        expected: u32,
    },
    /// Padding or reserved bytes are not zero.
    #[error("its padding is not zero")]
    Padding,
}

/// A record's bounds and header, parsed from bytes that begin with it; the payload is
/// `bytes[RECORD_HEADER_LEN..][..payload_len]`.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) head: RecordHead,
    pub(crate) crc: u32,
    pub(crate) prev_crc: u32,
    pub(crate) payload_len: usize,
}

impl Parsed {
    pub(crate) const fn len(&self) -> usize {
        record_len(self.payload_len)
    }
}

/// Reads the record that `bytes` begin with, of which at most `space` bytes may belong to it (what
/// is left of the segment), and checks everything but its payload limit.
///
/// # Errors
/// [`Invalid::Short`] when more bytes could complete it, anything else when none could.
pub(crate) fn parse(
    bytes: &[u8],
    space: u64,
    place: &Place,
    prev_crc: Option<u32>,
) -> Result<Parsed, Invalid> {
    let (header, rest) = bytes
        .split_first_chunk::<RECORD_HEADER_LEN>()
        .ok_or(Invalid::Short)?;
    if header == &[0; RECORD_HEADER_LEN] {
        return Err(Invalid::Empty);
    }
    let entry_type = WalEntryType::from_number(header[12]).ok_or(Invalid::Type(header[12]))?;
    let length = u32_at(header, 0);
    let payload_len = length as usize;
    if record_len(payload_len) as u64 > space {
        return Err(Invalid::Length(length));
    }
    if header[14] != 0 || header[15] != 0 {
        return Err(Invalid::Padding);
    }
    let padded = rest
        .get(..record_len(payload_len) - RECORD_HEADER_LEN)
        .ok_or(Invalid::Short)?;
    let (payload, padding) = padded.split_at(payload_len);
    let found = u32_at(header, 4);
    let mut hasher = place_hasher(place, header);
    hasher.update(payload);
    let expected = hasher.finalize();
    if found != expected {
        return Err(Invalid::Crc { found, expected });
    }
    if padding.iter().any(|&byte| byte != 0) {
        return Err(Invalid::Padding);
    }
    let chained = u32_at(header, 8);
    if let Some(expected) = prev_crc.filter(|&prev| prev != chained) {
        return Err(Invalid::Chain {
            found: chained,
            expected,
        });
    }
    let tx_id = u64_at(header, 16);
    let flushed_upto = Lsn::new(u64_at(header, 24));
    let head = RecordHead {
        entry_type,
        flags: header[13],
        tx_id,
        flushed_upto,
    };
    Ok(Parsed {
        head,
        crc: found,
        prev_crc: chained,
        payload_len,
    })
}

/// The hasher fed with everything a record's CRC covers before its payload.
fn place_hasher(place: &Place, header: &[u8; RECORD_HEADER_LEN]) -> Hasher {
    let mut covered = [0; 36 + RECORD_HEADER_LEN - 4];
    covered[0..8].copy_from_slice(&place.system_id.to_le_bytes());
    covered[8..12].copy_from_slice(&place.timeline.number.to_le_bytes());
    covered[12..28].copy_from_slice(place.timeline.id.as_bytes());
    covered[28..36].copy_from_slice(&place.lsn.get().to_le_bytes());
    covered[36..40].copy_from_slice(&header[0..4]);
    covered[40..64].copy_from_slice(&header[8..32]);
    let mut hasher = Hasher::new();
    hasher.update(&covered);
    hasher
}

fn u32_at(header: &[u8; RECORD_HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(header: &[u8; RECORD_HEADER_LEN], at: usize) -> u64 {
    u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn place(lsn: u64) -> Place {
        let timeline = Timeline {
            number: 1,
            id: Uuid::from_u128(0x0123_4567_89AB_CDEF),
        };
        Place {
            system_id: 0x1122_3344_5566_7788,
            timeline,
            lsn: Lsn::new(lsn),
        }
    }

    fn record(place: &Place, payload: &[u8]) -> Vec<u8> {
        let flushed_upto = Lsn::new(0x100_0000);
        let head = RecordHead {
            entry_type: WalEntryType::Insert,
            flags: 0,
            tx_id: 7,
            flushed_upto,
        };
        let (header, _) = seal(place, 0xAABB_CCDD, &head, payload, &PayloadCrc::of(payload));
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(payload);
        bytes.resize(record_len(payload.len()), 0);
        bytes
    }

    /// Pins the format: if this fails, old logs cannot be read any more.
    #[test]
    fn golden_bytes_of_a_record() {
        let bytes = record(&place(0x100_0070), b"hello");
        let hex = bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        assert_eq!(
            hex,
            concat!(
                "05000000",
                "e6135426",
                "ddccbbaa",
                "01",
                "00",
                "0000",
                "0700000000000000",
                "0000000100000000",
                "68656c6c6f",
                "000000"
            )
        );
    }

    #[test]
    fn a_sealed_record_parses_only_in_its_own_place() {
        let here = place(0x100_0070);
        let bytes = record(&here, b"hello");
        let parsed = parse(&bytes, 1 << 20, &here, Some(0xAABB_CCDD)).unwrap();
        assert_eq!(
            (parsed.payload_len, parsed.len(), parsed.head.tx_id),
            (5, 40, 7)
        );
        let fails = |place: Place| {
            matches!(
                parse(&bytes, 1 << 20, &place, None),
                Err(Invalid::Crc { .. })
            )
        };
        assert!(fails(place(0x100_0078)), "another position");
        assert!(
            fails(Place {
                system_id: 1,
                ..here
            }),
            "another cluster"
        );
        let other = Timeline {
            number: 1,
            id: Uuid::from_u128(5),
        };
        assert!(
            fails(Place {
                timeline: other,
                ..here
            }),
            "another timeline of the same number"
        );
        assert!(matches!(
            parse(&bytes, 1 << 20, &here, Some(1)),
            Err(Invalid::Chain { .. })
        ));
        assert_eq!(parse(&bytes, 39, &here, None), Err(Invalid::Length(5)));
        assert_eq!(
            parse(&bytes[..33], 1 << 20, &here, None),
            Err(Invalid::Short)
        );
        assert_eq!(parse(&[0; 64], 1 << 20, &here, None), Err(Invalid::Empty));
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            parse(&bytes, 1 << 20, &here, None)
        };
        assert_eq!(with(12, 200), Err(Invalid::Type(200)));
        // No checksum covers the padding, and the reserved bytes have their meaning one day.
        for at in [14, 15, 37, 39] {
            assert_eq!(with(at, 1), Err(Invalid::Padding), "byte {at}");
        }
    }

    #[test]
    fn a_record_is_the_same_whether_its_checksum_was_computed_before_or_not() {
        let here = place(0x100_0070);
        for len in [COMPUTED_MIN - 1, COMPUTED_MIN, COMPUTED_MIN + 1] {
            let payload = (0..len).map(|at| at as u8).collect::<Vec<_>>();
            let bytes = record(&here, &payload);
            let parsed = parse(&bytes, 1 << 20, &here, None).unwrap();
            assert_eq!(parsed.payload_len, len);
            let crc = PayloadCrc::of(&payload);
            assert_eq!(crc.hasher.is_some(), len >= COMPUTED_MIN);
            assert_eq!(crc.value(&payload), crc32fast::hash(&payload));
        }
    }

    #[test]
    fn every_single_bit_flip_is_seen() {
        let here = place(0x100_0070);
        let bytes = record(&here, b"hello");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped, 1 << 20, &here, None).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn every_record_parses_as_it_was_sealed(
            number in prop::sample::select(vec![1u8, 2, 3, 4, 5, 6, 7, 8, 9, 64, 65, 66, 67]),
            (flags, tx_id, flushed_upto, prev) in any::<(u8, u64, u64, u32)>(),
            at in 0u64..1 << 40,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let here = place(8 * at);
            let head = RecordHead {
                entry_type: WalEntryType::from_number(number).unwrap(),
                flags,
                tx_id,
                flushed_upto: Lsn::new(flushed_upto),
            };
            let (header, crc) = seal(&here, prev, &head, &payload, &PayloadCrc::of(&payload));
            let mut bytes = [&header[..], &payload].concat();
            bytes.resize(record_len(payload.len()), 0);
            let parsed = parse(&bytes, 1 << 20, &here, Some(prev)).unwrap();
            let read = (parsed.head, parsed.crc, parsed.prev_crc, parsed.payload_len);
            prop_assert_eq!(read, (head, crc, prev, payload.len()));
            // A record that is cut is never a shorter one, and needs nothing of what is behind it.
            for len in 0..bytes.len() {
                prop_assert!(parse(&bytes[..len], 1 << 20, &here, Some(prev)).is_err());
            }
            bytes.push(1);
            prop_assert_eq!(parse(&bytes, 1 << 20, &here, Some(prev)), Ok(parsed));
        }

        #[test]
        fn any_bytes_are_no_record(bytes in prop::collection::vec(any::<u8>(), 0..200), at: u32) {
            prop_assert!(parse(&bytes, 1 << 20, &place(8 * u64::from(at)), None).is_err());
        }
    }
}
