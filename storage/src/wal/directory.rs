//! Creating and opening a data directory.

mod history;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::control::{Control, ControlFile, Watermark};
use crate::disk::{Disk, DiskLock};
use crate::error::{Error, Result};
use crate::lsn::{Lsn, SegmentSize};
use crate::sync::{Mutex, RwLock, thread};
use crate::timeline::{Timeline, TimelineHistory};
use crate::wal::log_file::LogFile;
use crate::wal::recovery::{Found, Recovered, Recovery};
use crate::wal::scan::Owner;
use crate::wal::segment::{Cursor, parse_segment_file_name};
use crate::wal::spares::Spares;
use crate::wal::tail::Tail;
use crate::wal::unfinished::refuse_unfinished;
use crate::wal::write_back::WriteBack;
use crate::wal::writer::{Queue, Shared};
use crate::wal::{Identity, Inner, Wal, WalOptions};

pub(crate) use history::{history_crc, read_history, write_history};

pub(crate) fn wal_dir(dir: &Path) -> PathBuf {
    dir.join("wal")
}

pub(crate) fn control_path(dir: &Path) -> PathBuf {
    dir.join("control")
}

/// Where a new log begins and whose it is.
#[derive(Debug, Clone)]
pub struct NewLog {
    /// The cluster.
    pub system_id: u64,
    /// The node.
    pub node_id: Uuid,
    /// Timelines up to the one the log begins on.
    pub history: TimelineHistory,
    /// First position that will be written here: a segment's start.
    pub begin: Lsn,
    /// The store already holds everything below: replay starts here.
    pub checkpoint: Lsn,
    /// Whether this node writes the log itself, as opposed to receiving it.
    pub own: bool,
    /// Whether a store lies in the directory already.
    pub store_created: bool,
}

impl NewLog {
    /// A new cluster, with a random identity, whose log begins at the first usable position.
    pub fn new_cluster(size: SegmentSize) -> Self {
        let begin = size.first_lsn();
        let timeline = Timeline {
            number: 1,
            id: Uuid::new_v4(),
        };
        let (high, _) = Uuid::new_v4().as_u64_pair();
        Self {
            // Stock tools take a system id of zero for "none".
            system_id: high.max(1),
            node_id: Uuid::new_v4(),
            history: TimelineHistory::new(timeline, begin),
            begin,
            checkpoint: begin,
            own: true,
            store_created: false,
        }
    }
}

impl Wal {
    /// Whether `dir` holds a log.
    ///
    /// # Errors
    /// Disk errors.
    pub fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool> {
        let path = control_path(dir);
        disk.exists(&path)
            .map_err(|source| Error::io("inspect", &path, source))
    }

    /// Creates the data directory `dir` and opens it. The control file is written last, so an
    /// interrupted creation leaves no log, and creating again starts over.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `dir` already holds one or `begin` is not a segment's start,
    /// [`Error::Locked`], disk errors.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        new: NewLog,
        options: &WalOptions,
    ) -> Result<Self> {
        let size = options.segment_size;
        if size.offset_of(new.begin) != 0 || new.begin < size.first_lsn() {
            let begin = new.begin;
            return Err(Error::Invalid(format!(
                "a log cannot begin at {begin}, inside a segment"
            )));
        }
        refuse_unfinished(&*disk, dir)?;
        let wal = wal_dir(dir);
        create_dirs(&*disk, dir, &wal).map_err(|source| Error::io("create", &wal, source))?;
        let lock = lock(&*disk, dir)?;
        if Self::exists(&*disk, dir)? {
            return Err(Error::Invalid(format!(
                "{} already holds a log",
                dir.display()
            )));
        }
        refuse_orphans(&*disk, &wal, size)?;
        write_history(&*disk, &wal, &new.history)?;
        let timeline = new.history.current();
        let control = Control {
            system_id: new.system_id,
            node_id: *new.node_id.as_bytes(),
            incarnation: *Uuid::new_v4().as_bytes(),
            node_name: String::new(),
            segment_size: u32::try_from(size.bytes()).expect("at most 1 GiB"),
            timeline_number: timeline.number,
            timeline_id: *timeline.id.as_bytes(),
            log_begin: new.begin,
            history_begin: new.history.spans()[0].begin,
            history_crc: history_crc(&new.history),
            promised_number: 0,
            promised_id: [0; 16],
            attempted_number: 0,
            attempted_id: [0; 16],
            clean: true,
            overlapped: false,
            own_from: if new.own { new.begin } else { Lsn::MAX },
            watermark: new.begin,
            checkpoint: new.checkpoint,
            flush_bound: new.checkpoint,
            store_created: new.store_created,
            config: Vec::new(),
            config_lsn: Lsn::ZERO,
            slots: Vec::new(),
        };
        create_control(&*disk, dir, control)?;
        Self::open_locked(disk, dir, options, lock).map(|(wal, _)| wal)
    }

    /// Opens the log in `dir`, recovering it if it was not closed properly.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Format`], [`Error::Locked`], disk errors. Nothing was changed
    /// then.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &WalOptions,
    ) -> Result<(Self, Recovered)> {
        let lock = lock(&*disk, dir)?;
        Self::open_locked(disk, dir, options, lock)
    }

    fn open_locked(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: &WalOptions,
        lock: Box<dyn DiskLock>,
    ) -> Result<(Self, Recovered)> {
        let (mut control_file, watermark) = ControlFile::open(&*disk, &control_path(dir))?;
        let control = control_file.get().clone();
        let size = SegmentSize::new(control.segment_size)
            .ok_or_else(|| bad_control(dir, "its segment size is impossible"))?;
        let wal = wal_dir(dir);
        let history = Arc::new(read_history(&*disk, &wal, &control)?);
        let owner = Arc::new(Owner {
            system_id: control.system_id,
            history,
            size,
        });
        let found = recover(&*disk, dir, &owner, &mut control_file, watermark, options)?;
        let end = found.end.lsn;
        let recovered = found.report(control.clean);
        let names = disk
            .list(&wal)
            .map_err(|source| Error::io("list", &wal, source))?;
        let spares = Arc::new(Spares::open(disk.clone(), &wal, size, &names)?);
        spares.cover_from(end);
        let queue = Queue::new(Cursor { next: end, size }, found.end.prev_crc);
        let tail = Tail::new(end, options.tail_bytes);
        let commit = watermark.commit.clamp(control.checkpoint.min(end), end);
        let clock = options.wall_clock;
        let mut file = LogFile::new(
            disk.clone(),
            &wal,
            owner.clone(),
            spares.clone(),
            clock,
            found.end,
        );
        file.write_back = (!options.driven).then(WriteBack::default);
        let shared = Arc::new(Shared::new(
            queue,
            file,
            tail,
            control_file,
            found.segments,
            owner,
            spares,
            commit,
            found.configs,
            options.driven,
        ));
        let threads = start_threads(&shared, dir, options.driven)?;
        let inner = Inner {
            shared,
            disk,
            dir: dir.to_owned(),
            size,
            clean: control.clean,
            units: RwLock::default(),
            threads: Mutex::new(threads),
            lock: Mutex::new(Some(lock)),
        };
        let inner = Arc::new(inner);
        Ok((Self { inner }, recovered))
    }
}

/// Finds the end of the log, and notes durably that it is open and ends there; where what followed
/// was given up, also that its loss was accepted.
fn recover(
    disk: &dyn Disk,
    dir: &Path,
    owner: &Owner,
    control_file: &mut ControlFile,
    watermark: Watermark,
    options: &WalOptions,
) -> Result<Found> {
    let control = control_file.get().clone();
    let recovery = Recovery {
        disk,
        wal_dir: &wal_dir(dir),
        aside_dir: &dir.join("set-aside"),
        owner,
        control: &control,
        watermark,
        accept_loss_from: options.accept_loss_from,
        end_at: None,
    };
    let found = recovery.run()?;
    let end = found.end.lsn;
    let mut opened = Control {
        clean: false,
        watermark: end,
        ..control.clone()
    };
    if options.accept_loss_from.is_some_and(|from| from == end) {
        opened.incarnation = *Uuid::new_v4().as_bytes();
        opened.checkpoint = opened.checkpoint.min(end);
        // What was noted about the lost log would call the rest of it damaged next time.
        control_file.forget_watermarks(Watermark {
            flushed: end,
            commit: watermark.commit.min(end),
            timeline_number: control.timeline_number,
            failed: false,
        })?;
    }
    control_file.replace(opened)?;
    Ok(found)
}

pub(super) fn identity(control: &Control) -> Identity {
    Identity {
        system_id: control.system_id,
        node_id: Uuid::from_bytes(control.node_id),
        incarnation: Uuid::from_bytes(control.incarnation),
    }
}

fn start_threads(
    shared: &Arc<Shared>,
    dir: &Path,
    driven: bool,
) -> Result<Vec<thread::JoinHandle<()>>> {
    if driven {
        return Ok(Vec::new());
    }
    let spawn = |name: &str, run: fn(&Shared)| {
        let shared = shared.clone();
        let spawned = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&shared));
        spawned.map_err(|source| Error::io("start a thread for", dir, source))
    };
    Ok(vec![
        spawn("wal-writer", Shared::write_groups)?,
        spawn("wal-spares", Shared::make_spares)?,
    ])
}

/// Creates `wal` inside `dir` with all that is missing above, and makes the names on the way
/// durable, lest a log that acknowledges vanishes with its directory.
fn create_dirs(disk: &dyn Disk, dir: &Path, wal: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for path in wal.ancestors().filter(|path| !path.as_os_str().is_empty()) {
        if disk.exists(path)? {
            break;
        }
        missing.push(path);
    }
    disk.create_dir(wal)?;
    for path in &missing {
        disk.sync_dir(path.parent().unwrap_or(path))?;
    }
    // It may have been created by an attempt that was interrupted. Where its parent is none of
    // ours to read, somebody else made it for us.
    match disk.sync_dir(dir.parent().unwrap_or(dir)) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>> {
    let path = dir.join("lock");
    disk.lock(&path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => Error::Locked {
            path: dir.to_owned(),
        },
        _ => Error::io("lock", &path, source),
    })
}

pub(crate) fn bad_control(dir: &Path, why: &str) -> Error {
    let path = control_path(dir);
    let why = why.to_owned();
    Error::Corrupt {
        path,
        what: "control file",
        at: Lsn::ZERO,
        proven: Lsn::ZERO,
        why,
    }
}

/// Segments without a control file are a damaged directory, not an interrupted creation.
fn refuse_orphans(disk: &dyn Disk, wal: &Path, size: SegmentSize) -> Result<()> {
    let names = disk
        .list(wal)
        .map_err(|source| Error::io("list", wal, source))?;
    if let Some(name) = names
        .iter()
        .find(|name| parse_segment_file_name(name, size).is_some())
    {
        let path = wal.join(name);
        return Err(Error::Invalid(format!(
            "{} is a log segment, but there is no control file beside it; restore the control \
             file, or choose an empty directory",
            path.display()
        )));
    }
    Ok(())
}

/// Writes the control file under another name and renames it, so that it is there whole or not.
fn create_control(disk: &dyn Disk, dir: &Path, control: Control) -> Result<()> {
    let unfinished = dir.join("control.tmp");
    if disk
        .exists(&unfinished)
        .map_err(|source| Error::io("inspect", &unfinished, source))?
    {
        disk.remove(&unfinished)
            .map_err(|source| Error::io("remove", &unfinished, source))?;
    }
    ControlFile::create(disk, &unfinished, control)?;
    let path = control_path(dir);
    disk.rename(&unfinished, &path)
        .and_then(|()| disk.sync_dir(dir))
        .map_err(|source| Error::io("create", &path, source))
}
