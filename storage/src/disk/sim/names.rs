//! Changes of names, which a crash may take back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::tree::Id;

/// A name in a directory, and what it stands for from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) dir: Id,
    pub(super) name: OsString,
    pub(super) id: Option<Id>,
}

impl Name {
    pub(super) fn new(dir: Id, name: &OsStr, id: Option<Id>) -> Self {
        let name = name.to_owned();
        Self { dir, name, id }
    }

    pub(super) fn apply(&self, names: &mut BTreeMap<OsString, Id>) {
        match self.id {
            Some(id) => names.insert(self.name.clone(), id),
            None => names.remove(&self.name),
        };
    }
}

/// Names that change together or not at all.
#[derive(Debug, Clone)]
pub(super) struct NameChange {
    pub(super) names: Vec<Name>,
    /// What the file is called by then: one that moves is never lost.
    pub(super) behind: Option<Name>,
}

impl NameChange {
    pub(super) fn is_in(&self, dir: Id) -> bool {
        self.names.iter().any(|name| name.dir == dir)
    }
}

/// Forgets the names that `keep` does not let through.
pub(super) fn keep_names(changes: &mut Vec<NameChange>, keep: impl Fn(&Name) -> bool) {
    for change in &mut *changes {
        change.names.retain(&keep);
    }
    changes.retain(|change| !change.names.is_empty());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use crate::disk::{CrashMode, Disk, SimDisk};

    #[test]
    fn a_directory_has_one_name_whichever_of_both_directories_is_synced() {
        for synced in [Some("/a"), Some("/b"), None] {
            for mode in [CrashMode::LoseUnsynced, CrashMode::Random, CrashMode::Nasty] {
                let disk = SimDisk::new(3);
                disk.write_file("/a/new/f", b"moves");
                disk.write_file("/b/x", b"");
                disk.rename(Path::new("/a/new"), Path::new("/a/d")).unwrap();
                disk.rename(Path::new("/a/d"), Path::new("/b/d")).unwrap();
                if let Some(synced) = synced {
                    disk.sync_dir(Path::new(synced)).unwrap();
                }
                disk.crash(mode.clone());
                let there = disk.files();
                let moved = there.contains(&"/b/d/f".into());
                assert_eq!(there.len(), 2, "{synced:?}, {mode:?}: {there:?}");
                assert!(moved || synced.is_none(), "{synced:?}, {mode:?}");
            }
        }
    }

    #[test]
    fn no_crash_loses_a_file_that_moves() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let disk = SimDisk::new(seed);
            disk.write_file("/a/f", b"moves");
            disk.write_file("/b/x", b"");
            disk.rename(Path::new("/a/f"), Path::new("/b/f")).unwrap();
            disk.rename(Path::new("/b/f"), Path::new("/a/g")).unwrap();
            disk.crash(CrashMode::Nasty);
            let there = disk.files();
            assert!(there.len() > 1, "seed {seed}: it is gone");
            seen.insert(there);
        }
        assert!(seen.len() > 2, "{seen:?}");
    }
}
