//! What a client asks for: replication commands and the few SQL statements answered here.
//!
//! The grammar is PostgreSQL's, from version 15 to 18: keywords are upper case and only upper
//! case, bare names are folded to lower case, options come in parentheses or, from clients that
//! think the server is old, as plain words. Only the first word decides whether a text is a
//! command or SQL, and what a session accepts follows from its [`Dialect`]. Native peers have
//! commands of their own and one option; to everybody else these are what they are on a
//! stock server: SQL, or a syntax error.
//!
//! A [`Command`] is only what was asked. Whether the slot exists, the timeline is known or the
//! peer may ask is not known here.

mod backup;
mod lexer;
mod option;
mod parser;
mod sql;
mod text;
mod verify;

use mainstay_storage::{Lsn, Timeline};
use uuid::Uuid;

pub use backup::{
    BackupOptions, BackupTarget, ChecksumAlgorithm, Compression, MAX_RATE_KB, ManifestMode,
};
pub use text::{quote_identifier, quote_literal};
pub use verify::{VerifyAt, VerifyCommand};

use crate::wire::{ReplicationMode, Result, WireError, sqlstate};

/// Longest name, in bytes; longer ones are cut as PostgreSQL cuts them.
pub const NAME_MAX: usize = 63;
/// Most options in one list.
pub const OPTIONS_MAX: usize = 64;

/// What kind of session a text came from.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Dialect {
    /// The startup parameter `replication`.
    pub mode: ReplicationMode,
    /// Whether the native extension was negotiated.
    pub native: bool,
}

/// A command or statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `IDENTIFY_SYSTEM`
    IdentifySystem,
    /// `SHOW name`, in lower case.
    Show(String),
    /// `READ_REPLICATION_SLOT name`
    ReadReplicationSlot {
        /// Name of the slot.
        slot: String,
    },
    /// `CREATE_REPLICATION_SLOT`
    CreateReplicationSlot {
        /// Name of the slot; checked by [`check_slot_name`].
        slot: String,
        /// Whether it ends with the session.
        temporary: bool,
        /// Physical or logical, with their options.
        kind: SlotKind,
    },
    /// `ALTER_REPLICATION_SLOT`
    AlterReplicationSlot {
        /// Name of the slot.
        slot: String,
        /// The new value of `failover`, if given.
        failover: Option<bool>,
        /// The new value of `two_phase`, if given.
        two_phase: Option<bool>,
    },
    /// `DROP_REPLICATION_SLOT`
    DropReplicationSlot {
        /// Name of the slot.
        slot: String,
        /// Whether to wait until nobody uses it.
        wait: bool,
    },
    /// `START_REPLICATION`, physical
    StartReplication(StartReplication),
    /// `START_REPLICATION`, logical
    StartLogicalReplication {
        /// Name of the slot.
        slot: String,
        /// Where to start; zero means where the slot stands.
        start: Lsn,
        /// Options for the output plugin.
        options: Vec<(String, Option<String>)>,
    },
    /// `TIMELINE_HISTORY n`
    TimelineHistory {
        /// Number of the timeline, never 0.
        timeline: u32,
    },
    /// `BASE_BACKUP`
    BaseBackup(BackupOptions),
    /// `UPLOAD_MANIFEST`
    UploadManifest,
    /// `PROBE_TIMELINE`, native: the round without promises.
    ProbeTimeline,
    /// `PROMISE_TIMELINE`, native.
    PromiseTimeline(PromiseTimeline),
    /// `TIMELINE_OPENED`, native.
    TimelineOpened(TimelineOpened),
    /// `TAKE_OVER`, native.
    TakeOver(TakeOver),
    /// `VERIFY_BEGIN`, `VERIFY_RANGES`, `VERIFY_ROWS`, native.
    Verify(VerifyCommand),
    /// `FAIL_OVER`, native.
    FailOver(FailOver),
    /// `IDENTIFY_NODE`, native.
    IdentifyNode,
    /// `REGISTER_STANDBY`, native.
    RegisterStandby(RegisterStandby),
    /// `SELECT pg_catalog.set_config('search_path', '', false)`
    ClearSearchPath,
    /// `SELECT pg_is_in_recovery()`, with or without `pg_catalog.`
    IsInRecovery,
    /// `SELECT 1`
    SelectOne,
    /// Nothing but blanks and a semicolon.
    Empty,
    /// Any other text. A physical session also gets here what it may not say, the empty query
    /// included; PostgreSQL answers that with `0A000`.
    Sql(String),
}

/// `START_REPLICATION [SLOT name] [PHYSICAL] X/X [TIMELINE n]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartReplication {
    /// The slot to use.
    pub slot: Option<String>,
    /// Where to start.
    pub start: Lsn,
    /// On which timeline; never 0. The current one if absent.
    pub timeline: Option<u32>,
    /// Native: promotion id of that timeline.
    pub timeline_id: Option<Uuid>,
}

/// What kind of slot to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotKind {
    /// For log bytes.
    Physical {
        /// Whether log is retained from now on, not only from first use.
        reserve_wal: bool,
    },
    /// For decoded changes.
    Logical {
        /// Output plugin.
        plugin: String,
        /// What becomes of the snapshot.
        snapshot: SnapshotAction,
        /// Whether prepared transactions are decoded.
        two_phase: bool,
        /// Whether standbys keep a copy.
        failover: bool,
    },
}

/// What becomes of the snapshot at which a logical slot is consistent.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum SnapshotAction {
    /// Kept for other sessions under a name.
    Export,
    /// Used by the session's own transaction.
    Use,
    /// Not made.
    Nothing,
}

/// `PROMISE_TIMELINE n 'id' 'candidate name' 'candidate host:port' [(n 'id', ...)]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromiseTimeline {
    /// The timeline the candidate asks the member to accept.
    pub timeline: Timeline,
    /// Name of the candidate.
    pub candidate: String,
    /// Where it can be reached.
    pub address: String,
    /// The timelines opened in its log, if it is a restarted primary that only continues them;
    /// else none.
    pub continues: Vec<Timeline>,
}

/// `TIMELINE_OPENED n 'id' 'primary name' 'primary host:port'`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineOpened {
    /// The timeline that was opened.
    pub timeline: Timeline,
    /// Name of its primary.
    pub primary: String,
    /// Where it can be reached.
    pub address: String,
}

/// `TAKE_OVER n 'id' X/X`
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct TakeOver {
    /// The timeline whose primary has stepped down.
    pub timeline: Timeline,
    /// Where its log ends.
    pub end: Lsn,
}

/// `FAIL_OVER 'why' '[force]' '[without_policy]' '[bytes]'`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailOver {
    /// Why this node was chosen, in words.
    pub why: String,
    /// Skip the checks for a living primary and for lag.
    pub force: bool,
    /// Give the policy up.
    pub without_policy: bool,
    /// The most log that it may lack, in bytes.
    pub max_lag: Option<u64>,
}

/// `REGISTER_STANDBY 'name' 'node id' 'incarnation' 'host:port'`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterStandby {
    /// Name of the standby.
    pub name: String,
    /// Its node id.
    pub node: Uuid,
    /// Its incarnation.
    pub incarnation: Uuid,
    /// Where it can be reached.
    pub address: String,
}

impl Command {
    /// Reads the text of a query.
    ///
    /// # Errors
    /// When the first word makes it a command and the rest does not parse: `42601` mostly. The
    /// session stays usable.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Command> {
        if dialect.mode != ReplicationMode::None
            && let Some(command) = parser::parse_command(text, dialect.native)
        {
            return command;
        }
        Ok(match (sql::recognise(text), dialect.mode) {
            (Some(Command::IsInRecovery), _) => Command::IsInRecovery,
            (None, _) | (_, ReplicationMode::Physical) => Command::Sql(text.to_owned()),
            (Some(command), _) => command,
        })
    }
}

/// Checks that `name` may name a slot: 1 to 63 of `a-z`, `0-9` and `_`, because slots become
/// file names.
///
/// # Errors
/// `42602` with a hint.
pub fn check_slot_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let refuse = |what: &str, hint| WireError::Refused {
        sqlstate: sqlstate::INVALID_NAME,
        message: format!("replication slot name \"{name}\" {what}"),
        hint,
    };
    if name.is_empty() {
        return Err(refuse("is too short", None));
    }
    if name.len() > NAME_MAX {
        return Err(refuse("is too long", None));
    }
    if !name.bytes().all(allowed) {
        let hint = "Replication slot names may only contain lower case letters, numbers, \
                    and the underscore character.";
        return Err(refuse("contains invalid character", Some(hint)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
