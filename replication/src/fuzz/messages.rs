//! The bodies of messages, of both sides.

use bytes::{Bytes, BytesMut};

use super::Input;
use crate::wire::replication::{
    FENCE_REASON_MAX, ReceiverMessage, SenderMessage, pg_time_from_unix_us, unix_us_from_pg_time,
};
use crate::wire::result::{ANSWER_BYTES_MAX, ANSWER_ROWS_MAX, Answer, Collector, Progress};
use crate::wire::{
    BackendDecoder, BackendMessage, BackupMessage, Frame, FrontendMessage, SaslInitialResponse,
};

/// What a frame is on the wire, without its head.
fn body(encode: impl FnOnce(&mut BytesMut)) -> (u8, Bytes) {
    let mut out = BytesMut::new();
    encode(&mut out);
    let message = out.freeze();
    let len = u32::from_be_bytes(message[1..5].try_into().expect("four bytes"));
    assert_eq!(len as usize, message.len() - 1, "its own length");
    (message[0], message.slice(5..))
}

fn frame(data: &[u8]) -> Option<Frame> {
    let (&tag, body) = data.split_first()?;
    let body = Bytes::copy_from_slice(body);
    Some(Frame { tag, body })
}

/// A message of a client.
pub(super) fn frontend(data: &[u8]) {
    let Some(frame) = frame(data) else { return };
    let Ok(message) = FrontendMessage::decode(frame.clone()) else {
        return;
    };
    let again = body(|out| message.encode(out));
    match &message {
        // Its reason may be in any encoding, and is repaired.
        FrontendMessage::CopyFail(_) => {}
        _ => assert_eq!(again, (frame.tag, frame.body), "{message:?}"),
    }
    let (tag, body) = again;
    assert_eq!(
        FrontendMessage::decode(Frame { tag, body }),
        Ok(message.clone())
    );
    if let FrontendMessage::Password(secret) = message
        && let Ok(initial) = SaslInitialResponse::decode(&secret)
    {
        assert_eq!(SaslInitialResponse::decode(&initial.encode()), Ok(initial));
    }
}

/// Messages of a server, and the answer that they make up.
pub(super) fn backend(data: &[u8]) {
    let mut stream = BytesMut::from(data);
    let decoder = BackendDecoder::new();
    let mut collector = Collector::new();
    while let Ok(Some(frame)) = decoder.next(&mut stream) {
        let Ok(message) = BackendMessage::decode(frame.clone()) else {
            break;
        };
        written_back(&frame, &message);
        match collector.take(message) {
            Ok(Progress::More) => {}
            Ok(Progress::Copy(_, _, answer) | Progress::Done(answer, _)) => bounded(&answer, data),
            Err(error) => {
                assert!(error.closes(), "{error}");
                break;
            }
        }
    }
}

fn written_back(frame: &Frame, message: &BackendMessage) {
    let again = body(|out| message.encode(out));
    let (tag, body) = again.clone();
    let read = BackendMessage::decode(Frame { tag, body }).expect("our own message");
    match message {
        // Fields are put in order, repaired and cut.
        BackendMessage::ErrorResponse(_) | BackendMessage::NoticeResponse(_) => {
            let third = self::body(|out| read.encode(out));
            assert_eq!(third, again, "{message:?}");
        }
        _ => {
            assert_eq!(again, (frame.tag, frame.body.clone()), "{message:?}");
            assert_eq!(read, *message);
        }
    }
}

fn bounded(answer: &Answer, data: &[u8]) {
    let rows = answer.sets.iter().flat_map(|set| &set.rows);
    let bytes = rows.clone().flat_map(|row| row.0.iter().flatten());
    let bytes = bytes.map(Bytes::len).sum::<usize>();
    assert!(rows.count() <= ANSWER_ROWS_MAX.min(data.len()));
    assert!(bytes <= ANSWER_BYTES_MAX.min(data.len()));
    for set in &answer.sets {
        assert!(set.rows.iter().all(|row| row.0.len() == set.columns.len()));
    }
}

/// Payloads of CopyData while log is streamed, or a base backup is copied.
pub(super) fn streaming(data: &[u8]) {
    let mut input = Input::new(data);
    let native = input.flag();
    let payload = Bytes::copy_from_slice(input.rest());
    let flag_at = payload.len().saturating_sub(1);
    if let Ok(message) = SenderMessage::decode(payload.clone(), native) {
        let (tag, again) = body(|out| message.encode(out));
        assert_eq!(
            SenderMessage::decode(again.clone(), native),
            Ok(message.clone())
        );
        let mut same = payload.to_vec();
        if let SenderMessage::Keepalive { .. } = message {
            same[flag_at] = u8::from(same[flag_at] != 0);
        }
        assert_eq!((tag, &again[..]), (b'd', &same[..]), "{message:?}");
        if let SenderMessage::WalData { start, payload, .. } = &message {
            let end = start.checked_add(payload.len() as u64);
            assert!(end.is_some(), "log beyond the last position");
        }
        if let SenderMessage::Fence(fence) = message {
            assert!(native && fence.reason.len() <= FENCE_REASON_MAX);
        }
    }
    if let Ok(message) = ReceiverMessage::decode(payload.clone(), native) {
        let (tag, again) = body(|out| message.encode(out));
        assert_eq!(
            ReceiverMessage::decode(again.clone(), native),
            Ok(message.clone())
        );
        let mut same = payload.to_vec();
        if let ReceiverMessage::Status(_) = message {
            same[flag_at] = u8::from(same[flag_at] != 0);
        }
        assert_eq!((tag, &again[..]), (b'd', &same[..]), "{message:?}");
    }
    if let Ok(message) = BackupMessage::decode(payload.clone()) {
        let (tag, again) = body(|out| message.encode(out));
        assert_eq!((tag, &again), (b'd', &payload), "{message:?}");
        if let BackupMessage::Archive { name, .. } = message {
            assert!(!name.contains('/') && name != "..");
        }
    }
    let time = i64::from_le_bytes(Input::new(data).u64().to_le_bytes());
    assert_eq!(unix_us_from_pg_time(pg_time_from_unix_us(time)), time);
}
