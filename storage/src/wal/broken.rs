//! The mark that a node's store was found to differ from what the log says it holds.
//!
//! ```text
//! DIR/broken    "mainstay-broken 1\n" | CRC-32 of the rest in hex "\n" | position "\n" | why
//! ```
//!
//! It is durable before it counts and gone durably before it no longer does, so neither a restart
//! nor a crash forgets it. Whoever copies another node's data into the directory takes it away with
//! the old data. A mark that cannot be read counts as one: nobody trusts a store by mistake.
//!
//! It is not known here who compares stores, or what follows from the mark.

use std::path::Path;

use super::Wal;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// Name of the mark's file in a data directory.
pub const BROKEN_FILE: &str = "broken";

/// Longest reason that is kept, in bytes; longer ones are cut.
pub const BROKEN_WHY_MAX: usize = 4096;

/// Name under which it is written before it counts.
const UNFINISHED: &str = "broken.new";

const HEAD: &str = "mainstay-broken 1\n";

/// What the mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenMark {
    /// The position at which the store was found to be wrong; zero where that is not known.
    pub at: Lsn,
    /// What was found, one line.
    pub why: String,
}

impl BrokenMark {
    fn encode(&self) -> Vec<u8> {
        let mut why = self.why.replace('\n', " ");
        let end = (0..=why.len().min(BROKEN_WHY_MAX)).rev();
        why.truncate(
            end.into_iter()
                .find(|at| why.is_char_boundary(*at))
                .unwrap_or(0),
        );
        let body = format!("{}\n{why}", self.at);
        format!("{HEAD}{:08x}\n{body}", crc32fast::hash(body.as_bytes())).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (crc, body) = text.strip_prefix(HEAD)?.split_once('\n')?;
        let (at, why) = body.split_once('\n')?;
        if crc != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
            return None;
        }
        Some(Self {
            at: at.parse().ok()?,
            why: why.to_owned(),
        })
    }

    fn unreadable() -> Self {
        Self {
            at: Lsn::ZERO,
            why: "the note that says why cannot be read".to_owned(),
        }
    }
}

impl Wal {
    /// The mark on the store of this log, if there is one.
    ///
    /// # Errors
    /// Disk errors.
    pub fn broken(&self) -> Result<Option<BrokenMark>> {
        let (disk, path) = (self.disk(), self.dir().join(BROKEN_FILE));
        let failed = |source| Error::io("read", &path, source);
        if !disk.exists(&path).map_err(failed)? {
            return Ok(None);
        }
        let file = disk.open(&path).map_err(failed)?;
        let longest = HEAD.len() + BROKEN_WHY_MAX + 64;
        let len = file.len().map_err(failed)?;
        let len = usize::try_from(len).ok().filter(|len| *len <= longest);
        let Some(len) = len else {
            return Ok(Some(BrokenMark::unreadable()));
        };
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let mark = BrokenMark::decode(&bytes);
        Ok(Some(mark.unwrap_or_else(BrokenMark::unreadable)))
    }

    /// Marks the store; when this returns, the mark outlasts a crash.
    ///
    /// # Errors
    /// [`Error::Closed`]; disk errors, after which the mark may be there or not.
    pub fn mark_broken(&self, mark: &BrokenMark) -> Result<()> {
        self.with_lock(|disk, dir| {
            let (new, path) = (dir.join(UNFINISHED), dir.join(BROKEN_FILE));
            remove(disk, &new)?;
            let failed = |source| Error::io("write", &new, source);
            let file = disk.create(&new).map_err(failed)?;
            file.write_all_at(&mark.encode(), 0).map_err(failed)?;
            file.sync_data().map_err(failed)?;
            disk.rename(&new, &path).map_err(failed)?;
            disk.sync_dir(dir).map_err(failed)
        })
    }

    /// Takes the mark away; when this returns, it does not come back.
    ///
    /// # Errors
    /// [`Error::Closed`]; disk errors, after which the mark may be there or not.
    pub fn lift_broken(&self) -> Result<()> {
        self.with_lock(remove_broken_mark)
    }

    /// Runs `work` while the directory is this log's own.
    fn with_lock(&self, work: impl FnOnce(&dyn Disk, &Path) -> Result<()>) -> Result<()> {
        let lock = self.inner.lock.lock();
        match lock.is_some() {
            true => work(&**self.disk(), self.dir()),
            false => Err(Error::Closed),
        }
    }
}

/// Takes the mark away from a directory whose data are about to be replaced by a copy of another
/// node's, durably.
///
/// # Errors
/// Disk errors.
pub fn remove_broken_mark(disk: &dyn Disk, dir: &Path) -> Result<()> {
    remove(disk, &dir.join(UNFINISHED))?;
    remove(disk, &dir.join(BROKEN_FILE))?;
    disk.sync_dir(dir)
        .map_err(|source| Error::io("sync", dir, source))
}

fn remove(disk: &dyn Disk, path: &Path) -> Result<()> {
    let failed = |source| Error::io("remove", path, source);
    match disk.exists(path).map_err(failed)? {
        true => disk.remove(path).map_err(failed),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[cfg(feature = "sim")]
    #[test]
    fn the_mark_outlasts_a_power_cut_and_does_not_come_back() {
        use crate::disk::{CrashMode, SimDisk};
        use crate::lsn::SegmentSize;
        use crate::wal::{NewLog, WalOptions};
        use std::sync::Arc;
        for seed in 0..40 {
            let disk = SimDisk::new(seed);
            let dir = Path::new("d");
            let options = WalOptions {
                segment_size: SegmentSize::MIN,
                ..WalOptions::new(|| 0)
            };
            let new = NewLog::new_cluster(SegmentSize::MIN);
            let created = Wal::create(Arc::new(disk.until_crash()), dir, new, &options);
            created.unwrap().mark_broken(&mark()).unwrap();
            disk.crash(CrashMode::Random);
            let open = || {
                Wal::open(Arc::new(disk.until_crash()), dir, &options)
                    .unwrap()
                    .0
            };
            let wal = open();
            assert_eq!(wal.broken().unwrap(), Some(mark()), "seed {seed}");
            wal.lift_broken().unwrap();
            drop(wal);
            disk.crash(CrashMode::Random);
            assert_eq!(open().broken().unwrap(), None, "seed {seed}");
        }
    }

    #[test]
    fn a_log_that_was_closed_marks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let disk = std::sync::Arc::new(crate::disk::OsDisk);
        let size = crate::lsn::SegmentSize::MIN;
        let options = crate::wal::WalOptions {
            segment_size: size,
            ..crate::wal::WalOptions::new(|| 0)
        };
        let new = crate::wal::NewLog::new_cluster(size);
        let wal = Wal::create(disk, dir.path(), new, &options).unwrap();
        std::fs::write(dir.path().join(BROKEN_FILE), "damaged").unwrap();
        assert_eq!(wal.broken().unwrap(), Some(BrokenMark::unreadable()));
        wal.lift_broken().unwrap();
        wal.close().unwrap();
        assert!(matches!(wal.mark_broken(&mark()), Err(Error::Closed)));
        assert_eq!(wal.broken().unwrap(), None);
    }

    fn mark() -> BrokenMark {
        BrokenMark {
            at: Lsn::new(0x16B_3748),
            why: "table t, key ada: another value".to_owned(),
        }
    }

    #[test]
    fn the_bytes_of_the_mark_never_change() {
        let text = "mainstay-broken 1\ne610c41c\n0/16B3748\ntable t, key ada: another value";
        assert_eq!(String::from_utf8(mark().encode()).unwrap(), text);
        assert_eq!(BrokenMark::decode(text.as_bytes()), Some(mark()));
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_and_stays_one_line() {
        let why = format!("a\nb{}", "ü".repeat(BROKEN_WHY_MAX));
        let long = BrokenMark { why, ..mark() };
        let read = BrokenMark::decode(&long.encode()).unwrap();
        assert!(read.why.starts_with("a bü") && read.why.len() <= BROKEN_WHY_MAX);
    }

    proptest! {
        #[test]
        fn every_mark_is_read_back_on_one_line(at: u64, why in "(?s).{0,40}") {
            let mark = BrokenMark { at: Lsn::new(at), why };
            let read = BrokenMark::decode(&mark.encode()).unwrap();
            prop_assert_eq!(read.at, mark.at);
            prop_assert_eq!(read.why, mark.why.replace('\n', " "));
            let longer = [mark.encode(), b"x".to_vec()].concat();
            for len in (0..longer.len() - 1).chain([longer.len()]) {
                prop_assert_eq!(BrokenMark::decode(&longer[..len]), None, "{} bytes", len);
            }
        }

        #[test]
        fn any_bytes_are_a_mark_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = BrokenMark::decode(&bytes);
            let headed = [HEAD.as_bytes(), &bytes].concat();
            prop_assert_eq!(BrokenMark::decode(&headed), None);
        }

        #[test]
        fn a_flipped_bit_is_never_another_mark(bit in 0usize..8 * 60) {
            let mut bytes = mark().encode();
            let at = bit / 8 % bytes.len();
            bytes[at] ^= 1 << (bit % 8);
            prop_assert_eq!(BrokenMark::decode(&bytes), None);
        }
    }
}
