//! Power cuts after every call to the disk while a backup becomes a data directory.
//!
//! Whatever is cut off leaves a data directory that is whole, or one in which nobody begins a log
//! and that the next attempt fills. The backup itself lies in a real directory and is only read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use mainstay_storage::{
    BACKUP_LABEL, BOOTSTRAP_DIR, CrashMode, Disk, DiskEntry, LogBytes, Lsn, NewLog, OsDisk,
    SegmentSize, SimDisk, Wal, WalEntry, WalEntryType, WalOptions, segment_file_name,
};
use tempfile::TempDir;
use uuid::Uuid;

use super::install::{self, Parts};
use super::receive::keep_manifest;
use super::restore::{begin_restore, copy_store, finish};
use super::unpack::unpack;
use super::{Place, UNPACKED};
use crate::error::Result;
use crate::runtime::backup::files::{self, Tree};
use crate::runtime::backup::label::Label;
use crate::runtime::backup::manifest::{LogStretch, MANIFEST, ManifestWriter};
use crate::runtime::backup::verify::Checked;
use crate::runtime::backup::{BACKUP_LOG, STORE};
use crate::wire::command::{ChecksumAlgorithm, ManifestMode};

/// Below directories that are not there yet, either.
const DIR: &str = "/srv/nodes/b";
const NODE: Uuid = Uuid::from_u128(7);

/// Ways in which a power cut ends, each with its own choices.
const MODES: [CrashMode; 5] = [
    CrashMode::LoseUnsynced,
    CrashMode::KeepAll,
    CrashMode::Random,
    CrashMode::Nasty,
    CrashMode::Nasty,
];

/// A small backup.
struct Source {
    dir: TempDir,
    checked: Checked,
    archive: Vec<u8>,
}

static SOURCE: LazyLock<Source> = LazyLock::new(Source::make);

fn options() -> WalOptions {
    WalOptions {
        segment_size: SegmentSize::MIN,
        ..WalOptions::new(|| 0)
    }
}

impl Source {
    fn make() -> Self {
        let (dir, life) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let root = dir.path();
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let wal = Wal::create(Arc::new(OsDisk), life.path(), new, &options()).unwrap();
        for n in 0..3u8 {
            let data = Bytes::from(vec![n; 5_000]);
            let entry = WalEntry::new(WalEntryType::Insert, None, data);
            wal.append(&[entry]).unwrap();
        }
        let end = wal.appended();
        wal.flushed().wait_blocking(end, None).unwrap();
        let control = wal.control();
        let label = Label {
            system_id: wal.identity().system_id,
            segment_size: SegmentSize::MIN,
            replay: control.checkpoint,
            copy: end,
            timeline: wal.timeline(),
            history_begin: control.history_begin,
            history: wal.history().to_text(),
            begun: 0,
            name: "small".to_owned(),
        };
        wal.close().unwrap();
        fs::create_dir_all(root.join(BACKUP_LOG)).unwrap();
        let size = SegmentSize::MIN;
        let name = segment_file_name(1, size.segment_of(end), size);
        let mut log = fs::read(life.path().join("wal").join(&name)).unwrap();
        log.truncate(usize::try_from(size.offset_of(end)).unwrap());
        fs::write(root.join(BACKUP_LOG).join(name), log).unwrap();
        fs::create_dir_all(root.join("store/tables")).unwrap();
        fs::write(root.join("store/current"), "the tables").unwrap();
        fs::write(root.join("store/tables/1"), vec![7; 9_000]).unwrap();
        fs::write(root.join(BACKUP_LABEL), label.to_text()).unwrap();
        write_manifest(root, label.replay, end);
        let mut archive = tar::Builder::new(Vec::new());
        for name in [BACKUP_LABEL, STORE, BACKUP_LOG] {
            let path = root.join(name);
            match path.is_dir() {
                true => archive.append_dir_all(name, path).unwrap(),
                false => archive.append_path_with_name(path, name).unwrap(),
            }
        }
        let checked = Checked::of(root).unwrap();
        let archive = archive.into_inner().unwrap();
        Self {
            dir,
            checked,
            archive,
        }
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Paths of all files of it, with what is in them.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for name in [STORE, BACKUP_LOG] {
            let tree = Tree::of(&self.root().join(name), name).unwrap();
            all.extend(tree.files.into_iter().map(|(path, _)| path));
        }
        all.extend([BACKUP_LABEL, MANIFEST].map(str::to_owned));
        let read = |path: String| {
            let bytes = fs::read(self.root().join(&path)).unwrap();
            (path, bytes)
        };
        all.into_iter().map(read).collect()
    }

    fn manifest(&self) -> Vec<u8> {
        fs::read(self.root().join(MANIFEST)).unwrap()
    }
}

fn write_manifest(root: &Path, start: Lsn, end: Lsn) {
    let mut manifest = ManifestWriter::new(ManifestMode::Yes, ChecksumAlgorithm::None, 0);
    for path in [BACKUP_LABEL, "store/current", "store/tables/1"] {
        let len = fs::metadata(root.join(path)).unwrap().len();
        manifest.add(path, len, None);
    }
    let log = LogStretch {
        timeline: 1,
        start,
        end,
    };
    fs::write(root.join(MANIFEST), manifest.finish(log)).unwrap();
}

/// Fills the directory in one way; the same again is the next attempt.
type Attempt = fn(&Arc<dyn Disk>) -> Result<()>;

fn parts(store: &Path) -> Parts<'_> {
    let log = SOURCE.root();
    Parts { log, store }
}

fn install(disk: &Arc<dyn Disk>, store: &Path) -> Result<()> {
    install::install(
        disk,
        Path::new(DIR),
        parts(store),
        &SOURCE.checked,
        Some(NODE),
    )
}

/// As a standby that has no data yet does.
fn receive(disk: &Arc<dyn Disk>) -> Result<()> {
    let staging = Path::new(DIR).join(BOOTSTRAP_DIR);
    let place = Place {
        disk: disk.clone(),
        root: staging.join(UNPACKED),
        clear: staging,
        data: Some(DIR.into()),
    };
    let _lock = place.make_ready(None)?;
    unpack(&**disk, &place.root, &SOURCE.archive[..])?;
    keep_manifest(&**disk, &place.root, &SOURCE.manifest())?;
    install(disk, &place.root)
}

/// As `mainstay backup restore` does.
fn restore(disk: &Arc<dyn Disk>) -> Result<()> {
    let (_lock, root) = begin_restore(&**disk, Path::new(DIR))?;
    copy_store(&**disk, SOURCE.root(), &root)?;
    install(disk, &root)
}

/// As a node does that is started on a backup.
fn adopt(disk: &Arc<dyn Disk>) -> Result<()> {
    install::mark_in_place(&**disk, Path::new(DIR))?;
    install(disk, Path::new(DIR))
}

/// What lies on the disk before the first attempt.
fn put_backup(disk: &SimDisk) {
    for (path, bytes) in SOURCE.files() {
        disk.write_file(Path::new(DIR).join(path), &bytes);
    }
}

fn exists(disk: &SimDisk, name: &str) -> bool {
    disk.exists(&Path::new(DIR).join(name)).unwrap()
}

/// The directory is a node's, with everything that is in the backup and nothing else of it.
fn is_whole(case: &str, disk: &SimDisk) {
    for (path, bytes) in SOURCE.files() {
        let place = Path::new(DIR).join(&path);
        match path.starts_with(STORE) {
            true => {
                assert!(exists(disk, &path), "{case}: {path} is gone");
                assert!(disk.read_file(place) == bytes, "{case}: {path} is another");
            }
            false => assert!(!exists(disk, &path), "{case}: {path} is left"),
        }
    }
    assert!(!exists(disk, BOOTSTRAP_DIR), "{case}: the mark is left");
    let opened = Wal::open(Arc::new(disk.clone()), Path::new(DIR), &options());
    let (wal, _) = opened.unwrap_or_else(|error| panic!("{case}: {error}"));
    let (end, begin) = (SOURCE.checked.end, SOURCE.checked.label.log_begin());
    assert_eq!(wal.flushed().get(), end, "{case}");
    assert_eq!(wal.commit().get(), end, "{case}");
    assert_eq!(wal.identity().node_id, NODE, "{case}");
    let mut reader = LogBytes::new(wal.clone());
    let mut at = begin;
    SOURCE
        .checked
        .read_log(SOURCE.root(), |_, bytes, _| {
            let mut rest = bytes;
            while !rest.is_empty() {
                let read = reader.read(at, end, rest.len()).unwrap();
                assert!(rest.starts_with(&read), "{case}: other log at {at}");
                at = at + read.len() as u64;
                rest = &rest[read.len()..];
            }
            Ok(())
        })
        .unwrap();
    wal.close().unwrap();
}

/// Nobody takes the directory for a node's, or for an empty one in which a log may begin.
fn is_unfinished(case: &str, disk: &SimDisk, in_place: bool) {
    let there = files::names(disk, Path::new(DIR)).unwrap();
    if in_place {
        for (path, bytes) in SOURCE.files() {
            let found = disk.read_file(Path::new(DIR).join(&path));
            assert!(found == bytes, "{case}: {path} of the backup was changed");
        }
    } else if there.iter().all(|name| name == "lock") {
        return;
    }
    let copy = disk.copy();
    let new = NewLog::new_cluster(SegmentSize::MIN);
    let begun = Wal::create(Arc::new(copy), Path::new(DIR), new, &options());
    assert!(begun.is_err(), "{case}: a log begins beside {there:?}");
}

/// Cuts the power after each call of `attempt`, and looks at what is left and at the next attempt.
fn cut_everywhere(name: &str, attempt: Attempt, in_place: bool) {
    let (mut whole, mut unfinished) = (0, 0);
    for k in 0.. {
        let mut done = false;
        for (n, mode) in MODES.iter().enumerate() {
            let seed = k * 10 + n as u64;
            let case = format!("{name}, {k} calls, {mode:?}, seed {seed}");
            let disk = SimDisk::new(seed);
            if in_place {
                put_backup(&disk);
            }
            disk.cut_power_after(k);
            let shared: Arc<dyn Disk> = Arc::new(disk.until_crash());
            done = attempt(&shared).is_ok();
            disk.crash(mode.clone());
            finish(&disk, Path::new(DIR)).unwrap();
            let complete = exists(&disk, "control");
            assert!(complete || !done, "{case}: it was done, and is gone");
            match complete {
                true => whole += 1,
                false => {
                    unfinished += 1;
                    is_unfinished(&case, &disk, in_place);
                    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
                    let again = attempt(&shared);
                    again.unwrap_or_else(|error| panic!("{case}: again: {error}"));
                    disk.crash(CrashMode::LoseUnsynced);
                    finish(&disk, Path::new(DIR)).unwrap();
                }
            }
            is_whole(&case, &disk);
        }
        if done {
            break;
        }
    }
    println!("{name}: {whole} power cuts left a node, {unfinished} none");
    assert!(whole > 20 && unfinished > 100, "{whole} and {unfinished}");
}

#[test]
fn a_copy_that_is_received_is_installed_whole_or_not_at_all() {
    cut_everywhere("received", receive, false);
}

#[test]
fn a_backup_that_is_restored_is_a_node_or_can_be_restored_again() {
    cut_everywhere("restored", restore, false);
}

#[test]
fn a_backup_that_is_opened_in_place_is_a_node_or_still_the_backup() {
    cut_everywhere("in place", adopt, true);
}

#[test]
fn a_backup_that_was_taken_outlasts_a_power_cut() {
    let root = PathBuf::from("/backups/today/one");
    let disk = SimDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.until_crash());
    let place = Place {
        disk: shared,
        root: root.clone(),
        clear: root.clone(),
        data: None,
    };
    place.make_ready(None).unwrap();
    unpack(&*place.disk, &root, &SOURCE.archive[..]).unwrap();
    keep_manifest(&*place.disk, &root, &SOURCE.manifest()).unwrap();
    files::sync_tree(&*place.disk, &root).unwrap();
    disk.crash(CrashMode::LoseUnsynced);
    for (path, bytes) in SOURCE.files() {
        let found = disk.entry(&root.join(&path)).unwrap();
        assert_eq!(found, Some(DiskEntry::File), "{path}");
        assert!(disk.read_file(root.join(&path)) == bytes, "{path}");
    }
}
