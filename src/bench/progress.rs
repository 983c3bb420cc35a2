//! How far a run is, on standard error: one line that changes where that is a terminal, else a line
//! now and then.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::histogram::Distribution;
use super::load::Elapsed;
use super::plan::Workload;
use super::report::{Interval, progress_line};
use super::tally::Tally;
use crate::units;

/// Ticks between two lines where nobody watches a terminal.
const PLAIN_TICKS: u64 = 10;

/// Shows how far a run is.
#[derive(Debug)]
pub(crate) struct Progress {
    workload: Workload,
    /// The line on the terminal, if standard error is one.
    line: Option<ProgressBar>,
    ticks: u64,
    /// Where the last line that was shown ended.
    shown: Duration,
    commits: Option<Distribution>,
    reads: Option<Distribution>,
}

impl Progress {
    pub(crate) fn new(workload: Workload) -> Self {
        let line = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {msg}").expect("the template is correct");
            let target = ProgressDrawTarget::stderr();
            ProgressBar::with_draw_target(None, target).with_style(style)
        });
        Self {
            workload,
            line,
            ticks: 0,
            shown: Duration::ZERO,
            commits: None,
            reads: None,
        }
    }

    /// `done` of `all` rows are there to be read.
    pub(crate) fn filled(&self, done: u64, all: u64) {
        if let Some(line) = &self.line {
            let [done, all] = [done, all].map(units::count);
            line.set_message(format!("{done} of {all} rows written that are to be read"));
        }
    }

    /// Shows what happened since the last line, when it is time for one.
    pub(crate) fn tick(&mut self, elapsed: Elapsed, tally: &Tally) {
        self.ticks += 1;
        if self.line.is_none() && !self.ticks.is_multiple_of(PLAIN_TICKS) {
            return;
        }
        let text = match elapsed {
            Elapsed::WarmingUp(elapsed) => format!("warming up, {} s", elapsed.as_secs()),
            Elapsed::Measuring(elapsed) => self.measured(elapsed, tally),
        };
        match &self.line {
            Some(line) => line.set_message(text),
            None => eprintln!("  {text}"),
        }
    }

    fn measured(&mut self, elapsed: Duration, tally: &Tally) -> String {
        let took = (elapsed - self.shown).as_secs_f64();
        let interval = |last: &mut Option<Distribution>, now: Distribution| {
            let interval = match last {
                Some(last) => now.since(last),
                None => now.clone(),
            };
            *last = Some(now);
            interval
        };
        let commits = interval(&mut self.commits, tally.commits.distribution());
        let reads = interval(&mut self.reads, tally.reads.distribution());
        self.shown = elapsed;
        progress_line(&Interval {
            seconds: elapsed.as_secs(),
            took,
            commits: self.workload.writes().then_some(&commits),
            reads: self.workload.reads().then_some(&reads),
            errors: tally.errors_in_all(),
        })
    }

    /// Takes the line from the terminal.
    pub(crate) fn finish(&self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}
