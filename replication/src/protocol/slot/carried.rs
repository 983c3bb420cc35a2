//! The primary's slots on its standbys, which keep them in case they become the primary.
//!
//! Positions come with the log and are somewhat old; a consumer says itself from where on it goes
//! on, so an old one only keeps more log.

use mainstay_storage::Lsn;

use super::{SlotKind, SlotSet};

impl SlotSet {
    /// What standbys are told: the physical slots that outlive their sessions and still hold log,
    /// by name, each with what it needs.
    pub fn positions(&self) -> Vec<(String, Lsn)> {
        let told = self
            .iter()
            .filter(|slot| slot.kind == SlotKind::Physical && !slot.temporary && !slot.invalidated);
        told.map(|slot| (slot.name.clone(), slot.restart_lsn))
            .collect()
    }

    /// Brings what is carried up to date with `told`, the primary's slots: new ones are kept from
    /// now on, those that are gone there are dropped once nobody uses them here.
    pub fn carry(&mut self, told: &[(String, Lsn)]) {
        let gone = self.iter().filter(|slot| {
            let known = told.iter().any(|(name, _)| *name == slot.name);
            slot.carried && slot.active.is_none() && !known
        });
        for name in gone.map(|slot| slot.name.clone()).collect::<Vec<_>>() {
            // It is there, and nobody uses it.
            let _ = self.drop_slot(&name);
        }
        for (name, at) in told {
            // One that is being dropped, or is too many, comes with the next look.
            if self.get(name).is_none()
                && self.insert(name, SlotKind::Physical, *at, false).is_err()
            {
                continue;
            }
            let next = self.generation + 1;
            let slot = self.slots.get_mut(name).filter(|slot| !slot.temporary);
            if let Some(slot) = slot.filter(|slot| !slot.carried && !slot.invalidated) {
                (slot.carried, slot.changed) = (true, next);
                self.generation = next;
            }
            // One that was given up here is lost here.
            let _ = self.advance(name, *at, *at);
        }
    }

    /// Makes the primary's slots, `told` last, this node's own, except for `mine`, through which
    /// it followed.
    pub fn take_over(&mut self, told: &[(String, Lsn)], mine: Option<&str>) {
        self.carry(told);
        let next = self.generation + 1;
        for slot in self.slots.values_mut().filter(|slot| slot.carried) {
            (slot.carried, slot.changed) = (false, next);
            self.generation = next;
        }
        if let Some(mine) = mine.filter(|mine| told.iter().any(|(name, _)| name == mine)) {
            // Whoever uses it now keeps it.
            let _ = self.drop_slot(mine);
        }
    }
}
