//! What `mainstay events` shows: what happened, for people or for programs.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{Failure, NodeAddress, print};
use crate::encoding::url_encode;
use crate::{EVENTS_DEFAULT, EVENTS_MAX};

/// How often a node is asked for what is new.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    address: NodeAddress,
    /// Only what is about this node: its name, or the id of the node that recorded it
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only this type of event, such as promoted or lag_detected
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only from this time on, as 2026-03-14T15:09:26Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show the newest N
    #[arg(long, value_name = "N", default_value_t = EVENTS_DEFAULT)]
    limit: usize,
    /// Print each event as one line of JSON
    #[arg(long)]
    json: bool,
    /// Go on with what happens from now on, until interrupted
    #[arg(long)]
    follow: bool,
}

pub(crate) fn run(args: &EventsArgs) -> Result<(), Failure> {
    let client = args.address.client()?;
    let filter = filter(args);
    let mut seen = 0;
    let mut query = format!("limit={}{filter}", args.limit);
    loop {
        let answer = client.events(&query)?;
        let events = answer["events"].as_array().map(Vec::as_slice);
        let events = events.unwrap_or_default();
        for event in events {
            seen = event["id"].as_u64().unwrap_or(seen).max(seen);
            match args.json {
                true => print(event)?,
                false => print(line(event))?,
            }
        }
        if !args.follow {
            return Ok(());
        }
        // A full page has more behind it, once what is new is asked for.
        if events.len() < EVENTS_MAX {
            std::thread::sleep(FOLLOW_EVERY);
        }
        query = format!("limit={EVENTS_MAX}&after_id={seen}{filter}");
    }
}

/// The filter as the rest of a query.
fn filter(args: &EventsArgs) -> String {
    let parts = [
        ("node", &args.node),
        ("type", &args.event_type),
        ("since", &args.since),
        ("until", &args.until),
    ];
    let given = parts.iter().filter_map(|(name, value)| {
        let value = value.as_ref()?;
        Some(format!("&{name}={}", url_encode(value.as_bytes())))
    });
    given.collect()
}

/// An event as a person reads it: when, what, and a sentence.
fn line(event: &Value) -> String {
    let text = |field: &str| event[field].as_str().unwrap_or("?").to_owned();
    let at = text("created_at");
    // To the millisecond; the rest is in the JSON.
    let at = match at.split_once('.') {
        Some((seconds, rest)) => format!("{seconds}.{:.3}Z", rest.trim_end_matches('Z')),
        None => at,
    };
    format!("{at}  {:<21}  {}", text("event_type"), text("message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_reads_like_this() {
        let event = json!({
            "id": 7, "created_at": "2026-03-14T15:09:26.535897Z", "event_type": "failover",
            "message": "b took over from a, on timeline 2",
        });
        assert_eq!(
            line(&event),
            "2026-03-14T15:09:26.535Z  failover               b took over from a, on timeline 2"
        );
    }
}
