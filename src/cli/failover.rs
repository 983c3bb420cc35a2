//! The verbs that replace a primary which is gone, and that bring a standby back.
//!
//! With `--force` or `--without-policy` they ask first what that may cost, and say so on standard
//! error before they act.

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, NodeAddress, print};
use crate::config::Size;

/// How a standby is made the primary.
#[derive(Debug, Args)]
struct Options {
    /// Promote although a primary may be alive, or too much is missing; says first what that may
    /// cost
    #[arg(long)]
    force: bool,
    /// Give the policy up: promote although members that must agree cannot be reached; says first
    /// what that may cost
    #[arg(long)]
    without_policy: bool,
    /// The most log that the new primary may lack, such as 16MiB [default: what its node says]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_MAX_LAG")]
    max_lag: Option<Size>,
    /// Print the answer as one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PromoteArgs {
    #[command(flatten)]
    node: NodeAddress,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// The standby that takes over [default: the one with the newest log]
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    #[command(flatten)]
    options: Options,
}

pub(crate) fn promote(args: &PromoteArgs) -> Result<(), Failure> {
    let answer = order(&args.node, "promote", args.options.body(), &args.options)?;
    if args.options.json {
        return print(answer);
    }
    say(&answer)
}

pub(crate) fn failover(args: &FailoverArgs) -> Result<(), Failure> {
    let mut body = args.options.body();
    if let Some(to) = &args.to {
        body["to"] = json!(to);
    }
    let answer = order(&args.node, "failover", body, &args.options)?;
    if args.options.json {
        return print(answer);
    }
    say(&answer)?;
    print(format!(
        "why {}: {}",
        text(&answer["new_primary_name"]),
        text(&answer["why"])
    ))
}

#[derive(Debug, Args)]
pub(crate) struct ResyncArgs {
    #[command(flatten)]
    reinit: ReinitArgs,
    /// Copy the data in any case
    #[arg(long)]
    full: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReinitArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// Print the answer as one line of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn resync(args: &ResyncArgs) -> Result<(), Failure> {
    find_way(&args.reinit, args.full)
}

pub(crate) fn reinit(args: &ReinitArgs) -> Result<(), Failure> {
    find_way(args, true)
}

fn find_way(args: &ReinitArgs, full: bool) -> Result<(), Failure> {
    let answer = args
        .node
        .client()?
        .order("resync", &json!({ "full": full }))?;
    if args.json {
        return print(answer);
    }
    print(format!(
        "{}: {}",
        text(&answer["resync"]),
        text(&answer["reason"])
    ))
}

impl Options {
    fn body(&self) -> Value {
        let mut body = json!({ "force": self.force, "without_policy": self.without_policy });
        if let Some(size) = self.max_lag {
            body["max_lag"] = json!(size.0);
        }
        body
    }
}

/// Gives the order; one that may cost something only after it was said what.
fn order(
    node: &NodeAddress,
    name: &str,
    mut body: Value,
    options: &Options,
) -> Result<Value, Failure> {
    let client = node.client()?;
    if options.force || options.without_policy {
        body["dry_run"] = json!(true);
        let outlook = client.order(name, &body)?;
        eprintln!("{}", text(&outlook["possible_loss"]["text"]));
        body["dry_run"] = json!(false);
    }
    Ok(client.order(name, &body)?)
}

fn say(answer: &Value) -> Result<(), Failure> {
    let (name, lsn) = (text(&answer["new_primary_name"]), text(&answer["lsn"]));
    let timeline = &answer["timeline"];
    print(format!(
        "{name} is the primary now, on timeline {timeline} from {lsn}"
    ))?;
    for notice in answer["notices"].as_array().into_iter().flatten() {
        print(format!("note: {}", text(notice)))?;
    }
    print(text(&answer["possible_loss"]["text"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
