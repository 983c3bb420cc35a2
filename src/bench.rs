//! `mainstay bench`: what a running cluster does under a load, as its clients see it.
//!
//! Some clients, each with one connection and one request under way, commit or read rows of a table
//! of their own over HTTP. What they do follows from a seed (`plan.rs`), what they find is counted
//! in bounded memory (`tally.rs`, `histogram.rs`), and what was written is removed again
//! (`rows.rs`). Nothing is tried again and no error is left out: an operation that failed counts as
//! one. Threads and the clock are in `load.rs` alone.

mod histogram;
mod load;
mod marks;
mod nodes;
mod plan;
mod progress;
mod report;
mod requests;
mod rows;
mod tally;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::Level;
use crate::cli::Failure;
use crate::http::{CONNECTIONS_MAX, TRANSACTION_BYTES_MAX};
use load::Load;
use marks::Marks;
pub(crate) use nodes::Nodes;
pub(crate) use plan::{Plan, Workload};
use progress::Progress;
pub(crate) use report::Findings;
use rows::Rows;
use tally::Tally;

/// Most clients: as many connections as a node takes, without some for others to look at it.
pub(crate) const CLIENTS_MAX: usize = CONNECTIONS_MAX - 24;

/// Longest value: with what stands around it a transaction's body that a node reads. What a node
/// stores is a quarter of its log's segment.
pub(crate) const SIZE_MAX: usize = TRANSACTION_BYTES_MAX - (64 << 10);

/// Most bytes of values that all clients may have under way.
pub(crate) const UNDER_WAY_BYTES_MAX: usize = 1 << 30;

/// Most rows.
pub(crate) const KEYS_MAX: u64 = 10_000_000;

/// Rows when nothing else is said, unless their values were more than [`ROWS_BYTES_DEFAULT`].
const KEYS_DEFAULT: u64 = 100_000;

/// Bytes of all values when nothing is said about the number of rows.
const ROWS_BYTES_DEFAULT: u64 = 64_000_000;

/// What to do.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) plan: Plan,
    pub(crate) table: String,
    /// Bytes of a value.
    pub(crate) size: usize,
    pub(crate) clients: usize,
    /// What commits ask for; `None` is what the node does by itself.
    pub(crate) level: Option<Level>,
    pub(crate) length: Length,
    /// For how long the clients work before anything is counted but errors.
    pub(crate) warmup: Duration,
    /// Leave the rows where they are.
    pub(crate) keep: bool,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    For(Duration),
    /// After so many operations, those that failed among them.
    Count(u64),
}

/// How many rows there are for values of `size` bytes when nothing is said about it.
pub(crate) fn keys_default(size: usize) -> u64 {
    KEYS_DEFAULT
        .min(ROWS_BYTES_DEFAULT / (size as u64).max(1))
        .max(1)
}

/// Runs the load until it is done or `stop` is set, and takes away what it wrote.
///
/// # Errors
/// It could not begin: no primary was found, or the first row could not be written.
pub(crate) fn run(
    settings: &Settings,
    nodes: &Nodes,
    stop: &AtomicBool,
) -> Result<Findings, Failure> {
    let before = nodes.find_primary()?;
    let address = nodes.address().to_owned();
    let (marks, tally) = (Marks::new(settings.plan.keys), Tally::new());
    let rows = Rows {
        settings,
        nodes,
        marks: &marks,
        stop,
    };
    let mut progress = Progress::new(settings.plan.workload);
    let load = Load::new(settings, nodes, &marks, &tally, stop);
    let played = rows.prepare(&progress).and_then(|()| {
        let played = load.run(|elapsed| progress.tick(elapsed, &tally));
        played.map_err(Failure::failed)
    });
    progress.finish();
    // As it is when the load ends, before the removal makes log of its own.
    let after = nodes.find_primary().ok();
    let removed = match settings.keep {
        true => Ok(()),
        false => rows.remove(),
    };
    let mut findings = Findings {
        settings: settings.clone(),
        address,
        before,
        after,
        seconds: 0.0,
        commits: tally.commits.distribution(),
        reads: tally.reads.distribution(),
        confirmed: tally.confirmed(),
        errors: tally.errors(),
        interrupted: stop.load(Ordering::Relaxed),
        rows_left: marks.count(),
        removal: removed.err().map(|error| error.to_string()),
    };
    match played {
        Ok(measured) => findings.seconds = measured.as_secs_f64(),
        Err(mut failure) => {
            if findings.rows_left > 0 {
                failure.add(&format!("\n  rows: {}", findings.rows_text()));
            }
            return Err(failure);
        }
    }
    Ok(findings)
}

/// The text of a field of a status.
fn text<'a>(status: &'a Value, field: &str) -> &'a str {
    status[field].as_str().unwrap_or("?")
}
