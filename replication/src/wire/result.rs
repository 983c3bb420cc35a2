//! Answers to commands: result sets, made by a server and taken apart by a client.
//!
//! Each answer is a type that writes itself as PostgreSQL 15 writes it, byte for byte, and reads
//! itself from what a server of any version sent. A [`ResultSet`] stops before ReadyForQuery,
//! because changed parameters are announced just before that. The [`Collector`] gathers what
//! comes back on the client's side. Neither knows where the values come from.

mod answers;
mod collector;

use std::borrow::Cow;

use bytes::BytesMut;

use crate::wire::{BackendMessage, Column, Row};

pub use answers::*;
pub use collector::*;

/// A whole answer: columns, rows and the tag that completes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultSet {
    /// Columns.
    pub columns: Vec<Column>,
    /// Rows, each as wide as the columns.
    pub rows: Vec<Row>,
    /// Tag of CommandComplete.
    pub tag: Cow<'static, str>,
}

impl ResultSet {
    /// A result without rows yet.
    pub fn new(columns: Vec<Column>, tag: &'static str) -> Self {
        Self {
            columns,
            rows: Vec::new(),
            tag: Cow::Borrowed(tag),
        }
    }

    /// Adds a row.
    pub fn with_row(mut self, row: Row) -> Self {
        self.rows.push(row);
        self
    }

    /// Appends RowDescription, the rows and CommandComplete.
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_columns(out);
        for row in &self.rows {
            BackendMessage::DataRow(row.clone()).encode(out);
        }
        encode_complete(&self.tag, out);
    }

    /// Appends RowDescription only: PostgreSQL reports a missing history file behind it.
    pub fn encode_columns(&self, out: &mut BytesMut) {
        BackendMessage::RowDescription(self.columns.clone()).encode(out);
    }
}

/// Appends a CommandComplete, the whole answer to commands without rows.
pub fn encode_complete(tag: &str, out: &mut BytesMut) {
    BackendMessage::CommandComplete(tag.to_owned()).encode(out);
}

/// Appends what ends a physical stream behind both sides' CopyDone, or replaces it when the start
/// is the very end of a timeline: where the log goes on, if it does, and *two* completions, which
/// libpqwalreceiver counts on.
pub fn encode_stream_end(next: Option<NextTimeline>, out: &mut BytesMut) {
    match next {
        Some(next) => next.result().encode(out),
        None => encode_complete(STREAMING_TAG, out),
    }
    encode_complete("START_REPLICATION", out);
}

const STREAMING_TAG: &str = "START_STREAMING";

#[cfg(test)]
mod tests;
