//! Log of another node that is written from where it lies, and machines that stop meanwhile.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::disk::{CrashMode, SimDisk};
use crate::entry::{WalEntry, WalEntryType};
use crate::lsn::{Lsn, SegmentSize};
use crate::wal::segment::segment_file_name;
use crate::wal::{LogBytes, NewLog, Recovered, Wal, WalOptions};

const DIR: &str = "/node";

/// Bytes of the messages, taken in turn: both ways of writing, alone and behind each other.
const MESSAGES: [usize; 6] = [300_000, 70_000, 5_000, 900, 65_536, 150_000];

fn options() -> WalOptions {
    WalOptions {
        driven: true,
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 7)
    }
}

fn open(disk: &SimDisk) -> (Wal, Recovered) {
    let disk = Arc::new(disk.clone());
    Wal::open(disk, Path::new(DIR), &options()).expect("it opens after any end")
}

/// A log of eight segments.
fn primary() -> Wal {
    let disk = Arc::new(SimDisk::new(1));
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let wal = Wal::create(disk, Path::new(DIR), new, &options()).unwrap();
    let segment = SegmentSize::MIN.bytes();
    for n in 0_usize.. {
        let data = vec![n as u8 | 1; n * 7919 % 200_000];
        let entry = WalEntry::new(WalEntryType::Insert, None, data);
        let end = wal.append(&[entry]).unwrap().end;
        if end.get() > 9 * segment {
            break;
        }
    }
    while wal.drive() {}
    wal
}

/// Sends the log up to `upto`, and returns what of it the standby was heard to have flushed when
/// it was through or had stopped.
fn send(primary: &Wal, standby: &Wal, upto: Lsn) -> Lsn {
    let mut log = LogBytes::new(primary.clone());
    let (mut at, mut carry) = (standby.appended(), Vec::new());
    let mut sizes = MESSAGES.iter().cycle();
    while at + (carry.len() as u64) < upto && standby.poisoned().is_none() {
        let most = carry.len() + sizes.next().unwrap();
        while carry.len() < most && at + (carry.len() as u64) < upto {
            let more = log.read(at + carry.len() as u64, upto, most - carry.len());
            carry.extend_from_slice(&more.unwrap());
        }
        let Ok(end) = standby.append_raw(at, &Bytes::copy_from_slice(&carry)) else {
            break;
        };
        carry.drain(..usize::try_from(end - at).unwrap());
        at = end;
        while standby.drive() {}
    }
    standby.flushed().get()
}

fn same(primary: &Wal, standby: &Wal) {
    let (mut left, mut right) = (
        LogBytes::new(primary.clone()),
        LogBytes::new(standby.clone()),
    );
    let (mut at, end) = (standby.oldest(), standby.flushed().get());
    while at < end {
        let bytes = right.read(at, end, 1 << 20).unwrap();
        let mut same = Vec::new();
        while same.len() < bytes.len() {
            let more = left.read(at + same.len() as u64, end, bytes.len() - same.len());
            same.extend_from_slice(&more.unwrap());
        }
        assert!(bytes == same, "other bytes at or after {at}");
        at = at + bytes.len() as u64;
    }
}

/// Whether a process that is killed leaves zeros behind the log, in a file that was used before.
fn ends_in_zeros(disk: &SimDisk, end: Lsn) -> bool {
    let size = SegmentSize::MIN;
    let offset = usize::try_from(size.offset_of(end)).unwrap();
    let name = segment_file_name(1, size.segment_of(end), size);
    let file = match offset {
        // The segment has not begun.
        0 => return true,
        _ => disk.read_file(Path::new(DIR).join("wal").join(name)),
    };
    file[offset..].iter().take(32).all(|byte| *byte == 0)
}

#[test]
fn much_log_of_another_node_stays_whole_whenever_its_machine_or_process_stops() {
    let primary = primary();
    let disk = SimDisk::new(2);
    let new = NewLog {
        system_id: primary.identity().system_id,
        node_id: Uuid::from_u128(2),
        history: (*primary.history()).clone(),
        begin: primary.oldest(),
        checkpoint: primary.oldest(),
        own: false,
        store_created: false,
    };
    let standby = Wal::create(Arc::new(disk.clone()), Path::new(DIR), new, &options()).unwrap();
    // What follows goes into files that were used before.
    let (half, end) = (Lsn::new(5 << 20), primary.flushed().get());
    let half = send(&primary, &standby, half);
    standby.advance_commit(half);
    standby.checkpoint(half).unwrap();
    standby.remove_below(half).unwrap();
    standby.stop();
    drop(standby);
    disk.crash(CrashMode::KeepAll);
    let begun = {
        let whole = disk.copy();
        let (standby, _) = open(&whole);
        let before = whole.calls();
        assert_eq!(send(&primary, &standby, end), end);
        same(&primary, &standby);
        whole.calls() - before
    };
    assert!(begun > 40, "only {begun} calls");
    for call in 0..begun {
        for (n, mode) in [
            CrashMode::KeepAll,
            CrashMode::LoseUnsynced,
            CrashMode::Random,
            CrashMode::Nasty,
        ]
        .into_iter()
        .enumerate()
        {
            let disk = disk.copy();
            disk.reseed(call * 10 + n as u64);
            let (standby, _) = open(&disk);
            disk.cut_power_after(call);
            let heard = send(&primary, &standby, end);
            standby.stop();
            drop(standby);
            disk.crash(mode.clone());
            let found = disk.copy();
            let (standby, recovered) = open(&disk);
            let case = format!("{mode:?} after call {call}");
            assert!(
                recovered.end >= heard,
                "{case}: {} left of {heard}",
                recovered.end
            );
            if n == 0 {
                assert!(ends_in_zeros(&found, recovered.end), "{case}");
            }
            same(&primary, &standby);
            assert_eq!(send(&primary, &standby, end), end, "{case}");
            same(&primary, &standby);
        }
    }
}
