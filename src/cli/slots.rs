//! `mainstay slots`: what log a node keeps, for whom, and giving a slot up.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Failure, NodeAddress, print};

#[derive(Debug, Args)]
pub(crate) struct SlotsArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// Print the answer of GET /v1/slots, one line of JSON
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    verb: Option<SlotsVerb>,
}

#[derive(Debug, Subcommand)]
enum SlotsVerb {
    /// Drop a slot, so that no log is kept for it any more
    Drop {
        #[command(flatten)]
        node: NodeAddress,
        name: String,
    },
}

/// Runs the verb.
pub(crate) fn run(args: &SlotsArgs) -> Result<(), Failure> {
    if let Some(SlotsVerb::Drop { node, name }) = &args.verb {
        node.client()?.drop_slot(name)?;
        return print(format!("dropped {name}"));
    }
    let slots = args.node.client()?.slots()?;
    if args.json {
        return print(slots);
    }
    let slots = slots.as_array().cloned().unwrap_or_default();
    if slots.is_empty() {
        return print("no slots");
    }
    slots.iter().try_for_each(|slot| print(line(slot)))
}

/// A slot for a person.
fn line(slot: &Value) -> String {
    let text = |field: &str| slot[field].as_str().unwrap_or("-").to_owned();
    let used = match (&slot["active"], &slot["inactive_since"]) {
        (Value::Bool(true), _) => "active".to_owned(),
        (_, Value::String(since)) => format!("not used since {since}"),
        _ => "not used".to_owned(),
    };
    let carried = match slot["carried"] {
        Value::Bool(true) => ", the primary's",
        _ => "",
    };
    format!(
        "{}  {}  from {}  {} bytes  {used}{carried}",
        text("name"),
        text("wal_status"),
        text("restart_lsn"),
        slot["retained_bytes"],
    )
}
