//! Slots beyond their own node: what standbys are told of them, who may stream, what operators see.
//!
//! A primary logs its slots with the configuration: at once when one comes or goes, and else at
//! most once a segment, when a consumer went on. A standby carries them, so that its own log is
//! kept for their consumers and it can go on with them when it becomes the primary.
//!
//! It refuses to know how a slot is made durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Core;
use crate::error::{Error, Result};
use crate::event::ReplicationEvent;
use crate::protocol::slot::{Keep, Slot, SlotError, SlotKind};
use crate::runtime::wall_clock;

/// A stream or a base backup that is being served.
#[derive(Debug)]
pub(crate) struct Sending(Arc<Core>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A slot as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// Its name.
    pub name: String,
    /// What reads from it.
    pub kind: SlotKind,
    /// Whether it ends with its session.
    pub temporary: bool,
    /// Whether it is streamed from.
    pub active: bool,
    /// Whether it is the primary's, and only kept here in case this node becomes the primary.
    pub carried: bool,
    /// Log from here on is still needed; `None` for a slot that reserves nothing yet.
    pub restart_lsn: Option<mainstay_storage::Lsn>,
    /// Bytes of log from there to the end.
    pub retained_bytes: u64,
    /// `reserved`, `extended`, `unreserved` or `lost`; `None` while it reserves nothing.
    pub wal_status: Option<&'static str>,
    /// Since when nobody uses it, in microseconds since 1970; at most since this node started.
    pub inactive_since_us: Option<i64>,
}

impl SlotState {
    fn of(slot: Slot, keep: &Keep) -> Self {
        let reserves = !slot.restart_lsn.is_zero();
        Self {
            wal_status: slot.wal_status(keep).map(|status| status.as_str()),
            retained_bytes: match reserves && !slot.invalidated {
                true => keep.end.bytes_since(slot.restart_lsn),
                false => 0,
            },
            restart_lsn: reserves.then_some(slot.restart_lsn),
            name: slot.name,
            kind: slot.kind,
            temporary: slot.temporary,
            active: slot.active.is_some(),
            carried: slot.carried,
            inactive_since_us: slot.inactive_since,
        }
    }
}

impl Core {
    /// Counts a stream or a base backup while the guard lives; `None` beyond what is configured.
    pub(crate) fn begin_sending(self: &Arc<Self>) -> Option<Sending> {
        let max = self.config.max_wal_senders;
        let more = |count: usize| (count < max).then_some(count + 1);
        let (set, get) = (Ordering::AcqRel, Ordering::Acquire);
        let begun = self.sending.fetch_update(set, get, more);
        begun.ok().map(|_| Sending(self.clone()))
    }

    /// The slots as operators see them, those that a standby carries as its log has them now.
    pub(crate) fn slot_states(&self) -> Vec<SlotState> {
        if !self.is_primary() {
            self.carry_slots();
        }
        let keep = Keep {
            end: self.wal.flushed().get(),
            oldest: self.wal.oldest(),
            reserve: self.config.wal_keep_size,
            slot_max: self.config.max_slot_wal_keep_size,
        };
        let slots = self.slots.all().into_iter();
        slots.map(|slot| SlotState::of(slot, &keep)).collect()
    }

    /// Drops a slot, durably.
    ///
    /// # Errors
    /// Disk errors; the inner ones when it does not exist or is in use.
    pub(crate) fn drop_slot(&self, name: &str) -> Result<Result<(), SlotError>> {
        let dropped = self.slots.change(|slots| slots.drop_slot(name))?;
        self.log_slots(false);
        Ok(dropped)
    }

    /// Tells standbys of the slots, if this is a primary that may write: when one came or went,
    /// and, if `moved`, when one of them went on, but that once a segment.
    pub(crate) fn log_slots(&self, moved: bool) {
        let mut state = self.state.lock();
        if state.committer.is_none() || self.standstill.borrow().is_some() {
            return;
        }
        let now = self.slots.positions();
        let (names, known) = (now.iter(), state.cluster.slots.iter());
        let same = names.map(|slot| &slot.0).eq(known.map(|slot| &slot.0));
        let (size, end) = (self.wal.segment_size(), self.wal.appended());
        let rests = size.segment_of(end) == size.segment_of(state.slots_logged);
        if same && (!moved || rests || now == state.cluster.slots) {
            return;
        }
        let mut cluster = state.cluster.clone();
        cluster.slots = now;
        match self.log_config(&cluster) {
            Ok(end) => (state.cluster, state.slots_logged) = (cluster, end),
            // The next change brings them along.
            Err(Error::NotRunning) => {}
            Err(error) => tracing::warn!(%error, "cannot tell standbys of the slots"),
        }
    }

    /// Brings the primary's slots, which this standby carries, up to date: all but its own, which
    /// nobody would use here. It would hold back what this node has long had.
    pub(super) fn carry_slots(&self) {
        let mut told = self.cluster().slots;
        let mine = self.config.follow_slot.as_ref();
        told.retain(|(name, _)| Some(name) != mine);
        self.settle_slots(self.slots.change(|slots| {
            slots.carry(&told);
            Ok(())
        }));
    }

    /// Makes the slots that this node carried its own, as it becomes the primary.
    pub(super) fn take_over_slots(&self) {
        let told = self.cluster().slots;
        let mine = self.config.follow_slot.as_deref();
        self.settle_slots(self.slots.change(|slots| {
            slots.take_over(&told, mine);
            Ok(())
        }));
    }

    /// Gives up slots that hold back too much, or that nobody has used for too long.
    pub(super) fn limit_slots(&self) {
        let end = self.wal.flushed().get();
        let (max, idle) = (
            self.config.max_slot_wal_keep_size,
            self.config.slot_idle_timeout,
        );
        let idle = idle.map(|idle| i64::try_from(idle.as_micros()).unwrap_or(i64::MAX));
        let limited = self.slots.change(|slots| {
            let large = max.map(|max| slots.enforce(end, max));
            let idle = idle.map(|idle| slots.expire(wall_clock(), idle));
            Ok((large.unwrap_or_default(), idle.unwrap_or_default()))
        });
        let (large, idle) = self.settle_slots(limited).unwrap_or_default();
        for slot in &large {
            tracing::error!(%slot, "invalidated a slot that held back too much log");
            let slot = slot.clone();
            self.observer.tell(ReplicationEvent::SlotLost { slot });
        }
        for slot in &idle {
            tracing::error!(%slot, "invalidated a slot that nobody used for too long");
            let slot = slot.clone();
            self.observer.tell(ReplicationEvent::SlotLost { slot });
        }
        if !(large.is_empty() && idle.is_empty()) {
            self.log_slots(false);
        }
    }

    fn settle_slots<T>(&self, changed: Result<Result<T, SlotError>>) -> Option<T> {
        match changed {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => tracing::warn!(%error, "cannot change slots"),
            Err(error) => tracing::warn!(%error, "cannot change slots"),
        }
        None
    }
}
