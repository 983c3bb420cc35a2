//! Writes from several sorted places, as one sorted run.
//!
//! Places are ranked by age; of a key that several hold, only the youngest is handed out.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fmt;

use bytes::Bytes;

use crate::error::Result;
use crate::store::RowKey;

/// One write: a row's key and its value, `None` when it was deleted.
pub(super) type Write = (RowKey, Option<Bytes>);

/// Writes in key order, each key once.
pub(super) type Source<'a> = Box<dyn Iterator<Item = Result<Write>> + Send + 'a>;

/// Iterates writes in key order, each key once, the last write of it. An item is an error when a
/// spilled part cannot be read; the iterator then ends.
pub struct Writes<'a> {
    /// By age, the oldest first.
    sources: Vec<Source<'a>>,
    heads: BinaryHeap<Reverse<Head>>,
    /// Sources whose next write is not in `heads` yet.
    behind: Vec<usize>,
    last: Option<RowKey>,
}

/// The next write of a source.
struct Head {
    write: Write,
    source: usize,
}

impl<'a> Writes<'a> {
    /// Merges sources; of two that hold a key, the one further back wins.
    pub(super) fn merge(sources: Vec<Source<'a>>) -> Self {
        Self {
            heads: BinaryHeap::with_capacity(sources.len()),
            behind: (0..sources.len()).collect(),
            sources,
            last: None,
        }
    }

    /// These writes over older ones.
    ///
    /// # Panics
    /// When these have been iterated already.
    pub(super) fn over(self, older: Source<'a>) -> Self {
        assert!(self.heads.is_empty() && self.last.is_none(), "begun");
        let mut sources = vec![older];
        sources.extend(self.sources);
        Self::merge(sources)
    }

    /// The next write of any source, the youngest of a key first.
    fn pop(&mut self) -> Option<Result<Write>> {
        while let Some(source) = self.behind.pop() {
            match self.sources[source].next() {
                Some(Ok(write)) => self.heads.push(Reverse(Head { write, source })),
                Some(Err(error)) => {
                    self.sources.clear();
                    self.behind.clear();
                    self.heads.clear();
                    return Some(Err(error));
                }
                None => {}
            }
        }
        let Reverse(head) = self.heads.pop()?;
        self.behind.push(head.source);
        Some(Ok(head.write))
    }
}

impl Iterator for Writes<'_> {
    type Item = Result<Write>;

    fn next(&mut self) -> Option<Self::Item> {
        if let [only] = &mut self.sources[..] {
            return only.next();
        }
        loop {
            let write = match self.pop()? {
                Ok(write) => write,
                Err(error) => return Some(Err(error)),
            };
            if self.last.as_ref() != Some(&write.0) {
                self.last = Some(write.0.clone());
                return Some(Ok(write));
            }
        }
    }
}

impl fmt::Debug for Writes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writes({} sources)", self.sources.len())
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let keys = self.write.0.cmp(&other.write.0);
        keys.then(other.source.cmp(&self.source))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}
