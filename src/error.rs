//! Everything an application can be told.

use mainstay_storage::{Lsn, Remedy, Timeline};

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
            mainstay_replication::Error::NotPromoted { why, loss } => {
                Self::Refused(format!("{why}. As things stand, {loss}"))
            }
            mainstay_replication::Error::Invalid(why) => Self::Config(why),
            mainstay_replication::Error::NotRunning => Self::Stopped,
            error => Self::Replication(error),
        }
    }
}

impl Error {
    /// What to do about it; `None` for [`Unknown`](Self::Unknown), where only the data can tell.
    ///
    /// ```
    /// use mainstay::{Database, Remedy};
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// let db = Database::open(dir.path())?;
    /// let error = db.put("users", b"", b"1815").expect_err("a key has at least one byte");
    /// assert_eq!(error.remedy(), Some(Remedy::Refuse));
    /// let error = Database::open(dir.path()).expect_err("it is open already");
    /// assert_eq!(error.remedy(), Some(Remedy::Retry));
    /// # Ok::<(), mainstay::Error>(())
    /// ```
    pub fn remedy(&self) -> Option<Remedy> {
        let remedy = match self {
            Self::Storage(error) => error.remedy(),
            Self::Replication(error) => error.remedy(),
            Self::NotPrimary { .. } => Remedy::Reconnect,
            Self::Unknown { .. } => return None,
            Self::TimedOut { .. } => Remedy::Retry,
            Self::Usage(_) | Self::Config(_) | Self::Refused(_) => Remedy::Refuse,
            Self::Stopped => Remedy::Stop,
        };
        Some(remedy)
    }

    /// Whether running the same transaction again may succeed.
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Storage(mainstay_storage::Error::Conflict { .. })
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_but_an_unknown_outcome_has_its_remedy() {
        use mainstay_storage::Error as Storage;
        let remedy = |error: Error| error.remedy();
        let conflict = Storage::Conflict { with: Lsn::ZERO };
        assert!(Error::from(Storage::Conflict { with: Lsn::ZERO }).is_conflict());
        assert_eq!(remedy(conflict.into()), Some(Remedy::Retry));
        let (lsn, at, why) = (Lsn::ZERO, Lsn::ZERO, String::new());
        assert_eq!(remedy(Error::TimedOut { lsn, at }), Some(Remedy::Retry));
        let timeline = Timeline {
            number: 1,
            id: Default::default(),
        };
        let unknown = Error::Unknown { lsn, timeline, why };
        assert_eq!(remedy(unknown), None);
        let away = Error::NotPrimary { primary: None };
        assert_eq!(remedy(away), Some(Remedy::Reconnect));
        let (wanted, oldest) = (Lsn::ZERO, Lsn::ZERO);
        let gone = Storage::Gap { wanted, oldest };
        assert_eq!(remedy(gone.into()), Some(Remedy::Rebuild));
        let refused = mainstay_replication::Error::Refused(String::new());
        assert_eq!(remedy(refused.into()), Some(Remedy::Refuse));
        // Closed in whatever layer is one and the same.
        for closed in [
            Storage::Closed.into(),
            mainstay_replication::Error::NotRunning.into(),
            mainstay_replication::Error::Storage(Storage::Closed).into(),
        ] {
            assert!(matches!(closed, Error::Stopped), "{closed:?}");
            assert_eq!(closed.remedy(), Some(Remedy::Stop));
        }
    }
}
