//! Orders that replace a primary which is gone, and that bring a standby back.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;
use serde::Deserialize;

use super::Api;
use super::control::{answer, order};
use super::error::{ApiError, ApiResult};
use crate::config::Size;
use crate::node::promotion::NotPromoted;
use crate::{FailoverOptions, PromoteOptions};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Promote {
    force: bool,
    without_policy: bool,
    max_lag: Option<Size>,
    dry_run: bool,
}

pub(crate) async fn promote(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let asked: Promote = order(body, true, r#"{"force":false,"max_lag":"16MiB"}"#)?;
    let options = PromoteOptions {
        force: asked.force,
        without_policy: asked.without_policy,
        max_lag: asked.max_lag.map(|size| size.0),
    };
    if asked.dry_run {
        return answer(&api.node.promotion_outlook(&options).await?);
    }
    answer(&api.node.promote_or_say(&options).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Failover {
    to: Option<String>,
    force: bool,
    without_policy: bool,
    max_lag: Option<Size>,
    dry_run: bool,
}

pub(crate) async fn failover(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let asked: Failover = order(body, true, r#"{"to":"b","force":false} or nothing"#)?;
    let options = FailoverOptions {
        to: asked.to,
        promote: PromoteOptions {
            force: asked.force,
            without_policy: asked.without_policy,
            max_lag: asked.max_lag.map(|size| size.0),
        },
        dry_run: asked.dry_run,
    };
    answer(&api.node.fail_over_or_say(&options).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Resync {
    full: bool,
}

pub(crate) async fn resync(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let Resync { full } = order(body, true, r#"{"full":false} or nothing"#)?;
    answer(&api.node.resync(full).await?)
}

impl From<NotPromoted> for ApiError {
    fn from(refused: NotPromoted) -> Self {
        let error = Self::from(refused.error);
        let loss = refused.possible_loss.map(serde_json::to_value);
        match loss {
            Some(Ok(loss)) => error.fact("possible_loss", loss),
            _ => error,
        }
    }
}
