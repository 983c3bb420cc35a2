//! Columns and rows of a result, in text format.
//!
//! Types are named by their OIDs because clients are told them; values are text or NULL. What a
//! column means is known by [`result`](crate::wire::result) only.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::Result;
use crate::wire::cursor::{Cursor, count, length, put_cstr};

/// OIDs of the types this node's results use.
pub mod oid {
    /// `bool`.
    pub const BOOL: u32 = 16;
    /// `int8`.
    pub const INT8: u32 = 20;
    /// `int4`.
    pub const INT4: u32 = 23;
    /// `text`.
    pub const TEXT: u32 = 25;
    /// `oid`.
    pub const OID: u32 = 26;
}

/// One column of a RowDescription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: String,
    /// OID of the table it comes from, or 0.
    pub table_oid: u32,
    /// Its number in that table, or 0.
    pub attribute: i16,
    /// OID of its type.
    pub type_oid: u32,
    /// Size of the type in bytes, -1 if it varies.
    pub type_len: i16,
    /// Type modifier, -1 if there is none.
    pub type_modifier: i32,
    /// 0 for text, 1 for binary.
    pub format: i16,
}

impl Column {
    fn new(name: &str, type_oid: u32, type_len: i16) -> Self {
        Self {
            name: name.to_owned(),
            table_oid: 0,
            attribute: 0,
            type_oid,
            type_len,
            type_modifier: -1,
            format: 0,
        }
    }

    /// A `text` column.
    pub fn text(name: &str) -> Self {
        Self::new(name, oid::TEXT, -1)
    }

    /// An `int4` column.
    pub fn int4(name: &str) -> Self {
        Self::new(name, oid::INT4, 4)
    }

    /// An `int8` column.
    pub fn int8(name: &str) -> Self {
        Self::new(name, oid::INT8, 8)
    }

    /// An `oid` column.
    pub fn oid(name: &str) -> Self {
        Self::new(name, oid::OID, 4)
    }

    /// A `bool` column.
    pub fn boolean(name: &str) -> Self {
        Self::new(name, oid::BOOL, 1)
    }
}

/// One DataRow: a text or NULL for each column.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row(pub Vec<Option<Bytes>>);

impl Row {
    /// A row of texts and NULLs.
    pub fn new<const N: usize>(values: [Option<String>; N]) -> Self {
        Self(values.map(|value| value.map(Bytes::from)).to_vec())
    }

    /// The text in column `at`; `None` if it is NULL, missing or not UTF-8.
    pub fn text(&self, at: usize) -> Option<&str> {
        std::str::from_utf8(self.0.get(at)?.as_ref()?).ok()
    }
}

pub(super) fn encode_columns(columns: &[Column], out: &mut BytesMut) {
    out.put_u16(count(columns.len()));
    for column in columns {
        put_cstr(out, &column.name);
        out.put_u32(column.table_oid);
        out.put_i16(column.attribute);
        out.put_u32(column.type_oid);
        out.put_i16(column.type_len);
        out.put_i32(column.type_modifier);
        out.put_i16(column.format);
    }
}

pub(super) fn decode_columns(body: Bytes) -> Result<Vec<Column>> {
    /// Bytes of a column beside its name, with the name's NUL.
    const COLUMN_MIN: usize = 19;
    let mut cursor = Cursor::new("RowDescription", body);
    let columns = usize::from(cursor.u16()?);
    if columns > cursor.remaining() / COLUMN_MIN {
        return Err(cursor.bad("it has fewer columns than it says"));
    }
    let mut read = Vec::with_capacity(columns);
    for _ in 0..columns {
        read.push(Column {
            name: cursor.cstr()?,
            table_oid: cursor.u32()?,
            attribute: cursor.i16()?,
            type_oid: cursor.u32()?,
            type_len: cursor.i16()?,
            type_modifier: cursor.i32()?,
            format: cursor.i16()?,
        });
    }
    cursor.finish()?;
    Ok(read)
}

pub(super) fn encode_row(row: &Row, out: &mut BytesMut) {
    out.put_u16(count(row.0.len()));
    for value in &row.0 {
        match value {
            Some(bytes) => {
                out.put_u32(length(bytes.len()));
                out.put_slice(bytes);
            }
            None => out.put_i32(-1),
        }
    }
}

pub(super) fn decode_row(body: Bytes) -> Result<Row> {
    let mut cursor = Cursor::new("DataRow", body);
    let columns = usize::from(cursor.u16()?);
    if columns > cursor.remaining() / 4 {
        return Err(cursor.bad("it has fewer columns than it says"));
    }
    let mut values = Vec::with_capacity(columns);
    for _ in 0..columns {
        values.push(match cursor.i32()? {
            -1 => None,
            len => {
                let len = usize::try_from(len).map_err(|_| cursor.bad("a length is negative"))?;
                Some(cursor.take(len)?)
            }
        });
    }
    cursor.finish()?;
    Ok(Row(values))
}
