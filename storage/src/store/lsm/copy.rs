//! A consistent copy of the durable state, by hard links.
//!
//! Table files are never written again once they are registered, so a link is as good as a copy
//! and costs microseconds. The order matters: the table list is held first, so that no table of
//! it is deleted; then the manifest, which an edit may delete; then `current`, which must name
//! that manifest; then the tables.
//!
//! Installing a copy is renaming it to where the store should be, with nothing open there: a copy
//! needs no conversion. [`verify`] checks one that came over a network.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use lsm_tree::AbstractTree;
use xxhash_rust::xxh3::Xxh3;

use super::LsmOptions;
use super::engine::Shared;
use super::fault::corrupt;
use super::manifest::{self, CURRENT, TABLES};
use super::opened::Opened;
use crate::disk::{Disk, OsDisk};
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// How often a copy starts again because an edit came between. Each attempt takes microseconds,
/// an edit a millisecond.
const ATTEMPTS_MAX: usize = 100;

impl Shared {
    /// Copies the durable state into the empty directory `into` and returns its position.
    pub(super) fn copy(&self, into: &Path) -> Result<Lsn> {
        self.work.fault.check()?;
        if !manifest::list(into)?.is_empty() {
            let path = into.display();
            return Err(Error::Invalid(format!("{path} is not empty")));
        }
        let durable = {
            // Nothing becomes durable meanwhile, and the store does not close.
            let _flushing = self.flushing.lock();
            let tree = self.horizon.tree()?;
            let mut pin = tree.current_version();
            let mut attempts = 1;
            while !self.link_manifest(pin.id(), into)? {
                attempts += 1;
                if attempts > ATTEMPTS_MAX {
                    let busy = io::Error::from(io::ErrorKind::ResourceBusy);
                    return Err(Error::io("copy the manifest of", &self.dir, busy));
                }
                pin = tree.current_version();
            }
            let tables = into.join(TABLES);
            OsDisk
                .create_dir(&tables)
                .map_err(|error| Error::io("create", &tables, error))?;
            for table in pin.iter_tables() {
                let name = table.id().to_string();
                link(&self.dir.join(TABLES).join(&name), &tables.join(&name))?;
            }
            self.durable.get()
        };
        for dir in [&into.join(TABLES), into] {
            OsDisk
                .sync_dir(dir)
                .map_err(|error| Error::io("sync", dir, error))?;
        }
        Ok(durable)
    }

    /// Links the manifest `id` and writes `current` for it. False when an edit came between.
    fn link_manifest(&self, id: u64, into: &Path) -> Result<bool> {
        let (from, to) = (
            manifest::manifest(&self.dir, id),
            manifest::manifest(into, id),
        );
        match link(&from, &to) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(false);
            }
            linked => linked?,
        }
        let current = self.dir.join(CURRENT);
        let bytes = fs::read(&current).map_err(|error| Error::io("read", &current, error))?;
        if !bytes.starts_with(&id.to_le_bytes()) {
            fs::remove_file(&to).map_err(|error| Error::io("remove", &to, error))?;
            return Ok(false);
        }
        let path = into.join(CURRENT);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(&bytes)?;
            file.sync_all()
        };
        write().map_err(|error| Error::io("write", &path, error))?;
        Ok(true)
    }
}

/// Checks a copy byte by byte: the manifest against `current`, each table against the hash in the
/// manifest. Returns the position up to which the copy contains everything.
///
/// # Errors
/// [`Error::Corrupt`] when it is damaged or incomplete, disk errors.
pub fn verify(dir: &Path) -> Result<Lsn> {
    let _lock = manifest::prepare(dir, true)?;
    let options = LsmOptions {
        block_cache: 1 << 20,
        ..LsmOptions::default()
    };
    let tree = Opened::open(dir, &options, &Arc::default())?;
    for table in tree.tree.current_version().iter_tables() {
        let path = dir.join(TABLES).join(table.id().to_string());
        let hash = hash_of(&path).map_err(|error| Error::io("read", &path, error))?;
        if hash != table.checksum().into_u128() {
            return Err(corrupt(
                &path,
                "its hash differs from the manifest's".to_owned(),
            ));
        }
    }
    Ok(tree.durable)
}

fn hash_of(path: &Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.digest128()),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// Links a file, or copies it where the two directories lie on different file systems.
fn link(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()
    };
    let linked = match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(),
        linked => linked,
    };
    linked.map_err(|error| Error::io("link", from, error))
}
