//! Coming in: a client that would like to, and a server that would like one to.
//!
//! Both targets play lists of events against the machine that has to decide, with a model beside
//! it that knows which proof was given; what the machine lets through without one is a failure.

use bytes::BytesMut;

use super::Input;
use crate::wire::scram::{
    SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramClient, ScramServer, ScramServerChallenged, Verifier,
};
use crate::wire::{
    Admission, Admitted, Authentication, BackendDecoder, BackendMessage, ErrorFields,
    FrontendMessage, Guard, LoggedIn, Login, ReplicationMode, SaslInitialResponse, Secret,
    StartupMessage, TransactionStatus, encode_ssl_request,
};

/// One iteration, so that a proof costs little; that of `pencil`.
const VERIFIER: &str = "SCRAM-SHA-256$1:C51fe0L6xhWSNF2KOys+Hw==$\
    3Zfu064Pr1BEnE5gZn0lAGnTKa/CkffEOQGoh2Kcoyo=:6gS8siBH6yX2ThyRxcfKfKaPOJ5zCGX9Xv+qv12yqbE=";

/// Another's.
const GUESSED: &str = "SCRAM-SHA-256$1:C51fe0L6xhWSNF2KOys+Hw==$\
    AAfu064Pr1BEnE5gZn0lAGnTKa/CkffEOQGoh2Kcoyo=:AAS8siBH6yX2ThyRxcfKfKaPOJ5zCGX9Xv+qv12yqbE=";

/// Most events of one input.
const EVENTS_MAX: usize = 24;

fn verifier() -> Verifier {
    VERIFIER.parse().expect("a verifier")
}

fn password(secret: Secret) -> BytesMut {
    let mut out = BytesMut::new();
    FrontendMessage::Password(secret).encode(&mut out);
    out
}

/// A client that says anything, in any order, on several connections.
pub(super) fn admission(data: &[u8]) {
    let mut input = Input::new(data);
    let mut remembered = Vec::new();
    for connection in 0..3 {
        Connection::new(connection).play(&mut input, &mut remembered);
    }
}

/// A connection to a guarded node, with what its client knows.
struct Connection {
    admission: Admission,
    number: u8,
    /// Bytes that the machine did not take yet.
    pending: BytesMut,
    heard: Vec<Authentication>,
    /// An exchange that the client began, and whether by the right password.
    client: Option<(ScramClient, bool)>,
    /// A proof, and whether it is right for this connection.
    proof: Option<(Vec<u8>, bool)>,
    startup: Option<StartupMessage>,
    proven: bool,
}

impl Connection {
    fn new(number: u8) -> Self {
        Self {
            admission: Admission::new(),
            number,
            pending: BytesMut::new(),
            heard: Vec::new(),
            client: None,
            proof: None,
            startup: None,
            proven: false,
        }
    }

    fn play(&mut self, input: &mut Input<'_>, remembered: &mut Vec<BytesMut>) {
        for _ in 0..EVENTS_MAX {
            if input.is_empty() {
                return;
            }
            let message = self.event(input, remembered);
            self.pending.extend_from_slice(&message);
            remembered.push(message);
            remembered.truncate(EVENTS_MAX);
            let mut out = BytesMut::new();
            let number = self.number;
            let asked = &mut self.startup;
            let guard = |startup: &StartupMessage| {
                assert!(asked.is_none(), "asked twice for one connection");
                *asked = Some(startup.clone());
                let verifier = match startup.user.as_str() {
                    "replica" => verifier(),
                    user => Verifier::mock(user, b"secret"),
                };
                let nonce = format!("nonce-{number}");
                Ok(Guard::Password { verifier, nonce })
            };
            let admitted = self.admission.on(&mut self.pending, &mut out, guard);
            self.listen(out);
            match admitted {
                Ok(Admitted::In { startup, .. }) => {
                    assert!(self.proven, "let in without a proof");
                    assert_eq!(startup.user, "replica", "let in as somebody else");
                    assert_eq!(self.startup.as_ref(), Some(&startup));
                    let over = self
                        .admission
                        .on(&mut self.pending, &mut BytesMut::new(), |_| Ok(Guard::Open));
                    return assert!(over.is_err(), "let in twice");
                }
                Ok(Admitted::More) => {}
                Ok(Admitted::Left) => return,
                Err(error) => {
                    assert!(error.closes(), "{error}");
                    let mut fresh = BytesMut::new();
                    StartupMessage::new("replica", ReplicationMode::Physical).encode(&mut fresh);
                    let again = self
                        .admission
                        .on(&mut fresh, &mut BytesMut::new(), |_| Ok(Guard::Open));
                    return assert!(again.is_err(), "let in after {error}");
                }
            }
        }
    }

    /// What the client sends next.
    fn event(&mut self, input: &mut Input<'_>, remembered: &[BytesMut]) -> BytesMut {
        let mut out = BytesMut::new();
        match input.byte() % 12 {
            0 | 1 => {
                let user = input.one_of(&["replica", "replica", "stranger", "r"]);
                let mode = input.one_of(&[ReplicationMode::Physical, ReplicationMode::None]);
                StartupMessage::new(user, mode)
                    .with_native()
                    .encode(&mut out);
            }
            2 => encode_ssl_request(&mut out),
            3 | 4 => return self.first(input),
            5 | 6 => return self.proof(input),
            7 => {
                let query = FrontendMessage::Query("IDENTIFY_SYSTEM".to_owned());
                query.encode(&mut out);
            }
            8 => out.extend_from_slice(input.sized()),
            9 => return password(Secret::new(input.sized().to_vec())),
            10 => {
                if let Some(old) = remembered.get(usize::from(input.byte())) {
                    out.extend_from_slice(old);
                }
            }
            _ => {
                let mechanism = String::from_utf8_lossy(input.sized()).into_owned();
                let data = input.flag().then(|| input.sized().to_vec().into());
                let initial = SaslInitialResponse { mechanism, data };
                return password(initial.encode());
            }
        }
        out
    }

    /// The first message of an exchange, by the right password or a wrong one.
    fn first(&mut self, input: &mut Input<'_>) -> BytesMut {
        let knows = input.one_of(&["pencil", "pencil", "pen", ""]);
        let offered = [SCRAM_SHA_256.to_owned()];
        let client = ScramClient::new(&offered, knows, format!("c{}", input.byte()), None);
        let client = client.expect("the mechanism is offered");
        let mut initial = client.first();
        if input.byte() == 1 {
            initial.mechanism = SCRAM_SHA_256_PLUS.to_owned();
        }
        self.client = Some((client, knows == "pencil"));
        password(initial.encode())
    }

    /// The proof that belongs to the challenge, whole or changed.
    fn proof(&mut self, input: &mut Input<'_>) -> BytesMut {
        let challenge = self.heard.iter().rev().find_map(|step| match step {
            Authentication::SaslContinue(challenge) => Some(challenge.clone()),
            _ => None,
        });
        // A challenge for a user who does not exist asks for more hashes than there is time for.
        let challenge = challenge.filter(|challenge| challenge.ends_with(b"i=1"));
        if let (Some((client, knows)), Some(challenge)) = (self.client.take(), challenge)
            && let Ok((_, answer)) = client.answer(&challenge)
        {
            let user = self.startup.as_ref().map(|startup| startup.user.as_str());
            self.proof = Some((answer.into_bytes(), knows && user == Some("replica")));
        }
        let Some((mut proof, right)) = self.proof.clone() else {
            return BytesMut::new();
        };
        if input.byte() % 4 == 1 {
            let at = input.below(proof.len());
            proof[at] ^= 1 + input.byte() % 127;
        } else {
            self.proven |= right;
        }
        password(Secret::new(proof))
    }

    fn listen(&mut self, mut out: BytesMut) {
        let decoder = BackendDecoder::new();
        while let Some(frame) = decoder.next(&mut out).expect("our own bytes") {
            match BackendMessage::decode(frame).expect("our own message") {
                BackendMessage::Authentication(step) => {
                    assert_ne!(step, Authentication::Ok, "that is for the session to say");
                    self.heard.push(step);
                }
                BackendMessage::NegotiateProtocolVersion(_) => {}
                other => panic!("the machine said {other:?}"),
            }
        }
    }
}

/// A server that says anything, in any order, to a client that has a password.
pub(super) fn login(data: &[u8]) {
    let mut input = Input::new(data);
    let guarded = !input.byte().is_multiple_of(4);
    let mut login = Login::new(guarded.then_some("pencil"), "cnonce".to_owned());
    let mut server = Server::default();
    for _ in 0..EVENTS_MAX {
        if input.is_empty() {
            return;
        }
        let message = server.event(&mut input);
        let mut out = BytesMut::new();
        let step = login.on(message, &mut out);
        assert!(!contains(&out, b"pencil"), "a password in clear");
        server.listen(out);
        match step {
            Ok(LoggedIn::More) => {}
            Ok(LoggedIn::In { .. }) => {
                assert!(server.accepted, "a session without being let in");
                assert!(
                    !guarded || server.proved,
                    "a session with a server that proved nothing"
                );
                let ready = BackendMessage::ReadyForQuery(TransactionStatus::Idle);
                return assert!(login.on(ready, &mut BytesMut::new()).is_err());
            }
            Ok(LoggedIn::Refused(_)) => return,
            Err(error) => {
                assert!(error.closes(), "{error}");
                let ok = BackendMessage::Authentication(Authentication::Ok);
                return assert!(login.on(ok, &mut BytesMut::new()).is_err());
            }
        }
    }
}

/// A server that may know the password.
#[derive(Default)]
struct Server {
    first: Option<SaslInitialResponse>,
    challenged: Option<ScramServerChallenged>,
    last: Option<Secret>,
    /// What proves that it knows the password, once it has said so.
    signature: Option<String>,
    proved: bool,
    accepted: bool,
}

impl Server {
    fn event(&mut self, input: &mut Input<'_>) -> BackendMessage {
        let step = match input.byte() % 14 {
            0 | 1 => Authentication::Sasl(vec![SCRAM_SHA_256.to_owned()]),
            2 => Authentication::Sasl(vec![String::from_utf8_lossy(input.sized()).into_owned()]),
            3 | 4 => Authentication::SaslContinue(self.challenge(input).into()),
            5 | 6 => Authentication::SaslFinal(self.sign(input).into()),
            7 => Authentication::SaslContinue(input.sized().to_vec().into()),
            8 => Authentication::SaslFinal(input.sized().to_vec().into()),
            9 => {
                self.accepted = true;
                Authentication::Ok
            }
            10 => demand(input),
            11 => return BackendMessage::ReadyForQuery(TransactionStatus::Idle),
            12 => {
                let name = input.one_of(&["mainstay.repl", "x"]).to_owned();
                let value = String::from_utf8_lossy(input.sized()).into_owned();
                return BackendMessage::ParameterStatus { name, value };
            }
            _ => {
                let fields = ErrorFields::error("28P01", "no");
                return match input.flag() {
                    true => BackendMessage::NoticeResponse(fields),
                    false => BackendMessage::ErrorResponse(fields),
                };
            }
        };
        BackendMessage::Authentication(step)
    }

    /// A challenge, by the right verifier or another.
    fn challenge(&mut self, input: &mut Input<'_>) -> String {
        let verifier = match input.byte() % 4 {
            1 => GUESSED.parse().expect("a verifier"),
            _ => verifier(),
        };
        let server = ScramServer::new("replica", verifier, "snonce".to_owned(), None);
        let Some(first) = &self.first else {
            return "r=cnoncesnonce,s=AAAA,i=1".to_owned();
        };
        let data = first.data.clone().unwrap_or_default();
        match server.challenge(&first.mechanism, &data) {
            Ok((next, challenge)) => {
                self.challenged = Some(next);
                challenge
            }
            Err(_) => String::new(),
        }
    }

    /// The server's own proof, whole or changed.
    fn sign(&mut self, input: &mut Input<'_>) -> String {
        if let (Some(server), Some(last)) = (self.challenged.take(), self.last.take()) {
            self.signature = server.verify(last.expose()).ok();
        }
        let Some(signature) = self.signature.clone() else {
            return "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned();
        };
        if input.byte() % 4 == 1 {
            let cut = input.below(signature.len());
            return signature[..cut].to_owned();
        }
        self.proved = true;
        signature
    }

    fn listen(&mut self, mut out: BytesMut) {
        let decoder = crate::wire::FrontendDecoder::new(crate::wire::FrontendPhase::Authentication);
        while let Some(frame) = decoder.next(&mut out).expect("our own bytes") {
            let Ok(FrontendMessage::Password(secret)) = FrontendMessage::decode(frame) else {
                panic!("it says something else than a step of authentication");
            };
            match SaslInitialResponse::decode(&secret) {
                Ok(first) if self.first.is_none() => self.first = Some(first),
                _ => self.last = Some(secret),
            }
        }
    }
}

/// A demand for a password in another way than SCRAM.
fn demand(input: &mut Input<'_>) -> Authentication {
    match input.byte() % 3 {
        0 => Authentication::CleartextPassword,
        1 => Authentication::Md5Password([7; 4]),
        _ => Authentication::Unsupported {
            code: 7 + u32::from(input.byte() % 2),
            data: bytes::Bytes::new(),
        },
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
