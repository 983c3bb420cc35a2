//! Comparing a standby's rows with its primary's.

use clap::Args;
use serde_json::Value;

use super::{Failure, NodeAddress, print};
use crate::units;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    node: NodeAddress,
    /// Take the ranges that differ anew from the primary
    #[arg(long)]
    repair: bool,
    /// Print the answer as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb. Rows that differ are damage, whatever was printed of them.
pub(crate) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let answer = args.node.client()?.verify(args.repair)?;
    match args.json {
        true => print(&answer)?,
        false => print(render(&answer))?,
    }
    match answer["verified"] == true {
        true => Ok(()),
        false => Err(Failure::damaged(next(&answer))),
    }
}

fn render(answer: &Value) -> String {
    let text = |field: &str| answer[field].as_str().unwrap_or("?").to_owned();
    let bytes = units::bytes(answer["bytes"].as_u64().unwrap_or(0));
    let mut lines = vec![format!(
        "{} rows, {bytes}, compared at {} in {} ranges, {} s",
        answer["rows"],
        text("lsn"),
        answer["ranges"],
        answer["seconds"]
    )];
    if let Some(first) = answer["first_difference"]["text"].as_str() {
        lines.push(format!(
            "{} ranges differ; first {first}",
            answer["mismatched_ranges"]
        ));
    }
    let repaired = &answer["repaired"];
    if repaired.is_object() {
        lines.push(format!(
            "repaired at {}: {} ranges with {} rows came from the primary, {} rows were wrong",
            repaired["lsn"].as_str().unwrap_or("?"),
            repaired["ranges"],
            repaired["shipped_rows"],
            repaired["rows"]
        ));
    }
    let name = text("standby_name");
    if answer["verified"] == true {
        lines.push(format!("{name} holds what its primary holds"));
    }
    lines.join("\n")
}

/// What a person does about it.
fn next(answer: &Value) -> String {
    let name = answer["standby_name"].as_str().unwrap_or("this standby");
    let done = match answer["repaired"].is_object() {
        true => "still differs from its primary after the repair",
        false => "differs from its primary",
    };
    let then = match answer["repaired"].is_object() {
        true => "take all of its rows anew: mainstay resync --full",
        false => "mend it: mainstay verify --repair",
    };
    format!("{name} {done}, and is not promoted as long as it does. Next, {then}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(verified: bool) -> Value {
        json!({
            "verified": verified, "standby_name": "b", "lsn": "0/100", "ranges": 3, "rows": 7,
            "bytes": 2048, "seconds": 0.5, "mismatched_ranges": 0, "first_difference": null,
            "repaired": null,
        })
    }

    #[test]
    fn what_was_found_is_said_with_what_to_do() {
        let mut found = answer(true);
        let clean = render(&found);
        assert!(clean.starts_with("7 rows,") && clean.ends_with("b holds what its primary holds"));
        found["verified"] = false.into();
        found["mismatched_ranges"] = 2.into();
        found["first_difference"] = json!({ "text": "key \"k\" of table t is missing here" });
        let text = render(&found);
        assert!(text.contains("2 ranges differ; first key \"k\" of table t is missing"));
        assert!(next(&found).contains("verify --repair"));
        found["repaired"] = json!({ "lsn": "0/200", "ranges": 2, "shipped_rows": 9, "rows": 1 });
        assert!(render(&found).contains("2 ranges with 9 rows came from the primary, 1 rows"));
        assert!(next(&found).contains("resync --full"));
    }
}
