//! Slots and the removal of log: what a node keeps for whom.

use mainstay_replication::protocol::slot::{SlotError, SlotKind};
use mainstay_storage::Lsn;

use super::{Done, Node, Role, Trouble, World, cluster_of};

/// A slot is noted durably once its consumer went on by so many bytes.
const NOTED_EVERY: u64 = 64 << 10;

impl Node {
    /// Gives the standby of this session its slot, from `from` on, and makes it if there is none.
    pub(super) fn take_slot(&mut self, conn: u64, slot: &str, from: Lsn) -> Done<bool> {
        let slots = &mut self.life().slots;
        if let Err(error) = slots.acquire(slot, SlotKind::Physical, conn) {
            let remade = match error {
                SlotError::Active { .. } => return Ok(false),
                // What a standby does whose slot was given up.
                SlotError::Invalidated(_) => slots.drop_slot(slot),
                _ => Ok(()),
            };
            remade.map_err(|error| Trouble::Broken(error.to_string()))?;
            self.save_slots()?;
            let slots = &mut self.life().slots;
            let made = slots
                .create(slot, SlotKind::Physical, from, false)
                .map(|_| ());
            let taken = made.and_then(|()| {
                let taken = slots.acquire(slot, SlotKind::Physical, conn);
                taken.map(|_| ())
            });
            taken.map_err(|error| Trouble::Broken(error.to_string()))?;
            self.save_slots()?;
            self.log_slots(false)?;
        }
        Ok(true)
    }

    /// The consumer of a slot has flushed everything up to `flushed`.
    pub(super) fn advance_slot(&mut self, slot: &str, flushed: Lsn) -> Done {
        let slots = &mut self.life().slots;
        let held = slots.get(slot).map(|slot| slot.restart_lsn);
        if held.is_some_and(|held| flushed >= held + NOTED_EVERY) {
            // One that was given up meanwhile ends with its session.
            let _ = slots.advance(slot, flushed, flushed);
            self.save_slots()?;
            self.log_slots(true)?;
        }
        Ok(())
    }

    fn save_slots(&mut self) -> Done {
        let life = self.life();
        if let Some((generation, text)) = life.slots.unsaved() {
            life.wal
                .update_control(|control| control.slots = text.into_bytes())?;
            life.slots.persisted(generation);
        }
        Ok(())
    }

    /// Tells standbys of this primary's slots, as often as the runtime does.
    fn log_slots(&mut self, moved: bool) -> Done {
        let life = self.life();
        let now = life.slots.positions();
        let free = life.standstill.is_none() && !life.wal.must_begin_timeline();
        let Some(cluster) = life.cluster.as_mut().filter(|_| free) else {
            return Ok(());
        };
        let (names, known) = (now.iter(), cluster.slots.iter());
        let same = names.map(|slot| &slot.0).eq(known.map(|slot| &slot.0));
        let (size, end) = (life.wal.segment_size(), life.wal.appended());
        let rests = size.segment_of(end) == size.segment_of(life.slots_logged);
        if same && (!moved || rests || now == cluster.slots) {
            return Ok(());
        }
        let before = std::mem::replace(&mut cluster.slots, now);
        let logged = self.log_config()?;
        let life = self.life();
        match (logged, &mut life.cluster) {
            (Some(end), _) => life.slots_logged = end,
            (None, Some(cluster)) => cluster.slots = before,
            (None, None) => {}
        }
        Ok(())
    }

    /// Makes the slots that this node carried its own.
    pub(super) fn take_over_slots(&mut self) -> Done {
        let (told, mine) = (cluster_of(&self.life().wal)?, self.name.to_string());
        let told = told.map(|cluster| cluster.slots).unwrap_or_default();
        self.life().slots.take_over(&told, Some(&mine));
        self.save_slots()
    }

    /// Removes log that nobody needs, and gives up slots that hold back too much.
    pub(super) fn remove_log(&mut self, world: &mut World<'_>) -> Done {
        let end = self.life().wal.flushed().get();
        if self.life().role == Role::Standby {
            let told = cluster_of(&self.life().wal)?;
            let told = told.map(|cluster| cluster.slots).unwrap_or_default();
            self.life().slots.carry(&told);
        }
        let lost = self.life().slots.enforce(end, world.plan.slot_keep_max);
        for slot in &lost {
            world.tell(format!("{} gives up the slot {slot}", self.name));
            let sessions = self.life().sessions.iter();
            let its = sessions.filter(|(_, session)| session.slot() == *slot);
            for conn in its.map(|(conn, _)| *conn).collect::<Vec<_>>() {
                self.hang_up(conn, world);
            }
        }
        self.save_slots()?;
        let reserve = Lsn::new(end.get().saturating_sub(world.plan.keep));
        let life = self.life();
        let slots = life.slots.retain_from().unwrap_or(Lsn::MAX);
        let oldest = life.wal.remove_below(reserve.min(slots))?;
        self.tell_sessions_of_removal(oldest, world)
    }
}
