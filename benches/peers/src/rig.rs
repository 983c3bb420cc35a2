//! How each contender answers each question: one round of it.
//!
//! Every round of Mainstay has nodes of its own in empty directories; PostgreSQL and Redis are
//! started once and rest while others are measured.

pub(crate) mod copies;

use std::path::Path;
use std::time::{Duration, Instant};

use mainstay::Level;
use tempfile::TempDir;

use crate::engines::{self, Load};
use crate::limits;
use crate::measure::Figures;
use crate::pair::Pair;
use crate::postgres::{Mode, Postgres};
use crate::process::{Node, cpu_seconds, forget_peak, peak_mib, take_used};
use crate::redis::Redis;

/// Log that goes before a stream.
const WARM_BYTES: u64 = 512 << 20;

/// Commits a second while it is measured when they can be seen.
const VISIBLE_RATE: f64 = 500.0;

/// The store's cache of blocks when nobody configures it, in MiB.
fn cache_mib() -> f64 {
    mainstay::LsmOptions::default().block_cache as f64 / f64::from(1 << 20)
}

/// How much is measured.
#[derive(Debug, Copy, Clone)]
pub(crate) struct Size {
    /// Less of everything.
    pub(crate) quick: bool,
    /// Seconds of a load.
    pub(crate) seconds: f64,
    /// Bytes of a stream.
    pub(crate) bytes: u64,
    /// Rows that are applied.
    pub(crate) rows: u64,
}

pub(crate) struct Rig {
    root: TempDir,
    size: Size,
    rounds: usize,
    postgres: Option<Postgres>,
    redis: Option<Redis>,
}

impl Rig {
    pub(crate) fn new(size: Size) -> Self {
        let root = tempfile::Builder::new().prefix("peers").tempdir();
        let root = root.expect("there is room");
        // PostgreSQL's user has to get below it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(root.path(), open).expect("it is ours");
        Self {
            root,
            size,
            rounds: 0,
            postgres: None,
            redis: None,
        }
    }

    /// Where everything lies.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// One round of `who` for the row `name`.
    pub(crate) fn round(&mut self, name: &str, who: &str) -> Figures {
        self.rounds += 1;
        let dir = self.root.path().join(format!("round{}", self.rounds));
        std::fs::create_dir(&dir).expect("there is room");
        let seconds = self.size.seconds;
        take_used();
        let (this, before) = (std::process::id(), cpu_seconds(std::process::id()));
        forget_peak(this);
        let figures = match who {
            "mainstay" => {
                let figures = self.mainstay(name, &dir);
                let used = take_used();
                // Some measure both nodes in this process, which has the same clock for both.
                let (cpu, peak) = match used.peak_mib > 0.0 {
                    true => (used.cpu_s, used.peak_mib),
                    false => (cpu_seconds(this) - before, peak_mib(this)),
                };
                let figures = figures.with("used_cpu_s", cpu);
                figures.with("used_peak_mib", peak)
            }
            "postgres" => self.postgres(name),
            "redis" => self.redis().wait_one(seconds),
            _ => self.machine(name, who, &dir),
        };
        clear(&dir);
        figures
    }

    fn mainstay(&mut self, name: &str, dir: &Path) -> Figures {
        let seconds = self.size.seconds;
        match name {
            "sync-1" => {
                let answer = cluster_commits(dir, "remote_flush", 1, seconds);
                Figures::of(answer.p50)
                    .with("p99", answer.p99)
                    .with("rate", answer.rate)
            }
            "sync-64" => rate(&cluster_commits(dir, "remote_flush", 64, seconds)),
            "local-32" => rate(&lone_commits(dir, 32, seconds)),
            "local-64" => rate(&lone_commits(dir, 64, seconds)),
            "batch-1000" => {
                let mut node = Node::start(&dir.join("a"), "a", &[]);
                let answer = node.ask(&format!("batches 1000 100 {seconds}"));
                Figures::of(answer["records_s"].as_f64().expect("a rate"))
            }
            "stream" => stream(dir, self.size.bytes),
            "catch-up" => catch_up(dir, self.size.bytes),
            "apply" => apply(dir, self.size.rows),
            "visible" => Pair::start(dir, None).visible(Level::Local, VISIBLE_RATE, seconds),
            "visible-local" => visible_under_policy(dir, Level::Local, seconds),
            "visible-sync" => visible_under_policy(dir, Level::RemoteFlush, seconds),
            "lag-half" => Pair::start(dir, None).lag(0.5, seconds),
            "lag-full" => Pair::start(dir, None).lag(1.0, 2.0 * seconds),
            "base-backup" => copies::base_backup(dir, self.size.bytes),
            "promote" => take_over(dir, false),
            "kill-promote" => take_over(dir, true),
            "levels-1" => levels(dir, 1, seconds),
            "levels-32" => levels(dir, 32, seconds),
            other => panic!("no row {other}"),
        }
    }

    fn postgres(&mut self, name: &str) -> Figures {
        let size = self.size;
        let root = self.root.path();
        let postgres = self.postgres.get_or_insert_with(|| Postgres::start(root));
        match name {
            "sync-1" => {
                let figures = postgres.inserts(Mode::Flush, 1, size.seconds);
                let p50 = figures.get("p50").expect("it is there");
                Figures {
                    value: p50,
                    ..figures
                }
            }
            "sync-64" => postgres.inserts(Mode::Flush, 64, size.seconds),
            "local-32" => postgres.inserts(Mode::Alone, 32, size.seconds),
            "local-64" => postgres.inserts(Mode::Alone, 64, size.seconds),
            "stream" => postgres.stream(size.bytes),
            "catch-up" => postgres.catch_up(size.bytes),
            "visible" => postgres.visible(Mode::Async, "on", VISIBLE_RATE, size.seconds),
            "visible-local" => postgres.visible(Mode::Flush, "local", VISIBLE_RATE, size.seconds),
            "visible-sync" => postgres.visible(Mode::Flush, "on", VISIBLE_RATE, size.seconds),
            "base-backup" => postgres.base_backup(size.bytes),
            "promote" => postgres.take_over(false),
            "kill-promote" => postgres.take_over(true),
            other => panic!("no row {other}"),
        }
    }

    fn redis(&mut self) -> &Redis {
        let root = self.root.path();
        self.redis.get_or_insert_with(|| Redis::start(root))
    }

    fn machine(&self, name: &str, who: &str, dir: &Path) -> Figures {
        let seconds = self.size.seconds;
        let load = |clients, rows, durable, ordered| {
            let load = Load {
                clients,
                rows,
                durable,
                ordered,
            };
            engines::run(who, dir, load, seconds)
        };
        match (name, who) {
            ("sync-1", "ideal") => limits::commit(dir, seconds),
            ("sync-64", "ideal") => limits::group(dir, 64, true, seconds),
            ("local-32", _) => load(32, 1, true, false),
            ("local-64", _) => load(64, 1, true, false),
            ("batch-1000", _) => load(1, 1000, true, true),
            ("apply", _) => load(1, 100, false, false),
            ("stream", "pipe") => limits::pipe(dir, self.size.bytes),
            ("base-backup", "copy") => copies::copy(dir, self.size.bytes),
            other => panic!("no row {other:?}"),
        }
    }
}

/// What a load of commits said.
pub(crate) struct Commits {
    rate: f64,
    pub(crate) p50: f64,
    p95: f64,
    pub(crate) p99: f64,
}

impl Commits {
    fn of(node: &mut Node, level: &str, clients: u64, seconds: f64) -> Self {
        let answer = node.ask(&format!("commits {level} {clients} 100 {seconds}"));
        let get = |name: &str| answer[name].as_f64().expect("a number");
        Self {
            rate: get("rate"),
            p50: get("p50"),
            p95: get("p95"),
            p99: get("p99"),
        }
    }
}

fn rate(commits: &Commits) -> Figures {
    let figures = Figures::of(commits.rate).with("p50", commits.p50);
    figures.with("p95", commits.p95).with("p99", commits.p99)
}

pub(crate) fn cluster(dir: &Path, more: &[&str]) -> [Node; 2] {
    let primary = Node::start(&dir.join("a"), "a", more);
    let mut follow = vec!["--follow", primary.address.as_str()];
    follow.extend(more);
    let standby = Node::start(&dir.join("b"), "b", &follow);
    [primary, standby]
}

/// A node takes it with spaces for the underscores.
const POLICY: [&str; 2] = ["--sync", "ANY_1_(*)"];

fn visible_under_policy(dir: &Path, level: Level, seconds: f64) -> Figures {
    let policy = POLICY[1].replace('_', " ");
    Pair::start(dir, Some(&policy)).visible(level, VISIBLE_RATE, seconds)
}

pub(crate) fn cluster_commits(dir: &Path, level: &str, clients: u64, seconds: f64) -> Commits {
    let [mut primary, _standby] = cluster(dir, &POLICY);
    primary.ask("joined");
    Commits::of(&mut primary, level, clients, seconds)
}

fn lone_commits(dir: &Path, clients: u64, seconds: f64) -> Commits {
    let mut node = Node::start(&dir.join("a"), "a", &[]);
    Commits::of(&mut node, "local", clients, seconds)
}

pub(crate) fn text(answer: &serde_json::Value, name: &str) -> String {
    answer[name].as_str().expect("a text").to_owned()
}

pub(crate) fn seconds(answer: &serde_json::Value, name: &str) -> f64 {
    answer[name].as_f64().expect("a number")
}

fn stream(dir: &Path, bytes: u64) -> Figures {
    let [mut primary, mut standby] = cluster(dir, &["--log"]);
    warm(&mut primary, &mut standby);
    for node in [&primary, &standby] {
        forget_peak(node.pid());
    }
    let before = cpu_seconds(primary.pid()) + cpu_seconds(standby.pid());
    let begun = Instant::now();
    let answer = primary.ask(&format!("bulk {bytes} 1024"));
    standby.ask(&format!("flushed {}", text(&answer, "end")));
    let took = begun.elapsed().as_secs_f64();
    let written = seconds(&answer, "bytes");
    let used = cpu_seconds(primary.pid()) + cpu_seconds(standby.pid()) - before;
    Figures::of(written / took / 1e6)
        .with("cpu_s_gb", used / (written / 1e9))
        .with("primary_mib", peak_mib(primary.pid()))
        .with("standby_mib", peak_mib(standby.pid()))
}

/// The first segments are new files; later ones are recycled, on every contender.
pub(crate) fn warm(primary: &mut Node, standby: &mut Node) {
    let answer = primary.ask(&format!("bulk {WARM_BYTES} 1024"));
    standby.ask(&format!("flushed {}", text(&answer, "end")));
}

fn catch_up(dir: &Path, bytes: u64) -> Figures {
    let [mut primary, mut standby] = cluster(dir, &["--log"]);
    warm(&mut primary, &mut standby);
    standby.ask("pause");
    let answer = primary.ask(&format!("bulk {bytes} 1024"));
    let written = seconds(&answer, "bytes");
    standby.ask("resume");
    let begun = Instant::now();
    standby.ask(&format!("flushed {}", text(&answer, "end")));
    Figures::of(written / begun.elapsed().as_secs_f64() / 1e6)
}

/// The standby has all log before it begins, so that nothing else is measured.
fn apply(dir: &Path, rows: u64) -> Figures {
    let [mut primary, mut standby] = cluster(dir, &[]);
    standby.ask("hold");
    let answer = primary.ask(&format!("load {rows} 100 100 random"));
    let end = text(&answer, "end");
    standby.ask(&format!("flushed {end}"));
    let begun = Instant::now();
    standby.ask("go_on");
    standby.ask(&format!("applied {end}"));
    let peak = peak_mib(primary.pid()).max(peak_mib(standby.pid()));
    Figures::of(rows as f64 / begun.elapsed().as_secs_f64())
        .with("primary_s", seconds(&answer, "seconds"))
        .with("peak_mib", peak)
        .with("peak_above_cache_mib", peak - cache_mib())
}

/// Removes `dir`, and waits until the disk has done that, or whoever comes next would.
pub(crate) fn clear(dir: &Path) {
    std::fs::remove_dir_all(dir).expect("it is ours");
    rustix::fs::sync();
}

fn take_over(dir: &Path, killed: bool) -> Figures {
    let [mut primary, mut standby] = cluster(dir, &[]);
    let answer = primary.ask("load 1000 10 100 random");
    standby.ask(&format!("applied {}", text(&answer, "end")));
    if killed {
        primary.order("commits local 8 100 60");
        std::thread::sleep(Duration::from_secs(1));
        primary.kill();
    }
    let answer = standby.ask("promote");
    let first = seconds(&answer, "first_write_ms");
    Figures::of(first)
        .with("first_write_ms", first)
        .with("promoted_ms", seconds(&answer, "promoted_ms"))
}

/// Commits that wait for nothing, for the own disk, and for a standby's too.
fn levels(dir: &Path, clients: u64, seconds: f64) -> Figures {
    let [mut primary, _standby] = cluster(dir, &POLICY);
    primary.ask("joined");
    let [off, local, sync] = ["async", "local", "remote_flush"]
        .map(|level| Commits::of(&mut primary, level, clients, seconds));
    let adds = (sync.p50 - local.p50) / 1e3;
    let mut figures = Figures::of(adds).with("sync_adds_ms", adds);
    for (name, commits) in [("async", off), ("local", local), ("sync", sync)] {
        figures = figures
            .with(&format!("{name}_tps"), commits.rate)
            .with(&format!("{name}_p50_us"), commits.p50)
            .with(&format!("{name}_p95_us"), commits.p95)
            .with(&format!("{name}_p99_us"), commits.p99);
    }
    figures
}
