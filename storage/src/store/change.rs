//! What an engine's log entry says: one change of one table.
//!
//! This room knows the bytes of a change, nothing of where it is stored. Decoding copies neither
//! keys nor values; bytes that are not exactly one change are refused.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::Bytes;

use super::TableId;
use crate::error::{Error, Result};

/// One change of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The row `key` of `table` is `value` from now on.
    Put {
        /// Its table.
        table: TableId,
        /// Its key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// The row `key` of `table` is gone.
    Delete {
        /// Its table.
        table: TableId,
        /// Its key.
        key: Bytes,
    },
    /// There is a table `name` with the number `table`.
    CreateTable {
        /// Its number.
        table: TableId,
        /// Its name.
        name: String,
    },
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
enum Wire<'a> {
    Put(u32, &'a [u8], &'a [u8]),
    Delete(u32, &'a [u8]),
    CreateTable(u32, &'a str),
}

const LIMIT: usize = 1 << 30;

const CONFIG: Configuration<LittleEndian, Varint, Limit<LIMIT>> =
    bincode::config::standard().with_limit::<LIMIT>();

impl Change {
    /// Its bytes in the log.
    ///
    /// # Panics
    /// When the change is larger than 1 GiB, which no record holds.
    pub fn encode(&self) -> Bytes {
        let wire = match self {
            Self::Put { table, key, value } => Wire::Put(*table, key, value),
            Self::Delete { table, key } => Wire::Delete(*table, key),
            Self::CreateTable { table, name } => Wire::CreateTable(*table, name),
        };
        let bytes = bincode::encode_to_vec(wire, CONFIG);
        Bytes::from(bytes.expect("a change fits the limit"))
    }

    /// The change that `bytes` are.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they are not exactly one change.
    pub fn decode(bytes: &Bytes) -> Result<Self> {
        let (wire, used) = bincode::borrow_decode_from_slice::<Wire<'_>, _>(bytes, CONFIG)
            .map_err(|error| Error::Invalid(format!("not a change: {error}")))?;
        if used != bytes.len() {
            let rest = bytes.len() - used;
            return Err(Error::Invalid(format!("{rest} bytes after a change")));
        }
        Ok(match wire {
            Wire::Put(table, key, value) => Self::Put {
                table,
                key: bytes.slice_ref(key),
                value: bytes.slice_ref(value),
            },
            Wire::Delete(table, key) => Self::Delete {
                table,
                key: bytes.slice_ref(key),
            },
            Wire::CreateTable(table, name) => Self::CreateTable {
                table,
                name: name.to_owned(),
            },
        })
    }
}
