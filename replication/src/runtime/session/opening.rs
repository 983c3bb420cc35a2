//! The phases before commands: startup, authentication, and what is said to whoever comes in.
//!
//! Nothing that the peer asks for is done here, and nothing of it is believed before its proof is
//! there. How long this may take is the caller's to say.

use bytes::BytesMut;
use uuid::Uuid;

use super::{SERVER_VERSION, authentication, fatal, wire};
use crate::config::Role;
use crate::error::Result;
use crate::runtime::core::Core;
use crate::runtime::description::Server;
use crate::runtime::link::{Link, Turn};
use crate::wire::{
    Admission, Admitted, Authentication, BackendMessage, DESCRIPTION, Guard, ReplicationMode,
    Secret, StartupMessage, TransactionStatus, WireError, sqlstate,
};

pub(super) struct Opened {
    pub(super) startup: StartupMessage,
    pub(super) native: bool,
}

/// Startup and authentication; `None` when the connection wanted something else, or ended.
pub(super) async fn start(core: &Core, link: &mut Link) -> Result<Option<Opened>> {
    let mut admission = Admission::new();
    loop {
        let mut out = BytesMut::new();
        let admitted = admission.on(&mut link.input, &mut out, |startup| admit(core, startup));
        link.queue(out.split().freeze());
        match admitted.map_err(|source| wire(link, source))? {
            Admitted::More => {
                link.flush().await?;
                if link.turn().await? == Turn::Ended {
                    return Ok(None);
                }
            }
            Admitted::Left => return Ok(None),
            Admitted::In { startup, native } => {
                greet(core, native, &startup, &mut out);
                link.queue(out.freeze());
                link.flush().await?;
                return Ok(Some(Opened { startup, native }));
            }
        }
    }
}

/// Whether this node takes anybody at the moment, and what it asks for then.
fn admit(core: &Core, startup: &StartupMessage) -> Result<Guard, WireError> {
    let stopping = core.is_stopping().then_some("this node is stopping");
    let fenced = core.role() == Role::Fenced && startup.replication == ReplicationMode::None;
    match stopping.or(fenced.then_some("this node is fenced")) {
        Some(why) => Err(fatal(sqlstate::CANNOT_CONNECT_NOW, why)),
        None => Ok(authentication::guard(core, startup)),
    }
}

fn greet(core: &Core, native: bool, startup: &StartupMessage, out: &mut BytesMut) {
    let standby = if core.is_primary() { "off" } else { "on" };
    let encoding = match startup.replication {
        ReplicationMode::Physical => "SQL_ASCII",
        _ => "UTF8",
    };
    let application_name = startup.application_name();
    let mut parameters = vec![
        ("application_name", application_name.as_str()),
        ("client_encoding", encoding),
        ("DateStyle", "ISO, MDY"),
        ("default_transaction_read_only", standby),
        ("in_hot_standby", standby),
        ("integer_datetimes", "on"),
        ("IntervalStyle", "postgres"),
        ("is_superuser", "off"),
        ("server_encoding", encoding),
        ("server_version", SERVER_VERSION),
        ("session_authorization", startup.user.as_str()),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ];
    let described = Server {
        node: core.wal.identity().node_id,
        name: core.name.as_str().to_owned(),
        timeline: core.wal.timeline(),
        history_begin: core.wal.control().history_begin,
    };
    let described = described.to_string();
    if native {
        parameters.push((DESCRIPTION, &described));
    }
    BackendMessage::Authentication(Authentication::Ok).encode(out);
    for (name, value) in parameters {
        let (name, value) = (name.to_owned(), value.to_owned());
        BackendMessage::ParameterStatus { name, value }.encode(out);
    }
    let pid = i32::try_from(core.new_session() & 0x3FFF_FFFF).unwrap_or(1);
    let key = Secret::new(Uuid::new_v4().as_bytes()[..4].to_vec());
    BackendMessage::BackendKeyData { pid, key }.encode(out);
    BackendMessage::ReadyForQuery(TransactionStatus::Idle).encode(out);
}
