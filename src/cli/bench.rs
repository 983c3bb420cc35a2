//! `mainstay bench`: its flags, and what becomes of an interrupt.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, INTERRUPTED, print};
use crate::Level;
use crate::bench::{
    self, CLIENTS_MAX, KEYS_MAX, Length, Nodes, Plan, SIZE_MAX, Settings, UNDER_WAY_BYTES_MAX,
    Workload, keys_default,
};
use crate::config::{HTTP_DEFAULT, read_secret};

/// How long a run is when nothing is said.
const SECONDS_DEFAULT: Duration = Duration::from_secs(10);

/// The longest run, and the longest warm-up.
const SECONDS_MAX: f64 = 86_400.0;

/// What stands below the flags.
pub(crate) const NOTES: &str = "\
Each client has one connection and one request under way; a commit is a transaction of one row. What
was written is removed at the end, also after Ctrl-C. Exit code 1: an operation failed, or commits
were confirmed at less than --level; the result is printed all the same.";

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Where the primary's HTTP side listens; with several addresses, the primary among them is
    /// asked, and the next one when that fails
    #[arg(long, value_name = "HOST:PORT,..", env = "MAINSTAY_HTTP", default_value = HTTP_DEFAULT,
          value_delimiter = ',')]
    http: Vec<String>,
    /// File whose first line is the nodes' HTTP token, if they want one
    #[arg(long, value_name = "FILE", env = "MAINSTAY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// What the clients do
    #[arg(long, value_enum, default_value = "put")]
    workload: Workload,
    /// How many clients there are
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clients)]
    clients: usize,
    /// Bytes of a value; the node takes what fits into a quarter of a log segment
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = size)]
    size: usize,
    /// What a commit waits for: async, local, remote_write, remote_flush or remote_apply
    /// [default: what the node does by itself]
    #[arg(long)]
    level: Option<Level>,
    /// For how long [default: 10]
    #[arg(long, value_name = "S", value_parser = seconds, conflicts_with = "count")]
    seconds: Option<Duration>,
    /// Instead of a time: this many operations, of all clients together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 62))]
    count: Option<u64>,
    /// For how long the clients work before it counts
    #[arg(long, value_name = "S", default_value = "1", value_parser = warmup)]
    warmup: Duration,
    /// How many rows are written and read, in no order [default: 100000, or as many as make 64 MB]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    keys: Option<u64>,
    /// The table they lie in; other rows of it are left alone
    #[arg(long, default_value = "mainstay_bench")]
    table: String,
    /// What is done follows from this number; runs at the same time need one each
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Leave the rows in the table
    #[arg(long)]
    keep: bool,
    /// Print the result as one line of JSON
    #[arg(long)]
    json: bool,
}

fn clients(text: &str) -> Result<usize, String> {
    within(text, 1, CLIENTS_MAX)
}

fn size(text: &str) -> Result<usize, String> {
    within(text, 0, SIZE_MAX)
}

fn within(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (min..=max).contains(n));
    number.ok_or_else(|| format!("not a number from {min} to {max}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let above_zero = warmup(text).ok().filter(|time| !time.is_zero());
    above_zero.ok_or_else(|| format!("not a number of seconds above 0, at most {SECONDS_MAX}"))
}

fn warmup(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|s| (0.0..=SECONDS_MAX).contains(s));
    let seconds = seconds.map(Duration::from_secs_f64);
    seconds.ok_or_else(|| format!("not a number of seconds from 0 to {SECONDS_MAX}"))
}

/// Runs the verb.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let settings = settings(args)?;
    let token = args.token_file.as_deref().map(read_secret).transpose()?;
    let nodes = Nodes::new(args.http.clone(), token);
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(stop.clone())?;
    let findings = bench::run(&settings, &nodes, &stop)?;
    match args.json {
        true => print(findings.json())?,
        false => print(findings.text())?,
    }
    findings.judge()
}

fn settings(args: &BenchArgs) -> Result<Settings, Failure> {
    if args.level.is_some() && !args.workload.writes() {
        let what = "--level is of commits, and --workload get has none";
        return Err(Failure::usage(what));
    }
    let under_way = args.clients.saturating_mul(args.size);
    if under_way > UNDER_WAY_BYTES_MAX {
        return Err(Failure::usage(format!(
            "{} clients with values of {} bytes have {under_way} bytes under way, at most \
             {UNDER_WAY_BYTES_MAX}; give fewer --clients or a smaller --size",
            args.clients, args.size
        )));
    }
    let length = match (args.count, args.seconds) {
        (Some(count), _) => Length::Count(count),
        (None, time) => Length::For(time.unwrap_or(SECONDS_DEFAULT)),
    };
    Ok(Settings {
        plan: Plan {
            workload: args.workload,
            seed: args.seed,
            keys: args.keys.unwrap_or(keys_default(args.size)),
        },
        table: args.table.clone(),
        size: args.size,
        clients: args.clients,
        level: args.level,
        length,
        warmup: args.warmup,
        keep: args.keep,
    })
}

/// Ends the run early at the first signal, which still reports and cleans up, and this process at
/// the second.
fn stop_on_signal(stop: Arc<AtomicBool>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()];
        (signal(interrupt)?, signal(terminate)?)
    };
    let thread = std::thread::Builder::new().name("bench-signals".to_owned());
    thread.spawn(move || {
        for first in [true, false] {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            if first {
                stop.store(true, Ordering::Relaxed);
                eprintln!("interrupted; waiting for answers, then removing rows");
            }
        }
        std::process::exit(INTERRUPTED.into());
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parsed(flags: &[&str]) -> Result<Settings, String> {
        let line = Line::try_parse_from([&["bench"], flags].concat());
        let line = line.map_err(|error| error.to_string())?;
        settings(&line.args).map_err(|failure| failure.text().to_owned())
    }

    #[test]
    fn without_flags_it_puts_for_ten_seconds_at_the_level_of_the_node() {
        let settings = parsed(&[]).unwrap();
        assert_eq!(settings.plan.workload, Workload::Put);
        assert_eq!(settings.length, Length::For(Duration::from_secs(10)));
        assert_eq!(
            (settings.level, settings.size, settings.clients),
            (None, 100, 8)
        );
        assert_eq!(
            (settings.plan.keys, &settings.table[..]),
            (100_000, "mainstay_bench")
        );
        assert_eq!(settings.warmup, Duration::from_secs(1));
    }

    #[test]
    fn large_values_have_fewer_rows_unless_a_number_is_given() {
        assert_eq!(parsed(&["--size", "1000000"]).unwrap().plan.keys, 64);
        assert_eq!(parsed(&["--size", "0"]).unwrap().plan.keys, 100_000);
        let given = parsed(&["--size", "1000000", "--keys", "1000"]).unwrap();
        assert_eq!(given.plan.keys, 1000);
        let largest = SIZE_MAX.to_string();
        assert_eq!(
            parsed(&["--size", &largest, "--clients", "1"])
                .unwrap()
                .plan
                .keys,
            1
        );
    }

    #[test]
    fn lengths_are_a_time_or_a_count_and_levels_have_their_names() {
        let half = parsed(&["--seconds", "0.5", "--warmup", "0"]).unwrap();
        assert_eq!(half.length, Length::For(Duration::from_millis(500)));
        assert_eq!(half.warmup, Duration::ZERO);
        assert_eq!(parsed(&["--count", "7"]).unwrap().length, Length::Count(7));
        for level in Level::ALL {
            let settings = parsed(&["--level", level.as_str()]).unwrap();
            assert_eq!(settings.level, Some(level));
        }
    }

    #[test]
    fn flags_that_make_no_sense_are_explained() {
        let clients = format!("not a number from 1 to {CLIENTS_MAX}");
        for (flags, part) in [
            (&["--clients", "0"][..], clients.as_str()),
            (&["--clients", "1001"], &clients),
            (&["--size", "67108864"], "not a number from 0 to 67043328"),
            (&["--seconds", "0"], "seconds above 0"),
            (&["--seconds", "nan"], "seconds above 0"),
            (&["--warmup=-1"], "seconds from 0 to 86400"),
            (&["--seconds", "1", "--count", "1"], "cannot be used with"),
            (&["--count", "0"], "--count"),
            (&["--keys", "10000001"], "--keys"),
            (&["--level", "sync"], "is not a commit level"),
            (&["--workload", "scan"], "possible values: put, get, mixed"),
            (
                &["--workload", "get", "--level", "local"],
                "--level is of commits",
            ),
            (
                &["--clients", "1000", "--size", "2000000"],
                "fewer --clients",
            ),
        ] {
            let said = parsed(flags).unwrap_err();
            assert!(
                said.contains(part),
                "{flags:?}: {part:?} is missing in: {said}"
            );
        }
    }
}
