//! Places to put a data directory: read-only ones, and full ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{run, skipped};

/// A mount that goes away with this.
pub(super) struct Mount {
    at: PathBuf,
}

impl Mount {
    /// A file system in memory of `size` at `at`; `None`, and said so, where that is not allowed.
    pub(super) fn memory(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=0700");
        let done = run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at));
        Self::made(at, done.code, &done.err)
    }

    /// `dir` itself, but read-only, at `at`.
    pub(super) fn read_only(dir: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let bound = run(Command::new("mount").arg("--bind").arg(dir).arg(at));
        let this = Self::made(at, bound.code, &bound.err)?;
        let done = run(Command::new("mount")
            .args(["-o", "remount,bind,ro"])
            .arg(at));
        if done.code != Some(0) {
            skipped(&format!("cannot mount read-only: {}", done.err.trim()));
            return None;
        }
        Some(this)
    }

    fn made(at: &Path, code: Option<i32>, said: &str) -> Option<Self> {
        if code != Some(0) {
            skipped(&format!("cannot mount: {}", said.trim()));
            return None;
        }
        Some(Self { at: at.to_owned() })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = run(Command::new("umount").arg("--lazy").arg(&self.at));
        if done.code != Some(0) {
            eprintln!("cannot unmount {}: {}", self.at.display(), done.err);
        }
    }
}
