//! What stands for the rows of a range: how many, how large, and a strong digest of all of them.
//!
//! The form is part of the native protocol: SHA-256 over each row's key and value, each behind its
//! length as eight little-endian bytes, so that no two runs of rows read the same.

use sha2::{Digest as _, Sha256};

use super::Grain;

/// The rows of a range.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Digest {
    /// How many.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// SHA-256 of them.
    pub hash: [u8; 32],
}

/// Gathers rows into one digest after another.
#[derive(Debug, Clone, Default)]
pub struct Cutter {
    hash: Sha256,
    rows: u64,
    bytes: u64,
}

impl Cutter {
    /// One with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next row.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        for bytes in [key, value] {
            self.hash.update((bytes.len() as u64).to_le_bytes());
            self.hash.update(bytes);
            self.bytes += bytes.len() as u64;
        }
        self.rows += 1;
    }

    /// Whether a part of `grain` ends here.
    pub fn is_full(&self, grain: Grain) -> bool {
        self.rows >= grain.rows() || self.bytes >= grain.bytes()
    }

    /// Whether it holds no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// What it holds; nothing afterwards.
    pub fn cut(&mut self) -> Digest {
        let whole = std::mem::take(self);
        Digest {
            rows: whole.rows,
            bytes: whole.bytes,
            hash: whole.hash.finalize().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(rows: &[(&str, &str)]) -> String {
        let mut cutter = Cutter::new();
        for (key, value) in rows {
            cutter.push(key.as_bytes(), value.as_bytes());
        }
        let digest = cutter.cut();
        assert_eq!(digest.rows, rows.len() as u64);
        assert!(cutter.is_empty());
        digest
            .hash
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    #[test]
    fn the_digest_of_given_rows_never_changes() {
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(&[]), nothing);
        let one = "460dda3acaaa5c2e68fdb432acf33834aee528fe1f2b985d93cc52ed7d180cae";
        assert_eq!(hex(&[("k", "v")]), one);
    }

    #[test]
    fn a_range_ends_with_the_row_that_fills_it_by_count_or_by_bytes() {
        for (grain, rows, bytes) in [
            (Grain::Coarse, 16_384, 4 << 20),
            (Grain::Fine, 256, 256 << 10),
        ] {
            let mut small = Cutter::new();
            for _ in 1..rows {
                small.push(b"k", b"v");
                assert!(!small.is_full(grain) && !small.is_empty(), "{grain:?}");
            }
            small.push(b"k", b"v");
            assert!(small.is_full(grain), "{grain:?}");
            let mut large = Cutter::new();
            large.push(b"k", &vec![0; bytes - 2]);
            assert!(!large.is_full(grain), "{grain:?}");
            large.push(b"", b"v");
            assert!(large.is_full(grain), "{grain:?}");
        }
        let mut row = Cutter::new();
        assert!(!row.is_full(Grain::Row));
        row.push(b"k", b"");
        assert!(row.is_full(Grain::Row));
    }

    #[test]
    fn where_a_key_ends_counts() {
        assert_ne!(hex(&[("ab", "c")]), hex(&[("a", "bc")]));
        assert_ne!(
            hex(&[("a", "b"), ("c", "d")]),
            hex(&[("a", "b\u{1}c\u{1}d")])
        );
        assert_ne!(hex(&[("a", "")]), hex(&[]));
    }
}
