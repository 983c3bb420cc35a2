//! Who writes and who syncs: an appender that finds the log idle, a receiver on its own thread, the
//! writer, and the thread that syncs the pieces of a large group.

use super::*;
use crate::disk::{CrashMode, DiskFault, SimDisk};

fn log_of(wal: &Wal, from: Lsn, to: Lsn) -> Bytes {
    let (mut log, mut all) = (LogBytes::new(wal.clone()), bytes::BytesMut::new());
    while from + (all.len() as u64) < to {
        let at = from + all.len() as u64;
        all.extend_from_slice(&log.read(at, to, 1 << 20).unwrap());
    }
    all.freeze()
}

#[test]
fn what_a_receiver_queues_is_flushed_when_it_has_said_that_it_is_to_be_written() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let primary = create(a.path());
    for text in ["one", "two", "three"] {
        append_flushed(&primary, text);
    }
    let standby = standby_of(&primary, b.path());
    let (begin, end) = (standby.appended(), primary.appended());
    let bytes = log_of(&primary, begin, end);
    // As two messages that come at once: one sync for both.
    let first = standby.queue_raw(begin, &bytes.slice(..100)).unwrap();
    let rest = bytes.slice(usize::try_from(first - begin).unwrap()..);
    assert_eq!(standby.queue_raw(first, &rest).unwrap(), end);
    assert_eq!(standby.flushed().get(), begin, "nobody was told to write");
    // The segment is not begun, which is the writer's work.
    standby.write_queued();
    standby.flushed().wait_blocking(end, None).unwrap();
    let more = append_flushed(&primary, "four").end;
    let bytes = log_of(&primary, end, more);
    standby.queue_raw(end, &bytes).unwrap();
    standby.write_queued();
    assert_eq!(standby.flushed().get(), more, "it returned before");
    assert_same_files(&primary, &standby);
    assert_eq!(texts(&standby, begin).len(), 4);
}

#[test]
fn whoever_needs_the_log_idle_gets_written_what_a_receiver_left_queued() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let primary = create(a.path());
    let end = append_flushed(&primary, "one").end;
    let standby = standby_of(&primary, b.path());
    let begin = standby.appended();
    let bytes = log_of(&primary, begin, end);
    standby.queue_raw(begin, &bytes).unwrap();
    standby.cut(end).unwrap();
    assert_eq!(standby.flushed().get(), end);
}

const SIZE: SegmentSize = match SegmentSize::new(8 << 20) {
    Some(size) => size,
    None => unreachable!(),
};

/// A small transaction, which its appender writes, and one that is written in pieces.
fn small_and_large(wal: &Wal) -> crate::Result<Lsn> {
    let large = vec![put(vec![7; 64 << 10]); 48];
    wal.append(&[put("small")])?;
    let end = wal.append(&large)?.end;
    wal.flushed()
        .wait_blocking(end, None)
        .map_err(|_| wal.poisoned().unwrap_or(Error::Closed))
}

#[test]
fn whichever_call_fails_what_counts_as_flushed_survives_a_power_cut() {
    let options = WalOptions {
        segment_size: SIZE,
        ..WalOptions::new(|| 0)
    };
    let dir = Path::new("/node");
    let mut failures = 0;
    for call in 1.. {
        let disk = SimDisk::new(call);
        let new = NewLog::new_cluster(SIZE);
        let wal = Wal::create(Arc::new(disk.until_crash()), dir, new, &options).unwrap();
        append_flushed(&wal, "first");
        let before = disk.calls();
        disk.fail_call(call, DiskFault::Io);
        let ended = small_and_large(&wal);
        let flushed = wal.flushed().get();
        assert_eq!(ended.as_ref().ok(), ended.is_ok().then_some(&flushed));
        failures += u32::from(ended.is_err());
        let calls = disk.calls() - before;
        drop(wal);
        disk.clear_faults();
        disk.crash(CrashMode::LoseUnsynced);
        let (wal, _) = Wal::open(Arc::new(disk.until_crash()), dir, &options).unwrap();
        assert!(wal.appended() >= flushed, "call {call}: {ended:?}");
        if calls < call {
            break;
        }
    }
    assert!(
        failures > 2,
        "a write, an early sync and the last one at least"
    );
}

/// Whoever has the log for itself may wait for the segment that is being made.
#[test]
fn a_segment_is_made_in_haste_while_somebody_holds_the_queue() {
    let dir = TempDir::new().unwrap();
    let wal = create(dir.path());
    let shared = wal.shared();
    shared.spares.make(false, || true).unwrap();
    assert!(!shared.runs_out_of_segments(), "two segments are ahead");
    let held = shared.queue.lock();
    assert!(shared.runs_out_of_segments());
    drop(held);
    shared.close();
    assert!(shared.runs_out_of_segments(), "and whoever closes it waits");
}

/// The spares are made by the threads of the log, which therefore has none here.
#[test]
fn a_segment_is_made_in_haste_for_an_append_that_waits_for_it() {
    let dir = TempDir::new().unwrap();
    let options = WalOptions {
        driven: true,
        ..options()
    };
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let wal = Wal::create(Arc::new(OsDisk), dir.path(), new, &options).unwrap();
    wal.shared().finish();
    assert!(!wal.shared().runs_out_of_segments());
    let segment = SegmentSize::MIN.bytes();
    wal.shared().queue.lock().wanted_until = wal.appended() + 3 * segment;
    assert!(wal.shared().runs_out_of_segments());
}
