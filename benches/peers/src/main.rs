//! Mainstay beside its peers and the machine's limits, in one run on one machine.
//!
//! Contenders take turns, round by round, so that what else the machine does meets all of them.
//! `benches/peers/run` builds this and installs what it needs.

mod curves;
mod engines;
mod limits;
mod measure;
mod node;
mod pair;
mod plot;
mod postgres;
mod process;
mod redis;
mod report;
mod results;
mod rig;
mod rows;

use curves::{CURVES, Grown};
use measure::Figures;
use report::{Measured, Rounds};
use rig::{Rig, Size};
use rows::{ROWS, Row};

/// The allocator of the binary that ships, which as there gets no huge pages: for all engines.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
Measures Mainstay beside PostgreSQL, Redis, Rust engines and the machine's limits.

Usage: benches/peers/run [--quick] [--rows] [--only ROW]... [--rounds N] [--json FILE]

  --quick       less of everything: three rounds, short ones
  --only ROW    this row or curve; may be given again
  --rows        all rows and no curve; RESULTS.md keeps the curves that it has
  --rounds N    rounds of each contender, 5 unless said otherwise
  --json FILE   write what was measured to FILE as well
  --list        the rows and curves, and what each asks

It prints ratios and figures, and writes them to benches/RESULTS.md with plots in benches/results.
With --quick that takes about ten minutes. It means something only while nothing else runs. All
of it needs 25 GB of free disk, 8 GB with --quick, below the directory that TMPDIR names.
";

struct Given {
    quick: bool,
    rows: bool,
    only: Vec<String>,
    rounds: Option<usize>,
    json: Option<String>,
}

fn main() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    if arguments.first().is_some_and(|first| first == "node") {
        return node::run(&arguments[1..]);
    }
    let given = match parse(&arguments) {
        Ok(Some(given)) => given,
        Ok(None) => return,
        Err(why) => {
            eprint!("{why}\n\n{USAGE}");
            std::process::exit(2);
        }
    };
    // Known before half an hour is spent.
    if let Some(path) = &given.json
        && let Err(error) = std::fs::write(path, "[]")
    {
        eprintln!("{path}: {error}");
        std::process::exit(1);
    }
    // Where the figures went on this machine is nobody else's business.
    let words = arguments.iter().map(|word| match given.json.as_ref() {
        Some(path) if path == word => "FILE",
        _ => word.as_str(),
    });
    let how = ["benches/peers/run"].into_iter().chain(words);
    let how = how.collect::<Vec<_>>().join(" ");
    let write = |all: &[Measured], grown: &[Grown]| {
        results::write(all, grown, &how).unwrap_or_else(|why| {
            eprintln!("{why}");
            std::process::exit(1);
        })
    };
    if given.only.is_empty()
        && let Err(why) = has_room(given.quick)
    {
        eprintln!("{why}");
        std::process::exit(1);
    }
    let mut measuring = Measuring::new(&given);
    let all = measuring.rows();
    println!("{}", report::table(&all));
    println!("{}", report::figures(&all));
    // A curve that fails takes no row with it.
    write(&all, &[]);
    let grown = measuring.curves();
    for grown in &grown {
        println!("{}", grown.sentence());
    }
    let written = write(&all, &grown);
    println!("\nWritten to {}.", written.display());
    if let Some(path) = given.json {
        let rows = all.iter().flat_map(Measured::json);
        let rows = rows
            .chain(grown.iter().map(Grown::json))
            .collect::<Vec<_>>();
        let text = serde_json::to_string_pretty(&rows).expect("it is JSON");
        if let Err(error) = std::fs::write(&path, text) {
            eprintln!("{path}: {error}");
            std::process::exit(1);
        }
    }
}

/// Whether the disk has room for all of it: PostgreSQL keeps its log on both ends.
fn has_room(quick: bool) -> Result<(), String> {
    const GB: u64 = 1_000_000_000;
    let (needed, less) = match quick {
        true => (8, "--only"),
        false => (25, "--quick or --only"),
    };
    let dir = std::env::temp_dir();
    let about = rustix::fs::statvfs(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let free = about.f_bavail * about.f_frsize / GB;
    match free >= needed {
        true => Ok(()),
        false => Err(format!(
            "{} has {free} GB free, and all rows and curves take up to {needed} GB\n  \
             Let TMPDIR name a directory on a disk with more, or give {less}.",
            dir.display(),
        )),
    }
}

fn parse(arguments: &[String]) -> Result<Option<Given>, String> {
    let mut given = Given {
        quick: false,
        rows: false,
        only: Vec::new(),
        rounds: None,
        json: None,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--quick" => given.quick = true,
            "--rows" => given.rows = true,
            "--only" => {
                let name = value()?;
                let row = ROWS.iter().any(|row| row.name == name);
                if !row && !CURVES.iter().any(|curve| curve.name == name) {
                    return Err(format!("there is no row {name}; --list names them"));
                }
                given.only.push(name.clone());
            }
            "--rounds" => {
                let count = value()?.parse().ok().filter(|count| *count > 0);
                given.rounds = Some(count.ok_or("--rounds takes a number from 1")?);
            }
            "--json" => given.json = Some(value()?.clone()),
            "--list" => {
                for row in ROWS {
                    println!("{:<14}{}", row.name, row.question);
                }
                for curve in CURVES {
                    println!("{:<14}{}, by {}", curve.name, curve.question, curve.x);
                }
                return Ok(None);
            }
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(None);
            }
            other => return Err(format!("{other} is not understood")),
        }
    }
    Ok(Some(given))
}

/// A run: what of everything is measured, and how much.
struct Measuring<'a> {
    given: &'a Given,
    size: Size,
    rounds: usize,
    rig: Rig,
}

impl<'a> Measuring<'a> {
    fn new(given: &'a Given) -> Self {
        let (size, rounds) = match given.quick {
            true => (
                Size {
                    quick: true,
                    seconds: 2.0,
                    bytes: 512 << 20,
                    rows: 500_000,
                },
                3,
            ),
            false => (
                Size {
                    quick: false,
                    seconds: 4.0,
                    bytes: 2 << 30,
                    rows: 3_000_000,
                },
                5,
            ),
        };
        Self {
            given,
            size,
            rounds: given.rounds.unwrap_or(rounds),
            rig: Rig::new(size),
        }
    }

    fn wanted(&self, name: &str) -> bool {
        let only = &self.given.only;
        only.is_empty() || only.iter().any(|only| only == name)
    }

    fn rows(&mut self) -> Vec<Measured> {
        let mut all: Vec<Measured> = Vec::new();
        for row in ROWS {
            if !self.wanted(row.name) {
                continue;
            }
            let known = all
                .iter()
                .find(|other| other.row.rounds_of() == row.rounds_of());
            let rounds = match known {
                Some(known) => shared(row, known),
                None => run(&mut self.rig, row, self.rounds),
            };
            all.push(Measured { row, all: rounds });
        }
        all
    }

    /// Curves show a shape, which few rounds do as well.
    fn curves(&self) -> Vec<Grown> {
        let (root, size, rounds) = (self.rig.root(), self.size, self.rounds.div_ceil(2));
        let curves = CURVES.iter().filter(|_| !self.given.rows);
        let curves = curves.filter(|curve| self.wanted(curve.name));
        let grown = curves.map(|curve| Grown::measure(curve, root, size, rounds));
        grown.collect()
    }
}

/// The rounds of another row, for those who answer this one.
fn shared(row: &Row, known: &Measured) -> Vec<Rounds> {
    let rounds = known
        .all
        .iter()
        .filter(|rounds| row.who.contains(&rounds.who));
    let rounds = rounds.map(|rounds| Rounds {
        who: rounds.who,
        rounds: rounds.rounds.clone(),
    });
    rounds.collect()
}

fn run(rig: &mut Rig, row: &'static Row, rounds: usize) -> Vec<Rounds> {
    let mut all = row.who.iter().map(|who| Rounds {
        who,
        rounds: Vec::new(),
    });
    let mut all = all.by_ref().collect::<Vec<_>>();
    for round in 1..=rounds {
        for contender in &mut all {
            let figures = rig.round(row.rounds_of(), contender.who);
            tell(row, round, rounds, contender.who, &figures);
            contender.rounds.push(figures);
        }
    }
    all
}

fn tell(row: &Row, round: usize, rounds: usize, who: &str, figures: &Figures) {
    let also = figures.also.iter();
    let also = also.map(|(name, value)| format!("{name} {}", report::short(*value)));
    eprintln!(
        "{} {round}/{rounds} {who}: {} {} ({})",
        row.name,
        report::short(figures.value),
        row.unit,
        also.collect::<Vec<_>>().join(", "),
    );
}
