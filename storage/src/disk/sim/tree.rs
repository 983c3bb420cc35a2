//! The simulated disk's image: files and directories by inode, names durable and pending.
//!
//! A directory has two sets of names, those readers see and those a crash leaves; the changes in
//! between are one list for the whole disk, in the order a journal would have. Paths are looked
//! up from the root whether or not they begin with `/`. Cloning shares everything until written.
//! Faults, handles and locks are not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::file::File;
use super::names::{Name, NameChange, keep_names};
use crate::disk::DiskEntry;

/// An inode number; never used twice.
pub(super) type Id = u64;

const ROOT: Id = 0;

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(File),
    Dir(Dir),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Dir {
    pub(super) current: BTreeMap<OsString, Id>,
    pub(super) durable: BTreeMap<OsString, Id>,
}

#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Id, Arc<Node>>,
    pub(super) pending: Vec<NameChange>,
    next_id: Id,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Arc::new(Node::Dir(Dir::default()));
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            pending: Vec::new(),
            next_id: ROOT + 1,
        }
    }

    /// The file or directory of this name, as readers see it.
    pub(super) fn lookup(&self, path: &Path) -> io::Result<Id> {
        let mut at = ROOT;
        for part in path.components() {
            if let Some(name) = plain(part)? {
                at = *self
                    .dir(at)?
                    .current
                    .get(name)
                    .ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(at)
    }

    pub(super) fn lookup_file(&self, path: &Path) -> io::Result<Id> {
        let id = self.lookup(path)?;
        match *self.nodes[&id] {
            Node::File(_) => Ok(id),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn lookup_dir(&self, path: &Path) -> io::Result<Id> {
        let id = self.lookup(path)?;
        self.dir(id).map(|_| id)
    }

    pub(super) fn dir(&self, id: Id) -> io::Result<&Dir> {
        match self.nodes.get(&id).map(|node| &**node) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn dir_mut(&mut self, id: Id) -> &mut Dir {
        match self.node_mut(id) {
            Node::Dir(dir) => dir,
            Node::File(_) => unreachable!("inode {id} was looked up as a directory"),
        }
    }

    /// The file of this inode, which a handle or a lookup vouches for.
    pub(super) fn file(&self, id: Id) -> &File {
        match &*self.nodes[&id] {
            Node::File(file) => file,
            Node::Dir(_) => unreachable!("inode {id} was looked up as a file"),
        }
    }

    pub(super) fn file_mut(&mut self, id: Id) -> &mut File {
        match self.node_mut(id) {
            Node::File(file) => file,
            Node::Dir(_) => unreachable!("inode {id} was looked up as a file"),
        }
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        let node = self.nodes.get_mut(&id);
        Arc::make_mut(node.expect("an inode lives as long as a name or handle on it"))
    }

    /// The directory that holds `path`'s name, and the name.
    fn parent<'path>(&self, path: &'path Path) -> io::Result<(Id, &'path OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.lookup_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name))
    }

    fn add(&mut self, node: Node) -> Id {
        let id = self.next_id;
        self.next_id += 1;
        self.nodes.insert(id, Arc::new(node));
        id
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Id> {
        let (dir, name) = self.parent(path)?;
        if self.dir(dir)?.current.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.add(Node::File(File::default()));
        self.change(vec![Name::new(dir, name, Some(id))]);
        Ok(id)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let Some(name) = plain(part)? else { continue };
            at = match self.dir(at)?.current.get(name) {
                Some(id) => *id,
                None => {
                    let id = self.add(Node::Dir(Dir::default()));
                    self.change(vec![Name::new(at, name, Some(id))]);
                    id
                }
            };
            if parts.peek().is_none() && self.dir(at).is_err() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.lookup_file(path)?;
        let (dir, name) = self.parent(path)?;
        self.change(vec![Name::new(dir, name, None)]);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let id = self.lookup_dir(path)?;
        let (dir, name) = self.parent(path)?;
        if !self.dir(id)?.current.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(vec![Name::new(dir, name, None)]);
        Ok(())
    }

    pub(super) fn entry(&self, id: Id) -> DiskEntry {
        match *self.nodes[&id] {
            Node::File(_) => DiskEntry::File,
            Node::Dir(_) => DiskEntry::Dir,
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let source = *self
            .dir(from_dir)?
            .current
            .get(from_name)
            .ok_or(io::ErrorKind::NotFound)?;
        let target = self.dir(to_dir)?.current.get(to_name).copied();
        if target == Some(source) {
            return Ok(());
        }
        self.check_rename(source, target, from, to)?;
        let link = Name::new(to_dir, to_name, Some(source));
        let unlink = Name::new(from_dir, from_name, None);
        // A directory has one name on any file system.
        if from_dir == to_dir || self.entry(source) == DiskEntry::Dir {
            self.change(vec![link, unlink]);
        } else {
            // Two directories, two promises: each half needs the sync of its own directory.
            self.change(vec![link.clone()]);
            self.change(vec![unlink]);
            self.pending.last_mut().expect("one was added").behind = Some(link);
        }
        Ok(())
    }

    /// The rules of rename(2) about directories.
    fn check_rename(
        &self,
        source: Id,
        target: Option<Id>,
        from: &Path,
        to: &Path,
    ) -> io::Result<()> {
        let passes = |path: &Path, id| {
            let mut above = path.ancestors().skip(1);
            above.any(|dir| self.lookup(dir).is_ok_and(|found| found == id))
        };
        if passes(to, source) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let Some(target) = target else { return Ok(()) };
        if passes(from, target) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        match (&*self.nodes[&source], &*self.nodes[&target]) {
            (Node::Dir(_), Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            (Node::File(_), Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            (Node::Dir(_), Node::Dir(dir)) if !dir.current.is_empty() => {
                Err(io::ErrorKind::DirectoryNotEmpty.into())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let names = self.dir(self.lookup(path)?)?.current.keys();
        Ok(names
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    fn change(&mut self, names: Vec<Name>) {
        for name in &names {
            name.apply(&mut self.dir_mut(name.dir).current);
        }
        let behind = None;
        self.pending.push(NameChange { names, behind });
    }

    /// Makes the pending names of a directory durable. With a directory that moved goes what was
    /// pending before where it came from or went to.
    pub(super) fn sync_dir(&mut self, dir: Id) {
        let mut dirs = BTreeSet::from([dir]);
        let pending = std::mem::take(&mut self.pending);
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for change in pending.into_iter().rev() {
            match dirs.iter().any(|dir| change.is_in(*dir)) {
                true => {
                    dirs.extend(change.names.iter().map(|name| name.dir));
                    ours.push(change);
                }
                false => others.push(change),
            }
        }
        ours.reverse();
        others.reverse();
        self.pending = others;
        self.make_durable(ours);
    }

    /// A failed sync: the pending names of a directory will never be written.
    pub(super) fn forget_names(&mut self, dir: Id) {
        self.pending.retain(|change| !change.is_in(dir));
    }

    pub(super) fn make_durable(&mut self, changes: Vec<NameChange>) {
        for name in changes.iter().flat_map(|change| &change.names) {
            name.apply(&mut self.dir_mut(name.dir).durable);
        }
    }

    /// Binds a name, durably and at once, and settles what was pending for it.
    fn bind(&mut self, dir: Id, name: &OsStr, id: Option<Id>) {
        let bound = Name::new(dir, name, id);
        let other = |pending: &Name| pending.dir != dir || pending.name != bound.name;
        keep_names(&mut self.pending, other);
        let dir = self.dir_mut(dir);
        bound.apply(&mut dir.current);
        bound.apply(&mut dir.durable);
    }

    /// Puts a durable file there, with its directories.
    pub(super) fn put(&mut self, path: &Path, file: File) -> io::Result<()> {
        let mut at = ROOT;
        let parent = path.parent().unwrap_or(Path::new(""));
        for part in parent.components() {
            let Some(name) = plain(part)? else { continue };
            let found = self.dir(at)?.current.get(name).copied();
            let id = found.unwrap_or_else(|| self.add(Node::Dir(Dir::default())));
            self.bind(at, name, Some(id));
            at = id;
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let id = match self.dir(at)?.current.get(name) {
            Some(_) => self.lookup_file(path)?,
            None => self.add(Node::File(File::default())),
        };
        self.bind(at, name, Some(id));
        *self.file_mut(id) = file;
        Ok(())
    }

    /// Takes a file's name away durably.
    pub(super) fn take(&mut self, path: &Path) -> io::Result<()> {
        self.lookup_file(path)?;
        let (dir, name) = self.parent(path)?;
        self.bind(dir, name, None);
        Ok(())
    }

    /// Paths of all files, sorted.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, id)) = open.pop() {
            match &*self.nodes[&id] {
                Node::File(_) => found.push(path),
                Node::Dir(dir) => {
                    open.extend(dir.current.iter().map(|(name, id)| (path.join(name), *id)));
                }
            }
        }
        found.sort();
        found
    }

    /// Bytes of space taken by what has a name or an open handle.
    pub(super) fn allocated(&self, open: impl Iterator<Item = Id>) -> u64 {
        let live = self.reachable(open, false);
        let nodes = live.iter().map(|id| &*self.nodes[id]);
        nodes
            .map(|node| match node {
                Node::File(file) => file.current().allocated(),
                Node::Dir(_) => 0,
            })
            .sum()
    }

    /// Drops the inodes that no name, pending change or open handle leads to.
    pub(super) fn collect(&mut self, open: impl Iterator<Item = Id>) {
        let live = self.reachable(open, true);
        self.nodes.retain(|id, _| live.contains(id));
        // A directory that is gone takes what was pending in it along.
        keep_names(&mut self.pending, |name| live.contains(&name.dir));
    }

    fn reachable(&self, open: impl Iterator<Item = Id>, durably: bool) -> BTreeSet<Id> {
        let mut todo: Vec<Id> = open.chain([ROOT]).collect();
        if durably {
            let names = self.pending.iter().flat_map(|change| &change.names);
            todo.extend(names.filter_map(|name| name.id));
        }
        let mut live = BTreeSet::new();
        while let Some(id) = todo.pop() {
            if live.insert(id)
                && let Node::Dir(dir) = &*self.nodes[&id]
            {
                todo.extend(dir.current.values());
                if durably {
                    todo.extend(dir.durable.values());
                }
            }
        }
        live
    }
}

/// The name in a path's component, if it has one. Parent references are not simulated.
fn plain(part: Component<'_>) -> io::Result<Option<&OsStr>> {
    match part {
        Component::Normal(name) => Ok(Some(name)),
        Component::ParentDir => Err(io::ErrorKind::InvalidInput.into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => Ok(None),
    }
}
