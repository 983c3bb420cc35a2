//! Whether a standby that is far behind replays the log, or copies its upstream's data instead.
//!
//! Below a threshold it never asks. Above, a copy is taken only where it is clearly cheaper: it and
//! the log that is written while it is taken must stay well below the log that would be replayed.
//! How fast log is written meanwhile nobody knows, so half of the bytes are left for it
//! ([`COPY_SHARE`]). And it is taken only where it loses nothing: from the primary itself, and when
//! everything that this node ever flushed, and so may have acknowledged, is committed there, so
//! that the copy has it. And not where nobody could be promoted meanwhile: a node that copies
//! cannot be asked for its promise. A node that copied has no vote until it has caught up.

use std::fmt;

use mainstay_storage::Lsn;

/// A copy may be at most the log's bytes divided by this.
pub const COPY_SHARE: u64 = 2;

/// What is weighed.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Weighing {
    /// Log that would be received and replayed, in bytes.
    pub log_bytes: u64,
    /// From how many of them on a copy is thought of.
    pub rebuild_from: u64,
    /// The end of this node's log.
    pub own_end: Lsn,
    /// The policy counts this node, and nobody could be promoted without its promise.
    pub needed: bool,
    /// What the upstream said of itself, if it did.
    pub offer: Option<Offer>,
}

/// What an upstream says of a copy of its data.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Offer {
    /// It is the primary.
    pub primary: bool,
    /// What would be sent, in bytes, the log that belongs to it included.
    pub copy_bytes: u64,
    /// Everything below is in the copy.
    pub commit: Lsn,
}

/// What to do.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Replay the log.
    Log(Reason),
    /// Copy the data.
    Copy(Reason),
}

/// Why.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is not far behind.
    Near {
        /// The log to replay.
        log_bytes: u64,
    },
    /// Nobody could be promoted while this node copies.
    Needed {
        /// The log to replay.
        log_bytes: u64,
    },
    /// The upstream did not say how large a copy is.
    NoOffer {
        /// The log to replay.
        log_bytes: u64,
    },
    /// The upstream is a standby, whose copy may lack what was acknowledged here.
    FromStandby {
        /// The log to replay.
        log_bytes: u64,
    },
    /// This node has log that is not known committed there, which a copy would lack.
    Uncommitted {
        /// The log to replay.
        log_bytes: u64,
        /// The end of this node's log.
        own_end: Lsn,
        /// What the copy has.
        commit: Lsn,
    },
    /// A copy is not clearly cheaper.
    Dear {
        /// The log to replay.
        log_bytes: u64,
        /// The copy.
        copy_bytes: u64,
    },
    /// A copy is clearly cheaper.
    Cheap {
        /// The log to replay.
        log_bytes: u64,
        /// The copy.
        copy_bytes: u64,
    },
}

impl Weighing {
    /// Whether it is so far behind that a copy is thought of.
    pub fn is_far(&self) -> bool {
        self.log_bytes >= self.rebuild_from
    }

    /// What to do, and why.
    pub fn decide(&self) -> Verdict {
        let (log_bytes, own_end) = (self.log_bytes, self.own_end);
        if !self.is_far() {
            return Verdict::Log(Reason::Near { log_bytes });
        }
        if self.needed {
            return Verdict::Log(Reason::Needed { log_bytes });
        }
        let Some(offer) = self.offer else {
            return Verdict::Log(Reason::NoOffer { log_bytes });
        };
        if !offer.primary {
            return Verdict::Log(Reason::FromStandby { log_bytes });
        }
        let (copy_bytes, commit) = (offer.copy_bytes, offer.commit);
        if own_end > commit {
            return Verdict::Log(Reason::Uncommitted {
                log_bytes,
                own_end,
                commit,
            });
        }
        match copy_bytes <= log_bytes / COPY_SHARE {
            true => Verdict::Copy(Reason::Cheap {
                log_bytes,
                copy_bytes,
            }),
            false => Verdict::Log(Reason::Dear {
                log_bytes,
                copy_bytes,
            }),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Near { log_bytes } => write!(f, "{log_bytes} bytes of log are to be replayed"),
            Self::Needed { log_bytes } => write!(
                f,
                "{log_bytes} bytes of log are to be replayed; the policy counts this node, and \
                 while it copies nobody could be promoted"
            ),
            Self::NoOffer { log_bytes } => write!(
                f,
                "{log_bytes} bytes of log are to be replayed; the upstream does not say how large \
                 a copy is"
            ),
            Self::FromStandby { log_bytes } => write!(
                f,
                "{log_bytes} bytes of log are to be replayed; the upstream is a standby, whose \
                 copy might lack what this node confirmed"
            ),
            Self::Uncommitted {
                log_bytes,
                own_end,
                commit,
            } => write!(
                f,
                "{log_bytes} bytes of log are to be replayed; a copy ends at {commit} and would \
                 lack log up to {own_end} that this node may have confirmed"
            ),
            Self::Dear {
                log_bytes,
                copy_bytes,
            } => write!(
                f,
                "{log_bytes} bytes of log are to be replayed, and a copy of {copy_bytes} bytes is \
                 not clearly cheaper"
            ),
            Self::Cheap {
                log_bytes,
                copy_bytes,
            } => write!(
                f,
                "a copy of {copy_bytes} bytes is clearly cheaper than {log_bytes} bytes of log"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Weighing = Weighing {
        log_bytes: 2000,
        rebuild_from: 1000,
        own_end: Lsn::new(500),
        needed: false,
        offer: Some(Offer {
            primary: true,
            copy_bytes: 1000,
            commit: Lsn::new(2500),
        }),
    };

    const NEEDED: Weighing = Weighing {
        needed: true,
        ..FAR
    };

    fn offer(change: impl FnOnce(&mut Offer)) -> Weighing {
        let mut offer = FAR.offer.unwrap();
        change(&mut offer);
        let offer = Some(offer);
        Weighing { offer, ..FAR }
    }

    fn copies(weighing: Weighing) -> bool {
        matches!(weighing.decide(), Verdict::Copy(_))
    }

    #[test]
    fn a_copy_is_taken_only_where_it_is_clearly_cheaper() {
        assert!(copies(FAR));
        assert!(!copies(offer(|offer| offer.copy_bytes = 1001)));
        assert!(copies(offer(|offer| offer.copy_bytes = 0)));
        let near = Weighing {
            log_bytes: 999,
            ..FAR
        };
        assert!(!near.is_far() && !copies(near));
        let at = Weighing {
            rebuild_from: 2000,
            ..FAR
        };
        assert!(copies(at), "from there on");
        let huge = Weighing {
            log_bytes: u64::MAX,
            ..offer(|offer| offer.copy_bytes = u64::MAX)
        };
        assert!(!copies(huge));
    }

    #[test]
    fn a_copy_that_could_lack_what_was_confirmed_is_never_taken() {
        assert!(!copies(offer(|offer| offer.primary = false)));
        assert!(!copies(offer(|offer| offer.commit = Lsn::new(499))));
        assert!(copies(offer(|offer| offer.commit = Lsn::new(500))));
        let silent = Weighing { offer: None, ..FAR };
        assert!(!copies(silent));
        assert!(!copies(NEEDED), "nobody could be promoted meanwhile");
    }

    #[test]
    fn every_choice_says_why_in_bytes() {
        for weighing in [
            FAR,
            NEEDED,
            Weighing { offer: None, ..FAR },
            offer(|offer| offer.primary = false),
            offer(|offer| offer.commit = Lsn::ZERO),
            offer(|offer| offer.copy_bytes = 1999),
        ] {
            let (Verdict::Log(why) | Verdict::Copy(why)) = weighing.decide();
            assert!(why.to_string().contains("2000 bytes"), "{why}");
        }
    }
}
