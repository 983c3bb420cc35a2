//! Replication slots, durable before they count.

use bytes::BytesMut;
use mainstay_storage::{Lsn, Wal};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::protocol::slot::{Slot, SlotError, SlotKind, SlotSet};
use crate::runtime::session::Session;
use crate::runtime::wall_clock;
use crate::wire::command::Command;
use crate::wire::result::{CreatedSlot, ResultSet, SlotPosition};
use crate::wire::{BackendMessage, ErrorFields, sqlstate};

/// The slots of a node, kept in its control file.
#[derive(Debug)]
pub(crate) struct Slots {
    set: Mutex<SlotSet>,
    wal: Wal,
}

impl Slots {
    /// Reads the slots; no more are created once there are `max`.
    pub(crate) fn open(wal: Wal, max: usize) -> Result<Self> {
        let text = wal.control().slots;
        let bad = |why: String| Error::Invalid(format!("slots in the control file: {why}"));
        let text = String::from_utf8(text).map_err(|error| bad(error.to_string()))?;
        let mut set = match text.is_empty() {
            true => SlotSet::new(),
            false => SlotSet::decode(&text).map_err(|error| bad(error.to_string()))?,
        };
        set.limit(max);
        set.note_idle(wall_clock());
        Ok(Self {
            set: Mutex::new(set),
            wal,
        })
    }

    /// Changes the slots, and makes the change durable before it counts.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut SlotSet) -> Result<T, SlotError>,
    ) -> Result<Result<T, SlotError>> {
        let mut set = self.set.lock();
        let changed = change(&mut set);
        set.note_idle(wall_clock());
        if let Some((generation, text)) = set.unsaved() {
            self.wal
                .update_control(|control| control.slots = text.into_bytes())?;
            set.persisted(generation);
        }
        Ok(changed)
    }

    /// The oldest position that a durable slot needs.
    pub(crate) fn retain_from(&self) -> Option<Lsn> {
        self.set.lock().retain_from()
    }

    /// Gives back what a session streamed from.
    pub(crate) fn release(&self, session: u64) {
        let mut set = self.set.lock();
        set.release(session);
        set.note_idle(wall_clock());
    }

    /// Gives back all that a session has, which is over.
    pub(crate) fn end_session(&self, session: u64) {
        let mut set = self.set.lock();
        set.end_session(session);
        set.note_idle(wall_clock());
    }

    /// The slots as they stand.
    pub(crate) fn all(&self) -> Vec<Slot> {
        self.set.lock().iter().cloned().collect()
    }

    /// What standbys are told of them.
    pub(crate) fn positions(&self) -> Vec<(String, Lsn)> {
        self.set.lock().positions()
    }

    fn position(&self, name: &str) -> Option<Lsn> {
        self.set.lock().get(name).map(|slot| slot.restart_lsn)
    }
}

/// The answer to a command: rows, or why not.
pub(crate) type Answer = Result<ResultSet, Box<ErrorFields>>;

impl Session {
    pub(crate) fn read_slot(&self, slot: &str) -> Answer {
        let timeline = self.history_shown().current().number;
        let position = self.core.slots.position(slot);
        let known = position.map(|restart| SlotPosition {
            restart: (!restart.is_zero()).then_some((restart, timeline)),
        });
        Ok(SlotPosition::result(known))
    }

    pub(crate) fn create_slot(&mut self, slot: &str, temporary: bool, reserve: bool) -> Answer {
        // Log that a running backup keeps is for the stream of its client.
        let pinned = self.core.pinned_from().unwrap_or(Lsn::MAX);
        let from = match reserve {
            true => {
                let needed = self.core.wal.control().checkpoint.min(pinned);
                needed.max(self.core.wal.oldest())
            }
            false => Lsn::ZERO,
        };
        let session = self.number;
        let created = self.core.slots.change(|slots| {
            slots.create(slot, SlotKind::Physical, from, temporary)?;
            if temporary {
                slots.acquire(slot, SlotKind::Physical, session)?;
            }
            Ok(())
        });
        settled(created)?;
        self.core.log_slots(false);
        Ok(CreatedSlot::physical(slot).result())
    }

    /// Answers without columns: stock tools take a result set here for a failure.
    pub(crate) fn drop_slot(&mut self, slot: &str) {
        match settled(self.core.drop_slot(slot)) {
            Ok(()) => self.complete("DROP_REPLICATION_SLOT"),
            Err(fields) => self.error(*fields),
        }
    }

    /// The answer to a command without rows.
    fn complete(&mut self, tag: &str) {
        let mut out = BytesMut::new();
        BackendMessage::CommandComplete(tag.to_owned()).encode(&mut out);
        self.link.queue(out.freeze());
        self.ready();
    }

    /// Serves a stream or a base backup, unless this node may not yet, or that is one more than is
    /// configured.
    pub(crate) async fn send(&mut self, command: Command) -> Result<()> {
        if self.core.is_restarting() {
            let text = "this primary restarted and asks the members whether it may go on";
            self.error(ErrorFields::error(sqlstate::CANNOT_CONNECT_NOW, text));
            return Ok(());
        }
        if let Some(_sending) = self.core.begin_sending() {
            return match command {
                Command::StartReplication(start) => self.start_replication(start).await,
                Command::BaseBackup(options) => self.base_backup(options).await,
                _ => unreachable!("the caller brings these alone"),
            };
        }
        let max = self.core.config.max_wal_senders;
        let text = format!(
            "number of requested standby connections exceeds max_wal_senders (currently {max})"
        );
        self.error(ErrorFields::error(sqlstate::TOO_MANY_CONNECTIONS, text));
        Ok(())
    }

    /// Takes a slot for this session's stream.
    pub(crate) fn acquire_slot(&mut self, slot: &str) -> Result<(), Box<ErrorFields>> {
        let session = self.number;
        settled(
            self.core
                .slots
                .change(|slots| slots.acquire(slot, SlotKind::Physical, session).map(|_| ())),
        )
    }
}

fn settled<T>(changed: Result<Result<T, SlotError>>) -> Result<T, Box<ErrorFields>> {
    match changed {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let fields = ErrorFields::error(error.sqlstate(), error.to_string());
            Err(Box::new(match error.hint() {
                Some(hint) => fields.with_hint(hint),
                None => fields,
            }))
        }
        Err(error) => Err(Box::new(ErrorFields::error("58030", error.to_string()))),
    }
}
