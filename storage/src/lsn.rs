//! Positions in the log.
//!
//! An [`Lsn`] is a byte address in one contiguous log; a difference of two is a number of bytes,
//! so lag needs no unit conversion. A [`SegmentSize`] cuts that address space into files. This
//! room knows arithmetic only: no bytes, no files.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

/// A byte address in the log, printed as PostgreSQL prints it: `0/16B3748`.
///
/// `Lsn - Lsn` is a `u64` of bytes and `Lsn + u64` is an `Lsn`; two positions cannot be added.
///
/// ```
/// use mainstay_storage::Lsn;
/// let lsn: Lsn = "0/16B3748".parse().unwrap();
/// assert_eq!(lsn.get(), 0x16B_3748);
/// assert_eq!((lsn + 8) - lsn, 8);
/// assert_eq!(lsn.to_string(), "0/16B3748");
/// ```
#[derive(
    Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Default, bincode::Encode, bincode::Decode,
)]
pub struct Lsn(u64);

impl Lsn {
    /// Zero: no position. In an entry handed to the log it means "assign one".
    pub const ZERO: Lsn = Lsn(0);
    /// The highest address that can be written down.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The position `bytes` bytes from the start of the address space.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The address in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is [`Lsn::ZERO`].
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// This position moved by `bytes`, or `None` past the end of the address space.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// Bytes from `earlier` to this position; zero when `earlier` is not earlier.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether a record may start here: records are 8-aligned.
    pub const fn is_aligned(self) -> bool {
        self.0.is_multiple_of(8)
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;

    /// # Panics
    /// When the sum leaves the address space, which no log that fits on a disk reaches; positions
    /// from a peer are added with [`Lsn::checked_add`].
    fn add(self, bytes: u64) -> Lsn {
        Lsn(self
            .0
            .checked_add(bytes)
            .expect("LSN address space exhausted"))
    }
}

impl Sub for Lsn {
    type Output = u64;

    /// # Panics
    /// When `earlier` is later; use [`Lsn::bytes_since`] where that can happen.
    fn sub(self, earlier: Lsn) -> u64 {
        self.0
            .checked_sub(earlier.0)
            .expect("subtracted a later LSN from an earlier one")
    }
}

impl From<u64> for Lsn {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<Lsn> for u64 {
    fn from(lsn: Lsn) -> Self {
        lsn.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an LSN; one looks like 0/16B3748 (two hexadecimal numbers of up to 32 bits)")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |part: &str| {
            let plain = !part.is_empty() && part.len() <= 8;
            let hex = plain && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let lsn = text
            .split_once('/')
            .and_then(|(high, low)| Some(parse(high)? << 32 | parse(low)?));
        lsn.map(Lsn)
            .ok_or_else(|| ParseLsnError(text.chars().take(64).collect()))
    }
}

/// Size of every segment file of one log: a power of two from 1 MiB to 1 GiB.
#[derive(Debug, Copy, Clone, Eq, PartialEq)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// 16 MiB, PostgreSQL's default and ours.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);
    /// The smallest allowed size, 1 MiB.
    pub const MIN: SegmentSize = SegmentSize(1 << 20);

    /// A segment size of `bytes`, or `None` unless it is a power of two from 1 MiB to 1 GiB.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// Size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// Number of the segment that holds the byte at `lsn`.
    pub const fn segment_of(self, lsn: Lsn) -> u64 {
        lsn.0 / self.bytes()
    }

    /// First position of segment `number`.
    pub const fn start_of(self, number: u64) -> Lsn {
        Lsn(number * self.bytes())
    }

    /// Offset of `lsn` in the file of its segment, in bytes.
    pub const fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.0 % self.bytes()
    }

    /// The first usable position of a log: segment 0 stays unused, because stock PostgreSQL tools
    /// take LSN 0 for "none" and cannot see files of segment 0.
    pub const fn first_lsn(self) -> Lsn {
        Lsn(self.bytes())
    }

    /// Largest payload of one record: a quarter of the segment.
    pub const fn payload_max(self) -> usize {
        self.0 as usize / 4
    }
}

impl Default for SegmentSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_nonsense() {
        for value in [0, 1, 0x16B_3748, u64::MAX, 0x1_0000_0000] {
            assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }
        for bad in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "g/0",
            "0/0/0",
            "+1/0",
            "123456789/0",
            "0/-1",
            " 0/0",
        ] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn segments_partition_the_address_space() {
        let size = SegmentSize::DEFAULT;
        let lsn = Lsn(0x0300_0010);
        assert_eq!(size.segment_of(lsn), 3);
        assert_eq!(size.offset_of(lsn), 0x10);
        assert_eq!(size.start_of(3) + size.offset_of(lsn), lsn);
        assert_eq!(size.first_lsn(), Lsn(0x0100_0000));
        assert!(SegmentSize::new(3 << 20).is_none());
        assert!(SegmentSize::new(512 << 10).is_none());
        assert!(SegmentSize::new(1 << 31).is_none());
    }

    proptest::proptest! {
        #[test]
        fn every_position_is_read_back(value: u64) {
            let text = Lsn(value).to_string();
            proptest::prop_assert_eq!(text.parse(), Ok(Lsn(value)));
            for more in ["x", "/", " ", "\n", "/0"] {
                let longer = format!("{text}{more}");
                proptest::prop_assert!(longer.parse::<Lsn>().is_err());
            }
        }

        #[test]
        fn any_text_is_a_position_or_refused(text in "[0-9A-Fa-f]{0,9}/?[0-9A-Fa-f/+-]{0,9}|\\PC{0,9}") {
            if let Ok(lsn) = text.parse::<Lsn>() {
                proptest::prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
            }
        }
    }
}
