//! The files of a data directory other than the log, and what entries of the log hold.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::Input;
use crate::control::ControlFile;
use crate::disk::{Disk, SimDisk};
use crate::lsn::Lsn;
use crate::store::{Change, KEY_MAX, MemoryStore, Store, VALUE_MAX};
use crate::timeline::{HISTORY_ENTRIES_MAX, Timeline, TimelineHistory};

/// Where the second slot and the watermarks of a control file begin, and how long its head is.
const SLOT: usize = 32 << 10;
const WATERMARKS: usize = 64 << 10;
const SLOT_HEAD: usize = 28;

/// A control file: any bytes, or slots whose bodies are any bytes.
pub(super) fn control(data: &[u8]) {
    let mut input = Input::new(data);
    let path = Path::new("/control");
    let disk = SimDisk::new(1);
    let file = match input.byte() % 4 {
        0 => input.rest().to_vec(),
        mixed => {
            let mut file = vec![0; WATERMARKS + 1024];
            for at in [0, SLOT].into_iter().take(usize::from(mixed.min(2))) {
                let version = input.one_of(&[3, 3, 3, 2, 4]);
                let generation = u64::from(input.byte());
                let body = input.sized();
                let slot = slot(version, generation, body);
                file[at..at + slot.len()].copy_from_slice(&slot);
            }
            for at in [0, 512] {
                let mark = watermark(input.u64(), input.u64(), input.u32(), input.u32());
                file[WATERMARKS + at..][..mark.len()].copy_from_slice(&mark);
            }
            file
        }
    };
    disk.write_file(path, &file);
    let Ok((opened, mark)) = ControlFile::open(&disk, path) else {
        assert_eq!(disk.read_file(path), file, "refused and changed");
        return;
    };
    let (mut opened, before) = (opened, opened_state(&disk));
    assert_eq!(disk.read_file(path), file, "changed by looking");
    // What was read is durable again after it is written, with what was noted before.
    opened
        .replace(before.0.clone())
        .expect("what was read can be written");
    assert_eq!(opened_state(&disk), (before.0, mark));
}

fn opened_state(disk: &SimDisk) -> (crate::Control, crate::control::Watermark) {
    let (file, mark) = ControlFile::open(disk, Path::new("/control")).expect("a valid slot");
    (file.get().clone(), mark)
}

/// A slot of the control file around any body, as `control.rs` draws it.
fn slot(version: u32, generation: u64, body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(SLOT - SLOT_HEAD)];
    let mut slot = b"MAINSCTL".to_vec();
    slot.extend_from_slice(&version.to_le_bytes());
    slot.extend_from_slice(&(body.len() as u64).to_le_bytes()[..4]);
    slot.extend_from_slice(&generation.to_le_bytes());
    let crc = crc32fast::hash(&[&slot[..], body].concat());
    slot.extend_from_slice(&crc.to_le_bytes());
    slot.extend_from_slice(body);
    slot
}

fn watermark(flushed: u64, commit: u64, timeline: u32, failed: u32) -> Vec<u8> {
    let mut mark = Vec::new();
    mark.extend_from_slice(&flushed.to_le_bytes());
    mark.extend_from_slice(&commit.to_le_bytes());
    mark.extend_from_slice(&timeline.to_le_bytes());
    mark.extend_from_slice(&failed.to_le_bytes());
    let crc = crc32fast::hash(&mark);
    mark.extend_from_slice(&crc.to_le_bytes());
    mark
}

/// The history of a timeline, as a peer or a file has it.
pub(super) fn history(data: &[u8]) {
    let mut input = Input::new(data);
    let current = Timeline {
        number: u32::from(input.u16()),
        id: Uuid::from_u128(u128::from(input.byte())),
    };
    let begin = Lsn::new(u64::from(input.u32()));
    let (ours, theirs) = (Lsn::new(input.u64()), Lsn::new(input.u64()));
    let Ok(text) = std::str::from_utf8(input.rest()) else {
        return;
    };
    let Ok(history) = TimelineHistory::parse(text, current, begin) else {
        return;
    };
    let spans = history.spans();
    assert!(spans.len() <= HISTORY_ENTRIES_MAX.min(1 + text.len() / 64));
    assert!(
        spans
            .windows(2)
            .all(|pair| pair[0].timeline.number < pair[1].timeline.number
                && pair[0].begin <= pair[1].begin)
    );
    assert_eq!(history.current(), current);
    let again = TimelineHistory::parse(&history.to_text(), current, begin);
    assert_eq!(again.as_ref(), Ok(&history), "written and read back");
    for span in spans {
        let until = history.until(span.timeline.number).expect("its own");
        assert!(until.is_prefix_of(&history) && until.current() == span.timeline);
        let common = until.common_point(ours, &history, theirs);
        let common = common.expect("one continues the other");
        assert!(common <= ours && common <= theirs);
        // Below it every byte has one owner.
        if let Some(last) = common.get().checked_sub(1).map(Lsn::new) {
            assert_eq!(until.owner(last), history.owner(last));
        }
    }
    assert!(history.reached(ours).is_prefix_of(&history));
}

/// An entry's change of a store, decoded with bincode.
pub(super) fn change(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let Ok(change) = Change::decode(&data) else {
        return;
    };
    let len = match &change {
        Change::Put { key, value, .. } => key.len() + value.len(),
        Change::Delete { key, .. } => key.len(),
        Change::CreateTable { name, .. } => name.len(),
    };
    assert!(len <= data.len() && len <= KEY_MAX + VALUE_MAX);
    let encoded = change.encode();
    assert_eq!(Change::decode(&encoded).as_ref().ok(), Some(&change));
    // A number has longer forms than its shortest one; everything else has one form.
    assert!(encoded.len() <= data.len());
}

/// A copy of a memory store, whose checksum is right.
pub(super) fn memory_copy(data: &[u8]) {
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut input = Input::new(data);
    let position = Lsn::new(u64::from(input.u32()));
    let rows = u64::from(input.u16());
    let mut file = b"MAINSTAY".to_vec();
    file.extend_from_slice(&u32::from(input.byte()).to_le_bytes());
    file.extend_from_slice(&position.get().to_le_bytes());
    file.extend_from_slice(&rows.to_le_bytes());
    file.extend_from_slice(input.rest());
    let crc = crc32fast::hash(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    disk.write_file("/0/memory-store", &file);
    let Ok(mut store) = MemoryStore::open_snapshot(shared.clone(), Path::new("/0")) else {
        return;
    };
    // A copy of a copy is the same, and so is one of that.
    let copies = ["/1", "/2"].map(|into| {
        assert_eq!(store.applied(), position);
        shared.create_dir(Path::new(into)).expect("an empty disk");
        let copied = store.snapshot(Path::new(into)).expect("an empty disk");
        assert_eq!(copied, position);
        store = MemoryStore::open_snapshot(shared.clone(), Path::new(into)).expect("a copy");
        disk.read_file(Path::new(into).join("memory-store"))
    });
    assert_eq!(copies[0], copies[1]);
    assert_eq!(copies[0][..28], file[..28]);
    assert!(copies[0].len() <= file.len());
}
