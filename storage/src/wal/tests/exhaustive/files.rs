//! Whole files that are missing, cut, extended, exchanged, or another's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::bench::{CONTROL, DIR, HINTS, SIZE, WAL};
use super::stage::{create, entries, flushed, open, options, timeline};
use crate::control::Control;
use crate::disk::{Disk, SimDisk};
use crate::entry::WalEntryType;
use crate::error::Error;
use crate::lsn::Lsn;
use crate::wal::record::{PayloadCrc, RECORD_HEADER_LEN, RecordHead, seal};
use crate::wal::scan::{Owner, Scan, Step};
use crate::wal::segment::{SegmentHeader, segment_file_name};
use crate::wal::{NewLog, Wal};

const HISTORY: &str = "/db/wal/00000002.history";

/// A log at rest, everything of which is needed, and what is to be found in it.
pub(super) struct Log {
    pub(super) disk: SimDisk,
    entries: Vec<(Lsn, Bytes)>,
    owner: Arc<Owner>,
    pub(super) end: Lsn,
    control: Control,
}

/// Four segments, and a promotion within the second.
fn log(closed: bool) -> Log {
    let disk = SimDisk::new(1);
    let wal = create(disk.clone());
    for n in 0..5 {
        flushed(&wal, vec![n; 240_000]);
    }
    wal.open_timeline(timeline(2, 2), "test").unwrap();
    for n in 5..14 {
        flushed(&wal, vec![n; 240_000]);
    }
    let end = flushed(&wal, "the last one");
    assert_eq!(SIZE.segment_of(end), 4);
    Log::of(wal, disk, closed)
}

pub(super) fn segment(timeline: u32, number: u64) -> PathBuf {
    Path::new(WAL).join(segment_file_name(timeline, number, SIZE))
}

/// The files that make up the log.
fn parts() -> [PathBuf; 4] {
    [segment(1, 1), segment(2, 2), segment(2, 3), segment(2, 4)]
}

fn snapshot(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = disk.files().into_iter();
    files
        .map(|path| (path.clone(), disk.read_file(&path)))
        .collect()
}

/// What opening must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Corrupt,
    Format,
    Io,
    /// The same log as before.
    Same,
}

/// What a node is bound by, without what opening the log changes.
fn bound(control: &Control) -> Control {
    Control {
        clean: false,
        watermark: Lsn::ZERO,
        ..control.clone()
    }
}

impl Log {
    /// What `wal` holds on `disk`, once it is stopped.
    pub(super) fn of(wal: Wal, disk: SimDisk, closed: bool) -> Self {
        let log = Self {
            disk,
            entries: entries(&wal),
            owner: wal.shared().owner.read().clone(),
            end: wal.flushed().get(),
            control: bound(&wal.control()),
        };
        if closed {
            wal.close().unwrap();
        }
        log
    }

    /// Opens the log after `change`, which must be answered so. What it refuses it leaves alone;
    /// what it opens is the same as before, and goes on.
    pub(super) fn expect(&self, answer: Answer, case: &str, change: impl FnOnce(&SimDisk)) {
        let disk = self.disk.copy();
        change(&disk);
        let before = snapshot(&disk);
        let given = match open(disk.clone()) {
            Ok((wal, recovered)) => {
                assert_eq!(recovered.end, self.end, "{case}");
                assert!(entries(&wal) == self.entries, "{case}: other entries");
                assert_eq!(bound(&wal.control()), self.control, "{case}");
                flushed(&wal, "goes on");
                Answer::Same
            }
            Err(error) => {
                assert!(
                    snapshot(&disk) == before,
                    "{case}: changed files after {error}"
                );
                assert!(
                    error.to_string().contains(DIR),
                    "{case}: names no file: {error}"
                );
                match error {
                    Error::Corrupt { .. } => Answer::Corrupt,
                    Error::Format { found: 9, .. } => Answer::Format,
                    Error::Io { .. } => Answer::Io,
                    error => panic!("{case}: {error}"),
                }
            }
        };
        assert_eq!(given, answer, "{case}");
    }

    /// Every change to a single segment, and to two of them.
    fn segments_are_exchanged(&self) {
        let parts = parts();
        let other = log(true).disk;
        for (n, path) in parts.iter().enumerate() {
            let bytes = self.disk.read_file(path);
            let case = |what: &str| format!("{what} segment {}", n + 1);
            let corrupt = |what: &str, change: &dyn Fn(&SimDisk)| {
                self.expect(Answer::Corrupt, &case(what), change);
            };
            corrupt("missing", &|disk| disk.remove_file(path));
            corrupt("empty", &|disk| disk.write_file(path, &[]));
            corrupt("short", &|disk| disk.write_file(path, &bytes[..100]));
            corrupt("cut", &|disk| disk.write_file(path, &bytes[..200_000]));
            corrupt("zeroed", &|disk| {
                disk.write_file(path, &vec![0; bytes.len()])
            });
            corrupt("flipped header of", &|disk| disk.flip_bit(path, 45 * 8));
            corrupt("flipped", &|disk| disk.flip_bit(path, 180_000 * 8 + 3));
            corrupt("foreign", &|disk| {
                disk.write_file(path, &other.read_file(path))
            });
            let unreadable = |disk: &SimDisk| disk.fail_reads(path, 100_000);
            self.expect(Answer::Io, &case("unreadable"), unreadable);
            let directory = |disk: &SimDisk| {
                disk.remove_file(path);
                disk.create_dir(path).unwrap();
            };
            self.expect(Answer::Io, &case("a directory as"), directory);
            self.expect(Answer::Same, &case("extended"), |disk| {
                disk.write_file(path, &[&bytes[..], &[0xA5; 5000]].concat());
            });
            for (m, rival) in parts.iter().enumerate().skip(n + 1) {
                let exchanged = format!("segments {} and {} exchanged", n + 1, m + 1);
                self.expect(Answer::Corrupt, &exchanged, |disk| {
                    disk.write_file(path, &disk.read_file(rival));
                    disk.write_file(rival, &bytes);
                });
            }
        }
        self.expect(Answer::Corrupt, "the last two segments missing", |disk| {
            parts[2..].iter().for_each(|path| disk.remove_file(path));
        });
    }

    /// Files that do not belong to the log change nothing in it.
    fn strangers_are_left_out(&self) {
        for (n, path) in parts().iter().enumerate() {
            let bytes = self.disk.read_file(path);
            for stranger in [segment(2, 5), segment(2, 9), segment(1, 3), segment(7, 2)] {
                let case = format!("segment {} copied to {}", n + 1, stranger.display());
                self.expect(Answer::Same, &case, |disk| {
                    disk.write_file(&stranger, &bytes)
                });
            }
        }
        self.expect(Answer::Same, "the first timeline's copy missing", |disk| {
            disk.remove_file(segment(1, 2));
        });
        self.expect(Answer::Same, "garbage of all kinds", |disk| {
            for name in [
                "00000003.history",
                "spare.tmp",
                "history.tmp",
                "history.old",
                "x",
                "é",
            ] {
                disk.write_file(format!("{WAL}/{name}"), b"\xFFgarbage");
            }
            disk.write_file(format!("{DIR}/control.tmp"), b"garbage");
        });
    }

    fn history_is_damaged(&self) {
        let text = self.disk.read_file(HISTORY);
        let corrupt = |case: &str, change: &dyn Fn(&SimDisk)| {
            self.expect(Answer::Corrupt, case, change);
        };
        corrupt("no history", &|disk| disk.remove_file(HISTORY));
        corrupt("empty history", &|disk| disk.write_file(HISTORY, b""));
        corrupt("binary history", &|disk| {
            disk.write_file(HISTORY, &[0xFF; 90])
        });
        corrupt("long history", &|disk| {
            disk.write_file(HISTORY, &vec![b'x'; 2 << 20])
        });
        for at in 0..text.len() {
            let case = format!("history flipped at {at}");
            corrupt(&case, &|disk| disk.flip_bit(HISTORY, at as u64 * 8));
        }
        for len in (0..text.len()).step_by(7) {
            let case = format!("history cut at {len}");
            corrupt(&case, &|disk| disk.write_file(HISTORY, &text[..len]));
        }
        self.expect(Answer::Io, "unreadable history", |disk| {
            disk.fail_reads(HISTORY, 0)
        });
    }

    fn control_is_damaged(&self) {
        let slots = [0, 32 << 10];
        self.expect(Answer::Io, "no control file", |disk| {
            disk.remove_file(CONTROL)
        });
        self.expect(Answer::Corrupt, "empty control file", |disk| {
            disk.write_file(CONTROL, b"");
        });
        self.expect(Answer::Corrupt, "both slots flipped", |disk| {
            slots
                .iter()
                .for_each(|slot| disk.flip_bit(CONTROL, (slot + 60) * 8));
        });
        self.expect(Answer::Corrupt, "both slots zeroed", |disk| {
            slots
                .iter()
                .for_each(|&slot| disk.patch_file(CONTROL, slot, &[0; 512]));
        });
        for slot in slots {
            self.expect(Answer::Io, "unreadable slot", |disk| {
                disk.fail_reads(CONTROL, slot)
            });
            let newer = |disk: &SimDisk| {
                let mut file = disk.read_file(CONTROL);
                let at = slot as usize;
                file[at + 8..at + 12].copy_from_slice(&9u32.to_le_bytes());
                let length = u32::from_le_bytes(file[at + 12..at + 16].try_into().unwrap());
                let body = &file[at + 28..at + 28 + length as usize];
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(&file[at..at + 24]);
                hasher.update(body);
                let crc = hasher.finalize();
                file[at + 24..at + 28].copy_from_slice(&crc.to_le_bytes());
                disk.write_file(CONTROL, &file);
            };
            self.expect(Answer::Format, "newer slot", newer);
        }
        self.expect(Answer::Same, "garbage for watermarks", |disk| {
            disk.patch_file(CONTROL, HINTS.0, &vec![0xA5; HINTS.1]);
        });
        self.expect(Answer::Same, "no watermarks", |disk| {
            let bytes = disk.read_file(CONTROL);
            disk.write_file(CONTROL, &bytes[..HINTS.0 as usize]);
        });
    }

    /// A segment header of the next format, sealed as it should be.
    fn header_is_newer(&self) {
        for (n, path) in parts().iter().enumerate() {
            let bytes = self.disk.read_file(path);
            let at = SIZE.start_of(n as u64 + 1);
            let mut scan = Scan::new(&self.owner, &bytes, at, None);
            let Ok(Step::Record { parsed, .. }) = scan.step() else {
                panic!("no header");
            };
            let payload = &bytes[RECORD_HEADER_LEN..][..parsed.payload_len];
            let mut payload = SegmentHeader::decode(payload).unwrap().encode();
            payload[8..12].copy_from_slice(&9u32.to_le_bytes());
            let head = RecordHead {
                entry_type: WalEntryType::SegmentHeader,
                ..parsed.head
            };
            let place = self.owner.place(at);
            let crc = PayloadCrc::of(&payload);
            let (header, _) = seal(&place, parsed.prev_crc, &head, &payload, &crc);
            self.expect(Answer::Format, &format!("newer header {}", n + 1), |disk| {
                disk.patch_file(path, 0, &[&header[..], &payload].concat());
            });
        }
    }
}

#[test]
fn exchanged_and_damaged_segment_files_are_named_and_left_alone() {
    for closed in [true, false] {
        log(closed).segments_are_exchanged();
    }
}

#[test]
fn the_header_of_a_segment_proves_all_log_before_it() {
    let mut log = log(false);
    log.disk.patch_file(CONTROL, HINTS.0, &vec![0; HINTS.1]);
    // Without watermarks the last segment's own damage would pass for a torn write.
    for path in &parts()[..3] {
        log.expect(Answer::Corrupt, "missing", |disk| disk.remove_file(path));
        for at in [0, 50_000, 600_000, 900_000] {
            let case = format!("zeroed from {at} on");
            log.expect(Answer::Corrupt, &case, |disk| {
                disk.patch_file(path, at, &vec![0; (1 << 20) - at as usize]);
            });
        }
    }
    let last = parts()[3].clone();
    let header = log.entries.iter().rfind(|(end, _)| *end < SIZE.start_of(4));
    log.end = SIZE.start_of(4);
    let kept = header.map(|(end, _)| *end).unwrap();
    log.entries.retain(|(end, _)| *end <= kept);
    log.expect(Answer::Same, "the last one missing", |disk| {
        disk.remove_file(&last)
    });
}

#[test]
fn files_that_are_not_of_the_log_do_no_harm() {
    for closed in [true, false] {
        log(closed).strangers_are_left_out();
    }
}

#[test]
fn a_damaged_history_is_named_and_left_alone() {
    for closed in [true, false] {
        log(closed).history_is_damaged();
    }
}

#[test]
fn a_damaged_control_file_is_named_and_left_alone() {
    for closed in [true, false] {
        log(closed).control_is_damaged();
    }
}

#[test]
fn a_newer_segment_format_is_named_not_called_damage() {
    for closed in [true, false] {
        log(closed).header_is_newer();
    }
}

#[test]
fn a_log_is_not_created_over_what_is_left_of_another() {
    let log = log(false);
    log.disk.remove_file(CONTROL);
    let before = snapshot(&log.disk);
    let new = NewLog::new_cluster(SIZE);
    let disk = Arc::new(log.disk.clone());
    let refused = Wal::create(disk, Path::new(DIR), new, &options());
    assert!(matches!(refused, Err(Error::Invalid(_))));
    assert!(snapshot(&log.disk) == before);
}
