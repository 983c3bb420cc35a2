//! Opening a data directory whose files are damaged in any way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::image::{SYSTEM_ID, forge, image, options, timeline};
use super::{DIR, SIZE, check_log};
use crate::control::{Control, ControlFile};
use crate::disk::{DiskCall, SimDisk};
use crate::entry::{WalEntry, WalEntryType};
use crate::error::Error;
use crate::fuzz::Input;
use crate::lsn::Lsn;
use crate::wal::directory::{control_path, wal_dir};
use crate::wal::segment::segment_file_name;
use crate::wal::{LogFiles, Wal};

/// Most changes of one input.
const CHANGES_MAX: usize = 12;

/// A data directory after any changes to its files.
pub(crate) fn recovery(data: &[u8]) {
    let disk = image().disk.copy();
    let mut input = Input::new(data);
    for _ in 0..CHANGES_MAX {
        if input.is_empty() {
            break;
        }
        change(&disk, &mut input);
    }
    let noted = ControlFile::open(&disk, &control_path(Path::new(DIR)));
    disk.clear_trace();
    let looked = LogFiles::read(Arc::new(disk.clone()), Path::new(DIR));
    let looked = looked.and_then(|files| files.verify());
    assert!(!changed(&disk), "changed by looking");
    let (wal, recovered) = match open(&disk) {
        Ok(opened) => opened,
        Err(error) => return assert!(!changed(&disk), "changed, and refused: {error}"),
    };
    let (end, durable) = (recovered.end, wal.control().checkpoint);
    let noted = noted.expect("it was opened with it").0.get().clone();
    assert!(end >= noted.watermark, "what was flushed was cut off");
    if let Ok(looked) = looked {
        assert!(
            looked.end == end && looked.proven <= end,
            "looked at otherwise"
        );
    }
    let begin = walked_from(&noted);
    let history = wal.history();
    check_log(&disk, SYSTEM_ID, &history, begin.min(end), end);
    // It goes on from there, and a restart finds that it did.
    let entry = WalEntry::new(WalEntryType::Insert, None, "goes on");
    let appended = wal.append(&[entry]);
    while wal.drive() {}
    let flushed = wal.flushed().get();
    match appended {
        Ok(range) => assert_eq!(flushed, range.end),
        Err(Error::Behind { .. }) => assert_eq!(flushed, end),
        Err(error) => panic!("cannot go on: {error}"),
    }
    drop(wal);
    let (wal, again) = open(&disk).expect("what was recovered");
    assert_eq!((again.end, again.torn), (flushed, None), "after {end}");
    assert_eq!(wal.control().checkpoint, durable);
    check_log(&disk, SYSTEM_ID, &history, begin.min(end), flushed);
    // What nobody needs any more is removed, and nothing else is.
    wal.checkpoint(flushed).expect("it is flushed");
    let oldest = wal.remove_below(flushed).expect("a disk that works");
    drop(wal);
    let (_, last) = open(&disk).expect("what is left");
    assert_eq!((last.end, last.torn), (flushed, None), "behind {oldest}");
}

fn open(disk: &SimDisk) -> crate::Result<(Wal, crate::wal::Recovered)> {
    Wal::open(Arc::new(disk.clone()), Path::new(DIR), &options())
}

/// Where recovery has to begin at the latest: the segment of the checkpoint.
fn walked_from(control: &Control) -> Lsn {
    let from = control.checkpoint.min(control.watermark);
    let from = from.max(control.log_begin);
    SIZE.start_of(SIZE.segment_of(from)).max(control.log_begin)
}

fn changed(disk: &SimDisk) -> bool {
    disk.trace().iter().any(DiskCall::changes)
}

/// One change of a file, or of the names.
fn change(disk: &SimDisk, input: &mut Input<'_>) {
    let files = disk.files();
    let kind = input.byte();
    if files.is_empty() {
        return;
    }
    let path = &files[usize::from(input.byte()) % files.len()];
    let bytes = disk.read_file(path);
    match kind % 9 {
        0 => {
            let at = input.below(bytes.len().max(1));
            let patch = input.sized();
            disk.patch_file(path, at as u64, &patch[..patch.len().min(bytes.len() - at)]);
        }
        1 => {
            let from = input.below(bytes.len().max(1));
            let len = usize::from(input.u16()).min(bytes.len() - from);
            let fill = input.one_of(&[0, 0, 0xFF]);
            disk.patch_file(path, from as u64, &vec![fill; len]);
        }
        2 => {
            let mut cut = bytes;
            cut.resize(input.below(2 << 20), input.one_of(&[0, 1]));
            disk.write_file(path, &cut);
        }
        3 => disk.remove_file(path),
        4 => {
            let other = &files[usize::from(input.byte()) % files.len()];
            disk.write_file(other, &bytes);
        }
        5 => disk.write_file(new_name(input), &bytes),
        6 => disk.write_file(new_name(input), input.sized()),
        7 => put_record(disk, input),
        _ => renote(disk, input),
    }
}

/// A name that may lie in the log's directory.
fn new_name(input: &mut Input<'_>) -> PathBuf {
    let number = match input.byte() {
        255 => input.u64() >> 20,
        small => u64::from(small % 8),
    };
    let on = u32::from(input.byte() % 4);
    let name = match input.byte() % 8 {
        0 => format!("{on:08X}.history"),
        1 => "history.old".to_owned(),
        2 => format!("spare-{number}"),
        3 => "FFFFFFFFFFFFFFFFFFFFFFFF".to_owned(),
        _ => segment_file_name(on, number, SIZE),
    };
    wal_dir(Path::new(DIR)).join(name)
}

/// Puts a record in place of one that is there, or behind the last one.
fn put_record(disk: &SimDisk, input: &mut Input<'_>) {
    let image = image();
    let at = image.places[usize::from(input.byte()) % image.places.len()];
    let number = SIZE.segment_of(at);
    let last = Lsn::new(at.get() | (SIZE.bytes() - 1));
    let name = segment_file_name(image.history.owner(last).number, number, SIZE);
    let path = wal_dir(Path::new(DIR)).join(name);
    if !disk.files().contains(&path) {
        return;
    }
    let before = usize::try_from(at - image.places[0]).expect("a few segments");
    let chained = image.log.get(before + 8..before + 12);
    let chained = chained.map_or(0, |crc| {
        u32::from_le_bytes(crc.try_into().expect("4 bytes"))
    });
    let mut record = forge(input, &image.history, at, chained);
    let len = disk.read_file(&path).len();
    let offset = usize::try_from(SIZE.offset_of(at)).expect("within a segment");
    record.truncate(len.saturating_sub(offset));
    disk.patch_file(&path, offset as u64, &record);
}

/// Writes the control file anew, as it could have been at another time.
fn renote(disk: &SimDisk, input: &mut Input<'_>) {
    let path = control_path(Path::new(DIR));
    let Ok((mut file, mark)) = ControlFile::open(disk, &path) else {
        return;
    };
    let places = &image().places;
    let mut place = || places[usize::from(input.byte()) % places.len()];
    let (watermark, checkpoint, own_from, hint) = (place(), place(), place(), place());
    let bits = input.byte();
    let mut control = Control {
        watermark,
        checkpoint: checkpoint.min(watermark),
        clean: bits & 1 != 0,
        overlapped: bits & 2 != 0,
        ..file.get().clone()
    };
    if bits & 4 != 0 {
        control.own_from = if bits & 8 != 0 { Lsn::MAX } else { own_from };
    }
    if bits & 16 != 0 {
        (control.timeline_number, control.timeline_id) = (3, *timeline(3).id.as_bytes());
    }
    // The disk works, and the lists are short.
    let _ = file.replace(control);
    let mark = crate::control::Watermark {
        flushed: if bits & 32 != 0 { hint } else { mark.flushed },
        failed: bits & 64 != 0,
        ..mark
    };
    let _ = file.note_in_both(mark);
}
