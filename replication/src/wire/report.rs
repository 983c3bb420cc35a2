//! What an ErrorResponse or a NoticeResponse says.
//!
//! The fields are PostgreSQL's: severity, SQLSTATE, message, detail, hint. Texts are bounded when
//! they are written, so that an error about a huge input is not huge itself. Which error belongs
//! to what is for the callers to know.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::cursor::{Cursor, put_cstr};
use crate::wire::{Result, sqlstate};

/// Longest text written for one field, in bytes; the rest is cut off.
pub const ERROR_FIELD_MAX: usize = 4096;
/// Most fields beyond the named ones that are kept from a server's message.
const OTHER_FIELDS_MAX: usize = 16;

/// How bad it is.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Severity {
    /// The command failed.
    Error,
    /// The session ends.
    Fatal,
    /// The server ends.
    Panic,
    /// A warning.
    Warning,
    /// A notice.
    Notice,
    /// For debugging.
    Debug,
    /// Asked for by the user.
    Info,
    /// For the server's own log.
    Log,
}

impl Severity {
    const ALL: [Severity; 8] = [
        Self::Error,
        Self::Fatal,
        Self::Panic,
        Self::Warning,
        Self::Notice,
        Self::Debug,
        Self::Info,
        Self::Log,
    ];

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Log => "LOG",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == word)
    }
}

/// The content of an ErrorResponse or NoticeResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorFields {
    /// How bad it is.
    pub severity: Severity,
    /// The five-letter code; those this node sends are in [`sqlstate`].
    pub sqlstate: Cow<'static, str>,
    /// What happened, one line.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// How to mend it.
    pub hint: Option<String>,
    /// Fields this node does not use, as it read them: source file, line, routine.
    pub others: Vec<(u8, String)>,
}

impl ErrorFields {
    /// An error that leaves the session usable.
    pub fn error(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, sqlstate, message)
    }

    /// An error after which the connection closes.
    pub fn fatal(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, sqlstate, message)
    }

    /// A report of any severity.
    pub fn new(severity: Severity, sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity,
            sqlstate: Cow::Borrowed(sqlstate),
            message: message.into(),
            detail: None,
            hint: None,
            others: Vec::new(),
        }
    }

    /// Adds a detail.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Appends the body of the message, each text cut to [`ERROR_FIELD_MAX`] bytes.
    pub(super) fn encode_body(&self, out: &mut BytesMut) {
        let mut field = |letter: u8, text: &str| {
            out.put_u8(letter);
            put_cstr(out, bounded(text));
        };
        field(b'S', self.severity.as_str());
        field(b'V', self.severity.as_str());
        field(b'C', &self.sqlstate);
        field(b'M', &self.message);
        if let Some(detail) = &self.detail {
            field(b'D', detail);
        }
        if let Some(hint) = &self.hint {
            field(b'H', hint);
        }
        for (letter, text) in self.others.iter().take(OTHER_FIELDS_MAX) {
            field(*letter, text);
        }
        out.put_u8(0);
    }

    /// Reads the body of the message. A missing severity or code is taken for `ERROR`, `XX000`.
    pub(super) fn decode_body(body: Bytes) -> Result<Self> {
        let mut cursor = Cursor::new("ErrorResponse", body);
        let mut fields = Self::error(sqlstate::INTERNAL_ERROR, "");
        let mut unlocalised = false;
        loop {
            let letter = cursor.u8()?;
            if letter == 0 {
                break;
            }
            let text = cursor.cstr_lossy()?;
            match letter {
                b'V' => {
                    unlocalised = true;
                    fields.severity = Severity::from_word(&text).unwrap_or(Severity::Error);
                }
                b'S' if !unlocalised => {
                    fields.severity = Severity::from_word(&text).unwrap_or(Severity::Error);
                }
                b'S' => {}
                b'C' => fields.sqlstate = Cow::Owned(text),
                b'M' => fields.message = text,
                b'D' => fields.detail = Some(text),
                b'H' => fields.hint = Some(text),
                _ if fields.others.len() < OTHER_FIELDS_MAX => fields.others.push((letter, text)),
                _ => {}
            }
        }
        cursor.finish()?;
        Ok(fields)
    }
}

/// The longest prefix of `text` that fits a field and ends between two characters.
fn bounded(text: &str) -> &str {
    let mut end = text.len().min(ERROR_FIELD_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let long = "é".repeat(ERROR_FIELD_MAX);
        let mut out = BytesMut::new();
        ErrorFields::error(sqlstate::SYNTAX_ERROR, format!("x{long}")).encode_body(&mut out);
        let read = ErrorFields::decode_body(out.freeze()).unwrap();
        assert_eq!(read.message.len(), ERROR_FIELD_MAX - 1);
        assert!(read.message.ends_with('é'));
    }

    #[test]
    fn a_nul_in_a_text_cannot_forge_a_field() {
        let mut out = BytesMut::new();
        ErrorFields::error(sqlstate::SYNTAX_ERROR, "x\0C00000").encode_body(&mut out);
        let read = ErrorFields::decode_body(out.freeze()).unwrap();
        assert_eq!((read.message.as_str(), &*read.sqlstate), ("x", "42601"));
    }

    #[test]
    fn the_unlocalised_severity_wins_over_the_localised_one() {
        let body = Bytes::from_static(b"SFEHLER\0VFATAL\0C57P01\0Mx\0\0");
        let read = ErrorFields::decode_body(body).unwrap();
        assert_eq!(read.severity, Severity::Fatal);
        let body = Bytes::from_static(b"VFATAL\0SFEHLER\0C57P01\0Mx\0\0");
        assert_eq!(ErrorFields::decode_body(body).unwrap(), read);
    }
}
