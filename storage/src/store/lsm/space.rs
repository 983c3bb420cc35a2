//! A disk without space: what may be tried again, and when.
//!
//! Tables are new files each time, and an edit that fails for want of space has changed nothing,
//! as long as `current` still names the list of tables that is in memory: so both may be tried
//! again. A failed attempt leaves a part of a table behind until the next open, so there is none
//! before as much space is there as it will need. Every other failure stops the store.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use lsm_tree::{AbstractTree, Tree};

use super::engine::Shared;
use super::manifest;
use crate::error::Error;

/// Pause before the first look for space; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Bytes written at a time to find out whether there is space.
const PROBE_CHUNK: usize = 1 << 16;

/// A file that is removed at once, and at the next open if need be.
const PROBE: &str = ".tmp-space";

/// Whether the system refused for want of space.
fn is_full(error: &Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let full = |source: &io::Error| matches!(source.kind(), StorageFull | QuotaExceeded);
    match error {
        Error::Io { source, .. } => full(source),
        Error::Full { .. } => true,
        _ => false,
    }
}

/// Whether `bytes` more can be written in `dir` now. They are given back.
fn has_space(dir: &Path, bytes: u64, name: &str) -> bool {
    let path = dir.join(format!("{PROBE}-{name}"));
    let probe = || {
        let mut file = File::create(&path)?;
        let chunk = vec![1; PROBE_CHUNK];
        let mut left = bytes;
        while left > 0 {
            let len = usize::try_from(left).map_or(PROBE_CHUNK, |left| left.min(PROBE_CHUNK));
            file.write_all(&chunk[..len])?;
            left -= len as u64;
        }
        Ok::<_, io::Error>(())
    };
    let probed = probe();
    // One that was never made cannot be removed, which is as good.
    let _ = fs::remove_file(&path);
    probed.is_ok()
}

impl Shared {
    /// After `error` in the work of the thread `name`: waits until there is space for `bytes`, and
    /// returns whether the work may be tried again. Otherwise the store must stop.
    pub(super) fn wait_for_space(
        &self,
        tree: &Tree,
        error: &Error,
        bytes: u64,
        name: &str,
    ) -> bool {
        let unchanged = || {
            let named = manifest::current(&self.dir).map(|(id, _)| id);
            named.is_ok_and(|id| id == tree.current_version().id())
        };
        if !is_full(error) || !unchanged() {
            return false;
        }
        tracing::warn!(%error, bytes, "the disk is full; the store waits for space");
        let mut pause = PAUSE_FIRST;
        while !self.work.is_stopped() {
            self.work.pause_for(pause);
            if has_space(&self.dir, bytes, name) {
                tracing::info!("there is space again");
                return true;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_want_of_space_is_tried_again() {
        let io = |kind| Error::io("flush", Path::new("d"), io::Error::from(kind));
        assert!(is_full(&io(io::ErrorKind::StorageFull)));
        assert!(is_full(&io(io::ErrorKind::QuotaExceeded)));
        assert!(!is_full(&io(io::ErrorKind::Other)));
        assert!(!is_full(&Error::Closed));
    }

    #[test]
    fn looking_for_space_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(has_space(dir.path(), PROBE_CHUNK as u64 + 1, "test"));
        assert!(!has_space(&dir.path().join("none"), 1, "test"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
