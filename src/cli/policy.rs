//! `mainstay policy`: who must confirm a commit.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{Failure, NodeAddress, print};
use crate::SyncPolicy;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Show the policy, whom it counts, and how it stands
    Show(ShowArgs),
    /// Set the policy while the primary runs; until it is confirmed the old one binds too
    Set(SetArgs),
    /// Take out a standby that is gone for good, so that * does not count it any more
    Remove(RemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// Print the answer of GET /v1/policy, one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// off, ANY n (names), FIRST n (names), or * for names
    policy: SyncPolicy,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// The standby
    name: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// Let it count as soon as it is on the primary's disk, although those counted before may never
    /// hear of it; the answer names who could still promote themselves without it
    #[arg(long)]
    force: bool,
    /// Print the answer as one line of JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(verb: &PolicyVerb) -> Result<(), Failure> {
    match verb {
        PolicyVerb::Show(args) => show(args),
        PolicyVerb::Set(args) => {
            let policy = args.policy.to_string();
            change(&args.node, &args.how, "policy", &policy)
        }
        PolicyVerb::Remove(args) => change(&args.node, &args.how, "remove", &args.name),
    }
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let answer = args.node.client()?.policy()?;
    if args.json {
        return print(answer);
    }
    print(format!(
        "{}   {}   on miss {}",
        text(&answer, "policy"),
        text(&answer, "state"),
        text(&answer, "on_miss")
    ))?;
    print(format!(
        "{} of {} needed standbys are there; it counts: {}",
        answer["present"],
        answer["needed"],
        list(&answer["counted"])
    ))?;
    if answer["binding"]
        .as_array()
        .is_some_and(|all| all.len() > 1)
    {
        let binding = list(&answer["binding"]);
        print(format!(
            "until the change is confirmed, all of these bind: {binding}"
        ))?;
    }
    if answer["unknown"]
        .as_array()
        .is_some_and(|all| !all.is_empty())
    {
        print(format!("never registered: {}", list(&answer["unknown"])))?;
    }
    Ok(())
}

fn change(node: &NodeAddress, how: &How, what: &str, value: &str) -> Result<(), Failure> {
    let answer = node.client()?.set_policy(what, value, how.force)?;
    if how.json {
        return print(answer);
    }
    let force = match answer["in_force"].as_bool() {
        Some(true) => "in force",
        _ => "logged, not in force yet",
    };
    print(format!(
        "{}: {force}, from {}",
        text(&answer, "policy"),
        text(&answer, "lsn")
    ))?;
    for notice in answer["notices"].as_array().into_iter().flatten() {
        print(format!("note: {}", notice.as_str().unwrap_or("?")))?;
    }
    Ok(())
}

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or("?")
}

fn list(names: &Value) -> String {
    let names = names.as_array().into_iter().flatten();
    let names = names.filter_map(Value::as_str).collect::<Vec<_>>();
    match names.is_empty() {
        true => "nobody".to_owned(),
        false => names.join(", "),
    }
}
