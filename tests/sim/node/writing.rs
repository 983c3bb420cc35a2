//! A client's transaction on a primary: it reads what is in the log, committed or not, writes, and
//! waits until that is durable.

use std::collections::BTreeMap;

use bytes::Bytes;
use mainstay_storage::{Change, Error as StorageError, WalEntry, WalEntryType};

use super::{Done, Node, Role, RowKey, World};
use crate::sim::clients::Intent;

impl Node {
    /// Whether a client finds a primary here that takes writes.
    pub(in crate::sim) fn takes_writes(&self) -> bool {
        let life = self.life.as_ref();
        life.is_some_and(|life| {
            let held = life.handover.is_some();
            life.role == Role::Primary && !life.wal.must_begin_timeline() && !held
        })
    }

    /// A client's transaction `id`; it is answered when it is durable.
    pub(in crate::sim) fn write(
        &mut self,
        id: u64,
        intent: &Intent,
        world: &mut World<'_>,
    ) -> Done {
        let life = self.life();
        let mut rows = BTreeMap::new();
        let gives = intent.carry_out(id, |key| life.view.get(key).cloned(), &mut rows);
        let entries = entries(id, &rows);
        match life.wal.append(&entries) {
            Ok(placed) => {
                life.waiting.insert(placed.end, id);
                life.view.extend(rows);
                world.clients.began(id, gives);
            }
            // The client is told that nothing was written.
            Err(StorageError::Full { .. }) => world.clients.refused(id),
            Err(error) => return Err(error.into()),
        }
        self.pump(world)
    }
}

/// One row is a transaction by itself.
fn entries(id: u64, rows: &BTreeMap<RowKey, Bytes>) -> Vec<WalEntry> {
    let whole = rows.len() == 1;
    let tx = (!whole).then_some(id);
    let changes = rows.iter().map(|((table, key), value)| {
        let change = Change::put(*table, key.to_vec(), value.to_vec());
        WalEntry::new(WalEntryType::Insert, tx, change.encode())
    });
    let changes = changes.collect::<Vec<_>>();
    if whole {
        return changes;
    }
    let mark = |kind| WalEntry::new(kind, tx, Bytes::new());
    let mut entries = vec![mark(WalEntryType::TxBegin)];
    entries.extend(changes);
    entries.push(mark(WalEntryType::TxCommit));
    entries
}
