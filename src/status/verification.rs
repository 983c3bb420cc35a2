//! What comes of comparing a standby's rows with its primary's, as `verify --json` gives it.

use serde::Serialize;
use serde_json::{Map, Value};

/// What a verification led to. Positions are texts like `0/16B3748`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verified {
    /// Whether this standby's rows are the primary's now.
    pub verified: bool,
    /// The standby.
    pub standby_name: String,
    /// The position at which both were compared last.
    pub lsn: String,
    /// At how many positions ranges were compared: more than one where a store gave one up.
    pub positions: u64,
    /// Ranges that were compared.
    pub ranges: u64,
    /// Rows of the primary's that were compared.
    pub rows: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// How long all of it took.
    pub seconds: f64,
    /// Ranges that differed, of at most 256 rows each.
    pub mismatched_ranges: u64,
    /// The smallest key that differed, if it is known.
    pub first_difference: Option<FirstDifference>,
    /// What was mended, if that was asked for and needed.
    pub repaired: Option<Repaired>,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirstDifference {
    /// Its table; `null` for a row of the catalog, whose keys are the tables' names.
    pub table: Option<String>,
    /// Its key: `key`, or `key_base64` when it is not UTF-8.
    #[serde(flatten)]
    pub key: Map<String, Value>,
    /// `missing` here, `extra` here, or `changed`: another value.
    pub difference: &'static str,
    /// In a sentence's part, for people.
    pub text: String,
}

/// What was shipped and mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The position that the mended rows belong to.
    pub lsn: String,
    /// Ranges that were shipped.
    pub ranges: u64,
    /// Rows that were shipped, right ones among them.
    pub shipped_rows: u64,
    /// Bytes of their keys and values.
    pub shipped_bytes: u64,
    /// Rows that were set or removed.
    pub rows: u64,
}
