//! The program that libFuzzer drives. It is one for all targets, since each would link all of the
//! product; `MAINSTAY_FUZZ_TARGET` names the one that a process runs.

#![no_main]

mod targets;

use std::sync::LazyLock;

static CHOSEN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("MAINSTAY_FUZZ_TARGET").unwrap_or_default();
    let found = targets::all().find(|(target, _)| *target == name);
    found
        .unwrap_or_else(|| panic!("no target is named {name:?}"))
        .1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| CHOSEN(data));
