//! Carrying out what the machine decided: log and messages into the link, reports to the node.
//!
//! Every action has its one place here, and none is weighed. Log is queued as it lies in the log;
//! a file is read on a thread that may block.

use bytes::{Bytes, BytesMut};
use mainstay_storage::{LogBytes, Lsn};

use super::stream::Stream;
use crate::error::{Error, Result};
use crate::protocol::sender::{Action, CloseReason, Refusal};
use crate::runtime::session::Session;
use crate::wire::replication::{Advance, SenderMessage, wal_data_head};
use crate::wire::result::{NextTimeline, encode_complete, encode_stream_end};
use crate::wire::{
    BackendMessage, CopyFormat, ErrorFields, FrontendPhase, WAL_MESSAGE_MAX, sqlstate,
};

impl Session {
    pub(super) async fn perform(&mut self, stream: &mut Stream, action: Action) -> Result<()> {
        let mut out = BytesMut::new();
        match action {
            Action::StartStream(_) => {
                BackendMessage::CopyBothResponse(CopyFormat::default()).encode(&mut out);
                self.decoder.set_phase(FrontendPhase::Streaming {
                    native: self.native,
                });
                self.tally(stream.sender.status().sent, &mut out);
                self.tally(stream.flushed, &mut out);
                self.stream_opened(stream.sender.status().sent);
            }
            Action::RefuseStart(refusal) | Action::FailStream(refusal) => {
                self.error(fields_of(refusal));
            }
            Action::SendWal(range) => {
                let sent = self.queue_wal(stream, range.start, range.end).await?;
                if sent < stream.flushed {
                    self.tally(sent, &mut out);
                }
                stream.in_flight = Some(sent);
            }
            Action::SendAdvance { .. } | Action::SendKeepalive { .. } => {
                self.tell_positions(action, &mut out);
            }
            Action::SendCopyDone => BackendMessage::CopyDone.encode(&mut out),
            Action::SendNextTimeline { timeline, begin } => {
                let timeline = timeline.number;
                self.end_stream(Some(NextTimeline { timeline, begin }));
            }
            Action::CompleteStream => self.end_stream(None),
            Action::FinishAndClose => {
                encode_complete("COPY 0", &mut out);
                stream.close = true;
            }
            Action::Reported {
                timeline,
                positions,
            } => {
                self.reported(stream, timeline, positions)?;
            }
            Action::CaughtUp => {
                if let Some(standby) = &self.standby {
                    self.core
                        .stream_caught_up(&standby.member.name, self.number);
                }
            }
            Action::TimelineClaimed { timeline, opened } => self.core.claimed(timeline, opened),
            Action::Close(reason) => {
                stream.close = true;
                self.say_why(&reason);
            }
        }
        self.link.queue(out.freeze());
        Ok(())
    }

    /// Encodes a message that says how far this node is.
    fn tell_positions(&self, action: Action, out: &mut BytesMut) {
        let time_us = self.core.clock.wall_us();
        match action {
            Action::SendAdvance {
                flushed: flush,
                commit,
                timeline,
                reply_requested,
            } => {
                // First, so that whoever knows the end knows how many transactions there are, too.
                self.tally(flush, out);
                SenderMessage::Advance(Advance {
                    flush,
                    commit,
                    timeline,
                    time_us,
                    reply_requested,
                })
                .encode(out);
            }
            Action::SendKeepalive {
                sent: end,
                reply_requested,
            } => SenderMessage::Keepalive {
                end,
                time_us,
                reply_requested,
            }
            .encode(out),
            _ => unreachable!("the caller brings positions alone"),
        }
    }

    /// How many transactions ended up to `to`, for whoever may have to say how many it lacks.
    fn tally(&self, to: Lsn, out: &mut BytesMut) {
        if self.native {
            SenderMessage::Tally(self.core.wal.tally(to)).encode(out);
        }
    }

    /// The stream is over, and commands are taken again.
    fn end_stream(&mut self, next: Option<NextTimeline>) {
        let mut out = BytesMut::new();
        encode_stream_end(next, &mut out);
        self.link.queue(out.freeze());
        self.ready();
    }

    fn stream_opened(&mut self, from: Lsn) {
        let Some(standby) = &self.standby else { return };
        self.visit = None;
        let (name, life) = (&standby.member.name, standby.member.incarnation);
        self.core.stream_started(name, self.number, from, life);
    }

    /// Queues log bytes from `from` to `to`, and returns how far they reach.
    async fn queue_wal(&mut self, stream: &mut Stream, from: Lsn, to: Lsn) -> Result<Lsn> {
        let max = self.core.config.batch_size.clamp(1, WAL_MESSAGE_MAX);
        let mut at = from;
        while at < to {
            let bytes = match stream.bytes.read_memory(at, to, max) {
                Some(bytes) => bytes,
                None => read_file(&mut stream.bytes, at, to, max).await?,
            };
            if bytes.is_empty() {
                break;
            }
            let shown = if self.native {
                stream.flushed
            } else {
                stream.commit.min(stream.flushed)
            };
            let end = shown.max(at + bytes.len() as u64);
            let time_us = self.core.clock.wall_us();
            let head = wal_data_head(at, end, time_us, bytes.len());
            self.link.queue(Bytes::copy_from_slice(&head));
            at = at + bytes.len() as u64;
            self.link.queue(bytes);
        }
        Ok(at)
    }

    fn say_why(&mut self, reason: &CloseReason) {
        let sqlstate = match reason {
            // As PostgreSQL does, without a word: the peer does not listen.
            CloseReason::TimedOut => return,
            CloseReason::Stopping => sqlstate::ADMIN_SHUTDOWN,
            CloseReason::BadStatus(_) | CloseReason::Protocol(_) => sqlstate::PROTOCOL_VIOLATION,
            CloseReason::WrongTimeline(_) => sqlstate::INTERNAL_ERROR,
        };
        self.error(ErrorFields::fatal(sqlstate, reason.to_string()));
    }
}

/// Reads a file on a thread that may block.
async fn read_file(bytes: &mut LogBytes, at: Lsn, to: Lsn, max: usize) -> Result<Bytes> {
    let mut moved = bytes.again();
    let read = tokio::task::spawn_blocking(move || {
        let read = moved.read(at, to, max);
        (moved, read)
    });
    let (moved, read) = read
        .await
        .map_err(|error| Error::Invalid(error.to_string()))?;
    *bytes = moved;
    Ok(read?)
}

fn fields_of(refusal: Refusal) -> ErrorFields {
    let fields = ErrorFields::error(refusal.sqlstate, refusal.message);
    match refusal.detail {
        Some(detail) => fields.with_detail(detail),
        None => fields,
    }
}
