//! What was acknowledged, and whether a node has it.

use std::collections::{BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use parking_lot::Mutex;

use super::cluster::Member;
use super::rows::Item;
use crate::Lsn;
use crate::cli::Failure;
use crate::http::SCAN_ROWS_MAX;

/// How long a node may take to show the last acknowledged write.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);

/// Names of rows that are shown when some are lost.
const EXAMPLES_MAX: usize = 5;

/// The acknowledged rows.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rows: HashMap<(&'static str, Vec<u8>), Entry>,
    /// Written, and never answered: they may be there or not.
    unsettled: HashMap<(&'static str, Vec<u8>), u64>,
    /// The highest position that was acknowledged.
    last: Lsn,
}

#[derive(Debug)]
struct Entry {
    value: u64,
    /// On how many nodes it was found.
    found: usize,
}

/// The result of the comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    /// On every node.
    pub(crate) found: u64,
    /// Rows that nobody wrote, or that differ.
    pub(crate) unexpected: u64,
    pub(crate) examples: Vec<String>,
}

impl Ledger {
    /// Notes that `items` were acknowledged at `lsn`.
    pub(crate) fn acknowledge<'a>(&self, items: impl IntoIterator<Item = &'a Item>, lsn: &str) {
        let mut inner = self.inner.lock();
        inner.last = inner.last.max(lsn.parse().unwrap_or(Lsn::ZERO));
        for item in items {
            let entry = Entry {
                value: hash(item.value.as_bytes()),
                found: 0,
            };
            inner
                .rows
                .insert((item.table, item.key.clone().into_bytes()), entry);
        }
    }

    /// Notes that nobody knows whether `item` was stored.
    pub(crate) fn leave_unsettled(&self, item: &Item) {
        let key = (item.table, item.key.clone().into_bytes());
        self.inner
            .lock()
            .unsettled
            .insert(key, hash(item.value.as_bytes()));
    }

    /// Compares all that `nodes` hold with what was acknowledged.
    pub(crate) fn compare(self, nodes: &[Member]) -> Result<Tally, Failure> {
        let mut inner = self.inner.into_inner();
        let mut tables = inner
            .rows
            .keys()
            .map(|(table, _)| *table)
            .collect::<BTreeSet<_>>();
        tables.extend(inner.unsettled.keys().map(|(table, _)| *table));
        let mut tally = Tally::default();
        for node in nodes {
            let last = inner.last.to_string();
            node.client
                .get("none", b"none", Some((&last, CATCH_UP_MAX)))?;
            for table in &tables {
                let mut from = Some(Vec::new());
                while let Some(key) = from.take() {
                    let page = node.client.scan(table, b"", &key, SCAN_ROWS_MAX)?;
                    for (key, value) in page.rows {
                        inner.find(&node.name, table, key, &value, &mut tally);
                    }
                    from = page.next;
                }
            }
        }
        inner.sum_up(nodes.len(), &mut tally);
        Ok(tally)
    }
}

impl Inner {
    fn find(
        &mut self,
        node: &str,
        table: &'static str,
        key: Vec<u8>,
        value: &[u8],
        tally: &mut Tally,
    ) {
        let (place, value) = ((table, key), hash(value));
        match self.rows.get_mut(&place) {
            Some(entry) if entry.value == value => entry.found += 1,
            _ if self.unsettled.get(&place) == Some(&value) => {}
            _ => {
                tally.unexpected += 1;
                tally.example(format!("{} unexpected on {node}", shown(&place)));
            }
        }
    }

    fn sum_up(&self, nodes: usize, tally: &mut Tally) {
        tally.acknowledged = self.rows.len() as u64;
        for (place, entry) in &self.rows {
            if entry.found == nodes {
                tally.found += 1;
            } else {
                let missing = nodes - entry.found;
                tally.example(format!("{} missing on {missing} of {nodes}", shown(place)));
            }
        }
    }
}

impl Tally {
    fn example(&mut self, example: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example);
        }
    }
}

fn shown((table, key): &(&'static str, Vec<u8>)) -> String {
    format!("{table}/{}", String::from_utf8_lossy(key))
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str, value: &str) -> Item {
        Item {
            table: "t",
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn a_row_counts_as_found_only_when_every_node_has_it_as_written() {
        let ledger = Ledger::default();
        ledger.acknowledge([&item("a", "1"), &item("b", "2"), &item("c", "3")], "0/10");
        ledger.leave_unsettled(&item("u", "4"));
        let mut inner = ledger.inner.into_inner();
        let mut tally = Tally::default();
        let mut find = |node: &str, key: &str, value: &[u8]| {
            inner.find(node, "t", key.as_bytes().to_vec(), value, &mut tally);
        };
        for node in ["b", "c"] {
            find(node, "a", b"1");
            find(node, "u", b"4");
        }
        find("b", "b", b"2");
        find("b", "c", b"other");
        find("c", "x", b"");
        inner.sum_up(2, &mut tally);
        assert_eq!(
            (tally.acknowledged, tally.found, tally.unexpected),
            (3, 1, 2)
        );
        assert_eq!(
            tally.examples[..2],
            ["t/c unexpected on b", "t/x unexpected on c"]
        );
        assert!(tally.examples.contains(&"t/b missing on 1 of 2".to_owned()));
        assert!(tally.examples.contains(&"t/c missing on 2 of 2".to_owned()));
    }
}
