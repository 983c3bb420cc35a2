//! Slots: a list, and giving one up.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::Api;
use super::control::answer;
use super::error::{ApiResult, json};

pub(crate) async fn list(State(api): State<Api>) -> ApiResult<Response> {
    answer(&api.node.slots()?)
}

pub(crate) async fn drop_one(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> ApiResult<Response> {
    api.node.drop_slot(&name).await?;
    Ok(json(StatusCode::OK, json!({ "dropped": name })))
}
