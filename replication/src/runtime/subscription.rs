//! A subscription: committed entries from a position on, then live.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use mainstay_storage::{Lsn, WalEntry, WalReader, canary};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::Stream;

use crate::error::Result;
use crate::runtime::core::Core;
use crate::runtime::stopped;

/// Most entries in a batch.
const BATCH_ENTRIES_MAX: usize = 256;

/// Bytes of entries from which on a batch is full; its last entry may exceed it.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Batches that may wait for the subscriber, beside the one it reads and the one being read.
const BATCHES_MAX: usize = 1;

/// The committed entries of a log, then live, as a [`Stream`]. Made by
/// [`WalReplicator::subscribe`](crate::WalReplicator::subscribe). However slow it is read, a few
/// MiB are held for it; the rest waits in the log. Dropping it ends the reading.
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct Subscription {
    batches: mpsc::Receiver<Vec<WalEntry>>,
    entries: std::vec::IntoIter<WalEntry>,
    /// Why there are no more batches, if that is an error; told before they end.
    failed: oneshot::Receiver<mainstay_storage::Error>,
}

impl Stream for Subscription {
    type Item = Result<WalEntry>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Poll::Ready(Some(Ok(entry)));
            }
            let Some(entries) = ready!(self.batches.poll_recv(context)) else {
                let failed = self.failed.try_recv().ok();
                return Poll::Ready(failed.map(|error| Err(error.into())));
            };
            self.entries = entries.into_iter();
        }
    }
}

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
    pub(crate) fn spawn(self) -> Subscription {
        let (to, batches) = mpsc::channel(BATCHES_MAX);
        let (fail, failed) = oneshot::channel();
        let core = self.core.clone();
        core.subscriptions.spawn(self.run(to, fail));
        Subscription {
            batches,
            entries: Vec::new().into_iter(),
            failed,
        }
    }

    async fn run(
        self,
        to: mpsc::Sender<Vec<WalEntry>>,
        fail: oneshot::Sender<mainstay_storage::Error>,
    ) {
        let mut stopping = self.core.stopping.subscribe();
        // Nobody waits for a reader that does not read when this node stops.
        tokio::select! {
            biased;
            _ = stopped(&mut stopping) => {}
            _ = to.closed() => {}
            error = self.feed(&to) => if let Some(error) = error {
                // Whoever dropped the stream does not want to know.
                let _ = fail.send(error);
            },
        }
    }

    /// Reads and sends until something ends it: an error, or the log with `None`.
    async fn feed(self, to: &mpsc::Sender<Vec<WalEntry>>) -> Option<mainstay_storage::Error> {
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
            if more {
                if canary("drop-what-a-slow-subscriber-misses") {
                    let _ = to.try_send(batch);
                    continue;
                }
                to.send(batch).await.ok()?;
            }
            if failed.is_some() {
                return failed;
            }
            if !more && core.wal.commit().reached(upto + 1).await.is_err() {
                return core.wal.poisoned();
            }
        }
    }
}

/// A batch, and why it is the last one.
fn read_batch(
    reader: &mut WalReader,
    upto: Lsn,
) -> (Vec<WalEntry>, Option<mainstay_storage::Error>) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < BATCH_ENTRIES_MAX && bytes < BATCH_BYTES_MAX {
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
