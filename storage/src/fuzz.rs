//! What fuzzing calls: one function for each place where this crate takes bytes in.
//!
//! A function takes any bytes and returns; it panics when something that must hold does not. The
//! rules are the same everywhere: nothing panics, what was read is written back as it was, and
//! nothing takes more memory than its input is worth. This room knows no runner: both the long
//! runs and the usual tests of the repository, in `tests/fuzz`, call what stands here.

mod files;
mod input;

pub use self::input::Input;

use crate::wal::fuzz as log;

/// A name, and what is done with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Everything that can be fuzzed here.
pub const TARGETS: [Target; 8] = [
    ("record", log::record),
    ("recovery", log::recovery),
    ("received_log", log::received),
    ("segment", log::segment),
    ("control", files::control),
    ("history", files::history),
    ("change", files::change),
    ("memory_copy", files::memory_copy),
];
