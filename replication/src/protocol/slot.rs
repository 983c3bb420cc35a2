//! Slots: what log is kept, and for whom.
//!
//! A slot holds log back from removal for one consumer, also while that is away. Everything that
//! lets log go is durable before it counts, in two steps: a change is made here, the driver writes
//! [`SlotSet::encode`] to disk, and [`SlotSet::persisted`] with the generation it wrote makes the
//! change count for retention. Whatever keeps more log counts at once. A slot that holds back too
//! much is invalidated, durably, and never streams again. This room touches no file.

use std::collections::BTreeMap;
use std::fmt;

use mainstay_storage::{Lsn, canary};

mod carried;
mod error;
mod safety;
mod text;

pub use error::{SlotError, check_slot_name};
pub use safety::{Keep, WalStatus};
pub use text::SlotsTextError;

/// Most slots at a time where nothing else is configured, those being dropped included.
pub const SLOTS_DEFAULT: usize = 10;
/// Most slots that can be configured.
pub const SLOTS_MAX: usize = 32;
/// Longest slot name in bytes.
pub const SLOT_NAME_BYTES_MAX: usize = 63;
/// Longest text that [`SlotSet::decode`] reads, in bytes.
pub const SLOTS_BYTES_MAX: usize = 4096;

/// What reads from a slot.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum SlotKind {
    /// A standby or an archiver: log bytes.
    Physical,
    /// A subscriber: decoded changes.
    Logical,
}

impl SlotKind {
    /// PostgreSQL's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// One slot as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// What reads from it.
    pub kind: SlotKind,
    /// Whether it ends with its session and is never written to disk.
    pub temporary: bool,
    /// Log from here on is still needed; zero for a slot that reserves nothing yet.
    pub restart_lsn: Lsn,
    /// What the consumer confirmed; never below `restart_lsn`.
    pub confirmed: Lsn,
    /// Whether it held back too much and was given up.
    pub invalidated: bool,
    /// The session that uses it.
    pub active: Option<u64>,
    /// It is the primary's, and only kept here in case this node becomes the primary.
    pub carried: bool,
    /// Since when nobody uses it, in microseconds since 1970, as far as this node's process knows.
    pub inactive_since: Option<i64>,
    /// What retention keeps for it: the lowest `restart_lsn` that may be on disk.
    held: Lsn,
    /// The generation of its last change.
    changed: u64,
    /// It was dropped; it stays until that is durable.
    dropped: bool,
}

/// All slots of a node. Invariants: at most [`SLOTS_MAX`]; `restart_lsn` never falls; retention
/// never passes what is durable.
#[derive(Debug, Clone)]
pub struct SlotSet {
    slots: BTreeMap<String, Slot>,
    max: usize,
    generation: u64,
    persisted: u64,
}

impl SlotSet {
    /// No slots, and room for [`SLOTS_DEFAULT`].
    pub fn new() -> Self {
        Self {
            slots: BTreeMap::new(),
            max: SLOTS_DEFAULT,
            generation: 0,
            persisted: 0,
        }
    }

    /// Creates no more slots once there are `max`, at most [`SLOTS_MAX`].
    pub fn limit(&mut self, max: usize) {
        self.max = max.min(SLOTS_MAX);
    }

    /// Creates a slot that needs log from `restart_lsn` on (zero: nothing yet), which is kept from
    /// now on. Tell the client only when it is persisted.
    ///
    /// # Errors
    /// For a bad or taken name, and when there are too many.
    pub fn create(
        &mut self,
        name: &str,
        kind: SlotKind,
        restart_lsn: Lsn,
        temporary: bool,
    ) -> Result<&Slot, SlotError> {
        check_slot_name(name)?;
        if !self.slots.contains_key(name) && self.slots.len() >= self.max {
            return Err(SlotError::Full(self.max));
        }
        self.insert(name, kind, restart_lsn, temporary)
    }

    fn insert(
        &mut self,
        name: &str,
        kind: SlotKind,
        restart_lsn: Lsn,
        temporary: bool,
    ) -> Result<&Slot, SlotError> {
        check_slot_name(name)?;
        if self.slots.contains_key(name) {
            return Err(SlotError::Exists(name.to_owned()));
        }
        if self.slots.len() >= SLOTS_MAX {
            return Err(SlotError::Full(SLOTS_MAX));
        }
        let changed = if temporary {
            self.persisted
        } else {
            self.change()
        };
        Ok(self.slots.entry(name.to_owned()).or_insert(Slot {
            name: name.to_owned(),
            kind,
            temporary,
            restart_lsn,
            confirmed: restart_lsn,
            invalidated: false,
            active: None,
            carried: false,
            inactive_since: None,
            held: restart_lsn,
            changed,
            dropped: false,
        }))
    }

    /// Drops a slot; its log is kept until that is persisted.
    ///
    /// # Errors
    /// When it does not exist or is in use.
    pub fn drop_slot(&mut self, name: &str) -> Result<(), SlotError> {
        let slot = self.find(name)?;
        if let Some(session) = slot.active {
            let name = name.to_owned();
            return Err(SlotError::Active { name, session });
        }
        if slot.temporary {
            self.slots.remove(name);
            return Ok(());
        }
        let changed = self.change();
        let slot = self.find(name)?;
        (slot.dropped, slot.changed) = (true, changed);
        Ok(())
    }

    /// Gives a slot to `session`, to stream from it.
    ///
    /// # Errors
    /// When it does not exist, is in use, was invalidated, or is of the other kind.
    pub fn acquire(
        &mut self,
        name: &str,
        kind: SlotKind,
        session: u64,
    ) -> Result<&Slot, SlotError> {
        let slot = self.find(name)?;
        let name = || name.to_owned();
        if slot.kind != kind {
            let kind = slot.kind;
            return Err(SlotError::WrongKind { name: name(), kind });
        }
        if slot.invalidated {
            return Err(SlotError::Invalidated(name()));
        }
        match slot.active {
            Some(other) if other != session => {
                let session = other;
                Err(SlotError::Active {
                    name: name(),
                    session,
                })
            }
            _ => {
                slot.active = Some(session);
                Ok(slot)
            }
        }
    }

    /// Takes back what `session` streamed from; its temporary slots stay its own.
    pub fn release(&mut self, session: u64) {
        let mine = |slot: &&mut Slot| slot.active == Some(session) && !slot.temporary;
        for slot in self.slots.values_mut().filter(mine) {
            slot.active = None;
        }
    }

    /// Takes back all that `session` has, which is over: its temporary slots go.
    pub fn end_session(&mut self, session: u64) {
        self.release(session);
        self.slots.retain(|_, slot| slot.active != Some(session));
    }

    /// Notes that the consumer of `name` needs log only from `restart_lsn` on and confirmed
    /// `confirmed`. Positions that do not climb change nothing. True if something is to persist.
    ///
    /// # Errors
    /// When the slot does not exist or was invalidated.
    pub fn advance(
        &mut self,
        name: &str,
        restart_lsn: Lsn,
        confirmed: Lsn,
    ) -> Result<bool, SlotError> {
        let next = self.generation + 1;
        let slot = self.find(name)?;
        if slot.invalidated {
            return Err(SlotError::Invalidated(name.to_owned()));
        }
        let before = (slot.restart_lsn, slot.confirmed);
        if slot.restart_lsn.is_zero() {
            // Reserves for the first time: keeping more needs no disk.
            slot.held = restart_lsn;
        }
        slot.restart_lsn = slot.restart_lsn.max(restart_lsn);
        slot.confirmed = slot.confirmed.max(confirmed).max(slot.restart_lsn);
        if before == (slot.restart_lsn, slot.confirmed) {
            return Ok(false);
        }
        if slot.temporary {
            slot.held = slot.restart_lsn;
            return Ok(false);
        }
        if canary("slot-counts-before-it-is-durable") {
            slot.held = slot.restart_lsn;
        }
        slot.changed = next;
        self.generation = next;
        Ok(true)
    }

    /// Invalidates slots that hold back more than `keep_bytes_max` before `end`, the end of the
    /// log, and names them. Their log is kept until that is persisted; end their sessions.
    pub fn enforce(&mut self, end: Lsn, keep_bytes_max: u64) -> Vec<String> {
        self.invalidate(|slot| {
            let holds = !slot.restart_lsn.is_zero();
            holds && end.bytes_since(slot.restart_lsn) > keep_bytes_max
        })
    }

    /// Notes the time for slots that nobody uses any more, in microseconds since 1970.
    pub fn note_idle(&mut self, now_us: i64) {
        for slot in self.slots.values_mut() {
            match slot.active {
                Some(_) => slot.inactive_since = None,
                None => _ = slot.inactive_since.get_or_insert(now_us),
            }
        }
    }

    /// Invalidates slots that hold back log and that nobody has used for more than `idle_us`, and
    /// names them; carried ones are the primary's to judge. As for [`enforce`](Self::enforce).
    pub fn expire(&mut self, now_us: i64, idle_us: i64) -> Vec<String> {
        let idle = |slot: &Slot| {
            let since = slot.inactive_since.filter(|_| slot.active.is_none());
            let long = since.is_some_and(|since| now_us.saturating_sub(since) > idle_us);
            long && !slot.restart_lsn.is_zero() && !slot.carried
        };
        self.invalidate(idle)
    }

    fn invalidate(&mut self, given_up: impl Fn(&Slot) -> bool) -> Vec<String> {
        let next = self.generation + 1;
        let mut names = Vec::new();
        for slot in self.slots.values_mut() {
            if !slot.invalidated && !slot.dropped && given_up(slot) {
                (slot.invalidated, slot.changed) = (true, next);
                names.push(slot.name.clone());
            }
        }
        if !names.is_empty() {
            self.generation = next;
        }
        names
    }

    /// What to write to disk now, if something changed since the last [`persisted`]: the
    /// generation and the text.
    ///
    /// [`persisted`]: Self::persisted
    pub fn unsaved(&self) -> Option<(u64, String)> {
        (self.generation > self.persisted).then(|| (self.generation, self.encode()))
    }

    /// Notes that the text of `generation` is durable: what changed up to it counts for retention.
    ///
    /// # Panics
    /// For a generation that was never given out.
    pub fn persisted(&mut self, generation: u64) {
        let newest = self.generation;
        assert!(generation <= newest, "generation {generation} of {newest}");
        self.persisted = self.persisted.max(generation);
        let durable = self.persisted;
        self.slots
            .retain(|_, slot| !(slot.dropped && slot.changed <= durable));
        for slot in self
            .slots
            .values_mut()
            .filter(|slot| slot.changed <= durable)
        {
            slot.held = slot.restart_lsn;
        }
    }

    /// Whether everything about the slot `name`, its absence too, is durable.
    pub fn is_durable(&self, name: &str) -> bool {
        let slot = self.slots.get(name);
        slot.is_none_or(|slot| !slot.dropped && slot.changed <= self.persisted)
    }

    /// The oldest position that some slot needs; log below it may go. `None` if no slot needs any.
    pub fn retain_from(&self) -> Option<Lsn> {
        let durable = self.persisted;
        let holds = |slot: &&Slot| !(slot.invalidated && slot.changed <= durable);
        let held = self.slots.values().filter(holds).map(|slot| slot.held);
        held.filter(|held| !held.is_zero()).min()
    }

    /// The slot `name`.
    pub fn get(&self, name: &str) -> Option<&Slot> {
        self.slots.get(name).filter(|slot| !slot.dropped)
    }

    /// All slots by name.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().filter(|slot| !slot.dropped)
    }

    fn change(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn find(&mut self, name: &str) -> Result<&mut Slot, SlotError> {
        let slot = self.slots.get_mut(name).filter(|slot| !slot.dropped);
        slot.ok_or_else(|| SlotError::Missing(name.chars().take(SLOT_NAME_BYTES_MAX).collect()))
    }
}

impl Default for SlotSet {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
