//! The control file: who this node is and what it has proven, in two checksummed slots.
//!
//! ```text
//! offset 0                      32 KiB                 64 KiB        64.5 KiB
//!        +----------------------+----------------------+-------------+-------------+
//!        | slot A               | slot B               | watermark A | watermark B |
//!        +----------------------+----------------------+-------------+-------------+
//! slot       magic "MAINSCTL" 8 | version u32 | length u32 | generation u64 | CRC-32 u32 | body
//! watermark  flushed LSN u64 | commit LSN u64 | timeline number u32 | failed u32 | CRC-32 u32
//! ```
//!
//! A change goes to one slot and is synced before it counts, then to the other one as well. A crash
//! leaves at least one valid slot, and the valid one of the higher generation is the truth. A slot
//! that is damaged later has its copy beside it; otherwise an older state, with older promises,
//! would pass for the newest. The watermarks are written in turn after every flush of the log and
//! never synced: they survive the process, and after a power cut they are either there, older or
//! unreadable, never ahead of the truth. The CRC of each covers everything before and after it in
//! its slot. Both slots unreadable is corruption, not a new node.

mod change;
mod slot;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::disk::{Disk, DiskFile};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::timeline::Timeline;
pub(crate) use change::ControlChange;
use slot::{SLOT_HEAD_LEN, codec, encode_slot, newest_slot};

/// Version of the control file's format.
pub const CONTROL_VERSION: u32 = 3;

/// Most bytes that an encoded [`Control`] may take.
pub const CONTROL_BODY_MAX: usize = SLOT_LEN as usize - SLOT_HEAD_LEN;

/// Most bytes of the cluster's encoded configuration kept in the control file.
pub const CONFIG_BYTES_MAX: usize = 24 << 10;

const SLOT_LEN: u64 = 32 << 10;
const WATERMARKS_AT: u64 = 2 * SLOT_LEN;
const WATERMARK_STRIDE: u64 = 512;
const WATERMARK_LEN: usize = 28;
const FILE_LEN: usize = (WATERMARKS_AT + 2 * WATERMARK_STRIDE) as usize;

/// What a node knows about itself and has durably promised.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Control {
    /// The cluster: the same on every node and timeline.
    pub system_id: u64,
    /// This node.
    pub node_id: [u8; 16],
    /// This life of the node's data directory; new when it was wiped or cut by hand.
    pub incarnation: [u8; 16],
    /// Name of the node that these data are, empty before one claimed them.
    pub node_name: String,
    /// Segment size of the log, in bytes.
    pub segment_size: u32,
    /// Number of the current timeline.
    pub timeline_number: u32,
    /// Promotion id of the current timeline.
    pub timeline_id: [u8; 16],
    /// First position this node ever held: a segment's start.
    pub log_begin: Lsn,
    /// Where the cluster's first timeline begins.
    pub history_begin: Lsn,
    /// CRC-32 (IEEE) of the current timeline's history file; that of nothing when it needs none.
    pub history_crc: u32,
    /// Number of the highest timeline that this node promised to another one, zero for none: it
    /// acknowledges nothing older.
    pub promised_number: u32,
    /// Id of that timeline.
    pub promised_id: [u8; 16],
    /// Number of the highest timeline that this node itself tried to open, zero for none.
    pub attempted_number: u32,
    /// Id of that timeline.
    pub attempted_id: [u8; 16],
    /// Whether the log was closed properly, exactly at `watermark`.
    pub clean: bool,
    /// Other nodes may have been sent log above what was flushed here, since it was last closed
    /// properly. A primary that then crashes may not go on in the same timeline: what it writes
    /// next would not be what they have there.
    pub overlapped: bool,
    /// From here on this node wrote the log itself, so `flushed_upto` marks are its own evidence;
    /// [`Lsn::MAX`] on a standby.
    pub own_from: Lsn,
    /// Flushed at least up to here.
    pub watermark: Lsn,
    /// Replay starts here: below it everything is durable in the store.
    pub checkpoint: Lsn,
    /// The store's durable state may contain log up to here.
    pub flush_bound: Lsn,
    /// Whether the store was created, so that a missing one is damage.
    pub store_created: bool,
    /// The cluster's configuration (the newest Config entry), opaque here.
    pub config: Vec<u8>,
    /// End of that entry in the log.
    pub config_lsn: Lsn,
    /// Replication slots, opaque here.
    pub slots: Vec<u8>,
}

impl Control {
    /// The current timeline.
    pub fn timeline(&self) -> Timeline {
        Timeline {
            number: self.timeline_number,
            id: Uuid::from_bytes(self.timeline_id),
        }
    }

    /// The highest timeline that this node promised to another one.
    pub fn promised(&self) -> Option<Timeline> {
        timeline(self.promised_number, self.promised_id)
    }

    /// The highest timeline that this node itself tried to open.
    pub fn attempted(&self) -> Option<Timeline> {
        timeline(self.attempted_number, self.attempted_id)
    }

    /// The highest timeline number that this node ever saw.
    pub fn highest_number(&self) -> u32 {
        self.timeline_number
            .max(self.promised_number)
            .max(self.attempted_number)
    }
}

fn timeline(number: u32, id: [u8; 16]) -> Option<Timeline> {
    let id = Uuid::from_bytes(id);
    (number > 0).then_some(Timeline { number, id })
}

/// The last watermark that can be read.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
pub(crate) struct Watermark {
    pub(crate) flushed: Lsn,
    pub(crate) commit: Lsn,
    pub(crate) timeline_number: u32,
    /// Writing or syncing what follows failed: reading it back proves nothing.
    pub(crate) failed: bool,
}

/// The open control file.
#[derive(Debug)]
pub(crate) struct ControlFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    generation: u64,
    current: Control,
    next_watermark: u64,
    closed: bool,
}

impl ControlFile {
    /// Creates the file with `control` in both slots. The caller syncs the directory.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, control: Control) -> Result<Self> {
        let file = disk
            .create(path)
            .map_err(|source| Error::io("create", path, source))?;
        // All of its space is taken now: what is flushed is noted on a full disk as well.
        file.write_all_at(&[0; FILE_LEN], 0)
            .map_err(|source| Error::io("write", path, source))?;
        let mut this = Self {
            path: path.to_owned(),
            file,
            generation: 0,
            current: control.clone(),
            next_watermark: 0,
            closed: false,
        };
        this.replace(control)?;
        Ok(this)
    }

    /// Opens the file and reads the newest valid slot and watermark.
    ///
    /// # Errors
    /// `Corrupt` when neither slot is valid, `Format` when one is of a newer version, disk errors.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<(Self, Watermark)> {
        let file = disk
            .open(path)
            .map_err(|source| Error::io("open", path, source))?;
        let (generation, control) = newest_slot(&*file, path)?.ok_or_else(|| Error::Corrupt {
            path: path.to_owned(),
            what: "control file",
            at: Lsn::ZERO,
            proven: Lsn::ZERO,
            why: "neither of its two slots is valid".to_owned(),
        })?;
        let marks = [0, 1].map(|index| read_watermark(&*file, index));
        let watermark = marks
            .into_iter()
            .flatten()
            .max_by_key(|mark| (mark.flushed, mark.commit, mark.failed));
        let this = Self {
            path: path.to_owned(),
            file,
            generation,
            current: control,
            next_watermark: 0,
            closed: false,
        };
        Ok((this, watermark.unwrap_or_default()))
    }

    /// The durable state.
    pub(crate) fn get(&self) -> &Control {
        &self.current
    }

    /// Writes and syncs `control`; when this returns, it counts.
    ///
    /// # Errors
    /// As [`begin`](Self::begin); disk errors, after which the old state counts here, while a
    /// restart may find the new one.
    pub(crate) fn replace(&mut self, control: Control) -> Result<()> {
        let change = self.begin(control)?;
        change.write()?;
        self.adopt(&change);
        change.copy();
        Ok(())
    }

    /// The change to `control`, to be written, [adopted](Self::adopt) and copied before another
    /// one begins.
    ///
    /// # Errors
    /// `TooLarge` when its lists exceed the slot; `Closed`.
    pub(crate) fn begin(&self, control: Control) -> Result<ControlChange> {
        if self.closed {
            return Err(Error::Closed);
        }
        let body = bincode::encode_to_vec(&control, codec())
            .map_err(|error| Error::Invalid(format!("control file: {error}")))?;
        if body.len() > CONTROL_BODY_MAX {
            return Err(Error::TooLarge {
                what: "the control file",
                size: body.len() as u64,
                max: CONTROL_BODY_MAX as u64,
            });
        }
        let generation = self.generation + 1;
        Ok(ControlChange {
            path: self.path.clone(),
            file: self.file.clone(),
            generation,
            slot: encode_slot(generation, &body),
            control,
        })
    }

    /// From now on `change`, which was written, counts.
    ///
    /// # Panics
    /// Where another one was adopted since it began.
    pub(crate) fn adopt(&mut self, change: &ControlChange) {
        let next = self.generation + 1;
        assert_eq!(change.generation, next, "one change at a time");
        (self.generation, self.current) = (next, change.control.clone());
    }

    /// Refuses every further change: the directory is about to be another's.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Overwrites both watermarks durably, so that none speaks of log that is given up.
    ///
    /// # Errors
    /// Disk errors.
    pub(crate) fn forget_watermarks(&mut self, mark: Watermark) -> Result<()> {
        self.note_in_both(mark)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| Error::io("write", &self.path, source))
    }

    /// Notes `mark` in place of both watermarks, without syncing; in one where the other fails.
    pub(crate) fn note_in_both(&mut self, mark: Watermark) -> std::io::Result<()> {
        let (one, other) = (self.note_watermark(mark), self.note_watermark(mark));
        one.and(other)
    }

    /// Notes what was flushed, without syncing. A failure is harmless: the mark only helps to tell
    /// a torn write from damage. Nothing is noted once this is [closed](Self::close).
    pub(crate) fn note_watermark(&mut self, mark: Watermark) -> std::io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let mut bytes = [0; WATERMARK_LEN];
        bytes[0..8].copy_from_slice(&mark.flushed.get().to_le_bytes());
        bytes[8..16].copy_from_slice(&mark.commit.get().to_le_bytes());
        bytes[16..20].copy_from_slice(&mark.timeline_number.to_le_bytes());
        bytes[20..24].copy_from_slice(&u32::from(mark.failed).to_le_bytes());
        let crc = crc32fast::hash(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        let at = WATERMARKS_AT + self.next_watermark * WATERMARK_STRIDE;
        self.next_watermark = 1 - self.next_watermark;
        self.file.write_all_at(&bytes, at)
    }
}

fn read_watermark(file: &dyn DiskFile, index: u64) -> Option<Watermark> {
    let mut bytes = [0; WATERMARK_LEN];
    file.read_exact_at(&mut bytes, WATERMARKS_AT + index * WATERMARK_STRIDE)
        .ok()?;
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let valid = crc32fast::hash(&bytes[..24]) == u32_at(24);
    let (flushed, commit) = (Lsn::new(u64_at(0)), Lsn::new(u64_at(8)));
    valid.then_some(Watermark {
        flushed,
        commit,
        timeline_number: u32_at(16),
        failed: u32_at(20) != 0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::{CrashMode, SimDisk};

    pub(crate) fn sample() -> Control {
        Control {
            system_id: 42,
            node_id: [1; 16],
            incarnation: [2; 16],
            node_name: "a".to_owned(),
            segment_size: 1 << 20,
            timeline_number: 1,
            timeline_id: [3; 16],
            log_begin: Lsn::new(1 << 20),
            history_begin: Lsn::new(1 << 20),
            history_crc: 0,
            promised_number: 0,
            promised_id: [0; 16],
            attempted_number: 0,
            attempted_id: [0; 16],
            clean: false,
            overlapped: false,
            own_from: Lsn::new(1 << 20),
            watermark: Lsn::new(1 << 20),
            checkpoint: Lsn::new(1 << 20),
            flush_bound: Lsn::ZERO,
            store_created: false,
            config: vec![9; 10],
            config_lsn: Lsn::ZERO,
            slots: Vec::new(),
        }
    }

    fn path() -> &'static Path {
        Path::new("/control")
    }

    fn disk_with(control: Control) -> SimDisk {
        let disk = SimDisk::new(1);
        ControlFile::create(&disk, path(), control).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk
    }

    fn changed(checkpoint: u64) -> Control {
        Control {
            checkpoint: Lsn::new(checkpoint << 20),
            ..sample()
        }
    }

    fn found(disk: &SimDisk) -> Control {
        let (file, _) = ControlFile::open(disk, path()).unwrap();
        file.get().clone()
    }

    /// Where the newest slot was written first, and a byte within it.
    fn home(file: &ControlFile) -> u64 {
        (file.generation % 2 * SLOT_LEN + SLOT_HEAD_LEN as u64) * 8
    }

    #[test]
    fn a_change_that_a_power_cut_tore_leaves_the_state_before_it() {
        for seed in 0..200 {
            let disk = disk_with(sample());
            disk.reseed(seed);
            let (mut file, _) = ControlFile::open(&disk, path()).unwrap();
            file.replace(changed(2)).unwrap();
            disk.fail_call(2, crate::disk::DiskFault::ReadOnly);
            let unsynced = file.replace(changed(3));
            assert!(unsynced.is_err() && file.get() == &changed(2));
            assert!([changed(2), changed(3)].contains(&found(&disk)));
            // Its sync failed here; the one of the machine that stops is torn.
            let disk = disk_with(sample());
            disk.reseed(seed);
            let (mut file, _) = ControlFile::open(&disk, path()).unwrap();
            file.replace(changed(2)).unwrap();
            disk.cut_power_after(1);
            assert!(file.replace(changed(3)).is_err());
            disk.crash(crate::disk::CrashMode::Random);
            let left = found(&disk);
            assert!([changed(2), changed(3)].contains(&left), "seed {seed}");
        }
    }

    #[test]
    fn a_slot_that_is_damaged_later_leaves_its_copy_and_is_written_next() {
        let disk = disk_with(sample());
        let (mut file, _) = ControlFile::open(&disk, path()).unwrap();
        file.replace(changed(2)).unwrap();
        for checkpoint in 3..9 {
            // The one that was synced, then the copy, and so on.
            let copy = (checkpoint % 2) * SLOT_LEN * 8;
            let hit = home(&file) ^ copy;
            disk.flip_bit(path(), hit);
            let before = changed(checkpoint - 1);
            assert_eq!(found(&disk), before, "checkpoint {checkpoint}");
            (file, _) = ControlFile::open(&disk, path()).unwrap();
            disk.cut_power_after(1);
            assert!(file.replace(changed(checkpoint)).is_err());
            let torn = disk.copy();
            torn.crash(crate::disk::CrashMode::LoseUnsynced);
            assert_eq!(found(&torn), before, "the only valid slot was overwritten");
            disk.crash(crate::disk::CrashMode::LoseUnsynced);
            (file, _) = ControlFile::open(&disk, path()).unwrap();
            file.replace(changed(checkpoint)).unwrap();
            assert_eq!(found(&disk), changed(checkpoint));
        }
        for slot in [0, SLOT_LEN] {
            disk.flip_bit(path(), (slot + 40) * 8);
        }
        let opened = ControlFile::open(&disk, path());
        assert!(matches!(opened, Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_newer_format_is_named_not_called_damage() {
        let disk = disk_with(sample());
        let body = bincode::encode_to_vec(sample(), codec()).unwrap();
        let mut file = disk.read_file(path());
        // One such slot is enough: the other may be what the newer version has not replaced yet.
        for at in [SLOT_LEN as usize, 0] {
            let mut slot = encode_slot(9, &body);
            slot[8] = 7;
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&slot[..24]);
            hasher.update(&body);
            slot[24..28].copy_from_slice(&hasher.finalize().to_le_bytes());
            file[at..at + slot.len()].copy_from_slice(&slot);
            disk.write_file(path(), &file);
            let opened = ControlFile::open(&disk, path());
            assert!(matches!(
                opened,
                Err(Error::Format {
                    found: 7,
                    supported: CONTROL_VERSION,
                    ..
                })
            ));
        }
    }

    #[test]
    fn a_slot_that_cannot_be_read_is_not_passed_over() {
        let disk = disk_with(sample());
        let (mut file, _) = ControlFile::open(&disk, path()).unwrap();
        let newer = Control {
            promised_number: 9,
            ..sample()
        };
        file.replace(newer.clone()).unwrap();
        for at in [0, SLOT_LEN] {
            let disk = disk.copy();
            disk.fail_reads(path(), at);
            let opened = ControlFile::open(&disk, path());
            assert!(
                matches!(opened, Err(Error::Io { .. })),
                "a promise may be forgotten"
            );
        }
        assert_eq!(ControlFile::open(&disk, path()).unwrap().0.get(), &newer);
    }

    #[test]
    fn watermarks_alternate_and_the_higher_valid_one_is_read() {
        let disk = disk_with(sample());
        let (mut file, none) = ControlFile::open(&disk, path()).unwrap();
        assert_eq!(none, Watermark::default());
        for lsn in [8, 16, 24] {
            let (flushed, commit) = (Lsn::new(lsn), Lsn::new(lsn / 2));
            file.note_watermark(Watermark {
                flushed,
                commit,
                timeline_number: 1,
                failed: false,
            })
            .unwrap();
        }
        let read = || ControlFile::open(&disk, path()).unwrap().1;
        assert_eq!(
            (read().flushed, read().commit),
            (Lsn::new(24), Lsn::new(12))
        );
        let mut bytes = disk.read_file(path());
        bytes[WATERMARKS_AT as usize] ^= 1;
        disk.write_file(path(), &bytes);
        assert_eq!(read().flushed, Lsn::new(16));
    }

    #[test]
    fn whoever_closed_the_file_notes_nothing_in_it_for_the_next_owner_to_find() {
        let disk = disk_with(sample());
        let (mut old, _) = ControlFile::open(&disk, path()).unwrap();
        old.close();
        let before = disk.read_file(path());
        let late = Watermark {
            flushed: Lsn::new(8 << 20),
            commit: Lsn::new(8 << 20),
            timeline_number: 1,
            failed: false,
        };
        old.note_watermark(late).unwrap();
        assert!(old.replace(sample()).is_err());
        assert_eq!(disk.read_file(path()), before);
    }

    #[test]
    fn a_full_disk_keeps_nothing_from_being_noted() {
        let disk = disk_with(sample());
        disk.crash(CrashMode::LoseUnsynced);
        disk.set_capacity(0);
        let (mut file, _) = ControlFile::open(&disk, path()).unwrap();
        let longer = Control {
            config: vec![7; 20_000],
            ..sample()
        };
        file.replace(longer.clone()).unwrap();
        let mark = Watermark {
            flushed: Lsn::new(5 << 20),
            ..Watermark::default()
        };
        file.note_watermark(mark).unwrap();
        let (found, noted) = ControlFile::open(&disk, path()).unwrap();
        assert_eq!((found.get(), noted), (&longer, mark));
    }

    #[test]
    fn every_flipped_bit_of_a_slot_leaves_the_other_slot_in_charge() {
        let disk = disk_with(changed(2));
        let (mut file, _) = ControlFile::open(&disk, path()).unwrap();
        file.replace(sample()).unwrap();
        let pristine = disk.read_file(path());
        let body = bincode::encode_to_vec(sample(), codec()).unwrap().len();
        for slot in [0, SLOT_LEN as usize] {
            for bit in slot * 8..(slot + SLOT_HEAD_LEN + body) * 8 {
                let mut bytes = pristine.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                disk.write_file(path(), &bytes);
                let opened = ControlFile::open(&disk, path()).unwrap().0;
                assert_eq!(opened.get(), &sample(), "bit {bit}");
            }
        }
    }

    fn any_control() -> impl Strategy<Value = Control> {
        let ids = any::<[[u8; 16]; 5]>();
        let numbers = (any::<u64>(), any::<[u32; 5]>(), any::<[u64; 7]>());
        let lists = (
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec(any::<u8>(), 0..200),
            "[a-z]{0,63}",
        );
        (ids, numbers, any::<[bool; 3]>(), lists).prop_map(
            |(ids, (system_id, small, large), flags, (config, slots, node_name))| Control {
                system_id,
                node_id: ids[0],
                incarnation: ids[1],
                node_name,
                segment_size: small[0],
                timeline_number: small[1],
                timeline_id: ids[2],
                log_begin: Lsn::new(large[0]),
                history_begin: Lsn::new(large[1]),
                history_crc: small[2],
                promised_number: small[3],
                promised_id: ids[3],
                attempted_number: small[4],
                attempted_id: ids[4],
                clean: flags[0],
                overlapped: flags[1],
                own_from: Lsn::new(large[2]),
                watermark: Lsn::new(large[3]),
                checkpoint: Lsn::new(large[4]),
                flush_bound: Lsn::new(large[5]),
                store_created: flags[2],
                config,
                config_lsn: Lsn::new(large[6]),
                slots,
            },
        )
    }

    proptest! {
        #[test]
        fn every_state_and_watermark_is_read_back(
            control in any_control(),
            (flushed, commit, timeline_number, failed) in any::<(u64, u64, u32, bool)>(),
        ) {
            let disk = disk_with(sample());
            let (mut file, _) = ControlFile::open(&disk, path()).unwrap();
            file.replace(control.clone()).unwrap();
            let mark = Watermark {
                flushed: Lsn::new(flushed),
                commit: Lsn::new(commit),
                timeline_number,
                failed,
            };
            file.note_in_both(mark).unwrap();
            let (again, noted) = ControlFile::open(&disk, path()).unwrap();
            prop_assert_eq!((again.get(), noted), (&control, mark));
        }

        #[test]
        fn a_file_that_is_cut_or_longer_says_the_same_or_nothing(
            control in any_control(),
            cut: usize,
            more in prop::collection::vec(any::<u8>(), 1..9),
        ) {
            let disk = disk_with(sample());
            let (mut file, _) = ControlFile::open(&disk, path()).unwrap();
            file.replace(control.clone()).unwrap();
            let whole = disk.read_file(path());
            let body = bincode::encode_to_vec(&control, codec()).unwrap().len();
            let slot = SLOT_HEAD_LEN + body;
            let cuts = [cut % whole.len(), cut % slot, slot, SLOT_LEN as usize + cut % slot];
            for len in cuts {
                disk.write_file(path(), &whole[..len]);
                match ControlFile::open(&disk, path()) {
                    Ok((read, _)) => prop_assert_eq!(read.get(), &control, "{} bytes", len),
                    Err(_) => prop_assert!(len < slot, "{} bytes of {}", len, slot),
                }
            }
            disk.write_file(path(), &[whole, more].concat());
            let (read, _) = ControlFile::open(&disk, path()).unwrap();
            prop_assert_eq!(read.get(), &control);
        }
    }
}
