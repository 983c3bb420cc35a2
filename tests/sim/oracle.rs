//! What must hold whatever happens, checked as it happens.
//!
//! * What any primary ever committed is one log, which every later commit extends.
//! * What any store ever applied, and so what any default reader ever saw, is part of that log.
//! * What a client was told is durable stays in it, and is told once.
//!
//! It never looks at what a node is about to do, only at what others could see of it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use mainstay_storage::{Lsn, Wal};

use super::node::{Done, Trouble};

/// The committed log, and what was acknowledged of it.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// By the end of an entry: what it says.
    committed: BTreeMap<Lsn, u64>,
    /// Acknowledged writes: where they ended.
    acknowledged: BTreeMap<u64, Lsn>,
}

impl Oracle {
    /// The log of `wal` up to `upto` is committed, or shown. It was checked up to `from` before.
    ///
    /// # Errors
    /// What does not hold; the errors of a disk that fails.
    pub(super) fn shown(&mut self, wal: &Wal, from: Lsn, upto: Lsn) -> Done {
        let newest = self.newest();
        let mut expected = self.committed.range(from + 1..).peekable();
        let mut more = Vec::new();
        let mut reader = wal.reader(from)?;
        while let Some((entry, end)) = reader.next_entry(upto)? {
            let mut hasher = DefaultHasher::new();
            (entry.tx_id, &entry.data[..]).hash(&mut hasher);
            let says = hasher.finish();
            match expected.next() {
                Some((at, known)) if *at != end || *known != says => {
                    return broken(format!(
                        "the entry that ends at {end} is not what was committed"
                    ));
                }
                Some(_) => {}
                None if end <= newest => return broken(format!("one entry too many at {end}")),
                None => more.push((end, says)),
            }
        }
        if let Some((at, _)) = expected.peek().filter(|(at, _)| **at <= upto) {
            return broken(format!("the committed entry that ends at {at} is missing"));
        }
        self.committed.extend(more);
        Ok(())
    }

    /// Everything that was committed so far.
    pub(super) fn newest(&self) -> Lsn {
        self.committed
            .keys()
            .next_back()
            .copied()
            .unwrap_or_default()
    }

    /// A client was told that its write `id`, which ends at `end`, is durable.
    ///
    /// # Errors
    /// As for [`shown`](Self::shown).
    pub(super) fn acknowledged(&mut self, id: u64, end: Lsn) -> Done {
        match self.acknowledged.insert(id, end) {
            _ if !self.committed.contains_key(&end) => broken(format!(
                "write {id} was acknowledged at {end} and is not committed"
            )),
            Some(before) => broken(format!("write {id} was acknowledged at {before} and {end}")),
            None => Ok(()),
        }
    }

    /// How many writes were acknowledged.
    pub(super) fn acknowledgements(&self) -> usize {
        self.acknowledged.len()
    }
}

fn broken(why: String) -> Done {
    Err(Trouble::Broken(why))
}
