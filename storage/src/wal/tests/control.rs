//! The control file beside the log: nobody who writes or reads log waits for a change of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::append_flushed;
use crate::disk::SimDisk;
use crate::lsn::SegmentSize;
use crate::wal::{NewLog, Wal, WalOptions};

const DIR: &str = "/node";

/// How long a wait may last that must not last.
const PATIENCE: Duration = Duration::from_secs(20);

fn log() -> (SimDisk, Wal) {
    let disk = SimDisk::new(1);
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let options = WalOptions {
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 7)
    };
    let wal = Wal::create(Arc::new(disk.clone()), Path::new(DIR), new, &options).unwrap();
    (disk, wal)
}

/// Begins `change` on a disk that does not sync the control file, and returns once it is under way.
fn begin<T: Send + 'static>(
    disk: &SimDisk,
    wal: &Wal,
    change: impl FnOnce(&Wal) -> T + Send + 'static,
) -> JoinHandle<T> {
    disk.hold_syncs(Path::new(DIR).join("control"));
    let changed = wal.clone();
    let changing = thread::spawn(move || change(&changed));
    while wal.shared().changing.try_lock().is_some() {
        thread::yield_now();
    }
    changing
}

#[test]
fn log_is_flushed_and_committed_while_a_change_waits_for_the_disk() {
    let (disk, wal) = log();
    let before = wal.control().flush_bound;
    let bound = before + 77;
    let changing = begin(&disk, &wal, move |wal| {
        wal.update_control(|control| control.flush_bound = bound)
    });
    let end = append_flushed(&wal, "beside").end;
    assert_eq!(wal.commit().wait_blocking(end, Some(PATIENCE)), Ok(end));
    assert_eq!(wal.control().flush_bound, before, "it does not count");
    disk.release_syncs();
    changing.join().unwrap().unwrap();
    assert_eq!(wal.control().flush_bound, bound);
}

#[test]
fn configurations_are_appended_while_a_checkpoint_waits_for_the_disk() {
    let (disk, wal) = log();
    let [first, passed] = ["first", "passed"].map(|text| wal.append_config(text.into()).unwrap());
    let durable = append_flushed(&wal, "entry").end;
    let checkpoint = begin(&disk, &wal, move |wal| wal.checkpoint(durable));
    let (tell, told) = mpsc::channel();
    let appending = wal.clone();
    let appender = thread::spawn(move || {
        let appended = appending.append_config("newer".into());
        tell.send(appended.unwrap()).unwrap();
    });
    let newer = told.recv_timeout(PATIENCE).expect("nobody holds it up");
    appender.join().unwrap();
    disk.release_syncs();
    checkpoint.join().unwrap().unwrap();
    let control = wal.control();
    assert_eq!(
        (control.config_lsn, &*control.config),
        (passed.end, &b"passed"[..])
    );
    assert_eq!(wal.config(), ("newer".into(), newer.end));
    assert_eq!(
        wal.binding_configs(first.end),
        [("passed".into(), passed.end), ("newer".into(), newer.end)]
    );
}

#[test]
fn of_changes_at_the_same_time_none_is_lost() {
    let (_disk, wal) = log();
    let before = wal.control().flush_bound;
    let changers = [(); 4].map(|()| {
        let wal = wal.clone();
        thread::spawn(move || {
            for _ in 0..16 {
                wal.update_control(|control| control.flush_bound = control.flush_bound + 1)
                    .unwrap();
            }
        })
    });
    for changer in changers {
        changer.join().unwrap();
    }
    assert_eq!(wal.control().flush_bound, before + 64);
}
