//! The node over HTTP: reads, writes, status and orders, for tools and for the command line.
//!
//! | request | answer |
//! |---|---|
//! | `PUT /v1/tables/{table}/keys/{key}`, body: raw bytes | `{"lsn":"0/16B3748","timeline":1}` |
//! | `GET` the same, `?min_lsn=&timeout_ms=` | raw bytes, header `Mainstay-Lsn` |
//! | `DELETE` the same | as `PUT` |
//! | `GET /v1/tables/{table}/keys?prefix=&from=&limit=` | `{"rows":[{"key","value"}],"next":..}` |
//! | `POST /v1/transactions` | `{"lsn","timeline","level","standbys"}` |
//! | `GET /v1/wait?lsn=&timeline=&level=&timeout_ms=` | `{"outcome":"reached"}`, `lost` or `unknown` |
//! | `GET /v1/status` | the node's status |
//! | `GET /v1/slots` | `[{"name","active","restart_lsn","wal_status","inactive_since",..}]` |
//! | `DELETE /v1/slots/{name}` | `{"dropped":name}` |
//! | `GET /v1/events?node=&type=&since=&until=&limit=&after_id=` | `{"events":[..]}` |
//! | `POST /v1/switchover` `{"to":"b"}` | `{"switched_over","new_primary_name","timeline","pause_ms"}` |
//! | `POST /v1/demote` `{"url":"postgres://.."}` | `{"demoted","following"}` |
//! | `POST /v1/apply` `{"paused":true}` | `{"paused"}` |
//! | `POST /v1/promote` `{"force":false}` | `{"promoted","new_primary_name","timeline","lsn"}` |
//! | `POST /v1/follow` `{"url":"postgres://.."}` | `{"following":url}` |
//! | `GET /v1/policy` | the synchronous policy, and how it stands |
//! | `POST /v1/policy` `{"policy":"ANY 1 (*)","force":false}` | `{"changed","policy","lsn","in_force","may_promote","notices"}` |
//! | `POST /v1/policy` `{"remove":"b","force":false}` | the same |
//! | `POST /v1/stop` | `{"stopping":true}`, then the node stops |
//! | `GET /health` | 200 while the node runs |
//!
//! A transaction is `{"ops":[{"op":"put","table":..,"key":..,"value":..}],"level":"remote_flush"}`;
//! `op` may be `delete`, and `level` may be left out.
//!
//! Keys in a path are percent-encoded bytes; in JSON, bytes that are not UTF-8 are in a field named
//! `.._base64`. An error is `{"error":"what","hint":"what to do"}`: 400 bad input, 401 no or wrong
//! token, 403 a page of another origin, 404 no such key, 409 a conflict, 411 a body without its
//! length, 412 refused to keep a promise, 413 too large, 421 not the primary (which is named), 502
//! a peer did not answer as it should, 503 stopping, 504 not in time (the outcome of a write is
//! then unknown), 507 disk full.
//!
//! This room keeps no data and decides nothing: it translates.

mod access;
mod bounds;
mod control;
mod error;
mod events;
mod failover;
mod keys;
mod slots;
mod transactions;
mod wait;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{delete, get, post};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

use crate::{Level, Node};
use bounds::BoundedListener;
use error::{ApiError, ApiResult};

/// Longest body of a `PUT` in bytes: the longest value.
pub const VALUE_BYTES_MAX: usize = mainstay_storage::VALUE_MAX;

/// Longest body of a transaction in bytes.
pub const TRANSACTION_BYTES_MAX: usize = 64 << 20;

/// Most operations in one transaction.
pub const TRANSACTION_OPS_MAX: usize = 100_000;

/// Longest body of the other requests in bytes.
pub const ORDER_BYTES_MAX: usize = 64 << 10;

/// Most connections at a time; further ones wait to be accepted.
pub const CONNECTIONS_MAX: usize = 1024;

/// Most bytes of bodies that are being worked on; further requests with a body wait.
pub const BODIES_BYTES_MAX: usize = 256 << 20;

/// Longest silence in the middle of a body; the request ends with it.
pub const BODY_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Rows in one answer to a scan when `limit` is not given, and the most it may ask for.
pub const SCAN_ROWS_DEFAULT: usize = 1000;

/// Most rows in one answer to a scan.
pub const SCAN_ROWS_MAX: usize = 10_000;

/// Bytes of keys and values after which an answer to a scan ends early, with a cursor.
pub const SCAN_BYTES_MAX: usize = 8 << 20;

/// How long a read with `min_lsn` waits when `timeout_ms` is not given, and the longest it may ask
/// for, in milliseconds.
pub const WAIT_MS_DEFAULT: u64 = 10_000;

/// Longest `timeout_ms`.
pub const WAIT_MS_MAX: u64 = 600_000;

/// How the HTTP side of a node behaves.
#[derive(Debug, Clone, Default)]
pub struct HttpOptions {
    /// What every request but `GET /health` must bring in `Authorization: Bearer`. `None` trusts
    /// whoever can connect, which must then be this machine alone.
    pub token: Option<String>,
    /// The level of writes that name none; `None` is the node's default.
    pub level: Option<Level>,
}

/// What every handler has.
#[derive(Debug, Clone)]
struct Api {
    node: Node,
    options: Arc<HttpOptions>,
    stop: Arc<Notify>,
    bodies: Arc<Semaphore>,
}

/// Serves `node` on `listener` until `shutdown` completes and the requests then running are
/// answered. `stop` is notified when a request asks the node to stop.
///
/// # Errors
/// None today: a failing connection ends alone.
pub async fn serve(
    node: Node,
    listener: TcpListener,
    options: HttpOptions,
    stop: Arc<Notify>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let bodies = bounds::bodies();
    let router = router(Api {
        node,
        options: Arc::new(options),
        stop,
        bodies,
    });
    let listener = BoundedListener::new(listener);
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
}

fn router(api: Api) -> Router {
    let key = get(keys::get).put(keys::put).delete(keys::delete);
    let key = key.layer(DefaultBodyLimit::max(VALUE_BYTES_MAX));
    let transactions = post(transactions::post);
    let transactions = transactions.layer(DefaultBodyLimit::max(TRANSACTION_BYTES_MAX));
    Router::new()
        .route("/v1/tables/{table}/keys", get(keys::scan))
        // The rest of the path is the key: it may hold slashes, and bytes that are not UTF-8.
        .route("/v1/tables/{table}/keys/{*key}", key.clone())
        .route("/v1/tables/{table}/keys/", key)
        .route("/v1/transactions", transactions)
        .route("/v1/wait", get(wait::get))
        .route("/v1/status", get(control::status))
        .route("/v1/policy", get(control::policy).post(control::set_policy))
        .route("/v1/slots", get(slots::list))
        .route("/v1/slots/{name}", delete(slots::drop_one))
        .route("/v1/events", get(events::list))
        .route("/v1/promote", post(failover::promote))
        .route("/v1/failover", post(failover::failover))
        .route("/v1/verify", post(control::verify))
        .route("/v1/apply", post(control::apply))
        .route("/v1/switchover", post(control::switchover))
        .route("/v1/resync", post(failover::resync))
        .route("/v1/demote", post(control::demote))
        .route("/v1/follow", post(control::follow))
        .route("/v1/stop", post(control::stop))
        .route("/health", get(control::health))
        .method_not_allowed_fallback(wrong_method)
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(ORDER_BYTES_MAX))
        .layer(middleware::from_fn_with_state(api.clone(), bounds::admit))
        .layer(middleware::from_fn_with_state(api.clone(), access::check))
        .with_state(api)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let what = format!("{} does not answer {method}", uri.path());
    ApiError::new(405, what)
}

async fn nothing_here(uri: Uri) -> ApiError {
    let hint =
        "there are /v1/status, /v1/events, /v1/tables/{table}/keys, /v1/transactions and /health";
    ApiError::new(404, format!("there is nothing at {}", uri.path())).hint(hint)
}

/// Runs `work`, which may read the disk, where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(ApiError::new(500, format!("the request failed: {error}"))),
    }
}

#[cfg(test)]
pub(crate) mod tests;
