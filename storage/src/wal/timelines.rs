//! Changing what the log is: opening a timeline, adopting one, removing what nobody needs.
//!
//! Each of these happens while nothing is being written. The order of their steps is such that a
//! crash after any of them leaves either the old log or the new one, and doing the whole again
//! is right.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::canary;
use crate::control::CONFIG_BYTES_MAX;
use crate::disk::DiskFile;
use crate::entry::{WalEntry, WalEntryType};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::sync::RwLockReadGuard;
use crate::timeline::{Timeline, TimelineHistory};
use crate::wal::log_file::LogFile;
use crate::wal::record::RECORD_HEADER_LEN;
use crate::wal::scan::Owner;
use crate::wal::segment::{parse_segment_file_name, segment_file_name};
use crate::wal::set_aside::Aside;
use crate::wal::{Wal, directory};

impl Wal {
    /// Opens timeline `next` at the end of the log, as its primary, and returns that position, the
    /// fork. The caller then appends the `NewTimeline` entry.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the number does not climb; disk errors, after which the old timeline
    /// is still current. If that is not certain the log is poisoned too: a restart finds one or
    /// the other, with the same log in it.
    pub fn open_timeline(&self, next: Timeline, reason: &str) -> Result<Lsn> {
        self.change_history(|history, end| {
            // A timeline that was adopted and never reached is nobody's ancestor.
            let mut opened = history.reached(end);
            opened
                .open(next, end, reason)
                .map_err(|error| Error::Invalid(error.to_string()))?;
            Ok((opened, end))
        })
    }

    /// Whether this log had been closed properly when it was opened, or is new.
    pub fn was_clean(&self) -> bool {
        self.inner.clean || canary("restart-without-asking")
    }

    /// Notes durably that other nodes may be sent log above what is flushed here: if this node then
    /// crashes, they may hold log that it lost, so it [may not](Self::must_begin_timeline) write
    /// other log there. Costs a sync the first time, nothing afterwards.
    ///
    /// # Errors
    /// Disk errors; no such log may be sent then.
    pub fn allow_overlap(&self) -> Result<()> {
        if !canary("overlap-not-noted") {
            self.update_control(|control| control.overlapped = true)?;
        }
        self.shared().overlaps.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether [`allow_overlap`](Self::allow_overlap) is in force.
    pub fn overlaps(&self) -> bool {
        self.shared().overlaps.load(Ordering::Acquire)
    }

    /// Whether other nodes may hold log that this one lost in a crash, since
    /// [`allow_overlap`](Self::allow_overlap) and however often it was closed since. Where theirs
    /// goes on nothing else may be written in the same timeline, so every append is refused until a
    /// timeline begins at the end of this log.
    pub fn must_begin_timeline(&self) -> bool {
        self.shared().behind.load(Ordering::Acquire) && !canary("go-on-behind-standbys")
    }

    /// While this is held no timeline begins, so that entries which belong together are not torn
    /// apart by the `NewTimeline` that rolls back what is open. For appends alone: whoever waits
    /// for a commit meanwhile may wait for ever.
    pub fn unit(&self) -> RwLockReadGuard<'_, ()> {
        self.inner.units.read()
    }

    /// As [`open_timeline`](Self::open_timeline), with its `NewTimeline` entry and `also` behind
    /// it, between two [`unit`](Self::unit)s of appenders. Returns the fork, and where the last
    /// entry ends.
    ///
    /// # Errors
    /// As [`open_timeline`](Self::open_timeline) and [`append`](Self::append).
    pub fn begin_timeline(
        &self,
        next: Timeline,
        reason: &str,
        also: &[WalEntry],
    ) -> Result<(Lsn, Lsn)> {
        let _alone = self.inner.units.write();
        let fork = self.open_timeline(next, reason)?;
        Ok((fork, self.append_new_timeline(also)?.end))
    }

    /// Adopts the history of a primary whose log continues ours, as its standby.
    ///
    /// # Errors
    /// [`Error::Refused`] when it does not: then the log must be cut to the common point first.
    /// Disk errors, as for [`open_timeline`](Self::open_timeline).
    pub fn adopt_history(&self, theirs: &TimelineHistory) -> Result<()> {
        self.change_history(|history, end| {
            let common = history.common_point(end, theirs, Lsn::MAX);
            if common != Some(end) {
                let why = format!("the primary's history left ours at {common:?}");
                return Err(Error::Refused { at: end, why });
            }
            Ok((theirs.clone(), Lsn::MAX))
        })
        .map(|_| ())
    }

    /// Swaps the history for what `choose(current, end)` says, along with the position from which
    /// this node writes the log itself.
    fn change_history(
        &self,
        choose: impl FnOnce(&TimelineHistory, Lsn) -> Result<(TimelineHistory, Lsn)>,
    ) -> Result<Lsn> {
        let shared = self.shared();
        shared.exclusively(|file, halfway| {
            let end = file.end.lsn;
            let (history, own_from) = choose(&file.owner.history, end)?;
            let timeline = history.current();
            let owner = Owner {
                history: Arc::new(history),
                ..(*file.owner).clone()
            };
            let number = owner.size.segment_of(end);
            let named = owner.file_timeline(number);
            let mut copied = None;
            if timeline != file.owner.history.current() {
                // A rival of the same number takes over the very file that is being written.
                *halfway = file.owner.history.find(timeline.number).is_some();
                clear_unfinished(file, &self.aside_dir())?;
                if named != file.owner.file_timeline(number) {
                    copied = copy_segment(file, named.number)?;
                }
                directory::write_history(&*file.disk, &file.dir, &owner.history)?;
            }
            *halfway = true;
            let history_crc = directory::history_crc(&owner.history);
            self.update_control(|control| {
                control.timeline_number = timeline.number;
                control.timeline_id = *timeline.id.as_bytes();
                control.history_crc = history_crc;
                control.own_from = own_from;
                control.watermark = end;
            })?;
            self.forget_watermarks(end)?;
            file.owner = Arc::new(owner);
            shared.behind.store(false, Ordering::Release);
            *shared.owner.write() = file.owner.clone();
            // After the history, in which readers look its timeline up.
            if let Some(copied) = copied {
                file.end.file = Some(copied);
                shared.segments.write().insert(number, named.number);
            }
            Ok(end)
        })
    }

    pub(super) fn aside_dir(&self) -> PathBuf {
        self.dir().join("set-aside")
    }

    /// Writes the entry that every timeline begins with; it rolls back open transactions.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_new_timeline(&self, also: &[WalEntry]) -> Result<std::ops::Range<Lsn>> {
        let timeline = self.timeline();
        let mut payload = Vec::with_capacity(20);
        payload.extend_from_slice(&timeline.number.to_le_bytes());
        payload.extend_from_slice(timeline.id.as_bytes());
        let mut entries = vec![WalEntry::new(WalEntryType::NewTimeline, None, payload)];
        entries.extend_from_slice(also);
        self.append_any(&entries)
    }

    /// Writes the cluster's configuration, at most [`CONFIG_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], and as [`append`](Self::append).
    pub fn append_config(&self, config: bytes::Bytes) -> Result<std::ops::Range<Lsn>> {
        let (size, max) = (config.len() as u64, CONFIG_BYTES_MAX as u64);
        if size > max {
            return Err(Error::TooLarge {
                what: "the cluster's configuration",
                size,
                max,
            });
        }
        self.append_any(&[WalEntry::new(WalEntryType::Config, None, config)])
    }

    /// Durably notes what this node is bound by beyond its log: the highest timeline it promised to
    /// another node, and the highest that it tried to open itself.
    ///
    /// # Errors
    /// Disk errors; nothing was promised then.
    pub fn save_promises(
        &self,
        promised: Option<Timeline>,
        attempted: Option<Timeline>,
    ) -> Result<()> {
        let split = |timeline: Option<Timeline>| {
            timeline.map_or((0, [0; 16]), |timeline| {
                (timeline.number, *timeline.id.as_bytes())
            })
        };
        self.update_control(|control| {
            (control.promised_number, control.promised_id) = split(promised);
            (control.attempted_number, control.attempted_id) = split(attempted);
        })
    }

    /// The `Config` entries that bind while only what is below `commit` is known committed: the
    /// newest at or below it, and all above, oldest first, each with the end of its record.
    pub fn binding_configs(&self, commit: Lsn) -> Vec<(bytes::Bytes, Lsn)> {
        // Locked first: a checkpoint moves entries from there to the control file.
        let newer = self.shared().configs.lock();
        let control = self.control();
        let mut all = vec![(bytes::Bytes::from(control.config), control.config_lsn)];
        all.extend(newer.iter().map(|(end, config)| (config.clone(), *end)));
        drop(newer);
        let settled = all.iter().rposition(|(_, end)| *end <= commit).unwrap_or(0);
        all.split_off(settled)
    }

    /// Says that these data are the node `name`'s, and returns whether they were another's. Then
    /// they are a copy of its files, or it has a new name; either way they are a new life,
    /// `incarnation`, which confirmed nothing under this name. Data that are nobody's yet keep the
    /// life they have.
    ///
    /// # Errors
    /// Disk errors; nothing changed then.
    pub fn claim(&self, name: &str, incarnation: Uuid) -> Result<bool> {
        let before = self.control().node_name;
        if before == name {
            return Ok(false);
        }
        let others = !before.is_empty() && !canary("copies-keep-their-life");
        self.update_control(|control| {
            name.clone_into(&mut control.node_name);
            if others {
                control.incarnation = *incarnation.as_bytes();
            }
        })?;
        Ok(others)
    }

    /// The oldest position that can still be read: a segment's start, or the end of the log when it
    /// holds nothing.
    pub fn oldest(&self) -> Lsn {
        let segments = self.shared().segments.read();
        let mut oldest = None;
        for &number in segments.keys().rev() {
            if oldest.is_some_and(|oldest| number + 1 != oldest) {
                break;
            }
            oldest = Some(number);
        }
        oldest.map_or_else(
            || self.shared().written.get(),
            |n| self.segment_size().start_of(n),
        )
    }

    /// Removes or recycles whole segments below `lsn`, for which the caller answers: no slot, no
    /// backup, no replay needs them. Never removes what the checkpoint needs. Returns the oldest
    /// position left.
    ///
    /// # Errors
    /// Disk errors; what was removed stays removed. [`Error::Closed`].
    pub fn remove_below(&self, lsn: Lsn) -> Result<Lsn> {
        // Held to the end: closing waits for it.
        let lock = self.inner.lock.lock();
        if lock.is_none() {
            return Err(Error::Closed);
        }
        let size = self.segment_size();
        let mut limit = lsn.min(self.control().checkpoint);
        if canary("remove-what-replay-needs") {
            limit = lsn;
        }
        let shared = self.shared();
        // The segment that ends exactly at the limit stays: its last record is the next one's
        // predecessor.
        let needed = limit.get().div_ceil(size.bytes());
        let keep = |number: u64| number + 1 >= needed;
        shared.segments.write().retain(|&number, _| keep(number));
        let dir = self.wal_dir();
        let names = self.disk().list(&dir);
        // What earlier timelines left of the same segments goes with them.
        let mut removed = names.map_err(|source| Error::io("list", &dir, source))?;
        removed.retain(|name| {
            parse_segment_file_name(name, size).is_some_and(|(_, number)| !keep(number))
        });
        let mut spares = Vec::new();
        for name in &removed {
            spares.extend(shared.spares.recycle(&dir.join(name), spares.len())?);
        }
        if !removed.is_empty() {
            let synced = self.disk().sync_dir(&dir);
            synced.map_err(|source| Error::io("sync", &dir, source))?;
        }
        if !spares.is_empty() {
            shared.spares.add(spares);
            shared.spare_returned();
        }
        Ok(self.oldest())
    }

    /// The segments that hold this log, oldest first: number, and timeline in the file's name.
    pub fn segments(&self) -> Vec<(u64, u32)> {
        self.shared()
            .segments
            .read()
            .iter()
            .map(|(&n, &timeline)| (n, timeline))
            .collect()
    }
}

/// Sets aside the segment files of timelines that were begun and never became ours: the history
/// that is adopted next may have timelines of the same numbers.
fn clear_unfinished(file: &LogFile, aside_dir: &Path) -> Result<()> {
    let names = file.disk.list(&file.dir);
    for name in names.map_err(|source| Error::io("list", &file.dir, source))? {
        let Some((timeline, number)) = parse_segment_file_name(&name, file.owner.size) else {
            continue;
        };
        if file.owner.history.find(timeline).is_none() {
            let at = file.owner.size.start_of(number);
            Aside::new(&*file.disk, aside_dir, timeline, at)?.take_file(&file.dir.join(&name))?;
        }
    }
    let synced = file.disk.sync_dir(&file.dir);
    synced.map_err(|source| Error::io("sync", &file.dir, source))
}

/// Copies the segment being written to a file named after `timeline`, which is to take over.
/// `None` when the log ends where a segment begins.
fn copy_segment(file: &LogFile, timeline: u32) -> Result<Option<Arc<dyn DiskFile>>> {
    let size = file.owner.size;
    let used = usize::try_from(size.offset_of(file.end.lsn)).expect("within a segment");
    let Some(old) = file.end.file.as_ref().filter(|_| used > 0) else {
        return Ok(None);
    };
    if file.spares.count() == 0 {
        file.spares.make(false, || true)?;
    }
    let number = size.segment_of(file.end.lsn);
    let path = file.dir.join(segment_file_name(timeline, number, size));
    let spare = file.spares.take().expect("one was just made");
    let copy = || -> io::Result<_> {
        let space = usize::try_from(size.bytes()).expect("at most 1 GiB");
        let mut bytes = vec![0; space.min(used + RECORD_HEADER_LEN)];
        old.read_exact_at(&mut bytes[..used], 0)?;
        let new = file.disk.open(&spare)?;
        new.write_all_at(&bytes, 0)?;
        new.sync_data()?;
        file.disk.rename(&spare, &path)?;
        file.disk.sync_dir(&file.dir)?;
        Ok(new)
    };
    let copied = copy().map_err(|source| Error::io("copy to", &path, source))?;
    Ok(Some(copied))
}
