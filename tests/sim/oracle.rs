//! What must hold whatever happens, checked as it happens.
//!
//! * What any primary ever committed is one log, which every later commit extends.
//! * What any store ever applied, and so what any default reader ever saw, is part of that log.
//! * What a client was told is durable stays in it, and is told once.
//! * Of one timeline number, one timeline at most confirms anything.
//! * What a primary commits is on as many disks as its policy asks for, by what those nodes were
//!   seen to have flushed and not by what they said.
//!
//! It never looks at what a node is about to do, only at what others could see of it. It replays
//! the committed log by itself, in the plainest way, so that every store can be compared with the
//! rows that its applied position means.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use mainstay_replication::protocol::name::NodeName;
use mainstay_replication::protocol::policy::BoundPolicy;
use mainstay_storage::{Change, Lsn, Timeline, Wal, WalEntry, WalEntryType};
use uuid::Uuid;

use super::clients::row_digest;
use super::node::{Done, RowKey, Trouble};

/// The committed log, and what was acknowledged of it.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    /// By the end of an entry: what it says.
    committed: BTreeMap<Lsn, u64>,
    /// Acknowledged writes: where they ended.
    acknowledged: BTreeMap<u64, Lsn>,
    /// The timeline of each number that confirmed something.
    confirming: BTreeMap<u32, Uuid>,
    /// The most of each timeline's line that a node of a name ever had flushed.
    held: BTreeMap<(Uuid, NodeName), Lsn>,
    replay: Replay,
}

/// Rows as the committed log makes them.
#[derive(Debug, Default)]
struct Replay {
    /// Each row's part in the digest.
    rows: BTreeMap<RowKey, u64>,
    digest: u64,
    /// By the end of a transaction: the digest of all rows then.
    digests: BTreeMap<Lsn, u64>,
    /// What transactions wrote that are not ended.
    open: BTreeMap<u64, Vec<(RowKey, u64)>>,
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
            let says = says(&entry);
            match expected.next() {
                Some((at, known)) if *at != end || *known != says => {
                    return broken(format!(
                        "the entry that ends at {end} is not what was committed"
                    ));
                }
                Some(_) => {}
                None if end <= newest => return broken(format!("one entry too many at {end}")),
                None => more.push((end, says, entry)),
            }
        }
        if let Some((at, _)) = expected.peek().filter(|(at, _)| **at <= upto) {
            return broken(format!("the committed entry that ends at {at} is missing"));
        }
        for (end, says, entry) in more {
            self.committed.insert(end, says);
            self.replay.take(&entry, end)?;
        }
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

    /// A primary confirms something on `timeline`.
    ///
    /// # Errors
    /// When another timeline of that number did.
    pub(super) fn confirms(&mut self, timeline: Timeline) -> Done {
        let known = self
            .confirming
            .entry(timeline.number)
            .or_insert(timeline.id);
        match *known == timeline.id {
            true => Ok(()),
            false => broken(format!("{timeline} and {known} both confirm")),
        }
    }

    /// The node `name` is on `timeline` and has flushed up to `upto`.
    pub(super) fn flushed(&mut self, name: &NodeName, timeline: Timeline, upto: Lsn) {
        let held = self.held.entry((timeline.id, name.clone())).or_default();
        *held = upto.max(*held);
    }

    /// A primary commits up to `upto` of `timeline` under `policy`, which binds.
    ///
    /// # Errors
    /// When fewer than the policy asks for have that.
    pub(super) fn commits(&self, policy: &BoundPolicy, timeline: Timeline, upto: Lsn) -> Done {
        let has = |name: &&NodeName| {
            let held = self.held.get(&(timeline.id, (*name).clone()));
            held.is_some_and(|held| *held >= upto)
        };
        let have = policy.counted().iter().filter(has).count();
        match have >= policy.needed() {
            true => Ok(()),
            false => broken(format!(
                "{upto} of {timeline} is committed under {}, and {have} have it",
                policy.policy()
            )),
        }
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

    /// Everything that was committed.
    pub(super) fn hash(&self, hasher: &mut DefaultHasher) {
        self.committed.hash(hasher);
    }

    /// The digest of all rows at `at`, once a transaction has ended.
    pub(super) fn rows_at(&self, at: Lsn) -> Option<u64> {
        let mut before = self.replay.digests.range(..=at);
        before.next_back().map(|(_, digest)| *digest)
    }
}

fn says(entry: &WalEntry) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Every record's checksum covers what it holds; the lengths are here in case it did not.
    let len = entry.data.len();
    let edges = (&entry.data[..len.min(64)], &entry.data[len - len.min(64)..]);
    (entry.tx_id, entry.checksum, len, edges).hash(&mut hasher);
    hasher.finish()
}

impl Replay {
    fn take(&mut self, entry: &WalEntry, end: Lsn) -> Done {
        let tx = entry.tx_id;
        match entry.entry_type {
            WalEntryType::Insert | WalEntryType::Update => {
                let change = Change::of(entry)?;
                let Change::Put { table, key, value } = change else {
                    return broken(format!("nobody writes {change:?}"));
                };
                let key = (table, Bytes::copy_from_slice(&key));
                let part = row_digest(&key, &value);
                match tx {
                    Some(tx) => self.open.entry(tx).or_default().push((key, part)),
                    None => {
                        self.put(key, part);
                        self.digests.insert(end, self.digest);
                    }
                }
            }
            WalEntryType::TxCommit => {
                let tx = tx.expect("a commit names its transaction");
                for (key, part) in self.open.remove(&tx).unwrap_or_default() {
                    self.put(key, part);
                }
                self.digests.insert(end, self.digest);
            }
            // Rolls back what is open.
            WalEntryType::NewTimeline => self.open.clear(),
            _ => {}
        }
        Ok(())
    }

    fn put(&mut self, key: RowKey, part: u64) {
        self.digest ^= part ^ self.rows.insert(key, part).unwrap_or_default();
    }
}

fn broken(why: String) -> Done {
    Err(Trouble::Broken(why))
}
