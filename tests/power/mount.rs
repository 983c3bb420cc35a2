//! The image as a mounted file system, served by this process.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::image::{Dir, File, Image, Kind, ROOT, Survives};
use crate::sim::random::Random;
use crate::support::{find_tool_of, run, skipped};

/// How long the kernel may believe what it was told: nobody else changes it.
const VALID: Duration = Duration::from_secs(3600);

/// What a disk without a limit says that it has.
const SPACE: u64 = 1 << 40;

const BLOCK: u32 = 4096;

/// A disk that loses what was not synced when its power is cut. It is unmounted when dropped.
#[derive(Debug)]
pub(super) struct Disk {
    at: PathBuf,
    image: Arc<Mutex<Image>>,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// An empty disk, mounted at `at`; `None`, and said so, where this machine cannot.
    pub(super) fn mount(at: &Path) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            skipped("the kernel has no /dev/fuse");
            return None;
        }
        std::fs::create_dir_all(at).unwrap();
        let mut this = Self {
            at: at.canonicalize().unwrap(),
            image: Arc::new(Mutex::new(Image::new())),
            session: None,
        };
        if let Err(error) = this.begin() {
            // The superuser needs no help; others need a program that may.
            find_tool_of("fusermount3", "fuse3")?;
            skipped(&format!("cannot mount a file system of FUSE: {error}"));
            return None;
        }
        Some(this)
    }

    fn begin(&mut self) -> std::io::Result<()> {
        let served = Served {
            image: self.image.clone(),
        };
        self.session = Some(fuser::spawn_mount(served, &self.at, &Config::default())?);
        Ok(())
    }

    /// What is on it. Whoever uses the disk waits meanwhile.
    pub(super) fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().expect("nobody panics with it")
    }

    /// Cuts the power and gives it back: nobody may have a file open. Nothing of what the kernel
    /// remembers outlasts it.
    pub(super) fn cut(&mut self, pages: Survives, entries: Survives, random: &mut Random) {
        let ended = self.unmount();
        assert!(!self.is_mounted(), "somebody uses the disk: {ended:?}");
        self.image().cut(pages, entries, random);
        self.begin().expect("it was mounted before");
    }

    /// Ends the session. An error may say no more than that its thread was woken by the end.
    fn unmount(&mut self) -> std::io::Result<()> {
        let session = self.session.take();
        session.map_or(Ok(()), BackgroundSession::umount_and_join)
    }

    fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let at = self.at.to_string_lossy();
        mounts
            .lines()
            .any(|line| line.split(' ').nth(1) == Some(&*at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let ended = self.unmount();
        if self.is_mounted() {
            // Somebody still has a file open. The name goes now, and the rest with them.
            let lazy = run(Command::new("umount").arg("--lazy").arg(&self.at));
            if lazy.code != Some(0) {
                eprintln!("cannot unmount: {ended:?}, {}", lazy.err);
            }
        }
    }
}

struct Served {
    image: Arc<Mutex<Image>>,
}

fn attributes(image: &Image, ino: u64) -> Result<FileAttr, Errno> {
    let inode = image.inode(ino)?;
    let size = image.size(ino)?;
    let kind = match inode.kind {
        Kind::File(_) => FileType::RegularFile,
        Kind::Dir(_) => FileType::Directory,
    };
    Ok(FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: (inode.mode & 0o7777) as u16,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    })
}

impl Served {
    fn image(&self) -> MutexGuard<'_, Image> {
        self.image.lock().expect("nobody panics with it")
    }

    fn make(&self, slot: (INodeNo, &OsStr), mode: u32, kind: Kind) -> Result<FileAttr, Errno> {
        let mut image = self.image();
        let ino = image.make((slot.0.0, slot.1), mode, kind)?;
        attributes(&image, ino)
    }
}

fn entry(made: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match made {
        Ok(attributes) => reply.entry(&VALID, &attributes, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let image = self.image();
        let found = image.lookup(parent.0, name);
        entry(found.and_then(|ino| attributes(&image, ino)), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match attributes(&self.image(), ino.0) {
            Ok(attributes) => reply.attr(&VALID, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut image = self.image();
        let mode = mode.map_or(Ok(()), |mode| image.set_mode(ino.0, mode));
        let size = size.map_or(Ok(()), |size| image.resize(ino.0, size as usize));
        match mode.and(size).and_then(|()| attributes(&image, ino.0)) {
            Ok(attributes) => reply.attr(&VALID, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let kind = Kind::Dir(Dir::default());
        entry(self.make((parent, name), mode & !umask, kind), reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let kind = Kind::File(File::default());
        match self.make((parent, name), mode & !umask, kind) {
            Ok(attributes) => reply.created(
                &VALID,
                &attributes,
                Generation(0),
                FileHandle(0),
                FopenFlags::empty(),
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn link(&self, _: &Request, ino: INodeNo, to: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut image = self.image();
        let linked = image.link(ino.0, (to.0, name));
        entry(linked.and_then(|()| attributes(&image, ino.0)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.image().remove(parent.0, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.image().remove(parent.0, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let renamed = self.image().rename((parent.0, name), (to.0, to_name));
        empty(renamed, reply);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.image().read(ino.0, offset as usize, size as usize);
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.image().write(ino.0, offset as usize, data);
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A close is no sync.
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.image().sync(ino.0), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.image().sync_dir(ino.0), reply);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let image = self.image();
        let mut entries = match image.entries(ino.0) {
            Ok(entries) => entries,
            Err(errno) => return reply.error(errno),
        };
        // Where a look goes on stays the same when entries go meanwhile.
        entries.retain(|(_, ino)| *ino > offset);
        entries.sort_by_key(|(_, ino)| *ino);
        for (name, ino) in entries {
            let kind = match image.inode(ino).map(|inode| &inode.kind) {
                Ok(Kind::Dir(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(ino), ino, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let image = self.image();
        let space = image.faults.space.unwrap_or(SPACE);
        let free = space.saturating_sub(image.used()) / u64::from(BLOCK);
        let all = space / u64::from(BLOCK);
        reply.statfs(all, free, free, 0, SPACE, BLOCK, 255, BLOCK);
    }
}

/// The number of the mounted directory is the one that the kernel expects.
const _: () = assert!(ROOT == 1);
