//! SCRAM-SHA-256: proving a password without sending it.
//!
//! Two pure machines, one for each side of a connection, after RFC 5802 and 7677 as PostgreSQL
//! speaks them: empty user name in the exchange, `tls-server-end-point` as the only channel
//! binding and only over TLS, the same refusal for a wrong password and for an unknown user. Each
//! step consumes the machine and returns the next, so steps cannot be left out or repeated.
//! Nonces come in as arguments. A server keeps [`Verifier`]s, which are not passwords but still
//! secrets; nothing here shows one in a log.

mod client;
mod server;
mod verifier;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use client::{ScramClient, ScramClientAnswered};
pub use server::{ScramServer, ScramServerChallenged};
pub use verifier::{ITERATIONS_DEFAULT, ITERATIONS_MIN, ParseVerifierError, Verifier};

use crate::wire::WireError;

/// The mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding, offered and chosen only over TLS.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// Length of the random bytes behind a nonce, as PostgreSQL has it.
pub const NONCE_BYTES: usize = 18;
/// Length of a fresh salt, as PostgreSQL has it.
pub const SALT_BYTES: usize = 16;
/// Most iterations a client computes for a server it does not trust yet.
pub const CLIENT_ITERATIONS_MAX: u32 = 100_000;

const MESSAGE: &str = "SCRAM message";

type Hash = [u8; 32];

/// The hash of the server's certificate that binds an exchange to its TLS session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelBinding(Vec<u8>);

impl ChannelBinding {
    /// `tls-server-end-point`: the hash of the server's certificate, made with the hash function
    /// of its signature, SHA-256 in place of MD5 and SHA-1.
    pub fn tls_server_end_point(certificate_hash: Vec<u8>) -> Self {
        Self(certificate_hash)
    }
}

/// The mechanisms a server offers, best first.
pub fn mechanisms(over_tls: bool) -> Vec<String> {
    let plus = over_tls.then(|| SCRAM_SHA_256_PLUS.to_owned());
    plus.into_iter().chain([SCRAM_SHA_256.to_owned()]).collect()
}

/// A nonce of the exchange from random bytes.
pub fn nonce(random: [u8; NONCE_BYTES]) -> String {
    STANDARD.encode(random)
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Hash {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

fn xor(a: &Hash, b: &Hash) -> Hash {
    let mut out = *a;
    out.iter_mut().zip(b).for_each(|(out, b)| *out ^= b);
    out
}

/// PBKDF2 with HMAC-SHA-256 and one block: costs `iterations` times two hashes.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Hash {
    let prepared = stringprep::saslprep(password);
    let prepared = prepared.as_deref().unwrap_or(password).as_bytes();
    let keyed = Hmac::<Sha256>::new_from_slice(prepared).expect("HMAC takes keys of any length");
    let mut last: Hash = {
        let mut mac = keyed.clone();
        mac.update(salt);
        mac.update(&1u32.to_be_bytes());
        mac.finalize().into_bytes().into()
    };
    let mut sum = last;
    for _ in 1..iterations {
        let mut mac = keyed.clone();
        mac.update(&last);
        last = mac.finalize().into_bytes().into();
        sum = xor(&sum, &last);
    }
    sum
}

fn client_key(salted_password: &Hash) -> Hash {
    hmac(salted_password, &[b"Client Key"])
}

fn server_key(salted_password: &Hash) -> Hash {
    hmac(salted_password, &[b"Server Key"])
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

fn decode_hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// The value of the attribute `letter` at the start of `message`, and what follows its comma.
fn attribute<'a>(message: &'a str, letter: &str) -> Result<(&'a str, &'a str), WireError> {
    let (first, rest) = message.split_once(',').unwrap_or((message, ""));
    let value = first.strip_prefix(letter);
    let value = value.and_then(|value| value.strip_prefix('='));
    let value = value.ok_or_else(|| malformed("an attribute is missing or out of order"))?;
    Ok((value, rest))
}

/// Whether a nonce has only the characters it may have.
fn is_nonce(nonce: &str) -> bool {
    let printable = |byte: u8| (0x21..=0x7E).contains(&byte) && byte != b',';
    !nonce.is_empty() && nonce.bytes().all(printable)
}

fn utf8(message: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(message).map_err(|_| malformed("it is not UTF-8"))
}

fn malformed(reason: &'static str) -> WireError {
    WireError::malformed(MESSAGE, reason)
}

#[cfg(test)]
mod tests;
