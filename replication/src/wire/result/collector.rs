//! Gathering the answer to one command, on the client's side.
//!
//! Servers are not tidy: an error may follow a RowDescription, a stream may end with two
//! completions, CopyData may stray in when no copy runs. The collector takes all that and ends at
//! ReadyForQuery or where copying begins. How much it holds is bounded.

use bytes::Bytes;

use crate::wire::{
    BackendMessage, Column, CopyFormat, ErrorFields, Result, Row, TransactionStatus, WireError,
};

/// Most rows of one answer.
pub const ANSWER_ROWS_MAX: usize = 65_536;
/// Most bytes of values in one answer.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Most result sets, notices or parameters of one answer, each.
pub const ANSWER_PARTS_MAX: usize = 256;

/// One result set of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowSet {
    /// Columns; none for a command without rows.
    pub columns: Vec<Column>,
    /// Rows.
    pub rows: Vec<Row>,
    /// The tag that completed it; absent when an error came instead.
    pub tag: Option<String>,
}

/// What came back until the server waited for a command again or began to copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Result sets in order.
    pub sets: Vec<RowSet>,
    /// The error, if the command failed.
    pub error: Option<ErrorFields>,
    /// Notices in order.
    pub notices: Vec<ErrorFields>,
    /// Parameters that changed, in order.
    pub parameters: Vec<(String, String)>,
}

/// How far the answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    More,
    /// Copying begins; the answer so far.
    Copy(CopyKind, CopyFormat, Answer),
    /// The server waits for a command.
    Done(Answer, TransactionStatus),
}

/// Who may send CopyData.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum CopyKind {
    /// Both sides.
    Both,
    /// The server.
    Out,
    /// The client.
    In,
}

/// Gathers one answer after another.
#[derive(Debug, Default)]
pub struct Collector {
    answer: Answer,
    open: Option<RowSet>,
    bytes: usize,
    rows: usize,
}

impl Collector {
    /// A collector with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next message of the server. After [`Progress::Copy`] the copy is the caller's;
    /// what comes behind it may be given to the same collector.
    ///
    /// # Errors
    /// When the message cannot be part of an answer, or the answer is over its limits. The
    /// connection has to be closed then.
    pub fn take(&mut self, message: BackendMessage) -> Result<Progress> {
        match message {
            BackendMessage::RowDescription(columns) => {
                self.close(None)?;
                self.open = Some(RowSet {
                    columns,
                    ..RowSet::default()
                });
            }
            BackendMessage::DataRow(row) => self.row(row)?,
            BackendMessage::CommandComplete(tag) => self.close(Some(tag))?,
            BackendMessage::EmptyQueryResponse => self.close(Some(String::new()))?,
            BackendMessage::ErrorResponse(error) => {
                self.close(None)?;
                self.answer.error = Some(error);
            }
            BackendMessage::NoticeResponse(notice) => push(&mut self.answer.notices, notice)?,
            BackendMessage::ParameterStatus { name, value } => {
                push(&mut self.answer.parameters, (name, value))?;
            }
            BackendMessage::CopyData(_) | BackendMessage::CopyDone => {}
            BackendMessage::CopyBothResponse(format) => return self.copy(CopyKind::Both, format),
            BackendMessage::CopyOutResponse(format) => return self.copy(CopyKind::Out, format),
            BackendMessage::CopyInResponse(format) => return self.copy(CopyKind::In, format),
            BackendMessage::ReadyForQuery(status) => {
                return self.finish().map(|answer| Progress::Done(answer, status));
            }
            BackendMessage::Authentication(_)
            | BackendMessage::BackendKeyData { .. }
            | BackendMessage::NegotiateProtocolVersion(_) => {
                let text = "the server sent a startup message in an answer";
                return Err(WireError::Protocol(text.to_owned()));
            }
        }
        Ok(Progress::More)
    }

    fn row(&mut self, row: Row) -> Result<()> {
        let Some(set) = &mut self.open else {
            let text = "the server sent a row without its description";
            return Err(WireError::Protocol(text.to_owned()));
        };
        if row.0.len() != set.columns.len() {
            let text = "the server sent a row with a wrong number of columns";
            return Err(WireError::Protocol(text.to_owned()));
        }
        self.rows += 1;
        self.bytes += row.0.iter().flatten().map(Bytes::len).sum::<usize>();
        if self.rows > ANSWER_ROWS_MAX || self.bytes > ANSWER_BYTES_MAX {
            return Err(too_large(self.bytes, ANSWER_BYTES_MAX));
        }
        set.rows.push(row);
        Ok(())
    }

    /// Ends the open result set, or adds an empty one for a completion without rows.
    fn close(&mut self, tag: Option<String>) -> Result<()> {
        if self.open.is_none() && tag.is_none() {
            return Ok(());
        }
        let mut set = self.open.take().unwrap_or_default();
        set.tag = tag;
        push(&mut self.answer.sets, set)
    }

    fn finish(&mut self) -> Result<Answer> {
        self.close(None)?;
        Ok(std::mem::take(self).answer)
    }

    fn copy(&mut self, kind: CopyKind, format: CopyFormat) -> Result<Progress> {
        Ok(Progress::Copy(kind, format, self.finish()?))
    }
}

fn push<T>(list: &mut Vec<T>, item: T) -> Result<()> {
    if list.len() == ANSWER_PARTS_MAX {
        return Err(too_large(ANSWER_PARTS_MAX + 1, ANSWER_PARTS_MAX));
    }
    list.push(item);
    Ok(())
}

fn too_large(len: usize, max: usize) -> WireError {
    WireError::TooLarge {
        what: "answer",
        len: u64::try_from(len).unwrap_or(u64::MAX),
        max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::result::{SystemIdentity, show};
    use crate::wire::sqlstate;

    fn one_column() -> BackendMessage {
        BackendMessage::RowDescription(vec![Column::text("x")])
    }

    const READY: BackendMessage = BackendMessage::ReadyForQuery(TransactionStatus::Idle);

    fn answer(messages: Vec<BackendMessage>) -> Result<Answer> {
        let mut collector = Collector::new();
        for message in messages {
            if let Progress::Done(answer, _) = collector.take(message)? {
                return Ok(answer);
            }
        }
        panic!("the answer has no end");
    }

    #[test]
    fn an_error_behind_a_row_description_is_the_answer() {
        let error = ErrorFields::error(sqlstate::UNDEFINED_FILE, "gone");
        let messages = vec![
            one_column(),
            BackendMessage::ErrorResponse(error.clone()),
            READY,
        ];
        let answer = answer(messages).unwrap();
        assert_eq!(answer.error, Some(error));
        assert_eq!(answer.sets[0].tag, None);
    }

    #[test]
    fn stray_copy_data_is_ignored() {
        let stray = BackendMessage::CopyData(Bytes::from_static(b"k"));
        let answer = answer(vec![stray.clone(), one_column(), stray, READY]).unwrap();
        assert_eq!(answer.sets.len(), 1);
    }

    #[test]
    fn rows_out_of_place_are_refused() {
        let row = || BackendMessage::DataRow(Row::new([None, None]));
        assert!(answer(vec![row(), READY]).is_err());
        assert!(answer(vec![one_column(), row(), READY]).is_err());
        let startup = BackendMessage::Authentication(crate::wire::Authentication::Ok);
        assert!(answer(vec![startup, READY]).is_err());
    }

    #[test]
    fn an_endless_answer_is_refused() {
        let mut collector = Collector::new();
        collector.take(one_column()).unwrap();
        let row = BackendMessage::DataRow(Row(vec![Some(Bytes::from(vec![b'x'; 1 << 20]))]));
        for _ in 0..4 {
            collector.take(row.clone()).unwrap();
        }
        assert!(matches!(
            collector.take(row),
            Err(WireError::TooLarge { .. })
        ));
    }

    #[test]
    fn an_answer_with_missing_columns_is_refused() {
        let set = |result: crate::wire::result::ResultSet| RowSet {
            columns: result.columns,
            rows: result.rows,
            tag: None,
        };
        assert!(SystemIdentity::read(&set(show("x", "1"))).is_err());
        assert!(SystemIdentity::read(&RowSet::default()).is_err());
    }
}
