//! `mainstay wal`: the log of a node that is not running, for those who must know.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use mainstay_storage::{LogFiles, OsDisk, Record, WalEntryType};

use super::table::columns;
use super::{Failure, print};
use crate::{Lsn, units};

#[derive(Debug, Subcommand)]
pub(crate) enum WalVerb {
    /// List the segments and timelines
    Ls(LogDirectory),
    /// Print the records, one a line
    Dump(DumpArgs),
    /// Check every record, and say what starting the node would find
    Verify(LogDirectory),
}

#[derive(Debug, Args)]
pub(crate) struct LogDirectory {
    /// The node's data directory
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    log: LogDirectory,
    /// Begin with the first record at or above this position [default: the oldest]
    #[arg(long, value_name = "LSN")]
    from: Option<Lsn>,
    /// At most this many records [default: all]
    #[arg(long)]
    limit: Option<u64>,
}

/// Runs the verb.
pub(crate) fn run(verb: &WalVerb) -> Result<(), Failure> {
    match verb {
        WalVerb::Ls(log) => ls(&log.read()?),
        WalVerb::Dump(args) => dump(&args.log.read()?, args),
        WalVerb::Verify(log) => verify(&log.read()?),
    }
}

impl LogDirectory {
    fn read(&self) -> Result<LogFiles, Failure> {
        if !self.dir.join("control").exists() {
            let dir = self.dir.display();
            return Err(Failure::usage(format!(
                "{dir} is no data directory: it has no control file"
            )));
        }
        Ok(LogFiles::read(Arc::new(OsDisk), &self.dir)?)
    }
}

fn ls(files: &LogFiles) -> Result<(), Failure> {
    let control = files.control();
    let closed = if control.clean {
        "closed properly"
    } else {
        "not closed properly, or running"
    };
    let size = files.segment_size().bytes() >> 20;
    print(format!(
        "cluster {:016x}, segments of {size} MiB, {closed}",
        control.system_id
    ))?;
    let history = files.history();
    for span in history.spans() {
        let (timeline, begin) = (span.timeline, span.begin);
        let until = history
            .end_of(timeline.number)
            .map(|end| format!(" to {end}"));
        print(format!(
            "timeline {timeline} from {begin}{}",
            until.unwrap_or_default()
        ))?;
    }
    let titles = ["SEGMENT", "FROM", "TO"].map(str::to_owned);
    let segments = files.segments().into_iter().map(|segment| {
        let end = segment.start_lsn + files.segment_size().bytes();
        [segment.name, segment.start_lsn.to_string(), end.to_string()]
    });
    let rows = std::iter::once(titles).chain(segments).collect::<Vec<_>>();
    print(columns("  ", &rows).trim_end())
}

fn dump(files: &LogFiles, args: &DumpArgs) -> Result<(), Failure> {
    let mut records = files.records(args.from.unwrap_or(Lsn::ZERO));
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(record) = records.next_record()? else {
            if let Some((at, why)) = records.stopped() {
                writeln!(out, "{at}  end: {why}")?;
            }
            break;
        };
        writeln!(out, "{}", line(&record))?;
        left -= 1;
    }
    Ok(out.flush()?)
}

fn line(record: &Record) -> String {
    let kind = format!("{:?}", record.head.entry_type);
    let transaction = match record.head.tx_id {
        0 => "-".to_owned(),
        id => id.to_string(),
    };
    let (lsn, size, crc) = (record.lsn.to_string(), record.payload.len(), record.crc);
    let mut line = format!(
        "{lsn:<12}  {kind:<13}  tx {transaction:<12}  {size:>8} B  crc {crc:08x}  flushed {}",
        record.head.flushed_upto
    );
    if record.head.entry_type == WalEntryType::NewTimeline {
        line += "  a new timeline begins";
    }
    line
}

fn verify(files: &LogFiles) -> Result<(), Failure> {
    let found = files.verify()?;
    let bytes = units::bytes(found.end.bytes_since(found.begin));
    print(format!(
        "{} to {}: {bytes} of log, every record is valid",
        found.begin, found.end
    ))?;
    print(format!(
        "this node had flushed up to {} at least",
        found.proven
    ))?;
    if found.torn > 0 {
        let torn = units::bytes(found.torn);
        print(format!(
            "behind it lie {torn} of a write that was never finished and never acknowledged; the \
             next start sets them aside"
        ))?;
    }
    Ok(())
}
