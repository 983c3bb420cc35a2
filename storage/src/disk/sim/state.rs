//! All that a simulated disk is besides its bytes: calls, planned failures, locks, capacity.
//!
//! Every call of the two disk traits passes through [`State::call`], which counts it, lets a
//! planned failure strike, and writes it down. What the calls do to files is told in the rooms
//! beside this one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::calls::crashed;
use super::content::{FILE_BYTES_MAX, PAGE_BYTES};
use super::file::Mishap;
use super::random::Random;
use super::tree::{Id, Tree};

/// Calls remembered by [`SimDisk::trace`](super::SimDisk::trace); older ones are forgotten.
pub const DISK_TRACE_MAX: usize = 65_536;

const EINTR: i32 = 4;
const EIO: i32 = 5;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EDQUOT: i32 = if cfg!(target_os = "linux") { 122 } else { 69 };

/// How a planned call fails. The errors carry the system's own numbers.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum DiskFault {
    /// `EIO`: the device failed.
    Io,
    /// `ENOSPC`: the file system is full.
    NoSpace,
    /// `EDQUOT`: the owner's quota is used up.
    Quota,
    /// `EROFS`: the file system was remounted read-only.
    ReadOnly,
    /// `EINTR`: a signal arrived.
    Interrupted,
    /// No error: a read or write transfers only some of its bytes. Other calls are not affected.
    Short,
}

impl DiskFault {
    /// The error's number; `None` where the call succeeds.
    pub fn errno(self) -> Option<i32> {
        match self {
            Self::Io => Some(EIO),
            Self::NoSpace => Some(ENOSPC),
            Self::Quota => Some(EDQUOT),
            Self::ReadOnly => Some(EROFS),
            Self::Interrupted => Some(EINTR),
            Self::Short => None,
        }
    }
}

/// What a disk call does.
#[derive(Debug, Copy, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "named after the methods of `Disk` and `DiskFile`"
)]
pub enum DiskOp {
    Open,
    Create,
    Rename,
    Remove,
    RemoveDir,
    CreateDir,
    SyncDir,
    SyncFile,
    Entry,
    List,
    Exists,
    Lock,
    Read,
    Write,
    SyncData,
    SetLen,
    Len,
}

/// One call that was made on a simulated disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCall {
    /// Its number, the disk's first call being 1.
    pub number: u64,
    /// What it does.
    pub op: DiskOp,
    /// The file or directory; for a file, the name it was opened by.
    pub path: Arc<Path>,
    /// The new name, for a rename.
    pub to: Option<Arc<Path>>,
    /// Where a read or write begins, in bytes; zero for others.
    pub offset: u64,
    /// Bytes asked for, or the new length of a file; zero for others.
    pub len: u64,
    /// How it failed, if it did.
    pub error: Option<io::ErrorKind>,
}

impl DiskCall {
    /// Whether a call of this kind may have changed a content or a name; a sync changes neither.
    pub fn changes(&self) -> bool {
        use DiskOp::{Entry, Exists, Len, List, Lock, Open, Read, SyncData, SyncDir, SyncFile};
        let op = self.op;
        !matches!(
            op,
            Open | List | Entry | Exists | Lock | Read | Len | SyncData | SyncDir | SyncFile
        )
    }

    pub(super) fn new(op: DiskOp, path: impl Into<Arc<Path>>) -> Self {
        Self {
            number: 0,
            op,
            path: path.into(),
            to: None,
            offset: 0,
            len: 0,
            error: None,
        }
    }

    pub(super) fn at(mut self, offset: u64, len: usize) -> Self {
        self.offset = offset;
        self.len = len as u64;
        self
    }
}

#[derive(Debug, Copy, Clone)]
struct Planned {
    fault: DiskFault,
    /// The call is carried out before it reports the failure.
    late: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) tree: Tree,
    pub(super) random: Random,
    /// Counts crashes; handles of an earlier one are dead.
    pub(super) generation: u64,
    pub(super) locks: BTreeSet<Id>,
    pub(super) capacity: Option<u64>,
    /// What becomes of the next write to this path, or to a file below it.
    pub(super) mishap: Option<(PathBuf, Mishap)>,
    pub(super) calls: u64,
    pub(super) trace: VecDeque<DiskCall>,
    /// Open handles by inode.
    open: BTreeMap<Id, u64>,
    /// By number of the call.
    plan: BTreeMap<u64, Planned>,
    /// The call being made transfers only some of its bytes.
    short: bool,
    /// The last call that the machine has power for.
    pub(super) last_call: Option<u64>,
}

impl State {
    pub(super) fn new(tree: Tree, random: Random) -> Self {
        Self {
            tree,
            random,
            generation: 0,
            locks: BTreeSet::new(),
            capacity: None,
            mishap: None,
            calls: 0,
            trace: VecDeque::new(),
            open: BTreeMap::new(),
            plan: BTreeMap::new(),
            short: false,
            last_call: None,
        }
    }

    /// Makes one call. `give_up` runs instead of `run` when a planned failure strikes first.
    pub(super) fn call<T>(
        &mut self,
        mut call: DiskCall,
        run: impl FnOnce(&mut Self) -> io::Result<T>,
        give_up: impl FnOnce(&mut Self),
    ) -> io::Result<T> {
        if self.last_call.is_some_and(|last| self.calls >= last) {
            return Err(crashed());
        }
        self.calls += 1;
        let planned = self.plan.remove(&self.calls);
        let error = planned
            .and_then(|planned| planned.fault.errno())
            .map(io::Error::from_raw_os_error);
        self.short = planned.is_some_and(|planned| planned.fault == DiskFault::Short);
        let result = match error {
            None => run(self),
            Some(error) if planned.is_some_and(|planned| planned.late) => {
                run(self).and_then(|_| Err(error))
            }
            Some(error) => {
                give_up(self);
                Err(error)
            }
        };
        self.short = false;
        call.number = self.calls;
        call.error = result.as_ref().err().map(io::Error::kind);
        if self.trace.len() == DISK_TRACE_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(call);
        result
    }

    pub(super) fn plan(&mut self, after: u64, fault: DiskFault, late: bool) {
        assert!(after > 0, "the next call is the first, not the zeroth");
        let planned = Planned { fault, late };
        self.plan.insert(self.calls.saturating_add(after), planned);
    }

    pub(super) fn clear_plan(&mut self) {
        self.plan.clear();
        self.mishap = None;
    }

    pub(super) fn read(&mut self, id: Id, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let asked = self.shorten(buffer.len());
        let file = self.tree.file(id);
        let left = file.current().len().saturating_sub(offset);
        let take = usize::try_from(left).map_or(asked, |left| left.min(asked));
        if take == 0 {
            return Ok(0);
        }
        if file.is_unreadable(offset, take as u64) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(file.current().read(&mut buffer[..take], offset))
    }

    /// Writes to a file that was opened as `path`.
    pub(super) fn write(
        &mut self,
        id: Id,
        path: &Path,
        bytes: &[u8],
        offset: u64,
    ) -> io::Result<usize> {
        check_size(offset, bytes.len() as u64)?;
        let mut take = self.shorten(bytes.len());
        if let Some(free) = self.free() {
            let content = self.tree.file(id).current();
            let fits = content.fitting(offset, take, free);
            if fits == 0 && take > 0 {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            take = fits;
        }
        let struck = self.mishap.take_if(|(below, _)| path.starts_with(below));
        let mishap = struck.map(|(_, mishap)| mishap);
        self.tree.file_mut(id).write(&bytes[..take], offset, mishap);
        Ok(take)
    }

    pub(super) fn set_len(&mut self, id: Id, len: u64) -> io::Result<()> {
        check_size(len, 0)?;
        self.tree.file_mut(id).set_len(len);
        Ok(())
    }

    /// Refuses what needs a new inode or directory block on a full disk.
    pub(super) fn need_space(&self) -> io::Result<()> {
        match self.free() {
            Some(free) if free < PAGE_BYTES as u64 => Err(io::Error::from_raw_os_error(ENOSPC)),
            _ => Ok(()),
        }
    }

    fn free(&self) -> Option<u64> {
        let used = || self.tree.allocated(self.open.keys().copied());
        self.capacity
            .map(|capacity| capacity.saturating_sub(used()))
    }

    fn shorten(&mut self, len: usize) -> usize {
        if !self.short || len < 2 {
            return len;
        }
        1 + self.random.index(len - 1)
    }

    /// One more handle on an inode.
    pub(super) fn retain(&mut self, id: Id) {
        *self.open.entry(id).or_default() += 1;
    }

    /// One handle less.
    pub(super) fn release(&mut self, id: Id) {
        if let Some(handles) = self.open.get_mut(&id) {
            *handles -= 1;
            if *handles == 0 {
                self.open.remove(&id);
            }
        }
    }

    pub(super) fn collect(&mut self) {
        self.tree.collect(self.open.keys().copied());
    }

    /// The machine stops: handles and locks are gone, caches too.
    pub(super) fn restart(&mut self) {
        self.generation += 1;
        self.last_call = None;
        self.open.clear();
        self.locks.clear();
    }
}

fn check_size(offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(()),
        _ => Err(io::Error::from_raw_os_error(EFBIG)),
    }
}
