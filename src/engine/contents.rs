//! The engine's rows as a comparison of two nodes needs them: all of them, by the keys of the whole
//! store, and the place in the log where mended ones belong.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_replication::Contents;
use mainstay_storage::{
    CATALOG, Lsn, MendedRow, ReadAt, Result as StorageResult, Rows, TableId, WalEntry,
    WalEntryType, table_of_whole_key,
};

use super::{Engine, table_id};
use crate::error::Result;

/// How long a commit that is under way is waited for.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Longest part of a key that is shown to people, in bytes.
const KEY_SHOWN_MAX: usize = 200;

/// See the module.
#[derive(Debug)]
pub(crate) struct AllRows(pub(crate) Arc<Engine>);

impl Engine {
    /// Appends a record in which no transaction ends, between two commits, and returns its end.
    ///
    /// # Errors
    /// As a commit's: nothing was appended then.
    fn place(&self) -> Result<Lsn> {
        let mut commits = self.commits.lock();
        self.check_writable()?;
        let unit = self.wal.unit();
        // What is open would reach across the place.
        let mut entries = Vec::from_iter(commits.roll_back(self.wal.timeline()));
        let place = WalEntry::new(WalEntryType::Checkpoint, None, Bytes::new());
        entries.push(place);
        let end = self.wal.append(&entries)?.end;
        drop(unit);
        commits.abandoned = None;
        Ok(end)
    }

    /// On a primary the commit position, when everything below it is in the store. It may lie above
    /// the last transaction, where a standby that was mended already stands.
    fn all_of_log(&self) -> Option<Lsn> {
        let _commits = self.commits.try_lock_for(SETTLE_MAX)?;
        self.is_writable().then(|| self.wal.commit().get())
    }

    /// The name of a table as of a position, or its number where it has none; `None` for the
    /// catalog itself.
    pub(crate) fn table_name(&self, table: TableId, at: Lsn) -> Result<Option<String>> {
        if table == CATALOG {
            return Ok(None);
        }
        let all = Bound::Unbounded;
        for row in self.reader.scan(CATALOG, all, all, at)? {
            let (name, number) = row?;
            if table_id(&number)? == table {
                return Ok(Some(String::from_utf8_lossy(&name).into_owned()));
            }
        }
        Ok(Some(format!("number {table}")))
    }

    /// A row's table and key for people.
    pub(crate) fn describe(&self, key: &[u8], at: Lsn) -> String {
        let Some((table, key)) = table_of_whole_key(key) else {
            return format!("a row of no table, {}", shown(key));
        };
        match self.table_name(table, at) {
            Ok(None) => format!("table {} of the catalog", shown(key)),
            Ok(Some(name)) => format!("key {} of table {name}", shown(key)),
            Err(_) => format!("key {} of table number {table}", shown(key)),
        }
    }
}

impl Contents for AllRows {
    fn hold_newest(&self) -> StorageResult<Lsn> {
        if let Some(at) = self.0.all_of_log() {
            self.0.reader.open_snapshot(at)?;
            return Ok(at);
        }
        self.0.reader.open_committed()
    }

    fn hold(&self, at: Lsn) -> StorageResult<()> {
        self.0.reader.open_snapshot(at)
    }

    fn release(&self, at: Lsn) {
        self.0.reader.close_snapshot(at);
    }

    fn rows(&self, after: Option<&[u8]>, upto: Option<&[u8]>, at: Lsn) -> StorageResult<Rows> {
        self.0.reader.whole(after, upto, at)
    }

    fn place(&self) -> std::result::Result<Lsn, String> {
        self.0.place().map_err(|error| error.to_string())
    }

    fn mend(
        &self,
        at: Lsn,
        rows: &mut dyn Iterator<Item = StorageResult<MendedRow>>,
    ) -> StorageResult<()> {
        self.0.store.mend(at, rows)?;
        // A name may stand for another number now.
        self.0.tables.write().clear();
        Ok(())
    }

    fn describe(&self, key: &[u8], at: Lsn) -> String {
        self.0.describe(key, at)
    }
}

/// A key for people, on one line.
fn shown(key: &[u8]) -> String {
    let cut = &key[..key.len().min(KEY_SHOWN_MAX)];
    let more = if cut.len() < key.len() { ".." } else { "" };
    format!("\"{}{more}\"", cut.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_on_one_line_and_not_too_long() {
        assert_eq!(shown(b"a\n\xff\"b"), r#""a\n\xff\"b""#);
        let long = shown(&[b'x'; KEY_SHOWN_MAX + 1]);
        assert!(long.ends_with("x..\"") && long.len() == KEY_SHOWN_MAX + 4);
    }
}
