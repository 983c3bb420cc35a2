//! The calls of a simulated disk: [`Disk`] and [`DiskFile`] as the state beneath answers them.
//!
//! Each call takes the disk's one lock, so calls are in one order. A handle belongs to the
//! incarnation of the machine that opened it and fails after a crash; such a call does not count.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::SimDisk;
use super::hold::Hold;
use super::state::{DiskCall, DiskOp, State};
use super::tree::Id;
use crate::disk::{Disk, DiskEntry, DiskFile, DiskLock};

impl SimDisk {
    fn enter(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        match self.boot {
            Some(boot) if boot != state.generation => Err(crashed()),
            _ => Ok(state),
        }
    }

    fn call<T>(
        &self,
        op: DiskOp,
        path: &Path,
        run: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.enter()?.call(DiskCall::new(op, path), run, |_| ())
    }

    /// Makes a call that finds or makes a file, and a handle on it, which holds the lock if the
    /// call is for one.
    fn handle(
        &self,
        op: DiskOp,
        path: &Path,
        run: impl FnOnce(&mut State) -> io::Result<Id>,
    ) -> io::Result<Handle> {
        let mut state = self.enter()?;
        let path: Arc<Path> = path.into();
        let id = state.call(DiskCall::new(op, Arc::clone(&path)), run, |_| ())?;
        state.retain(id);
        if op == DiskOp::Lock {
            state.locks.insert(id);
        }
        Ok(Handle {
            state: Arc::clone(&self.state),
            hold: Arc::clone(&self.hold),
            generation: state.generation,
            id,
            path,
        })
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let handle = self.handle(DiskOp::Open, path, |state| state.tree.lookup_file(path))?;
        Ok(Arc::new(SimFile(handle)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let handle = self.handle(DiskOp::Create, path, |state| {
            if state.tree.lookup(path).is_err() {
                state.need_space()?;
            }
            state.tree.create(path)
        })?;
        Ok(Arc::new(SimFile(handle)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut call = DiskCall::new(DiskOp::Rename, from);
        call.to = Some(to.into());
        self.enter()?
            .call(call, |state| state.tree.rename(from, to), |_| ())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call(DiskOp::Remove, path, |state| state.tree.remove(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call(DiskOp::RemoveDir, path, |state| state.tree.remove_dir(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call(DiskOp::CreateDir, path, |state| {
            if state.tree.lookup(path).is_err() {
                state.need_space()?;
            }
            state.tree.create_dir(path)
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.enter()?.call(
            DiskCall::new(DiskOp::SyncDir, path),
            |state| {
                let dir = state.tree.lookup_dir(path)?;
                state.tree.sync_dir(dir);
                state.collect();
                Ok(())
            },
            |state| {
                if let Ok(dir) = state.tree.lookup_dir(path) {
                    state.tree.forget_names(dir);
                }
            },
        )
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.hold.wait(path);
        self.enter()?.call(
            DiskCall::new(DiskOp::SyncFile, path),
            |state| {
                let file = state.tree.lookup_file(path)?;
                state.tree.file_mut(file).sync();
                Ok(())
            },
            |state| {
                if let Ok(file) = state.tree.lookup_file(path) {
                    state.tree.file_mut(file).forget();
                }
            },
        )
    }

    fn entry(&self, path: &Path) -> io::Result<Option<DiskEntry>> {
        self.call(DiskOp::Entry, path, |state| match state.tree.lookup(path) {
            Ok(id) => Ok(Some(state.tree.entry(id))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.call(DiskOp::List, path, |state| state.tree.list(path))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.call(DiskOp::Exists, path, |state| {
            match state.tree.lookup(path) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let handle = self.handle(DiskOp::Lock, path, |state| {
            match state.tree.lookup_file(path) {
                Ok(id) if state.locks.contains(&id) => Err(io::ErrorKind::WouldBlock.into()),
                Ok(id) => Ok(id),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    state.need_space()?;
                    state.tree.create(path)
                }
                Err(error) => Err(error),
            }
        })?;
        Ok(Box::new(SimLock(handle)))
    }
}

/// An inode held open, by the incarnation of the machine that opened it.
struct Handle {
    state: Arc<Mutex<State>>,
    hold: Arc<Hold>,
    generation: u64,
    id: Id,
    path: Arc<Path>,
}

impl Handle {
    fn enter(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.generation == self.generation {
            Ok(state)
        } else {
            Err(crashed())
        }
    }

    fn call(&self, op: DiskOp) -> DiskCall {
        DiskCall::new(op, Arc::clone(&self.path))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Ok(mut state) = self.enter() {
            state.release(self.id);
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("path", &self.path)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct SimLock(Handle);

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.enter() {
            state.locks.remove(&self.0.id);
        }
    }
}

#[derive(Debug)]
struct SimFile(Handle);

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let call = self.0.call(DiskOp::Read).at(offset, buffer.len());
        let read = |state: &mut State| state.read(self.0.id, buffer, offset);
        self.0.enter()?.call(call, read, |_| ())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let call = self.0.call(DiskOp::Write).at(offset, bytes.len());
        let write = |state: &mut State| state.write(self.0.id, &self.0.path, bytes, offset);
        self.0.enter()?.call(call, write, |_| ())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.hold.wait(&self.0.path);
        let id = self.0.id;
        self.0.enter()?.call(
            self.0.call(DiskOp::SyncData),
            |state| {
                state.tree.file_mut(id).sync();
                Ok(())
            },
            |state| state.tree.file_mut(id).forget(),
        )
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut call = self.0.call(DiskOp::SetLen);
        call.len = len;
        let set = |state: &mut State| state.set_len(self.0.id, len);
        self.0.enter()?.call(call, set, |_| ())
    }

    fn len(&self) -> io::Result<u64> {
        let len = |state: &mut State| Ok(state.tree.file(self.0.id).current().len());
        self.0.enter()?.call(self.0.call(DiskOp::Len), len, |_| ())
    }
}

pub(super) fn crashed() -> io::Error {
    io::Error::other("the simulated machine crashed; open the file again")
}
