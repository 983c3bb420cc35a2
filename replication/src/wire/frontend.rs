//! Messages from a client to its server, after the startup packet.
//!
//! One enum, read by the server side of a connection and written by the client side. A password
//! message stays opaque until the SASL machine asks for it, because its layout depends on the
//! step; its bytes never show in a log. The letters of the extended query protocol are recognised
//! so that a session can refuse them and find the next Sync; their bodies are not looked into.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::cursor::{Cursor, length, put_cstr, put_message};
use crate::wire::{Frame, Result, Secret, WireError, sqlstate};

/// A message from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontendMessage {
    /// `Q`: a simple query or a replication command.
    Query(String),
    /// `p`: a step of authentication; [`SaslInitialResponse`] is the layout of the first.
    Password(Secret),
    /// `d`.
    CopyData(Bytes),
    /// `c`.
    CopyDone,
    /// `f`: the client gives up copying, for this reason.
    CopyFail(String),
    /// `S`: the end of a batch of the extended query protocol.
    Sync,
    /// `H`.
    Flush,
    /// `P`, `B`, `D`, `E`, `C` or `F`: extended query protocol and function calls.
    Extended {
        /// The type letter.
        tag: u8,
        /// The body, not looked into.
        body: Bytes,
    },
    /// `X`: the client leaves.
    Terminate,
}

impl FrontendMessage {
    /// Appends the message with its type and length.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Query(text) => put_message(out, b'Q', |out| put_cstr(out, text)),
            Self::Password(bytes) => put_message(out, b'p', |out| out.put_slice(bytes.expose())),
            Self::CopyData(bytes) => put_message(out, b'd', |out| out.put_slice(bytes)),
            Self::CopyDone => put_message(out, b'c', |_| {}),
            Self::CopyFail(reason) => put_message(out, b'f', |out| put_cstr(out, reason)),
            Self::Sync => put_message(out, b'S', |_| {}),
            Self::Flush => put_message(out, b'H', |_| {}),
            Self::Extended { tag, body } => put_message(out, *tag, |out| out.put_slice(body)),
            Self::Terminate => put_message(out, b'X', |_| {}),
        }
    }

    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// When the type is not a client's, or the body does not have its layout. A query that is not
    /// UTF-8 is refused without ending the session.
    pub fn decode(frame: Frame) -> Result<Self> {
        let (tag, body) = (frame.tag, frame.body);
        let empty = |message, value| {
            Cursor::new(message, body.clone()).finish()?;
            Ok(value)
        };
        match tag {
            b'Q' => decode_query(body),
            b'p' => Ok(Self::Password(Secret::new(body))),
            b'd' => Ok(Self::CopyData(body)),
            b'c' => empty("CopyDone", Self::CopyDone),
            b'f' => {
                let mut cursor = Cursor::new("CopyFail", body);
                let reason = cursor.cstr_lossy()?;
                cursor.finish()?;
                Ok(Self::CopyFail(reason))
            }
            b'S' => empty("Sync", Self::Sync),
            b'H' => empty("Flush", Self::Flush),
            b'X' => empty("Terminate", Self::Terminate),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'F' => Ok(Self::Extended { tag, body }),
            tag => {
                let text = format!("invalid frontend message type {tag}");
                Err(WireError::Protocol(text))
            }
        }
    }
}

fn decode_query(body: Bytes) -> Result<FrontendMessage> {
    let mut cursor = Cursor::new("Query", body);
    let text = cursor.cstr_bytes()?;
    cursor.finish()?;
    let text = String::from_utf8(text.into());
    let text = text.map_err(|_| {
        let message = "invalid byte sequence for encoding \"UTF8\"";
        WireError::refused(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, message)
    })?;
    Ok(FrontendMessage::Query(text))
}

/// The body of the first password message of a SASL exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaslInitialResponse {
    /// The mechanism the client chose.
    pub mechanism: String,
    /// What it says first, if anything.
    pub data: Option<Bytes>,
}

impl SaslInitialResponse {
    /// The body as bytes.
    pub fn encode(&self) -> Secret {
        let mut out = BytesMut::new();
        put_cstr(&mut out, &self.mechanism);
        match &self.data {
            Some(data) => {
                out.put_u32(length(data.len()));
                out.put_slice(data);
            }
            None => out.put_i32(-1),
        }
        Secret::new(out.freeze())
    }

    /// Reads the body.
    ///
    /// # Errors
    /// When the layout is another one.
    pub fn decode(body: &Secret) -> Result<Self> {
        let mut cursor = Cursor::new("SASLInitialResponse", body.expose().clone());
        let mechanism = cursor.cstr()?;
        let data = match cursor.i32()? {
            -1 => None,
            len => {
                let len = usize::try_from(len).map_err(|_| cursor.bad("a length is negative"))?;
                Some(cursor.take(len)?)
            }
        };
        cursor.finish()?;
        Ok(Self { mechanism, data })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::strict::every_byte_counts;
    use crate::wire::{FrontendDecoder, FrontendPhase};

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn any_message() -> impl Strategy<Value = FrontendMessage> {
        let tag = prop::sample::select(b"PBDECF".to_vec());
        prop_oneof![
            "[^\0]{0,40}".prop_map(FrontendMessage::Query),
            bytes().prop_map(FrontendMessage::CopyData),
            "[^\0]{0,40}".prop_map(FrontendMessage::CopyFail),
            (tag, bytes()).prop_map(|(tag, body)| FrontendMessage::Extended { tag, body }),
            Just(FrontendMessage::CopyDone),
            Just(FrontendMessage::Sync),
            Just(FrontendMessage::Flush),
            Just(FrontendMessage::Terminate),
        ]
    }

    proptest! {
        #[test]
        fn every_message_round_trips(message in any_message()) {
            let mut buf = BytesMut::new();
            message.encode(&mut buf);
            let decoder = FrontendDecoder::new(FrontendPhase::Command);
            let frame = decoder.next(&mut buf).unwrap().unwrap();
            prop_assert_eq!(FrontendMessage::decode(frame), Ok(message));
        }

        #[test]
        fn every_sasl_message_round_trips(
            mechanism in "[A-Z0-9-]{0,20}",
            data in prop::option::of(bytes()),
        ) {
            let initial = SaslInitialResponse { mechanism, data };
            let mut buf = BytesMut::new();
            FrontendMessage::Password(initial.encode()).encode(&mut buf);
            let decoder = FrontendDecoder::new(FrontendPhase::Authentication);
            let frame = decoder.next(&mut buf).unwrap().unwrap();
            let Ok(FrontendMessage::Password(body)) = FrontendMessage::decode(frame) else {
                panic!("not a password message");
            };
            prop_assert_eq!(SaslInitialResponse::decode(&body), Ok(initial));
        }

        #[test]
        fn no_byte_of_a_message_is_passed_over(message in any_message(), more: u8) {
            let mut whole = BytesMut::new();
            message.encode(&mut whole);
            let decoder = FrontendDecoder::new(FrontendPhase::Command);
            for len in 0..whole.len() {
                prop_assert_eq!(decoder.next(&mut BytesMut::from(&whole[..len])), Ok(None));
            }
            let Frame { tag, body } = decoder.next(&mut whole).unwrap().unwrap();
            every_byte_counts(&body, more, |body| {
                let mut out = BytesMut::new();
                FrontendMessage::decode(Frame { tag, body }).ok()?.encode(&mut out);
                Some(out.freeze().slice(5..))
            })?;
        }

        #[test]
        fn no_byte_of_a_sasl_message_is_passed_over(
            mechanism in "[A-Z0-9-]{0,20}",
            data in prop::option::of(bytes()),
            more: u8,
        ) {
            let body = SaslInitialResponse { mechanism, data }.encode();
            every_byte_counts(body.expose(), more, |body| {
                let read = SaslInitialResponse::decode(&Secret::new(body)).ok()?;
                Some(read.encode().expose().clone())
            })?;
        }

        #[test]
        fn any_sasl_body_is_taken_or_refused_but_never_panics(body in bytes()) {
            let _ = SaslInitialResponse::decode(&Secret::new(body));
        }
    }

    #[test]
    fn a_query_in_another_encoding_costs_only_the_query() {
        let body = Bytes::from_static(b"SELECT '\xE4'\0");
        let error = FrontendMessage::decode(Frame { tag: b'Q', body }).unwrap_err();
        assert_eq!((error.sqlstate(), error.closes()), ("22021", false));
    }

    #[test]
    fn a_query_with_a_nul_inside_is_refused() {
        let body = Bytes::from_static(b"IDENTIFY_SYSTEM\0DROP\0");
        let error = FrontendMessage::decode(Frame { tag: b'Q', body }).unwrap_err();
        assert!(error.closes());
    }

    #[test]
    fn a_password_message_does_not_show_its_content() {
        let body = Bytes::from_static(b"pencil\0");
        let message = FrontendMessage::decode(Frame { tag: b'p', body }).unwrap();
        assert!(!format!("{message:?}").contains("pencil"));
    }
}
