//! The history file of the current timeline: written durably before the control file names it, and
//! read back only as the control file's CRC knows it.
//!
//! A change that is interrupted leaves a file that the control file's CRC fits. What the timelines
//! mean is not known here.

use std::io;
use std::path::Path;

use crate::control::Control;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::timeline::{TimelineHistory, history_file_name};

/// The history file that another one of the same number replaces.
const OLD_HISTORY: &str = "history.old";

/// Largest history file that is read.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// Writes the current timeline's history file durably; timeline 1 has none. One that is there
/// already, of another timeline of this number, is kept until the control file names the new one.
pub(crate) fn write_history(disk: &dyn Disk, wal: &Path, history: &TimelineHistory) -> Result<()> {
    let text = history.to_text();
    if text.is_empty() {
        return Ok(());
    }
    let path = wal.join(history_file_name(history.current().number));
    let unfinished = wal.join("history.tmp");
    let write = || -> io::Result<()> {
        if disk.exists(&unfinished)? {
            disk.remove(&unfinished)?;
        }
        let file = disk.create(&unfinished)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync_data()?;
        if disk.exists(&path)? {
            disk.rename(&path, &wal.join(OLD_HISTORY))?;
            disk.sync_dir(wal)?;
        }
        disk.rename(&unfinished, &path)?;
        disk.sync_dir(wal)
    };
    write().map_err(|source| Error::io("write", &path, source))
}

/// Reads the history of the current timeline. A change that was interrupted may have left it under
/// its old name.
pub(crate) fn read_history(
    disk: &dyn Disk,
    wal: &Path,
    control: &Control,
) -> Result<TimelineHistory> {
    if control.history_crc == crc32fast::hash(b"") {
        let timeline = control.timeline();
        return Ok(TimelineHistory::new(timeline, control.history_begin));
    }
    let named = wal.join(history_file_name(control.timeline_number));
    read_history_file(disk, &named, control).or_else(|error| {
        let old = read_history_file(disk, &wal.join(OLD_HISTORY), control);
        old.map_err(|_| error)
    })
}

/// What the control file holds to tell a history file that was damaged or is another's.
pub(crate) fn history_crc(history: &TimelineHistory) -> u32 {
    crc32fast::hash(history.to_text().as_bytes())
}

fn read_history_file(disk: &dyn Disk, path: &Path, control: &Control) -> Result<TimelineHistory> {
    let timeline = control.timeline();
    let corrupt = |why: String| Error::Corrupt {
        path: path.to_owned(),
        what: "timeline history",
        at: Lsn::ZERO,
        proven: control.watermark,
        why,
    };
    let file = match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(corrupt("the file is missing".to_owned()));
        }
        opened => opened.map_err(|source| Error::io("open", path, source))?,
    };
    let len = file
        .len()
        .map_err(|source| Error::io("inspect", path, source))?;
    if len > HISTORY_BYTES_MAX {
        return Err(corrupt(format!("{len} bytes is too long")));
    }
    let mut bytes = vec![0; usize::try_from(len).expect("bounded")];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|source| Error::io("read", path, source))?;
    let found = crc32fast::hash(&bytes);
    if found != control.history_crc {
        let expected = control.history_crc;
        return Err(corrupt(format!("CRC {found:08x}, expected {expected:08x}")));
    }
    let text = String::from_utf8(bytes).map_err(|_| corrupt("it is not text".to_owned()))?;
    TimelineHistory::parse(&text, timeline, control.history_begin)
        .map_err(|error| corrupt(error.to_string()))
}
