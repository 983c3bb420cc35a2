//! Bytes that must not end up in a log.
//!
//! A [`Secret`] prints as its length and compares in constant time. It knows nothing about what
//! the bytes are for.

use std::fmt;

use bytes::Bytes;
use subtle::ConstantTimeEq;

/// Bytes of a password, a proof or a cancel key: shown by length only, compared in constant time.
#[derive(Clone, Eq)]
pub struct Secret(Bytes);

impl Secret {
    /// Wraps `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &Bytes {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_length_and_nothing_else() {
        let secret = Secret::new(&b"pencil"[..]);
        assert_eq!(format!("{secret:?}"), "Secret(6 bytes)");
        assert_eq!(secret, Secret::new(&b"pencil"[..]));
        assert_ne!(secret, Secret::new(&b"pencils"[..]));
    }
}
