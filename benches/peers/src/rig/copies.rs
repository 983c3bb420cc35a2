//! Copies of a node's data: of a primary that is at rest, to a standby or as files.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::text;
use crate::limits;
use crate::measure::Figures;
use crate::process::Node;

/// A store whose tables stay the same for so long is at rest.
const QUIET: Duration = Duration::from_millis(500);

/// Longest until a store is, after the largest load.
const PATIENCE: Duration = Duration::from_secs(300);

/// Rows of 1 KiB, as many as make `bytes`.
pub(crate) fn filled(dir: &Path, bytes: u64) -> Node {
    let mut primary = Node::start(&dir.join("a"), "a", &[]);
    let answer = primary.ask(&format!("load {} 100 1024 ordered", bytes / 1032));
    primary.ask(&format!("applied {}", text(&answer, "end")));
    rest(&dir.join("a"));
    primary
}

/// Waits until a node has written out and merged what it had to, as PostgreSQL is asked for a
/// checkpoint before its data are copied.
fn rest(dir: &Path) {
    let tables = || {
        let entries = std::fs::read_dir(dir.join("store/tables")).expect("it has a store");
        let found = entries.filter_map(|entry| {
            let entry = entry.expect("it is there");
            // One that was merged meanwhile is gone.
            Some((entry.file_name(), entry.metadata().ok()?.len()))
        });
        found.collect::<BTreeSet<_>>()
    };
    let begun = Instant::now();
    let (mut seen, mut since) = (tables(), begun);
    while since.elapsed() < QUIET {
        assert!(begun.elapsed() < PATIENCE, "its tables never stay the same");
        std::thread::sleep(QUIET / 20);
        let now = tables();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}

pub(super) fn base_backup(dir: &Path, bytes: u64) -> Figures {
    let primary = filled(dir, bytes);
    limits::warm_memory(bytes);
    let begun = Instant::now();
    let _standby = Node::start(&dir.join("b"), "b", &["--follow", &primary.address]);
    let took = begun.elapsed().as_secs_f64();
    Figures::of(size_of(&dir.join("b")) as f64 / took / 1e6)
}

pub(super) fn copy(dir: &Path, bytes: u64) -> Figures {
    let node = filled(dir, bytes);
    drop(node);
    limits::warm_memory(bytes);
    limits::copy(&dir.join("a"), &dir.join("copy"))
}

/// Bytes of all files below `dir`.
pub(crate) fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("it is there");
    let sizes = entries.map(|entry| {
        let entry = entry.expect("it is there");
        let about = entry.metadata().expect("it is there");
        match about.is_dir() {
            true => size_of(&entry.path()),
            false => about.len(),
        }
    });
    sizes.sum()
}
