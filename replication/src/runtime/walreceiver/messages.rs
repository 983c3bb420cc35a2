//! What the upstream's messages say to the machine while it streams, and at the end of a stream.

use mainstay_storage::Lsn;

use super::Driver;
use crate::error::Result;
use crate::protocol::receiver::{Event, State};
use crate::wire::replication::SenderMessage;
use crate::wire::{BackendMessage, sqlstate};

impl Driver {
    /// What the next message of the upstream says that concerns the machine, while it streams.
    pub(super) fn take_message(&mut self) -> Result<Option<Event>> {
        loop {
            let state = self.receiver.status().state;
            let streaming = matches!(state, State::Streaming | State::Closing);
            let listens = streaming || self.ending;
            let Some(client) = self.client.as_mut().filter(|_| listens) else {
                return Ok(None);
            };
            let Some(message) = client.take_message()? else {
                return Ok(None);
            };
            // All that is there is looked at: nobody calls again before more arrives.
            if let Some(event) = self.event_of(message)? {
                return Ok(Some(event));
            }
        }
    }

    fn event_of(&mut self, message: BackendMessage) -> Result<Option<Event>> {
        Ok(match message {
            BackendMessage::CopyData(payload) => {
                let message = SenderMessage::decode(payload, true);
                let client = self.client()?;
                let message = message.map_err(|source| client.wire(source))?;
                self.on_stream(message)
            }
            BackendMessage::CopyDone => {
                self.ending = true;
                Some(Event::CopyDoneReceived)
            }
            // The end of a stream is over, and commands are taken again.
            BackendMessage::ReadyForQuery(_) if self.ending => {
                self.ending = false;
                Some(Event::NextTimeline)
            }
            _ if self.ending => None,
            BackendMessage::ErrorResponse(error) => {
                tracing::warn!(message = %error.message, "the primary ended the stream");
                Some(Event::StartRefused {
                    removed: error.sqlstate == sqlstate::UNDEFINED_FILE,
                })
            }
            BackendMessage::DataRow(_) => Some(Event::NextTimeline),
            BackendMessage::CommandComplete(tag) if tag.starts_with("COPY") => {
                Some(Event::StreamEnded)
            }
            _ => None,
        })
    }

    fn on_stream(&mut self, message: SenderMessage) -> Option<Event> {
        Some(match message {
            SenderMessage::WalData {
                start,
                end,
                payload,
                ..
            } => {
                self.heard_of(end);
                let range = start..start + payload.len() as u64;
                self.incoming.add(start, payload);
                Event::Received { range }
            }
            SenderMessage::Advance(advance) => {
                self.heard_of(advance.flush);
                self.core.upstream_heard(advance.flush, advance.commit);
                Event::Advance {
                    flushed: advance.flush,
                    commit: advance.commit,
                    timeline: advance.timeline,
                    reply_requested: advance.reply_requested,
                }
            }
            SenderMessage::Fence(fence) => Event::FenceReceived {
                timeline: fence.timeline,
                opened: fence.opened,
            },
            SenderMessage::Tally(mark) => {
                if self.from_primary {
                    self.core.primary_tallied(mark);
                }
                return None;
            }
            SenderMessage::Keepalive { .. } => return None,
        })
    }

    /// The upstream said that its log is flushed up to `end`.
    fn heard_of(&self, end: Lsn) {
        if self.from_primary {
            self.core.heard_primary();
            self.core.primary_told(end);
        }
    }
}
