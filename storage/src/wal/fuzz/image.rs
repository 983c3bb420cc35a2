//! Logs that the targets begin with, and records as somebody else could have written them.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use uuid::Uuid;

use super::{DIR, SIZE};
use crate::disk::SimDisk;
use crate::entry::{WalEntry, WalEntryType};
use crate::fuzz::Input;
use crate::lsn::Lsn;
use crate::timeline::{Timeline, TimelineHistory};
use crate::wal::record::{PayloadCrc, Place, RecordHead, record_len, seal};
use crate::wal::{LogFiles, NewLog, Wal, WalOptions};

/// The cluster of every log here.
pub(super) const SYSTEM_ID: u64 = 42;

/// A log on a disk, and its records.
pub(super) struct Image {
    pub(super) disk: SimDisk,
    pub(super) history: TimelineHistory,
    /// Where records begin, and where the last one ends.
    pub(super) places: Vec<Lsn>,
    /// All bytes of the log, from its begin on.
    pub(super) log: Vec<u8>,
}

pub(super) fn options() -> WalOptions {
    WalOptions {
        segment_size: SIZE,
        tail_bytes: 1 << 20,
        driven: true,
        ..WalOptions::new(|| 7)
    }
}

pub(super) fn timeline(number: u32) -> Timeline {
    let id = Uuid::from_u128(u128::from(number));
    Timeline { number, id }
}

/// Creates a log that is the same every time.
pub(super) fn create(disk: &SimDisk, own: bool, history: TimelineHistory) -> Wal {
    let new = NewLog {
        system_id: SYSTEM_ID,
        node_id: Uuid::from_u128(1),
        history,
        own,
        ..NewLog::new_cluster(SIZE)
    };
    let wal = Wal::create(Arc::new(disk.clone()), Path::new(DIR), new, &options());
    let wal = wal.expect("an empty disk");
    wal.update_control(|control| control.incarnation = [2; 16])
        .expect("a disk that works");
    wal
}

/// Three segments, a promotion in the second one, and a few records at the end; all flushed, and
/// not closed.
pub(super) fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let disk = SimDisk::new(1);
        let history = TimelineHistory::new(timeline(1), SIZE.first_lsn());
        let wal = create(&disk, true, history);
        let flush = |wal: &Wal| while wal.drive() {};
        for n in 0..8 {
            put(&wal, n, 200_000);
            put(&wal, n, 40);
            flush(&wal);
            if n == 5 {
                let also = [WalEntry::new(WalEntryType::Config, None, "a configuration")];
                wal.begin_timeline(timeline(2), "fuzzing", &also)
                    .expect("a number that climbs");
            }
        }
        for n in 0..6 {
            put(&wal, n, 100 * usize::from(n));
            flush(&wal);
        }
        let history = (*wal.history()).clone();
        drop(wal);
        let (places, log) = contents(&disk);
        Image {
            disk,
            history,
            places,
            log,
        }
    })
}

fn put(wal: &Wal, n: u8, len: usize) {
    // Mostly zeros, which recovery skips where it has to look at every place.
    let mut payload = vec![0; len];
    payload[..len.min(64)].fill(n + 1);
    let entry = WalEntry::new(WalEntryType::Insert, Some(u64::from(n)), payload);
    wal.append(&[entry]).expect("a disk that works");
}

/// Where records begin and end in the log on `disk`, and its bytes.
fn contents(disk: &SimDisk) -> (Vec<Lsn>, Vec<u8>) {
    let files = LogFiles::read(Arc::new(disk.clone()), Path::new(DIR)).expect("a whole log");
    let mut records = files.records(Lsn::ZERO);
    let (mut places, mut end) = (Vec::new(), Lsn::ZERO);
    while let Some(record) = records.next_record().expect("a disk that works") {
        places.push(record.lsn);
        end = record.end;
    }
    places.push(end);
    let mut log = Vec::new();
    for file in files.segments() {
        log.extend_from_slice(&disk.read_file(Path::new(DIR).join("wal").join(file.name)));
    }
    log.truncate(usize::try_from(end - places[0]).expect("a few segments"));
    (places, log)
}

/// A valid record at `lsn`, as a writer of that log could have put it there, or nearly valid.
pub(super) fn forge(
    input: &mut Input<'_>,
    history: &TimelineHistory,
    lsn: Lsn,
    previous: u32,
) -> Vec<u8> {
    let kinds = [1, 1, 4, 5, 6, 7, 64, 65, 66, 67];
    let kind = WalEntryType::from_number(input.one_of(&kinds)).expect("a known type");
    let lies = input.byte();
    let head = RecordHead {
        entry_type: kind,
        flags: lies >> 6,
        tx_id: u64::from(input.byte()),
        flushed_upto: Lsn::new(match lies & 1 {
            0 => lsn.get() - u64::from(input.byte()),
            _ => input.u64(),
        }),
    };
    let place = Place {
        system_id: SYSTEM_ID ^ u64::from(lies >> 1 & 1),
        timeline: match lies >> 2 & 3 {
            3 => timeline(3),
            _ => history.owner(lsn),
        },
        lsn,
    };
    let previous = match lies >> 4 & 3 {
        3 => input.u32(),
        _ => previous,
    };
    let payload = input.sized();
    let (header, _) = seal(&place, previous, &head, payload, &PayloadCrc::of(payload));
    let mut record = [&header[..], payload].concat();
    record.resize(record_len(payload.len()), 0);
    record
}
