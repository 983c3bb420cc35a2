//! The end of a log, and changes that need it idle, while others append and wait.

use uuid::Uuid;

use super::explore;
use super::stage::{PAYLOAD, append, begun, open, put};
use crate::entry::{WalEntry, WalEntryType};
use crate::error::Error;
use crate::lsn::Lsn;
use crate::signal::WaitError;
use crate::sync::thread::{self, JoinHandle};
use crate::timeline::Timeline;
use crate::wal::Wal;

/// Appends until it is told that the log is closed, and returns where the last record ended.
fn appender(wal: &Wal) -> JoinHandle<Lsn> {
    let wal = wal.clone();
    thread::spawn(move || {
        let mut end = wal.oldest();
        for _ in 0..3 {
            match wal.append(&[put(vec![b'a'; PAYLOAD])]) {
                Ok(range) => end = range.end,
                Err(Error::Closed) => break,
                Err(other) => panic!("{other}"),
            }
        }
        end
    })
}

fn beyond(wal: &Wal) -> JoinHandle<Result<Lsn, WaitError>> {
    let wal = wal.clone();
    thread::spawn(move || wal.flushed().wait_blocking(Lsn::MAX, None))
}

#[test]
fn a_close_ends_all_waits_and_keeps_all_that_was_appended() {
    explore(|| {
        let (disk, wal) = begun(1 << 20);
        let waiter = beyond(&wal);
        let appenders = [appender(&wal), appender(&wal)];
        wal.close().unwrap();
        let ends = appenders.map(|appender| appender.join().unwrap());
        assert_eq!(waiter.join().unwrap(), Err(WaitError::Closed));
        assert!(matches!(wal.append(&[put("late")]), Err(Error::Closed)));
        let end = wal.appended();
        assert!(ends.into_iter().all(|appended| appended <= end));
        assert_eq!(wal.flushed().get(), end);
        drop(wal);
        let wal = open(&disk, 1 << 20);
        assert!(wal.was_clean());
        assert_eq!(wal.appended(), end);
        wal.stop();
    });
}

#[test]
fn two_who_stop_a_log_and_one_who_lets_go_of_it_end_every_wait() {
    explore(|| {
        let (_disk, wal) = begun(1 << 20);
        let waiter = beyond(&wal);
        let appender = appender(&wal);
        let stopper = thread::spawn({
            let wal = wal.clone();
            move || wal.stop()
        });
        wal.stop();
        drop(wal);
        stopper.join().unwrap();
        appender.join().unwrap();
        assert_eq!(waiter.join().unwrap(), Err(WaitError::Closed));
    });
}

#[test]
fn a_timeline_begins_between_the_units_of_appenders() {
    explore(|| {
        let (_disk, wal) = begun(1 << 20);
        let from = wal.appended();
        let appenders = [1, 2].map(|tx| {
            let wal = wal.clone();
            thread::spawn(move || {
                let _unit = wal.unit();
                let entry = |entry_type| [WalEntry::new(entry_type, Some(tx), "")];
                wal.append(&entry(WalEntryType::TxBegin)).unwrap();
                wal.append(&entry(WalEntryType::TxCommit)).unwrap();
            })
        });
        let (number, id) = (2, Uuid::from_u128(3));
        let (fork, opened) = wal
            .begin_timeline(Timeline { number, id }, "a test", &[])
            .unwrap();
        append(&wal, b'a');
        for appender in appenders {
            appender.join().unwrap();
        }
        let end = wal.appended();
        wal.flushed().wait_blocking(end, None).unwrap();
        let mut reader = wal.reader(from).unwrap();
        let mut open = 0;
        while let Some((entry, next)) = reader.next_entry(end).unwrap() {
            match entry.entry_type {
                WalEntryType::TxBegin => open += 1,
                WalEntryType::TxCommit => open -= 1,
                WalEntryType::NewTimeline => {
                    assert_eq!((entry.lsn, next, open), (fork, opened, 0));
                }
                _ => {}
            }
        }
        wal.close().unwrap();
    });
}
