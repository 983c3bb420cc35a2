//! A connection to another node, as its client: startup, authentication, commands.
//!
//! It asks for the native extension and insists on it where log is to be followed; it proves a
//! password by SCRAM only, and never sends one in clear, whatever the server asks for.

use std::time::Duration;

use bytes::BytesMut;
use mainstay_storage::{Timeline, TimelineHistory};
use tokio::time::timeout;

use crate::config::{Password, WalStreamingConfig};
use crate::error::{Error, Result};
use crate::runtime::description::Server;
use crate::runtime::link::{Link, Turn};
use crate::runtime::session::authentication::random_nonce;
use crate::wire::command::{Command, SlotKind};
use crate::wire::result::{Answer, Collector, HistoryFile, Progress, SystemIdentity};
use crate::wire::{
    BackendDecoder, BackendMessage, FrontendMessage, LoggedIn, Login, ReplicationMode,
    StartupMessage, WireError, sqlstate,
};

/// Longest time for connecting, and for the answer to one command.
pub(crate) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// An open session on another node.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) link: Link,
    pub(crate) decoder: BackendDecoder,
    pub(crate) server: Server,
}

/// How a command's answer ended.
#[derive(Debug)]
pub(crate) enum Answered {
    Done(Answer),
    /// Copying begins; what came before.
    Copy(Answer),
}

impl Client {
    /// Connects to `address` and begins a native replication session.
    ///
    /// # Errors
    /// Connection errors, a refused password, a server that is no node of this kind.
    pub(crate) async fn connect(config: &WalStreamingConfig, address: &str) -> Result<Self> {
        let opened = timeout(ANSWER_DEADLINE, open(config, address)).await;
        opened.unwrap_or_else(|_| Err(silent(address)))
    }

    /// Sends a command and waits for its answer, or for copying to begin.
    ///
    /// # Errors
    /// Connection errors; [`Error::Answer`] when it was refused.
    pub(crate) async fn ask(&mut self, command: &Command) -> Result<Answered> {
        let mut out = BytesMut::new();
        FrontendMessage::Query(command.to_string()).encode(&mut out);
        self.link.queue(out.freeze());
        let answered = timeout(ANSWER_DEADLINE, self.collect()).await;
        answered.unwrap_or_else(|_| Err(silent(self.link.peer())))
    }

    /// As [`ask`](Self::ask), for a command that is answered by rows.
    pub(crate) async fn rows(&mut self, command: &Command) -> Result<Answer> {
        match self.ask(command).await? {
            Answered::Done(answer) => Ok(answer),
            Answered::Copy(_) => Err(self.broken("copying began where rows were expected")),
        }
    }

    /// The history of the server's timeline `timeline`.
    ///
    /// # Errors
    /// As [`ask`](Self::ask); [`Error::Invalid`] on a history that is no chain up to `timeline`.
    pub(crate) async fn history(&mut self, timeline: Timeline) -> Result<TimelineHistory> {
        let begin = self.server.history_begin;
        if timeline.number == 1 {
            return Ok(TimelineHistory::new(timeline, begin));
        }
        let number = timeline.number;
        let answer = self
            .rows(&Command::TimelineHistory { timeline: number })
            .await?;
        let set = answer
            .sets
            .first()
            .ok_or_else(|| self.broken("it has no history"))?;
        let file = HistoryFile::read(set).map_err(|source| self.wire(source))?;
        let text = std::str::from_utf8(&file.content);
        let text = text.map_err(|_| self.broken("its history is not text"))?;
        TimelineHistory::parse(text, timeline, begin)
            .map_err(|error| Error::Invalid(error.to_string()))
    }

    /// Who the server is.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn system_identity(&mut self) -> Result<SystemIdentity> {
        let answer = self.rows(&Command::IdentifySystem).await?;
        let set = answer.sets.first();
        let set = set.ok_or_else(|| self.broken("it did not say who it is"))?;
        SystemIdentity::read(set).map_err(|source| self.wire(source))
    }

    /// Creates the slot to follow through, unless it is there.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(crate) async fn make_slot(&mut self, slot: &str) -> Result<()> {
        let create = Command::CreateReplicationSlot {
            slot: slot.to_owned(),
            temporary: false,
            kind: SlotKind::Physical { reserve_wal: true },
        };
        match self.rows(&create).await {
            Err(Error::Answer { sqlstate: code, .. }) if code == sqlstate::DUPLICATE_OBJECT => {
                Ok(())
            }
            created => created.map(|_| ()),
        }
    }

    async fn collect(&mut self) -> Result<Answered> {
        self.link.flush().await?;
        let mut collector = Collector::new();
        loop {
            let message = self.message().await?;
            let progress = collector
                .take(message)
                .map_err(|source| self.wire(source))?;
            match progress {
                Progress::More => {}
                Progress::Copy(_, _, before) => return Ok(Answered::Copy(before)),
                Progress::Done(answer, _) => {
                    return match answer.error {
                        Some(error) => Err(Error::Answer {
                            peer: self.link.peer().to_owned(),
                            sqlstate: error.sqlstate.into_owned(),
                            message: error.message,
                        }),
                        None => Ok(Answered::Done(answer)),
                    };
                }
            }
        }
    }

    /// The next message of the server.
    pub(crate) async fn message(&mut self) -> Result<BackendMessage> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(message);
            }
            if self.link.turn().await? == Turn::Ended {
                return Err(self.broken("the server closed the connection"));
            }
        }
    }

    /// The next message, if it is here already.
    pub(crate) fn take_message(&mut self) -> Result<Option<BackendMessage>> {
        let frame = self
            .decoder
            .next(&mut self.link.input)
            .map_err(|source| self.wire(source))?;
        // Not before the decoder has looked at it: a length may be anything.
        let length = match &frame {
            Some(_) => None,
            None => self.decoder.length(&self.link.input),
        };
        self.link.expect(length.unwrap_or(0));
        let message = frame.map(BackendMessage::decode).transpose();
        message.map_err(|source| self.wire(source))
    }

    pub(crate) fn wire(&self, source: WireError) -> Error {
        Error::Wire {
            peer: self.link.peer().to_owned(),
            source,
        }
    }

    pub(crate) fn broken(&self, why: &str) -> Error {
        self.wire(WireError::Protocol(why.to_owned()))
    }
}

fn silent(address: &str) -> Error {
    Error::Silent {
        peer: address.to_owned(),
        seconds: ANSWER_DEADLINE.as_secs(),
    }
}

async fn open(config: &WalStreamingConfig, address: &str) -> Result<Client> {
    let mut link = Link::connect(address).await?;
    let startup = StartupMessage::new(&config.follow_user, ReplicationMode::Physical)
        .with_database("replication")
        .with_parameter("application_name", &config.name)
        .with_native();
    let mut out = BytesMut::new();
    startup.encode(&mut out);
    link.queue(out.freeze());
    link.flush().await?;
    let mut client = Client {
        link,
        decoder: BackendDecoder::new(),
        server: Server::UNKNOWN,
    };
    let native = authenticate(&mut client, config).await?;
    let native = native.ok_or_else(|| {
        client.broken("it speaks PostgreSQL's protocol, but is no Mainstay node; check the address")
    })?;
    client.server = Server::parse(&native)
        .ok_or_else(|| client.broken("its description of itself cannot be read"))?;
    Ok(client)
}

/// Proves who we are, and returns what the server says about itself.
async fn authenticate(client: &mut Client, config: &WalStreamingConfig) -> Result<Option<String>> {
    let password = config.follow_password.as_ref();
    let mut login = Login::new(password.map(Password::expose), random_nonce());
    loop {
        let message = client.message().await?;
        let mut out = BytesMut::new();
        let step = login.on(message, &mut out);
        match step.map_err(|source| client.wire(source))? {
            LoggedIn::More => {
                client.link.queue(out.freeze());
                client.link.flush().await?;
            }
            LoggedIn::Refused(error) => {
                return Err(Error::Answer {
                    peer: client.link.peer().to_owned(),
                    sqlstate: error.sqlstate.into_owned(),
                    message: error.message,
                });
            }
            LoggedIn::In { description } => return Ok(description),
        }
    }
}
