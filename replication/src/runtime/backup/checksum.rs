//! Checksums of the files in a manifest.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use crate::wire::command::ChecksumAlgorithm;

/// A checksum that is being computed.
#[derive(Debug, Clone)]
pub(crate) enum Checksum {
    None,
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Checksum {
    pub(crate) fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::None => Self::None,
            ChecksumAlgorithm::Crc32c => Self::Crc32c(0),
            ChecksumAlgorithm::Sha224 => Self::Sha224(Sha224::new()),
            ChecksumAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            ChecksumAlgorithm::Sha384 => Self::Sha384(Sha384::new()),
            ChecksumAlgorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::None => {}
            Self::Crc32c(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Self::Sha224(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digits that stand in a manifest; none without an algorithm.
    pub(crate) fn finish(self) -> Option<String> {
        Some(match self {
            Self::None => return None,
            // The bytes of the number as they lie in memory on a little-endian machine.
            Self::Crc32c(crc) => hex(&crc.to_le_bytes()),
            Self::Sha224(hash) => hex(&hash.finalize()),
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Sha384(hash) => hex(&hash.finalize()),
            Self::Sha512(hash) => hex(&hash.finalize()),
        })
    }
}

/// Two lower-case digits a byte.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_algorithm_gives_its_published_check_value() {
        let of = |algorithm, text: &[u8]| {
            let mut checksum = Checksum::new(algorithm);
            for bytes in text.chunks(2) {
                checksum.update(bytes);
            }
            checksum.finish()
        };
        let crc = of(ChecksumAlgorithm::Crc32c, b"123456789").unwrap();
        assert_eq!(crc, hex(&0xE306_9283_u32.to_le_bytes()));
        let sha = of(ChecksumAlgorithm::Sha256, b"abc").unwrap();
        assert!(sha.starts_with("ba7816bf8f01cfea") && sha.len() == 64);
        for (algorithm, digits) in [
            (ChecksumAlgorithm::Sha224, 56),
            (ChecksumAlgorithm::Sha384, 96),
            (ChecksumAlgorithm::Sha512, 128),
        ] {
            assert_eq!(of(algorithm, b"x").unwrap().len(), digits);
        }
        assert_eq!(of(ChecksumAlgorithm::None, b"x"), None);
    }
}
