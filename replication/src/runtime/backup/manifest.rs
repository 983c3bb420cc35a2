//! The manifest of a base backup: every file with its size and checksum, in PostgreSQL's form.
//!
//! ```text
//! { "PostgreSQL-Backup-Manifest-Version": 1,
//! "Files": [
//! { "Path": "store/v1", "Size": 25, .., "Checksum-Algorithm": "CRC32C", "Checksum": "0badf00d" }
//! ],
//! "WAL-Ranges": [
//! { "Timeline": 1, "Start-LSN": "0/1000000", "End-LSN": "0/1000A40" }
//! ],
//! "Manifest-Checksum": "<SHA-256 of all lines before, in hexadecimal>"}
//! ```
//!
//! It is read strictly, as it is written here: its own checksum comes first, so that whatever was
//! changed after it was written is refused as a whole.

use std::fmt::Write as _;

use mainstay_storage::Lsn;
use sha2::{Digest, Sha256};

use super::checksum::hex;
use crate::wire::command::{ChecksumAlgorithm, ManifestMode};

/// Name of the manifest's file, beside the files it lists.
pub(crate) const MANIFEST: &str = "backup_manifest";

/// Longest manifest that is read, in bytes: some 400,000 files.
pub(crate) const MANIFEST_BYTES_MAX: usize = 64 << 20;

const HEAD: &str = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n";
const RANGES: &str = "\n],\n\"WAL-Ranges\": [\n";
const LAST: &str = "\n],\n\"Manifest-Checksum\": \"";

/// A manifest that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) files: Vec<ManifestFile>,
    /// The log that a restore needs.
    pub(crate) log: LogStretch,
}

/// A file in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestFile {
    /// Relative, with `/`, and never out of its directory.
    pub(crate) path: String,
    pub(crate) size: u64,
    /// Algorithm and digits; absent where none was wanted.
    pub(crate) checksum: Option<(ChecksumAlgorithm, String)>,
}

/// Log from `start` to `end` of one timeline.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct LogStretch {
    pub(crate) timeline: u32,
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
}

/// A manifest that is being written.
#[derive(Debug)]
pub(crate) struct ManifestWriter {
    text: String,
    encode: bool,
    algorithm: ChecksumAlgorithm,
    modified: String,
}

impl ManifestWriter {
    /// An empty one; `now_us` is the time of day in microseconds since 1970, which every file gets.
    pub(crate) fn new(mode: ManifestMode, algorithm: ChecksumAlgorithm, now_us: i64) -> Self {
        Self {
            text: HEAD.to_owned(),
            encode: mode == ManifestMode::ForceEncode,
            algorithm,
            modified: date(now_us.div_euclid(1_000_000)),
        }
    }

    pub(crate) fn add(&mut self, path: &str, size: u64, checksum: Option<&str>) {
        if self.text.len() > HEAD.len() {
            self.text.push_str(",\n");
        }
        let (key, name) = match self.encode {
            true => ("Encoded-Path", hex(path.as_bytes())),
            false => ("Path", path.to_owned()),
        };
        let modified = &self.modified;
        write!(
            self.text,
            "{{ \"{key}\": \"{name}\", \"Size\": {size}, \"Last-Modified\": \"{modified}\""
        )
        .expect("memory takes text");
        if let Some(digits) = checksum {
            let name = self.algorithm.as_str();
            write!(
                self.text,
                ", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{digits}\""
            )
            .expect("memory takes text");
        }
        self.text.push_str(" }");
    }

    /// The whole text, with its checksum.
    pub(crate) fn finish(mut self, log: LogStretch) -> String {
        let LogStretch {
            timeline,
            start,
            end,
        } = log;
        self.text.push_str(RANGES);
        write!(
            self.text,
            "{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
        )
        .expect("memory takes text");
        let covered = LAST.find('"').expect("a key is quoted");
        self.text.push_str(&LAST[..covered]);
        let digest = hex(&Sha256::digest(self.text.as_bytes()));
        self.text.push_str(&LAST[covered..]);
        self.text.push_str(&digest);
        self.text.push_str("\"}\n");
        self.text
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// What is wrong with it, in words that go on from "the manifest".
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "is not text".to_owned())?;
        let incomplete = || "has no end; it was cut off".to_owned();
        let last = text.rfind(LAST).ok_or_else(incomplete)?;
        let covered = last + LAST.find('"').expect("a key is quoted");
        let digits = text[last + LAST.len()..].strip_suffix("\"}\n");
        let digits = digits.ok_or_else(incomplete)?;
        if hex(&Sha256::digest(&bytes[..covered])) != digits {
            let why = "does not match its own checksum; it was damaged or edited";
            return Err(why.to_owned());
        }
        let body = text[..last].strip_prefix(HEAD);
        let body = body.ok_or("is of another version than 1")?;
        let (files, ranges) = body.split_once(RANGES).ok_or("names no log")?;
        let log = stretch(ranges).ok_or("names log in a form that cannot be read")?;
        let mut listed = Vec::new();
        for line in files.lines() {
            let read = file(line).ok_or_else(|| format!("has a line that cannot be read: {line}"));
            listed.push(read?);
        }
        Ok(Self { files: listed, log })
    }
}

/// The value of `"key": value` in a line, without quotes.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let name = format!("\"{key}\": ");
    let value = &line[line.find(&name)? + name.len()..];
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split([',', ' ']).next(),
    }
}

fn stretch(line: &str) -> Option<LogStretch> {
    Some(LogStretch {
        timeline: field(line, "Timeline")?.parse().ok()?,
        start: field(line, "Start-LSN")?.parse().ok()?,
        end: field(line, "End-LSN")?.parse().ok()?,
    })
}

fn file(line: &str) -> Option<ManifestFile> {
    let path = match field(line, "Encoded-Path") {
        Some(encoded) => unhex(encoded)?,
        None => field(line, "Path")?.to_owned(),
    };
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\\');
    if !path.split('/').all(part) {
        return None;
    }
    let checksum = match field(line, "Checksum-Algorithm") {
        None => None,
        Some(name) => {
            let algorithm = ChecksumAlgorithm::parse(name).ok()?;
            Some((algorithm, field(line, "Checksum")?.to_owned()))
        }
    };
    Some(ManifestFile {
        path,
        size: field(line, "Size")?.parse().ok()?,
        checksum,
    })
}

fn unhex(digits: &str) -> Option<String> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let bytes = (0..digits.len()).step_by(2);
    let bytes = bytes.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok());
    String::from_utf8(bytes.collect::<Option<Vec<_>>>()?).ok()
}

/// A time in seconds since 1970 as `YYYY-MM-DD HH:MM:SS GMT`, in the Gregorian calendar.
pub(super) fn date(seconds: i64) -> String {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years begin in March here, so that the day that comes and goes is the last of one.
    let days = day + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: LogStretch = LogStretch {
        timeline: 2,
        start: Lsn::new(0x0050_0000),
        end: Lsn::new(0x0060_4568),
    };

    fn written(mode: ManifestMode) -> String {
        let mut writer = ManifestWriter::new(mode, ChecksumAlgorithm::Crc32c, 0);
        writer.add("backup_label", 7, Some("839206e3"));
        writer.add("store/current", 25, None);
        writer.finish(LOG)
    }

    #[test]
    fn a_manifest_round_trips() {
        let expected = Manifest {
            files: vec![
                ManifestFile {
                    path: "backup_label".to_owned(),
                    size: 7,
                    checksum: Some((ChecksumAlgorithm::Crc32c, "839206e3".to_owned())),
                },
                ManifestFile {
                    path: "store/current".to_owned(),
                    size: 25,
                    checksum: None,
                },
            ],
            log: LOG,
        };
        for mode in [ManifestMode::Yes, ManifestMode::ForceEncode] {
            let text = written(mode);
            assert_eq!(Manifest::parse(text.as_bytes()).unwrap(), expected);
        }
        assert!(
            written(ManifestMode::Yes).contains("\"Last-Modified\": \"1970-01-01 00:00:00 GMT\"")
        );
    }

    #[test]
    fn no_changed_byte_and_no_cut_passes() {
        let text = written(ManifestMode::Yes);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(Manifest::parse(&bytes).is_err(), "byte {at}");
            assert!(
                Manifest::parse(&text.as_bytes()[..at]).is_err(),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn a_path_out_of_the_backup_is_refused() {
        for path in ["../x", "/etc/x", "store//x", "store/..", "", "a\\b"] {
            let mut writer = ManifestWriter::new(ManifestMode::Yes, ChecksumAlgorithm::None, 0);
            writer.add(path, 1, None);
            assert!(
                Manifest::parse(writer.finish(LOG).as_bytes()).is_err(),
                "{path}"
            );
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 GMT");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 GMT");
        assert_eq!(date(1_798_761_599), "2026-12-31 23:59:59 GMT");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00 GMT");
    }

    proptest! {
        #[test]
        fn every_manifest_is_read_back(
            files in prop::collection::vec(
                ("[a-z0-9_.é]{1,9}[a-z](/[a-z0-9_]{1,9}){0,2}", any::<u64>(), "[0-9a-f]{8}"), 0..6,
            ),
            encode: bool,
            summed: bool,
            (timeline, start, end) in any::<(u32, u64, u64)>(),
        ) {
            let mode = if encode { ManifestMode::ForceEncode } else { ManifestMode::Yes };
            let algorithm = ChecksumAlgorithm::Crc32c;
            let mut writer = ManifestWriter::new(mode, algorithm, 0);
            let mut expected = Vec::new();
            for (path, size, digits) in files {
                writer.add(&path, size, summed.then_some(&digits));
                let checksum = summed.then_some((algorithm, digits));
                expected.push(ManifestFile { path, size, checksum });
            }
            let log = LogStretch { timeline, start: Lsn::new(start), end: Lsn::new(end) };
            let text = writer.finish(log);
            for len in 0..text.len() {
                prop_assert!(Manifest::parse(&text.as_bytes()[..len]).is_err(), "{} bytes", len);
            }
            for more in [" ", "}", "\0", "x"] {
                let longer = format!("{text}{more}");
                prop_assert!(Manifest::parse(longer.as_bytes()).is_err(), "{:?} behind it", more);
            }
            let read = Manifest::parse(text.as_bytes());
            prop_assert_eq!(read, Ok(Manifest { files: expected, log }));
        }

        #[test]
        fn any_bytes_are_a_manifest_or_refused_but_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            words in "([{}\\[\\]:,\n]|\"[A-Za-z-]{1,15}\"|[0-9]{1,3}|\\PC){0,40}",
        ) {
            let _ = (Manifest::parse(&bytes), Manifest::parse(words.as_bytes()));
        }
    }
}
