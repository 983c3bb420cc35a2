//! The upstream as this standby sees it: how far it is, when it was heard, what changed there.
//!
//! Ages are counted on this node's clock from when a position was told here, so that the clocks of
//! two nodes may differ. It decides nothing.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, TornTail, WaitError};

use super::Core;
use crate::config::{StreamState, UpstreamState};
use crate::event::ReplicationEvent;
use crate::protocol::liveness::{Sight, Standing};
use crate::protocol::progress::{Lag, LagSamples};
use crate::time::Moment;

/// What is known of the upstream.
#[derive(Debug)]
pub(super) struct UpstreamSeen {
    /// The last one's name.
    name: Option<String>,
    connected: bool,
    caught_up: bool,
    /// When it was last heard.
    heard: Moment,
    /// The end of its log, as it said.
    end: Lsn,
    samples: LagSamples,
    /// Of what was committed there.
    committed: LagSamples,
}

impl Default for UpstreamSeen {
    fn default() -> Self {
        Self {
            name: None,
            connected: false,
            caught_up: false,
            heard: Moment::ZERO,
            end: Lsn::ZERO,
            samples: LagSamples::new(),
            committed: LagSamples::new(),
        }
    }
}

impl Core {
    /// The primary of a newer timeline made itself known.
    pub(crate) fn set_successor(&self, name: String, address: String) {
        *self.successor.lock() = Some((name, address));
    }

    /// Name and address of the primary of a newer timeline, if it made itself known.
    pub(crate) fn successor(&self) -> Option<(String, String)> {
        self.successor.lock().clone()
    }

    /// What a fenced node says of itself, and what to do.
    pub(crate) fn why_fenced(&self) -> String {
        match self.successor() {
            Some((name, address)) => format!(
                "this node is fenced: {name} ({address}) is the primary already; let this node \
                 follow it"
            ),
            None => {
                "this node is fenced: a newer timeline was opened elsewhere. Ask a standby for \
                     the failover, or see which node is the primary and let this node follow it"
                    .to_owned()
            }
        }
    }

    /// Another upstream answered, or none does any more.
    pub(super) fn upstream_changed(&self, name: Option<String>) {
        let mut seen = self.peers.upstream.lock();
        (seen.connected, seen.caught_up) = (name.is_some(), false);
        if name.is_some() {
            // Its log may end before the last one's.
            (seen.name, seen.end) = (name, Lsn::ZERO);
            seen.samples.clear();
            seen.committed.clear();
        }
        drop(seen);
        self.peers.changed.notify_one();
    }

    /// The upstream said that its log is flushed up to `end`, and committed up to `commit`.
    pub(crate) fn upstream_heard(&self, end: Lsn, commit: Lsn) {
        let now = self.clock.now();
        let mut seen = self.peers.upstream.lock();
        (seen.heard, seen.end) = (now, seen.end.max(end));
        seen.samples.record(end, now);
        seen.committed.record(commit, now);
    }

    /// Everything that the upstream had was received.
    pub(crate) fn upstream_caught_up(&self) {
        tracing::info!("caught up with the primary");
        self.peers.upstream.lock().caught_up = true;
        self.peers.changed.notify_one();
    }

    /// The upstream's name, or the primary's that the log names, and how it is seen now.
    ///
    /// What is not applied counts only once it is committed, and not where this standby stays
    /// behind on purpose.
    pub(crate) fn upstream_sight(&self) -> (String, Sight) {
        let now = self.clock.now();
        let flushed = self.wal.flushed().get();
        let replay = match self.stays_behind() {
            true => Duration::ZERO,
            false => self.replay_lag(now),
        };
        let seen = self.peers.upstream.lock();
        let standing = match (seen.connected, seen.caught_up) {
            (false, _) => Standing::Away,
            (true, false) => Standing::Behind,
            (true, true) => Standing::Streaming,
        };
        let lag = Lag {
            bytes: seen.end.bytes_since(flushed),
            time: seen.samples.age_of(flushed, now).max(replay),
        };
        let silence = now - seen.heard;
        let name = seen.name.clone();
        drop(seen);
        let name = name.unwrap_or_else(|| self.cluster().primary.name.to_string());
        let sight = Sight {
            standing,
            lag,
            silence,
        };
        (name, sight)
    }

    /// Up to where log is applied and may be seen: what the store has ahead of the sync may not.
    fn applied_and_shown(&self) -> Lsn {
        self.applied.get().min(self.wal.commit().get())
    }

    /// Waits until log is applied and may be seen up to `target`, and returns how far it is then.
    ///
    /// # Errors
    /// Nothing more will be applied.
    pub(crate) async fn shown(&self, target: Lsn) -> Result<Lsn, WaitError> {
        self.applied.wait(target).await?;
        // Where the log ends, whoever waits for it to be flushed says so.
        if self.wal.commit().reached(target).await.is_err() {
            pending::<()>().await;
        }
        Ok(self.applied_and_shown())
    }

    /// Age of the oldest log that is committed and not applied here.
    fn replay_lag(&self, now: Moment) -> Duration {
        let applied = self.applied_and_shown();
        self.peers.upstream.lock().committed.age_of(applied, now)
    }

    /// Whether this standby stays behind its primary on purpose.
    pub(crate) fn stays_behind(&self) -> bool {
        !self.config.min_apply_delay.is_zero() || self.apply_paused.load(Ordering::Acquire)
    }

    /// The upstream as others may see it.
    pub(crate) fn upstream_state(&self) -> UpstreamState {
        let (name, sight) = self.upstream_sight();
        let heard = self.peers.upstream.lock().heard > Moment::ZERO;
        UpstreamState {
            name,
            address: self.upstream().map(|(_, address)| address),
            state: match sight.standing {
                Standing::Away => StreamState::Disconnected,
                Standing::Behind => StreamState::Catchup,
                Standing::Streaming => StreamState::Streaming,
            },
            last_heartbeat: heard.then_some(sight.silence),
            lag_bytes: sight.lag.bytes,
            replay_lag: self.replay_lag(self.clock.now()),
        }
    }

    /// Log above the end that this node shares with the upstream was set aside.
    pub(crate) fn log_was_cut(&self, torn: TornTail) {
        tracing::warn!(
            at = %torn.at, bytes = torn.bytes, saved_to = %torn.saved_to.display(),
            "set aside log that the new primary does not have, and nobody saw"
        );
        self.observer.tell(ReplicationEvent::LogCut {
            at: torn.at,
            bytes: torn.bytes,
            saved_to: torn.saved_to,
        });
    }

    /// This standby's log goes on with another timeline.
    pub(crate) fn follows_timeline(&self, timeline: Timeline) {
        tracing::info!(%timeline, "following a new timeline");
        let upstream = self.peers.upstream.lock().name.clone();
        self.observer.tell(ReplicationEvent::TimelineFollowed {
            timeline,
            upstream: upstream.unwrap_or_default(),
        });
    }

    /// This node is no primary any more, without having handed that over.
    pub(crate) fn tell_fenced(&self, by: Option<Timeline>) {
        if self.peers.handing_over.load(Ordering::Acquire) {
            return;
        }
        let successor = self.successor();
        self.observer
            .tell(ReplicationEvent::Fenced { by, successor });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::pin::pin;
    use std::sync::Arc;

    use mainstay_storage::{
        NewLog, SegmentSize, Signal, SimDisk, Wal, WalEntry, WalEntryType, WalOptions,
    };
    use tokio::time::timeout;

    use super::*;
    use crate::config::WalStreamingConfig;
    use crate::event::Observer;

    #[tokio::test(start_paused = true)]
    async fn what_the_store_has_ahead_of_the_sync_is_not_told_before_it_is_shown() {
        let options = WalOptions {
            driven: true,
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog {
            own: false,
            ..NewLog::new_cluster(SegmentSize::MIN)
        };
        let disk = Arc::new(SimDisk::new(1));
        let wal = Wal::create(disk, Path::new("/node"), new, &options).unwrap();
        wal.set_commit_follows(false);
        let applied = Signal::new(Lsn::ZERO);
        let config = WalStreamingConfig {
            name: "b".to_owned(),
            follow: vec!["127.0.0.1:1".to_owned()],
            ..WalStreamingConfig::default()
        };
        let observer = Observer::default();
        let core = Core::new(config, Vec::new(), wal.clone(), applied, None, observer).unwrap();
        let entry = WalEntry::new(WalEntryType::Insert, None, vec![7; 100]);
        let end = wal.append(&[entry]).unwrap().end;
        core.applied.raise(end + 4096);
        let mut shown = pin!(core.shown(end));
        for flushed in [false, true] {
            while flushed && wal.drive() {}
            // Flushed, and what that means for the commit position is not noted yet.
            assert!(timeout(Duration::from_secs(9), &mut shown).await.is_err());
        }
        wal.follow_commit(end);
        assert_eq!(shown.await, Ok(end));
    }
}
