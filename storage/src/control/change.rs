//! One change of the control file, on its way to the disk.
//!
//! Writing it takes two syncs, and beside a busy disk each takes milliseconds. A change therefore
//! holds all that it needs: nobody who asks what is durable, or notes a watermark, waits for it.
//! What it refuses to know is who else changes the file: one change at a time is the caller's duty.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Control, SLOT_LEN};
use crate::canary;
use crate::disk::DiskFile;
use crate::error::{Error, Result};

/// A new state that does not count yet.
#[derive(Debug)]
pub(crate) struct ControlChange {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) generation: u64,
    pub(super) control: Control,
    pub(super) slot: Vec<u8>,
}

impl ControlChange {
    /// Writes and syncs the slot that counts from then on.
    ///
    /// # Errors
    /// Disk errors; a restart may find the new state or the old one.
    pub(crate) fn write(&self) -> Result<()> {
        self.write_slot(self.index())
            .map_err(|source| Error::io("write", &self.path, source))
    }

    /// Writes the other slot as well, in which damage to the first one finds its copy.
    pub(crate) fn copy(&self) {
        if slots() == 2
            && !canary("control-without-copy")
            && let Err(error) = self.write_slot(1 - self.index())
        {
            tracing::warn!(%error, "could not copy the control file's slot");
        }
    }

    fn index(&self) -> u64 {
        self.generation % slots()
    }

    fn write_slot(&self, index: u64) -> io::Result<()> {
        self.file.write_all_at(&self.slot, index * SLOT_LEN)?;
        if canary("control-without-fsync") {
            return Ok(());
        }
        self.file.sync_data()
    }
}

fn slots() -> u64 {
    if canary("control-in-place") { 1 } else { 2 }
}
