//! A subscription: committed entries from a position on, then live.

use std::sync::Arc;

use mainstay_storage::{Lsn, WalEntry, WalReader};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::runtime::core::Core;
use crate::runtime::stopped;

/// Entries that may wait for the subscriber.
const ENTRIES_MAX: usize = 256;

/// Bytes of entries read in one go.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Where a subscription reads.
pub(crate) struct SubscribeSource {
    core: Arc<Core>,
    reader: WalReader,
}

impl SubscribeSource {
    /// A subscription from `from` on.
    pub(crate) fn new(core: Arc<Core>, from: Lsn) -> Result<Self> {
        let reader = core.wal.reader(from)?;
        Ok(Self { core, reader })
    }

    /// Starts to read, and returns where the entries come out. Dropping that ends the reading.
    pub(crate) fn spawn(self) -> mpsc::Receiver<Result<WalEntry>> {
        let (to, entries) = mpsc::channel(ENTRIES_MAX);
        tokio::spawn(self.run(to));
        entries
    }

    async fn run(self, to: mpsc::Sender<Result<WalEntry>>) {
        let Self { core, mut reader } = self;
        let mut stopping = core.stopping.subscribe();
        loop {
            let upto = core.wal.commit().get().min(core.wal.flushed().get());
            let read = tokio::task::spawn_blocking(move || {
                let batch = read_batch(&mut reader, upto);
                (reader, batch)
            });
            let Ok((moved, (batch, failed))) = read.await else {
                return;
            };
            reader = moved;
            let more = !batch.is_empty();
            for entry in batch {
                if to.send(Ok(entry)).await.is_err() {
                    return;
                }
            }
            if let Some(error) = failed {
                // Whoever dropped the stream does not want to know.
                let _ = to.send(Err(Error::Storage(error))).await;
                return;
            }
            if more {
                continue;
            }
            tokio::select! {
                _ = stopped(&mut stopping) => return,
                _ = to.closed() => return,
                next = core.wal.commit().wait(upto + 1) => if next.is_err() { return },
            }
        }
    }
}

type Batch = (Vec<WalEntry>, Option<mainstay_storage::Error>);

fn read_batch(reader: &mut WalReader, upto: Lsn) -> Batch {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < ENTRIES_MAX && bytes < BATCH_BYTES_MAX {
        match reader.next_entry(upto) {
            Ok(Some((entry, _))) if entry.entry_type.is_internal() => {}
            Ok(Some((entry, _))) => {
                bytes += entry.data.len();
                batch.push(entry);
            }
            Ok(None) => break,
            Err(error) => return (batch, Some(error)),
        }
    }
    (batch, None)
}
