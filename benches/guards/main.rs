//! Guards against slow code: counts the instructions of fixed pieces of work, and compares.
//!
//! ```text
//! guards COUNTS [--update] [NAME..]    counts under callgrind, all cases or those, and compares
//! guards --work NAME DIR               does one piece of work in the empty directory DIR
//! ```
//!
//! `run` builds this and starts it; what is counted stands in `cases/`, the counts in `counts.txt`,
//! and what is a failure in `compare.rs`.

mod cases;
mod compare;
mod count;

use std::env;
use std::path::Path;
use std::process::ExitCode;

use compare::{Counts, Verdict};

const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = env::args().skip(1).collect::<Vec<_>>();
    let arguments = arguments.iter().map(String::as_str).collect::<Vec<_>>();
    let (file, update, names) = match arguments[..] {
        ["--work", name, dir] => return work(name, Path::new(dir)),
        [file, "--update", ref names @ ..] => (file, true, names),
        [file, ref names @ ..] => (file, false, names),
        [] => return ExitCode::from(USAGE),
    };
    if let Some(unknown) = names.iter().find(|name| cases::find(name).is_none()) {
        let known = cases::ALL.map(|(name, _)| name).join(", ");
        eprintln!("no case {unknown}; there are {known}");
        return ExitCode::from(USAGE);
    }
    match check(file, update, names) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guards: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(name: &str, dir: &Path) -> ExitCode {
    let Some(case) = cases::find(name) else {
        eprintln!("no case {name}");
        return ExitCode::from(USAGE);
    };
    case(dir);
    println!("{}", count::processor());
    ExitCode::SUCCESS
}

/// Counts, compares and says so; whether all is as it was, or was written down anew.
fn check(file: &str, update: bool, names: &[&str]) -> Result<bool, String> {
    let was = match std::fs::read_to_string(file) {
        Ok(text) => Counts::parse(&text)?,
        Err(_) if update => Counts::default(),
        Err(error) => return Err(format!("{file}: {error}")),
    };
    let all = cases::ALL.map(|(name, _)| name);
    let chosen = if names.is_empty() { &all[..] } else { names };
    let is = count::count(chosen)?;
    let verdict = Verdict::of(&was, &is, &all);
    print!("{verdict}");
    if !update {
        let (cases, failed) = (verdict.rows.len(), verdict.failed());
        if failed > 0 {
            println!("what was meant: benches/guards/run --update, and say why in the commit");
        }
        println!("{cases} cases, {failed} failed");
        return Ok(failed == 0);
    }
    let updated = was.updated(is, &all)?;
    std::fs::write(file, updated.to_string()).map_err(|error| format!("{file}: {error}"))?;
    println!("written: {file}");
    Ok(true)
}
