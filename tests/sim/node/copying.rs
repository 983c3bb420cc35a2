//! Copies of a node's data: serving one, and living on one.
//!
//! A copy is a store's durable rows with the log from where their replay begins up to what is
//! committed. It is made at one moment and travels as a whole; what can fail on the way is that it
//! never comes, or late.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{LogBytes, Lsn, MemoryStore, NewLog, SimDisk, Store, Wal};
use uuid::Uuid;

use super::reading::COPY;
use super::{DIR, Done, Node, World, options};
use crate::sim::net::{Copy, Packet};

/// Pause before a copy is asked for again, in microseconds.
const AGAIN: u64 = 2_000_000;

impl Node {
    /// Another node wants a copy.
    pub(in crate::sim) fn give_copy(
        &mut self,
        to: usize,
        attempt: u64,
        world: &mut World<'_>,
    ) -> Done {
        let life = self.life();
        if life.copying.is_some() {
            return Ok(());
        }
        // A power cut may take the memory of what was committed further back than the store.
        let end = life.wal.commit().get().min(life.wal.flushed().get());
        let end = end.max(self.store.durable());
        self.checkpoint(end)?;
        let store = self.snapshot()?;
        let life = self.life();
        let wal = life.wal.clone();
        let (control, size) = (wal.control(), wal.segment_size());
        let begin = size.start_of(size.segment_of(control.checkpoint));
        if begin > end || begin < wal.oldest() {
            return Ok(());
        }
        let mut log = Vec::new();
        let (mut bytes, mut at) = (LogBytes::new(wal.clone()), begin);
        while at < end {
            let more = bytes.read(at, end, 1 << 20)?;
            log.extend_from_slice(&more);
            at = at + more.len() as u64;
        }
        let copy = Copy {
            store,
            system_id: wal.identity().system_id,
            history: wal.history().reached(end),
            begin,
            replay: control.checkpoint,
            log: log.into(),
            end,
        };
        let copy = Box::new(copy);
        self.cast(to, Packet::Copy { attempt, copy }, world);
        Ok(())
    }

    /// Asks some node for a copy, and again after a while.
    pub(super) fn ask_for_copy(&mut self, world: &mut World<'_>) {
        self.attempts += 1;
        let (from, attempt) = (self.index, self.attempts);
        let others = world.up.len() - 1;
        let to = (from + 1 + world.random.index(others)) % world.up.len();
        self.cast(to, Packet::AskCopy { from, attempt }, world);
        if let Some(life) = &mut self.life {
            let at_least = life.copying.map_or(Lsn::ZERO, |(_, at_least)| at_least);
            life.copying = Some((world.local + AGAIN, at_least));
        }
    }

    /// Follows nobody any more, since a copy is to take the place of these data. One that ends
    /// below `at_least` is not taken.
    pub(super) fn want_copy(&mut self, at_least: Lsn, world: &mut World<'_>) {
        world.tell(format!("{} wants a copy", self.name));
        self.unfollow(world);
        for conn in self.life().sessions.keys().copied().collect::<Vec<_>>() {
            self.hang_up(conn, world);
        }
        self.life().copying = Some((world.local, at_least));
        self.ask_for_copy(world);
    }

    /// Asks again; data that are as good as ever are gone on with instead.
    pub(super) fn tick_copying(&mut self, world: &mut World<'_>) -> Done {
        let copying = self.life.as_ref().and_then(|life| life.copying);
        match copying.filter(|(at, _)| *at <= world.local) {
            Some((_, at_least)) if at_least.is_zero() => self.ask_for_copy(world),
            Some(_) => {
                self.life().copying = None;
                return self.follow(world);
            }
            None => {}
        }
        Ok(())
    }

    /// A copy has come.
    pub(in crate::sim) fn take_copy(
        &mut self,
        attempt: u64,
        copy: &Copy,
        world: &mut World<'_>,
    ) -> Done {
        if attempt != self.attempts {
            return Ok(());
        }
        let mut promises = (None, None);
        if let Some(life) = &self.life {
            let Some((_, at_least)) = life.copying else {
                return Ok(());
            };
            let control = life.wal.control();
            promises = (control.promised(), control.attempted());
            if !at_least.is_zero() && copy.end < at_least {
                world.tell(format!("{} goes on with its own data", self.name));
                self.life().copying = None;
                return self.follow(world);
            }
            self.stop(None, world);
        } else if !self.empty {
            return Ok(());
        }
        self.install(copy, promises, world)?;
        self.start(false, world)
    }

    fn install(
        &mut self,
        copy: &Copy,
        promises: (
            Option<mainstay_storage::Timeline>,
            Option<mainstay_storage::Timeline>,
        ),
        world: &mut World<'_>,
    ) -> Done {
        world.tell(format!("{} gets a copy up to {}", self.name, copy.end));
        self.disk = SimDisk::new(world.random.next());
        let new = NewLog {
            system_id: copy.system_id,
            node_id: self.node_id,
            history: copy.history.clone(),
            begin: copy.begin,
            checkpoint: copy.replay,
            own: false,
            store_created: true,
        };
        let disk = Arc::new(self.disk.clone());
        let wal = Wal::create(disk, Path::new(DIR), new, &options())?;
        wal.set_commit_follows(false);
        let incarnation = Uuid::from_u64_pair(world.random.next(), world.random.next());
        wal.update_control(|control| control.incarnation = *incarnation.as_bytes())?;
        if !copy.log.is_empty() {
            let taken = wal.append_raw(copy.begin, &Bytes::clone(&copy.log))?;
            assert_eq!(taken, copy.end, "a copy's log ends at a record");
        }
        while wal.flushed().get() < wal.appended() {
            wal.drive();
        }
        wal.advance_commit(copy.end);
        wal.save_promises(promises.0, promises.1)?;
        wal.close()?;
        self.open_store(copy.store.copy())?;
        (self.empty, self.missing, self.rotten) = (false, true, false);
        self.proven = Lsn::ZERO;
        Ok(())
    }

    fn open_store(&mut self, copy: SimDisk) -> Done {
        self.store = MemoryStore::open_snapshot(Arc::new(copy.clone()), Path::new(COPY))?;
        for file in copy.files() {
            copy.remove_file(file);
        }
        self.store_disk = copy;
        Ok(())
    }

    /// An operator, or a fire, takes everything that is on this node's disk.
    pub(in crate::sim) fn lose_everything(&mut self, world: &mut World<'_>) {
        world.tell(format!("{} loses its data directory", self.name));
        self.disk = SimDisk::new(world.random.next());
        self.store_disk = SimDisk::new(0);
        self.store = MemoryStore::new(Arc::new(self.store_disk.clone()));
        (self.empty, self.missing, self.rotten) = (true, true, false);
        self.rots = false;
        self.proven = Lsn::ZERO;
    }

    /// This node is started on a copy of the files of `other`, which stands still.
    pub(in crate::sim) fn take_files_of(&mut self, other: &mut Self) -> Done {
        self.disk = other.disk.copy();
        let store = other.snapshot()?;
        self.open_store(store)?;
        (self.empty, self.missing, self.rotten) = (other.empty, true, other.rotten);
        self.rots = false;
        self.proven = Lsn::ZERO;
        Ok(())
    }
}
