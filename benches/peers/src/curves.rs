//! How Mainstay's figures grow: with standbys, committers, backlog, log, load and data.
//!
//! Each curve is measured at a few places, all of them once a round, and every place has nodes of
//! its own in empty directories.

use std::path::Path;
use std::time::Instant;

use crate::measure::Spread;
use crate::pair::Pair;
use crate::process::{Node, peak_mib};
use crate::rig::copies::{filled, size_of};
use crate::rig::{Size, clear, cluster, cluster_commits, seconds, text, warm};

const MIB: f64 = (1 << 20) as f64;

/// One curve: what is asked, and where it is measured.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) question: &'static str,
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    places: &'static [f64],
    /// Those of a quick run.
    quick: &'static [f64],
    measure: fn(&Path, f64, Size) -> Values,
}

/// The values of one place, by the names of their series.
type Values = Vec<(&'static str, f64)>;

pub(crate) const CURVES: &[Curve] = &[
    Curve {
        name: "standbys",
        question: "How fast log gets to the disks of all standbys",
        x: "standbys",
        y: "MB/s",
        places: &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
        quick: &[1.0, 4.0],
        measure: standbys,
    },
    Curve {
        name: "committers",
        question: "How long a commit takes that is flushed on both nodes",
        x: "clients",
        y: "us",
        places: &[1.0, 4.0, 16.0, 64.0, 256.0],
        quick: &[1.0, 64.0],
        measure: committers,
    },
    Curve {
        name: "backlog",
        question: "How fast a standby that comes back catches up",
        x: "log that it lacks, MiB",
        y: "MB/s",
        places: &[128.0, 512.0, 2048.0, 8192.0],
        quick: &[64.0, 256.0],
        measure: backlog,
    },
    Curve {
        name: "recovery",
        question: "How long a node that was killed takes to open its log",
        x: "log since the checkpoint, MiB",
        y: "ms",
        places: &[16.0, 128.0, 512.0, 2048.0],
        quick: &[16.0, 128.0],
        measure: recovery,
    },
    Curve {
        name: "reads",
        question: "How long a read on a standby takes while it applies",
        x: "part of the primary's highest rate, percent",
        y: "us",
        places: &[0.0, 25.0, 50.0, 100.0],
        quick: &[0.0, 50.0],
        measure: reads,
    },
    Curve {
        name: "copies",
        question: "How fast a standby begins with a copy of the primary's data",
        x: "data, MiB",
        y: "MB/s",
        places: &[64.0, 256.0, 1024.0, 4096.0],
        quick: &[64.0, 256.0],
        measure: copies,
    },
    Curve {
        name: "opening",
        question: "How long a node that was stopped takes to open its data",
        x: "data, MiB",
        y: "ms",
        places: &[1.0, 64.0, 256.0, 1024.0, 4096.0],
        quick: &[1.0, 128.0],
        measure: opening,
    },
];

/// A series of a curve: its name, and where it stands at each place.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, Spread)>,
}

/// A curve that was measured.
pub(crate) struct Grown {
    pub(crate) curve: &'static Curve,
    pub(crate) series: Vec<Series>,
}

impl Grown {
    /// Measures `curve` below `root`, every place `rounds` times.
    pub(crate) fn measure(curve: &'static Curve, root: &Path, size: Size, rounds: usize) -> Self {
        let places = if size.quick {
            curve.quick
        } else {
            curve.places
        };
        let mut all: Vec<Vec<Values>> = vec![Vec::new(); places.len()];
        for round in 1..=rounds {
            for (place, values) in places.iter().zip(&mut all) {
                let dir = root.join(format!("{}-{round}-{place}", curve.name));
                std::fs::create_dir(&dir).expect("there is room");
                let found = (curve.measure)(&dir, *place, size);
                clear(&dir);
                let shown = found.iter();
                let shown =
                    shown.map(|(name, value)| format!("{name} {}", crate::report::short(*value)));
                let shown = shown.collect::<Vec<_>>().join(", ");
                eprintln!(
                    "{} {round}/{rounds} at {place} {}: {shown}",
                    curve.name, curve.x
                );
                values.push(found);
            }
        }
        let names = all[0][0].iter().map(|(name, _)| *name);
        let series = names.enumerate().map(|(at, name)| {
            let points = places.iter().zip(&all).map(|(place, rounds)| {
                let values = rounds.iter().map(|values| values[at].1).collect();
                (*place, Spread::of(values))
            });
            let points = points.collect();
            Series { name, points }
        });
        let series = series.collect();
        Self { curve, series }
    }

    /// What the curve says, of each series.
    pub(crate) fn sentence(&self) -> String {
        let short = crate::report::short;
        let of = |series: &Series| {
            let ends = series.points.first().zip(series.points.last());
            let ((from, first), (to, last)) = ends.expect("it has places");
            let unit = match series.name.strip_suffix("_mib") {
                Some(_) => "MiB",
                None => self.curve.y,
            };
            format!(
                "{} {} {unit} at {} and {} {unit} at {}",
                series.name,
                short(first.median),
                short(*from),
                short(last.median),
                short(*to)
            )
        };
        let all = self.series.iter().map(of).collect::<Vec<_>>();
        format!(
            "{} ({}): {}.",
            self.curve.question,
            self.curve.x,
            all.join("; ")
        )
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        let series = self.series.iter().map(|series| {
            let points = series.points.iter();
            let points = points.map(|(x, y)| serde_json::json!({ "x": x, "y": y.json() }));
            let points = points.collect::<Vec<_>>();
            serde_json::json!({ "name": series.name, "points": points })
        });
        serde_json::json!({
            "curve": self.curve.name,
            "question": self.curve.question,
            "x": self.curve.x,
            "y": self.curve.y,
            "series": series.collect::<Vec<_>>(),
        })
    }
}

/// Log of a curve that is no question of size, in bytes.
fn some_log(size: Size) -> u64 {
    size.bytes / 8
}

fn standbys(dir: &Path, count: f64, size: Size) -> Values {
    let mut primary = Node::start(&dir.join("a"), "a", &["--log"]);
    let mut standbys = (0..count as usize)
        .map(|number| {
            let name = format!("b{number}");
            let follow = ["--follow", primary.address.as_str(), "--log"];
            Node::start(&dir.join(&name), &name, &follow)
        })
        .collect::<Vec<_>>();
    let begun = Instant::now();
    let answer = primary.ask(&format!("bulk {} 1024", some_log(size)));
    let order = format!("flushed {}", text(&answer, "end"));
    standbys
        .iter_mut()
        .for_each(|standby| standby.order(&order));
    for standby in &mut standbys {
        standby.answer();
    }
    let rate = seconds(&answer, "bytes") / begun.elapsed().as_secs_f64() / 1e6;
    vec![("rate", rate), ("primary_mib", peak_mib(primary.pid()))]
}

fn committers(dir: &Path, clients: f64, size: Size) -> Values {
    let commits = cluster_commits(dir, "remote_flush", clients as u64, size.seconds / 2.0);
    vec![("p50", commits.p50), ("p99", commits.p99)]
}

fn backlog(dir: &Path, mib: f64, _size: Size) -> Values {
    let [mut primary, mut standby] = cluster(dir, &["--log"]);
    warm(&mut primary, &mut standby);
    standby.ask("pause");
    let answer = primary.ask(&format!("bulk {} 1024", (mib * MIB) as u64));
    standby.ask("resume");
    let begun = Instant::now();
    standby.ask(&format!("flushed {}", text(&answer, "end")));
    let rate = seconds(&answer, "bytes") / begun.elapsed().as_secs_f64() / 1e6;
    vec![("rate", rate), ("standby_mib", peak_mib(standby.pid()))]
}

fn recovery(dir: &Path, mib: f64, _size: Size) -> Values {
    let mut node = Node::start(&dir.join("a"), "a", &["--log", "--no-checkpoints"]);
    node.ask(&format!("bulk {} 1024", (mib * MIB) as u64));
    node.kill();
    let again = Node::start(&dir.join("a"), "a", &["--log", "--no-checkpoints"]);
    vec![
        ("time", again.ready_ms),
        ("peak_mib", peak_mib(again.pid())),
    ]
}

fn reads(dir: &Path, percent: f64, size: Size) -> Values {
    let read = Pair::start(dir, None).reads(percent / 100.0, size.seconds / 2.0);
    vec![("p50", read.p50), ("p99", read.p99)]
}

fn copies(dir: &Path, mib: f64, _size: Size) -> Values {
    let primary = filled(dir, (mib * MIB) as u64);
    let begun = Instant::now();
    let standby = Node::start(&dir.join("b"), "b", &["--follow", &primary.address]);
    let took = begun.elapsed().as_secs_f64();
    let rate = size_of(&dir.join("b")) as f64 / took / 1e6;
    vec![("rate", rate), ("standby_mib", peak_mib(standby.pid()))]
}

fn opening(dir: &Path, mib: f64, _size: Size) -> Values {
    let mut node = filled(dir, (mib * MIB) as u64);
    node.ask("stop");
    drop(node);
    let again = Node::start(&dir.join("a"), "a", &[]);
    vec![
        ("time", again.ready_ms),
        ("peak_mib", peak_mib(again.pid())),
    ]
}
