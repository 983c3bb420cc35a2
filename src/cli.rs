//! The command line: its verbs, and what each prints and ends with.
//!
//! What a verb was asked for goes to standard output, everything else to standard error. An error
//! says what is known, what was not touched and what to do, and ends with a code that a script can
//! tell apart (see `--help`).

mod backup;
mod bench;
mod events;
mod failover;
mod policy;
mod slots;
mod start;
mod status;
mod table;
mod verbs;
mod verify;
mod wal;

pub(crate) use verbs::row;

use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::client::{Client, ClientError};
use crate::config::{ConfigError, HTTP_DEFAULT, read_secret};
use crate::demo::DemoArgs;
use crate::{Error, export, import};

/// The verb could not be done.
const FAILED: u8 = 1;
/// It was called wrongly.
const USAGE: u8 = 2;
/// The node is not there or not ready.
const NOT_READY: u8 = 3;
/// A safety check refused it.
const REFUSED: u8 = 4;
/// Stored bytes are damaged.
const DAMAGED: u8 = 5;
/// It was told to end before it was done.
const INTERRUPTED: u8 = 130;

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed
    2  usage: unknown flag, bad value, bad config file
    3  not ready: no node there, it is stopping, or it did not get there in time
    4  refused by a safety check; the text names the safe way
    5  stored bytes are damaged
  130  interrupted

Every flag but --accept-loss-from, --force and --without-policy can be given as an environment variable: --on-miss as
MAINSTAY_ON_MISS, and so on. MAINSTAY_LOG is error, warn, info, debug or trace.";

/// An embedded, replicated store: warm standbys over PostgreSQL's streaming protocol.
#[derive(Debug, Parser)]
#[command(name = "mainstay", version, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a node until it is stopped
    Start(Box<start::StartArgs>),
    /// Show a node, its standbys, and what would happen if it died
    Status(verbs::StatusArgs),
    /// Show what happened to a node
    Events(events::EventsArgs),
    /// Make a standby the primary
    Promote(failover::PromoteArgs),
    /// Replace a primary that is gone by the best standby; ask any standby
    Failover(failover::FailoverArgs),
    /// Hand the primary's place to a standby while both are well; ask the primary
    Switchover(verbs::SwitchoverArgs),
    /// Show or change who must confirm a commit; ask the primary to change it
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// Make the primary a standby of the node at URL
    Demote(verbs::DemoteArgs),
    /// Compare a standby's rows with its primary's while both run; ask the standby
    Verify(verify::VerifyArgs),
    /// Let a standby apply nothing for a while, or go on
    Apply(verbs::ApplyArgs),
    /// Make a node follow the primary at URL
    Follow(verbs::FollowArgs),
    /// Let a standby find its way to its upstream anew: by log, rewind, or a copy of the data
    Resync(failover::ResyncArgs),
    /// Let a standby copy its upstream's data anew: the same as resync --full
    Reinit(failover::ReinitArgs),
    /// List the replication slots of a node, or drop one
    Slots(slots::SlotsArgs),
    /// Stop a node properly
    Stop(verbs::StopArgs),
    /// Set the value of a key
    Put(verbs::PutArgs),
    /// Print the value of a key
    Get(verbs::GetArgs),
    /// Delete a key
    Delete(verbs::DeleteArgs),
    /// Print the rows of a table, one JSON object a line
    Scan(verbs::ScanArgs),
    /// Load a CSV or NDJSON file into a table; continues where an earlier run ended
    Import(import::ImportArgs),
    /// Print a whole table, one JSON object a line
    Export(export::ExportArgs),
    /// Take a base backup of a node, or check one
    Backup(backup::BackupArgs),
    /// Make a data directory out of a base backup
    Restore(backup::RestoreArgs),
    /// Look at the log of a node that is not running
    #[command(subcommand)]
    Wal(wal::WalVerb),
    /// Put a load on a running cluster, and show throughput and latencies
    #[command(after_help = bench::NOTES)]
    Bench(Box<bench::BenchArgs>),
    /// Watch a primary die and a standby take over, with real processes, and count what was lost
    Demo(DemoArgs),
}

/// Which node to talk to.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeAddress {
    /// Where the node's HTTP side listens
    #[arg(long, value_name = "HOST:PORT", env = "MAINSTAY_HTTP", default_value = HTTP_DEFAULT)]
    http: String,
    /// File whose first line is the node's HTTP token, if it wants one
    #[arg(long, value_name = "FILE", env = "MAINSTAY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl NodeAddress {
    /// A client of that node.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let token = self.token_file.as_deref().map(read_secret).transpose()?;
        Ok(Client::new(&self.http, token))
    }
}

/// Why a verb ends with a code other than 0.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// The verb could not be done.
    pub(crate) fn failed(text: impl Display) -> Self {
        Self {
            code: FAILED,
            text: text.to_string(),
        }
    }

    /// It was called wrongly.
    pub(crate) fn usage(text: impl Display) -> Self {
        Self {
            code: USAGE,
            text: text.to_string(),
        }
    }

    /// Stored bytes are not what they should be.
    pub(crate) fn damaged(text: impl Display) -> Self {
        Self {
            code: DAMAGED,
            text: text.to_string(),
        }
    }

    /// It was told to end before it was done.
    pub(crate) fn interrupted() -> Self {
        Self {
            code: INTERRUPTED,
            text: "interrupted before the end".to_owned(),
        }
    }

    /// Adds to what is said.
    pub(crate) fn add(&mut self, text: &str) {
        self.text += text;
    }

    /// What is said.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A safety check refused it.
    pub(crate) fn refused(text: impl Display) -> Self {
        Self {
            code: REFUSED,
            text: text.to_string(),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Unsafe(_) => Self::refused(error),
            _ => Self::usage(error),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Unreachable { .. } | ClientError::NoAnswer { .. } => NOT_READY,
            ClientError::Refused {
                status: 503 | 504, ..
            } => NOT_READY,
            ClientError::Refused { status: 412, .. } => REFUSED,
            ClientError::Refused { .. } | ClientError::Garbled { .. } => FAILED,
        };
        Self {
            code,
            text: error.to_string(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use mainstay_replication::Error as Replication;
        use mainstay_storage::Error as Storage;
        let code = match &error {
            Error::Storage(Storage::Corrupt { .. }) => DAMAGED,
            Error::Storage(Storage::Format { .. }) => REFUSED,
            Error::Replication(Replication::DamagedBackup { .. }) => DAMAGED,
            Error::Replication(Replication::Foreign { .. }) | Error::Refused(_) => REFUSED,
            Error::Replication(Replication::Connection { .. } | Replication::Silent { .. }) => {
                NOT_READY
            }
            Error::Usage(_) | Error::Config(_) => USAGE,
            Error::TimedOut { .. } | Error::Stopped => NOT_READY,
            _ => FAILED,
        };
        Self {
            code,
            text: error.to_string(),
        }
    }
}

impl From<mainstay_storage::Error> for Failure {
    fn from(error: mainstay_storage::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Whoever read our output has seen enough.
        let code = if error.kind() == io::ErrorKind::BrokenPipe {
            0
        } else {
            FAILED
        };
        Self {
            code,
            text: error.to_string(),
        }
    }
}

/// Reads the command line, does what it asks for, and returns the exit code.
pub fn run() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Start(args) => start::run(*args),
        Verb::Status(args) => verbs::status(&args),
        Verb::Events(args) => events::run(&args),
        Verb::Promote(args) => failover::promote(&args),
        Verb::Failover(args) => failover::failover(&args),
        Verb::Switchover(args) => verbs::switchover(&args),
        Verb::Policy(verb) => policy::run(&verb),
        Verb::Demote(args) => verbs::demote(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Apply(args) => verbs::apply(&args),
        Verb::Follow(args) => verbs::follow(&args),
        Verb::Resync(args) => failover::resync(&args),
        Verb::Reinit(args) => failover::reinit(&args),
        Verb::Slots(args) => slots::run(&args),
        Verb::Stop(args) => verbs::stop(&args),
        Verb::Put(args) => verbs::put(args),
        Verb::Get(args) => verbs::get(&args),
        Verb::Delete(args) => verbs::delete(&args),
        Verb::Scan(args) => verbs::scan(&args),
        Verb::Import(args) => import::run(&args),
        Verb::Export(args) => export::run(&args),
        Verb::Backup(args) => backup::run(args),
        Verb::Restore(args) => backup::restore(&args),
        Verb::Wal(verb) => wal::run(&verb),
        Verb::Bench(args) => bench::run(&args),
        Verb::Demo(args) => crate::demo::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code: 0, .. }) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            eprintln!("error: {text}");
            ExitCode::from(code)
        }
    }
}

/// Writes `text` and a line's end to standard output.
pub(crate) fn print(text: impl Display) -> Result<(), Failure> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_documents_the_exit_codes() {
        let help = Cli::command().render_long_help().to_string();
        for code in [FAILED, USAGE, NOT_READY, REFUSED, DAMAGED, INTERRUPTED] {
            assert!(
                help.contains(&format!("\n  {code:>3}  ")),
                "{code} is missing in:\n{help}"
            );
        }
    }

    #[test]
    fn failures_map_to_their_codes() {
        let code = |error: Error| Failure::from(error).code;
        assert_eq!(code(Error::Refused(String::new())), REFUSED);
        assert_eq!(code(Error::Stopped), NOT_READY);
        assert_eq!(code(mainstay_storage::Error::Closed.into()), NOT_READY);
        let invalid = mainstay_storage::Error::Invalid(String::new());
        assert_eq!(code(invalid.into()), FAILED);
        let refused = |status| ClientError::Refused {
            status,
            error: String::new(),
            hint: None,
        };
        assert_eq!(Failure::from(refused(412)).code, REFUSED);
        assert_eq!(Failure::from(refused(504)).code, NOT_READY);
        assert_eq!(Failure::from(refused(404)).code, FAILED);
        assert_eq!(
            Failure::from(ConfigError::Unsafe(String::new())).code,
            REFUSED
        );
    }
}
