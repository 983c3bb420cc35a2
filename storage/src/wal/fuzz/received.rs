//! Log that a peer sent, to a standby and in a base backup.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::image::{SYSTEM_ID, create, forge, image, options};
use super::{DIR, SIZE, check_log};
use crate::disk::SimDisk;
use crate::fuzz::Input;
use crate::lsn::Lsn;
use crate::wal::{LogCheck, Wal};

/// Most pieces that are sent.
const PIECES_MAX: usize = 12;

/// What a standby, and whoever checks a backup, makes of log in pieces.
pub(crate) fn received(data: &[u8]) {
    let mut input = Input::new(data);
    let image = image();
    let disk = standby().copy();
    let (wal, _) = Wal::open(Arc::new(disk.clone()), Path::new(DIR), &options())
        .expect("a standby that was closed");
    let begin = wal.appended();
    let mut check = LogCheck::new(SYSTEM_ID, image.history.clone(), SIZE, begin);
    let (mut held, mut sent) = (Vec::new(), 0);
    for _ in 0..PIECES_MAX {
        if input.is_empty() {
            break;
        }
        let at = wal.appended();
        let piece = piece(&mut input, &wal, &held, sent);
        sent += piece.len();
        let before = held.len();
        held.extend_from_slice(&piece);
        let taken = wal.append_raw(at, &Bytes::copy_from_slice(&held));
        let checked = check.take(&piece);
        let Ok(end) = taken else {
            assert_eq!(wal.appended(), at, "refused, and appended");
            assert!(checked.is_err(), "a backup may hold it, a standby not");
            break;
        };
        assert!(
            checked.is_ok(),
            "a standby takes it, a backup may not hold it"
        );
        assert!(
            end <= check.end() && check.end() - end < 32,
            "taken otherwise"
        );
        held.drain(..usize::try_from(end - at).expect("a few pieces"));
        assert!(held.len() <= before + piece.len());
        while wal.drive() {}
    }
    let end = wal.flushed().get();
    assert_eq!(end, wal.appended());
    let history = wal.history();
    check_log(&disk, SYSTEM_ID, &history, begin, end);
    drop(wal);
    let (_, recovered) = Wal::open(Arc::new(disk), Path::new(DIR), &options())
        .expect("what was received and flushed");
    assert_eq!((recovered.end, recovered.torn), (end, None));
}

/// A standby that holds no log yet.
fn standby() -> &'static SimDisk {
    static STANDBY: OnceLock<SimDisk> = OnceLock::new();
    STANDBY.get_or_init(|| {
        let disk = SimDisk::new(1);
        let wal = create(&disk, false, image().history.clone());
        wal.close().expect("a disk that works");
        disk
    })
}

/// The next bytes of a peer: genuine log, any bytes, or a record of its own making.
fn piece(input: &mut Input<'_>, wal: &Wal, held: &[u8], sent: usize) -> Vec<u8> {
    let log = &image().log;
    let genuine = |from: usize, len: usize| {
        let from = from.min(log.len());
        log[from..log.len().min(from + len)].to_vec()
    };
    match input.byte() % 6 {
        0 => genuine(sent, usize::from(input.u16())),
        1 => genuine(sent, usize::MAX / 2),
        2 => genuine(input.below(log.len()), usize::from(input.u16())),
        3 => input.sized().to_vec(),
        4 => {
            let mut bytes = genuine(sent, usize::from(input.u16()));
            if let Some(byte) = bytes.last_mut() {
                *byte ^= input.byte();
            }
            bytes
        }
        _ => {
            let at = wal.appended();
            let place = at + held.len() as u64;
            let previous = last_crc(wal, at);
            forge(input, &wal.history(), place, previous)
        }
    }
}

/// CRC of the last record of the log.
fn last_crc(wal: &Wal, end: Lsn) -> u32 {
    let file = wal.shared().file.lock();
    assert_eq!(file.end.lsn, end, "not driven to its end");
    file.end.prev_crc.unwrap_or(0)
}
