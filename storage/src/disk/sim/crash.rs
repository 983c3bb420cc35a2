//! What a crash leaves of everything that was not synced.
//!
//! Synced bytes and names are never touched: a device that tears a write damages only the bytes
//! that write covers, which is the power-safe overwrite that logs of this kind rely on. Names,
//! sizes and contents survive independently of each other.

use std::path::PathBuf;
use std::sync::Arc;

use super::content::Content;
use super::file::{Change, File, SECTOR_BYTES, pieces};
use super::names::{Name, NameChange};
use super::random::Random;
use super::tree::{Node, Tree};

/// Percentages of pending sectors that a random crash lets arrive; one is drawn for each crash.
const SHARES: [u64; 6] = [0, 25, 50, 75, 90, 98];

/// What survives a crash, of that which was not synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing.
    LoseUnsynced,
    /// Everything, except what a failed sync gave up.
    KeepAll,
    /// Of each write, every 512-byte sector independently arrives, stays old, or becomes zeros or
    /// garbage; each size change independently arrives or not; of the names of the whole disk,
    /// those changed first arrive, up to a random point, as a journal would have it.
    Random,
    /// Like `Random`, but any subset of the changes of names arrives. No file is lost by being
    /// renamed.
    Nasty,
    /// Exactly the named sectors of one file.
    Sectors(SectorChoice),
}

/// Which of the sectors of one file that have pending writes survive a crash; for enumerating
/// every way in which a write may tear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectorChoice {
    /// The file.
    pub path: PathBuf,
    /// Bit `i` keeps the sector `pending_sectors(path)[i]`; sectors from the 65th on are not kept.
    pub keep: u64,
    /// What the pending bytes of the other sectors become.
    pub fill: Fill,
    /// Whether the file's size is the new one; otherwise it is what was last synced.
    pub keep_size: bool,
    /// Whether pending names and the pending writes of other files survive, or all are lost.
    pub keep_rest: bool,
}

/// What bytes become that were being written when the machine crashed.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Fill {
    /// What was there before.
    Old,
    /// `0x00`.
    Zero,
    /// Random bytes.
    Garbage,
    /// `0xFF`.
    Ones,
}

impl Tree {
    /// Drops the caches and pending changes, but for what `mode` lets survive.
    ///
    /// # Panics
    /// When `mode` names a file that does not exist.
    pub(super) fn crash(&mut self, mode: &CrashMode, random: &mut Random) {
        // Looked up before names are lost: the caller means the file it saw.
        let chosen = match mode {
            CrashMode::Sectors(choice) => Some(match self.lookup_file(&choice.path) {
                Ok(id) => id,
                Err(error) => panic!("cannot tear {}: {error}", choice.path.display()),
            }),
            _ => None,
        };
        self.crash_names(mode, random);
        // Few survive in some crashes, most in others: with one fixed share a tail of some length
        // would never survive whole.
        let share = SHARES[random.index(SHARES.len())];
        for (id, node) in &mut self.nodes {
            match &**node {
                Node::Dir(dir) if dir.current == dir.durable => continue,
                Node::File(file) if !file.is_volatile() => continue,
                _ => {}
            }
            match Arc::make_mut(node) {
                Node::Dir(dir) => dir.current = dir.durable.clone(),
                Node::File(file) => {
                    let image = match mode {
                        CrashMode::LoseUnsynced => file.durable().clone(),
                        CrashMode::KeepAll => file.synced_image(),
                        CrashMode::Random | CrashMode::Nasty => torn(file, share, random),
                        CrashMode::Sectors(choice) if Some(*id) == chosen => {
                            chosen_sectors(file, choice, random)
                        }
                        CrashMode::Sectors(choice) if choice.keep_rest => file.synced_image(),
                        CrashMode::Sectors(_) => file.durable().clone(),
                    };
                    file.restart(image);
                }
            }
        }
        self.collect(std::iter::empty());
    }

    fn crash_names(&mut self, mode: &CrashMode, random: &mut Random) {
        let mut changes = std::mem::take(&mut self.pending);
        match mode {
            CrashMode::LoseUnsynced => changes.clear(),
            CrashMode::KeepAll => {}
            CrashMode::Random => {
                let kept = random.index(changes.len() + 1);
                changes.truncate(kept);
            }
            CrashMode::Nasty => {
                return self.make_some_durable(changes, || random.chance(50));
            }
            CrashMode::Sectors(choice) if choice.keep_rest => {}
            CrashMode::Sectors(_) => changes.clear(),
        }
        self.make_durable(changes);
    }

    /// Makes any of the changes durable, in their order, that `arrives` lets through.
    fn make_some_durable(&mut self, changes: Vec<NameChange>, mut arrives: impl FnMut() -> bool) {
        for change in changes {
            let arrives = arrives();
            if arrives && change.behind.as_ref().is_none_or(|name| self.has(name)) {
                self.make_durable(vec![change]);
            }
        }
    }

    fn has(&self, name: &Name) -> bool {
        let durable = self.dir(name.dir).ok().map(|dir| &dir.durable);
        durable.and_then(|names| names.get(&name.name)).copied() == name.id
    }
}

/// The image after every pending sector and size went its own way.
fn torn(file: &File, share: u64, random: &mut Random) -> Content {
    let mut image = file.durable().clone();
    // The image may grow beyond the size meanwhile: data can arrive where the size does not.
    let mut size = image.len();
    for change in file.pending() {
        match change {
            Change::SetLen(len) => {
                if random.chance(50) {
                    image.set_len(*len);
                    size = *len;
                }
                image.grow(*len);
            }
            Change::Write {
                offset,
                bytes,
                grows_to,
            } => {
                image.grow(grows_to.unwrap_or(0));
                for (at, piece) in pieces(*offset, bytes) {
                    if random.chance(share) {
                        image.patch(piece, at);
                    } else {
                        let fill = [Fill::Old, Fill::Zero, Fill::Garbage][random.index(3)];
                        fill_piece(&mut image, at, piece.len(), fill, random);
                    }
                }
                if let Some(grown) = grows_to
                    && random.chance(50)
                {
                    size = *grown;
                }
            }
        }
    }
    image.set_len(size);
    image
}

/// The image with the kept sectors new and the others filled.
fn chosen_sectors(file: &File, choice: &SectorChoice, random: &mut Random) -> Content {
    let new = file.synced_image();
    let mut image = file.durable().clone();
    let size = if choice.keep_size {
        new.len()
    } else {
        image.len()
    };
    for change in file.pending() {
        match change {
            Change::SetLen(len) if choice.keep_size => image.set_len(*len),
            _ => {}
        }
    }
    image.grow(new.len());
    let sectors = file.pending_sectors();
    let kept = |at: u64| {
        let place = sectors.binary_search(&(at - at % SECTOR_BYTES));
        place.is_ok_and(|i| i < 64 && (choice.keep >> i) & 1 == 1)
    };
    for change in file.pending() {
        let Change::Write { offset, bytes, .. } = change else {
            continue;
        };
        for (at, piece) in pieces(*offset, bytes) {
            if kept(at) {
                let mut arrived = vec![0; piece.len()];
                let length = new.read(&mut arrived, at);
                image.patch(&arrived[..length], at);
            } else {
                fill_piece(&mut image, at, piece.len(), choice.fill, random);
            }
        }
    }
    image.set_len(size);
    image
}

fn fill_piece(image: &mut Content, at: u64, len: usize, fill: Fill, random: &mut Random) {
    let mut bytes = vec![0; len];
    match fill {
        Fill::Old => return,
        Fill::Zero => {}
        Fill::Garbage => random.fill(&mut bytes),
        Fill::Ones => bytes.fill(0xFF),
    }
    image.patch(&bytes, at);
}
