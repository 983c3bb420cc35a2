//! Changing what the log is: opening a timeline, adopting one, cutting, removing.
//!
//! Each of these happens while nothing is being written. The order of their steps is such that a
//! crash after any of them leaves either the old log or the new one, and doing the whole again
//! is right.

use std::io;
use std::sync::Arc;

use uuid::Uuid;

use crate::control::CONFIG_BYTES_MAX;
use crate::entry::{WalEntry, WalEntryType};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::timeline::{Timeline, TimelineHistory};
use crate::wal::log_file::LogFile;
use crate::wal::record::RECORD_HEADER_LEN;
use crate::wal::recovery::{Recovery, TornTail};
use crate::wal::scan::Owner;
use crate::wal::segment::segment_file_name;
use crate::wal::{Wal, directory};

impl Wal {
    /// Opens timeline `next` at the end of the log, as its primary, and returns that position, the
    /// fork. The caller then appends the `NewTimeline` entry.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the number does not climb; disk errors, after which the old timeline
    /// is still current.
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

    /// Adopts the history of a primary whose log continues ours, as its standby.
    ///
    /// # Errors
    /// [`Error::Refused`] when it does not: then the log must be cut to the common point first.
    /// Disk errors, after which the old history is still current.
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
        shared.exclusively(|file| {
            let end = file.end.lsn;
            let (history, own_from) = choose(&file.owner.history, end)?;
            let timeline = history.current();
            if timeline != file.owner.history.current() {
                self.copy_segment(file, timeline.number)?;
                directory::write_history(&*file.disk, &file.dir, &history)?;
            }
            self.update_control(|control| {
                control.timeline_number = timeline.number;
                control.timeline_id = *timeline.id.as_bytes();
                control.own_from = own_from;
                control.watermark = end;
            })?;
            self.forget_watermarks(end)?;
            let owner = Owner {
                history: Arc::new(history),
                ..(*file.owner).clone()
            };
            file.owner = Arc::new(owner);
            *shared.owner.write() = file.owner.clone();
            Ok(end)
        })
    }

    /// Copies the segment being written to a file of timeline `timeline`, which takes over.
    fn copy_segment(&self, file: &mut LogFile, timeline: u32) -> Result<()> {
        let size = file.owner.size;
        let used = usize::try_from(size.offset_of(file.end.lsn)).expect("within a segment");
        let Some(old) = file.end.file.clone().filter(|_| used > 0) else {
            return Ok(());
        };
        if file.spares.count() == 0 {
            file.spares.make()?;
        }
        let number = size.segment_of(file.end.lsn);
        let path = file.dir.join(segment_file_name(timeline, number, size));
        let spare = file.spares.take().expect("one was just made");
        let copy = || -> io::Result<_> {
            let mut bytes = vec![0; used];
            old.read_exact_at(&mut bytes, 0)?;
            let zeros = RECORD_HEADER_LEN as u64;
            bytes.resize(
                used + usize::try_from(zeros.min(size.bytes() - used as u64)).unwrap(),
                0,
            );
            let new = file.disk.open(&spare)?;
            new.write_all_at(&bytes, 0)?;
            new.sync_data()?;
            file.disk.rename(&spare, &path)?;
            file.disk.sync_dir(&file.dir)?;
            Ok(new)
        };
        file.end.file = Some(copy().map_err(|source| Error::io("copy to", &path, source))?);
        self.shared().segments.write().insert(number, timeline);
        Ok(())
    }

    /// Takes back the log from `to` on, which nobody applied and whose loss is known to be right:
    /// another primary's timeline left ours there. What is cut is set aside.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no record ends at `to`, or below what is committed or checkpointed
    /// here; disk errors, after which the node must be restarted and the cut repeated.
    pub fn cut(&self, to: Lsn) -> Result<Option<TornTail>> {
        let shared = self.shared();
        let torn = shared.exclusively(|file| {
            let control = self.control();
            let floor = shared.commit.get().max(control.checkpoint);
            if to < floor || to > file.end.lsn {
                let end = file.end.lsn;
                let range = format!("between {floor} (committed and applied) and {end} (the end)");
                return Err(Error::Invalid(format!(
                    "the log can be cut {range}, not at {to}"
                )));
            }
            // First lower what counts as proven: a crash during the cut must not look like damage.
            self.update_control(|control| control.watermark = to)?;
            self.forget_watermarks(to)?;
            let control = self.control();
            let recovery = Recovery {
                disk: &*file.disk,
                wal_dir: &file.dir,
                aside_dir: &self.dir().join("set-aside"),
                owner: &file.owner,
                control: &control,
                watermark: Default::default(),
                accept_loss_from: None,
                end_at: Some(to),
            };
            let found = recovery.cut_at_end()?;
            file.end = found.end;
            *shared.segments.write() = found.segments;
            shared.configs.lock().retain(|(end, _)| *end <= to);
            Ok(found.torn)
        })?;
        shared.written.reset(to);
        shared.flushed.reset(to);
        Ok(torn)
    }

    /// Overwrites both unsynced watermarks, so that none speaks of log that is cut or of another
    /// timeline.
    fn forget_watermarks(&self, end: Lsn) -> Result<()> {
        let mut control = self.shared().control.lock();
        let timeline_number = control.get().timeline_number;
        let commit = self.shared().commit.get().min(end);
        let mark = crate::control::Watermark {
            flushed: end,
            commit,
            timeline_number,
        };
        let noted = control
            .note_watermark(mark)
            .and_then(|()| control.note_watermark(mark));
        noted.map_err(|source| Error::io("write", &self.dir().join("control"), source))
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
        let control = self.control();
        let mut all = vec![(bytes::Bytes::from(control.config), control.config_lsn)];
        let newer = self.shared().configs.lock();
        all.extend(newer.iter().map(|(end, config)| (config.clone(), *end)));
        drop(newer);
        let settled = all.iter().rposition(|(_, end)| *end <= commit).unwrap_or(0);
        all.split_off(settled)
    }

    /// Starts a new life of this node's data: it has forgotten what it may have promised.
    ///
    /// # Errors
    /// Disk errors.
    pub fn renew_incarnation(&self) -> Result<()> {
        self.update_control(|control| control.incarnation = *Uuid::new_v4().as_bytes())
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
    /// Disk errors; what was removed stays removed.
    pub fn remove_below(&self, lsn: Lsn) -> Result<Lsn> {
        let size = self.segment_size();
        let limit = lsn.min(self.control().checkpoint);
        let shared = self.shared();
        let mut removed = Vec::new();
        shared.segments.write().retain(|&number, &mut timeline| {
            // The segment that ends exactly at the limit stays: its last record is the next one's
            // predecessor.
            let keep = size.start_of(number + 1) >= limit;
            if !keep {
                removed.push(segment_file_name(timeline, number, size));
            }
            keep
        });
        let dir = self.wal_dir();
        for name in &removed {
            if shared.spares.recycle(&dir.join(name))? {
                shared.spare_returned();
            }
        }
        if !removed.is_empty() {
            let synced = self.disk().sync_dir(&dir);
            synced.map_err(|source| Error::io("sync", &dir, source))?;
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
