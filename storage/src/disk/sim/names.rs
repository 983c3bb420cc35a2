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
