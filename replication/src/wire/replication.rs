//! What CopyData carries while log is streamed.
//!
//! The four stock payloads have PostgreSQL's lengths to the byte, because its walreceiver accepts
//! no others. Native peers that negotiated the extension add four, with types above 0x7F that
//! can never meet a letter of PostgreSQL's:
//!
//! ```text
//! w  start u64 | end u64 | time i64 | log bytes                               25 + n   server
//! k  end u64 | time i64 | reply u8                                                18   server
//! r  write u64 | flush u64 | apply u64 | time i64 | reply u8                      34   client
//! h  time i64 | xmin u32 | epoch u32 | catalog xmin u32 | catalog epoch u32       25   client
//! D5 TALLY    at u64 | transactions u64                                          17   server
//! D1 ADVANCE  flush u64 | commit u64 | timeline 20 | time i64 | flags u8          46   server
//! D3 STATUS   write u64 | flush u64 | apply u64 | timeline 20
//!             | oldest snapshot u64 | time i64 | flags u8                         62   client
//! D4 FENCE    timeline 20 | flags 1 (1 opened) | reason, NUL                23 + n       both
//! ```
//!
//! A timeline is its number (u32) and its promotion id (16 bytes). Times are microseconds of the
//! Unix epoch in these types and of PostgreSQL's epoch on the wire. What the numbers mean for the
//! sender or the receiver is not known here.

mod tally;

use bytes::{BufMut, Bytes, BytesMut};
use mainstay_storage::{Lsn, TallyMark, Timeline};

use crate::wire::Result;
use crate::wire::cursor::{Cursor, length, put_cstr, put_lsn, put_message, put_timeline};

/// Header of a `w` payload, with its type byte, in bytes.
pub const WAL_DATA_HEADER: usize = 25;
/// Head of a whole `w` message: type and length of CopyData, then the header, in bytes.
pub const WAL_DATA_HEAD: usize = 5 + WAL_DATA_HEADER;
/// Longest reason in a fence, in bytes.
pub const FENCE_REASON_MAX: usize = 1024;
/// Longest native payload a client may send: type, timeline, reason and its NUL.
pub const NATIVE_PAYLOAD_MAX: usize = 1 + 20 + 1 + FENCE_REASON_MAX + 1;

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 UTC.
const EPOCH_SHIFT_US: i64 = 946_684_800_000_000;

const ADVANCE: u8 = 0xD1;
const STATUS: u8 = 0xD3;
const FENCE: u8 = 0xD4;
/// The one flag of a native payload: an answer is wanted at once.
const REPLY_REQUESTED: u8 = 1;

/// A time of the wire for `unix_us`, microseconds since the Unix epoch. Wraps at the far ends,
/// so that every value has its own image.
pub fn pg_time_from_unix_us(unix_us: i64) -> i64 {
    unix_us.wrapping_sub(EPOCH_SHIFT_US)
}

/// Microseconds since the Unix epoch for `pg_us`, a time of the wire; reverses
/// [`pg_time_from_unix_us`].
pub fn unix_us_from_pg_time(pg_us: i64) -> i64 {
    pg_us.wrapping_add(EPOCH_SHIFT_US)
}

/// Everything of a log message that comes before its payload: CopyData, then the `w` header.
///
/// `start` is the position of the first payload byte, `end` the end of the log as far as the
/// receiver may know it, `time_us` microseconds since the Unix epoch.
///
/// # Panics
/// When the payload exceeds 4 GiB; senders cut at
/// [`WAL_MESSAGE_MAX`](crate::wire::WAL_MESSAGE_MAX).
pub fn wal_data_head(
    start: Lsn,
    end: Lsn,
    time_us: i64,
    payload_len: usize,
) -> [u8; WAL_DATA_HEAD] {
    let mut head = [0; WAL_DATA_HEAD];
    head[0] = b'd';
    let len = length(4 + WAL_DATA_HEADER + payload_len);
    head[1..5].copy_from_slice(&len.to_be_bytes());
    head[5] = b'w';
    head[6..14].copy_from_slice(&start.get().to_be_bytes());
    head[14..22].copy_from_slice(&end.get().to_be_bytes());
    head[22..30].copy_from_slice(&pg_time_from_unix_us(time_us).to_be_bytes());
    head
}

/// ADVANCE: how far the primary is. Sent behind log bytes and whenever the commit LSN moves.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Flushed on the primary.
    pub flush: Lsn,
    /// The commit LSN: the standby may apply up to here.
    pub commit: Lsn,
    /// The primary's timeline.
    pub timeline: Timeline,
    /// The primary's clock, microseconds since the Unix epoch.
    pub time_us: i64,
    /// Whether a status is wanted at once.
    pub reply_requested: bool,
}

/// STATUS: how far a native standby is.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct NativeStatus {
    /// Written on the standby.
    pub write: Lsn,
    /// Flushed on the standby.
    pub flush: Lsn,
    /// Applied to its store.
    pub apply: Lsn,
    /// The timeline these positions lie on.
    pub timeline: Timeline,
    /// Position of the oldest snapshot that is being read there, [`Lsn::ZERO`] if there is none.
    pub oldest_snapshot: Lsn,
    /// The standby's clock, microseconds since the Unix epoch.
    pub time_us: i64,
    /// Whether an answer is wanted at once.
    pub reply_requested: bool,
}

/// FENCE: the sender knows a newer timeline than the receiver speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// That timeline.
    pub timeline: Timeline,
    /// Whether it was opened, or only promised.
    pub opened: bool,
    /// Why, in words for a log; at most [`FENCE_REASON_MAX`] bytes, cut when written.
    pub reason: String,
}

/// `r`: how far a stock standby is. A position of zero means "not reported".
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Written there.
    pub write: Lsn,
    /// Flushed there.
    pub flush: Lsn,
    /// Applied there.
    pub apply: Lsn,
    /// The standby's clock, microseconds since the Unix epoch.
    pub time_us: i64,
    /// Whether an answer is wanted at once.
    pub reply_requested: bool,
}

/// `h`: the oldest transactions a stock standby still needs; read, and of no use to this node.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct HotStandbyFeedback {
    /// The standby's clock, microseconds since the Unix epoch.
    pub time_us: i64,
    /// Oldest transaction id, 0 if there is none.
    pub xmin: u32,
    /// Its epoch.
    pub epoch: u32,
    /// The same for catalogs.
    pub catalog_xmin: u32,
    /// Its epoch.
    pub catalog_epoch: u32,
}

/// A CopyData payload from the sender of log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderMessage {
    /// `w`: log bytes.
    WalData {
        /// Position of the first byte.
        start: Lsn,
        /// End of the log as far as the receiver may know it.
        end: Lsn,
        /// The sender's clock, microseconds since the Unix epoch.
        time_us: i64,
        /// The bytes, shared with the receive buffer.
        payload: Bytes,
    },
    /// `k`: the sender is alive.
    Keepalive {
        /// Sent so far.
        end: Lsn,
        /// The sender's clock, microseconds since the Unix epoch.
        time_us: i64,
        /// Whether a status is wanted at once.
        reply_requested: bool,
    },
    /// 0xD1, native peers only.
    Advance(Advance),
    /// 0xD5, native peers only: so many transactions ended in the sender's log up to a place.
    Tally(TallyMark),
    /// 0xD4, native peers only.
    Fence(Fence),
}

/// A CopyData payload from the receiver of log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiverMessage {
    /// `r`.
    Status(StandbyStatus),
    /// `h`.
    Feedback(HotStandbyFeedback),
    /// 0xD3, native peers only.
    NativeStatus(NativeStatus),
    /// 0xD4, native peers only.
    Fence(Fence),
}

impl SenderMessage {
    /// Appends a whole CopyData message. Copies the payload of log bytes; a sender in a hurry
    /// uses [`wal_data_head`].
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::WalData {
                start,
                end,
                time_us,
                payload,
            } => {
                out.put_slice(&wal_data_head(*start, *end, *time_us, payload.len()));
                out.put_slice(payload);
            }
            Self::Keepalive {
                end,
                time_us,
                reply_requested,
            } => put_message(out, b'd', |out| {
                out.put_u8(b'k');
                put_lsn(out, *end);
                put_time(out, *time_us);
                out.put_u8(u8::from(*reply_requested));
            }),
            Self::Advance(advance) => put_message(out, b'd', |out| {
                out.put_u8(ADVANCE);
                put_lsn(out, advance.flush);
                put_lsn(out, advance.commit);
                put_timeline(out, advance.timeline);
                put_time(out, advance.time_us);
                out.put_u8(flags(advance.reply_requested));
            }),
            Self::Tally(mark) => tally::encode(*mark, out),
            Self::Fence(fence) => fence.encode(out),
        }
    }

    /// Reads a CopyData payload; `native` says whether the extension was negotiated.
    ///
    /// # Errors
    /// On an unknown type or a wrong length.
    pub fn decode(payload: Bytes, native: bool) -> Result<Self> {
        let mut cursor = Cursor::new("streaming message", payload);
        let message = match cursor.u8()? {
            b'w' => {
                let start = cursor.lsn()?;
                Self::WalData {
                    start,
                    end: cursor.lsn()?,
                    time_us: time(&mut cursor)?,
                    payload: cursor.log(start)?,
                }
            }
            b'k' => Self::Keepalive {
                end: cursor.lsn()?,
                time_us: time(&mut cursor)?,
                reply_requested: cursor.u8()? != 0,
            },
            ADVANCE if native => Self::Advance(Advance {
                flush: cursor.lsn()?,
                commit: cursor.lsn()?,
                timeline: cursor.timeline()?,
                time_us: time(&mut cursor)?,
                reply_requested: only_flag(&mut cursor)?,
            }),
            tally::TALLY if native => Self::Tally(tally::decode(&mut cursor)?),
            FENCE if native => Self::Fence(Fence::decode(&mut cursor)?),
            _ => return Err(cursor.bad("its type is unknown")),
        };
        cursor.finish()?;
        Ok(message)
    }
}

impl ReceiverMessage {
    /// Appends a whole CopyData message.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Status(status) => put_message(out, b'd', |out| {
                out.put_u8(b'r');
                for lsn in [status.write, status.flush, status.apply] {
                    put_lsn(out, lsn);
                }
                put_time(out, status.time_us);
                out.put_u8(u8::from(status.reply_requested));
            }),
            Self::Feedback(feedback) => put_message(out, b'd', |out| {
                out.put_u8(b'h');
                put_time(out, feedback.time_us);
                out.put_u32(feedback.xmin);
                out.put_u32(feedback.epoch);
                out.put_u32(feedback.catalog_xmin);
                out.put_u32(feedback.catalog_epoch);
            }),
            Self::NativeStatus(status) => put_message(out, b'd', |out| {
                out.put_u8(STATUS);
                for lsn in [status.write, status.flush, status.apply] {
                    put_lsn(out, lsn);
                }
                put_timeline(out, status.timeline);
                put_lsn(out, status.oldest_snapshot);
                put_time(out, status.time_us);
                out.put_u8(flags(status.reply_requested));
            }),
            Self::Fence(fence) => fence.encode(out),
        }
    }

    /// Reads a CopyData payload; `native` says whether the extension was negotiated.
    ///
    /// # Errors
    /// On an unknown type or a wrong length.
    pub fn decode(payload: Bytes, native: bool) -> Result<Self> {
        let mut cursor = Cursor::new("standby message", payload);
        let message = match cursor.u8()? {
            b'r' => Self::Status(StandbyStatus {
                write: cursor.lsn()?,
                flush: cursor.lsn()?,
                apply: cursor.lsn()?,
                time_us: time(&mut cursor)?,
                reply_requested: cursor.u8()? != 0,
            }),
            b'h' => Self::Feedback(HotStandbyFeedback {
                time_us: time(&mut cursor)?,
                xmin: cursor.u32()?,
                epoch: cursor.u32()?,
                catalog_xmin: cursor.u32()?,
                catalog_epoch: cursor.u32()?,
            }),
            STATUS if native => Self::NativeStatus(NativeStatus {
                write: cursor.lsn()?,
                flush: cursor.lsn()?,
                apply: cursor.lsn()?,
                timeline: cursor.timeline()?,
                oldest_snapshot: cursor.lsn()?,
                time_us: time(&mut cursor)?,
                reply_requested: only_flag(&mut cursor)?,
            }),
            FENCE if native => Self::Fence(Fence::decode(&mut cursor)?),
            _ => return Err(cursor.bad("its type is unknown")),
        };
        cursor.finish()?;
        Ok(message)
    }
}

impl Fence {
    fn encode(&self, out: &mut BytesMut) {
        let mut end = self.reason.len().min(FENCE_REASON_MAX);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        put_message(out, b'd', |out| {
            out.put_u8(FENCE);
            put_timeline(out, self.timeline);
            out.put_u8(flags(self.opened));
            put_cstr(out, &self.reason[..end]);
        });
    }

    fn decode(cursor: &mut Cursor) -> Result<Self> {
        let timeline = cursor.timeline()?;
        let opened = only_flag(cursor)?;
        let reason = cursor.cstr()?;
        if reason.len() > FENCE_REASON_MAX {
            return Err(cursor.bad("its reason is too long"));
        }
        Ok(Self {
            timeline,
            opened,
            reason,
        })
    }
}

fn put_time(out: &mut BytesMut, unix_us: i64) {
    out.put_i64(pg_time_from_unix_us(unix_us));
}

fn time(cursor: &mut Cursor) -> Result<i64> {
    cursor.i64().map(unix_us_from_pg_time)
}

fn flags(set: bool) -> u8 {
    if set { REPLY_REQUESTED } else { 0 }
}

fn only_flag(cursor: &mut Cursor) -> Result<bool> {
    match cursor.u8()? {
        0 => Ok(false),
        REPLY_REQUESTED => Ok(true),
        _ => Err(cursor.bad("it has unknown flags")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::wire::strict::every_byte_counts;

    fn payload(encode: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut out = BytesMut::new();
        encode(&mut out);
        assert_eq!(out[0], b'd');
        let len = u32::from_be_bytes(out[1..5].try_into().unwrap());
        assert_eq!(usize::try_from(len).unwrap(), out.len() - 1);
        out.freeze().slice(5..)
    }

    fn timeline() -> Timeline {
        Timeline {
            number: 7,
            id: Uuid::from_u128(0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10),
        }
    }

    #[test]
    fn payloads_have_the_lengths_of_their_table() {
        let lsn = Lsn::new(1);
        let keepalive = SenderMessage::Keepalive {
            end: lsn,
            time_us: 0,
            reply_requested: true,
        };
        assert_eq!(payload(|out| keepalive.encode(out)).len(), 18);
        let advance = SenderMessage::Advance(Advance {
            flush: lsn,
            commit: lsn,
            timeline: timeline(),
            time_us: 0,
            reply_requested: true,
        });
        assert_eq!(payload(|out| advance.encode(out)).len(), 46);
        let status = ReceiverMessage::NativeStatus(NativeStatus {
            write: lsn,
            flush: lsn,
            apply: lsn,
            timeline: timeline(),
            oldest_snapshot: Lsn::ZERO,
            time_us: 0,
            reply_requested: false,
        });
        assert_eq!(payload(|out| status.encode(out)).len(), 62);
        let fence = Fence {
            timeline: timeline(),
            opened: true,
            reason: "x".repeat(2 * FENCE_REASON_MAX),
        };
        let fence = payload(|out| ReceiverMessage::Fence(fence).encode(out));
        assert_eq!(fence.len(), NATIVE_PAYLOAD_MAX);
        assert!(ReceiverMessage::decode(fence, true).is_ok());
    }

    #[test]
    fn a_keepalive_of_any_other_length_is_refused() {
        let keepalive = payload(|out| {
            SenderMessage::Keepalive {
                end: Lsn::new(1),
                time_us: 0,
                reply_requested: true,
            }
            .encode(out);
        });
        let longer = Bytes::from([&keepalive[..], &[0]].concat());
        assert!(SenderMessage::decode(longer, false).is_err());
        assert!(SenderMessage::decode(keepalive.slice(..17), false).is_err());
    }

    #[test]
    fn native_payloads_are_unknown_to_stock_sessions() {
        let fence = payload(|out| {
            SenderMessage::Fence(Fence {
                timeline: timeline(),
                opened: false,
                reason: "newer".into(),
            })
            .encode(out);
        });
        assert!(SenderMessage::decode(fence.clone(), false).is_err());
        assert!(ReceiverMessage::decode(fence.clone(), false).is_err());
        assert!(SenderMessage::decode(fence.clone(), true).is_ok());
        assert!(ReceiverMessage::decode(fence, true).is_ok());
    }

    #[test]
    fn postgresql_time_begins_in_2000() {
        assert_eq!(pg_time_from_unix_us(946_684_800_000_000), 0);
        assert_eq!(unix_us_from_pg_time(0), 946_684_800_000_000);
    }

    fn any_timeline() -> impl Strategy<Value = Timeline> {
        (any::<u32>(), any::<u128>()).prop_map(|(number, id)| Timeline {
            number,
            id: Uuid::from_u128(id),
        })
    }

    fn any_fence() -> impl Strategy<Value = Fence> {
        (any_timeline(), any::<bool>(), "[^\0]{0,100}").prop_map(|(timeline, opened, reason)| {
            Fence {
                timeline,
                opened,
                reason,
            }
        })
    }

    fn any_lsn() -> impl Strategy<Value = Lsn> {
        any::<u64>().prop_map(Lsn::new)
    }

    fn any_sender_message() -> impl Strategy<Value = SenderMessage> {
        let bytes = prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from);
        prop_oneof![
            (0..u64::MAX - 64, any_lsn(), any::<i64>(), bytes).prop_map(
                |(start, end, time_us, payload)| {
                    SenderMessage::WalData {
                        start: Lsn::new(start),
                        end,
                        time_us,
                        payload,
                    }
                }
            ),
            (any_lsn(), any::<i64>(), any::<bool>()).prop_map(|(end, time_us, reply_requested)| {
                SenderMessage::Keepalive {
                    end,
                    time_us,
                    reply_requested,
                }
            }),
            (
                any_lsn(),
                any_lsn(),
                any_timeline(),
                any::<i64>(),
                any::<bool>()
            )
                .prop_map(|(flush, commit, timeline, time_us, reply_requested)| {
                    SenderMessage::Advance(Advance {
                        flush,
                        commit,
                        timeline,
                        time_us,
                        reply_requested,
                    })
                }),
            any_fence().prop_map(SenderMessage::Fence),
            (any_lsn(), any::<u64>()).prop_map(|(at, transactions)| SenderMessage::Tally(
                TallyMark { at, transactions }
            )),
        ]
    }

    fn any_receiver_message() -> impl Strategy<Value = ReceiverMessage> {
        let positions = || (any_lsn(), any_lsn(), any_lsn());
        prop_oneof![
            (positions(), any::<i64>(), any::<bool>()).prop_map(
                |((write, flush, apply), time_us, reply_requested)| {
                    ReceiverMessage::Status(StandbyStatus {
                        write,
                        flush,
                        apply,
                        time_us,
                        reply_requested,
                    })
                }
            ),
            (any::<i64>(), any::<[u32; 4]>()).prop_map(|(time_us, [a, b, c, d])| {
                ReceiverMessage::Feedback(HotStandbyFeedback {
                    time_us,
                    xmin: a,
                    epoch: b,
                    catalog_xmin: c,
                    catalog_epoch: d,
                })
            }),
            (
                positions(),
                any_timeline(),
                any_lsn(),
                any::<i64>(),
                any::<bool>()
            )
                .prop_map(
                    |(
                        (write, flush, apply),
                        timeline,
                        oldest_snapshot,
                        time_us,
                        reply_requested,
                    )| {
                        ReceiverMessage::NativeStatus(NativeStatus {
                            write,
                            flush,
                            apply,
                            timeline,
                            oldest_snapshot,
                            time_us,
                            reply_requested,
                        })
                    }
                ),
            any_fence().prop_map(ReceiverMessage::Fence),
        ]
    }

    #[test]
    fn log_cannot_lie_behind_the_last_position() {
        let log = |start| SenderMessage::WalData {
            start: Lsn::new(start),
            end: Lsn::MAX,
            time_us: 0,
            payload: Bytes::from_static(b"12345678"),
        };
        let read = |message: &SenderMessage| {
            SenderMessage::decode(payload(|out| message.encode(out)), false)
        };
        assert_eq!(read(&log(u64::MAX - 8)), Ok(log(u64::MAX - 8)));
        assert!(read(&log(u64::MAX - 7)).is_err());
    }

    proptest! {
        #[test]
        fn every_message_of_a_sender_round_trips(message in any_sender_message()) {
            let payload = payload(|out| message.encode(out));
            prop_assert_eq!(SenderMessage::decode(payload, true), Ok(message));
        }

        #[test]
        fn every_message_of_a_receiver_round_trips(message in any_receiver_message()) {
            let payload = payload(|out| message.encode(out));
            prop_assert_eq!(ReceiverMessage::decode(payload, true), Ok(message));
        }

        #[test]
        fn no_byte_of_a_message_is_passed_over(
            sender in any_sender_message(),
            receiver in any_receiver_message(),
            more: u8,
        ) {
            every_byte_counts(&payload(|out| sender.encode(out)), more, |bytes| {
                let read = SenderMessage::decode(bytes, true).ok()?;
                Some(payload(|out| read.encode(out)))
            })?;
            every_byte_counts(&payload(|out| receiver.encode(out)), more, |bytes| {
                let read = ReceiverMessage::decode(bytes, true).ok()?;
                Some(payload(|out| read.encode(out)))
            })?;
        }

        #[test]
        fn any_payload_is_taken_or_refused_but_never_panics(
            kind in prop::sample::select(
                vec![b'w', b'k', b'r', b'h', ADVANCE, STATUS, FENCE, tally::TALLY, 0]
            ),
            rest in prop::collection::vec(any::<u8>(), 0..80),
            native: bool,
        ) {
            let payload = Bytes::from([&[kind][..], &rest].concat());
            let _ = SenderMessage::decode(payload.clone(), native);
            let _ = ReceiverMessage::decode(payload, native);
        }
    }
}
