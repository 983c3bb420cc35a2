//! Everything that can go wrong in this crate, told apart by what the caller can do about it.
//!
//! Disk errors say which file and operation, corruption says what was proven durable, rules say
//! what was asked and what holds. [`Error::remedy`] maps each to one of four ways forward.

use std::io;
use std::path::{Path, PathBuf};

use crate::lsn::Lsn;

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the log, the control file or a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Disk: a system call failed.
    #[error("{}: {op} failed: {source}", path.display())]
    Io {
        /// What was being done: `open`, `read`, `write`, `sync`...
        op: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Disk: no space to prepare the next segment. Nothing was written; the same call succeeds
    /// once there is space.
    #[error("{}: no space left for the next log segment; nothing was written. Free some space; writing resumes by itself", path.display())]
    Full {
        /// The directory that is full.
        path: PathBuf,
    },
    /// Disk: a write or flush of the log failed before, so nothing can be acknowledged any more.
    #[error(
        "the log stopped at {since} because {why}; nothing after it is acknowledged. Restart the node: it recovers what is safe"
    )]
    Poisoned {
        /// Position up to which the log is known to be flushed.
        since: Lsn,
        /// The first failure.
        why: String,
    },
    /// Disk: the directory is in use.
    #[error("{} is in use by another process; stop it first, or choose another directory", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
    /// Disk: bytes that this node had flushed are damaged. Nothing was changed.
    #[error("{}: {what} at {at} is damaged: {why}. This node had flushed up to {proven}, so this is corruption, not a torn write. Nothing was changed", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// `record`, `segment header`, `control file`...
        what: &'static str,
        /// Where the damage begins; zero where a file has no positions.
        at: Lsn,
        /// Up to where this node is proven to have flushed.
        proven: Lsn,
        /// What is wrong.
        why: String,
    },
    /// Rule: the file or directory was written by a newer version.
    #[error("{} has format {found}, this version reads up to {supported}; start it with the version that wrote it, or a later one", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest version understood.
        supported: u32,
    },
    /// Rule: an entry or bytes do not continue the log.
    #[error("the log continues at {expected}, not at {got}")]
    NotContiguous {
        /// The next position of the log.
        expected: Lsn,
        /// The position given.
        got: Lsn,
    },
    /// Rule: the log that is wanted was removed.
    #[error(
        "log from {wanted} is gone, the oldest kept is {oldest}; take a base backup, or start from {oldest}"
    )]
    Gap {
        /// The position asked for.
        wanted: Lsn,
        /// The oldest position still here.
        oldest: Lsn,
    },
    /// Rule: the position lies beyond the end of the log.
    #[error("position {wanted} is ahead of the end of the log, {end}")]
    Ahead {
        /// The position asked for.
        wanted: Lsn,
        /// Where the log ends.
        end: Lsn,
    },
    /// Rule: after a crash other nodes may hold more of the log than this one, so it cannot be
    /// written here. Nothing was.
    #[error(
        "nothing was written: since a crash of this node others may hold log beyond {end}, its end, so they must agree before it goes on. A node asks them by itself once it is started; start the standbys that its policy counts"
    )]
    Behind {
        /// Where the log ends here.
        end: Lsn,
    },
    /// Rule: bytes offered as log are not valid records at this place.
    #[error("refused log at {at}: {why}")]
    Refused {
        /// Where they would have been.
        at: Lsn,
        /// What is wrong with them.
        why: String,
    },
    /// Rule: a key, value, payload or name exceeds its limit.
    #[error("{what} of {size} bytes is over the limit of {max} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Rule: an argument makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Rule: two transactions changed the same rows; run the later one again.
    #[error("transaction conflicts with one that committed at {with}; run it again")]
    Conflict {
        /// End of the transaction that won.
        with: Lsn,
    },
    /// Rule: a snapshot's rows may already be gone.
    #[error(
        "snapshot at {at} is older than {oldest}, the oldest that can still be read; open a new one"
    )]
    SnapshotTooOld {
        /// The snapshot's position.
        at: Lsn,
        /// The oldest readable position.
        oldest: Lsn,
    },
    /// Rule: the log or store was closed.
    #[error("closed")]
    Closed,
    /// A store of an engine outside this crate failed.
    #[error("store: {0}")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What a caller does about an error.
#[derive(Debug, Copy, Clone, Eq, PartialEq)]
pub enum Remedy {
    /// The same call may succeed later.
    Retry,
    /// Drop the connection and dial again.
    Reconnect,
    /// This node's data cannot go on; take them from a peer.
    Rebuild,
    /// Stop the node and tell its operator.
    Stop,
    /// The request itself is at fault; tell whoever made it.
    Refuse,
}

impl Error {
    /// An I/O error with its operation and file.
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            op,
            path: path.to_owned(),
            source,
        }
    }

    /// The way forward.
    pub fn remedy(&self) -> Remedy {
        match self {
            // A failed call outside the log's own writes leaves nothing half done.
            Self::Io { .. } | Self::Full { .. } | Self::Locked { .. } => Remedy::Retry,
            // Flushing again would lie: the kernel may have dropped the dirty pages.
            Self::Poisoned { .. } | Self::Format { .. } | Self::Closed | Self::Store(_) => {
                Remedy::Stop
            }
            Self::Corrupt { .. } | Self::Gap { .. } => Remedy::Rebuild,
            // The peer sent what does not fit; a fresh session starts from our own position.
            Self::NotContiguous { .. } | Self::Ahead { .. } | Self::Refused { .. } => {
                Remedy::Reconnect
            }
            Self::Conflict { .. } | Self::SnapshotTooOld { .. } | Self::Behind { .. } => {
                Remedy::Retry
            }
            Self::TooLarge { .. } | Self::Invalid(_) => Remedy::Refuse,
        }
    }
}
