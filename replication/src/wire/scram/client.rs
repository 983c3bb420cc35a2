//! The client's side of an exchange.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{
    CLIENT_ITERATIONS_MAX, ChannelBinding, Hash, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, attribute,
    client_key, decode_hash, hmac, is_nonce, malformed, salted_password, same, server_key, sha256,
    utf8, xor,
};
use crate::wire::{Result, SaslInitialResponse, WireError, sqlstate};

/// A client that begins, or waits for the challenge.
pub struct ScramClient {
    password: String,
    nonce: String,
    mechanism: &'static str,
    /// The header of the first message: the channel binding flag, no authorization identity.
    header: &'static str,
    binding: Vec<u8>,
}

/// A client that sent its proof and waits for the server's.
pub struct ScramClientAnswered {
    signature: Hash,
}

impl ScramClient {
    /// A client that logs in with `password`, given the mechanisms the server offers. `nonce`
    /// comes from [`nonce`](super::nonce) and is fresh; `binding` is there if the connection is
    /// TLS and the server's certificate could be hashed.
    ///
    /// # Errors
    /// When no mechanism is offered that is spoken here.
    pub fn new(
        offered: &[String],
        password: &str,
        nonce: String,
        binding: Option<ChannelBinding>,
    ) -> Result<Self> {
        let offers = |mechanism| offered.iter().any(|offer| offer == mechanism);
        let (mechanism, header, binding) = match binding {
            Some(ChannelBinding(hash)) if offers(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,", hash)
            }
            Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, "y,,", Vec::new()),
            None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, "n,,", Vec::new()),
            _ => {
                let text = "the server offers no SASL mechanism that is spoken here";
                return Err(WireError::Protocol(text.to_owned()));
            }
        };
        Ok(Self {
            password: password.to_owned(),
            nonce,
            mechanism,
            header,
            binding,
        })
    }

    /// The first message to send.
    pub fn first(&self) -> SaslInitialResponse {
        SaslInitialResponse {
            mechanism: self.mechanism.to_owned(),
            data: Some(format!("{}{}", self.header, self.bare()).into()),
        }
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Takes the server's challenge and returns the machine for its last message and the answer
    /// to send. Costs as many hashes as the server asks for, at most [`CLIENT_ITERATIONS_MAX`].
    ///
    /// # Errors
    /// When the challenge is malformed, does not continue this client's nonce, or asks for more
    /// iterations than that.
    pub fn answer(self, challenge: &[u8]) -> Result<(ScramClientAnswered, String)> {
        let challenge = utf8(challenge)?;
        let (nonce, rest) = attribute(challenge, "r")?;
        let (salt, rest) = attribute(rest, "s")?;
        let (iterations, _) = attribute(rest, "i")?;
        let own = nonce.strip_prefix(self.nonce.as_str());
        if !own.is_some_and(is_nonce) {
            return Err(malformed("its nonce does not continue the client's"));
        }
        let salt = STANDARD.decode(salt);
        let salt = salt.map_err(|_| malformed("its salt cannot be read"))?;
        let iterations = iterations.parse();
        let iterations: u32 = iterations.map_err(|_| malformed("its iterations are no number"))?;
        if iterations == 0 || iterations > CLIENT_ITERATIONS_MAX {
            return Err(malformed("its number of iterations is out of range"));
        }
        let salted = salted_password(&self.password, &salt, iterations);
        let client_key = client_key(&salted);
        let binding = STANDARD.encode([self.header.as_bytes(), &self.binding].concat());
        let last = format!("c={binding},r={nonce}");
        let message = format!("{},{challenge},{last}", self.bare());
        let signature = hmac(&sha256(&client_key), &[message.as_bytes()]);
        let proof = STANDARD.encode(xor(&client_key, &signature));
        let next = ScramClientAnswered {
            signature: hmac(&server_key(&salted), &[message.as_bytes()]),
        };
        Ok((next, format!("{last},p={proof}")))
    }
}

impl ScramClientAnswered {
    /// Takes the server's last message. Without this the server has proven nothing.
    ///
    /// # Errors
    /// `28P01` when the server does not know the password either, or says that it failed.
    pub fn verify(self, last: &[u8]) -> Result<()> {
        let last = utf8(last)?;
        if last.starts_with("e=") {
            let text = "the server refused the SCRAM exchange";
            return Err(WireError::fatal(sqlstate::INVALID_PASSWORD, text));
        }
        let (signature, _) = attribute(last, "v")?;
        let signature = decode_hash(signature);
        let signature = signature.ok_or_else(|| malformed("its signature cannot be read"))?;
        if !same(&signature, &self.signature) {
            let text = "the server does not know the password either";
            return Err(WireError::fatal(sqlstate::INVALID_PASSWORD, text));
        }
        Ok(())
    }
}

impl fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ScramClient");
        debug
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ScramClientAnswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramClientAnswered")
            .finish_non_exhaustive()
    }
}
