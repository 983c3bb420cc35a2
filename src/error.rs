//! Everything an application can be told.

use mainstay_storage::{Lsn, Timeline};

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a database or node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log or the store.
    #[error(transparent)]
    Storage(mainstay_storage::Error),
    /// Replication.
    #[error(transparent)]
    Replication(mainstay_replication::Error),
    /// This node does not accept writes.
    #[error("this node is not the primary, so it accepts no writes; the primary is {}", primary.as_deref().unwrap_or("not known here"))]
    NotPrimary {
        /// Name and address of the primary, when known.
        primary: Option<String>,
    },
    /// The wait for a commit ended before its outcome was known: it may or may not survive. Any
    /// node can be asked later, by [`Node::outcome`](crate::Node::outcome).
    #[error(
        "the outcome of the commit at {lsn} is unknown: {why}. Ask later what became of it, or read the data"
    )]
    Unknown {
        /// End of the commit in the log.
        lsn: Lsn,
        /// The timeline it was written on.
        timeline: Timeline,
        /// Why the wait ended.
        why: String,
    },
    /// The position was not reached in time.
    #[error("{lsn} was not reached here within the time given; this node is at {at}")]
    TimedOut {
        /// The position waited for.
        lsn: Lsn,
        /// How far it is.
        at: Lsn,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// Something was refused because it would break a promise; the text says how to go on.
    #[error("refused: {0}")]
    Refused(String),
    /// The database or node was stopped.
    #[error("stopped")]
    Stopped,
}

impl From<mainstay_storage::Error> for Error {
    fn from(error: mainstay_storage::Error) -> Self {
        match error {
            mainstay_storage::Error::Closed => Self::Stopped,
            error => Self::Storage(error),
        }
    }
}

impl From<mainstay_replication::Error> for Error {
    fn from(error: mainstay_replication::Error) -> Self {
        match error {
            mainstay_replication::Error::Storage(error) => error.into(),
            mainstay_replication::Error::Refused(why) => Self::Refused(why),
            mainstay_replication::Error::Invalid(why) => Self::Config(why),
            mainstay_replication::Error::NotRunning => Self::Stopped,
            error => Self::Replication(error),
        }
    }
}

impl Error {
    /// Whether running the same transaction again may succeed.
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Storage(mainstay_storage::Error::Conflict { .. })
        )
    }
}
