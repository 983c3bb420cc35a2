//! Messages from a server to its client.
//!
//! One enum, read by the client side of a connection and written by the server side. Payload of
//! CopyData is shared with the receive buffer, never copied; when sending log, a server writes
//! [`wal_data_head`](crate::wire::replication::wal_data_head) and the payload itself instead of
//! building a message. The room does not know in which order messages may come.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::cursor::{Cursor, count, length, put_cstr, put_message};
use crate::wire::row::{decode_columns, decode_row, encode_columns, encode_row};
use crate::wire::startup::{CANCEL_KEY_BYTES, Negotiation};
use crate::wire::{Column, ErrorFields, Frame, Result, Row, Secret, WireError};

/// Most SASL mechanisms a server may offer.
const MECHANISMS_MAX: usize = 16;

/// A message from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendMessage {
    /// `R`: a step of authentication.
    Authentication(Authentication),
    /// `S`: the value of a run-time parameter.
    ParameterStatus {
        /// Name of the parameter.
        name: String,
        /// Its value.
        value: String,
    },
    /// `K`: what a CancelRequest for this session must carry.
    BackendKeyData {
        /// Unique positive id of the session.
        pid: i32,
        /// 4 bytes in protocol 3.0, up to 256 later.
        key: Secret,
    },
    /// `Z`: the server waits for a command.
    ReadyForQuery(TransactionStatus),
    /// `v`: the version and the options the server does not know.
    NegotiateProtocolVersion(Negotiation),
    /// `E`.
    ErrorResponse(ErrorFields),
    /// `N`.
    NoticeResponse(ErrorFields),
    /// `T`: columns of the rows that follow.
    RowDescription(Vec<Column>),
    /// `D`.
    DataRow(Row),
    /// `C`: a command is done; its tag.
    CommandComplete(String),
    /// `I`: the query was empty.
    EmptyQueryResponse,
    /// `W`: both sides may send CopyData.
    CopyBothResponse(CopyFormat),
    /// `H`: the server will send CopyData.
    CopyOutResponse(CopyFormat),
    /// `G`: the client may send CopyData.
    CopyInResponse(CopyFormat),
    /// `d`.
    CopyData(Bytes),
    /// `c`.
    CopyDone,
}

/// A step of authentication, server side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// The client is who it says.
    Ok,
    /// The server wants the password in clear.
    CleartextPassword,
    /// The server wants an MD5 hash salted with these bytes.
    Md5Password([u8; 4]),
    /// The server offers these SASL mechanisms.
    Sasl(Vec<String>),
    /// A SASL challenge.
    SaslContinue(Bytes),
    /// The last SASL message of the server.
    SaslFinal(Bytes),
    /// A method that is not spoken here: Kerberos (2), SCM (6), GSSAPI (7, 8), SSPI (9), others.
    Unsupported {
        /// The method's code.
        code: u32,
        /// What followed the code.
        data: Bytes,
    },
}

/// Whether a transaction is open, as ReadyForQuery tells it.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: none.
    Idle,
    /// `T`: one is open.
    Open,
    /// `E`: one is open and has failed.
    Failed,
}

/// Formats announced when copying begins; replication uses [`CopyFormat::default`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyFormat {
    /// 0 for text, 1 for binary.
    pub overall: u8,
    /// The same for each column.
    pub columns: Vec<u16>,
}

impl BackendMessage {
    /// Appends the message with its type and length.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Authentication(step) => put_message(out, b'R', |out| step.encode_body(out)),
            Self::ParameterStatus { name, value } => put_message(out, b'S', |out| {
                put_cstr(out, name);
                put_cstr(out, value);
            }),
            Self::BackendKeyData { pid, key } => put_message(out, b'K', |out| {
                out.put_i32(*pid);
                out.put_slice(key.expose());
            }),
            Self::ReadyForQuery(status) => put_message(out, b'Z', |out| {
                out.put_u8(match status {
                    TransactionStatus::Idle => b'I',
                    TransactionStatus::Open => b'T',
                    TransactionStatus::Failed => b'E',
                });
            }),
            Self::NegotiateProtocolVersion(it) => put_message(out, b'v', |out| it.encode_body(out)),
            Self::ErrorResponse(fields) => put_message(out, b'E', |out| fields.encode_body(out)),
            Self::NoticeResponse(fields) => put_message(out, b'N', |out| fields.encode_body(out)),
            Self::RowDescription(it) => put_message(out, b'T', |out| encode_columns(it, out)),
            Self::DataRow(row) => put_message(out, b'D', |out| encode_row(row, out)),
            Self::CommandComplete(tag) => put_message(out, b'C', |out| put_cstr(out, tag)),
            Self::EmptyQueryResponse => put_message(out, b'I', |_| {}),
            Self::CopyBothResponse(format) => put_message(out, b'W', |out| format.encode(out)),
            Self::CopyOutResponse(format) => put_message(out, b'H', |out| format.encode(out)),
            Self::CopyInResponse(format) => put_message(out, b'G', |out| format.encode(out)),
            Self::CopyData(bytes) => put_message(out, b'd', |out| out.put_slice(bytes)),
            Self::CopyDone => put_message(out, b'c', |_| {}),
        }
    }

    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// When the type is not a server's, or the body does not have its layout.
    pub fn decode(frame: Frame) -> Result<Self> {
        let body = frame.body;
        Ok(match frame.tag {
            b'R' => Self::Authentication(Authentication::decode_body(body)?),
            b'S' => {
                let mut cursor = Cursor::new("ParameterStatus", body);
                let (name, value) = (cursor.cstr()?, cursor.cstr()?);
                cursor.finish()?;
                Self::ParameterStatus { name, value }
            }
            b'K' => {
                let mut cursor = Cursor::new("BackendKeyData", body);
                let pid = cursor.i32()?;
                let key = cursor.rest();
                if !CANCEL_KEY_BYTES.contains(&key.len()) {
                    return Err(cursor.bad("its key has a wrong length"));
                }
                let key = Secret::new(key);
                Self::BackendKeyData { pid, key }
            }
            b'Z' => Self::ReadyForQuery(decode_status(body)?),
            b'v' => Self::NegotiateProtocolVersion(Negotiation::decode_body(body)?),
            b'E' => Self::ErrorResponse(ErrorFields::decode_body(body)?),
            b'N' => Self::NoticeResponse(ErrorFields::decode_body(body)?),
            b'T' => Self::RowDescription(decode_columns(body)?),
            b'D' => Self::DataRow(decode_row(body)?),
            b'C' => {
                let mut cursor = Cursor::new("CommandComplete", body);
                let tag = cursor.cstr()?;
                cursor.finish()?;
                Self::CommandComplete(tag)
            }
            b'I' => {
                Cursor::new("EmptyQueryResponse", body).finish()?;
                Self::EmptyQueryResponse
            }
            b'W' => Self::CopyBothResponse(CopyFormat::decode("CopyBothResponse", body)?),
            b'H' => Self::CopyOutResponse(CopyFormat::decode("CopyOutResponse", body)?),
            b'G' => Self::CopyInResponse(CopyFormat::decode("CopyInResponse", body)?),
            b'd' => Self::CopyData(body),
            b'c' => {
                Cursor::new("CopyDone", body).finish()?;
                Self::CopyDone
            }
            tag => {
                let text = format!("unexpected message type {tag} from the server");
                return Err(WireError::Protocol(text));
            }
        })
    }
}

fn decode_status(body: Bytes) -> Result<TransactionStatus> {
    let mut cursor = Cursor::new("ReadyForQuery", body);
    let status = match cursor.u8()? {
        b'I' => TransactionStatus::Idle,
        b'T' => TransactionStatus::Open,
        b'E' => TransactionStatus::Failed,
        _ => return Err(cursor.bad("its status is unknown")),
    };
    cursor.finish()?;
    Ok(status)
}

impl Authentication {
    fn encode_body(&self, out: &mut BytesMut) {
        match self {
            Self::Ok => out.put_u32(0),
            Self::CleartextPassword => out.put_u32(3),
            Self::Md5Password(salt) => {
                out.put_u32(5);
                out.put_slice(salt);
            }
            Self::Sasl(mechanisms) => {
                out.put_u32(10);
                for mechanism in mechanisms {
                    put_cstr(out, mechanism);
                }
                out.put_u8(0);
            }
            Self::SaslContinue(bytes) => {
                out.put_u32(11);
                out.put_slice(bytes);
            }
            Self::SaslFinal(bytes) => {
                out.put_u32(12);
                out.put_slice(bytes);
            }
            Self::Unsupported { code, data } => {
                out.put_u32(*code);
                out.put_slice(data);
            }
        }
    }

    fn decode_body(body: Bytes) -> Result<Self> {
        let mut cursor = Cursor::new("Authentication", body);
        let step = match cursor.u32()? {
            0 => Self::Ok,
            3 => Self::CleartextPassword,
            5 => Self::Md5Password(cursor.u32()?.to_be_bytes()),
            10 => Self::Sasl(decode_mechanisms(&mut cursor)?),
            11 => Self::SaslContinue(cursor.rest()),
            12 => Self::SaslFinal(cursor.rest()),
            code => Self::Unsupported {
                code,
                data: cursor.rest(),
            },
        };
        cursor.finish()?;
        Ok(step)
    }
}

fn decode_mechanisms(cursor: &mut Cursor) -> Result<Vec<String>> {
    let mut mechanisms = Vec::new();
    loop {
        let mechanism = cursor.cstr()?;
        if mechanism.is_empty() {
            return Ok(mechanisms);
        }
        if mechanisms.len() == MECHANISMS_MAX {
            return Err(cursor.bad("it offers too many mechanisms"));
        }
        mechanisms.push(mechanism);
    }
}

impl CopyFormat {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.overall);
        out.put_u16(count(self.columns.len()));
        for &column in &self.columns {
            out.put_u16(column);
        }
    }

    fn decode(message: &'static str, body: Bytes) -> Result<Self> {
        let mut cursor = Cursor::new(message, body);
        let overall = cursor.u8()?;
        let columns = usize::from(cursor.u16()?);
        if columns != cursor.remaining() / 2 {
            return Err(cursor.bad("its number of columns is wrong"));
        }
        let columns = (0..columns).map(|_| cursor.u16());
        let columns = columns.collect::<Result<_>>()?;
        cursor.finish()?;
        Ok(Self { overall, columns })
    }
}

impl Negotiation {
    fn encode_body(&self, out: &mut BytesMut) {
        out.put_u32(self.version);
        out.put_u32(length(self.unknown.len()));
        for name in &self.unknown {
            put_cstr(out, name);
        }
    }

    fn decode_body(body: Bytes) -> Result<Self> {
        let mut cursor = Cursor::new("NegotiateProtocolVersion", body);
        let version = cursor.u32()?;
        let names = usize::try_from(cursor.u32()?).unwrap_or(usize::MAX);
        if names > cursor.remaining() {
            return Err(cursor.bad("it lists fewer options than it says"));
        }
        let unknown = (0..names).map(|_| cursor.cstr());
        let unknown = unknown.collect::<Result<_>>()?;
        cursor.finish()?;
        Ok(Self { version, unknown })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::strict::every_byte_counts;
    use crate::wire::{BackendDecoder, Severity};

    fn text() -> impl Strategy<Value = String> {
        "[^\0]{0,20}"
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn any_authentication() -> impl Strategy<Value = Authentication> {
        prop_oneof![
            Just(Authentication::Ok),
            Just(Authentication::CleartextPassword),
            any::<[u8; 4]>().prop_map(Authentication::Md5Password),
            prop::collection::vec("[A-Z0-9-]{1,20}", 0..4).prop_map(Authentication::Sasl),
            bytes().prop_map(Authentication::SaslContinue),
            bytes().prop_map(Authentication::SaslFinal),
            (6..10u32, bytes()).prop_map(|(code, data)| Authentication::Unsupported { code, data }),
        ]
    }

    fn any_fields() -> impl Strategy<Value = ErrorFields> {
        let severity = prop::sample::select(vec![
            Severity::Error,
            Severity::Fatal,
            Severity::Panic,
            Severity::Warning,
            Severity::Log,
        ]);
        let optional = || prop::option::of(text());
        let others = prop::collection::vec((b'a'..=b'z', text()), 0..4);
        (
            severity,
            "[0-9A-Z]{5}",
            text(),
            optional(),
            optional(),
            others,
        )
            .prop_map(
                |(severity, sqlstate, message, detail, hint, others)| ErrorFields {
                    severity,
                    sqlstate: sqlstate.into(),
                    message,
                    detail,
                    hint,
                    others,
                },
            )
    }

    fn any_column() -> impl Strategy<Value = Column> {
        let numbers = (any::<[u32; 2]>(), any::<[i16; 3]>(), any::<i32>());
        (text(), numbers).prop_map(|(name, (oids, small, type_modifier))| Column {
            name,
            table_oid: oids[0],
            attribute: small[0],
            type_oid: oids[1],
            type_len: small[1],
            type_modifier,
            format: small[2],
        })
    }

    fn any_format() -> impl Strategy<Value = CopyFormat> {
        (any::<u8>(), prop::collection::vec(any::<u16>(), 0..4))
            .prop_map(|(overall, columns)| CopyFormat { overall, columns })
    }

    fn any_message() -> impl Strategy<Value = BackendMessage> {
        let status = prop::sample::select(vec![
            TransactionStatus::Idle,
            TransactionStatus::Open,
            TransactionStatus::Failed,
        ]);
        let key = prop::collection::vec(any::<u8>(), CANCEL_KEY_BYTES);
        let values = prop::collection::vec(prop::option::of(bytes()), 0..5);
        let names = prop::collection::vec(text(), 0..4);
        prop_oneof![
            any_authentication().prop_map(BackendMessage::Authentication),
            (text(), text())
                .prop_map(|(name, value)| BackendMessage::ParameterStatus { name, value }),
            (any::<i32>(), key).prop_map(|(pid, key)| BackendMessage::BackendKeyData {
                pid,
                key: Secret::new(key)
            }),
            status.prop_map(BackendMessage::ReadyForQuery),
            (any::<u32>(), names).prop_map(|(version, unknown)| {
                BackendMessage::NegotiateProtocolVersion(Negotiation { version, unknown })
            }),
            any_fields().prop_map(BackendMessage::ErrorResponse),
            any_fields().prop_map(BackendMessage::NoticeResponse),
            prop::collection::vec(any_column(), 0..4).prop_map(BackendMessage::RowDescription),
            values.prop_map(|values| BackendMessage::DataRow(Row(values))),
            text().prop_map(BackendMessage::CommandComplete),
            Just(BackendMessage::EmptyQueryResponse),
            any_format().prop_map(BackendMessage::CopyBothResponse),
            any_format().prop_map(BackendMessage::CopyOutResponse),
            any_format().prop_map(BackendMessage::CopyInResponse),
            bytes().prop_map(BackendMessage::CopyData),
            Just(BackendMessage::CopyDone),
        ]
    }

    proptest! {
        #[test]
        fn every_message_round_trips(messages in prop::collection::vec(any_message(), 1..4)) {
            let mut buf = BytesMut::new();
            for message in &messages {
                message.encode(&mut buf);
            }
            for message in messages {
                let frame = BackendDecoder::new().next(&mut buf).unwrap().unwrap();
                prop_assert_eq!(BackendMessage::decode(frame), Ok(message));
            }
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn no_byte_of_a_message_is_passed_over(message in any_message(), more: u8) {
            let mut whole = BytesMut::new();
            message.encode(&mut whole);
            let decoder = BackendDecoder::new();
            for len in 0..whole.len() {
                prop_assert_eq!(decoder.next(&mut BytesMut::from(&whole[..len])), Ok(None));
            }
            let Frame { tag, body } = decoder.next(&mut whole).unwrap().unwrap();
            every_byte_counts(&body, more, |body| {
                let mut out = BytesMut::new();
                BackendMessage::decode(Frame { tag, body }).ok()?.encode(&mut out);
                Some(out.freeze().slice(5..))
            })?;
        }
    }

    #[test]
    fn counts_that_the_body_cannot_hold_are_refused_before_allocating() {
        let lies: [(u8, &[u8]); 4] = [
            (b'T', &[0xFF, 0xFF]),
            (b'D', &[0xFF, 0xFF, 0, 0]),
            (b'v', &[0, 3, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
            (b'W', &[0, 0xFF, 0xFF]),
        ];
        for (tag, body) in lies {
            let body = Bytes::from_static(body);
            assert!(BackendMessage::decode(Frame { tag, body }).is_err());
        }
    }
}
