//! Operators' orders that turn a node: handing the primary's place over, and finding its way anew.

use mainstay_replication::protocol::promotion::Purpose;
use mainstay_storage::{Lsn, Timeline};

use super::{Done, Node, Role, World};
use crate::sim::name_of;
use crate::sim::net::Packet;

/// How long the standby may take until it has everything, and to answer, in microseconds.
const PATIENCE: u64 = 5_000_000;

/// The primary's place is being handed over.
#[derive(Debug)]
pub(super) enum Handover {
    /// By this primary, which takes no writes meanwhile.
    Away { to: usize, until: u64, asked: bool },
    /// To this standby, by the node `from`.
    Here { from: usize },
}

impl Handover {
    pub(super) fn deadline(&self) -> Option<u64> {
        match self {
            Self::Away { until, .. } => Some(*until),
            Self::Here { .. } => None,
        }
    }
}

impl Node {
    /// An operator tells this primary to hand its place over to `to`.
    pub(in crate::sim) fn hand_over(&mut self, to: usize, world: &mut World<'_>) -> Done {
        let streams = self.streams_to(to);
        let life = self.life();
        let free = life.standstill.is_none() && life.candidate.is_none();
        if life.role == Role::Primary && free && life.handover.is_none() && streams {
            let until = world.local + PATIENCE;
            let asked = false;
            life.handover = Some(Handover::Away { to, until, asked });
            let (from, to) = (&self.name, name_of(to));
            world.tell(format!("{from} hands over to {to}"));
            self.pump(world)?;
        }
        Ok(())
    }

    /// Asks the standby to take over once it has everything, and everything is committed.
    pub(super) fn pump_handover(&mut self, world: &mut World<'_>) -> Done {
        let Some(life) = &self.life else {
            return Ok(());
        };
        let Some(Handover::Away {
            to, asked: false, ..
        }) = life.handover
        else {
            return Ok(());
        };
        let (end, commit) = (life.wal.appended(), life.wal.commit().get());
        let there = life.confirmed.get(&name_of(to));
        if commit == end && there.is_some_and(|there| *there >= end) {
            let (from, timeline) = (self.index, life.wal.timeline());
            if let Some(Handover::Away { asked, .. }) = &mut self.life().handover {
                *asked = true;
            }
            let order = Packet::TakeOver {
                from,
                timeline,
                end,
            };
            self.cast(to, order, world);
        }
        Ok(())
    }

    /// A primary that hears nothing does not know, and confirms nothing any more.
    pub(super) fn tick_handover(&mut self, world: &mut World<'_>) -> Done {
        let Some(Handover::Away { until, asked, .. }) = self.life().handover else {
            return Ok(());
        };
        if until > world.local {
            return Ok(());
        }
        self.life().handover = None;
        match asked {
            true => self.step_down(world),
            false => Ok(()),
        }
    }

    /// A primary asks this standby to take over.
    pub(in crate::sim) fn take_over(
        &mut self,
        from: usize,
        timeline: Timeline,
        end: Lsn,
        world: &mut World<'_>,
    ) -> Done {
        let life = self.life();
        let whole = life.wal.timeline() == timeline && life.wal.flushed().get() >= end;
        let free = life.role == Role::Standby && life.candidate.is_none();
        if !whole || !free || life.copying.is_some() {
            self.cast(from, Packet::TookOver { opened: false }, world);
            return Ok(());
        }
        life.handover = Some(Handover::Here { from });
        self.ask(Purpose::Promote, true, world)?;
        if self.life().candidate.is_none() {
            self.answer_handover(false, world);
        }
        self.pump(world)
    }

    /// The attempt to become the primary is over.
    pub(super) fn answer_handover(&mut self, opened: bool, world: &mut World<'_>) {
        if let Some(Handover::Here { from }) = self.life().handover {
            self.life().handover = None;
            self.cast(from, Packet::TookOver { opened }, world);
        }
    }

    /// The standby says what came of it.
    pub(in crate::sim) fn took_over(&mut self, opened: bool, world: &mut World<'_>) -> Done {
        let life = self.life();
        if !matches!(life.handover, Some(Handover::Away { asked: true, .. })) {
            return Ok(());
        }
        life.handover = None;
        match opened {
            true => self.step_down(world),
            false => Ok(()),
        }
    }

    /// An operator lets this standby find its way anew, or replaces all of its data.
    pub(in crate::sim) fn resync(&mut self, full: bool, world: &mut World<'_>) -> Done {
        let life = self.life();
        let free = life.candidate.is_none() && life.copying.is_none();
        if life.role != Role::Standby || !free {
            return Ok(());
        }
        let own_end = life.wal.flushed().get();
        // A full one is refused while no primary is heard.
        let heard = life.primary_heard.filter(|_| life.upstream.is_some());
        match full {
            true if heard.is_some() => self.want_copy(own_end, world),
            true => {}
            false => {
                self.unfollow(world);
                self.follow(world)?;
            }
        }
        Ok(())
    }
}
