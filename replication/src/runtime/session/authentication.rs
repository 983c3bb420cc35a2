//! Letting a client prove who it is, by SCRAM-SHA-256.
//!
//! A user that is not known goes through the whole exchange as well, and fails at its end.

use bytes::BytesMut;
use uuid::Uuid;

use super::wire;
use crate::error::Result;
use crate::runtime::core::Core;
use crate::runtime::link::{Link, Turn};
use crate::wire::scram::{self, ScramServer, Verifier};
use crate::wire::{
    Authentication, BackendMessage, FrontendDecoder, FrontendMessage, FrontendPhase,
    SaslInitialResponse, Secret, StartupMessage, WireError,
};

pub(super) async fn prove(core: &Core, link: &mut Link, startup: &StartupMessage) -> Result<()> {
    if core.config.users.is_empty() {
        // Without credentials the node listens on loopback only; see `listen`.
        return Ok(());
    }
    let known = core
        .config
        .users
        .iter()
        .find(|(user, _)| *user == startup.user);
    let secret = core.wal.identity().node_id;
    let verifier = match known {
        Some((_, verifier)) => verifier.clone(),
        None => Verifier::mock(&startup.user, secret.as_bytes()),
    };
    send(link, Authentication::Sasl(scram::mechanisms(false))).await?;
    let server = ScramServer::new(&startup.user, verifier, random_nonce(), None);
    let first = password(link).await?;
    let first = SaslInitialResponse::decode(&first).map_err(|source| wire(link, source))?;
    let initial = first.data.clone().unwrap_or_default();
    let (server, challenge) = server
        .challenge(&first.mechanism, &initial)
        .map_err(|source| wire(link, source))?;
    send(link, Authentication::SaslContinue(challenge.into())).await?;
    let last = password(link).await?;
    let verdict = server.verify(last.expose());
    let answer = verdict.map_err(|source| wire(link, source))?;
    send(link, Authentication::SaslFinal(answer.into())).await
}

/// 18 random bytes in printable form, from the system's generator.
pub(crate) fn random_nonce() -> String {
    let mut random = [0; scram::NONCE_BYTES];
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let bytes = one.as_bytes().iter().chain(two.as_bytes());
    random
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    scram::nonce(random)
}

async fn send(link: &mut Link, step: Authentication) -> Result<()> {
    let mut out = BytesMut::new();
    BackendMessage::Authentication(step).encode(&mut out);
    link.queue(out.freeze());
    link.flush().await
}

async fn password(link: &mut Link) -> Result<Secret> {
    let decoder = FrontendDecoder::new(FrontendPhase::Authentication);
    loop {
        if let Some(frame) = decoder
            .next(&mut link.input)
            .map_err(|source| wire(link, source))?
        {
            return match FrontendMessage::decode(frame) {
                Ok(FrontendMessage::Password(secret)) => Ok(secret),
                Ok(_) => Err(wire(
                    link,
                    WireError::Protocol("expected SASL response".to_owned()),
                )),
                Err(source) => Err(wire(link, source)),
            };
        }
        if link.turn().await? == Turn::Ended {
            return Err(wire(
                link,
                WireError::Protocol("the client went away".to_owned()),
            ));
        }
    }
}
