//! What happened to the node.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::error::{ApiError, ApiResult, json};
use super::{Api, blocking};
use crate::encoding::url_decode;
use crate::{EVENTS_MAX, EventFilter, moment};

pub(crate) async fn list(State(api): State<Api>, RawQuery(raw): RawQuery) -> ApiResult<Response> {
    let filter = parse(raw.as_deref().unwrap_or_default())?;
    let node = api.node.clone();
    let events = blocking(move || Ok(node.events(&filter)?)).await?;
    Ok(json(StatusCode::OK, json!({ "events": events })))
}

fn parse(raw: &str) -> ApiResult<EventFilter> {
    let mut filter = EventFilter::default();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
        let bad = |error: String| ApiError::bad(format!("{name}: {error}"));
        // A plus stays one, since it may begin the offset of a time; names hold no blanks.
        let value = url_decode(text)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()));
        let value = value.map_err(bad)?;
        match name {
            "node" if value.is_empty() => return Err(bad("it is empty".to_owned())),
            "node" => filter.node = Some(value),
            "type" => filter.event_type = Some(value.parse().map_err(bad)?),
            "since" => filter.since = Some(moment::parse(&value).map_err(bad)?),
            "until" => filter.until = Some(moment::parse(&value).map_err(bad)?),
            "limit" => {
                let limit = value.parse().ok().filter(|n| (1..=EVENTS_MAX).contains(n));
                let range = || format!("{value:?} is not a number from 1 to {EVENTS_MAX}");
                filter.limit = Some(limit.ok_or_else(range).map_err(bad)?);
            }
            "after_id" => {
                let number = || format!("{value:?} is not the id of an event");
                filter.after_id = Some(value.parse().map_err(|_| number()).map_err(bad)?);
            }
            _ => {
                let hint = "there are node, type, since, until, limit, after_id";
                return Err(ApiError::bad(format!("unknown parameter {name:?}")).hint(hint));
            }
        }
    }
    Ok(filter)
}
