//! Status, and orders to the node.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::error::{ApiError, ApiResult, json, of_body};
use super::{Api, ORDER_BYTES_MAX, blocking};
use crate::SyncPolicy;

pub(crate) async fn status(State(api): State<Api>) -> ApiResult<Response> {
    answer(&api.node.status())
}

pub(crate) async fn health(State(api): State<Api>) -> ApiResult<Response> {
    let node = api.node.clone();
    let shown = blocking(move || Ok(node.snapshot()?)).await?;
    drop(shown);
    Ok(json(StatusCode::OK, json!({ "status": "running" })))
}

pub(crate) async fn policy(State(api): State<Api>) -> ApiResult<Response> {
    answer(&api.node.policy()?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Policy {
    policy: Option<String>,
    remove: Option<String>,
    force: bool,
}

pub(crate) async fn set_policy(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let example = r#"{"policy":"ANY 1 (*)","force":false} or {"remove":"b"}"#;
    let Policy {
        policy,
        remove,
        force,
    } = order(body, false, example)?;
    let changed = match (policy, remove) {
        (Some(policy), None) => {
            let policy = policy.parse::<SyncPolicy>();
            let policy = policy.map_err(|error| ApiError::bad(error.to_string()))?;
            api.node.set_policy(policy, force).await?
        }
        (None, Some(name)) => api.node.remove_standby(&name, force).await?,
        _ => {
            let what = "the body: one of policy and remove is needed";
            return Err(ApiError::bad(what).hint(format!("send {example}")));
        }
    };
    answer(&changed)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Verify {
    repair: bool,
}

pub(crate) async fn verify(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let Verify { repair } = order(body, true, r#"{"repair":false}"#)?;
    answer(&api.node.verify(repair).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Apply {
    paused: bool,
}

pub(crate) async fn apply(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let Apply { paused } = order(body, false, r#"{"paused":true}"#)?;
    api.node.pause_apply(paused).await?;
    Ok(json(StatusCode::OK, json!({ "paused": paused })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Switchover {
    to: Option<String>,
}

pub(crate) async fn switchover(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let Switchover { to } = order(body, true, r#"{"to":"b"} or nothing"#)?;
    answer(&api.node.switchover(to.as_deref()).await?)
}

pub(crate) async fn demote(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let Follow { url } = order(body, false, r#"{"url":"postgres://host:port"}"#)?;
    api.node.demote(&url).await?;
    Ok(json(
        StatusCode::OK,
        json!({ "demoted": true, "following": url }),
    ))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Follow {
    url: String,
}

pub(crate) async fn follow(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let Follow { url } = order(body, false, r#"{"url":"postgres://host:port"}"#)?;
    api.node.follow(&url).await?;
    Ok(json(StatusCode::OK, json!({ "following": url })))
}

pub(crate) async fn stop(State(api): State<Api>) -> Response {
    api.stop.notify_one();
    json(StatusCode::OK, json!({ "stopping": true }))
}

/// Reads an order's body; an empty one is the default where that makes sense.
pub(super) fn order<T: DeserializeOwned + Default>(
    body: Result<Bytes, BytesRejection>,
    may_be_empty: bool,
    example: &str,
) -> ApiResult<T> {
    let body = body.map_err(|rejection| of_body(&rejection, ORDER_BYTES_MAX))?;
    if body.is_empty() && may_be_empty {
        return Ok(T::default());
    }
    let bad = |why: &str| ApiError::bad(format!("the body: {why}")).hint(format!("send {example}"));
    // A list of values without their names would be taken for an order as well.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(bad("an order is an object"));
    }
    serde_json::from_slice(&body).map_err(|error| bad(&error.to_string()))
}

pub(super) fn answer(value: &impl Serialize) -> ApiResult<Response> {
    let value = serde_json::to_value(value)
        .map_err(|error| ApiError::new(500, format!("the answer cannot be written: {error}")))?;
    Ok(json(StatusCode::OK, value))
}
