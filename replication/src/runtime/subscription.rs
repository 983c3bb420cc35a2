//! A subscription: committed entries from a position on, then live.

use std::sync::Arc;

use mainstay_storage::{Lsn, WalEntry, WalReader};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::runtime::core::Core;
use crate::runtime::stopped;

/// Entries that may wait for the subscriber.
const ENTRIES_MAX: usize = 256;

/// Bytes of entries read in one go.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// The subscriptions that a node serves.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

impl Subscriptions {
    /// None yet; their tasks will run where this is called.
    pub(crate) fn new() -> Self {
        Self {
            runtime: Handle::current(),
            tasks: Mutex::default(),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }

    /// How many run.
    pub(crate) fn count(&self) -> usize {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }

    /// Waits until all have ended, which they do when the node stops.
    pub(crate) async fn ended(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }
}

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
        let core = self.core.clone();
        core.subscriptions.spawn(self.run(to));
        entries
    }

    async fn run(self, to: mpsc::Sender<Result<WalEntry>>) {
        let mut stopping = self.core.stopping.subscribe();
        // Nobody waits for a reader that does not read when this node stops.
        tokio::select! {
            biased;
            _ = stopped(&mut stopping) => {}
            _ = to.closed() => {}
            error = self.feed(&to) => if let Some(error) = error {
                // Whoever dropped the stream does not want to know.
                let _ = to.send(Err(Error::Storage(error))).await;
            },
        }
    }

    /// Reads and sends until something ends it: an error, or the log with `None`.
    async fn feed(self, to: &mpsc::Sender<Result<WalEntry>>) -> Option<mainstay_storage::Error> {
        let Self { core, mut reader } = self;
        loop {
            let upto = core.wal.commit().get().min(core.wal.flushed().get());
            let read = tokio::task::spawn_blocking(move || {
                let batch = read_batch(&mut reader, upto);
                (reader, batch)
            });
            let (moved, (batch, failed)) = read.await.ok()?;
            reader = moved;
            let more = !batch.is_empty();
            for entry in batch {
                to.send(Ok(entry)).await.ok()?;
            }
            if failed.is_some() {
                return failed;
            }
            if !more && core.wal.commit().wait(upto + 1).await.is_err() {
                return core.wal.poisoned();
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
