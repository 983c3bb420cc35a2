//! One connection to this node's port: startup, authentication, commands.
//!
//! A session lives through three phases, and each accepts only its own messages: startup (nothing
//! proven, at most [`STARTUP_DEADLINE`] long), authentication, commands. Streaming is a phase of
//! its own in `walsender.rs`. Whatever a peer sends costs it the connection at most.

pub(super) mod authentication;
mod opening;
mod registration;
mod shown;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cluster::Member;
use crate::error::{Error, Result};
use crate::runtime::announce;
use crate::runtime::core::{Core, Visit};
use crate::runtime::failover;
use crate::runtime::handover;
use crate::runtime::identify;
use crate::runtime::link::{Link, Turn};
use crate::runtime::net::TcpStream;
use crate::runtime::promise;
use crate::runtime::slots::Answer;
use crate::runtime::{stopped, verify};
use crate::wire::command::{Command, Dialect, SlotKind};
use crate::wire::replication::ReceiverMessage;
use crate::wire::result;
use crate::wire::{
    BackendMessage, ErrorFields, Frame, FrontendDecoder, FrontendMessage, FrontendPhase,
    ReplicationMode, Severity, TransactionStatus, WireError, sqlstate,
};
use opening::{Opened, start};

/// Longest time from the connection to the end of authentication, PostgreSQL's default.
pub(crate) const STARTUP_DEADLINE: Duration = Duration::from_secs(60);

/// The version that this node announces; stock tools refuse servers newer than themselves.
pub(crate) const SERVER_VERSION: &str = concat!("15.4 (mainstay ", env!("CARGO_PKG_VERSION"), ")");

/// A connection that has proven who it is.
pub(crate) struct Session {
    pub(crate) core: Arc<Core>,
    pub(crate) link: Link,
    pub(crate) decoder: FrontendDecoder,
    pub(crate) number: u64,
    /// The native extension was negotiated.
    pub(crate) native: bool,
    mode: ReplicationMode,
    user: String,
    /// The standby that registered on this connection.
    pub(crate) standby: Option<Registered>,
    /// What the client calls itself.
    application: String,
    pub(crate) visit: Option<Visit>,
    served: Option<verify::Served>,
}

/// Who a native standby said it is.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    pub(crate) member: Member,
    /// This node was the primary, so the registration is in the log.
    pub(crate) logged: bool,
}

impl Drop for Session {
    /// However it ended, what it held is free.
    fn drop(&mut self) {
        self.core.slots.end_session(self.number);
    }
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(core: Arc<Core>, stream: TcpStream) {
    let mut link = Link::new(stream);
    let peer = link.peer().to_owned();
    let mut stopping = core.stopping.subscribe();
    let started = tokio::select! {
        started = timeout(STARTUP_DEADLINE, start(&core, &mut link)) => started,
        // Whoever has not said who it is learns of it by the end of the connection.
        _ = stopped(&mut stopping) => return,
    };
    let session = match started {
        Ok(Ok(Some(opened))) => opened,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "connection refused");
            refuse(&mut link, &error).await;
            return;
        }
        Err(_) => return tracing::debug!(%peer, "authentication took too long"),
    };
    let Opened { startup, native } = session;
    let session = Session {
        number: core.new_session(),
        native,
        mode: startup.replication,
        application: startup.application_name(),
        user: startup.user,
        standby: None,
        visit: None,
        served: None,
        decoder: FrontendDecoder::new(FrontendPhase::Command),
        link,
        core,
    };
    if let Err(error) = session.run().await {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Tells a connection beyond the limit so, and closes it.
pub(crate) async fn turn_away(stream: TcpStream) {
    let mut link = Link::new(stream);
    let text = "sorry, too many clients already";
    let error = wire(&link, fatal(sqlstate::TOO_MANY_CONNECTIONS, text));
    refuse(&mut link, &error).await;
}

/// Sends an error where one can still be understood; the connection ends either way.
async fn refuse(link: &mut Link, error: &Error) {
    if let Error::Wire { source, .. } = error {
        let mut out = BytesMut::new();
        BackendMessage::ErrorResponse(source.report()).encode(&mut out);
        link.queue(out.freeze());
        // The peer may be gone; there is nothing left to tell it.
        let _ = timeout(Duration::from_secs(1), link.flush()).await;
    }
}

impl Session {
    /// Takes commands until the peer ends, this node stops, or something is wrong.
    async fn run(mut self) -> Result<()> {
        let mut stopping = self.core.stopping.subscribe();
        loop {
            let Some(frame) = self.next_frame(&mut stopping).await? else {
                return Ok(());
            };
            let message = FrontendMessage::decode(frame);
            match message.map_err(|source| wire(&self.link, source))? {
                FrontendMessage::Query(text) => self.query(&text).await?,
                FrontendMessage::Terminate => return Ok(()),
                FrontendMessage::Sync => self.ready(),
                FrontendMessage::Extended { .. } => self.refuse_extended(),
                FrontendMessage::CopyData(payload) if self.native => self.told(payload),
                // Remains of an ended copy.
                _ => {}
            }
            let patience = self.core.timeout();
            self.link.flush_unless_stalled(patience).await?;
        }
    }

    /// The next message; `None` at the end of the connection or when this node stops.
    async fn next_frame(&mut self, stopping: &mut watch::Receiver<bool>) -> Result<Option<Frame>> {
        loop {
            let frame = self.decoder.next(&mut self.link.input);
            match frame {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(source) => {
                    let error = wire(&self.link, source);
                    refuse(&mut self.link, &error).await;
                    return Err(error);
                }
            }
            let ended = tokio::select! {
                turn = self.link.turn() => turn? == Turn::Ended,
                _ = stopped(stopping) => {
                    let text = "terminating connection because this node is stopping";
                    let error = wire(&self.link, fatal(sqlstate::ADMIN_SHUTDOWN, text));
                    refuse(&mut self.link, &error).await;
                    true
                }
            };
            if ended {
                return Ok(None);
            }
        }
    }

    async fn query(&mut self, text: &str) -> Result<()> {
        let dialect = Dialect {
            mode: self.mode,
            native: self.native,
        };
        let command = match Command::parse(text, dialect) {
            Ok(command) => command,
            Err(source) => {
                let closes = source.closes();
                self.error(source.report());
                return if closes {
                    Err(wire(&self.link, source))
                } else {
                    Ok(())
                };
            }
        };
        match command {
            Command::StartReplication(_) | Command::BaseBackup(_) => {
                return self.send(command).await;
            }
            Command::PromiseTimeline(promise) => {
                let answer = promise::serve(&self.core, &promise).await;
                self.answer(answer);
            }
            Command::TakeOver(asked) => {
                let answer = handover::serve(&self.core, &asked).await;
                self.answer(answer);
            }
            Command::Verify(asked) => {
                let answer = verify::serve(&self.core, &mut self.served, asked).await;
                self.answer(answer);
            }
            Command::FailOver(asked) => {
                let answer = failover::serve(&self.core, asked).await;
                self.answer(answer);
            }
            Command::IdentifyNode => {
                let answer = identify::serve(&self.core).await;
                self.answer(Ok(answer));
            }
            Command::ProbeTimeline => {
                let answer = promise::probe(&self.core);
                self.answer(Ok(answer));
            }
            command => self.simple(command),
        }
        Ok(())
    }

    /// Commands that are answered from memory.
    fn simple(&mut self, command: Command) {
        let answer = match command {
            Command::IdentifySystem => Ok(self.identify_system()),
            Command::Show(name) => self.show(&name),
            Command::TimelineHistory { timeline } => return self.timeline_history(timeline),
            Command::RegisterStandby(standby) => self.register(standby),
            Command::TimelineOpened(opened) => Ok(announce::serve(&self.core, opened)),
            Command::ReadReplicationSlot { slot } => self.read_slot(&slot),
            Command::CreateReplicationSlot {
                slot,
                temporary,
                kind: SlotKind::Physical { reserve_wal },
            } => self.create_slot(&slot, temporary, reserve_wal),
            Command::DropReplicationSlot { slot, .. } => return self.drop_slot(&slot),
            Command::IsInRecovery => Ok(result::is_in_recovery(!self.core.is_primary())),
            Command::ClearSearchPath => Ok(result::clear_search_path()),
            Command::SelectOne => Ok(result::select_one()),
            Command::Empty => {
                let mut out = BytesMut::new();
                BackendMessage::EmptyQueryResponse.encode(&mut out);
                self.link.queue(out.freeze());
                return self.ready();
            }
            Command::Sql(_) if self.mode == ReplicationMode::Physical => Err(unsupported(
                "cannot execute SQL commands in WAL sender for physical replication",
            )),
            _ => Err(unsupported(
                "this node speaks PostgreSQL's replication protocol, it is not a PostgreSQL server; \
                 data are read and written over HTTP, or in process",
            )),
        };
        self.answer(answer);
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Ok(set) => {
                let mut out = BytesMut::new();
                set.encode(&mut out);
                self.link.queue(out.freeze());
                self.ready();
            }
            Err(fields) => self.error(*fields),
        }
    }

    /// An error that leaves the session usable.
    pub(crate) fn error(&mut self, fields: ErrorFields) {
        let mut out = BytesMut::new();
        let fatal = fields.severity == Severity::Fatal;
        BackendMessage::ErrorResponse(fields).encode(&mut out);
        self.link.queue(out.freeze());
        if !fatal {
            self.ready();
        }
    }

    pub(crate) fn ready(&mut self) {
        let mut out = BytesMut::new();
        BackendMessage::ReadyForQuery(TransactionStatus::Idle).encode(&mut out);
        self.link.queue(out.freeze());
    }

    /// A standby that knows a newer timeline says so before it leaves, whether it streams or not.
    fn told(&self, payload: Bytes) {
        if let Ok(ReceiverMessage::Fence(fence)) = ReceiverMessage::decode(payload, true) {
            self.core.claimed(fence.timeline, fence.opened);
        }
    }

    fn refuse_extended(&mut self) {
        let text = "extended query protocol not supported in a replication connection";
        let mut out = BytesMut::new();
        let fields = ErrorFields::error(sqlstate::PROTOCOL_VIOLATION, text);
        BackendMessage::ErrorResponse(fields).encode(&mut out);
        self.link.queue(out.freeze());
    }
}

pub(crate) fn wire(link: &Link, source: WireError) -> Error {
    Error::Wire {
        peer: link.peer().to_owned(),
        source,
    }
}

fn fatal(sqlstate: &'static str, message: &str) -> WireError {
    WireError::Fatal {
        sqlstate,
        message: message.to_owned(),
        hint: None,
    }
}

fn unsupported(text: &str) -> Box<ErrorFields> {
    ErrorFields::error(sqlstate::FEATURE_NOT_SUPPORTED, text).into()
}

/// Whether connections from `address` are trusted without credentials.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
