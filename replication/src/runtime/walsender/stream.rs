//! One stream that is served: its machine, and how far that was told of the log.

use mainstay_storage::{LogBytes, Lsn, Timeline};
use tokio::sync::watch;

use crate::protocol::sender::{Event, Sender};
use crate::runtime::core::Core;

/// A stream being served.
pub(super) struct Stream {
    pub(super) sender: Sender,
    pub(super) bytes: LogBytes,
    /// Sent when the link has taken everything that is queued.
    pub(super) in_flight: Option<Lsn>,
    /// There is log that may be sent once it is flushed, and not before.
    pub(super) held: bool,
    pub(super) slot: Option<String>,
    /// Up to where the slot's consumer has flushed, and what of that is noted durably.
    pub(super) slot_at: Lsn,
    pub(super) slot_noted: Lsn,
    pub(super) flushed: Lsn,
    /// Log that the machine was told of before it is flushed here.
    pub(super) sealed: Lsn,
    pub(super) commit: Lsn,
    pub(super) stopped: bool,
    /// Tells of changes of timeline and role, none of which may be missed between two waits.
    pub(super) switched: watch::Receiver<u64>,
    /// The log's timeline, as far as the machine was told.
    pub(super) timeline: Timeline,
    /// The connection ends after what is queued.
    pub(super) close: bool,
}

impl Stream {
    /// Whether a flush here lets more be sent. Of what was sent before, the news of its flush goes
    /// with the next that there is.
    pub(super) fn awaits_flush(&self, overlaps: bool) -> bool {
        !overlaps || self.held
    }

    /// What the machine is told of positions that moved since it was told last: the news of several
    /// goes out at once then.
    pub(super) fn look_at_positions(&mut self, core: &Core) -> impl Iterator<Item = Event> + use<> {
        let (flushed, commit) = (core.wal.flushed().get(), core.wal.commit().get());
        // Asked last: log of a new timeline is not told of before the timeline is.
        let same = core.wal.timeline() == self.timeline;
        let moved = |known: &mut Lsn, to: Lsn| {
            let climbs = same && to > *known;
            if climbs {
                *known = to;
            }
            climbs.then_some(to)
        };
        let flushed = moved(&mut self.flushed, flushed).map(Event::Flushed);
        let commit = moved(&mut self.commit, commit).map(Event::CommitMoved);
        flushed.into_iter().chain(commit)
    }

    /// What the machine is told when the log has gone over to another timeline.
    pub(super) fn look_for_switch(&mut self, core: &Core) -> Option<Event> {
        let history = (*core.wal.history()).clone();
        if history.current() == self.timeline {
            return None;
        }
        self.timeline = history.current();
        (self.flushed, self.commit) = (core.wal.flushed().get(), core.wal.commit().get());
        self.sealed = self.flushed;
        let (flushed, commit) = (self.flushed, self.commit);
        Some(Event::TimelineSwitched {
            history,
            flushed,
            commit,
        })
    }
}
