//! Everything that can go wrong between nodes, told apart by what to do about it.

use std::io;
use std::path::PathBuf;

use mainstay_storage::{Lsn, Remedy};
use uuid::Uuid;

use crate::protocol::promotion::PossibleLoss;
use crate::protocol::slot::SlotError;
use crate::wire::WireError;

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of replication.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Disk: the log or the store.
    #[error(transparent)]
    Storage(#[from] mainstay_storage::Error),
    /// Peer: bytes that make no sense.
    #[error("{peer}: {source}")]
    Wire {
        /// Who sent them.
        peer: String,
        /// What is wrong.
        source: WireError,
    },
    /// Peer: the connection failed.
    #[error("{peer}: {op} failed: {source}")]
    Connection {
        /// To whom.
        peer: String,
        /// `connect`, `read`, `write`, `listen`.
        op: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Peer: it answered with an error.
    #[error("{peer} answered {sqlstate}: {message}")]
    Answer {
        /// Who.
        peer: String,
        /// PostgreSQL's five-letter code.
        sqlstate: String,
        /// Its text.
        message: String,
    },
    /// Peer: nothing was heard for too long.
    #[error("{peer} was silent for {seconds} s")]
    Silent {
        /// Who.
        peer: String,
        /// For how long.
        seconds: u64,
    },
    /// Rule: the peer belongs to another cluster.
    #[error(
        "{peer} belongs to cluster {found}, this node to {expected}; point it at a node of its own cluster, or start it in an empty directory"
    )]
    Foreign {
        /// Who.
        peer: String,
        /// Our system id.
        expected: u64,
        /// Its system id.
        found: u64,
    },
    /// Disk: a file of a base backup is not what it was when the backup was taken.
    #[error("{}: {why}. Take the backup again, or use another copy of it", path.display())]
    DamagedBackup {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Rule: what was asked of a slot cannot be done.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Rule: no standby of this id is registered.
    #[error("no standby {0} is registered")]
    UnknownStandby(Uuid),
    /// Rule: the standby of this id is known, and not connected.
    #[error("standby {0} is not connected")]
    NotConnected(Uuid),
    /// Rule: it is running already.
    #[error("already running")]
    AlreadyRunning,
    /// Rule: it is not running.
    #[error("not running")]
    NotRunning,
    /// Rule: only the primary does that.
    #[error("not the primary")]
    NotPrimary,
    /// Rule: this node is no primary any more, or its policy was not met in time, so what becomes
    /// of the entry is not known yet.
    #[error(
        "the outcome of the entry at {0} is unknown: this node is no primary any more, or its \
         synchronous policy was not met in time. Read the data on the primary"
    )]
    Unknown(Lsn),
    /// Rule: a promotion that would break a promise; the text says how to go on.
    #[error("refused: {0}")]
    Refused(String),
    /// Rule: a promotion that would break a promise or a limit. Nothing was opened.
    #[error("refused: {why}. As things stand, {loss}")]
    NotPromoted {
        /// Why, and how to go on.
        why: String,
        /// What going on all the same may cost.
        loss: PossibleLoss,
    },
    /// Rule: an argument or configuration makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The way forward.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Storage(error) => error.remedy(),
            Self::Wire { .. } | Self::Connection { .. } | Self::Silent { .. } => Remedy::Reconnect,
            // A node that starts, stops or has no free connection says so and may change its mind.
            Self::Answer { .. } => Remedy::Reconnect,
            Self::Foreign { .. } => Remedy::Stop,
            Self::UnknownStandby(_) | Self::NotConnected(_) | Self::AlreadyRunning => {
                Remedy::Refuse
            }
            Self::NotRunning | Self::NotPrimary | Self::Unknown(_) => Remedy::Refuse,
            Self::Slot(_) => Remedy::Refuse,
            Self::NotPromoted { .. } => Remedy::Refuse,
            Self::DamagedBackup { .. } | Self::Refused(_) | Self::Invalid(_) => Remedy::Refuse,
        }
    }
}
