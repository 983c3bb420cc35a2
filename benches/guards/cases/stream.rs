//! Log on the wire: sent, received, reported.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mainstay_replication::protocol::progress::Positions;
use mainstay_replication::protocol::sender::{Action, Event, Sender, SenderConfig, State};
use mainstay_replication::time::Moment;
use mainstay_replication::wire::replication::{
    Advance, NativeStatus, ReceiverMessage, SenderMessage, wal_data_head,
};
use mainstay_replication::wire::{
    BackendDecoder, BackendMessage, FrontendDecoder, FrontendMessage, FrontendPhase,
};
use mainstay_storage::{LogBytes, Lsn, SegmentSize, Timeline, TimelineHistory};

use super::{counted, filled_log};

/// Messages in each direction.
const MESSAGES: u64 = 1000;

/// Bytes of a log message.
const MESSAGE_BYTES: u64 = 1024;

/// Log from memory to the connection, 1,000 times 1 KiB: a head, and a share of what lies there. A
/// copy of that would be seen at once.
pub(super) fn send(dir: &Path) {
    let wal = filled_log(dir, 800, 10);
    let (from, upto) = (wal.oldest(), wal.oldest() + MESSAGES * MESSAGE_BYTES);
    let log = LogBytes::new(wal.clone());
    let mut queued = Vec::with_capacity(2 * 1000);
    let end = counted(|| {
        let mut at = from;
        while at < upto {
            let bytes = log.read_memory(at, upto, 1024).expect("in memory");
            let head = wal_data_head(at, upto, 0, bytes.len());
            queued.push(Bytes::copy_from_slice(&head));
            at = at + bytes.len() as u64;
            queued.push(bytes);
        }
        at
    });
    assert_eq!(end, upto);
    wal.stop();
}

/// 1,000 messages with log and as many with positions, from bytes to what they say.
pub(super) fn decode(_: &Path) {
    let mut bytes = BytesMut::new();
    let payload = Bytes::from(vec![7; 1024]);
    for number in 0..MESSAGES {
        let start = Lsn::new((number + 1) * MESSAGE_BYTES);
        let end = start + MESSAGE_BYTES;
        let (time_us, payload) = (0, payload.clone());
        SenderMessage::WalData {
            start,
            end,
            time_us,
            payload,
        }
        .encode(&mut bytes);
        SenderMessage::Advance(Advance {
            flush: end,
            commit: start,
            timeline: timeline(),
            time_us: 0,
            reply_requested: false,
        })
        .encode(&mut bytes);
    }
    let decoder = BackendDecoder::new();
    let log_bytes = counted(|| {
        let mut log_bytes = 0;
        while let Some(frame) = decoder.next(&mut bytes).expect("sound messages") {
            let BackendMessage::CopyData(data) = BackendMessage::decode(frame).expect("sound")
            else {
                panic!("only CopyData was encoded");
            };
            if let SenderMessage::WalData { payload, .. } =
                SenderMessage::decode(data, true).expect("sound messages")
            {
                log_bytes += payload.len() as u64;
            }
        }
        log_bytes
    });
    assert_eq!(log_bytes, MESSAGES * MESSAGE_BYTES);
}

/// 1,000 reports of a standby, to bytes and back.
pub(super) fn status(_: &Path) {
    let decoder = FrontendDecoder::new(FrontendPhase::Streaming { native: true });
    let mut bytes = BytesMut::with_capacity(1 << 20);
    let decoded = counted(|| {
        for number in 0..MESSAGES {
            let at = Lsn::new((number + 1) * MESSAGE_BYTES);
            ReceiverMessage::NativeStatus(NativeStatus {
                write: at,
                flush: at,
                apply: at,
                timeline: timeline(),
                oldest_snapshot: Lsn::ZERO,
                time_us: 0,
                reply_requested: false,
            })
            .encode(&mut bytes);
        }
        let mut decoded = 0;
        while let Some(frame) = decoder.next(&mut bytes).expect("sound messages") {
            let FrontendMessage::CopyData(data) = FrontendMessage::decode(frame).expect("sound")
            else {
                panic!("only CopyData was encoded");
            };
            ReceiverMessage::decode(data, true).expect("sound messages");
            decoded += 1;
        }
        decoded
    });
    assert_eq!(decoded, MESSAGES);
}

/// What the machine of one connection decides in 1,000 rounds: log to send, sent, reported,
/// committed and told.
pub(super) fn sender(_: &Path) {
    let begin = SegmentSize::MIN.first_lsn();
    let mut sender = streaming(begin);
    let mut actions = Vec::new();
    let (mut sent, mut told) = (0, 0);
    counted(|| {
        for number in 1..=MESSAGES {
            let (now, at) = (Moment::from_micros(number), begin + number * MESSAGE_BYTES);
            let positions = Positions {
                write: at,
                flush: at,
                apply: begin,
            };
            let events = [
                Event::Sendable(at),
                Event::Sent(at),
                Event::Flushed(at),
                Event::StatusReceived {
                    positions,
                    timeline: Some(timeline()),
                    reply_requested: false,
                },
                Event::CommitMoved(at),
            ];
            for event in events {
                sender.on(event, now, &mut actions);
            }
            for action in actions.drain(..) {
                sent += u64::from(matches!(action, Action::SendWal(_)));
                told += u64::from(matches!(action, Action::SendAdvance { .. }));
            }
        }
    });
    assert_eq!((sent, told), (MESSAGES, MESSAGES));
}

/// The machine of a connection to a native standby that has everything.
fn streaming(begin: Lsn) -> Sender {
    let config = SenderConfig {
        native: true,
        history: TimelineHistory::new(timeline(), begin),
        flushed: begin,
        commit: begin,
        oldest: begin,
        segment_size: SegmentSize::MIN,
        timeout: Duration::from_secs(10),
        heartbeat_interval: Duration::from_secs(1),
    };
    let mut sender = Sender::new(config, Moment::ZERO);
    let start = Event::StartRequested {
        from: begin,
        timeline: None,
        id: None,
    };
    sender.on(start, Moment::ZERO, &mut Vec::new());
    assert_eq!(sender.status().state, State::Streaming);
    sender
}

fn timeline() -> Timeline {
    Timeline {
        number: 1,
        id: Default::default(),
    }
}
