//! What a run found, for people and for programs.

use serde_json::{Map, Value, json};

use super::histogram::{Distribution, PerMille};
use super::tally::Kind;
use super::{Settings, text};
use crate::Level;
use crate::cli::Failure;
use crate::units::{self, to_f64};

/// The percentiles that are shown, with their names in both reports.
const PERCENTILES: [(&str, PerMille); 4] = [
    ("p50", PerMille(500)),
    ("p95", PerMille(950)),
    ("p99", PerMille(990)),
    ("p99.9", PerMille(999)),
];

/// What a run found.
#[derive(Debug)]
pub(crate) struct Findings {
    pub(crate) settings: Settings,
    /// Where the primary was asked at the begin.
    pub(crate) address: String,
    /// The primary's status before the run.
    pub(crate) before: Value,
    /// The same when the last answer had come, if somebody was the primary then.
    pub(crate) after: Option<Value>,
    /// From the end of the warm-up to the last answer.
    pub(crate) seconds: f64,
    pub(crate) commits: Distribution,
    pub(crate) reads: Distribution,
    pub(crate) confirmed: Vec<(Level, u64)>,
    /// Each kind, how often it came, and what the first said.
    pub(crate) errors: Vec<(Kind, u64, Option<String>)>,
    pub(crate) interrupted: bool,
    /// Rows that were written, or may have been, and were not removed.
    pub(crate) rows_left: u64,
    /// Why rows could not be removed.
    pub(crate) removal: Option<String>,
}

/// What happened since the last line of progress.
#[derive(Debug)]
pub(crate) struct Interval<'a> {
    /// Seconds since the warm-up ended.
    pub(crate) seconds: u64,
    /// Seconds since the last line.
    pub(crate) took: f64,
    pub(crate) commits: Option<&'a Distribution>,
    pub(crate) reads: Option<&'a Distribution>,
    /// Since the begin.
    pub(crate) errors: u64,
}

/// A line of progress.
pub(crate) fn progress_line(interval: &Interval<'_>) -> String {
    let mut line = format!("{:>3} s", interval.seconds);
    let parts = [("commits", interval.commits), ("reads", interval.reads)];
    for (what, distribution) in parts {
        let Some(distribution) = distribution else {
            continue;
        };
        if distribution.count() == 0 {
            line += &format!("   no {what}");
            continue;
        }
        let rate = per_second(distribution.count(), interval.took);
        let [p50, p99] = [500, 990].map(|of| latency(distribution.percentile(PerMille(of))));
        line += &format!("   {} {what}/s   p50 {p50}   p99 {p99}", whole(rate));
    }
    line + &format!("   {} errors", units::count(interval.errors))
}

impl Findings {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![self.head(), String::new()];
        for (what, distribution) in [("commits", self.commits()), ("reads", self.reads())] {
            let Some(distribution) = distribution else {
                continue;
            };
            lines.push(self.throughput(what, distribution));
            lines.push(latencies(distribution));
        }
        if self.commits().is_some() {
            lines.push(row("confirmed", &self.levels_text()));
        }
        lines.push(row("errors", &self.errors_text()));
        lines.push(row("lag", &self.lag_text()));
        if let Some(change) = self.change() {
            lines.push(row("primary", &change));
        }
        lines.push(row("rows", &self.rows_text()));
        lines.join("\n")
    }

    /// For programs, on one line.
    pub(crate) fn json(&self) -> Value {
        let Settings {
            plan, level, size, ..
        } = &self.settings;
        let counts = self.errors.iter();
        let mut errors = Map::from_iter([("total".to_owned(), self.errors_in_all().into())]);
        errors.extend(counts.map(|(kind, count, _)| (kind.as_str().to_owned(), (*count).into())));
        let firsts = self.errors.iter().filter_map(|(kind, _, first)| {
            let first = first.clone()?;
            Some((kind.as_str().to_owned(), Value::from(first)))
        });
        json!({
            "workload": plan.workload.as_str(),
            "clients": self.settings.clients,
            "size": size,
            "level": level.map(Level::as_str),
            "table": self.settings.table,
            "keys": plan.keys,
            "seed": plan.seed,
            "warmup_seconds": self.settings.warmup.as_secs_f64(),
            "seconds": rounded(self.seconds),
            "interrupted": self.interrupted,
            "node": self.node(Some(&self.before)),
            "node_after": self.node(self.after.as_ref()),
            "commits": self.commits().map(|commits| self.measured(commits)),
            "reads": self.reads().map(|reads| self.measured(reads)),
            "confirmed": self.levels(),
            "errors": errors,
            "first_errors": firsts.collect::<Map<_, _>>(),
            "lag": self.lag(),
            "rows_left": self.rows_left,
        })
    }

    /// # Errors
    /// The figures are not those of the run that was asked for, and why.
    pub(crate) fn judge(&self) -> Result<(), Failure> {
        if self.interrupted {
            return Err(Failure::interrupted());
        }
        let mut faults = Vec::new();
        if self.errors_in_all() > 0 {
            let firsts = self.errors.iter().filter_map(|(kind, count, first)| {
                let first = first.as_ref()?.replace('\n', "\n    ");
                let count = units::count(*count);
                Some(format!("\n  {} {count}, the first: {first}", kind.as_str()))
            });
            let firsts = firsts.collect::<String>();
            let failed = units::count(self.errors_in_all());
            faults.push(format!("{failed} operations failed:{firsts}"));
        }
        if let Some((level, below)) = self.below_level() {
            faults.push(format!(
                "{} of {} commits were confirmed at less than {level}: no policy asks for more, or \
                 it is degraded; see: mainstay policy show --http {}",
                units::count(below),
                units::count(self.commits.count()),
                self.address
            ));
        }
        if let Some(why) = &self.removal {
            faults.push(format!("the rows could not all be removed: {why}"));
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(Failure::failed(faults.join("\n"))),
        }
    }

    /// Where rows are left, if any are.
    pub(crate) fn rows_text(&self) -> String {
        let (table, prefix) = (&self.settings.table, self.settings.plan.prefix());
        match self.rows_left {
            0 => format!("none are left in table {table}"),
            left => format!(
                "up to {} are left in table {table}, under keys that begin with {prefix}",
                units::count(left)
            ),
        }
    }

    fn commits(&self) -> Option<&Distribution> {
        let writes = self.settings.plan.workload.writes();
        writes.then_some(&self.commits)
    }

    fn reads(&self) -> Option<&Distribution> {
        let reads = self.settings.plan.workload.reads();
        reads.then_some(&self.reads)
    }

    fn errors_in_all(&self) -> u64 {
        self.errors.iter().map(|(_, count, _)| count).sum()
    }

    /// How many commits were confirmed at less than the level that was asked for.
    fn below_level(&self) -> Option<(Level, u64)> {
        let asked = self.settings.level?;
        let below = self.confirmed.iter().filter(|(level, _)| *level < asked);
        let below = below.map(|(_, count)| count).sum();
        (below > 0).then_some((asked, below))
    }

    fn head(&self) -> String {
        let Settings {
            plan,
            clients,
            size,
            level,
            ..
        } = &self.settings;
        let level = level.map_or(String::new(), |level| format!(", level {level}"));
        let clients = match clients {
            1 => "1 client".to_owned(),
            clients => format!("{clients} clients"),
        };
        let (name, address) = (text(&self.before, "name"), &self.address);
        format!(
            "mainstay bench: {}, {clients}, values of {}{level}, {:.1} s, at {name} ({address})",
            plan.workload.as_str(),
            units::bytes(*size as u64),
            self.seconds
        )
    }

    fn throughput(&self, what: &str, distribution: &Distribution) -> String {
        let count = distribution.count();
        let rate = whole(per_second(count, self.seconds));
        let megabytes = self.bytes_per_second(count) / 1e6;
        let count = units::count(count);
        row(what, &format!("{count}   {rate}/s   {megabytes:.2} MB/s"))
    }

    /// Bytes of values a second.
    fn bytes_per_second(&self, count: u64) -> f64 {
        per_second(count, self.seconds) * to_f64(self.settings.size as u64)
    }

    fn measured(&self, distribution: &Distribution) -> Value {
        let count = distribution.count();
        let mut latency = Map::new();
        latency.insert("min".to_owned(), rounded(distribution.min()));
        latency.insert("mean".to_owned(), rounded(distribution.mean()));
        for (name, of) in PERCENTILES {
            let value = rounded(distribution.percentile(of));
            latency.insert(name.replace('.', "_"), value);
        }
        latency.insert("max".to_owned(), rounded(distribution.max()));
        json!({
            "count": count,
            "per_s": rounded(per_second(count, self.seconds)),
            "mb_per_s": rounded(self.bytes_per_second(count) / 1e6),
            "latency_ms": latency,
        })
    }

    /// The commits at each level.
    fn levels(&self) -> Map<String, Value> {
        let count = |level| {
            let mut same = self.confirmed.iter().filter(|(each, _)| *each == level);
            same.next().map_or(0, |(_, count)| *count)
        };
        let levels = Level::ALL.into_iter();
        let levels = levels.map(|level| (level.as_str().to_owned(), count(level).into()));
        levels.collect()
    }

    fn levels_text(&self) -> String {
        let levels = self.confirmed.iter();
        let levels = levels.map(|(level, count)| format!("{level} {}", units::count(*count)));
        or_none(levels.collect::<Vec<_>>().join("   "))
    }

    fn errors_text(&self) -> String {
        let errors = self.errors.iter().filter(|(_, count, _)| *count > 0);
        let errors =
            errors.map(|(kind, count, _)| format!("{} {}", kind.as_str(), units::count(*count)));
        or_none(errors.collect::<Vec<_>>().join("   "))
    }

    fn node(&self, status: Option<&Value>) -> Value {
        let Some(status) = status else {
            return Value::Null;
        };
        json!({ "name": status["name"], "timeline": status["timeline"] })
    }

    /// The standbys when the last answer had come.
    fn standbys(&self) -> Option<&Vec<Value>> {
        self.after.as_ref()?["standbys"].as_array()
    }

    fn lag(&self) -> Value {
        let fields = ["name", "state", "lag_bytes", "replay_lag_ms"];
        let shown = |standby: &Value| {
            let fields = fields.iter();
            let fields = fields.map(|field| ((*field).to_owned(), standby[*field].clone()));
            Value::Object(fields.collect())
        };
        let Some(standbys) = self.standbys() else {
            return Value::Null;
        };
        standbys.iter().map(shown).collect()
    }

    fn lag_text(&self) -> String {
        let Some(standbys) = self.standbys() else {
            return "not known: no primary answers".to_owned();
        };
        let shown = standbys.iter().map(|standby| {
            let name = text(standby, "name");
            let state = match text(standby, "state") {
                "streaming" => String::new(),
                state => format!(" {state}"),
            };
            let bytes = units::bytes(standby["lag_bytes"].as_u64().unwrap_or(0));
            let time = standby["replay_lag_ms"].as_f64();
            let time = time.map_or(String::new(), |millis| format!(", {}", latency(millis)));
            format!("{name}{state} {bytes}{time}")
        });
        match standbys.is_empty() {
            true => "no standby".to_owned(),
            false => shown.collect::<Vec<_>>().join("   "),
        }
    }

    /// Who is the primary now, if that changed.
    fn change(&self) -> Option<String> {
        let after = self.after.as_ref()?;
        let shown = |status| format!("{}, timeline {}", text(status, "name"), status["timeline"]);
        let (before, after) = (shown(&self.before), shown(after));
        (before != after).then(|| format!("{before} before; {after} after"))
    }
}

fn latencies(distribution: &Distribution) -> String {
    let percentiles = PERCENTILES.iter();
    let shown =
        percentiles.map(|(name, of)| format!("{name} {}", latency(distribution.percentile(*of))));
    let shown = shown.collect::<Vec<_>>().join("   ");
    row(
        "latency",
        &format!("{shown}   max {}", latency(distribution.max())),
    )
}

fn row(title: &str, text: &str) -> String {
    format!("  {title:<9} {text}")
}

fn or_none(text: String) -> String {
    match text.is_empty() {
        true => "none".to_owned(),
        false => text,
    }
}

/// `0.412 ms`, `4.12 ms`, `41.2 ms`, `412 ms`, `1.2 s`: as much as the histogram knows.
fn latency(millis: f64) -> String {
    let digits = match millis {
        under if under < 0.9995 => 3,
        under if under < 9.995 => 2,
        under if under < 99.95 => 1,
        _ => return units::millis(millis),
    };
    format!("{millis:.digits$} ms")
}

fn per_second(count: u64, seconds: f64) -> f64 {
    match seconds > 0.0 {
        true => to_f64(count) / seconds,
        false => 0.0,
    }
}

/// `18,204`; one digit after the point where there are few.
fn whole(rate: f64) -> String {
    match rate < 99.95 {
        true => format!("{rate:.1}"),
        false => {
            let digits = format!("{rate:.0}");
            units::count(digits.parse().unwrap_or(u64::MAX))
        }
    }
}

fn rounded(value: f64) -> Value {
    ((value * 1000.0).round() / 1000.0).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::histogram::Histogram;
    use crate::bench::{Length, Plan, Workload};

    /// Latencies of 1 to `count` hundredths of a millisecond.
    fn distribution(count: u64) -> Distribution {
        let histogram = Histogram::new();
        (1..=count).for_each(|at| histogram.record(Duration::from_micros(10 * at)));
        histogram.distribution()
    }

    fn errors(some: &[(Kind, u64, &str)]) -> Vec<(Kind, u64, Option<String>)> {
        let each = Kind::ALL.into_iter().map(|kind| {
            let found = some.iter().find(|(each, ..)| *each == kind);
            match found {
                Some((_, count, first)) => (kind, *count, Some((*first).to_owned())),
                None => (kind, 0, None),
            }
        });
        each.collect()
    }

    fn findings(workload: Workload) -> Findings {
        let settings = Settings {
            plan: Plan {
                workload,
                seed: 1,
                keys: 1000,
            },
            table: "mainstay_bench".to_owned(),
            size: 1000,
            clients: 32,
            level: Some(Level::RemoteFlush),
            length: Length::For(Duration::from_secs(10)),
            warmup: Duration::from_millis(500),
            keep: false,
        };
        let standby = |name: &str, state: &str, lag: u64, millis: Value| {
            json!({ "name": name, "state": state, "sync_state": "quorum", "lag_bytes": lag,
                    "replay_lag_ms": millis })
        };
        let after = json!({ "name": "a", "timeline": 1, "standbys": [
            standby("b", "streaming", 0, json!(0.31234)),
            standby("c", "disconnected", 123_456, Value::Null),
        ]});
        Findings {
            settings,
            address: "127.0.0.1:8008".to_owned(),
            before: json!({ "name": "a", "timeline": 1 }),
            after: Some(after),
            seconds: 10.0,
            commits: distribution(2000),
            reads: distribution(100),
            confirmed: vec![(Level::RemoteFlush, 2000)],
            errors: errors(&[]),
            interrupted: false,
            rows_left: 0,
            removal: None,
        }
    }

    #[test]
    fn a_run_of_commits_reads_like_this() {
        let expected = "\
mainstay bench: put, 32 clients, values of 1.0 KB, level remote_flush, 10.0 s, at a (127.0.0.1:8008)

  commits   2,000   200/s   0.20 MB/s
  latency   p50 10.0 ms   p95 19.0 ms   p99 19.9 ms   p99.9 20.0 ms   max 20.0 ms
  confirmed remote_flush 2,000
  errors    none
  lag       b 0 B, 0.312 ms   c disconnected 123 KB
  rows      none are left in table mainstay_bench";
        assert_eq!(findings(Workload::Put).text(), expected);
        assert!(findings(Workload::Put).judge().is_ok());
    }

    #[test]
    fn reads_have_no_level_and_a_mixed_run_shows_both() {
        let mut reads = findings(Workload::Get);
        reads.settings.level = None;
        let text = reads.text();
        assert!(
            text.contains("\n  reads     100   10.0/s   0.01 MB/s\n"),
            "{text}"
        );
        assert!(
            !text.contains("commits") && !text.contains("confirmed"),
            "{text}"
        );
        let text = findings(Workload::Mixed).text();
        assert!(
            text.contains("commits   2,000") && text.contains("reads     100"),
            "{text}"
        );
        assert_eq!(text.matches("latency").count(), 2, "{text}");
    }

    #[test]
    fn the_line_for_programs_has_exactly_these_keys() {
        let mut found = findings(Workload::Put);
        found.errors = errors(&[(Kind::Unreachable, 3, "cannot reach it")]);
        found.rows_left = 12;
        let expected = json!({
            "workload": "put", "clients": 32, "size": 1000, "level": "remote_flush",
            "table": "mainstay_bench", "keys": 1000, "seed": 1, "warmup_seconds": 0.5,
            "seconds": 10.0, "interrupted": false,
            "node": { "name": "a", "timeline": 1 }, "node_after": { "name": "a", "timeline": 1 },
            "commits": {
                "count": 2000, "per_s": 200.0, "mb_per_s": 0.2,
                "latency_ms": { "min": 0.01, "mean": 10.005, "p50": 10.027, "p95": 19.005,
                                "p99": 19.923, "p99_9": 20.0, "max": 20.0 },
            },
            "reads": null,
            "confirmed": { "async": 0, "local": 0, "remote_write": 0, "remote_flush": 2000,
                           "remote_apply": 0 },
            "errors": { "total": 3, "unreachable": 3, "no_answer": 0, "not_primary": 0,
                        "unknown": 0, "refused": 0, "conflict": 0, "unavailable": 0,
                        "disk_full": 0, "rejected": 0, "garbled": 0, "missing": 0 },
            "first_errors": { "unreachable": "cannot reach it" },
            "lag": [
                { "name": "b", "state": "streaming", "lag_bytes": 0, "replay_lag_ms": 0.31234 },
                { "name": "c", "state": "disconnected", "lag_bytes": 123_456,
                  "replay_lag_ms": null },
            ],
            "rows_left": 12,
        });
        assert_eq!(found.json().to_string(), expected.to_string());
    }

    #[test]
    fn a_run_with_errors_fails_and_says_which() {
        let mut found = findings(Workload::Put);
        found.errors = errors(&[
            (Kind::NoAnswer, 2, "broken"),
            (Kind::Unreachable, 4000, "gone"),
        ]);
        let said = found.judge().unwrap_err();
        let expected = "4,002 operations failed:\n  unreachable 4,000, the first: gone\n  \
                        no_answer 2, the first: broken";
        assert_eq!(said.text(), expected);
        assert!(
            found
                .text()
                .contains("errors    unreachable 4,000   no_answer 2")
        );
    }

    #[test]
    fn commits_at_less_than_the_level_asked_for_are_no_success() {
        let mut found = findings(Workload::Put);
        found.confirmed = vec![(Level::Local, 1500), (Level::RemoteApply, 500)];
        let said = found.judge().unwrap_err();
        let part = "1,500 of 2,000 commits were confirmed at less than remote_flush";
        assert!(said.text().contains(part), "{said:?}");
        found.settings.level = None;
        assert!(found.judge().is_ok(), "nothing was asked for");
    }

    #[test]
    fn rows_that_could_not_be_removed_and_a_primary_that_changed_are_said() {
        let mut found = findings(Workload::Put);
        (found.rows_left, found.removal) = (7, Some("no answer".to_owned()));
        found.after = Some(json!({ "name": "b", "timeline": 2, "standbys": [] }));
        let text = found.text();
        for part in [
            "\n  lag       no standby\n",
            "\n  primary   a, timeline 1 before; b, timeline 2 after\n",
            "up to 7 are left in table mainstay_bench, under keys that begin with bench-1-",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(found.judge().unwrap_err().text().contains("no answer"));
        found.after = None;
        assert!(found.text().contains("not known: no primary answers"));
        assert_eq!(found.json()["lag"], Value::Null);
    }

    #[test]
    fn a_line_of_progress_speaks_of_its_interval() {
        let commits = distribution(300);
        let mut interval = Interval {
            seconds: 12,
            took: 2.0,
            commits: Some(&commits),
            reads: None,
            errors: 1234,
        };
        let line = progress_line(&interval);
        assert_eq!(
            line,
            " 12 s   150 commits/s   p50 1.51 ms   p99 2.98 ms   1,234 errors"
        );
        let none = distribution(0);
        (interval.reads, interval.commits) = (Some(&commits), Some(&none));
        let line = progress_line(&interval);
        assert!(
            line.starts_with(" 12 s   no commits   150 reads/s   p50"),
            "{line}"
        );
    }

    #[test]
    fn latencies_are_shown_as_exactly_as_they_are_known() {
        let shown = [0.0123, 0.9996, 4.123, 41.23, 412.0, 2100.0].map(latency);
        let expected = [
            "0.012 ms", "1.00 ms", "4.12 ms", "41.2 ms", "412 ms", "2.1 s",
        ];
        assert_eq!(shown, expected);
    }
}
