//! Shipping the segments of an engine that has a log of its own.

use bytes::Bytes;
use mainstay_storage::{Lsn, WalEntry, WalEntryType, WalSegment};
use uuid::Uuid;

use super::{BYTES_SLOW, WalReplicator};
use crate::error::{Error, Result};

/// Bytes of an engine's segment in one entry.
const SEGMENT_CHUNK: usize = 1 << 20;

impl WalReplicator {
    /// Appends a segment of an engine's own log as one unit: one transaction, whose first entry is
    /// the encoded `segment` and whose others are its bytes in order, at most 1 MiB each. A
    /// standby applies all of it or nothing. Returns where it starts.
    ///
    /// # Errors
    /// [`Error::Invalid`] when size or checksum of `bytes` are not what `segment` says; as
    /// [`append`](Self::append).
    pub async fn append_segment(&self, segment: &WalSegment, bytes: Bytes) -> Result<Lsn> {
        if bytes.len() > BYTES_SLOW {
            let (segment, bytes) = (segment.clone(), bytes.clone());
            let checked = tokio::task::spawn_blocking(move || check_segment(&segment, &bytes));
            checked
                .await
                .map_err(|error| Error::Invalid(error.to_string()))??;
        } else {
            check_segment(segment, &bytes)?;
        }
        let tx = Some(Uuid::new_v4().as_u64_pair().0 | 1);
        let described = segment.encode();
        let mut entries = vec![
            WalEntry::new(WalEntryType::TxBegin, tx, Bytes::new()),
            WalEntry::new(WalEntryType::Insert, tx, described),
        ];
        let chunk = SEGMENT_CHUNK.min(self.core()?.wal.segment_size().payload_max());
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = rest.split_to(chunk.min(rest.len()));
            entries.push(WalEntry::new(WalEntryType::Insert, tx, part));
        }
        entries.push(WalEntry::new(WalEntryType::TxCommit, tx, Bytes::new()));
        Ok(self.append_all(entries).await?.start)
    }
}

fn check_segment(segment: &WalSegment, bytes: &[u8]) -> Result<()> {
    let bad = |why: String| {
        Err(Error::Invalid(format!(
            "segment {}: {why}",
            segment.segment_id
        )))
    };
    let size = bytes.len() as u64;
    if segment.size != size || segment.end_lsn.bytes_since(segment.start_lsn) != size {
        return bad(format!(
            "it is stated to have {} bytes, there are {size}",
            segment.size
        ));
    }
    let found = mainstay_storage::checksum(bytes);
    if found != segment.checksum {
        return bad(format!(
            "checksum {found:08x}, stated as {:08x}",
            segment.checksum
        ));
    }
    Ok(())
}
