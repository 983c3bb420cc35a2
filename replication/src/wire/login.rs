//! Being let in: the client's side of the beginning of a session, behind its startup packet.
//!
//! A pure machine over the messages of a server. It proves a password by SCRAM only and never
//! sends one in clear, whatever the server asks for; and where there is a password, a session
//! begins only with a server that proved to know it too, in whatever order its messages come.

use bytes::BytesMut;

use crate::wire::scram::{ScramClient, ScramClientAnswered};
use crate::wire::{
    Authentication, BackendMessage, ErrorFields, FrontendMessage, Result, Secret, WireError,
};

/// The parameter in which a native server describes itself.
pub(crate) const DESCRIPTION: &str = "mainstay.repl";

/// How far a login came.
#[derive(Debug, PartialEq, Eq)]
pub enum LoggedIn {
    /// The next message is needed, once what was put out is sent.
    More,
    /// The server refused.
    Refused(ErrorFields),
    /// The session begins.
    In {
        /// How the server describes itself, if it is a native one.
        description: Option<String>,
    },
}

/// The client's side of the beginning of a session.
#[derive(Debug)]
pub struct Login {
    stage: Stage,
    description: Option<String>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing came yet. The password, and a fresh nonce for proving it.
    Fresh(Option<(Secret, String)>),
    /// The first message of an exchange is sent.
    Begun(ScramClient),
    /// The proof is sent, the server's has to come.
    Answered(ScramClientAnswered),
    /// The server knows the password too.
    Proven,
    /// The server let us in.
    Accepted,
    Over,
}

impl Login {
    /// The machine for a server that was sent a startup packet. `nonce` comes from
    /// [`nonce`](crate::wire::scram::nonce) and is fresh.
    pub fn new(password: Option<&str>, nonce: String) -> Self {
        let secret = password.map(|password| Secret::new(password.as_bytes().to_vec()));
        Self {
            stage: Stage::Fresh(secret.map(|secret| (secret, nonce))),
            description: None,
        }
    }

    /// Takes the next message of the server, and appends to `out` what is to be sent.
    ///
    /// # Errors
    /// When the server cannot be trusted or understood; the connection has to be closed then. So
    /// does every call behind the end.
    pub fn on(&mut self, message: BackendMessage, out: &mut BytesMut) -> Result<LoggedIn> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        self.stage = match (message, stage) {
            (_, Stage::Over) => return Err(broken("the login is over")),
            (BackendMessage::ErrorResponse(error), _) => return Ok(LoggedIn::Refused(error)),
            (BackendMessage::Authentication(step), stage) => authenticate(step, stage, out)?,
            (BackendMessage::ReadyForQuery(_), Stage::Accepted) => {
                let description = self.description.take();
                return Ok(LoggedIn::In { description });
            }
            (BackendMessage::ReadyForQuery(_), _) => {
                let text = "it began a session without authentication, by password or otherwise";
                return Err(broken(text));
            }
            (BackendMessage::ParameterStatus { name, value }, stage) => {
                if name == DESCRIPTION && matches!(stage, Stage::Accepted) {
                    self.description = Some(value);
                }
                stage
            }
            (_, stage) => stage,
        };
        Ok(LoggedIn::More)
    }
}

fn authenticate(step: Authentication, stage: Stage, out: &mut BytesMut) -> Result<Stage> {
    match (step, stage) {
        (Authentication::Sasl(mechanisms), Stage::Fresh(Some((password, nonce)))) => {
            let text = std::str::from_utf8(password.expose());
            let text = text.expect("a password is text");
            let client = ScramClient::new(&mechanisms, text, nonce, None)?;
            FrontendMessage::Password(client.first().encode()).encode(out);
            Ok(Stage::Begun(client))
        }
        (Authentication::Sasl(_), Stage::Fresh(None)) => Err(broken(
            "it asks for a password, and none is configured; give one for following",
        )),
        (Authentication::SaslContinue(challenge), Stage::Begun(client)) => {
            let (client, answer) = client.answer(&challenge)?;
            FrontendMessage::Password(Secret::new(answer)).encode(out);
            Ok(Stage::Answered(client))
        }
        (Authentication::SaslFinal(last), Stage::Answered(client)) => {
            client.verify(&last)?;
            Ok(Stage::Proven)
        }
        (Authentication::Ok, Stage::Proven | Stage::Fresh(None)) => Ok(Stage::Accepted),
        (Authentication::Ok, _) => Err(broken("it accepted us without asking for the password")),
        (
            Authentication::CleartextPassword
            | Authentication::Md5Password(_)
            | Authentication::Unsupported { .. },
            _,
        ) => Err(broken("it asks for a password in a way that is not safe")),
        _ => Err(broken("an unexpected message during authentication")),
    }
}

fn broken(why: &str) -> WireError {
    WireError::Protocol(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::TransactionStatus;
    use crate::wire::scram::{SCRAM_SHA_256, ScramServer, Verifier};

    const READY: BackendMessage = BackendMessage::ReadyForQuery(TransactionStatus::Idle);
    const OK: BackendMessage = BackendMessage::Authentication(Authentication::Ok);

    fn sasl() -> BackendMessage {
        BackendMessage::Authentication(Authentication::Sasl(vec![SCRAM_SHA_256.to_owned()]))
    }

    fn login(password: Option<&str>) -> Login {
        Login::new(password, "cnonce".to_owned())
    }

    /// What a login says after these messages.
    fn after(password: Option<&str>, messages: Vec<BackendMessage>) -> Result<LoggedIn> {
        let (mut login, mut out) = (login(password), BytesMut::new());
        let mut last = Ok(LoggedIn::More);
        for message in messages {
            last = Ok(login.on(message, &mut out)?);
        }
        last
    }

    #[test]
    fn a_session_begins_when_both_know_the_password() {
        let described = BackendMessage::ParameterStatus {
            name: DESCRIPTION.to_owned(),
            value: "1".to_owned(),
        };
        let verifier = Verifier::from_password("pencil", &[1; 16], 4096);
        let server = ScramServer::new("u", verifier, "snonce".to_owned(), None);
        let (mut login, mut out) = (login(Some("pencil")), BytesMut::new());
        login.on(sasl(), &mut out).unwrap();
        let first = crate::wire::SaslInitialResponse::decode(&taken(&mut out)).unwrap();
        let (server, challenge) = server
            .challenge(&first.mechanism, &first.data.unwrap())
            .unwrap();
        let challenge = Authentication::SaslContinue(challenge.into());
        login
            .on(BackendMessage::Authentication(challenge), &mut out)
            .unwrap();
        let last = server.verify(taken(&mut out).expose()).unwrap();
        let last = Authentication::SaslFinal(last.into());
        for message in [BackendMessage::Authentication(last), OK, described] {
            assert_eq!(login.on(message, &mut out), Ok(LoggedIn::More));
        }
        let description = Some("1".to_owned());
        assert_eq!(login.on(READY, &mut out), Ok(LoggedIn::In { description }));
        assert!(login.on(READY, &mut out).is_err());
    }

    fn taken(out: &mut BytesMut) -> Secret {
        let decoder = crate::wire::FrontendDecoder::new(crate::wire::FrontendPhase::Authentication);
        let frame = decoder.next(out).unwrap().unwrap();
        match FrontendMessage::decode(frame) {
            Ok(FrontendMessage::Password(secret)) => secret,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_step_towards_a_session_can_be_left_out() {
        let message = BackendMessage::Authentication;
        let last = || message(Authentication::SaslFinal(bytes::Bytes::new()));
        for messages in [
            vec![READY],
            vec![OK],
            vec![sasl(), OK],
            vec![sasl(), READY],
            vec![sasl(), sasl()],
            vec![last()],
            vec![sasl(), last()],
            vec![message(Authentication::CleartextPassword)],
        ] {
            let case = format!("{messages:?}");
            assert!(after(Some("pencil"), messages).is_err(), "{case}");
        }
        assert!(after(None, vec![READY]).is_err());
        assert!(after(None, vec![sasl()]).is_err());
        let description = None;
        let open = after(None, vec![OK, READY]);
        assert_eq!(open, Ok(LoggedIn::In { description }));
    }
}
