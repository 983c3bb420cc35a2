//! Recovery without consequences: what it would find, for somebody who only wants to know.

use std::collections::BTreeMap;

use super::Recovery;
use super::zeros::len_without_trailing_zeros;
use crate::error::Result;
use crate::lsn::Lsn;

/// What recovery would find, without doing anything about it.
pub(crate) struct Look {
    pub(crate) at: Lsn,
    pub(crate) proven: Lsn,
    /// Bytes behind `at` that are not zero, up to the last such one.
    pub(crate) torn: u64,
}

impl Recovery<'_> {
    /// Finds the end of the log and leaves everything as it is.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub(crate) fn look(&self) -> Result<Look> {
        let segments = self.files()?;
        let stop = self.walk(&segments)?;
        let proven = self.proven(&stop, &segments)?;
        self.judge(&stop, proven)?;
        let offset = self.owner.size.offset_of(stop.at);
        let tail = stop
            .segment
            .get(usize::try_from(offset).unwrap_or(usize::MAX)..);
        let torn = tail.map_or(0, len_without_trailing_zeros) as u64;
        Ok(Look {
            at: stop.at,
            proven,
            torn,
        })
    }

    /// The file of each segment.
    ///
    /// # Errors
    /// Disk errors.
    pub(crate) fn files(&self) -> Result<BTreeMap<u64, u32>> {
        Ok(self.segments(&self.list()?))
    }
}
