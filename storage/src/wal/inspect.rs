//! Looking at a log that no node has open.
//!
//! For operators: which segments there are, what their records say, and what opening the log would
//! find. Nothing is ever changed, and what recovery decides is asked of recovery itself. Looking
//! needs no lock, judging does: the end of a log that grows cannot be judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::control::{Control, ControlFile, Watermark};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::lsn::{Lsn, SegmentSize};
use crate::timeline::TimelineHistory;
use crate::wal::directory::{bad_control, control_path, lock, read_history, wal_dir};
use crate::wal::record::Record;
use crate::wal::recovery::Recovery;
use crate::wal::scan::{Owner, Scan, Step, record_of};
use crate::wal::segment::segment_file_name;

/// The files of a log.
#[derive(Debug)]
pub struct LogFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    control: Control,
    watermark: Watermark,
    owner: Owner,
    /// Segment number to the timeline in its file's name.
    segments: BTreeMap<u64, u32>,
}

/// One segment's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFileName {
    /// Its name.
    pub name: String,
    /// The timeline in it.
    pub timeline: u32,
    /// First position in it.
    pub start_lsn: Lsn,
}

/// What opening the log would find.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Where the oldest record that is kept starts.
    pub begin: Lsn,
    /// Where the last valid record ends.
    pub end: Lsn,
    /// Up to where this node is proven to have flushed; never above `end`.
    pub proven: Lsn,
    /// Bytes behind `end` of a write that was never finished; opening sets them aside.
    pub torn: u64,
}

impl LogFiles {
    /// Reads what there is in the data directory `dir`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the control file or the timelines' history cannot be read,
    /// [`Error::Format`], disk errors; a missing control file is one of these.
    pub fn read(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self> {
        let (control, watermark) = ControlFile::open(&*disk, &control_path(dir))?;
        let control = control.get().clone();
        let size = SegmentSize::new(control.segment_size)
            .ok_or_else(|| bad_control(dir, "its segment size is impossible"))?;
        let history = Arc::new(read_history(&*disk, &wal_dir(dir), &control)?);
        let owner = Owner {
            system_id: control.system_id,
            history,
            size,
        };
        let segments = BTreeMap::new();
        let mut files = Self {
            disk,
            dir: dir.to_owned(),
            control,
            watermark,
            owner,
            segments,
        };
        files.segments = files.recovery(&files.control, &wal_dir(dir), dir).files()?;
        Ok(files)
    }

    /// What the node durably knows about itself.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Size of every segment.
    pub fn segment_size(&self) -> SegmentSize {
        self.owner.size
    }

    /// All timelines up to the current one.
    pub fn history(&self) -> &TimelineHistory {
        &self.owner.history
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> Vec<LogFileName> {
        let size = self.owner.size;
        let named = self
            .segments
            .iter()
            .map(|(&number, &timeline)| LogFileName {
                name: segment_file_name(timeline, number, size),
                timeline,
                start_lsn: size.start_of(number),
            });
        named.collect()
    }

    /// The records from the first one at or above `from` on, as far as they are valid.
    pub fn records(&self, from: Lsn) -> LogFileRecords<'_> {
        let size = self.owner.size;
        let oldest = self.segments.keys().next().copied().unwrap_or(0);
        let at = size.start_of(size.segment_of(from).max(oldest));
        LogFileRecords {
            files: self,
            from,
            at,
            segment: None,
            prev_crc: None,
            stopped: None,
        }
    }

    /// Checks every record that is kept, and decides as opening the log would.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when what this node had flushed is damaged or missing,
    /// [`Error::Locked`] while a node has the directory, disk errors.
    pub fn verify(&self) -> Result<Verified> {
        let _lock = lock(&*self.disk, &self.dir)?;
        let first = self.segments.keys().next().copied();
        let begin = first.map_or(self.control.log_begin, |first| {
            self.owner.size.start_of(first)
        });
        let begin = begin
            .max(self.control.log_begin)
            .min(self.control.checkpoint);
        let control = Control {
            checkpoint: begin,
            ..self.control.clone()
        };
        let found = self
            .recovery(&control, &wal_dir(&self.dir), &self.dir)
            .look()?;
        Ok(Verified {
            begin,
            end: found.at,
            proven: found.proven,
            torn: found.torn,
        })
    }

    fn recovery<'a>(&'a self, control: &'a Control, wal: &'a Path, dir: &'a Path) -> Recovery<'a> {
        Recovery {
            disk: &*self.disk,
            wal_dir: wal,
            aside_dir: dir,
            owner: &self.owner,
            control,
            watermark: self.watermark,
            accept_loss_from: None,
            end_at: None,
        }
    }

    fn read_segment(&self, number: u64) -> Result<Option<Bytes>> {
        let Some(&timeline) = self.segments.get(&number) else {
            return Ok(None);
        };
        let name = segment_file_name(timeline, number, self.owner.size);
        let path = wal_dir(&self.dir).join(name);
        let file = self
            .disk
            .open(&path)
            .map_err(|source| Error::io("open", &path, source))?;
        let len = file
            .len()
            .map_err(|source| Error::io("inspect", &path, source))?;
        let len = len.min(self.owner.size.bytes());
        let mut bytes = vec![0; usize::try_from(len).expect("a segment fits in memory")];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|source| Error::io("read", &path, source))?;
        Ok(Some(bytes.into()))
    }
}

/// The records of [`LogFiles`], one after the other; holds one segment in memory.
#[derive(Debug)]
pub struct LogFileRecords<'a> {
    files: &'a LogFiles,
    from: Lsn,
    at: Lsn,
    /// What is left of the segment that `at` is in.
    segment: Option<Bytes>,
    prev_crc: Option<u32>,
    stopped: Option<String>,
}

impl LogFileRecords<'_> {
    /// The next record, the log's own included; `None` after the last valid one.
    ///
    /// # Errors
    /// Disk errors.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        let size = self.files.owner.size;
        while self.stopped.is_none() {
            let bytes = match self.segment.take() {
                Some(bytes) if size.offset_of(self.at) != 0 => bytes,
                _ => match self.files.read_segment(size.segment_of(self.at))? {
                    Some(bytes) => bytes,
                    None => {
                        self.stopped = Some("there is no segment with that position".to_owned());
                        break;
                    }
                },
            };
            let mut scan = Scan::new(&self.files.owner, &bytes, self.at, self.prev_crc);
            let step = scan.step();
            self.segment = Some(bytes.slice(bytes.len() - scan.remaining().len()..));
            (self.at, self.prev_crc) = (scan.at(), scan.prev_crc());
            match step {
                Ok(Step::Record { at, parsed }) if at >= self.from => {
                    return Ok(Some(record_of(&bytes, at, &parsed)));
                }
                Ok(_) => {}
                Err(why) => self.stopped = Some(why.to_string()),
            }
        }
        Ok(None)
    }

    /// After the last record: where the valid log ends, and what is there instead of a record.
    pub fn stopped(&self) -> Option<(Lsn, &str)> {
        self.stopped.as_deref().map(|why| (self.at, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::entry::{WalEntry, WalEntryType};
    use crate::wal::{NewLog, Wal, WalOptions};

    fn log() -> (SimDisk, Arc<dyn Disk>, Lsn) {
        let sim = SimDisk::new(1);
        let disk = Arc::new(sim.clone()) as Arc<dyn Disk>;
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            ..WalOptions::new(|| 0)
        };
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let wal = Wal::create(disk.clone(), dir(), new, &options).unwrap();
        let entry = |n: usize| WalEntry::new(WalEntryType::Insert, None, vec![7; 200_000 + n]);
        for n in 0..8 {
            wal.append(&[entry(n)]).unwrap();
        }
        let end = wal.appended();
        wal.close().unwrap();
        (sim, disk, end)
    }

    fn dir() -> &'static Path {
        Path::new("/data")
    }

    #[test]
    fn every_record_of_a_closed_log_is_shown_and_verified() {
        let (_, disk, end) = log();
        let files = LogFiles::read(disk, dir()).unwrap();
        assert_eq!(files.segments().len(), 2);
        let mut records = files.records(Lsn::ZERO);
        let mut inserts = 0;
        let mut starts = Vec::new();
        while let Some(record) = records.next_record().unwrap() {
            inserts += usize::from(record.head.entry_type == WalEntryType::Insert);
            starts.push(record.lsn);
        }
        assert_eq!(inserts, 8);
        assert_eq!(records.stopped(), Some((end, "nothing is written there")));
        let first = files.records(starts[3]).next_record().unwrap().unwrap();
        assert_eq!(first.lsn, starts[3]);
        let begin = SegmentSize::MIN.first_lsn();
        assert_eq!(
            files.verify().unwrap(),
            Verified {
                begin,
                end,
                proven: end,
                torn: 0
            }
        );
    }

    #[test]
    fn damage_is_found_and_nothing_is_changed() {
        let (_, disk, end) = log();
        let files = LogFiles::read(disk.clone(), dir()).unwrap();
        let path = wal_dir(dir()).join(&files.segments()[0].name);
        disk.open(&path)
            .unwrap()
            .write_all_at(b"x", 300_000)
            .unwrap();
        let error = files.verify().unwrap_err();
        assert!(
            matches!(error, Error::Corrupt { proven, .. } if proven == end),
            "{error}"
        );
        let mut records = files.records(Lsn::ZERO);
        while records.next_record().unwrap().is_some() {}
        let (at, why) = records.stopped().unwrap();
        assert!(at < end && why.starts_with("CRC "), "{at} {why}");
        assert!(files.verify().is_err(), "the first look mended nothing");
    }

    #[test]
    fn a_running_node_is_looked_at_but_not_judged() {
        let (_, disk, _) = log();
        let options = WalOptions::new(|| 0);
        let (wal, _) = Wal::open(disk.clone(), dir(), &options).unwrap();
        let files = LogFiles::read(disk, dir()).unwrap();
        assert!(files.records(Lsn::ZERO).next_record().unwrap().is_some());
        assert!(matches!(files.verify(), Err(Error::Locked { .. })));
        wal.close().unwrap();
    }
}
