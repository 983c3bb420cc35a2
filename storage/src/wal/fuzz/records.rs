//! Single records, and what describes a segment.

use uuid::Uuid;

use super::{SIZE, valid_record};
use crate::fuzz::Input;
use crate::lsn::{Lsn, SegmentSize};
use crate::timeline::{Timeline, history_file_name};
use crate::wal::record::{Invalid, PayloadCrc, Place, RECORD_HEADER_LEN, parse, seal};
use crate::wal::segment::{
    SEGMENT_HEADER_LEN, SegmentHeader, WalSegment, parse_segment_file_name, segment_file_name,
};

/// Bytes that may be a record.
pub(crate) fn record(data: &[u8]) {
    let mut input = Input::new(data);
    let timeline = Timeline {
        number: 1 + u32::from(input.byte()),
        id: Uuid::from_u128(7),
    };
    let place = Place {
        system_id: 42,
        timeline,
        lsn: Lsn::new(SIZE.bytes() + 8 * u64::from(input.u16())),
    };
    let previous = input.flag().then(|| input.u32());
    let space = match input.flag() {
        true => 1 << 14,
        false => u64::from(input.u16()),
    };
    let mut bytes = input.rest().to_vec();
    // Nobody guesses a checksum, and everything behind it would stay hidden.
    if let Err(Invalid::Crc { expected, .. }) = parse(&bytes, space, &place, previous) {
        bytes[4..8].copy_from_slice(&expected.to_le_bytes());
    }
    let parsed = match parse(&bytes, space, &place, previous) {
        Ok(parsed) => parsed,
        Err(why) => {
            if why == Invalid::Short {
                bytes.resize(RECORD_HEADER_LEN + (1 << 16), 0);
                let longer = parse(&bytes, space, &place, previous);
                assert_ne!(longer, Err(Invalid::Short), "more bytes decide nothing");
            } else if !matches!(why, Invalid::Chain { .. } | Invalid::Length(_)) {
                assert_eq!(valid_record(&bytes, &place), None, "refused: {why}");
            }
            return;
        }
    };
    assert_eq!(
        valid_record(&bytes, &place),
        Some((parsed.len(), parsed.crc)),
        "taken"
    );
    assert!(parsed.len() as u64 <= space && parsed.len() <= bytes.len());
    let payload = &bytes[RECORD_HEADER_LEN..][..parsed.payload_len];
    let sealed = seal(
        &place,
        parsed.prev_crc,
        &parsed.head,
        payload,
        &PayloadCrc::of(payload),
    );
    assert_eq!(sealed.0[..], bytes[..RECORD_HEADER_LEN], "sealed again");
    assert_eq!(sealed.1, parsed.crc);
    let lsn = place.lsn + 8;
    let elsewhere = parse(&bytes, space, &Place { lsn, ..place }, previous);
    assert!(matches!(elsewhere, Err(Invalid::Crc { .. })), "misplaced");
}

/// A segment's header, its description for others, and names of files.
pub(crate) fn segment(data: &[u8]) {
    if let Ok(header) = SegmentHeader::decode(data) {
        let encoded = header.encode();
        assert_eq!(SegmentHeader::decode(&encoded), Ok(header));
        let reserved = |at: &usize| (28..32).contains(at) || (76..SEGMENT_HEADER_LEN).contains(at);
        let same = (0..SEGMENT_HEADER_LEN).filter(|at| !reserved(at));
        assert!(same.into_iter().all(|at| encoded[at] == data[at]));
    }
    if let Ok(segment) = WalSegment::decode(data) {
        let encoded = segment.encode();
        assert_eq!(WalSegment::decode(&encoded).ok(), Some(segment));
        assert!(encoded.len() <= data.len());
    }
    let mut input = Input::new(data);
    let shift = u32::from(input.byte() % 11);
    let size = SegmentSize::new(1 << (20 + shift)).expect("from 1 MiB to 1 GiB");
    let Ok(text) = std::str::from_utf8(input.rest()) else {
        return;
    };
    if let Some((timeline, number)) = parse_segment_file_name(text, size) {
        assert_eq!(segment_file_name(timeline, number, size), text);
        assert_eq!(size.segment_of(size.start_of(number)), number);
        assert_eq!(history_file_name(timeline)[..8], text[..8]);
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
        assert_eq!(
            size.start_of(size.segment_of(lsn)) + size.offset_of(lsn),
            lsn
        );
    }
}
