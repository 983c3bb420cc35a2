//! The fuzz targets as usual tests: over the committed inputs, and over others made from them.
//!
//! What a target does, and what must hold, stands in each crate's `src/fuzz.rs`; the long run,
//! which is led by what of the code an input reaches, is
//!
//! ```text
//! ./tests/fuzz/run [--seconds N] [TARGET..]
//! ```
//!
//! Here a seed decides on the inputs, and the time (`MAINSTAY_FUZZ_SECONDS` for each target) on how
//! many there are. Any one is run again by `MAINSTAY_FUZZ=TARGET:SEED:NUMBER`, and a file by
//! `MAINSTAY_FUZZ=TARGET:PATH`.

mod mutator;
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mainstay_storage::fuzz::Target;

use mutator::Mutator;

/// Time for a target, unless told otherwise, in seconds; `tests/run` says more.
const SECONDS: u64 = 1;

/// Where the inputs begin, unless told otherwise.
const SEED: u64 = 1;

/// Most bytes that all committed inputs may take.
const CORPUS_BYTES_MAX: u64 = 300 << 10;

fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

/// The committed inputs of a target, by name.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = corpus_dir().join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect::<Vec<_>>();
    files.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("a readable file");
        (path, bytes)
    };
    files.into_iter().map(read).collect()
}

/// Runs a target, and says how to see it again if it fails.
fn run((name, body): Target, input: &[u8], which: impl Fn() -> String) -> bool {
    let passed = catch_unwind(|| body(input)).is_ok();
    if !passed {
        let which = which();
        println!("fuzz target {name} failed on {} bytes; again:", input.len());
        println!("  MAINSTAY_FUZZ={name}:{which} cargo test --test it fuzz::");
    }
    passed
}

/// How many inputs of a target passed until `end`, at least one; `None` if one failed.
fn fuzz(target: Target, seed: u64, end: Instant) -> Option<u64> {
    let committed = corpus(target.0);
    for (path, bytes) in &committed {
        if !run(target, bytes, || path.display().to_string()) {
            return None;
        }
    }
    let committed = committed.into_iter().map(|(_, bytes)| bytes);
    let committed = committed.collect::<Vec<_>>();
    let mut number = 0;
    while number == 0 || Instant::now() < end {
        let input = Mutator::new(seed, number).input(&committed);
        if !run(target, &input, || format!("{seed}:{number}")) {
            return None;
        }
        number += 1;
    }
    Some(number + committed.len() as u64)
}

/// Runs the one input that a failure named.
fn again(which: &str) {
    let (name, input) = which
        .split_once(':')
        .expect("TARGET:SEED:NUMBER or TARGET:PATH");
    let target = targets::all().find(|(target, _)| *target == name);
    let target = target.unwrap_or_else(|| panic!("no target is named {name:?}"));
    let numbers = input.split_once(':').and_then(|(seed, number)| {
        let seed = seed.parse::<u64>().ok()?;
        Some((seed, number.parse::<u64>().ok()?))
    });
    let input = match numbers {
        Some((seed, number)) => {
            let committed = corpus(name).into_iter().map(|(_, bytes)| bytes);
            Mutator::new(seed, number).input(&committed.collect::<Vec<_>>())
        }
        None => fs::read(input).expect("a readable file"),
    };
    println!("{} bytes: {}", input.len(), input.escape_ascii());
    (target.1)(&input);
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given
        .and_then(|given| given.parse().ok())
        .unwrap_or(default)
}

#[test]
fn no_input_breaks_what_must_hold() {
    if let Ok(which) = std::env::var("MAINSTAY_FUZZ") {
        return again(&which);
    }
    let seed = number("MAINSTAY_FUZZ_SEED", SEED);
    let time = Duration::from_secs(number("MAINSTAY_FUZZ_SECONDS", SECONDS));
    let (all, next) = (targets::all().collect::<Vec<_>>(), AtomicUsize::new(0));
    let (inputs, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let one_after_the_other = || {
        while let Some(target) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            match fuzz(*target, seed, Instant::now() + time) {
                Some(count) => {
                    println!("{:14} {count} inputs", target.0);
                    inputs.fetch_add(count, Ordering::Relaxed);
                }
                None => failed.lock().unwrap().push(target.0),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(one_after_the_other);
        }
    });
    // Past the capture of output: how much was tried is worth knowing when all is well.
    let (targets, inputs) = (all.len(), inputs.into_inner());
    let summary = format!("fuzz: {targets} targets, {inputs} inputs, seed {seed}\n");
    std::io::stderr()
        .write_all(summary.as_bytes())
        .expect("standard error");
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

#[test]
fn every_target_has_a_small_corpus_and_every_corpus_its_target() {
    let names = targets::all().map(|(name, _)| name.to_owned());
    let names = names.collect::<BTreeSet<_>>();
    assert_eq!(names.len(), targets::all().count(), "a name is used twice");
    let dirs = fs::read_dir(corpus_dir()).expect("the corpus");
    let dirs = dirs.map(|entry| entry.expect("readable").file_name().into_string());
    let dirs = dirs
        .collect::<Result<BTreeSet<_>, _>>()
        .expect("names of targets");
    assert_eq!(dirs, names);
    let files = names.iter().flat_map(|name| corpus(name));
    let bytes = files.map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes of corpus");
}

#[test]
fn the_same_number_gives_the_same_input_and_others_give_others() {
    let corpus = [b"a corpus of one".to_vec(), (0..=255).collect()];
    let inputs = |seed| (0..500).map(move |number| Mutator::new(seed, number));
    let inputs = |seed| {
        inputs(seed)
            .map(|mut of| of.input(&corpus))
            .collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    let different = inputs(1).into_iter().collect::<BTreeSet<_>>();
    assert!(different.len() > 450, "{} of 500", different.len());
    assert!(inputs(2) != inputs(1));
}

#[test]
fn a_target_that_fails_is_told_with_what_shows_it_again() {
    let target: Target = ("broken", |input| assert!(input.is_empty(), "not empty"));
    assert!(run(target, b"", || unreachable!("it passes")));
    assert!(!run(target, b"x", || "1:1".to_owned()));
}
