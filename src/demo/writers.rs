//! Writers that keep writing whatever happens, and that never call a write done before it is
//! acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::cluster::Member;
use super::ledger::Ledger;
use super::rows::{Item, Source, order};
use crate::cli::Failure;
use crate::client::ClientError;
use crate::import::put_op;
use crate::units::to_f64;

/// Rows in one transaction of the load.
const LOAD_ROWS: usize = 1000;

/// Transactions of the load that are under way at once.
pub(crate) const LOADERS: usize = 4;

/// Writers that keep writing.
pub(crate) const WRITERS: u64 = 4;

/// How often each of them writes: a moderate load.
const PACE: Duration = Duration::from_millis(5);

/// How long a writer waits before it tries again.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// Numbers of the orders that writer n writes begin here, n times.
const ORDERS_OF_A_WRITER: u64 = 1_000_000_000;

/// Where to write, and since when.
#[derive(Debug)]
pub(crate) struct Target {
    primary: RwLock<(u32, Member)>,
    stop: AtomicBool,
    /// When the first write to a later primary than the first was acknowledged.
    resumed: Mutex<Option<Instant>>,
}

impl Target {
    pub(crate) fn new(primary: Member) -> Self {
        Self {
            primary: RwLock::new((0, primary)),
            stop: AtomicBool::new(false),
            resumed: Mutex::new(None),
        }
    }

    /// From now on writes go to `primary`.
    pub(crate) fn set(&self, primary: Member) {
        let mut current = self.primary.write();
        *current = (current.0 + 1, primary);
    }

    /// Ends the writers, each after its current write is acknowledged.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// When the first write to the new primary was acknowledged.
    pub(crate) fn resumed(&self) -> Option<Instant> {
        *self.resumed.lock()
    }

    /// Writes `item` until it is acknowledged, wherever the primary is then; `false` when told to
    /// stop before.
    pub(crate) fn put(&self, item: &Item, ledger: &Ledger) -> bool {
        loop {
            let (term, primary) = self.primary.read().clone();
            let value = item.value.clone().into_bytes();
            match primary.client.put(item.table, item.key.as_bytes(), value) {
                Ok(written) => {
                    if term > 0 {
                        self.resumed.lock().get_or_insert_with(Instant::now);
                    }
                    ledger.acknowledge([item], &written.lsn);
                    return true;
                }
                Err(_) if self.is_stopped() => {
                    ledger.leave_unsettled(item);
                    return false;
                }
                // The same row again, elsewhere: it is the same write.
                Err(_) => std::thread::sleep(RETRY_AFTER),
            }
        }
    }
}

/// Writes orders until told to stop.
pub(crate) fn keep_writing(writer: u64, target: &Target, ledger: &Ledger) {
    let mut number = (writer + 1) * ORDERS_OF_A_WRITER;
    while !target.is_stopped() {
        let began = Instant::now();
        target.put(&order(number, number % 9973), ledger);
        number += 1;
        std::thread::sleep(PACE.saturating_sub(began.elapsed()));
    }
}

/// A load and how far it is.
pub(crate) struct Load {
    source: Mutex<Source>,
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
    failed: Mutex<Option<Failure>>,
}

impl Load {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source: Mutex::new(source),
            rows: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failed: Mutex::new(None),
        }
    }

    /// Loads batches until there are no more, or some loader failed.
    pub(crate) fn run(&self, primary: &Member, ledger: &Ledger) {
        loop {
            let done = match self.next_batch() {
                Ok(batch) if batch.is_empty() => return,
                Ok(batch) => self.write(primary, &batch, ledger).map_err(Failure::from),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = done {
                self.failed.lock().get_or_insert(failure);
                return;
            }
        }
    }

    /// What went wrong, if something did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failed.lock().take()
    }

    fn next_batch(&self) -> Result<Vec<Item>, Failure> {
        let mut source = self.source.lock();
        let mut batch = Vec::new();
        while batch.len() < LOAD_ROWS && self.failed.lock().is_none() {
            match source.next()? {
                Some(item) => batch.push(item),
                None => break,
            }
        }
        Ok(batch)
    }

    fn write(&self, primary: &Member, batch: &[Item], ledger: &Ledger) -> Result<(), ClientError> {
        let mut ops = "{\"ops\":[".to_owned();
        for (at, item) in batch.iter().enumerate() {
            if at > 0 {
                ops.push(',');
            }
            put_op(&mut ops, item.table, &item.key, &item.value);
        }
        ops += "]}";
        let written = primary.client.transaction(ops.into_bytes())?;
        ledger.acknowledge(batch, &written.lsn);
        let bytes = batch.iter().map(Item::len).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.rows.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Millions of bytes a second.
pub(crate) fn mb_per_s(bytes: u64, took: Duration) -> f64 {
    to_f64(bytes) / 1e6 / took.as_secs_f64().max(1e-9)
}
