//! Syncs that last for as long as a test wants.
//!
//! A sync that is held has not begun: what it was to make durable is pending, as on a device that
//! is still busy. Other calls go on meanwhile.

use std::path::{Path, PathBuf};

use parking_lot::{Condvar, Mutex};

/// Where syncs are held.
#[derive(Debug, Default)]
pub(super) struct Hold {
    dir: Mutex<Option<PathBuf>>,
    changed: Condvar,
}

impl Hold {
    pub(super) fn set(&self, dir: Option<&Path>) {
        *self.dir.lock() = dir.map(Path::to_owned);
        self.changed.notify_all();
    }

    /// Returns once syncs of the file at `path` are not held.
    pub(super) fn wait(&self, path: &Path) {
        let mut dir = self.dir.lock();
        while dir.as_ref().is_some_and(|dir| path.starts_with(dir)) {
            self.changed.wait(&mut dir);
        }
    }
}
