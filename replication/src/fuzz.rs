//! What fuzzing calls: one function for each place where this crate takes bytes in.
//!
//! As in storage, where the rules stand: nothing panics, what was read is written back as it was,
//! and nothing takes more memory than its input is worth. Where a form is canonical, writing what
//! was read gives the same bytes.

mod entry;
mod frames;
mod messages;
mod texts;
mod verification;

pub use mainstay_storage::fuzz::{Input, Target};

use crate::runtime::fuzz as runtime;

/// Everything that can be fuzzed here.
pub const TARGETS: [Target; 17] = [
    ("frames", frames::frames),
    ("startup", frames::startup),
    ("frontend", messages::frontend),
    ("backend", messages::backend),
    ("streaming", messages::streaming),
    ("answers", runtime::answers),
    ("admission", entry::admission),
    ("login", entry::login),
    ("command", texts::command),
    ("policy", texts::policy),
    ("slots", texts::slots),
    ("verifier", texts::verifier),
    ("cluster", texts::cluster),
    ("comparison", verification::comparison),
    ("backup_files", runtime::backup_files),
    ("backup_archive", runtime::backup_archive),
    ("backup", runtime::backup),
];
