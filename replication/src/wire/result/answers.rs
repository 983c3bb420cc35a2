//! The answers to replication commands and to the fixed SQL statements, one type each.

use bytes::Bytes;
use mainstay_storage::{Lsn, history_file_name};

use super::{ResultSet, RowSet, STREAMING_TAG};
use crate::wire::{Column, Result, Row, WireError};

/// Answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The same on every node and timeline of a cluster.
    pub system_id: u64,
    /// Number of the current timeline.
    pub timeline: u32,
    /// End of the log, as far as this client may know it.
    pub position: Lsn,
    /// The database of the session. Absent in physical sessions: pg_receivewal insists on that,
    /// as pg_recvlogical insists on a name.
    pub database: Option<String>,
}

impl SystemIdentity {
    /// The result to send.
    pub fn result(&self) -> ResultSet {
        let columns = vec![
            Column::text("systemid"),
            Column::int4("timeline"),
            Column::text("xlogpos"),
            Column::text("dbname"),
        ];
        ResultSet::new(columns, "IDENTIFY_SYSTEM").with_row(Row::new([
            Some(self.system_id.to_string()),
            Some(self.timeline.to_string()),
            Some(self.position.to_string()),
            self.database.clone(),
        ]))
    }

    /// Reads the result of a server.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn read(set: &RowSet) -> Result<Self> {
        let row = Reader::only_row("IDENTIFY_SYSTEM", set, 4)?;
        Ok(Self {
            system_id: row.parse(0)?,
            timeline: row.parse(1)?,
            position: row.parse(2)?,
            database: row.optional(3)?,
        })
    }
}

/// Answer to `SHOW name`.
pub fn show(name: &str, value: &str) -> ResultSet {
    let row = Row::new([Some(value.to_owned())]);
    ResultSet::new(vec![Column::text(name)], "SHOW").with_row(row)
}

/// Reads the answer to `SHOW name`.
///
/// # Errors
/// When it is not one text.
pub fn read_show(set: &RowSet) -> Result<String> {
    Reader::only_row("SHOW", set, 1)?.text(0).map(str::to_owned)
}

/// Answer to READ_REPLICATION_SLOT for a physical slot that exists.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct SlotPosition {
    /// Where the slot's client would go on, and on which timeline; absent if it never began.
    pub restart: Option<(Lsn, u32)>,
}

impl SlotPosition {
    /// The result to send; a missing slot is a row of NULLs.
    pub fn result(slot: Option<Self>) -> ResultSet {
        let columns = vec![
            Column::text("slot_type"),
            Column::text("restart_lsn"),
            Column::int8("restart_tli"),
        ];
        let restart = slot.and_then(|slot| slot.restart);
        ResultSet::new(columns, "READ_REPLICATION_SLOT").with_row(Row::new([
            slot.map(|_| "physical".to_owned()),
            restart.map(|(lsn, _)| lsn.to_string()),
            restart.map(|(_, timeline)| timeline.to_string()),
        ]))
    }

    /// Reads the result of a server; `None` means that there is no such slot.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn read(set: &RowSet) -> Result<Option<Self>> {
        let row = Reader::only_row("READ_REPLICATION_SLOT", set, 3)?;
        if row.optional(0)?.is_none() {
            return Ok(None);
        }
        let restart = match (row.optional(1)?, row.optional(2)?) {
            (Some(_), Some(_)) => Some((row.parse(1)?, row.parse(2)?)),
            _ => None,
        };
        Ok(Some(Self { restart }))
    }
}

/// Answer to CREATE_REPLICATION_SLOT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Name of the slot.
    pub slot: String,
    /// Where a logical slot is consistent; zero for a physical one.
    pub consistent_point: Lsn,
    /// Name of the exported snapshot.
    pub snapshot: Option<String>,
    /// Output plugin of a logical slot.
    pub plugin: Option<String>,
}

impl CreatedSlot {
    /// The answer for a physical slot.
    pub fn physical(slot: &str) -> Self {
        Self {
            slot: slot.to_owned(),
            consistent_point: Lsn::ZERO,
            snapshot: None,
            plugin: None,
        }
    }

    /// The result to send.
    pub fn result(&self) -> ResultSet {
        let names = [
            "slot_name",
            "consistent_point",
            "snapshot_name",
            "output_plugin",
        ];
        let columns = names.map(Column::text).to_vec();
        ResultSet::new(columns, "CREATE_REPLICATION_SLOT").with_row(Row::new([
            Some(self.slot.clone()),
            Some(self.consistent_point.to_string()),
            self.snapshot.clone(),
            self.plugin.clone(),
        ]))
    }

    /// Reads the result of a server.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn read(set: &RowSet) -> Result<Self> {
        let row = Reader::only_row("CREATE_REPLICATION_SLOT", set, 4)?;
        Ok(Self {
            slot: row.text(0)?.to_owned(),
            consistent_point: row.parse(1)?,
            snapshot: row.optional(2)?,
            plugin: row.optional(3)?,
        })
    }
}

/// Answer to TIMELINE_HISTORY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryFile {
    /// Name of the file.
    pub name: String,
    /// Its content; clients read it up to the first NUL.
    pub content: Bytes,
}

impl HistoryFile {
    /// The history of timeline `number`.
    pub fn new(number: u32, content: String) -> Self {
        Self {
            name: history_file_name(number),
            content: Bytes::from(content),
        }
    }

    /// The columns of the answer. They are sent even when the file is missing: the error follows.
    pub fn columns() -> ResultSet {
        let columns = ["filename", "content"].map(|name| without_modifier(Column::text(name)));
        ResultSet::new(columns.to_vec(), "TIMELINE_HISTORY")
    }

    /// The result to send.
    pub fn result(&self) -> ResultSet {
        let name = Bytes::copy_from_slice(self.name.as_bytes());
        Self::columns().with_row(Row(vec![Some(name), Some(self.content.clone())]))
    }

    /// Reads the result of a server.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn read(set: &RowSet) -> Result<Self> {
        let row = Reader::only_row("TIMELINE_HISTORY", set, 2)?;
        let content = row.row.0[1].clone();
        Ok(Self {
            name: row.text(0)?.to_owned(),
            content: content.ok_or_else(|| row.bad("a value is NULL"))?,
        })
    }
}

/// Where the log goes on when a stream reached the end of its timeline.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct NextTimeline {
    /// Number of the next timeline.
    pub timeline: u32,
    /// Where it begins.
    pub begin: Lsn,
}

impl NextTimeline {
    /// The result to send behind CopyDone; see [`encode_stream_end`](super::encode_stream_end).
    pub fn result(&self) -> ResultSet {
        let columns = vec![Column::int8("next_tli"), Column::text("next_tli_startpos")];
        ResultSet::new(columns, STREAMING_TAG).with_row(Row::new([
            Some(self.timeline.to_string()),
            Some(self.begin.to_string()),
        ]))
    }

    /// Reads the result of a server.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn read(set: &RowSet) -> Result<Self> {
        let row = Reader::only_row("START_REPLICATION", set, 2)?;
        Ok(Self {
            timeline: row.parse(0)?,
            begin: row.parse(1)?,
        })
    }
}

/// First and last answer of BASE_BACKUP: where the backup begins, where it ends.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct BackupBound {
    /// The position.
    pub position: Lsn,
    /// Its timeline.
    pub timeline: u32,
}

impl BackupBound {
    /// The result to send.
    pub fn result(&self) -> ResultSet {
        let timeline = Column {
            type_len: -1,
            ..Column::int8("tli")
        };
        let columns = [Column::text("recptr"), timeline].map(without_modifier);
        ResultSet::new(columns.to_vec(), "SELECT").with_row(Row::new([
            Some(self.position.to_string()),
            Some(self.timeline.to_string()),
        ]))
    }

    /// Reads the result of a server.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn read(set: &RowSet) -> Result<Self> {
        let row = Reader::only_row("BASE_BACKUP", set, 2)?;
        Ok(Self {
            position: row.parse(0)?,
            timeline: row.parse(1)?,
        })
    }
}

/// One row of the second answer of BASE_BACKUP; the main directory has neither id nor location.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupTablespace {
    /// OID of a tablespace.
    pub oid: Option<u32>,
    /// Its directory.
    pub location: Option<String>,
    /// Estimated size in kilobytes, if progress was asked for.
    pub size_kb: Option<u64>,
}

impl BackupTablespace {
    /// The result to send.
    pub fn result(tablespaces: &[Self]) -> ResultSet {
        let columns = [
            Column::oid("spcoid"),
            Column::text("spclocation"),
            Column::int8("size"),
        ];
        let columns = columns.map(without_modifier).to_vec();
        let rows = tablespaces.iter().map(|it| {
            Row::new([
                it.oid.map(|oid| oid.to_string()),
                it.location.clone(),
                it.size_kb.map(|size| size.to_string()),
            ])
        });
        ResultSet {
            rows: rows.collect(),
            ..ResultSet::new(columns, "SELECT")
        }
    }

    /// Reads the result of a server.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn read(set: &RowSet) -> Result<Vec<Self>> {
        let read = |row| {
            let row = Reader::new("BASE_BACKUP", row, 3)?;
            Ok(Self {
                oid: row.optional(0)?.map(|_| row.parse(0)).transpose()?,
                location: row.optional(1)?,
                size_kb: row.optional(2)?.map(|_| row.parse(2)).transpose()?,
            })
        };
        set.rows.iter().map(read).collect()
    }
}

/// Answer to `SELECT pg_is_in_recovery()`.
pub fn is_in_recovery(standby: bool) -> ResultSet {
    let value = if standby { "t" } else { "f" };
    ResultSet::new(vec![Column::boolean("pg_is_in_recovery")], "SELECT 1")
        .with_row(Row::new([Some(value.to_owned())]))
}

/// Answer to `SELECT pg_catalog.set_config('search_path', '', false)`.
pub fn clear_search_path() -> ResultSet {
    ResultSet::new(vec![Column::text("set_config")], "SELECT 1")
        .with_row(Row::new([Some(String::new())]))
}

/// Answer to `SELECT 1`.
pub fn select_one() -> ResultSet {
    ResultSet::new(vec![Column::int4("?column?")], "SELECT 1")
        .with_row(Row::new([Some("1".to_owned())]))
}

/// PostgreSQL 15 writes 0, not -1, as type modifier in some answers.
fn without_modifier(column: Column) -> Column {
    Column {
        type_modifier: 0,
        ..column
    }
}

/// One row of a server's answer, checked as it is read.
struct Reader<'a> {
    command: &'static str,
    row: &'a Row,
}

impl<'a> Reader<'a> {
    /// The only row of an answer. More columns than `columns` are left alone, for newer servers.
    fn only_row(command: &'static str, set: &'a RowSet, columns: usize) -> Result<Self> {
        match &set.rows[..] {
            [row] => Self::new(command, row, columns),
            _ => Err(WireError::malformed(command, "the answer is not one row")),
        }
    }

    fn new(command: &'static str, row: &'a Row, columns: usize) -> Result<Self> {
        if row.0.len() < columns {
            return Err(WireError::malformed(command, "the answer lacks columns"));
        }
        Ok(Self { command, row })
    }

    fn bad(&self, reason: &'static str) -> WireError {
        WireError::malformed(self.command, reason)
    }

    fn optional(&self, at: usize) -> Result<Option<String>> {
        match self.row.0[at] {
            None => Ok(None),
            Some(_) => self.text(at).map(|text| Some(text.to_owned())),
        }
    }

    fn text(&self, at: usize) -> Result<&'a str> {
        let text = self.row.text(at);
        text.ok_or_else(|| self.bad("a value is NULL or not UTF-8"))
    }

    fn parse<T: std::str::FromStr>(&self, at: usize) -> Result<T> {
        let value = self.text(at)?.parse();
        value.map_err(|_| self.bad("a value cannot be read"))
    }
}
