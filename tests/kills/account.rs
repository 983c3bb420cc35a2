//! What the clients sent, what became of it as far as they know, and whether the nodes agree.
//!
//! Transaction `n` of writer `w` adds the row `w-n`, moves money between the writer's two accounts,
//! whose sum stays, and signs the page that all writers share. So one that is lost lacks its row,
//! half of one breaks the sum, and one that took effect twice or late leaves accounts and page at
//! what was overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use crate::support::Rows;

/// The tables of rows, and of accounts and page.
pub(super) const ROWS: &str = "rows";
pub(super) const ACCOUNTS: &str = "accounts";

/// The page that all writers sign.
pub(super) const PAGE: &str = "page";

/// What a writer's two accounts hold together.
const TOTAL: u64 = 1000;

/// One row of so many is large, and how large.
const LARGE_EVERY: u64 = 97;
const LARGE_BYTES: usize = 40_000;

/// A transaction: its writer, and the how manieth of that writer it is, from 1 on.
pub(super) type Sent = (usize, u64);

/// What the clients know of a transaction.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It may be there, now or later: nobody has answered, or the answer says so.
    Unknown,
    /// It was acknowledged, and ends at this position.
    Acknowledged(u64),
    /// It was answered that nothing of it was done.
    Refused,
    /// It was unknown and is there, and stays.
    Kept,
    /// It was unknown, and is not there after everybody had gone through what they had got.
    Missing,
    /// It was still missing a round later, and never comes any more.
    Gone,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It was acknowledged and is not there.
    Lost(Sent),
    /// Anything else.
    Wrong(String),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Account {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// For each writer what it sent, in order.
    writers: Vec<Vec<Fate>>,
    acknowledged: u64,
    /// What readers were shown.
    seen: BTreeSet<Sent>,
    faults: Vec<Fault>,
}

/// The operations of a transaction: tables, keys and values.
pub(super) fn operations((writer, number): Sent) -> Vec<(&'static str, String, String)> {
    let left = number * 37 % TOTAL;
    vec![
        (ROWS, row_key((writer, number)), row_value((writer, number))),
        (ACCOUNTS, format!("{writer}-last"), number.to_string()),
        (ACCOUNTS, format!("{writer}-left"), left.to_string()),
        (
            ACCOUNTS,
            format!("{writer}-right"),
            (TOTAL - left).to_string(),
        ),
        (ACCOUNTS, PAGE.to_owned(), row_key((writer, number))),
    ]
}

fn row_key((writer, number): Sent) -> String {
    format!("{writer}-{number:08}")
}

fn row_value(sent: Sent) -> String {
    let filler = match sent.1 % LARGE_EVERY {
        0 => LARGE_BYTES,
        some => some as usize,
    };
    format!("{}={}", row_key(sent), "v".repeat(filler))
}

fn parse_key(key: &str) -> Option<Sent> {
    let (writer, number) = key.split_once('-')?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

/// Which transaction a writer's accounts are of: `None` before its first.
fn last_of(accounts: &Rows, writer: usize) -> Result<Option<u64>, Fault> {
    let text = |name: &str| {
        let value = accounts.get(&format!("{writer}-{name}"));
        value.map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let all = ["last", "left", "right"].map(text);
    let number = match &all {
        [None, None, None] => return Ok(None),
        [last, ..] => last.as_deref().and_then(|last| last.parse().ok()),
    };
    let whole = number.is_some_and(|number| {
        let expected = operations((writer, number));
        all.iter()
            .zip(&expected[1..4])
            .all(|(found, (_, _, value))| found.as_ref() == Some(value))
    });
    match whole {
        true => Ok(number),
        false => Err(wrong(format!("half a transaction of {writer}: {all:?}"))),
    }
}

fn wrong(what: String) -> Fault {
    Fault::Wrong(what)
}

impl Account {
    pub(super) fn new(writers: usize) -> Self {
        let state = State {
            writers: vec![Vec::new(); writers],
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Begins the next transaction of a writer.
    pub(super) fn begin(&self, writer: usize) -> Sent {
        let fates = &mut self.lock().writers[writer];
        fates.push(Fate::Unknown);
        (writer, fates.len() as u64)
    }

    /// Notes what a transaction was answered.
    pub(super) fn answered(&self, sent: Sent, fate: Fate) {
        let mut state = self.lock();
        if let Fate::Acknowledged(_) = fate {
            state.acknowledged += 1;
        }
        *state.fate_mut(sent) = fate;
    }

    /// How many transactions were acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.lock().acknowledged
    }

    /// Notes what is wrong.
    pub(super) fn fault(&self, what: String) {
        self.lock().faults.push(wrong(what));
    }

    /// Looks at what a reader was shown at once: whole transactions, which have to stay.
    pub(super) fn seen(&self, accounts: &Rows) {
        let mut state = self.lock();
        for writer in 0..state.writers.len() {
            match last_of(accounts, writer) {
                Ok(Some(number)) => drop(state.seen.insert((writer, number))),
                Ok(None) => {}
                Err(fault) => state.faults.push(fault),
            }
        }
        if let Some(page) = accounts.get(PAGE) {
            let signed = parse_key(&String::from_utf8_lossy(page));
            state.seen.extend(signed);
        }
    }

    /// Compares with what a node holds, after everything healed and came to rest. Returns what is
    /// wrong, of that and of all before; what was unknown and is there has to stay.
    pub(super) fn check(&self, rows: &Rows, accounts: &Rows) -> Vec<Fault> {
        let mut state = self.lock();
        let mut faults = std::mem::take(&mut state.faults);
        let mut found = BTreeSet::new();
        for (key, value) in rows {
            match parse_key(key).filter(|&sent| state.fate(sent).is_some()) {
                Some(sent) if *value == row_value(sent).into_bytes() => drop(found.insert(sent)),
                _ => faults.push(wrong(format!("nobody wrote row {key} as it is"))),
            }
        }
        let vanished = state.seen.iter().filter(|sent| !found.contains(sent));
        let vanished = vanished.map(|sent| wrong(format!("{sent:?} was seen and vanished")));
        faults.extend(vanished);
        for writer in 0..state.writers.len() {
            for number in 1..=state.writers[writer].len() as u64 {
                let sent = (writer, number);
                faults.extend(state.settle(sent, found.contains(&sent)));
            }
            match last_of(accounts, writer) {
                Ok(last) => faults.extend(state.judge_last(writer, last, &found)),
                Err(fault) => faults.push(fault),
            }
        }
        faults.extend(state.judge_page(accounts, &found));
        faults
    }
}

impl State {
    fn fate(&self, (writer, number): Sent) -> Option<Fate> {
        let fates = self.writers.get(writer)?;
        let at = usize::try_from(number.checked_sub(1)?).ok()?;
        fates.get(at).copied()
    }

    fn fate_mut(&mut self, (writer, number): Sent) -> &mut Fate {
        let at = usize::try_from(number - 1).expect("it is in the list");
        &mut self.writers[writer][at]
    }

    /// What follows from a transaction's being there or not.
    fn settle(&mut self, sent: Sent, there: bool) -> Option<Fault> {
        let fate = self.fate_mut(sent);
        let (next, fault) = match (*fate, there) {
            (Fate::Acknowledged(_), false) => (Fate::Gone, Some(Fault::Lost(sent))),
            (Fate::Kept, false) => {
                let what = format!("{sent:?} was there on every node and is not any more");
                (Fate::Gone, Some(wrong(what)))
            }
            (Fate::Refused, true) => {
                let what = format!("{sent:?} was refused as not done and is there");
                (Fate::Kept, Some(wrong(what)))
            }
            (Fate::Gone, true) => {
                let what = format!("{sent:?} came long after everything had come to rest");
                (Fate::Kept, Some(wrong(what)))
            }
            (Fate::Unknown | Fate::Missing, true) => (Fate::Kept, None),
            (Fate::Unknown, false) => (Fate::Missing, None),
            (Fate::Missing, false) => (Fate::Gone, None),
            (same, _) => (same, None),
        };
        *fate = next;
        fault
    }

    /// The accounts are of the writer's last transaction. One that was unknown may have taken
    /// effect behind later ones.
    fn judge_last(
        &self,
        writer: usize,
        last: Option<u64>,
        found: &BTreeSet<Sent>,
    ) -> Option<Fault> {
        let newest = self.newest(found.iter().filter(|(of, _)| *of == writer));
        let expected = newest.map(|(_, number)| number);
        let explained = match last {
            None => !found.iter().any(|(of, _)| *of == writer),
            Some(number) => last == expected || self.kept(found, (writer, number)),
        };
        (!explained).then(|| {
            wrong(format!(
                "the accounts of {writer} are of {last:?}, not of {expected:?}"
            ))
        })
    }

    /// The page was signed last by the last transaction of all.
    fn judge_page(&self, accounts: &Rows, found: &BTreeSet<Sent>) -> Option<Fault> {
        let page = accounts.get(PAGE);
        let page = page.map(|page| String::from_utf8_lossy(page).into_owned());
        let signed = page.as_deref().and_then(parse_key);
        let newest = self.newest(found.iter());
        let explained = match signed {
            None => page.is_none() && found.is_empty(),
            Some(sent) => signed == newest || self.kept(found, sent),
        };
        (!explained).then(|| wrong(format!("the page is signed by {page:?}, not by {newest:?}")))
    }

    fn kept(&self, found: &BTreeSet<Sent>, sent: Sent) -> bool {
        found.contains(&sent) && self.fate(sent) == Some(Fate::Kept)
    }

    /// The one of `sent` that was acknowledged at the highest position.
    fn newest<'a>(&self, sent: impl Iterator<Item = &'a Sent>) -> Option<Sent> {
        let by_position = sent.filter_map(|&sent| match self.fate(sent) {
            Some(Fate::Acknowledged(lsn)) => Some((lsn, sent)),
            _ => None,
        });
        let by_position: BTreeMap<u64, Sent> = by_position.collect();
        by_position.last_key_value().map(|(_, sent)| *sent)
    }
}

mod tests {
    use super::*;

    /// An account of one writer, and what a node holds that applied some of it in this order.
    fn after(fates: &[Fate], applied: &[u64]) -> (Account, Rows, Rows) {
        let account = Account::new(1);
        for &fate in fates {
            let sent = account.begin(0);
            account.answered(sent, fate);
        }
        let (mut rows, mut accounts) = (Rows::new(), Rows::new());
        for &number in applied {
            for (table, key, value) in operations((0, number)) {
                let into = if table == ROWS {
                    &mut rows
                } else {
                    &mut accounts
                };
                into.insert(key, value.into_bytes());
            }
        }
        (account, rows, accounts)
    }

    fn faults(fates: &[Fate], applied: &[u64]) -> usize {
        let (account, rows, accounts) = after(fates, applied);
        account.check(&rows, &accounts).len()
    }

    const ACKNOWLEDGED: [Fate; 3] = [
        Fate::Acknowledged(1),
        Fate::Acknowledged(2),
        Fate::Acknowledged(3),
    ];

    #[test]
    fn what_was_acknowledged_and_is_missing_is_lost() {
        assert_eq!(faults(&ACKNOWLEDGED, &[1, 2, 3]), 0);
        let (account, rows, accounts) = after(&ACKNOWLEDGED, &[1, 3]);
        let found = account.check(&rows, &accounts);
        assert_eq!(found, [Fault::Lost((0, 2))]);
    }

    #[test]
    fn what_took_effect_twice_or_out_of_order_shows_in_accounts_and_page() {
        assert_eq!(faults(&ACKNOWLEDGED, &[1, 2, 3, 2]), 2);
        assert_eq!(faults(&ACKNOWLEDGED, &[2, 3, 1]), 2);
    }

    #[test]
    fn half_a_transaction_is_found_at_rest_and_by_a_reader() {
        let (account, rows, mut accounts) = after(&ACKNOWLEDGED, &[1, 2, 3]);
        accounts.insert("0-left".to_owned(), b"1".to_vec());
        account.seen(&accounts);
        assert_eq!(account.check(&rows, &accounts).len(), 2);
    }

    #[test]
    fn what_was_refused_must_not_be_there_and_what_is_unknown_may() {
        let [first, ..] = ACKNOWLEDGED;
        assert_eq!(faults(&[first, Fate::Refused], &[1]), 0);
        assert_eq!(faults(&[first, Fate::Refused], &[1, 2]), 1);
        assert_eq!(faults(&[first, Fate::Unknown], &[1]), 0);
        assert_eq!(faults(&[first, Fate::Unknown], &[1, 2]), 0);
        // It was late, and came behind what was sent after it.
        assert_eq!(faults(&[Fate::Unknown, first], &[2, 1]), 0);
    }

    #[test]
    fn what_was_unknown_and_is_there_stays_and_what_never_came_never_comes() {
        let fates = [Fate::Acknowledged(1), Fate::Unknown];
        let (account, both, accounts) = after(&fates, &[1, 2]);
        let (_, first, before) = after(&fates, &[1]);
        assert!(account.check(&both, &accounts).is_empty());
        assert_eq!(account.check(&first, &before).len(), 1);
        let (account, ..) = after(&fates, &[]);
        assert!(account.check(&first, &before).is_empty());
        assert!(account.check(&first, &before).is_empty());
        assert!(!account.check(&both, &accounts).is_empty());
    }

    #[test]
    fn what_a_reader_was_shown_must_not_vanish() {
        let fates = [Fate::Acknowledged(1), Fate::Unknown];
        let (account, _, shown) = after(&fates, &[1, 2]);
        account.seen(&shown);
        let (_, rows, accounts) = after(&fates, &[1]);
        assert_eq!(account.check(&rows, &accounts).len(), 1);
    }

    #[test]
    fn a_row_that_nobody_sent_or_that_changed_is_wrong() {
        let (account, mut rows, accounts) = after(&ACKNOWLEDGED, &[1, 2, 3]);
        rows.insert(row_key((0, 4)), row_value((0, 4)).into_bytes());
        assert_eq!(account.check(&rows, &accounts).len(), 1);
        rows.remove(&row_key((0, 4)));
        rows.insert(row_key((0, 2)), b"other".to_vec());
        assert_eq!(account.check(&rows, &accounts).len(), 2);
    }
}
