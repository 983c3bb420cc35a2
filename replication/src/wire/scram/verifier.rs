//! What a server keeps instead of a password.
//!
//! The text form is PostgreSQL's, so verifiers can be carried over:
//! `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the last three in base64.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{
    Hash, SALT_BYTES, SCRAM_SHA_256, client_key, decode_hash, hmac, salted_password, server_key,
    sha256,
};

/// Fewest iterations of a new verifier.
pub const ITERATIONS_MIN: u32 = 4096;
/// Iterations of a new verifier, unless chosen otherwise; some clients compute no more than
/// 100,000.
pub const ITERATIONS_DEFAULT: u32 = 16_384;
/// Longest salt taken from a text, in bytes.
const SALT_MAX: usize = 128;

/// Proof that a client knows a password, without the password.
///
/// Never shown by `Debug`; [`to_text`](Self::to_text) is for the file it is kept in.
#[derive(Clone)]
pub struct Verifier {
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Hash,
    pub(super) server_key: Hash,
    /// False for a mock: the exchange runs and fails at its end.
    pub(super) real: bool,
}

impl Verifier {
    /// The verifier of `password`; costs `iterations` hashes. Raises `iterations` to
    /// [`ITERATIONS_MIN`] if they are fewer.
    pub fn from_password(password: &str, salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.max(ITERATIONS_MIN);
        let salted = salted_password(password, salt, iterations);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&client_key(&salted)),
            server_key: server_key(&salted),
            real: true,
        }
    }

    /// A verifier for a user that does not exist: the same at every attempt, so that strangers
    /// cannot tell, and never satisfied. `secret` belongs to the cluster and stays in it.
    pub fn mock(user: &str, secret: &[u8]) -> Self {
        let part = |label: &[u8]| hmac(secret, &[label, user.as_bytes()]);
        Self {
            iterations: ITERATIONS_DEFAULT,
            salt: part(b"salt")[..SALT_BYTES].to_vec(),
            stored_key: part(b"StoredKey"),
            server_key: part(b"ServerKey"),
            real: false,
        }
    }

    /// The text to keep.
    pub fn to_text(&self) -> String {
        let iterations = self.iterations;
        let salt = STANDARD.encode(&self.salt);
        let stored = STANDARD.encode(self.stored_key);
        let server = STANDARD.encode(self.server_key);
        format!("{SCRAM_SHA_256}${iterations}:{salt}${stored}:{server}")
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// A text that is not a verifier. The text itself is a secret and not repeated.
#[derive(Debug, Copy, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a SCRAM verifier; one looks like SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey, \
     with base64 for the last three"
)]
pub struct ParseVerifierError;

impl FromStr for Verifier {
    type Err = ParseVerifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or(ParseVerifierError)
    }
}

fn parse(text: &str) -> Option<Verifier> {
    let rest = text.strip_prefix(SCRAM_SHA_256)?.strip_prefix('$')?;
    let (cost, keys) = rest.split_once('$')?;
    let (iterations, salt) = cost.split_once(':')?;
    let (stored, server) = keys.split_once(':')?;
    let digits = !iterations.is_empty() && iterations.bytes().all(|b| b.is_ascii_digit());
    let iterations = digits.then(|| iterations.parse().ok()).flatten()?;
    let salt = STANDARD.decode(salt).ok()?;
    if iterations == 0 || salt.is_empty() || salt.len() > SALT_MAX {
        return None;
    }
    Some(Verifier {
        iterations,
        salt,
        stored_key: decode_hash(stored)?,
        server_key: decode_hash(server)?,
        real: true,
    })
}
