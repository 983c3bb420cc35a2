//! What one entry of the log says to a store: [`Change`], and its bytes.
//!
//! The form is part of the log's format and never changes: bincode 2's standard configuration,
//! told apart by the variant's number. Bytes that are not exactly one change are refused; a length
//! inside them is checked against the bytes that are there before anything is done with it. This
//! room does not know which tables exist.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::Bytes;

use super::{CATALOG, KEY_MAX, RowKey, TableId, VALUE_MAX, check_key};
use crate::entry::{WalEntry, WalEntryType};
use crate::error::{Error, Result};

/// Most bytes of one encoded change: the largest key, value and their lengths.
pub const CHANGE_MAX: usize = VALUE_MAX + KEY_MAX + 32;

const CONFIG: Configuration<LittleEndian, Varint, Limit<CHANGE_MAX>> =
    bincode::config::standard().with_limit::<CHANGE_MAX>();

/// One change of a store's contents.
///
/// ```
/// use mainstay_storage::{Change, WalEntry};
/// let change = Change::put(7, "ada", "1815");
/// let entry = WalEntry::new(change.entry_type(), None, change.encode());
/// assert_eq!(Change::of(&entry).unwrap(), change);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key has this value from now on.
    Put {
        /// The table.
        table: TableId,
        /// 1..=[`KEY_MAX`] bytes.
        key: Bytes,
        /// At most [`VALUE_MAX`] bytes; may be empty.
        value: Bytes,
    },
    /// A key has no value any more.
    Delete {
        /// The table.
        table: TableId,
        /// 1..=[`KEY_MAX`] bytes.
        key: Bytes,
    },
    /// A table has this number from now on: the catalog's row `name` says so.
    CreateTable {
        /// The table's number.
        table: TableId,
        /// Its name, 1..=[`KEY_MAX`] bytes.
        name: String,
    },
}

/// The bytes' form, borrowed from them.
#[derive(bincode::Encode, bincode::BorrowDecode)]
enum Form<'a> {
    Put {
        table: u32,
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        table: u32,
        key: &'a [u8],
    },
    CreateTable {
        table: u32,
        name: &'a str,
    },
}

impl Change {
    /// A [`Change::Put`].
    pub fn put(table: TableId, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put {
            table,
            key: key.into(),
            value: value.into(),
        }
    }

    /// A [`Change::Delete`].
    pub fn delete(table: TableId, key: impl Into<Bytes>) -> Self {
        Self::Delete {
            table,
            key: key.into(),
        }
    }

    /// Its bytes, as they lie in a log entry.
    ///
    /// Sizes are not checked here: whoever takes the change from a user does that
    /// ([`check`](Self::check)).
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        self.encode_to(&mut bytes);
        bytes.into()
    }

    /// As [`encode`](Self::encode), behind what is in `bytes`: many changes need one allocation.
    ///
    /// ```
    /// use mainstay_storage::Change;
    /// let change = Change::put(7, "ada", "1815");
    /// let mut bytes = b"before".to_vec();
    /// change.encode_to(&mut bytes);
    /// assert_eq!(bytes[6..], change.encode());
    /// ```
    pub fn encode_to(&self, bytes: &mut Vec<u8>) {
        let form = match self {
            Self::Put { table, key, value } => Form::Put {
                table: *table,
                key,
                value,
            },
            Self::Delete { table, key } => Form::Delete { table: *table, key },
            Self::CreateTable { table, name } => Form::CreateTable {
                table: *table,
                name,
            },
        };
        let encoded = bincode::encode_into_std_write(form, bytes, CONFIG);
        encoded.expect("bytes in memory always take a change");
    }

    /// The change that `data` hold; its key and value are slices of them, not copies.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the bytes are not exactly one change, and as
    /// [`check`](Self::check).
    pub fn decode(data: &Bytes) -> Result<Self> {
        let (form, read) = bincode::borrow_decode_from_slice::<Form<'_>, _>(data, CONFIG)
            .map_err(|error| Error::Invalid(format!("not a change: {error}")))?;
        if read != data.len() {
            let rest = data.len() - read;
            return Err(Error::Invalid(format!(
                "not a change: {rest} bytes follow it"
            )));
        }
        let change = match form {
            Form::Put { table, key, value } => Self::Put {
                table,
                key: data.slice_ref(key),
                value: data.slice_ref(value),
            },
            Form::Delete { table, key } => Self::Delete {
                table,
                key: data.slice_ref(key),
            },
            Form::CreateTable { table, name } => Self::CreateTable {
                table,
                name: name.to_owned(),
            },
        };
        change.check()?;
        Ok(change)
    }

    /// The change that an entry holds.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and [`Error::Invalid`] when the entry's type says otherwise
    /// than its data.
    pub fn of(entry: &WalEntry) -> Result<Self> {
        let change = Self::decode(&entry.data)?;
        let said = entry.entry_type;
        let fits = match change {
            Self::Put { .. } => matches!(said, WalEntryType::Insert | WalEntryType::Update),
            Self::Delete { .. } => said == WalEntryType::Delete,
            Self::CreateTable { .. } => said == WalEntryType::SchemaChange,
        };
        if !fits {
            let holds = change.entry_type();
            return Err(Error::Invalid(format!(
                "the entry at {} says {said:?}, its data {holds:?}",
                entry.lsn
            )));
        }
        Ok(change)
    }

    /// The type of the entry that carries it.
    pub fn entry_type(&self) -> WalEntryType {
        match self {
            Self::Put { .. } => WalEntryType::Insert,
            Self::Delete { .. } => WalEntryType::Delete,
            Self::CreateTable { .. } => WalEntryType::SchemaChange,
        }
    }

    /// Refuses a key, value or name that no store takes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty key or name, or the catalog's number for a new table;
    /// [`Error::TooLarge`] for a key, name or value above its limit.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Put { key, value, .. } => {
                check_key(key)?;
                check_value(value)
            }
            Self::Delete { key, .. } => check_key(key),
            Self::CreateTable { table, name } => {
                if *table == CATALOG {
                    return Err(Error::Invalid(format!(
                        "table {name:?} cannot have number {CATALOG}: that is the catalog"
                    )));
                }
                check_key(name.as_bytes())
            }
        }
    }

    /// The row that it changes.
    pub fn row_key(&self) -> RowKey {
        match self {
            Self::Put { table, key, .. } | Self::Delete { table, key } => (*table, key.clone()),
            Self::CreateTable { name, .. } => (CATALOG, Bytes::copy_from_slice(name.as_bytes())),
        }
    }

    /// The row that it changes: table, key and the value from now on, `None` when deleted.
    pub fn into_row(self) -> (TableId, Bytes, Option<Bytes>) {
        match self {
            Self::Put { table, key, value } => (table, key, Some(value)),
            Self::Delete { table, key } => (table, key, None),
            Self::CreateTable { table, name } => {
                let number = Bytes::copy_from_slice(&table.to_le_bytes());
                (CATALOG, name.into(), Some(number))
            }
        }
    }
}

/// Refuses a value above [`VALUE_MAX`] bytes.
pub(crate) fn check_value(value: &[u8]) -> Result<()> {
    if value.len() > VALUE_MAX {
        return Err(Error::TooLarge {
            what: "value",
            size: value.len() as u64,
            max: VALUE_MAX as u64,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_change() -> impl Strategy<Value = Change> {
        let key = prop::collection::vec(any::<u8>(), 1..300);
        let value = prop::collection::vec(any::<u8>(), 0..300);
        prop_oneof![
            (any::<u32>(), key.clone(), value).prop_map(|(t, k, v)| Change::put(t, k, v)),
            (any::<u32>(), key).prop_map(|(t, k)| Change::delete(t, k)),
            (1..=u32::MAX, "\\PC{1,40}")
                .prop_map(|(table, name)| Change::CreateTable { table, name }),
        ]
    }

    #[test]
    fn the_bytes_of_each_change_never_change() {
        let table = 300;
        let name = "å".to_owned();
        for (change, bytes) in [
            (Change::put(7, "k", "vw"), &b"\x00\x07\x01k\x02vw"[..]),
            (Change::put(300, "k", ""), b"\x00\xFB\x2C\x01\x01k\x00"),
            (Change::delete(0, "key"), b"\x01\x00\x03key"),
            (
                Change::CreateTable { table, name },
                b"\x02\xFB\x2C\x01\x02\xC3\xA5",
            ),
        ] {
            assert_eq!(change.encode(), bytes);
            assert_eq!(Change::decode(&Bytes::from_static(bytes)).unwrap(), change);
        }
    }

    #[test]
    fn absurd_bytes_are_refused_without_being_believed() {
        let huge_key = b"\x00\x07\xFD\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFFk";
        let huge_value = b"\x00\x07\x01k\xFC\xFF\xFF\xFF\xFF";
        let cases: [&'static [u8]; 9] = [
            b"",
            b"\x03\x07\x01k",     // no such change
            b"\x01\x07\x00",      // an empty key
            b"\x01\x07\x01k\x00", // trailing bytes
            b"\x02\x07\x01\xFF",  // not UTF-8
            b"\x02\x07\x00",      // an empty name
            b"\x02\x00\x01t",     // the catalog itself
            huge_key,
            huge_value,
        ];
        for bytes in cases {
            let decoded = Change::decode(&Bytes::from_static(bytes));
            assert!(decoded.is_err(), "{bytes:x?} gave {decoded:?}");
        }
        let long = Change::delete(7, vec![1; KEY_MAX + 1]).encode();
        assert!(matches!(
            Change::decode(&long),
            Err(Error::TooLarge { what: "key", .. })
        ));
    }

    #[test]
    fn the_largest_change_fits_and_is_not_copied() {
        let change = Change::put(u32::MAX, vec![1; KEY_MAX], vec![2; VALUE_MAX]);
        let data = change.encode();
        let Change::Put { value, .. } = Change::decode(&data).unwrap() else {
            panic!("not a put");
        };
        assert_eq!(value.len(), VALUE_MAX);
        assert!(data.as_ptr_range().contains(&value.as_ptr()), "copied");
    }

    #[test]
    fn an_entry_whose_type_lies_about_its_data_is_refused() {
        let data = Change::delete(7, "k").encode();
        for number in 0..=255 {
            let Some(entry_type) = WalEntryType::from_number(number) else {
                continue;
            };
            let read = Change::of(&WalEntry::new(entry_type, None, data.clone()));
            assert_eq!(read.is_ok(), entry_type == WalEntryType::Delete);
        }
        let update = WalEntry::new(
            WalEntryType::Update,
            None,
            Change::put(7, "k", "v").encode(),
        );
        assert!(Change::of(&update).is_ok());
    }

    proptest! {
        #[test]
        fn every_change_reads_back(change in any_change()) {
            prop_assert!(change.check().is_ok());
            let bytes = change.encode();
            prop_assert_eq!(Change::decode(&bytes).unwrap(), change);
            for len in 0..bytes.len() {
                prop_assert!(Change::decode(&bytes.slice(..len)).is_err(), "{} bytes", len);
            }
            let longer = [&bytes[..], &[0]].concat();
            prop_assert!(Change::decode(&longer.into()).is_err());
        }

        #[test]
        fn any_bytes_give_a_change_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let data = Bytes::from(bytes);
            if let Ok(change) = Change::decode(&data) {
                prop_assert!(change.check().is_ok());
            }
        }

        #[test]
        fn a_flipped_byte_never_panics(change in any_change(), at: usize, to: u8) {
            let mut bytes = change.encode().to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = Change::decode(&bytes.into());
        }
    }
}
