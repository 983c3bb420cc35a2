//! `mainstay demo`: a cluster of real processes, its primary killed under load, and a count.
//!
//! One primary and some standbys run as children of this process, under the policy `ANY 1 (*)`.
//! Rows are loaded, writers keep writing, the lag is measured, the primary is killed with
//! `SIGKILL`, the most advanced standby is promoted, the others follow it, and at the end every
//! node is compared, key by key, with what was acknowledged. The children end with this process,
//! whatever becomes of it: each watches a pipe that only this process holds open.

mod cluster;
mod lag;
mod ledger;
mod report;
mod rows;
mod scenario;
mod writers;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Failure, print};
use cluster::Cluster;
use report::{Findings, Narrator};
use rows::Source;

/// Rows that are loaded when nothing else is said.
const ROWS_DEFAULT: u64 = 200_000;

/// Marks a directory as made by the demo, so that it may be made anew.
const MARKER: &str = ".mainstay-demo";

/// Where the nodes live when nothing else is said.
const DIR_DEFAULT: &str = "mainstay-demo";

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many standbys; after the failover one must be left to confirm what the new primary
    /// writes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=8))]
    standbys: u8,
    /// Load this CSV or NDJSON file; its first column or field is the key [default: made-up
    /// customers and orders]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Load this many rows [default: 200000, or all of --input]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    rows: Option<u64>,
    /// Where the nodes keep their data [default: ./mainstay-demo]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Keep that directory
    #[arg(long)]
    keep: bool,
    /// Print nothing but one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(crate) fn run(args: DemoArgs) -> Result<(), Failure> {
    let source = Source::open(args.input.as_deref(), args.rows)?;
    let dir = args
        .dir
        .clone()
        .unwrap_or_else(|| PathBuf::from(DIR_DEFAULT));
    prepare(&dir)?;
    let narrator = Narrator::new(args.json);
    let cluster = Arc::new(Cluster::new(&dir));
    let cleanup = (!args.keep).then(|| dir.clone());
    end_on_signal(cluster.clone(), cleanup.clone())?;
    narrator.intro(args.standbys, &dir, args.keep)?;
    let played = scenario::play(&cluster, source, args.standbys, &narrator);
    cluster.stop_all();
    let findings = played.map_err(|mut failure| {
        let text = format!("\n  The nodes' data and logs are kept in {}", dir.display());
        failure.add(&text);
        failure
    })?;
    narrator.verdict(&findings)?;
    if args.json {
        print(findings.json())?;
    }
    judge(&findings, &dir)?;
    if let Some(dir) = cleanup {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(())
}

fn judge(findings: &Findings, dir: &Path) -> Result<(), Failure> {
    let (lost, unexpected) = (findings.rows_lost, findings.rows_unexpected);
    if lost == 0 && unexpected == 0 {
        return Ok(());
    }
    let examples = findings.examples.join(", ");
    Err(Failure::damaged(format!(
        "{lost} acknowledged rows were lost, {unexpected} rows were found that nobody wrote: \
         {examples}\n  The nodes' data and logs are kept in {}",
        dir.display()
    )))
}

/// Makes the directory, or empties one that an earlier demo made.
fn prepare(dir: &Path) -> Result<(), Failure> {
    let refuse = |error: io::Error| Failure::failed(format!("{}: {error}", dir.display()));
    let filled = match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(refuse(error)),
    };
    if filled && !dir.join(MARKER).exists() {
        let dir = dir.display();
        return Err(Failure::refused(format!(
            "{dir} holds something else, and the demo would delete it; choose another with --dir"
        )));
    }
    if filled {
        std::fs::remove_dir_all(dir).map_err(refuse)?;
    }
    std::fs::create_dir_all(dir).map_err(refuse)?;
    std::fs::write(
        dir.join(MARKER),
        "made by mainstay demo, which may delete all of it\n",
    )
    .map_err(refuse)
}

/// Ends the children and this process when it is interrupted.
fn end_on_signal(cluster: Arc<Cluster>, cleanup: Option<PathBuf>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signals = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    let thread = std::thread::Builder::new().name("demo-signals".to_owned());
    thread.spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
            }
        });
        cluster.kill_all();
        if let Some(dir) = cleanup {
            // Nobody is left to be told that some of it remains.
            let _ = std::fs::remove_dir_all(dir);
        }
        eprintln!("interrupted");
        std::process::exit(130);
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_or_one_of_an_earlier_demo_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("demo");
        prepare(&dir).unwrap();
        std::fs::write(dir.join("a"), "old").unwrap();
        prepare(&dir).unwrap();
        assert!(!dir.join("a").exists());
        std::fs::remove_file(dir.join(MARKER)).unwrap();
        std::fs::write(dir.join("precious"), "").unwrap();
        let refused = prepare(&dir).unwrap_err();
        assert!(
            refused.text().contains("choose another with --dir"),
            "{refused:?}"
        );
        assert!(dir.join("precious").exists());
    }
}
