//! The bytes of one of the control file's two slots, and which of the two counts.
//!
//! Only a slot that is valid as a whole is read, and an older state never passes for the newest.
//! What the [`Control`] inside means, and when a slot is written, is not known here.

use std::path::Path;

use super::{CONTROL_BODY_MAX, CONTROL_VERSION, Control, SLOT_LEN};
use crate::disk::DiskFile;
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"MAINSCTL";

/// Bytes of a slot before its body.
pub(super) const SLOT_HEAD_LEN: usize = 28;

pub(super) fn codec() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_fixed_int_encoding()
        .with_limit::<{ 128 << 10 }>()
}

pub(super) fn encode_slot(generation: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("bounded by the slot");
    let mut slot = Vec::with_capacity(SLOT_HEAD_LEN + body.len());
    slot.extend_from_slice(&MAGIC);
    slot.extend_from_slice(&CONTROL_VERSION.to_le_bytes());
    slot.extend_from_slice(&length.to_le_bytes());
    slot.extend_from_slice(&generation.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot);
    hasher.update(body);
    slot.extend_from_slice(&hasher.finalize().to_le_bytes());
    slot.extend_from_slice(body);
    slot
}

/// Why a slot does not count.
#[derive(Debug)]
enum BadSlot {
    /// Its bytes are no slot, as after a write that was cut short.
    Torn,
    /// A newer version wrote it.
    Version(u32),
    Io(std::io::Error),
}

impl From<std::io::Error> for BadSlot {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Torn,
            _ => Self::Io(error),
        }
    }
}

/// The newest valid slot and its generation; one more where only the copy of a slot is left, so
/// that the next change goes to the damaged one. Fails as
/// [`ControlFile::open`](super::ControlFile::open) does.
pub(super) fn newest_slot(file: &dyn DiskFile, path: &Path) -> Result<Option<(u64, Control)>> {
    let mut newest = None;
    for index in [0, 1] {
        match read_slot(file, index * SLOT_LEN) {
            Ok((generation, control)) => {
                let place = (generation, generation % 2 == index);
                let newer = newest.filter(|(best, _)| *best > place);
                newest = newer.or(Some((place, control)));
            }
            Err(BadSlot::Torn) => {}
            // The other slot may hold an older state, which must not pass for the newest.
            Err(BadSlot::Io(source)) => return Err(Error::io("read", path, source)),
            Err(BadSlot::Version(found)) => {
                return Err(Error::Format {
                    path: path.to_owned(),
                    found,
                    supported: CONTROL_VERSION,
                });
            }
        }
    }
    Ok(newest.map(|((generation, first), control)| (generation + u64::from(!first), control)))
}

fn read_slot(file: &dyn DiskFile, at: u64) -> Result<(u64, Control), BadSlot> {
    let mut head = [0; SLOT_HEAD_LEN];
    file.read_exact_at(&mut head, at)?;
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
    let length = u32_at(12) as usize;
    if head[0..8] != MAGIC || length > CONTROL_BODY_MAX {
        return Err(BadSlot::Torn);
    }
    let mut body = vec![0; length];
    file.read_exact_at(&mut body, at + SLOT_HEAD_LEN as u64)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..24]);
    hasher.update(&body);
    if hasher.finalize() != u32_at(24) {
        return Err(BadSlot::Torn);
    }
    if u32_at(8) != CONTROL_VERSION {
        return Err(BadSlot::Version(u32_at(8)));
    }
    let generation = u64::from_le_bytes(head[16..24].try_into().expect("8 bytes"));
    match bincode::decode_from_slice(&body, codec()) {
        Ok((control, read)) if read == body.len() => Ok((generation, control)),
        _ => Err(BadSlot::Torn),
    }
}
