//! What a client has to show before it is let in, as this node is configured.
//!
//! A user that is not known goes through the whole exchange as well, and fails at its end.

use uuid::Uuid;

use crate::runtime::core::Core;
use crate::wire::scram::{self, Verifier};
use crate::wire::{Guard, StartupMessage};

pub(super) fn guard(core: &Core, startup: &StartupMessage) -> Guard {
    let users = &core.config.users;
    if users.is_empty() {
        // Without credentials the node listens on loopback only; see `listen`.
        return Guard::Open;
    }
    let known = users.iter().find(|(user, _)| *user == startup.user);
    let secret = core.wal.identity().node_id;
    let verifier = match known {
        Some((_, verifier)) => verifier.clone(),
        None => Verifier::mock(&startup.user, secret.as_bytes()),
    };
    let nonce = random_nonce();
    Guard::Password { verifier, nonce }
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
