//! What became of a write.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::error::{ApiError, ApiResult, json};
use super::keys::query;
use super::{Api, WAIT_MS_DEFAULT, WAIT_MS_MAX};
use crate::{Level, Lsn, WrittenOn};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wait {
    lsn: String,
    timeline: u32,
    promotion_id: Option<String>,
    level: Option<String>,
    timeout_ms: Option<u64>,
}

pub(crate) async fn get(
    State(api): State<Api>,
    wait: Result<Query<Wait>, QueryRejection>,
) -> ApiResult<Response> {
    let hint =
        "give lsn and timeline as the write's answer has them, and perhaps level, timeout_ms";
    let wait = query(wait).map_err(|error| error.hint(hint))?;
    let bad = |what: &str, why: String| ApiError::bad(format!("{what}: {why}"));
    let lsn = wait.lsn.parse::<Lsn>();
    let lsn = lsn.map_err(|error| bad("lsn", error.to_string()))?;
    let level = wait
        .level
        .as_deref()
        .map_or(Ok(Level::RemoteFlush), str::parse);
    let level = level.map_err(|error| bad("level", error.to_string()))?;
    let id = wait.promotion_id.as_deref().map(str::parse).transpose();
    let id = id.map_err(|error: uuid::Error| bad("promotion_id", error.to_string()))?;
    let millis = wait.timeout_ms.unwrap_or(WAIT_MS_DEFAULT);
    if millis > WAIT_MS_MAX {
        let why = format!("{millis} is over the limit of {WAIT_MS_MAX}");
        return Err(bad("timeout_ms", why));
    }
    let number = wait.timeline;
    let on = WrittenOn { number, id };
    let within = Duration::from_millis(millis);
    let outcome = api.node.outcome(lsn, on, level, within).await?;
    Ok(json(StatusCode::OK, json!({ "outcome": outcome.as_str() })))
}
