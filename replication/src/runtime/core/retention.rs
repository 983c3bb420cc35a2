//! From where on log is kept for others than the store: slots, pins, the configured reserve.
//!
//! A pin keeps log for as long as something runs, and ends with it. A slot that holds back more
//! than it may is durably invalidated before what it held is given up.
//!
//! It refuses to know who removes log, and what the store needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_storage::Lsn;
use parking_lot::Mutex;

use super::Core;
use crate::event::ReplicationEvent;

/// Positions from which log is kept for something that runs.
#[derive(Debug, Default)]
pub(super) struct Pins {
    held: Mutex<BTreeMap<u64, Lsn>>,
    next: AtomicU64,
}

/// Keeps log until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Arc<Pins>,
    key: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.held.lock().remove(&self.key);
    }
}

impl Core {
    /// Keeps log from `from` on until the pin is dropped.
    pub(crate) fn pin(&self, from: Lsn) -> Pin {
        let key = self.pins.next.fetch_add(1, Ordering::Relaxed);
        self.pins.held.lock().insert(key, from);
        Pin {
            pins: self.pins.clone(),
            key,
        }
    }

    /// The oldest log that something which runs needs.
    pub(crate) fn pinned_from(&self) -> Option<Lsn> {
        self.pins.held.lock().values().min().copied()
    }

    /// Log from here on is needed by a slot, a backup, or the configured reserve.
    pub(crate) fn retain_from(&self) -> Lsn {
        let flushed = self.wal.flushed().get();
        if let Some(max) = self.config.max_slot_wal_keep_size {
            match self.slots.change(|slots| Ok(slots.enforce(flushed, max))) {
                Ok(Ok(lost)) => lost.iter().for_each(|slot| {
                    tracing::error!(%slot, "invalidated a slot that held back too much log");
                    let slot = slot.to_string();
                    self.observer.tell(ReplicationEvent::SlotLost { slot });
                }),
                Ok(Err(error)) => tracing::warn!(%error, "cannot limit a slot"),
                Err(error) => tracing::warn!(%error, "cannot limit a slot"),
            }
        }
        let end = flushed.get();
        let reserve = Lsn::new(end.saturating_sub(self.config.wal_keep_size));
        let pinned = self.pinned_from().unwrap_or(Lsn::MAX);
        let slots = self.slots.retain_from().unwrap_or(Lsn::MAX);
        reserve.min(pinned).min(slots)
    }
}
