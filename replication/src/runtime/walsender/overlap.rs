//! Sending log to a standby while it is still being flushed here.
//!
//! Under a policy an acknowledgement needs both flushes, so they run side by side. It is safe
//! because nobody applies above the commit LSN, and because it is noted durably before the first
//! byte leaves: a primary that then crashes goes on in a new timeline, and a standby that is ahead
//! of it cuts what it never applied. Without a policy nobody waits for a standby, so nothing is
//! sent early, and a crashed primary goes on as it was.
//!
//! What is sent early is worth most where it leaves together with the news that let it be appended,
//! so whom a standby's report releases is let go first.

use mainstay_storage::Lsn;

use super::stream::Stream;
use crate::error::{Error, Result};
use crate::protocol::sender::Event;
use crate::runtime::core::Core;
use crate::runtime::session::Session;

impl Session {
    /// Whether this peer may be sent what is not flushed here; durably noted if so.
    ///
    /// # Errors
    /// Disk errors, and those of a control file that cannot be written.
    pub(super) async fn overlaps(&self, stream: &Stream) -> Result<bool> {
        let core = &self.core;
        let synchronous = core.is_primary() && core.standing.borrow().synchronous;
        if !self.native || core.wal.timeline() != stream.timeline || !synchronous {
            return Ok(false);
        }
        if !core.wal.overlaps() {
            let wal = core.wal.clone();
            let noted = tokio::task::spawn_blocking(move || wal.allow_overlap()).await;
            noted.map_err(|error| Error::Invalid(error.to_string()))??;
        }
        Ok(true)
    }

    /// Lets those go first whom the peer's report has just released: what they append next and the
    /// news of their commit then go out in one write, and the peer wakes once for both. Nobody is
    /// waited for who does not run on this thread.
    ///
    /// # Errors
    /// As [`overlaps`](Self::overlaps), and those of sending.
    pub(super) async fn let_released_append(&mut self, stream: &mut Stream) -> Result<()> {
        let core = self.core.clone();
        let released = !stream.close && core.wal.commit().get() > stream.commit;
        if !released || !self.overlaps(stream).await? {
            return Ok(());
        }
        // Woken by the append itself where there is one: a yield alone ends with the runtime waking
        // another of its threads.
        tokio::select! {
            biased;
            _ = core.wal.sealed().wait(stream.sealed + 1) => {}
            _ = tokio::task::yield_now() => {}
        }
        let sealed = core.wal.sealed().get();
        if sealed > stream.sealed
            && let Some(sendable) = stream.look_at_sealed(&core, sealed)
        {
            self.bring(stream, sendable).await?;
        }
        for moved in stream.look_at_positions(&core) {
            self.bring(stream, moved).await?;
        }
        Ok(())
    }
}

impl Stream {
    /// What the machine is told when log up to `to` has its final bytes.
    pub(super) fn look_at_sealed(&mut self, core: &Core, to: Lsn) -> Option<Event> {
        // It may be the begin of another timeline, which nobody hears of before it is flushed.
        if core.wal.timeline() != self.timeline {
            return None;
        }
        self.sealed = to;
        // Nobody else is to know more of who has a vote than this primary after a crash.
        let (_, configured) = core.wal.config();
        self.held = configured > core.wal.flushed().get();
        (!self.held).then_some(Event::Sendable(to))
    }
}
