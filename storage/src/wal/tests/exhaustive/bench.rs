//! A log written without threads, group by group, and recovery's answer beside the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use crc32fast::Hasher;
use uuid::Uuid;

use super::Dice;
use crate::control::{Control, ControlFile, Watermark};
use crate::disk::{Disk, DiskCall, SimDisk};
use crate::entry::WalEntryType;
use crate::error::{Error, Result};
use crate::lsn::{Lsn, SegmentSize};
use crate::timeline::{Timeline, TimelineHistory};
use crate::wal::log_file::{Draft, End, Item, LogFile, Progress};
use crate::wal::record::{PayloadCrc, RECORD_HEADER_LEN};
use crate::wal::recovery::{Found, Recovery};
use crate::wal::scan::{Owner, Scan, Step};
use crate::wal::segment::{Cursor, segment_file_name};
use crate::wal::spares::Spares;

pub(super) const DIR: &str = "/db";
pub(super) const WAL: &str = "/db/wal";
pub(super) const CONTROL: &str = "/db/control";
pub(super) const SIZE: SegmentSize = SegmentSize::MIN;
/// Where the unsynced watermarks lie in the control file, and how long they are.
pub(super) const HINTS: (u64, usize) = (64 << 10, 1024);

pub(super) fn segment_path(number: u64) -> PathBuf {
    Path::new(WAL).join(segment_file_name(1, number, SIZE))
}

pub(super) fn control() -> Control {
    let begin = SIZE.first_lsn();
    Control {
        system_id: 42,
        node_id: [1; 16],
        incarnation: [2; 16],
        node_name: String::new(),
        segment_size: 1 << 20,
        timeline_number: 1,
        timeline_id: [3; 16],
        log_begin: begin,
        history_begin: begin,
        history_crc: 0,
        promised_number: 0,
        promised_id: [0; 16],
        attempted_number: 0,
        attempted_id: [0; 16],
        clean: false,
        overlapped: false,
        own_from: begin,
        watermark: begin,
        checkpoint: begin,
        flush_bound: Lsn::ZERO,
        store_created: false,
        config: Vec::new(),
        config_lsn: Lsn::ZERO,
        slots: Vec::new(),
    }
}

pub(super) fn owner() -> Arc<Owner> {
    let control = control();
    let timeline = Timeline {
        number: 1,
        id: Uuid::from_bytes(control.timeline_id),
    };
    Arc::new(Owner {
        system_id: control.system_id,
        history: Arc::new(TimelineHistory::new(timeline, control.log_begin)),
        size: SIZE,
    })
}

/// What proof of flushing is left after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// All of it.
    Intact,
    /// The unsynced watermarks are gone.
    HintsLost,
    /// They are gone, and the node did not write the log itself.
    Standby,
}

pub(super) const EVIDENCE: [Evidence; 3] =
    [Evidence::Intact, Evidence::HintsLost, Evidence::Standby];

/// Does what the shared state does with progress, and keeps the disk as it was before each sync.
pub(super) struct Notes {
    disk: SimDisk,
    pub(super) control: ControlFile,
    pub(super) flushed: Lsn,
    pub(super) unsynced: Option<SimDisk>,
}

impl Progress for Notes {
    fn sealed(&mut self, _: Lsn, _: Bytes) {}

    fn written(&mut self, _: Lsn) {
        self.unsynced = Some(self.disk.copy());
    }

    fn flushed(&mut self, lsn: Lsn) {
        let mark = Watermark {
            flushed: lsn,
            commit: lsn,
            timeline_number: 1,
            failed: false,
        };
        self.control.note_watermark(mark).unwrap();
        self.flushed = lsn;
    }

    fn segment(&mut self, _: u64, _: u32) {}
}

/// What the files are that become segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segments {
    /// Full of zeros and synced, as the log makes them.
    Zeroed,
    /// Empty, so that each write makes them longer.
    Grown,
    /// Extended to their size by a hole, without a sync.
    Extended,
    /// Full of old log, as retention gives them back.
    Recycled,
}

pub(super) const SEGMENTS: [Segments; 4] = [
    Segments::Zeroed,
    Segments::Grown,
    Segments::Extended,
    Segments::Recycled,
];

/// A log that is written step by step.
pub(super) struct Bench {
    pub(super) disk: SimDisk,
    pub(super) file: LogFile,
    pub(super) notes: Notes,
    dice: Dice,
}

impl Bench {
    /// An empty log, in segments as it makes them itself.
    pub(super) fn new() -> Self {
        Self::on(SimDisk::new(1))
    }

    /// An empty log, whose first segments will be files of this kind; recycled ones hold `old`.
    pub(super) fn in_segments(kind: Segments, old: &[u8]) -> Self {
        let disk = SimDisk::new(1);
        for n in 0..3 {
            let path = Path::new(WAL).join(format!("spare-{n}"));
            match kind {
                Segments::Zeroed => {}
                Segments::Grown => disk.write_file(&path, &[]),
                Segments::Extended => {
                    disk.write_file(&path, &[]);
                    disk.open(&path).unwrap().set_len(SIZE.bytes()).unwrap();
                }
                Segments::Recycled => disk.write_file(&path, old),
            }
        }
        Self::on(disk)
    }

    fn on(disk: SimDisk) -> Self {
        let wal = Path::new(WAL);
        disk.create_dir(wal).unwrap();
        let control = ControlFile::create(&disk, Path::new(CONTROL), control()).unwrap();
        for dir in ["/", DIR] {
            disk.sync_dir(Path::new(dir)).unwrap();
        }
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let names = disk.list(wal).unwrap();
        let spares = Arc::new(Spares::open(shared.clone(), wal, SIZE, &names).unwrap());
        let begin = SIZE.first_lsn();
        let end = End {
            lsn: begin,
            prev_crc: None,
            segment_crc: Hasher::new(),
            file: None,
            flushed: begin,
        };
        let file = LogFile::new(shared, wal, owner(), spares, || 7, end);
        let notes = Notes {
            disk: disk.clone(),
            control,
            flushed: begin,
            unsynced: None,
        };
        let dice = Dice(7);
        Self {
            disk,
            file,
            notes,
            dice,
        }
    }

    /// Writes a group of records with payloads of these sizes.
    pub(super) fn group(&mut self, sizes: &[usize]) {
        self.try_group(sizes).unwrap();
    }

    pub(super) fn try_group(&mut self, sizes: &[usize]) -> Result<()> {
        while self.file.spares.count() < 2 {
            self.file.spares.make(false, || true).unwrap();
        }
        let mut cursor = Cursor {
            next: self.file.end.lsn,
            size: SIZE,
        };
        let mut items = Vec::new();
        for &size in sizes {
            let payload = Bytes::from(self.dice.bytes(size));
            items.push(Item::Draft(Draft {
                at: cursor.place(size).at,
                entry_type: WalEntryType::Insert,
                tx_id: 5,
                crc: PayloadCrc::of(&payload),
                payload,
            }));
        }
        self.file.write_group(items, &mut self.notes)
    }

    /// Fills the segment with records that are flushed, until `left` bytes are left of it.
    pub(super) fn fill_until(&mut self, left: u64) {
        let payload = |bytes: u64| usize::try_from(bytes).unwrap() - RECORD_HEADER_LEN;
        if SIZE.offset_of(self.file.end.lsn) == 0 {
            self.group(&[8]);
        }
        loop {
            let wanted = SIZE.bytes() - SIZE.offset_of(self.file.end.lsn) - left;
            match wanted {
                0 => return,
                1..=200_000 => return self.group(&[payload(wanted)]),
                _ => self.group(&[payload(100_000)]),
            }
        }
    }

    /// Makes the flushed position durable in the control file.
    pub(super) fn checkpoint(&mut self) {
        let mut control = self.notes.control.get().clone();
        control.watermark = self.notes.flushed;
        control.checkpoint = self.notes.flushed;
        self.notes.control.replace(control).unwrap();
    }
}

/// A record of the undamaged log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) start: Lsn,
    pub(super) end: Lsn,
    pub(super) flushed_upto: Lsn,
    pub(super) crc: u32,
}

/// One segment of the undamaged log.
pub(super) struct Original {
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<Place>,
    pub(super) end: Lsn,
}

impl Original {
    pub(super) fn of(disk: &SimDisk, number: u64) -> Self {
        let bytes = disk.read_file(segment_path(number));
        let owner = owner();
        let mut scan = Scan::new(&owner, &bytes, SIZE.start_of(number), None);
        let mut records = Vec::new();
        while let Ok(step) = scan.step() {
            match step {
                Step::Record { at, parsed } => records.push(Place {
                    start: at,
                    end: scan.at(),
                    flushed_upto: parsed.head.flushed_upto,
                    crc: parsed.crc,
                }),
                Step::Rest { .. } => break,
            }
            if scan.at() == SIZE.start_of(number + 1) {
                break;
            }
        }
        let end = records
            .last()
            .map_or(SIZE.start_of(number), |last| last.end);
        Self {
            number,
            bytes,
            records,
            end,
        }
    }

    pub(super) fn offset(&self, lsn: Lsn) -> usize {
        usize::try_from(lsn - SIZE.start_of(self.number)).unwrap()
    }

    /// Bytes of the file that hold log.
    pub(super) fn used(&self) -> usize {
        self.offset(self.end)
    }

    /// Where the log ends once the segment holds `bytes`, and what is then proven by its records.
    pub(super) fn answer(&self, bytes: &[u8], own: bool) -> (Lsn, Lsn) {
        let survives = |record: &&Place| {
            let range = self.offset(record.start)..self.offset(record.end);
            bytes.get(range.clone()) == Some(&self.bytes[range])
        };
        let torn = self.records.iter().find(|record| !survives(record));
        let marks = self.records.iter().filter(survives);
        let proven = marks.map(|record| record.flushed_upto).max();
        let proven = proven.filter(|_| own).unwrap_or(Lsn::ZERO);
        (torn.map_or(self.end, |record| record.start), proven)
    }
}

/// Runs recovery as opening does.
pub(super) fn recover(disk: &SimDisk, evidence: Evidence) -> Result<Found> {
    if evidence != Evidence::Intact {
        disk.patch_file(CONTROL, HINTS.0, &vec![0; HINTS.1]);
    }
    let (control, watermark) = ControlFile::open(disk, Path::new(CONTROL))?;
    let mut control = control.get().clone();
    if evidence == Evidence::Standby {
        control.own_from = Lsn::MAX;
    }
    let recovery = Recovery {
        disk,
        wal_dir: Path::new(WAL),
        aside_dir: Path::new("/db/set-aside"),
        owner: &owner(),
        control: &control,
        watermark,
        accept_loss_from: None,
        end_at: None,
    };
    recovery.run()
}

/// What is there of the bytes that held log; less when the file is shorter.
fn head_of(disk: &SimDisk, original: &Original) -> Vec<u8> {
    let mut bytes = vec![0; original.used()];
    let file = disk.open(&segment_path(original.number)).unwrap();
    let length = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(length);
    bytes
}

/// Whether the file is a whole segment of `kept` and zeros behind it. It is read in pieces that are
/// small enough to come from memory that was used before: this runs a hundred thousand times.
fn is_left(disk: &SimDisk, path: &Path, kept: &[u8]) -> std::result::Result<(), &'static str> {
    let file = disk.open(path).unwrap();
    if file.len().unwrap() != SIZE.bytes() {
        return Err("the file is no whole segment");
    }
    let mut piece = vec![0; 64 << 10];
    let zeros = vec![0; piece.len()];
    for at in (0..1 << 20).step_by(piece.len()) {
        file.read_exact_at(&mut piece, at as u64).unwrap();
        let log = kept.get(at..).unwrap_or_default();
        let (log, rest) = piece.split_at(log.len().min(piece.len()));
        if log != &kept[at.min(kept.len())..][..log.len()] {
            return Err("other bytes were kept");
        }
        if rest != &zeros[..rest.len()] {
            return Err("something is left behind the end");
        }
    }
    Ok(())
}

/// Recovers a disk whose last segment, `original`, was changed, and checks that the answer is the
/// one that follows from what is left of it. `hint` is what the unsynced watermarks say.
pub(super) fn check(
    disk: &SimDisk,
    original: &Original,
    evidence: Evidence,
    durable: Lsn,
    hint: Lsn,
    case: impl Fn() -> String,
) -> Option<Lsn> {
    let path = segment_path(original.number);
    let damaged = head_of(disk, original);
    let (end, marks) = original.answer(&damaged, evidence != Evidence::Standby);
    let hint = if evidence == Evidence::Intact {
        hint
    } else {
        Lsn::ZERO
    };
    let proven = durable.max(marks).max(hint);
    let found = recover(disk, evidence);
    let case = || format!("{} with {evidence:?}", case());
    match found {
        Ok(found) => {
            assert_eq!(found.end.lsn, end, "{}: kept up to the wrong place", case());
            assert!(end >= proven, "{}: {end} is below {proven}", case());
            let kept = original.offset(end);
            if kept == 0 {
                let before = original.number - 1;
                if before > 0 {
                    let crc = crc32fast::hash(&disk.read_file(segment_path(before)));
                    assert_eq!(found.end.segment_crc.finalize(), crc, "{}", case());
                }
                assert!(!disk.files().contains(&path), "{}: left there", case());
                return Some(end);
            }
            if let Err(why) = is_left(disk, &path, &original.bytes[..kept]) {
                panic!("{}: {why}", case());
            }
            let last = original.records.iter().rfind(|record| record.end <= end);
            let last = last.map(|record| record.crc);
            assert_eq!(found.end.prev_crc, last, "{}", case());
            let crc = crc32fast::hash(&original.bytes[..kept]);
            assert_eq!(found.end.segment_crc.finalize(), crc, "{}", case());
            Some(end)
        }
        Err(Error::Corrupt { at, proven: p, .. }) => {
            assert!(end < proven, "{}: {at} called damage, proven {p}", case());
            assert_eq!((at, p), (end, proven), "{}", case());
            assert!(
                !disk.trace().iter().any(DiskCall::changes),
                "{}: changed",
                case()
            );
            None
        }
        Err(error) => panic!("{}: {error}", case()),
    }
}
