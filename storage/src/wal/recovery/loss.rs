//! The words for log that was flushed and is given up, because its owner said so.
//!
//! It is no torn write: somebody may have been told that it was safe.

use std::fmt;

use crate::lsn::Lsn;
use crate::wal::recovery::TornTail;

/// Log that was flushed here and is lost, because it was damaged and the operator accepted that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedLoss {
    /// From here on.
    pub from: Lsn,
    /// Up to here this node had flushed it, at least.
    pub proven: Lsn,
    /// What there was of it, damaged as it was.
    pub left: Option<TornTail>,
}

impl fmt::Display for AcceptedLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, bytes) = (self.from, self.proven.bytes_since(self.from));
        write!(
            f,
            "gave up all log from {from} on, as was asked for: at least {bytes} bytes that this \
             node had flushed, and may have acknowledged, are lost"
        )?;
        match &self.left {
            Some(left) => write!(f, "; what was left is in {}", left.saved_to.display()),
            None => f.write_str("; nothing of it was left"),
        }
    }
}
