//! What the demo tells: to a person as it goes, to a program at the end.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::cluster::POLICY;
use crate::cli::{Failure, print};
use crate::units;

/// What came out of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Findings {
    pub(crate) rows_acknowledged: u64,
    /// On every node that is left.
    pub(crate) rows_found: u64,
    pub(crate) rows_lost: u64,
    /// Rows that nobody wrote.
    pub(crate) rows_unexpected: u64,
    pub(crate) examples: Vec<String>,
    pub(crate) lag_ms_p50: f64,
    pub(crate) lag_ms_p99: f64,
    pub(crate) throughput_mb_s: f64,
    pub(crate) failover_ms: f64,
}

/// A node in the list at the beginning.
#[derive(Debug)]
pub(crate) struct NodeShown {
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) address: String,
    pub(crate) state: String,
}

/// Median and 99th percentile of the lag: of each standby in milliseconds, of all in bytes.
#[derive(Debug)]
pub(crate) struct LagShown {
    pub(crate) each: Vec<(String, (f64, f64))>,
    pub(crate) bytes: (f64, f64),
}

/// How the change of primary went.
#[derive(Debug)]
pub(crate) struct Failover {
    pub(crate) promoted: String,
    pub(crate) timeline: u64,
    pub(crate) lsn: String,
    pub(crate) promote_ms: f64,
    pub(crate) resumed_ms: f64,
    pub(crate) following: Vec<String>,
}

/// Tells a person; silent when a program asks.
#[derive(Debug)]
pub(crate) struct Narrator {
    silent: bool,
}

impl Findings {
    /// For a program, on one line.
    pub(crate) fn json(&self) -> Value {
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        json!({
            "rows_acknowledged": self.rows_acknowledged,
            "rows_found": self.rows_found,
            "rows_lost": self.rows_lost,
            "lag_ms_p50": rounded(self.lag_ms_p50),
            "lag_ms_p99": rounded(self.lag_ms_p99),
            "throughput_mb_s": rounded(self.throughput_mb_s),
            "failover_ms": rounded(self.failover_ms),
        })
    }
}

impl Narrator {
    pub(crate) fn new(silent: bool) -> Self {
        Self { silent }
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        if self.silent { Ok(()) } else { print(text) }
    }

    pub(crate) fn intro(&self, standbys: u8, dir: &Path, keep: bool) -> Result<(), Failure> {
        self.say(&intro(standbys, dir, keep))
    }

    pub(crate) fn nodes(&self, nodes: &[NodeShown]) -> Result<(), Failure> {
        self.say(&self::nodes(nodes))
    }

    /// A bar for the load; nothing where standard error is no terminal.
    pub(crate) fn load_bar(&self, what: &str, rows: Option<u64>) -> ProgressBar {
        let target = match !self.silent && io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let style = match rows {
            Some(_) => format!("  loading   {{bar:40}}  {{human_pos}} {what}"),
            None => format!("  loading   {{spinner}} {{human_pos}} {what}"),
        };
        let style = ProgressStyle::with_template(&style);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::with_draw_target(rows, target).with_style(style.progress_chars("##-"))
    }

    pub(crate) fn loaded(
        &self,
        rows: u64,
        what: &str,
        bytes: u64,
        throughput: f64,
    ) -> Result<(), Failure> {
        self.say(&loaded(rows, what, bytes, throughput))
    }

    pub(crate) fn lag(&self, lag: &LagShown) -> Result<(), Failure> {
        self.say(&self::lag(lag))
    }

    pub(crate) fn killed(&self, name: &str) -> Result<(), Failure> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.say(&killed(name, now.as_millis()))
    }

    pub(crate) fn failed_over(&self, failover: &Failover) -> Result<(), Failure> {
        self.say(&failed_over(failover))
    }

    pub(crate) fn verdict(&self, findings: &Findings) -> Result<(), Failure> {
        self.say(&verdict(findings))
    }
}

fn intro(standbys: u8, dir: &Path, keep: bool) -> String {
    const NUMBERS: [&str; 9] = [
        "no", "one", "two", "three", "four", "five", "six", "seven", "eight",
    ];
    let count = NUMBERS
        .get(usize::from(standbys))
        .copied()
        .unwrap_or("many");
    let kept = if keep {
        "kept"
    } else {
        "removed at the end, --keep keeps it"
    };
    let dir = dir.display();
    format!("mainstay demo: one primary, {count} standbys, {POLICY}, in {dir} ({kept})\n")
}

fn nodes(nodes: &[NodeShown]) -> String {
    let mut text = String::new();
    for NodeShown {
        name,
        role,
        address,
        state,
    } in nodes
    {
        text += &format!("  {name}  {role}   {address:<15}   {state}\n");
    }
    text
}

fn loaded(rows: u64, what: &str, bytes: u64, throughput: f64) -> String {
    let (rows, bytes) = (units::count(rows), units::bytes(bytes));
    format!("  loaded    {rows} {what}, {bytes}, {throughput:.1} MB/s")
}

fn lag(lag: &LagShown) -> String {
    let mut text = "  lag    ".to_owned();
    for (name, (p50, p99)) in &lag.each {
        text += &format!("   {name} {p50:.1} ms (p99 {p99:.1})");
    }
    let [p50, p99] = [lag.bytes.0, lag.bytes.1].map(whole_bytes);
    text + &format!("   {p50} (p99 {p99})\n")
}

fn whole_bytes(value: f64) -> String {
    match value {
        small if small < 999.5 => format!("{small:.0} B"),
        medium if medium < 999_500.0 => format!("{:.1} KB", medium / 1e3),
        large => format!("{:.1} MB", large / 1e6),
    }
}

fn killed(name: &str, unix_ms: u128) -> String {
    let (seconds, ms) = (unix_ms / 1000 % 86_400, unix_ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let what = format!("kill -9 {name}");
    format!("  {what:<46} {hour:02}:{minute:02}:{second:02}.{ms:03} UTC")
}

fn failed_over(failover: &Failover) -> String {
    let Failover {
        promoted,
        timeline,
        lsn,
        promote_ms,
        resumed_ms,
        following,
    } = failover;
    let promote = format!("promote {promoted}   the most advanced, timeline {timeline} from {lsn}");
    let first = format!("first write acknowledged on {promoted}");
    let [promote_ms, resumed_ms] = [*promote_ms, *resumed_ms].map(units::millis);
    let (names, verb) = match following.as_slice() {
        [one] => (one.clone(), "follows"),
        many => (many.join(", "), "follow"),
    };
    format!(
        "  {promote:<46} {promote_ms}\n  {first:<46} {resumed_ms} after the kill\n  {names} {verb} \
         {promoted}\n"
    )
}

fn verdict(findings: &Findings) -> String {
    let numbers = [
        findings.rows_acknowledged,
        findings.rows_found,
        findings.rows_lost,
    ];
    let [acknowledged, found, lost] = numbers.map(units::count);
    let mut text =
        format!("  acknowledged {acknowledged}   found on every node {found}   lost {lost}\n");
    if findings.rows_unexpected > 0 {
        let unexpected = units::count(findings.rows_unexpected);
        text += &format!("  and {unexpected} rows were found that nobody wrote\n");
    }
    text + "\nNext: examples/embed.rs shows this inside your program."
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        Findings {
            rows_acknowledged: 251_380,
            rows_found: 251_380,
            rows_lost: 0,
            rows_unexpected: 0,
            examples: Vec::new(),
            lag_ms_p50: 0.41234,
            lag_ms_p99: 1.2,
            throughput_mb_s: 96.0,
            failover_ms: 31.25,
        }
    }

    #[test]
    fn the_report_reads_like_this() {
        let node = |name: &str, role, port, state: &str| NodeShown {
            name: name.to_owned(),
            role,
            address: format!("127.0.0.1:{port}"),
            state: state.to_owned(),
        };
        let lag = LagShown {
            each: vec![
                ("b".to_owned(), (0.41, 1.12)),
                ("c".to_owned(), (0.38, 1.2)),
            ],
            bytes: (0.0, 12_400.0),
        };
        let failover = Failover {
            promoted: "b".to_owned(),
            timeline: 2,
            lsn: "0/4A012C80".to_owned(),
            promote_ms: 9.0,
            resumed_ms: 31.2,
            following: vec!["c".to_owned()],
        };
        let report = [
            intro(2, Path::new("./mainstay-demo"), false),
            nodes(&[
                node("a", "primary", 41001, "timeline 1"),
                node("b", "standby", 41002, "streaming, quorum"),
                node("c", "standby", 41003, "streaming, quorum"),
            ]),
            loaded(200_000, "customers and orders", 38_200_000, 96.04),
            self::lag(&lag),
            killed("a", 1_700_000_531_204),
            failed_over(&failover),
            verdict(&findings()),
        ];
        let expected = "\
mainstay demo: one primary, two standbys, ANY 1 (*), in ./mainstay-demo (removed at the end, --keep keeps it)

  a  primary   127.0.0.1:41001   timeline 1
  b  standby   127.0.0.1:41002   streaming, quorum
  c  standby   127.0.0.1:41003   streaming, quorum

  loaded    200,000 customers and orders, 38 MB, 96.0 MB/s
  lag       b 0.4 ms (p99 1.1)   c 0.4 ms (p99 1.2)   0 B (p99 12.4 KB)

  kill -9 a                                      22:22:11.204 UTC
  promote b   the most advanced, timeline 2 from 0/4A012C80 9.0 ms
  first write acknowledged on b                  31 ms after the kill
  c follows b

  acknowledged 251,380   found on every node 251,380   lost 0

Next: examples/embed.rs shows this inside your program.";
        assert_eq!(report.join("\n"), expected);
    }

    #[test]
    fn the_line_for_programs_has_exactly_these_keys() {
        let expected = concat!(
            r#"{"rows_acknowledged":251380,"rows_found":251380,"rows_lost":0,"#,
            r#""lag_ms_p50":0.412,"lag_ms_p99":1.2,"throughput_mb_s":96.0,"failover_ms":31.25}"#
        );
        assert_eq!(findings().json().to_string(), expected);
    }

    #[test]
    fn rows_that_nobody_wrote_are_told() {
        let odd = Findings {
            rows_unexpected: 2,
            rows_lost: 1,
            ..findings()
        };
        let text = verdict(&odd);
        assert!(
            text.contains("lost 1\n  and 2 rows were found that nobody wrote"),
            "{text}"
        );
    }
}
