//! Letting a client in: from the first byte of a connection until it has proven who it is.
//!
//! A pure machine over the bytes that came in: it puts out what is to be answered and ends with
//! [`Admitted::In`] or a refusal. Each stage owns what the next one needs, so no stage can be left
//! out: behind the startup packet of a guarded node there is no way but through a proof. What
//! credentials there are, and whether this node takes anybody at the moment, is asked of the
//! caller once, when it is known who comes.

use bytes::{BufMut, BytesMut};

use crate::wire::scram::{self, ScramServer, ScramServerChallenged, Verifier};
use crate::wire::{
    Authentication, BackendMessage, FirstPacket, FrontendDecoder, FrontendMessage, FrontendPhase,
    Result, SaslInitialResponse, Secret, StartupDecoder, StartupMessage, WireError,
};

/// What a client has to show.
#[derive(Debug)]
pub enum Guard {
    /// Nothing: everybody who can reach this node is trusted.
    Open,
    /// The password behind a verifier, in an exchange with this fresh nonce.
    Password {
        /// That of the user, or [`Verifier::mock`] for one who does not exist.
        verifier: Verifier,
        /// From [`scram::nonce`].
        nonce: String,
    },
}

/// How far a connection came.
#[derive(Debug, PartialEq, Eq)]
pub enum Admitted {
    /// More bytes are needed, once what was put out is sent.
    More,
    /// The client wants no session, or one that is not offered; it gets no answer.
    Left,
    /// The client is who it says, and may go on.
    In {
        /// What it asked for.
        startup: StartupMessage,
        /// Whether it speaks the native extension.
        native: bool,
    },
}

/// The server's side of the beginning of a connection.
#[derive(Debug)]
pub struct Admission(Stage);

#[derive(Debug)]
enum Stage {
    Startup(StartupDecoder),
    /// The mechanisms are offered.
    Offered(Known, ScramServer),
    /// The challenge is sent.
    Challenged(Known, ScramServerChallenged),
    Over,
}

/// Who a client says it is.
#[derive(Debug)]
struct Known {
    startup: StartupMessage,
    native: bool,
}

impl Known {
    fn admitted(self) -> Admitted {
        let Self { startup, native } = self;
        Admitted::In { startup, native }
    }
}

impl Admission {
    /// The machine for a fresh connection.
    pub fn new() -> Self {
        Self(Stage::Startup(StartupDecoder::new()))
    }

    /// Goes as far as the bytes in `input` allow, and appends to `out` what is to be sent, also
    /// before a refusal. `guard` decides on the client once it has said who it is.
    ///
    /// # Errors
    /// When the client is refused; the connection has to be closed then. So does every call behind
    /// the end.
    pub fn on(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        guard: impl FnOnce(&StartupMessage) -> Result<Guard>,
    ) -> Result<Admitted> {
        // What is refused stays refused: the stage is put back only where the client may go on.
        match std::mem::replace(&mut self.0, Stage::Over) {
            Stage::Startup(decoder) => self.begin(decoder, input, out, guard),
            Stage::Offered(known, server) => self.challenge(known, server, input, out),
            Stage::Challenged(known, server) => self.verify(known, server, input, out),
            Stage::Over => Err(WireError::Protocol("the connection is refused".to_owned())),
        }
    }

    fn begin(
        &mut self,
        mut decoder: StartupDecoder,
        input: &mut BytesMut,
        out: &mut BytesMut,
        guard: impl FnOnce(&StartupMessage) -> Result<Guard>,
    ) -> Result<Admitted> {
        let startup = loop {
            match decoder.next(input)? {
                None => return Ok(self.wait(Stage::Startup(decoder))),
                Some(FirstPacket::TlsHello | FirstPacket::Cancel(_)) => return Ok(Admitted::Left),
                Some(FirstPacket::SslRequest | FirstPacket::GssRequest) => out.put_u8(b'N'),
                Some(FirstPacket::Startup(startup)) => break startup,
            }
        };
        let native = startup.native_version()?.is_some();
        if let Some(negotiation) = startup.negotiation() {
            BackendMessage::NegotiateProtocolVersion(negotiation).encode(out);
        }
        let guard = guard(&startup)?;
        let known = Known { startup, native };
        let Guard::Password { verifier, nonce } = guard else {
            return Ok(known.admitted());
        };
        let server = ScramServer::new(&known.startup.user, verifier, nonce, None);
        step(out, Authentication::Sasl(scram::mechanisms(false)));
        self.challenge(known, server, input, out)
    }

    fn challenge(
        &mut self,
        known: Known,
        server: ScramServer,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Admitted> {
        let Some(first) = password(input)? else {
            return Ok(self.wait(Stage::Offered(known, server)));
        };
        let first = SaslInitialResponse::decode(&first)?;
        let (server, challenge) =
            server.challenge(&first.mechanism, &first.data.unwrap_or_default())?;
        step(out, Authentication::SaslContinue(challenge.into()));
        self.verify(known, server, input, out)
    }

    fn verify(
        &mut self,
        known: Known,
        server: ScramServerChallenged,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Admitted> {
        let Some(last) = password(input)? else {
            return Ok(self.wait(Stage::Challenged(known, server)));
        };
        let answer = server.verify(last.expose())?;
        step(out, Authentication::SaslFinal(answer.into()));
        Ok(known.admitted())
    }

    fn wait(&mut self, stage: Stage) -> Admitted {
        self.0 = stage;
        Admitted::More
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

fn step(out: &mut BytesMut, step: Authentication) {
    BackendMessage::Authentication(step).encode(out);
}

/// The next password message, if all of it is there.
fn password(input: &mut BytesMut) -> Result<Option<Secret>> {
    let decoder = FrontendDecoder::new(FrontendPhase::Authentication);
    let Some(frame) = decoder.next(input)? else {
        return Ok(None);
    };
    match FrontendMessage::decode(frame)? {
        FrontendMessage::Password(secret) => Ok(Some(secret)),
        _ => Err(WireError::Protocol("expected SASL response".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ReplicationMode;
    use crate::wire::scram::ScramClient;

    fn guard(_: &StartupMessage) -> Result<Guard> {
        let verifier = Verifier::from_password("pencil", &[1; 16], 4096);
        let nonce = scram::nonce([9; scram::NONCE_BYTES]);
        Ok(Guard::Password { verifier, nonce })
    }

    fn startup() -> BytesMut {
        let mut bytes = BytesMut::new();
        let startup = StartupMessage::new("replica", ReplicationMode::Physical).with_native();
        startup.encode(&mut bytes);
        bytes
    }

    fn password(bytes: Secret) -> BytesMut {
        let mut out = BytesMut::new();
        FrontendMessage::Password(bytes).encode(&mut out);
        out
    }

    /// The data of the SASL message that the server put out last.
    fn said(mut out: BytesMut) -> Authentication {
        let decoder = crate::wire::BackendDecoder::new();
        let frame = decoder.next(&mut out).unwrap().unwrap();
        assert!(out.is_empty());
        let BackendMessage::Authentication(step) = BackendMessage::decode(frame).unwrap() else {
            panic!("no step of authentication");
        };
        step
    }

    #[test]
    fn a_client_comes_in_with_its_password_however_its_bytes_are_cut() {
        for piece in [1, 7, 1000] {
            let mut admission = Admission::new();
            let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
            let mut feed = |bytes: BytesMut| {
                let mut last = Admitted::More;
                for part in bytes.chunks(piece) {
                    assert_eq!(last, Admitted::More);
                    input.extend_from_slice(part);
                    last = admission.on(&mut input, &mut out, guard).unwrap();
                }
                (last, out.split())
            };
            let (step, out) = feed(startup());
            assert_eq!(step, Admitted::More);
            let Authentication::Sasl(offered) = said(out) else {
                panic!("no mechanisms");
            };
            let client = ScramClient::new(&offered, "pencil", "cnonce".to_owned(), None).unwrap();
            let (_, out) = feed(password(client.first().encode()));
            let Authentication::SaslContinue(challenge) = said(out) else {
                panic!("no challenge");
            };
            let (client, answer) = client.answer(&challenge).unwrap();
            let (step, out) = feed(password(Secret::new(answer)));
            assert!(matches!(step, Admitted::In { native: true, .. }));
            let Authentication::SaslFinal(last) = said(out) else {
                panic!("no last message");
            };
            client.verify(&last).unwrap();
        }
    }

    #[test]
    fn what_was_refused_cannot_go_on() {
        let mut admission = Admission::new();
        let mut out = BytesMut::new();
        let mut input = startup();
        input.extend_from_slice(b"Q\0\0\0\x05\0");
        assert!(admission.on(&mut input, &mut out, guard).is_err());
        let again = admission.on(&mut startup(), &mut out, |_| Ok(Guard::Open));
        assert!(again.is_err());
    }
}
