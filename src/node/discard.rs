//! What a rewind takes back, as a file that people can read.
//!
//! One line of JSON for each change of each whole transaction, in the order of the log:
//! `{"transaction":"0/1000218","table":"users","op":"put","key":"ada","value":"1815"}`, where
//! `transaction` is the position at which it ended. Bytes that are not UTF-8 are in `key_base64`
//! and `value_base64`. The raw log is set aside by the log itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_storage::{
    CATALOG, Change, Disk as _, Lsn, OsDisk, ReadAt as _, RedoOptions, TableId, Transaction,
    TransactionAssembler, WalEntryType,
};
use serde_json::{Map, Value};

use crate::encoding::put_json;
use crate::engine::{Engine, table_id};
use crate::error::Result;

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Discarded {
    /// Whole transactions.
    pub(super) transactions: u64,
    /// The file that lists them; none when there are none.
    pub(super) path: Option<PathBuf>,
}

/// Writes the transactions that end above `to` into a file in `dir/discarded`. The store stands at
/// or below `to`, the log still holds them.
///
/// # Errors
/// The log's, the store's, disk errors.
pub(super) fn save(engine: &Engine, dir: &Path, to: Lsn) -> Result<Discarded> {
    let wal = &engine.wal;
    let dir = dir.join("discarded");
    let failed = |op, path: &Path| {
        let path = path.to_owned();
        move |source| mainstay_storage::Error::Io { op, path, source }
    };
    OsDisk.create_dir(&dir).map_err(failed("create", &dir))?;
    let name = format!("{}-{:016X}.ndjson", wal.timeline().number, to.get());
    let path = dir.join(name);
    let mut out = BufWriter::new(File::create(&path).map_err(failed("create", &path))?);
    let mut names = tables(engine)?;
    let mut reader = wal.reader(wal.control().checkpoint)?;
    let log = Arc::new(wal.clone());
    let mut assembler = TransactionAssembler::new(to, log, RedoOptions::default());
    let (end, mut transactions) = (wal.flushed().get(), 0);
    while let Some((entry, after)) = reader.next_entry(end)? {
        if entry.entry_type == WalEntryType::SchemaChange
            && let Change::CreateTable { table, name } = Change::of(&entry)?
        {
            names.insert(table, name);
        }
        if let Some(transaction) = assembler.push(entry, after)? {
            transactions += 1;
            write(&mut out, &transaction, &names, &path)?;
        }
    }
    let synced = out.into_inner().map_err(io::IntoInnerError::into_error);
    let synced = synced.and_then(|file| file.sync_all());
    synced.map_err(failed("write", &path))?;
    if transactions == 0 {
        OsDisk.remove(&path).map_err(failed("remove", &path))?;
    }
    OsDisk.sync_dir(&dir).map_err(failed("sync", &dir))?;
    let path = (transactions > 0).then_some(path);
    Ok(Discarded { transactions, path })
}

/// The names of the tables that the store knows.
fn tables(engine: &Engine) -> Result<HashMap<TableId, String>> {
    let (all, at) = (Bound::Unbounded, engine.store.applied());
    let rows = engine.reader().scan(CATALOG, all, all, at)?;
    rows.map(|row| {
        let (name, id) = row?;
        Ok((table_id(&id)?, String::from_utf8_lossy(&name).into_owned()))
    })
    .collect()
}

fn write(
    out: &mut BufWriter<File>,
    transaction: &Transaction,
    names: &HashMap<TableId, String>,
    path: &Path,
) -> Result<()> {
    for entry in transaction.entries() {
        let entry = entry?;
        if entry.entry_type == WalEntryType::Checkpoint {
            continue;
        }
        let line = Value::from(line(transaction.end, Change::of(&entry)?, names));
        writeln!(out, "{line}").map_err(|source| mainstay_storage::Error::Io {
            op: "write",
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}

fn line(end: Lsn, change: Change, names: &HashMap<TableId, String>) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("transaction".to_owned(), end.to_string().into());
    if let Change::CreateTable { name, .. } = change {
        object.insert("table".to_owned(), name.into());
        object.insert("op".to_owned(), "create_table".into());
        return object;
    }
    let (table, key, value) = change.into_row();
    let name = names.get(&table).cloned();
    let name = name.unwrap_or_else(|| format!("table number {table}"));
    object.insert("table".to_owned(), name.into());
    let op = if value.is_some() { "put" } else { "delete" };
    object.insert("op".to_owned(), op.into());
    put_json(&mut object, "key", &key);
    if let Some(value) = value {
        put_json(&mut object, "value", &value);
    }
    object
}
