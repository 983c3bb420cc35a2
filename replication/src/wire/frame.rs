//! Cutting a stream of bytes into messages.
//!
//! A decoder is fed whatever the socket gave and hands out one frame at a time, or says that it
//! needs more. What may come depends on the phase the session is in: the type is checked at its
//! first byte and the length as soon as it is there, so a stranger can make this node wait for ten
//! thousand bytes and not one more. The room knows types, lengths and phases; the
//! bodies are read by the message types.

use bytes::{Buf, Bytes, BytesMut};

use crate::wire::replication::{FENCE_REASON_MAX, NATIVE_PAYLOAD_MAX, WAL_DATA_HEADER};
use crate::wire::startup::{
    CANCEL_CODE, CancelRequest, GSS_CODE, PROTOCOL_MAJOR, SSL_CODE, StartupMessage,
};
use crate::wire::{Result, WireError};

/// Longest startup packet, with its length field, in bytes.
pub const STARTUP_PACKET_MAX: usize = 10_000;
/// Shortest startup packet: a length and a code.
pub const STARTUP_PACKET_MIN: usize = 8;
/// Longest SASL message body a client may send, in bytes.
pub const SASL_MESSAGE_MAX: usize = 1024;
/// Longest query or replication command, in bytes. The messages of the extended query protocol,
/// which are skipped, share this limit.
pub const QUERY_MAX: usize = 1 << 20;
/// Longest body of a client's small messages (end of copy, Sync, Terminate), in bytes.
pub const SMALL_MESSAGE_MAX: usize = STARTUP_PACKET_MAX;
/// Longest CopyData payload of a stock client while streaming; the longest legal one is 34 bytes.
pub const STOCK_COPY_MAX: usize = 64;
/// Longest CopyData payload of a native client while streaming: a fence with its reason.
pub const NATIVE_COPY_MAX: usize = NATIVE_PAYLOAD_MAX;
/// Most log bytes in one message, in bytes.
pub const WAL_MESSAGE_MAX: usize = 1 << 20;
/// Longest CopyData payload of a server: log bytes and their header.
pub const SERVER_COPY_MAX: usize = WAL_MESSAGE_MAX + WAL_DATA_HEADER;
/// Longest row, row description, error or notice of a server, in bytes.
pub const SERVER_RESULT_MAX: usize = 1 << 20;
/// Longest body of every other message of a server, in bytes: libpq's limit.
pub const SERVER_SMALL_MAX: usize = 30_000;

const _: () = assert!(NATIVE_COPY_MAX < SMALL_MESSAGE_MAX && FENCE_REASON_MAX < NATIVE_COPY_MAX);

/// Type byte and length field of a message.
const HEAD: usize = 5;
/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// One message: its type and its body, which shares the receive buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type letter.
    pub tag: u8,
    /// The body, without type and length.
    pub body: Bytes,
}

/// What a server expects from its client.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum FrontendPhase {
    /// The client has not proven who it is: only SASL messages.
    Authentication,
    /// The session takes commands. Remains of an ended copy are let through to be ignored.
    Command,
    /// Streaming: status messages until CopyDone or Terminate.
    Streaming {
        /// Whether the native extension was negotiated, which has longer messages.
        native: bool,
    },
}

/// Cuts a client's bytes into frames, on the server's side, after the startup packet.
#[derive(Debug)]
pub struct FrontendDecoder {
    phase: FrontendPhase,
}

impl FrontendDecoder {
    /// A decoder for a session in `phase`.
    pub fn new(phase: FrontendPhase) -> Self {
        Self { phase }
    }

    /// The phase the decoder is in.
    pub fn phase(&self) -> FrontendPhase {
        self.phase
    }

    /// Enters `phase`; holds from the next frame on.
    pub fn set_phase(&mut self, phase: FrontendPhase) {
        self.phase = phase;
    }

    /// Takes the next frame off `buf`; `None` means that more bytes are needed.
    ///
    /// # Errors
    /// On a type that is not allowed in this phase, or a length over its limit. The connection
    /// has to be closed then.
    pub fn next(&self, buf: &mut BytesMut) -> Result<Option<Frame>> {
        take_frame(buf, |tag| self.limit(tag))
    }

    fn limit(&self, tag: u8) -> Result<usize> {
        let refusal = match (self.phase, tag) {
            (FrontendPhase::Authentication, b'p') => return Ok(SASL_MESSAGE_MAX),
            (FrontendPhase::Command, b'Q' | b'P' | b'B' | b'F') => return Ok(QUERY_MAX),
            (FrontendPhase::Command, b'D' | b'E' | b'C' | b'H' | b'S' | b'd') => {
                return Ok(SMALL_MESSAGE_MAX);
            }
            (FrontendPhase::Streaming { native: false }, b'd') => return Ok(STOCK_COPY_MAX),
            (FrontendPhase::Streaming { native: true }, b'd') => return Ok(NATIVE_COPY_MAX),
            (FrontendPhase::Command | FrontendPhase::Streaming { .. }, b'c' | b'f' | b'X') => {
                return Ok(SMALL_MESSAGE_MAX);
            }
            (FrontendPhase::Authentication, _) => {
                format!("expected SASL response, got message type {tag}")
            }
            (FrontendPhase::Command, _) => format!("invalid frontend message type {tag}"),
            (FrontendPhase::Streaming { .. }, _) => format!("invalid standby message type {tag}"),
        };
        Err(WireError::Protocol(refusal))
    }
}

/// Cuts a server's bytes into frames, on the client's side.
#[derive(Debug)]
pub struct BackendDecoder {
    copy_max: usize,
}

impl BackendDecoder {
    /// A decoder for the bytes that follow the startup packet.
    pub fn new() -> Self {
        Self {
            copy_max: SERVER_COPY_MAX,
        }
    }

    /// A decoder that takes CopyData payloads up to `copy_max` bytes instead of
    /// [`SERVER_COPY_MAX`], for servers whose rows are larger.
    pub fn with_copy_max(copy_max: usize) -> Self {
        Self { copy_max }
    }

    /// Takes the next frame off `buf`; `None` means that more bytes are needed.
    ///
    /// # Errors
    /// On a type no server sends, or a length over its limit. The connection has to be closed
    /// then.
    pub fn next(&self, buf: &mut BytesMut) -> Result<Option<Frame>> {
        take_frame(buf, |tag| match tag {
            b'd' => Ok(self.copy_max),
            b'D' | b'T' | b'E' | b'N' => Ok(SERVER_RESULT_MAX),
            b'R' | b'S' | b'K' | b'Z' | b'v' | b'C' | b'I' | b'W' | b'H' | b'G' | b'c' => {
                Ok(SERVER_SMALL_MAX)
            }
            _ => {
                let text = format!("unexpected message type {tag} from the server");
                Err(WireError::Protocol(text))
            }
        })
    }
}

impl BackendDecoder {
    /// How long the message is that `buf` begins with, in bytes, for who makes room for it; nothing
    /// while that is not known. It is within the limits once [`next`](Self::next) answered `None`.
    pub fn length(&self, buf: &BytesMut) -> Option<usize> {
        let length = usize::try_from(length_at(buf, 1)?).ok()?;
        length.checked_add(1)
    }
}

impl Default for BackendDecoder {
    fn default() -> Self {
        Self::new()
    }
}

fn take_frame(
    buf: &mut BytesMut,
    limit: impl FnOnce(u8) -> Result<usize>,
) -> Result<Option<Frame>> {
    let Some(&tag) = buf.first() else {
        return Ok(None);
    };
    let max = limit(tag)?;
    let Some(len) = length_at(buf, 1) else {
        return Ok(None);
    };
    let too_large = || WireError::TooLarge {
        what: "message",
        len: u64::from(len),
        max,
    };
    let body = len.checked_sub(4).ok_or_else(|| {
        WireError::Protocol(format!("invalid message length {len} of type {tag}"))
    })?;
    let body = usize::try_from(body).map_err(|_| too_large())?;
    if body > max {
        return Err(too_large());
    }
    let Some(mut frame) = take(buf, HEAD + body) else {
        return Ok(None);
    };
    frame.advance(HEAD);
    Ok(Some(Frame {
        tag,
        body: frame.freeze(),
    }))
}

/// The four-byte length at `at`, if it is there.
fn length_at(buf: &BytesMut, at: usize) -> Option<u32> {
    let bytes = buf.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The first `len` bytes, once they are there.
fn take(buf: &mut BytesMut, len: usize) -> Option<BytesMut> {
    (buf.len() >= len).then(|| buf.split_to(len))
}

/// The first thing a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstPacket {
    /// TLS without asking. Nothing was taken off the buffer: it belongs to the TLS layer, which
    /// must insist on the ALPN protocol `postgresql`.
    TlsHello,
    /// Asks for TLS; the answer is one byte, `S` or `N`.
    SslRequest,
    /// Asks for GSSAPI encryption; the answer is the byte `N`.
    GssRequest,
    /// Asks to cancel another session; there is no answer.
    Cancel(CancelRequest),
    /// Begins a session.
    Startup(StartupMessage),
}

/// Reads what comes before a session: encryption requests, then a startup packet.
#[derive(Debug, Default)]
pub struct StartupDecoder {
    encrypted: bool,
    ssl_asked: bool,
    gss_asked: bool,
}

impl StartupDecoder {
    /// A decoder for a fresh connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that TLS is up: what follows is decrypted, and encryption cannot be asked for again.
    pub fn tls_established(&mut self) {
        self.encrypted = true;
    }

    /// Whether TLS is up.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Takes the next packet off `buf`; `None` means that more bytes are needed.
    ///
    /// # Errors
    /// On anything but a startup packet of a known kind; on a second request for the same
    /// encryption; on bytes behind such a request, which would be read as if they had come
    /// through it. The connection has to be closed then.
    pub fn next(&mut self, buf: &mut BytesMut) -> Result<Option<FirstPacket>> {
        let fresh = !(self.encrypted || self.ssl_asked || self.gss_asked);
        if fresh && buf.first() == Some(&TLS_HANDSHAKE) {
            return Ok(Some(FirstPacket::TlsHello));
        }
        let Some(len) = length_at(buf, 0) else {
            return Ok(None);
        };
        let bounds = STARTUP_PACKET_MIN..=STARTUP_PACKET_MAX;
        let len = usize::try_from(len).ok().filter(|len| bounds.contains(len));
        let Some(len) = len else {
            return Err(protocol("invalid length of startup packet"));
        };
        let Some(packet) = take(buf, len) else {
            return Ok(None);
        };
        let mut packet = packet.freeze();
        packet.advance(4);
        let code = packet.get_u32();
        match code {
            SSL_CODE => {
                let asked = self.encrypted || std::mem::replace(&mut self.ssl_asked, true);
                let text = "received unencrypted data after SSL request";
                encryption_request(asked, &packet, buf, text)?;
                Ok(Some(FirstPacket::SslRequest))
            }
            GSS_CODE => {
                let asked = self.encrypted || std::mem::replace(&mut self.gss_asked, true);
                let text = "received unencrypted data after GSSAPI encryption request";
                encryption_request(asked, &packet, buf, text)?;
                Ok(Some(FirstPacket::GssRequest))
            }
            CANCEL_CODE => CancelRequest::decode_body(packet).map(|it| Some(it.into())),
            code => {
                let [a, b, c, d] = code.to_be_bytes();
                let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                if major != PROTOCOL_MAJOR {
                    return Err(WireError::Version { major, minor });
                }
                StartupMessage::decode_body(minor, packet).map(|it| Some(it.into()))
            }
        }
    }
}

impl From<CancelRequest> for FirstPacket {
    fn from(request: CancelRequest) -> Self {
        Self::Cancel(request)
    }
}

impl From<StartupMessage> for FirstPacket {
    fn from(message: StartupMessage) -> Self {
        Self::Startup(message)
    }
}

fn encryption_request(
    asked: bool,
    body: &Bytes,
    rest: &BytesMut,
    injected: &'static str,
) -> Result<()> {
    if asked {
        return Err(protocol("encryption was asked for twice"));
    }
    if !body.is_empty() {
        return Err(protocol("invalid length of startup packet"));
    }
    if !rest.is_empty() {
        return Err(protocol(injected));
    }
    Ok(())
}

fn protocol(text: &str) -> WireError {
    WireError::Protocol(text.to_owned())
}

/// Reads a server's one-byte answer to an SSLRequest: whether it goes on with TLS. `None` means
/// that the byte is not there yet.
///
/// # Errors
/// On another byte, and on bytes behind it, which a server cannot have sent in good faith.
pub fn decode_ssl_answer(buf: &mut BytesMut) -> Result<Option<bool>> {
    if buf.len() > 1 {
        return Err(protocol("received unencrypted data after SSL response"));
    }
    if buf.is_empty() {
        return Ok(None);
    }
    match buf.get_u8() {
        b'S' => Ok(Some(true)),
        b'N' => Ok(Some(false)),
        _ => Err(protocol("the server did not answer the SSL request")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{BackendMessage, FrontendMessage, ReplicationMode};

    const COMMAND: FrontendDecoder = FrontendDecoder {
        phase: FrontendPhase::Command,
    };

    fn bytes(bytes: &[u8]) -> BytesMut {
        BytesMut::from(bytes)
    }

    fn ssl_request() -> BytesMut {
        bytes(&[0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x2F])
    }

    #[test]
    fn a_frame_is_handed_out_only_when_it_is_whole() {
        let whole = b"Q\0\0\0\x0DSELECT 1\0";
        for cut in 0..whole.len() {
            assert_eq!(COMMAND.next(&mut bytes(&whole[..cut])), Ok(None));
        }
        let mut buf = bytes(whole);
        buf.extend_from_slice(b"X");
        let frame = COMMAND.next(&mut buf).unwrap().unwrap();
        assert_eq!((frame.tag, &frame.body[..]), (b'Q', &b"SELECT 1\0"[..]));
        assert_eq!(&buf[..], b"X");
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_message_is_there() {
        let mut buf = bytes(b"Q\x7F\xFF\xFF\xFF");
        let error = COMMAND.next(&mut buf).unwrap_err();
        assert!(matches!(error, WireError::TooLarge { .. }));
        assert!(error.closes());
    }

    #[test]
    fn how_long_a_message_is_is_known_with_its_head() {
        let decoder = BackendDecoder::new();
        let whole = b"d\0\0\0\x08text";
        for cut in 0..whole.len() {
            let mut buf = bytes(&whole[..cut]);
            assert_eq!(decoder.next(&mut buf), Ok(None));
            let known = (cut >= HEAD).then_some(whole.len());
            assert_eq!(decoder.length(&buf), known, "{cut}");
        }
    }

    #[test]
    fn a_length_below_four_is_refused() {
        assert!(COMMAND.next(&mut bytes(b"Q\0\0\0\x03")).is_err());
    }

    #[test]
    fn before_authentication_only_sasl_messages_pass() {
        let decoder = FrontendDecoder::new(FrontendPhase::Authentication);
        let error = decoder.next(&mut bytes(b"Q")).unwrap_err();
        let text = "expected SASL response, got message type 81";
        assert_eq!(
            (error.to_string().as_str(), error.sqlstate()),
            (text, "08P01")
        );
        let mut long = bytes(&[b'p', 0, 0, 4, 5]);
        assert!(matches!(
            decoder.next(&mut long),
            Err(WireError::TooLarge { .. })
        ));
        let mut fits = bytes(&[b'p', 0, 0, 4, 4]);
        assert_eq!(decoder.next(&mut fits), Ok(None));
    }

    #[test]
    fn a_streaming_client_may_send_status_and_nothing_larger() {
        let stock = FrontendDecoder::new(FrontendPhase::Streaming { native: false });
        let native = FrontendDecoder::new(FrontendPhase::Streaming { native: true });
        let head = |body: usize| {
            let len = u32::try_from(body + 4).unwrap().to_be_bytes();
            bytes(&[&[b'd'][..], &len].concat())
        };
        assert_eq!(stock.next(&mut head(STOCK_COPY_MAX)), Ok(None));
        assert!(stock.next(&mut head(STOCK_COPY_MAX + 1)).is_err());
        assert_eq!(native.next(&mut head(NATIVE_COPY_MAX)), Ok(None));
        assert!(native.next(&mut head(NATIVE_COPY_MAX + 1)).is_err());
        assert!(stock.next(&mut bytes(b"Q")).is_err());
    }

    #[test]
    fn a_server_may_send_one_full_log_message_and_no_more() {
        let decoder = BackendDecoder::new();
        let head = |body: usize| {
            let len = u32::try_from(body + 4).unwrap().to_be_bytes();
            bytes(&[&[b'd'][..], &len].concat())
        };
        assert_eq!(decoder.next(&mut head(SERVER_COPY_MAX)), Ok(None));
        assert!(decoder.next(&mut head(SERVER_COPY_MAX + 1)).is_err());
        let wide = BackendDecoder::with_copy_max(2 * SERVER_COPY_MAX);
        assert_eq!(wide.next(&mut head(2 * SERVER_COPY_MAX)), Ok(None));
    }

    #[test]
    fn the_body_of_a_frame_shares_the_receive_buffer() {
        let mut buf = BytesMut::new();
        let payload = Bytes::from(vec![7u8; 4096]);
        BackendMessage::CopyData(payload).encode(&mut buf);
        let at = buf[5..].as_ptr();
        let frame = BackendDecoder::new().next(&mut buf).unwrap().unwrap();
        assert_eq!(frame.body.as_ptr(), at);
    }

    #[test]
    fn tls_may_begin_a_connection_but_not_follow_a_refusal() {
        let hello = [TLS_HANDSHAKE, 3, 1, 0, 5, 1, 2, 3];
        let mut buf = bytes(&hello);
        let mut decoder = StartupDecoder::new();
        assert_eq!(decoder.next(&mut buf), Ok(Some(FirstPacket::TlsHello)));
        assert_eq!(&buf[..], hello);
        let mut decoder = StartupDecoder::new();
        let asked = decoder.next(&mut ssl_request());
        assert_eq!(asked, Ok(Some(FirstPacket::SslRequest)));
        assert!(decoder.next(&mut buf).is_err());
    }

    #[test]
    fn encryption_can_be_asked_for_once_each_in_either_order() {
        let gss_request = bytes(&[0, 0, 0, 8, 0x04, 0xD2, 0x16, 0x30]);
        let mut decoder = StartupDecoder::new();
        let answer = decoder.next(&mut gss_request.clone());
        assert_eq!(answer, Ok(Some(FirstPacket::GssRequest)));
        let answer = decoder.next(&mut ssl_request());
        assert_eq!(answer, Ok(Some(FirstPacket::SslRequest)));
        assert!(decoder.next(&mut ssl_request()).is_err());
        assert!(decoder.next(&mut gss_request.clone()).is_err());
        let mut decoder = StartupDecoder::new();
        decoder.tls_established();
        assert!(decoder.next(&mut ssl_request()).is_err());
    }

    #[test]
    fn bytes_injected_behind_an_ssl_request_are_refused() {
        let mut buf = ssl_request();
        buf.extend_from_slice(&[0]);
        let error = StartupDecoder::new().next(&mut buf).unwrap_err();
        assert_eq!(
            error.to_string(),
            "received unencrypted data after SSL request"
        );
        assert_eq!(decode_ssl_answer(&mut bytes(b"S")), Ok(Some(true)));
        assert_eq!(decode_ssl_answer(&mut bytes(b"N")), Ok(Some(false)));
        assert_eq!(decode_ssl_answer(&mut bytes(b"")), Ok(None));
        assert!(decode_ssl_answer(&mut bytes(b"SE")).is_err());
        assert!(decode_ssl_answer(&mut bytes(b"E")).is_err());
    }

    #[test]
    fn startup_lengths_and_versions_out_of_range_are_refused() {
        for len in [0u32, 7, 10_001, u32::MAX] {
            let mut buf = bytes(&len.to_be_bytes());
            assert!(StartupDecoder::new().next(&mut buf).is_err(), "{len}");
        }
        let error = StartupDecoder::new().next(&mut bytes(&[0, 0, 0, 8, 0, 2, 0, 0]));
        assert_eq!(error, Err(WireError::Version { major: 2, minor: 0 }));
        assert_eq!(error.unwrap_err().sqlstate(), "0A000");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused_but_never_panic(
            input in prop::collection::vec(any::<u8>(), 0..200),
            tag in prop::sample::select(b"RSKZvENTDCIWHGdcfpQXPBEF".to_vec()),
            tagged: bool,
        ) {
            let mut input = input;
            if tagged && input.len() > 5 {
                let len = u32::try_from(input.len() - 1).unwrap().to_be_bytes();
                input[0] = tag;
                input[1..5].copy_from_slice(&len);
            }
            let _ = StartupDecoder::new().next(&mut bytes(&input));
            if let Ok(Some(frame)) = BackendDecoder::new().next(&mut bytes(&input)) {
                let _ = BackendMessage::decode(frame);
            }
            for phase in [
                FrontendPhase::Authentication,
                FrontendPhase::Command,
                FrontendPhase::Streaming { native: false },
                FrontendPhase::Streaming { native: true },
            ] {
                let decoder = FrontendDecoder::new(phase);
                if let Ok(Some(frame)) = decoder.next(&mut bytes(&input)) {
                    let _ = FrontendMessage::decode(frame);
                }
            }
        }

        #[test]
        fn any_startup_body_is_taken_or_refused_but_never_panics(
            body in prop::collection::vec(prop_oneof![Just(0u8), Just(b'_'), any::<u8>()], 0..120),
        ) {
            let mut packet = u32::try_from(body.len() + 8).unwrap().to_be_bytes().to_vec();
            packet.extend_from_slice(&[0, 3, 0, 0]);
            packet.extend_from_slice(&body);
            if let Ok(Some(FirstPacket::Startup(message))) =
                StartupDecoder::new().next(&mut bytes(&packet))
            {
                prop_assert!(!message.user.is_empty());
                let known = [ReplicationMode::None, ReplicationMode::Physical];
                let _ = known.contains(&message.replication);
            }
        }
    }
}
