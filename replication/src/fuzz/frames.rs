//! Cutting bytes into frames, and what comes before the first of them.

use bytes::BytesMut;

use super::Input;
use crate::wire::{
    BackendDecoder, FirstPacket, Frame, FrontendDecoder, FrontendPhase, NATIVE_COPY_MAX, QUERY_MAX,
    Result, SASL_MESSAGE_MAX, SERVER_COPY_MAX, SMALL_MESSAGE_MAX, STARTUP_PACKET_MAX,
    STOCK_COPY_MAX, StartupDecoder, StartupMessage, WireError, decode_ssl_answer,
};

/// Type byte and length of a message.
const HEAD: usize = 5;

/// The same stream in one piece and in many, in every phase.
pub(super) fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let streaming = |native| FrontendPhase::Streaming { native };
    let phases = [
        (FrontendPhase::Authentication, SASL_MESSAGE_MAX),
        (FrontendPhase::Command, QUERY_MAX),
        (streaming(false), STOCK_COPY_MAX.max(SMALL_MESSAGE_MAX)),
        (streaming(true), NATIVE_COPY_MAX.max(SMALL_MESSAGE_MAX)),
    ];
    let step = 1 + usize::from(input.byte());
    let kind = usize::from(input.byte()) % 5;
    let stream = input.rest();
    match phases.get(kind) {
        Some(&(phase, max)) => {
            let decoder = FrontendDecoder::new(phase);
            both_ways(stream, step, max, |buf| decoder.next(buf));
        }
        None => {
            let decoder = BackendDecoder::new();
            both_ways(stream, step, SERVER_COPY_MAX, |buf| decoder.next(buf));
        }
    }
    let _ = decode_ssl_answer(&mut BytesMut::from(stream));
}

/// Cuts `stream` as a whole and in pieces of `step` bytes, and compares.
fn both_ways(
    stream: &[u8],
    step: usize,
    max: usize,
    next: impl Fn(&mut BytesMut) -> Result<Option<Frame>>,
) {
    let whole = cut(std::iter::once(stream), max, &next);
    let pieces = cut(stream.chunks(step), max, &next);
    assert_eq!(whole, pieces, "in pieces of {step}");
    // What was cut, put together again, is what came.
    let mut again = Vec::new();
    for frame in &whole.0 {
        assert!(frame.body.len() <= max);
        again.push(frame.tag);
        let len = u32::try_from(frame.body.len() + 4).expect("a short stream");
        again.extend_from_slice(&len.to_be_bytes());
        again.extend_from_slice(&frame.body);
    }
    assert!(stream.starts_with(&again));
}

/// All frames of a stream, and the error it ends with.
fn cut<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    max: usize,
    next: impl Fn(&mut BytesMut) -> Result<Option<Frame>>,
) -> (Vec<Frame>, Option<WireError>) {
    let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match next(&mut buf) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        // The buffer may double what it needs, and no more than that.
        let needed = (max + HEAD).max(buf.len() + piece.len());
        assert!(
            buf.capacity() <= 2 * needed + 64,
            "room for {}",
            buf.capacity()
        );
    }
    (frames, None)
}

/// What a stranger sends first.
pub(super) fn startup(data: &[u8]) {
    let mut decoder = StartupDecoder::new();
    let mut buf = BytesMut::new();
    let mut input = Input::new(data);
    while !input.is_empty() {
        let piece = input.sized();
        buf.extend_from_slice(piece);
        let packet = decoder.next(&mut buf);
        let most = STARTUP_PACKET_MAX.max(buf.len() + piece.len());
        assert!(
            buf.capacity() <= 2 * most + 64,
            "room for {}",
            buf.capacity()
        );
        match packet {
            Ok(None | Some(FirstPacket::SslRequest | FirstPacket::GssRequest)) => {}
            Ok(Some(FirstPacket::Startup(startup))) => return began(startup),
            Ok(Some(FirstPacket::Cancel(request))) => {
                let mut again = BytesMut::new();
                request.encode(&mut again);
                let read = StartupDecoder::new().next(&mut again);
                return assert_eq!(read, Ok(Some(FirstPacket::Cancel(request))));
            }
            Ok(Some(FirstPacket::TlsHello)) => return,
            Err(error) => return assert!(error.closes(), "{error}"),
        }
    }
}

fn began(startup: StartupMessage) {
    let mut again = BytesMut::new();
    startup.encode(&mut again);
    assert!(again.len() <= 2 * STARTUP_PACKET_MAX);
    if again.len() <= STARTUP_PACKET_MAX {
        let read = StartupDecoder::new().next(&mut again);
        assert_eq!(read, Ok(Some(FirstPacket::Startup(startup.clone()))));
    }
    assert!(!startup.user.is_empty() && !startup.database().is_empty());
    let name = startup.application_name();
    assert!(name.len() <= 63 && name.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    let native = startup.native_version();
    assert!(native.is_err() || native.is_ok_and(|version| version.is_none_or(|it| it == 1)));
    let unknown = startup.negotiation().map_or(0, |it| it.unknown.len());
    assert!(unknown <= startup.protocol_options.len());
    // A value may be a password.
    let shown = format!("{startup:?}");
    for (_, value) in &startup.parameters {
        let long = value.len() > 16 && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let names = startup.parameters.iter().chain(&startup.protocol_options);
        let elsewhere = names.clone().any(|(name, _)| name.contains(value.as_str()));
        let said = [&startup.user, startup.database()].map(|it| it.contains(value.as_str()));
        assert!(!long || elsewhere || said.contains(&true) || !shown.contains(value.as_str()));
    }
}
