//! The verbs that ask a running node for one thing.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{Failure, NodeAddress, print, status};
use crate::Lsn;
use crate::client::Written;
use crate::encoding::put_json;
use crate::http::{SCAN_ROWS_DEFAULT, VALUE_BYTES_MAX, WAIT_MS_DEFAULT};

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// Print the answer of GET /v1/status, one line of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let answer = args.node.client()?.status()?;
    if args.json {
        return print(answer);
    }
    let status = serde_json::from_value(answer)
        .map_err(|error| Failure::failed(format!("the status cannot be read: {error}")))?;
    print(status::render(&status).trim_end())
}

#[derive(Debug, Args)]
pub(crate) struct SwitchoverArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// The standby that takes over [default: the one that is furthest]
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn switchover(args: &SwitchoverArgs) -> Result<(), Failure> {
    let answer = args.node.client()?.switchover(args.to.as_deref())?;
    if args.json {
        return print(answer);
    }
    let name = answer["new_primary_name"].as_str().unwrap_or("?");
    print(format!(
        "{name} is the primary now, on timeline {}; writes were held for {} ms, and this node \
         follows it",
        answer["timeline"], answer["pause_ms"]
    ))
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// pause: apply nothing, but go on receiving; resume: go on applying
    #[arg(value_enum)]
    order: ApplyOrder,
}

#[derive(Debug, Copy, Clone, clap::ValueEnum)]
enum ApplyOrder {
    Pause,
    Resume,
}

pub(crate) fn apply(args: &ApplyArgs) -> Result<(), Failure> {
    let paused = matches!(args.order, ApplyOrder::Pause);
    args.node.client()?.apply(paused)?;
    print(match paused {
        true => "paused; log is received and kept, and nothing of it is applied",
        false => "applying",
    })
}

#[derive(Debug, Args)]
pub(crate) struct DemoteArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// postgres://user@host:port[,host:port] of the node that is to be the primary
    url: String,
}

pub(crate) fn demote(args: &DemoteArgs) -> Result<(), Failure> {
    args.node.client()?.demote(&args.url)?;
    print(format!("no primary any more, following {}", args.url))
}

#[derive(Debug, Args)]
pub(crate) struct FollowArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// postgres://user@host:port[,host:port] of the primary
    url: String,
}

pub(crate) fn follow(args: &FollowArgs) -> Result<(), Failure> {
    args.node.client()?.follow(&args.url)?;
    print(format!("following {}", args.url))
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    node: NodeAddress,
}

pub(crate) fn stop(args: &StopArgs) -> Result<(), Failure> {
    args.node.client()?.stop()?;
    print("stopping")
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    node: NodeAddress,
    table: String,
    key: String,
    /// The value, or - to read it from standard input
    value: String,
}

pub(crate) fn put(args: PutArgs) -> Result<(), Failure> {
    let value = match args.value.as_str() {
        "-" => read_value()?,
        _ => args.value.into_bytes(),
    };
    let written = args
        .node
        .client()?
        .put(&args.table, args.key.as_bytes(), value)?;
    print(receipt(&written))
}

fn read_value() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    io::stdin()
        .lock()
        .take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut value)?;
    if value.len() > VALUE_BYTES_MAX {
        let what = format!("the value is over the limit of {VALUE_BYTES_MAX} bytes");
        return Err(Failure::usage(what));
    }
    Ok(value)
}

fn receipt(written: &Written) -> Value {
    json!({ "lsn": written.lsn, "timeline": written.timeline })
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    node: NodeAddress,
    table: String,
    key: String,
    /// Wait until the node shows everything up to here, as a write's answer names it
    #[arg(long, value_name = "LSN")]
    min_lsn: Option<Lsn>,
    /// For how long
    #[arg(long, value_name = "MS", default_value_t = WAIT_MS_DEFAULT)]
    timeout_ms: u64,
}

pub(crate) fn get(args: &GetArgs) -> Result<(), Failure> {
    let min_lsn = args.min_lsn.map(|lsn| lsn.to_string());
    let wait = min_lsn
        .as_deref()
        .map(|lsn| (lsn, Duration::from_millis(args.timeout_ms)));
    let value = args
        .node
        .client()?
        .get(&args.table, args.key.as_bytes(), wait)?;
    let Some(value) = value else {
        let (table, key) = (&args.table, &args.key);
        return Err(Failure::failed(format!(
            "there is no key {key:?} in table {table:?}"
        )));
    };
    let mut out = io::stdout().lock();
    out.write_all(&value)?;
    // The bytes as they are for a program, a line of its own for a person.
    if out.is_terminal() {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    node: NodeAddress,
    table: String,
    key: String,
}

pub(crate) fn delete(args: &DeleteArgs) -> Result<(), Failure> {
    print(receipt(
        &args
            .node
            .client()?
            .delete(&args.table, args.key.as_bytes())?,
    ))
}

#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    #[command(flatten)]
    node: NodeAddress,
    table: String,
    /// Only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: String,
    /// At most this many rows [default: all]
    #[arg(long)]
    limit: Option<usize>,
}

pub(crate) fn scan(args: &ScanArgs) -> Result<(), Failure> {
    let client = args.node.client()?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut from = Some(Vec::new());
    while let Some(key) = from.take().filter(|_| left > 0) {
        let limit = left.min(SCAN_ROWS_DEFAULT);
        let page = client.scan(&args.table, args.prefix.as_bytes(), &key, limit)?;
        left -= page.rows.len().min(left);
        for (key, value) in &page.rows {
            writeln!(out, "{}", row(key, value))?;
        }
        from = page.next;
    }
    Ok(out.flush()?)
}

/// A row as one line of JSON.
pub(crate) fn row(key: &[u8], value: &[u8]) -> Value {
    let mut row = Map::new();
    put_json(&mut row, "key", key);
    put_json(&mut row, "value", value);
    Value::Object(row)
}
