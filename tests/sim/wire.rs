//! What is said while log is streamed, in the bytes that the product writes and reads.

use bytes::{Bytes, BytesMut};
use mainstay_replication::protocol::progress::Positions;
use mainstay_replication::wire::replication::{
    Advance, Fence, NativeStatus, ReceiverMessage, SenderMessage,
};
use mainstay_replication::wire::{
    BackendDecoder, BackendMessage, FrontendDecoder, FrontendMessage, FrontendPhase, WireError,
};
use mainstay_storage::Lsn;

use super::net::Body;
use super::random::Random;

/// The times in messages, which nobody decides by.
const TIME: i64 = 7;

/// Most pieces that one message comes in.
const PIECES_MAX: usize = 4;

/// The bytes of what an upstream says, or `None` if it is no part of a stream.
pub(super) fn of_upstream(body: &Body) -> Option<Bytes> {
    let message = match body {
        Body::Wal { at, bytes } => SenderMessage::WalData {
            start: *at,
            end: *at + bytes.len() as u64,
            time_us: TIME,
            payload: bytes.clone(),
        },
        Body::Advance {
            flushed,
            commit,
            timeline,
            reply_requested,
        } => SenderMessage::Advance(Advance {
            flush: *flushed,
            commit: *commit,
            timeline: *timeline,
            time_us: TIME,
            reply_requested: *reply_requested,
        }),
        Body::CopyDone => {
            let mut out = BytesMut::new();
            BackendMessage::CopyDone.encode(&mut out);
            return Some(out.freeze());
        }
        _ => return None,
    };
    let mut out = BytesMut::new();
    message.encode(&mut out);
    Some(out.freeze())
}

/// The bytes of what a standby says, or `None` if it is no part of a stream.
pub(super) fn of_standby(body: &Body) -> Option<Bytes> {
    let message = match body {
        Body::Status {
            positions,
            timeline,
            reply_requested,
        } => ReceiverMessage::NativeStatus(NativeStatus {
            write: positions.write,
            flush: positions.flush,
            apply: positions.apply,
            timeline: *timeline,
            oldest_snapshot: Lsn::ZERO,
            time_us: TIME,
            reply_requested: *reply_requested,
        }),
        Body::Fence { timeline, opened } => ReceiverMessage::Fence(Fence {
            timeline: *timeline,
            opened: *opened,
            reason: "simulated".to_owned(),
        }),
        Body::CopyDone => {
            let mut out = BytesMut::new();
            FrontendMessage::CopyDone.encode(&mut out);
            return Some(out.freeze());
        }
        _ => return None,
    };
    let mut out = BytesMut::new();
    message.encode(&mut out);
    Some(out.freeze())
}

/// The next thing that an upstream said whole.
pub(super) fn from_upstream(input: &mut BytesMut) -> Result<Option<Body>, WireError> {
    let Some(frame) = BackendDecoder::new().next(input)? else {
        return Ok(None);
    };
    let payload = match BackendMessage::decode(frame)? {
        BackendMessage::CopyData(payload) => payload,
        BackendMessage::CopyDone => return Ok(Some(Body::CopyDone)),
        other => return Err(unexpected(&other)),
    };
    Ok(Some(match SenderMessage::decode(payload, true)? {
        SenderMessage::WalData { start, payload, .. } => Body::Wal {
            at: start,
            bytes: payload,
        },
        SenderMessage::Advance(advance) => Body::Advance {
            flushed: advance.flush,
            commit: advance.commit,
            timeline: advance.timeline,
            reply_requested: advance.reply_requested,
        },
        other => return Err(unexpected(&other)),
    }))
}

/// The next thing that a standby said whole.
pub(super) fn from_standby(input: &mut BytesMut) -> Result<Option<Body>, WireError> {
    let phase = FrontendPhase::Streaming { native: true };
    let Some(frame) = FrontendDecoder::new(phase).next(input)? else {
        return Ok(None);
    };
    let payload = match FrontendMessage::decode(frame)? {
        FrontendMessage::CopyData(payload) => payload,
        FrontendMessage::CopyDone => return Ok(Some(Body::CopyDone)),
        other => return Err(unexpected(&other)),
    };
    Ok(Some(match ReceiverMessage::decode(payload, true)? {
        ReceiverMessage::NativeStatus(status) => Body::Status {
            positions: Positions {
                write: status.write,
                flush: status.flush,
                apply: status.apply,
            },
            timeline: status.timeline,
            reply_requested: status.reply_requested,
        },
        ReceiverMessage::Fence(fence) => Body::Fence {
            timeline: fence.timeline,
            opened: fence.opened,
        },
        other => return Err(unexpected(&other)),
    }))
}

fn unexpected(message: &dyn std::fmt::Debug) -> WireError {
    WireError::Protocol(format!("a stream does not say {message:?}"))
}

/// Cuts bytes into pieces, mostly one.
pub(super) fn pieces(mut bytes: Bytes, random: &mut Random) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    while bytes.len() > 1 && pieces.len() + 1 < PIECES_MAX && random.one_in(6) {
        pieces.push(bytes.split_to(1 + random.index(bytes.len() - 1)));
    }
    pieces.push(bytes);
    pieces
}
