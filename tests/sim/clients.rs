//! Clients, what they do, and what they were told.
//!
//! Two workloads on one store. *Lists*: a transaction reads a list and appends its own number, so
//! that a lost, repeated or reordered write shows in what later ones read. *Accounts*: a
//! transaction moves money, so that one which is applied in part shows in the total. A client has
//! one transaction on its way at a time, and what it never hears of may have happened or not.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use mainstay_storage::TableId;

use super::node::RowKey;
use super::random::Random;
use crate::linear::{History, Op, OpId, Outcome, Verdict};

pub(super) const LISTS: TableId = 7;
pub(super) const ACCOUNTS: TableId = 8;

/// What all accounts hold together.
pub(super) const TOTAL: i64 = ACCOUNT_COUNT as i64 * FIRST_BALANCE;

const ACCOUNT_COUNT: u64 = 8;
const FIRST_BALANCE: i64 = 100;
/// Appends to a list before the next one is begun.
const APPENDS_MAX: u64 = 40;
/// Lists that are appended to at a time.
const LISTS_AT_ONCE: usize = 3;
/// Steps that the search for an order of one list may take.
const STEPS_MAX: u64 = 1_000_000;
/// How long a client waits for an answer, in microseconds.
const PATIENCE: u64 = 5_000_000;

/// What a transaction is to do.
#[derive(Debug)]
pub(super) enum Intent {
    Append { list: u64, len: usize },
    Move { from: u64, to: u64, amount: i64 },
}

impl Intent {
    /// Fills in the rows that transaction `id` writes, and returns what it tells its client.
    pub(super) fn carry_out(
        &self,
        id: u64,
        read: impl Fn(&RowKey) -> Option<Bytes>,
        rows: &mut BTreeMap<RowKey, Bytes>,
    ) -> Vec<u64> {
        let key = |table, number: u64| (table, Bytes::copy_from_slice(&number.to_be_bytes()));
        match self {
            Self::Append { list, len } => {
                let key = key(LISTS, *list);
                let before = read(&key).map(|value| numbers(&value)).unwrap_or_default();
                let mut value = (before.len() as u64 + 1).to_be_bytes().to_vec();
                for number in before.iter().chain([&id]) {
                    value.extend_from_slice(&number.to_be_bytes());
                }
                value.resize(value.len().max(*len), id as u8);
                rows.insert(key, value.into());
                before
            }
            Self::Move { from, to, amount } => {
                for (account, change) in [(from, -amount), (to, *amount)] {
                    let key = key(ACCOUNTS, *account);
                    let held = rows.get(&key).cloned().or_else(|| read(&key));
                    let held = held.map_or(FIRST_BALANCE, |value| balance(&value)) + change;
                    rows.insert(key, Bytes::copy_from_slice(&held.to_be_bytes()));
                }
                Vec::new()
            }
        }
    }
}

/// The numbers in a list's value.
fn numbers(value: &[u8]) -> Vec<u64> {
    let mut words = value.chunks_exact(8);
    let word = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    let count = words.next().map(word).unwrap_or_default();
    let count = usize::try_from(count).expect("a short list");
    words.take(count).map(word).collect()
}

fn balance(value: &[u8]) -> i64 {
    i64::from_be_bytes(value.try_into().expect("eight bytes"))
}

/// What the accounts hold together, of which these were ever touched.
pub(super) fn total<'a>(accounts: impl Iterator<Item = (&'a RowKey, &'a Bytes)>) -> i64 {
    accounts.fold(TOTAL, |total, (_, value)| {
        total - FIRST_BALANCE + balance(value)
    })
}

/// A digest of rows that does not depend on the way to them.
pub(super) fn digest(rows: &BTreeMap<RowKey, Bytes>) -> u64 {
    rows.iter()
        .fold(0, |digest, (key, value)| digest ^ row_digest(key, value))
}

/// A row's part in [`digest`].
pub(super) fn row_digest(key: &RowKey, value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    // What a list says is at its begin; the rest is there to be long.
    value[..value.len().min(8 * (APPENDS_MAX as usize + 2))].hash(&mut hasher);
    value.len().hash(&mut hasher);
    hasher.finish()
}

/// A transaction that was sent.
#[derive(Debug)]
struct Sent {
    client: usize,
    since: u64,
    op: Option<OpId>,
    gives: Vec<u64>,
}

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    history: History,
    sent: BTreeMap<u64, Sent>,
    /// What each client waits for.
    waits: Vec<Option<u64>>,
    next: u64,
    /// Lists that are appended to, and how often each was.
    lists: Vec<(u64, u64)>,
    lists_begun: u64,
    acknowledged: usize,
    /// Appends of which nobody heard, and everything that was ever read in a list.
    lost: Vec<(OpId, u64)>,
    read: BTreeSet<u64>,
}

impl Clients {
    pub(super) fn new(count: usize) -> Self {
        Self {
            history: History::new(),
            sent: BTreeMap::new(),
            waits: vec![None; count],
            next: 0,
            lists: Vec::new(),
            lists_begun: 0,
            acknowledged: 0,
            lost: Vec::new(),
            read: BTreeSet::new(),
        }
    }

    /// What a client does next, if it is free; one that waited too long gives up first.
    pub(super) fn next(
        &mut self,
        client: usize,
        now: u64,
        value_max: usize,
        random: &mut Random,
    ) -> Option<(u64, Intent)> {
        if let Some(id) = self.waits[client] {
            if now < self.sent[&id].since + PATIENCE {
                return None;
            }
            self.unknown(id);
        }
        self.next += 1;
        let id = self.next;
        let intent = match random.one_in(4) {
            true => {
                let from = random.below(ACCOUNT_COUNT);
                let to = (from + 1 + random.below(ACCOUNT_COUNT - 1)) % ACCOUNT_COUNT;
                let amount = 1 + random.below(20) as i64;
                Intent::Move { from, to, amount }
            }
            false => self.append(value_max, random),
        };
        let op = match &intent {
            Intent::Append { list, .. } => {
                let key = format!("list {list}");
                Some(self.history.invoke(client, &key, Op::Append(id), now))
            }
            Intent::Move { .. } => None,
        };
        let sent = Sent {
            client,
            since: now,
            op,
            gives: Vec::new(),
        };
        self.sent.insert(id, sent);
        self.waits[client] = Some(id);
        Some((id, intent))
    }

    fn append(&mut self, value_max: usize, random: &mut Random) -> Intent {
        while self.lists.len() < LISTS_AT_ONCE {
            self.lists_begun += 1;
            self.lists.push((self.lists_begun, 0));
        }
        let at = random.index(self.lists.len());
        let (list, appends) = &mut self.lists[at];
        *appends += 1;
        let list = *list;
        if *appends >= APPENDS_MAX {
            self.lists.remove(at);
        }
        let len = match random.one_in(8) {
            true => random.index(value_max),
            false => 0,
        };
        Intent::Append { list, len }
    }

    /// Transaction `id` is in a log, and gives this if it is acknowledged.
    pub(super) fn began(&mut self, id: u64, gives: Vec<u64>) {
        if let Some(sent) = self.sent.get_mut(&id) {
            sent.gives = gives;
        }
    }

    /// Nothing came of transaction `id`.
    pub(super) fn refused(&mut self, id: u64) {
        if let Some(op) = self.over(id).and_then(|sent| sent.op) {
            self.history.never(op);
        }
    }

    /// Nobody tells what became of transaction `id`.
    pub(super) fn unknown(&mut self, id: u64) {
        if let Some(op) = self.over(id).and_then(|sent| sent.op) {
            self.lost.push((op, id));
        }
    }

    /// Transaction `id` is durable. Whoever gave up waiting does not hear of it.
    pub(super) fn acknowledged(&mut self, id: u64, now: u64) {
        let Some(sent) = self.over(id) else { return };
        self.acknowledged += 1;
        if let Some(op) = sent.op {
            self.read.extend(&sent.gives);
            self.history.returned(op, Outcome::List(sent.gives), now);
        }
    }

    fn over(&mut self, id: u64) -> Option<Sent> {
        let sent = self.sent.remove(&id)?;
        self.waits[sent.client] = None;
        Some(sent)
    }

    /// How many transactions were acknowledged.
    pub(super) fn acknowledgements(&self) -> usize {
        self.acknowledged
    }

    /// Everything that clients saw fits one order.
    ///
    /// # Errors
    /// What does not, or that nobody can tell.
    pub(super) fn check(&mut self) -> Result<(), String> {
        for (op, id) in std::mem::take(&mut self.lost) {
            // One that nobody ever read took effect after all that were, which is as good as never.
            match self.read.contains(&id) {
                true => self.history.unknown(op),
                false => self.history.never(op),
            }
        }
        match self.history.check(STEPS_MAX) {
            Verdict::Linearizable => Ok(()),
            Verdict::Violation(why) => Err(format!("no order explains what clients saw: {why}")),
            Verdict::Unknown => Err("the search for an order took too long".to_owned()),
        }
    }
}
