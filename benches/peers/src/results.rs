//! The results as a file that people read, with a plot of each question beside it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::curves::{CURVES, Grown};
use crate::plot;
use crate::report::{self, Measured};
use crate::rows::ROWS;

/// Where results go: the directory above this program's.
fn benches() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("it has one")
        .to_owned()
}

/// Where the curves begin.
const GROWTH: &str = "\n## How it grows\n";

/// Writes `RESULTS.md` and the plots, and returns where. Rows and curves take their time: what was
/// measured of neither is kept as an earlier run left it.
///
/// # Errors
/// What cannot be written, and why.
pub(crate) fn write(all: &[Measured], grown: &[Grown], how: &str) -> Result<PathBuf, String> {
    let path = benches().join("RESULTS.md");
    let plots = benches().join("results");
    let failed = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    std::fs::create_dir_all(&plots).map_err(|error| failed(&plots, &error))?;
    // Plots of what was not measured now would be of another run than the text beside them.
    let rows = ROWS.iter().map(|row| row.name);
    let stale = rows.filter(|_| !all.is_empty());
    let curves = CURVES.iter().map(|curve| curve.name);
    for name in stale.chain(curves.filter(|_| !grown.is_empty())) {
        match std::fs::remove_file(plots.join(format!("{name}.svg"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(&plots, &error));
            }
            _ => {}
        }
    }
    for measured in all {
        let file = plots.join(format!("{}.svg", measured.row.name));
        plot::row(&file, measured).map_err(|error| failed(&file, &error))?;
    }
    for grown in grown {
        let file = plots.join(format!("{}.svg", grown.curve.name));
        plot::curve(&file, grown).map_err(|error| failed(&file, &error))?;
    }
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let (head, tail) = match before.find(GROWTH) {
        Some(at) => before.split_at(at),
        None => (&before[..], ""),
    };
    let rows = match all.is_empty() {
        true => head.to_owned(),
        false => rows_text(all, how),
    };
    let curves = match grown.is_empty() {
        true => tail.to_owned(),
        false => curves_text(grown, how),
    };
    std::fs::write(&path, format!("{rows}{curves}")).map_err(|error| failed(&path, &error))?;
    Ok(path)
}

fn rows_text(all: &[Measured], how: &str) -> String {
    let mut text = format!(
        "# Results\n\nWritten by `{how}`. Ratios are of medians, Mainstay's by the other's; beside \
         them the worst and the best of the rounds that were measured together. Absolute figures \
         are this machine's and change with the hour.\n\n{}\n",
        machine()
    );
    let (table, figures) = (report::table(all), report::figures(all));
    let used = report::used(all);
    put(
        &mut text,
        &format!("\n## Ratios\n\n{table}\n## Figures\n\n{figures}"),
    );
    put(
        &mut text,
        &format!(
            "\n## Processor time and memory\n\nThe medians of both nodes together while they were measured, and the most that one of them had in use.\n\n{used}"
        ),
    );
    put(&mut text, "\n## Plots\n");
    for measured in all {
        let (name, question) = (measured.row.name, measured.row.question);
        put(&mut text, &format!("\n![{question}](results/{name}.svg)\n"));
    }
    text
}

fn curves_text(grown: &[Grown], how: &str) -> String {
    let mut text = format!("{GROWTH}\nWritten by `{how}`, with half as many rounds.\n");
    for grown in grown {
        let (name, question) = (grown.curve.name, grown.curve.question);
        let sentence = grown.sentence();
        put(
            &mut text,
            &format!("\n{sentence}\n\n![{question}](results/{name}.svg)\n"),
        );
    }
    text
}

fn put(text: &mut String, more: &str) {
    text.write_str(more).expect("it is memory");
}

/// What it was measured on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let version = |program: &str| {
        let out = Command::new(program).arg("--version").output();
        let text = out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
        text.unwrap_or_else(|error| format!("{program}: {error}"))
    };
    let postgres = crate::postgres::bin_dir().join("postgres");
    format!(
        "- {cores} cores, {}; {} of memory; Linux {}\n- {}\n- {}\n",
        field(&cpu, "model name"),
        field(&memory, "MemTotal"),
        kernel.trim(),
        version(&postgres.to_string_lossy()),
        version("redis-server"),
    )
}
