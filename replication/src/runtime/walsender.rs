//! Driving a [`Sender`]: reads the log, writes the link, brings events to the machine.
//!
//! One task serves one connection. It waits for whichever comes first: bytes from the peer, room
//! for bytes to it, log flushed, a commit, a timer, the end of this node. Log bytes go from the
//! writer's memory, or from a file, to the socket without being copied.

mod overlap;
mod perform;
mod stream;

use std::future::pending;

use mainstay_storage::{LogBytes, Lsn};

use crate::error::Result;
use crate::protocol::progress::Positions;
use crate::protocol::sender::{Event, Sender, SenderConfig, State};
use crate::runtime::link::Turn;
use crate::runtime::session::{Registered, STARTUP_DEADLINE, Session, wire};
use crate::runtime::stopped;
use crate::wire::command::StartReplication;
use crate::wire::replication::ReceiverMessage;
use crate::wire::{FrontendMessage, FrontendPhase, WireError};
use stream::Stream;

impl Session {
    /// Serves START_REPLICATION, and returns when commands are taken again.
    pub(crate) async fn start_replication(&mut self, start: StartReplication) -> Result<()> {
        if let Some(slot) = &start.slot
            && let Err(fields) = self.acquire_slot(slot)
        {
            self.error(*fields);
            return Ok(());
        }
        let switched = self.core.switched.subscribe();
        let wal = &self.core.wal;
        let (flushed, commit) = (wal.flushed().get(), wal.commit().get());
        let config = SenderConfig {
            native: self.native,
            history: (*wal.history()).clone(),
            flushed,
            commit,
            oldest: wal.oldest(),
            segment_size: wal.segment_size(),
            timeout: if self.native {
                self.core.timeout()
            } else {
                STARTUP_DEADLINE
            },
            heartbeat_interval: self.core.config.heartbeat_interval,
        };
        let timeline = config.history.current();
        let mut stream = Stream {
            sender: Sender::new(config, self.core.clock.now()),
            bytes: LogBytes::new(wal.clone()),
            in_flight: None,
            held: false,
            slot: start.slot,
            slot_at: Lsn::ZERO,
            slot_noted: Lsn::ZERO,
            flushed,
            sealed: flushed,
            commit,
            stopped: false,
            switched,
            timeline,
            close: false,
        };
        let request = Event::StartRequested {
            from: start.start,
            timeline: start.timeline,
            id: start.timeline_id,
        };
        let served = self.serve_stream(&mut stream, request).await;
        let noted = self.note_slot(&mut stream);
        self.decoder.set_phase(FrontendPhase::Command);
        self.core.slots.release(self.number);
        if let Some(standby) = &self.standby {
            self.core.stream_ended(&standby.member.name, self.number);
        }
        noted.and(served)
    }

    async fn serve_stream(&mut self, stream: &mut Stream, first: Event) -> Result<()> {
        self.bring(stream, first).await?;
        while !stream.close && stream.sender.status().state != State::Startup {
            if self.must_register_again() {
                stream.close = true;
                break;
            }
            let event = self.next_event(stream).await?;
            if let Some(event) = event {
                self.bring(stream, event).await?;
                for moved in stream.look_at_positions(&self.core) {
                    self.bring(stream, moved).await?;
                }
            }
            while let Some(event) = self.take_message(stream)? {
                self.bring(stream, event).await?;
            }
            self.let_released_append(stream).await?;
            if self.link.queued() == 0
                && let Some(to) = stream.in_flight.take()
            {
                self.bring(stream, Event::Sent(to)).await?;
            }
            self.note(stream);
        }
        let patience = self.core.timeout();
        self.link.flush_unless_stalled(patience).await?;
        match stream.close {
            true => Err(wire(
                &self.link,
                WireError::Protocol("the stream was closed".to_owned()),
            )),
            false => Ok(()),
        }
    }

    /// Whether the standby came before this node was the primary, which then does not count it:
    /// it has to come again.
    fn must_register_again(&self) -> bool {
        let unknown = |standby: &Registered| !standby.logged;
        self.core.is_primary() && self.standby.as_ref().is_some_and(unknown)
    }

    /// Waits for the next thing that concerns the machine; `None` when only bytes moved.
    async fn next_event(&mut self, stream: &mut Stream) -> Result<Option<Event>> {
        let core = self.core.clone();
        let overlaps = self.overlaps(stream).await?;
        let (flush, awaits_flush) = (core.wal.flushed(), stream.awaits_flush(overlaps));
        let mut stopping = core.stopping.subscribe();
        let deadline = stream.sender.deadline().map(|at| core.clock.instant(at));
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        let stop = async {
            match stream.stopped {
                true => pending().await,
                false => stopped(&mut stopping).await,
            }
        };
        tokio::select! {
            biased;
            turn = self.link.turn() => match turn? {
                Turn::Moved => Ok(None),
                Turn::Ended => {
                    stream.close = true;
                    Ok(Some(Event::Disconnected))
                }
            },
            _ = stop => {
                stream.stopped = true;
                let end = core.wal.appended();
                Ok(Some(Event::Stop { end }))
            }
            _ = stream.switched.changed() => Ok(stream.look_for_switch(&core)),
            flushed = flush.reached(stream.flushed + 1), if awaits_flush => match flushed {
                // Log of a new timeline is flushed before anybody is told of the timeline.
                Ok(_) if core.wal.timeline() != stream.timeline => {
                    Ok(stream.look_for_switch(&core))
                }
                Ok(to) => {
                    stream.flushed = to;
                    Ok(Some(Event::Flushed(to)))
                }
                Err(_) => {
                    stream.close = true;
                    Ok(None)
                }
            },
            sealed = core.wal.sealed().reached(stream.sealed + 1), if overlaps => match sealed {
                Ok(to) => Ok(stream.look_at_sealed(&core, to)),
                Err(_) => {
                    stream.close = true;
                    Ok(None)
                }
            },
            commit = core.wal.commit().reached(stream.commit + 1) => match commit {
                Ok(_) if core.wal.timeline() != stream.timeline => {
                    Ok(stream.look_for_switch(&core))
                }
                Ok(to) => {
                    stream.commit = to;
                    Ok(Some(Event::CommitMoved(to)))
                }
                Err(_) => {
                    stream.close = true;
                    Ok(None)
                }
            },
            _ = timer => Ok(Some(Event::Tick)),
        }
    }

    /// The next message of the peer, as an event.
    fn take_message(&mut self, stream: &mut Stream) -> Result<Option<Event>> {
        if stream.sender.status().state == State::Startup {
            return Ok(None);
        }
        let frame = self.decoder.next(&mut self.link.input);
        let Some(frame) = frame.map_err(|source| wire(&self.link, source))? else {
            return Ok(None);
        };
        let message = FrontendMessage::decode(frame).map_err(|source| wire(&self.link, source))?;
        Ok(Some(match message {
            FrontendMessage::CopyData(payload) => {
                let message = ReceiverMessage::decode(payload, self.native);
                event_of(message.map_err(|source| wire(&self.link, source))?)
            }
            FrontendMessage::CopyDone => Event::CopyDoneReceived,
            _ => {
                stream.close = true;
                Event::Disconnected
            }
        }))
    }

    async fn bring(&mut self, stream: &mut Stream, event: Event) -> Result<()> {
        let mut actions = Vec::new();
        stream.sender.on(event, self.core.clock.now(), &mut actions);
        for action in actions {
            self.perform(stream, action).await?;
        }
        Ok(())
    }

    fn reported(
        &mut self,
        stream: &mut Stream,
        timeline: mainstay_storage::Timeline,
        positions: Positions,
    ) -> Result<()> {
        if let Some(standby) = &self.standby {
            self.core
                .stream_reported(&standby.member.name, self.number, timeline, positions);
        }
        // A standby that is ahead comes back to less if this node crashes.
        let flush = positions.flush.min(self.core.wal.flushed().get());
        stream.slot_at = stream.slot_at.max(flush);
        // The slot decides which segments are kept, so a durable note per segment is enough.
        let size = self.core.wal.segment_size();
        if size.segment_of(stream.slot_at) > size.segment_of(stream.slot_noted) {
            self.note_slot(stream)?;
        }
        Ok(())
    }

    /// Notes durably how far the slot's consumer is.
    fn note_slot(&self, stream: &mut Stream) -> Result<()> {
        let at = stream.slot_at;
        if let Some(slot) = stream.slot.as_ref().filter(|_| at > stream.slot_noted) {
            // A slot that is gone meanwhile keeps nothing; the stream itself goes on.
            let _ = self
                .core
                .slots
                .change(|slots| slots.advance(slot, at, at))?;
            stream.slot_noted = at;
            self.core.log_slots(true);
        }
        Ok(())
    }

    fn note(&self, stream: &Stream) {
        if let Some(standby) = &self.standby {
            let status = stream.sender.status();
            let (name, heard) = (&standby.member.name, status.last_heard);
            self.core
                .stream_heard(name, self.number, status.sent, heard);
        }
    }
}

fn event_of(message: ReceiverMessage) -> Event {
    match message {
        ReceiverMessage::Status(status) => Event::StatusReceived {
            positions: Positions {
                write: status.write,
                flush: status.flush,
                apply: status.apply,
            },
            timeline: None,
            reply_requested: status.reply_requested,
        },
        ReceiverMessage::NativeStatus(status) => Event::StatusReceived {
            positions: Positions {
                write: status.write,
                flush: status.flush,
                apply: status.apply,
            },
            timeline: Some(status.timeline),
            reply_requested: status.reply_requested,
        },
        ReceiverMessage::Feedback(_) => Event::Heard,
        ReceiverMessage::Fence(fence) => Event::FenceReceived {
            timeline: fence.timeline,
            opened: fence.opened,
        },
    }
}
