//! The server's side of an exchange.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Verifier, attribute, decode_hash, hmac,
    is_nonce, malformed, same, sha256, utf8, xor,
};
use crate::wire::{Result, WireError, sqlstate};

const BINDING_TYPE: &str = "tls-server-end-point";

/// A server that offered its mechanisms and waits for the client's first message.
pub struct ScramServer {
    user: String,
    verifier: Verifier,
    nonce: String,
    binding: Option<ChannelBinding>,
}

/// A server that sent its challenge and waits for the proof.
pub struct ScramServerChallenged {
    user: String,
    verifier: Verifier,
    /// Both nonces.
    nonce: String,
    /// The value of `c=` that belongs to the client's first message.
    binding: String,
    /// Both first messages, as they are signed.
    signed: String,
}

impl ScramServer {
    /// A server for `user`, named in the refusal. `verifier` is the user's, or
    /// [`Verifier::mock`] if there is none; `nonce` comes from [`nonce`](super::nonce) and is
    /// fresh; `binding` is there if and only if the connection is TLS, which is when
    /// [`SCRAM_SHA_256_PLUS`] was offered.
    pub fn new(
        user: &str,
        verifier: Verifier,
        nonce: String,
        binding: Option<ChannelBinding>,
    ) -> Self {
        Self {
            user: user.to_owned(),
            verifier,
            nonce,
            binding,
        }
    }

    /// Takes the client's choice of a mechanism and its first message, and returns the machine
    /// for its next message and the challenge to send.
    ///
    /// # Errors
    /// When the message is malformed, the mechanism was not offered, or somebody in between made
    /// the client believe that channel binding was not offered.
    pub fn challenge(
        self,
        mechanism: &str,
        first: &[u8],
    ) -> Result<(ScramServerChallenged, String)> {
        let plus = match (mechanism, &self.binding) {
            (SCRAM_SHA_256, _) => false,
            (SCRAM_SHA_256_PLUS, Some(_)) => true,
            _ => {
                let text = "client selected an invalid SASL authentication mechanism";
                return Err(WireError::Protocol(text.to_owned()));
            }
        };
        let first = utf8(first)?;
        let (flag, rest) = split(first)?;
        let (authzid, bare) = split(rest)?;
        let header = &first[..first.len() - bare.len()];
        self.check_flag(flag, plus)?;
        if !authzid.is_empty() {
            let text = "client uses authorization identity, but it is not supported";
            return Err(WireError::fatal(sqlstate::FEATURE_NOT_SUPPORTED, text));
        }
        let client_nonce = client_nonce(bare)?;
        let nonce = format!("{client_nonce}{}", self.nonce);
        let salt = STANDARD.encode(&self.verifier.salt);
        let challenge = format!("r={nonce},s={salt},i={}", self.verifier.iterations);
        let mut binding = header.as_bytes().to_vec();
        if let (true, Some(ChannelBinding(hash))) = (plus, &self.binding) {
            binding.extend_from_slice(hash);
        }
        let next = ScramServerChallenged {
            user: self.user,
            verifier: self.verifier,
            nonce,
            binding: STANDARD.encode(binding),
            signed: format!("{bare},{challenge}"),
        };
        Ok((next, challenge))
    }

    fn check_flag(&self, flag: &str, plus: bool) -> Result<()> {
        let downgraded = || {
            let text = "SCRAM channel binding negotiation error: the client supports channel \
                        binding but thinks the server does not";
            WireError::fatal(sqlstate::INVALID_AUTHORIZATION, text)
        };
        match (flag, plus) {
            ("n", false) => Ok(()),
            ("y", false) if self.binding.is_some() => Err(downgraded()),
            ("y", false) => Ok(()),
            ("n" | "y", true) => Err(malformed("it does not include channel binding data")),
            (flag, plus) => match flag.strip_prefix("p=") {
                Some(BINDING_TYPE) if plus => Ok(()),
                Some(_) if plus => Err(malformed("its channel binding type is unknown")),
                Some(_) => Err(malformed("it includes channel binding data unasked")),
                None => Err(malformed("its channel binding flag is unknown")),
            },
        }
    }
}

impl ScramServerChallenged {
    /// Takes the client's final message and returns the last message to send.
    ///
    /// # Errors
    /// When the message is malformed or does not belong to this exchange, and `28P01` when the
    /// proof is wrong or the user does not exist.
    pub fn verify(self, last: &[u8]) -> Result<String> {
        let last = utf8(last)?;
        let (without_proof, proof) = last
            .rsplit_once(",p=")
            .ok_or_else(|| malformed("its proof is missing"))?;
        let (binding, rest) = attribute(without_proof, "c")?;
        let (nonce, _) = attribute(rest, "r")?;
        if !same(binding.as_bytes(), self.binding.as_bytes()) {
            let text = "SCRAM channel binding check failed";
            return Err(WireError::fatal(sqlstate::INVALID_AUTHORIZATION, text));
        }
        if !same(nonce.as_bytes(), self.nonce.as_bytes()) {
            return Err(malformed("its nonce does not match"));
        }
        let proof = decode_hash(proof).ok_or_else(|| malformed("its proof cannot be read"))?;
        let message = [self.signed.as_bytes(), b",", without_proof.as_bytes()];
        let signature = hmac(&self.verifier.stored_key, &message);
        let client_key = xor(&proof, &signature);
        let proven = same(&sha256(&client_key), &self.verifier.stored_key);
        if !(proven & self.verifier.real) {
            let text = format!("password authentication failed for user \"{}\"", self.user);
            return Err(WireError::fatal(sqlstate::INVALID_PASSWORD, text));
        }
        let signature = hmac(&self.verifier.server_key, &message);
        Ok(format!("v={}", STANDARD.encode(signature)))
    }
}

impl fmt::Debug for ScramServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ScramServer");
        debug.field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for ScramServerChallenged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ScramServerChallenged");
        debug.field("user", &self.user).finish_non_exhaustive()
    }
}

fn split(message: &str) -> Result<(&str, &str)> {
    let parts = message.split_once(',');
    parts.ok_or_else(|| malformed("it ends too early"))
}

/// The nonce in the bare first message. The user name there is ignored, as PostgreSQL does: the
/// startup packet names the user.
fn client_nonce(bare: &str) -> Result<&str> {
    if bare.starts_with("m=") {
        let text = "client requires an unsupported SCRAM extension";
        return Err(WireError::fatal(sqlstate::FEATURE_NOT_SUPPORTED, text));
    }
    let (_, rest) = attribute(bare, "n")?;
    let (nonce, _) = attribute(rest, "r")?;
    if !is_nonce(nonce) {
        return Err(malformed("its nonce has characters it may not have"));
    }
    Ok(nonce)
}
