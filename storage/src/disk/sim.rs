//! The simulated twin of the disk: it tears, loses, flips, fills and fails, by seed.
//!
//! A [`SimDisk`] keeps for every file a durable image and the changes not synced yet, and for
//! every directory its durable names and the changes not synced yet. [`SimDisk::crash`] decides
//! what of the latter survives; planned faults make single calls fail. It knows no clock, no
//! threads and no randomness but its seed's, so the same calls on the same seed give the same
//! disk. It promises no more than the contract of [`Disk`]: in particular, a file whose name
//! was never made durable by a sync of its directory is lost, however often it was synced itself.
//!
//! The helpers that take a path and return no `Result` are for tests, and panic where a file is
//! missing. They are not calls: they are neither counted nor made to fail.

mod calls;
mod content;
mod crash;
mod damage;
mod file;
mod hold;
mod names;
mod random;
mod state;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

pub use crash::{CrashMode, Fill, SectorChoice};
pub use state::{DISK_TRACE_MAX, DiskCall, DiskFault, DiskOp};

use self::file::File;
use self::hold::Hold;
use self::random::Random;
use self::state::State;
use self::tree::Tree;

/// A simulated disk. Clones are handles on the same one; [`copy`](Self::copy) is another disk.
///
/// ```
/// use std::path::Path;
/// use mainstay_storage::{CrashMode, Disk, SimDisk};
/// let disk = SimDisk::new(7);
/// disk.create_dir(Path::new("/wal")).unwrap();
/// disk.sync_dir(Path::new("/")).unwrap();
/// let file = disk.create(Path::new("/wal/1")).unwrap();
/// disk.sync_dir(Path::new("/wal")).unwrap();
/// file.write_all_at(b"safe", 0).unwrap();
/// file.sync_data().unwrap();
/// file.write_all_at(b"gone", 4).unwrap();
/// disk.crash(CrashMode::LoseUnsynced);
/// assert_eq!(disk.read_file("/wal/1"), b"safe");
/// ```
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    /// The generation this handle ends with; `None` outlives every crash.
    boot: Option<u64>,
    hold: Arc<Hold>,
}

impl SimDisk {
    /// An empty disk. The seed decides garbage, short transfers and random crashes.
    pub fn new(seed: u64) -> Self {
        Self::of(State::new(Tree::new(), Random::new(seed)))
    }

    fn of(state: State) -> Self {
        Self {
            state: Arc::new(Mutex::new(state)),
            boot: None,
            hold: Arc::default(),
        }
    }

    /// An independent disk with the same contents, durable and pending, and the same capacity.
    /// Handles, locks, planned faults, the count of calls and their trace stay behind. Its seed
    /// is drawn from this disk's, so copies meet different fates; see [`reseed`](Self::reseed).
    ///
    /// Contents are shared until written, so this costs far less than the bytes copied.
    pub fn copy(&self) -> Self {
        let mut state = self.state.lock();
        let seed = state.random.next();
        let mut copy = State::new(state.tree.clone(), Random::new(seed));
        copy.capacity = state.capacity;
        Self::of(copy)
    }

    /// Starts the disk's random choices anew.
    pub fn reseed(&self, seed: u64) {
        self.state.lock().random = Random::new(seed);
    }

    /// A handle that dies with the next crash, as a process does. Give it to code that has
    /// threads of its own, so that they cannot reach the disk of the next incarnation.
    pub fn until_crash(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            boot: Some(self.state.lock().generation),
            hold: Arc::clone(&self.hold),
        }
    }

    /// The machine loses power and starts again: `mode` decides what survives of the changes not
    /// synced. Open files fail from now on, locks are released; planned faults stay.
    ///
    /// # Panics
    /// When `mode` names a file that does not exist.
    #[track_caller]
    pub fn crash(&self, mode: CrashMode) {
        let mut state = self.state.lock();
        let State { tree, random, .. } = &mut *state;
        tree.crash(&mode, random);
        state.restart();
        drop(state);
        // Whoever still waits for one finds that its machine is gone.
        self.release_syncs();
    }

    /// Takes the power away after `calls` more calls: those after it fail and change nothing, until
    /// [`crash`](Self::crash) decides what survived.
    pub fn cut_power_after(&self, calls: u64) {
        let mut state = self.state.lock();
        state.last_call = Some(state.calls.saturating_add(calls));
    }

    /// Whether it has power: a planned cut has not come.
    pub fn has_power(&self) -> bool {
        let state = self.state.lock();
        state.last_call.is_none_or(|last| state.calls < last)
    }

    /// Offsets in bytes of the 512-byte sectors of a file that have pending writes, ascending.
    ///
    /// # Panics
    /// When there is no such file.
    #[track_caller]
    pub fn pending_sectors(&self, path: impl AsRef<Path>) -> Vec<u64> {
        self.with_file(path.as_ref(), |file| file.pending_sectors())
    }

    /// Makes the `k`-th call from now fail, the next one being the first. A call that fails does
    /// nothing; but a sync that fails gives up the pending changes it was to make durable, while
    /// reads go on showing them, as a page cache does.
    ///
    /// # Panics
    /// When `k` is zero.
    #[track_caller]
    pub fn fail_call(&self, k: u64, fault: DiskFault) {
        self.state.lock().plan(k, fault, false);
    }

    /// Makes the `k`-th call from now report a failure although it did its work in full.
    ///
    /// # Panics
    /// When `k` is zero.
    #[track_caller]
    pub fn fail_call_late(&self, k: u64, fault: DiskFault) {
        self.state.lock().plan(k, fault, true);
    }

    /// Lets syncs of files in `dir` and below wait until [`release_syncs`](Self::release_syncs), or
    /// a crash, in which what they were to make durable is at stake.
    pub fn hold_syncs(&self, dir: impl AsRef<Path>) {
        self.hold.set(Some(dir.as_ref()));
    }

    /// Ends what [`hold_syncs`](Self::hold_syncs) began.
    pub fn release_syncs(&self) {
        self.hold.set(None);
    }

    /// Forgets planned failures and mishaps. Damage done already stays.
    pub fn clear_faults(&self) {
        self.state.lock().clear_plan();
    }

    /// Limits the space that contents may take to `bytes`, rounded down to pages of 4096. Beyond
    /// it writes come out short, then fail with `ENOSPC`; so does creating a file. Overwriting
    /// needs no space, and neither does an extension by `set_len`, which makes a hole.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = Some(bytes);
    }

    /// Lets contents take any space again.
    pub fn clear_capacity(&self) {
        self.state.lock().capacity = None;
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// The last [`DISK_TRACE_MAX`] calls, oldest first.
    pub fn trace(&self) -> Vec<DiskCall> {
        self.state.lock().trace.iter().cloned().collect()
    }

    /// Forgets the calls traced so far; they stay counted.
    pub fn clear_trace(&self) {
        self.state.lock().trace.clear();
    }

    /// The whole file as readers see it.
    ///
    /// # Panics
    /// When there is no such file.
    #[track_caller]
    pub fn read_file(&self, path: impl AsRef<Path>) -> Vec<u8> {
        self.with_file(path.as_ref(), |file| file.current().to_vec())
    }

    /// Puts a file there, replacing any, with its directories: names and contents are durable.
    ///
    /// # Panics
    /// When the path is, or leads through, something else than it should.
    #[track_caller]
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = path.as_ref();
        if let Err(error) = self.state.lock().tree.put(path, File::of(bytes)) {
            panic!("{}: {error}", path.display());
        }
    }

    /// Removes a file durably.
    ///
    /// # Panics
    /// When there is no such file.
    #[track_caller]
    pub fn remove_file(&self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        if let Err(error) = self.state.lock().tree.take(path) {
            panic!("{}: {error}", path.display());
        }
    }

    /// Absolute paths of all files, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state.lock().tree.files()
    }

    #[track_caller]
    fn with_file<T>(&self, path: &Path, run: impl FnOnce(&mut File) -> T) -> T {
        let mut state = self.state.lock();
        match state.tree.lookup_file(path) {
            Ok(id) => run(state.tree.file_mut(id)),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk")
            .field("boot", &self.boot)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
