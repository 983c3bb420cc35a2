//! What must be safe elsewhere before a memtable may reach disk.

use crate::error::Result;
use crate::lsn::Lsn;
use crate::signal::Signal;

/// A memtable is flushed only when its highest version is below both positions. What is flushed
/// can thus never be log that a failover takes back, and the store never has to undo anything.
pub struct FlushGate {
    /// Up to where this node's own log is flushed.
    pub flushed: Signal,
    /// Up to where the cluster has committed.
    pub commit: Signal,
    /// Called before each flush begins with the position that the flush may reach. It records it
    /// durably and climbing before it returns; an error stops the store.
    pub raise_bound: Box<dyn Fn(Lsn) -> Result<()> + Send + Sync>,
}

impl FlushGate {
    /// The position that memtables may reach disk up to.
    pub fn reached(&self) -> Lsn {
        self.flushed.get().min(self.commit.get())
    }
}
