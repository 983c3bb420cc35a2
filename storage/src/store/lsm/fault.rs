//! From the library's errors to ours, and the first failure that stops a store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// Turns an error of the library into ours: what is wrong with the bytes is corruption, what the
/// system refused is I/O. A file that ends early, or an offset that makes no sense, comes from
/// bytes too.
pub(super) fn convert(op: &'static str, dir: &Path, error: lsm_tree::Error) -> Error {
    match error {
        lsm_tree::Error::Io(source) if !is_damage(source.kind()) => Error::io(op, dir, source),
        lsm_tree::Error::InvalidVersion(found) => Error::Format {
            path: dir.to_owned(),
            found: u32::from(found),
            supported: 3,
        },
        damaged => corrupt(dir, format!("{op}: {damaged}")),
    }
}

fn is_damage(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
    )
}

/// Damage of the store in `path`. A store has no positions of its own, so both are zero.
pub(super) fn corrupt(path: &Path, why: String) -> Error {
    Error::Corrupt {
        path: path.to_owned(),
        what: "store",
        at: Lsn::ZERO,
        proven: Lsn::ZERO,
        why,
    }
}

/// The first failure of an edit. After one, memory and disk may disagree about which tables
/// belong to the tree, and the next edit could overwrite the manifest that the disk names; so
/// every later call returns it, and only opening the store again helps.
#[derive(Debug, Default)]
pub(super) struct Fault(OnceLock<Failure>);

#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the store in {} stopped because {why}; what it has not kept is still in the log. Restart the node",
    dir.display()
)]
struct Failure {
    dir: PathBuf,
    corrupt: bool,
    why: String,
}

impl Fault {
    /// Keeps the first failure; later ones follow from it.
    pub(super) fn set(&self, dir: &Path, error: &Error) {
        tracing::error!(dir = %dir.display(), %error, "store stopped");
        let _ = self.0.set(Failure {
            dir: dir.to_owned(),
            corrupt: matches!(error, Error::Corrupt { .. }),
            why: error.to_string(),
        });
    }

    /// The failure, if there was one.
    pub(super) fn check(&self) -> Result<()> {
        match self.0.get() {
            None => Ok(()),
            Some(failure) if failure.corrupt => Err(corrupt(&failure.dir, failure.why.clone())),
            Some(failure) => Err(Error::Store(Box::new(failure.clone()))),
        }
    }
}
