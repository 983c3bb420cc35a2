//! A page of a table's rows, as a node answers a scan.

use serde::Deserialize;

use crate::encoding::from_json;

/// One page of a table's rows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) rows: Vec<(Vec<u8>, Vec<u8>)>,
    /// The key that the next page begins with.
    pub(crate) next: Option<Vec<u8>>,
}

#[derive(Deserialize)]
pub(super) struct PageForm {
    rows: Vec<RowForm>,
    next: Option<String>,
    next_base64: Option<String>,
}

#[derive(Deserialize)]
struct RowForm {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

impl PageForm {
    /// # Errors
    /// What cannot be read, and why.
    pub(super) fn decode(self) -> Result<Page, String> {
        let rows = self.rows.into_iter().map(|row| {
            let key = from_json("key", row.key, row.key_base64)?;
            Ok((key, from_json("value", row.value, row.value_base64)?))
        });
        let next = match (self.next, self.next_base64) {
            (None, None) => None,
            (text, base64) => Some(from_json("next", text, base64)?),
        };
        Ok(Page {
            rows: rows.collect::<Result<_, String>>()?,
            next,
        })
    }
}
