//! One key, and the keys of a table.

use std::ops::Bound;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::error::{ApiError, ApiResult, json, of_body};
use super::{
    Api, SCAN_BYTES_MAX, SCAN_ROWS_DEFAULT, SCAN_ROWS_MAX, VALUE_BYTES_MAX, WAIT_MS_DEFAULT,
    WAIT_MS_MAX, blocking,
};
use crate::encoding::{from_json, put_json, url_decode};
use crate::{Lsn, Node, ReadLevel, Receipt, Snapshot};

pub(crate) async fn put(
    State(api): State<Api>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let (table, key) = place(&uri)?;
    let value = body.map_err(|rejection| of_body(&rejection, VALUE_BYTES_MAX))?;
    let receipt = match api.options.level {
        None => api.node.put(&table, &key, &value).await?,
        Some(level) => {
            let mut tx = api.node.begin()?;
            tx.put(&table, &key, &value)?;
            tx.commit_at(level).await?
        }
    };
    Ok(place_json(&receipt))
}

pub(crate) async fn delete(State(api): State<Api>, uri: Uri) -> ApiResult<Response> {
    let (table, key) = place(&uri)?;
    let receipt = match api.options.level {
        None => api.node.delete(&table, &key).await?,
        Some(level) => {
            let mut tx = api.node.begin()?;
            tx.delete(&table, &key)?;
            tx.commit_at(level).await?
        }
    };
    Ok(place_json(&receipt))
}

/// What the write of one key is answered with.
fn place_json(receipt: &Receipt) -> Response {
    let answer = json!({
        "lsn": receipt.lsn.to_string(),
        "timeline": receipt.timeline.number,
    });
    json(StatusCode::OK, answer)
}

/// What a transaction is answered with.
pub(super) fn receipt_json(receipt: &Receipt) -> Response {
    let answer = json!({
        "lsn": receipt.lsn.to_string(),
        "timeline": receipt.timeline.number,
        "level": receipt.level.as_str(),
        "standbys": receipt.standbys,
    });
    json(StatusCode::OK, answer)
}

pub(crate) async fn get(
    State(api): State<Api>,
    uri: Uri,
    wait: Result<Query<Wait>, QueryRejection>,
) -> ApiResult<Response> {
    let (table, key) = place(&uri)?;
    let level = query(wait)?.reached(&api.node).await?;
    let node = api.node.clone();
    let (lsn, value) = blocking(move || {
        let snapshot = node.snapshot_at(level)?;
        Ok((snapshot.lsn(), snapshot.get(&table, &key)?))
    })
    .await?;
    let answer = match value {
        Some(value) => ([("content-type", "application/octet-stream")], value).into_response(),
        None => ApiError::new(404, "there is no such key").into_response(),
    };
    Ok(with_lsn(answer, lsn))
}

fn with_lsn(mut answer: Response, lsn: Lsn) -> Response {
    let text = HeaderValue::try_from(lsn.to_string()).expect("an LSN is plain ASCII");
    answer.headers_mut().insert("mainstay-lsn", text);
    answer
}

/// Table and key of a path, decoded from its raw bytes: a key need not be UTF-8.
fn place(uri: &Uri) -> ApiResult<(String, Vec<u8>)> {
    let rest = uri.path().strip_prefix("/v1/tables/").unwrap_or_default();
    let (table, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let key = rest.strip_prefix("keys/").unwrap_or_default();
    let key = url_decode(key).map_err(|error| ApiError::bad(format!("the key: {error}")))?;
    mainstay_storage::check_key(&key)?;
    Ok((table_name(table)?, key))
}

fn table_name(text: &str) -> ApiResult<String> {
    let bytes = url_decode(text).map_err(|error| ApiError::bad(format!("the table: {error}")))?;
    String::from_utf8(bytes).map_err(|_| ApiError::bad("the table's name is not UTF-8"))
}

pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> ApiResult<T> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(rejection) => Err(ApiError::bad(format!(
            "the query: {}",
            rejection.body_text()
        ))),
    }
}

/// Until when a read waits, and what it sees then.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wait {
    min_lsn: Option<String>,
    timeout_ms: Option<u64>,
    read_level: Option<String>,
}

impl Wait {
    /// Waits until the node shows everything up to `min_lsn`, and returns at which level to read.
    async fn reached(&self, node: &Node) -> ApiResult<ReadLevel> {
        let level = self.read_level.as_deref().map(str::parse::<ReadLevel>);
        let level = level.transpose();
        let level = level.map_err(|error| ApiError::bad(format!("read_level: {error}")))?;
        let level = level.unwrap_or_default();
        let Some(lsn) = &self.min_lsn else {
            return Ok(level);
        };
        let lsn = lsn.parse::<Lsn>();
        let lsn = lsn.map_err(|error| ApiError::bad(format!("min_lsn: {error}")))?;
        let millis = self.timeout_ms.unwrap_or(WAIT_MS_DEFAULT);
        if millis > WAIT_MS_MAX {
            let what = format!("timeout_ms is {millis}, the most is {WAIT_MS_MAX}");
            return Err(ApiError::bad(what));
        }
        node.wait_for(lsn, Duration::from_millis(millis)).await?;
        Ok(level)
    }
}

/// Which rows of a table.
#[derive(Debug)]
struct Scan {
    table: String,
    prefix: Vec<u8>,
    from: Vec<u8>,
    limit: usize,
}

pub(crate) async fn scan(
    State(api): State<Api>,
    uri: Uri,
    RawQuery(raw): RawQuery,
    wait: Result<Query<Wait>, QueryRejection>,
) -> ApiResult<Response> {
    let table = uri.path().strip_prefix("/v1/tables/").unwrap_or_default();
    let table = table_name(table.split('/').next().unwrap_or_default())?;
    let scan = Scan::parse(table, raw.as_deref().unwrap_or_default())?;
    let level = query(wait)?.reached(&api.node).await?;
    let node = api.node.clone();
    let (lsn, page) = blocking(move || {
        let snapshot = node.snapshot_at(level)?;
        Ok((snapshot.lsn(), scan.run(&snapshot)?))
    })
    .await?;
    Ok(with_lsn(json(StatusCode::OK, page), lsn))
}

impl Scan {
    /// Reads the query from its raw text, because a prefix or cursor need not be UTF-8.
    fn parse(table: String, raw: &str) -> ApiResult<Self> {
        let mut scan = Self {
            table,
            prefix: Vec::new(),
            from: Vec::new(),
            limit: SCAN_ROWS_DEFAULT,
        };
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = |error: String| ApiError::bad(format!("{name}: {error}"));
            // In a query, unlike in a path, a plus stands for a blank.
            let value = || url_decode(&text.replace('+', "%20")).map_err(bad);
            match name {
                "prefix" => scan.prefix = value()?,
                "from" => scan.from = value()?,
                "from_base64" => {
                    let base64 = String::from_utf8_lossy(&value()?).into_owned();
                    scan.from = from_json("from", None, Some(base64)).map_err(bad)?;
                }
                "limit" => {
                    let limit = text
                        .parse()
                        .ok()
                        .filter(|n| (1..=SCAN_ROWS_MAX).contains(n));
                    let range = format!("{text:?} is not a number from 1 to {SCAN_ROWS_MAX}");
                    scan.limit = limit.ok_or_else(|| bad(range))?;
                }
                "min_lsn" | "timeout_ms" | "read_level" => {}
                _ => {
                    let hint = "there are prefix, from, from_base64, limit, min_lsn, timeout_ms, read_level";
                    return Err(ApiError::bad(format!("unknown parameter {name:?}")).hint(hint));
                }
            }
        }
        Ok(scan)
    }

    /// One page: rows up to the limits, and the key that the next page begins with.
    fn run(&self, snapshot: &Snapshot) -> ApiResult<Value> {
        let start = self.prefix.as_slice().max(&self.from);
        let start = if start.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Included(start)
        };
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut page = Map::new();
        for row in snapshot.scan(&self.table, (start, Bound::Unbounded))? {
            let (key, value) = row?;
            if !key.starts_with(&self.prefix) {
                break;
            }
            if rows.len() == self.limit || (bytes > 0 && bytes + value.len() > SCAN_BYTES_MAX) {
                put_json(&mut page, "next", &key);
                break;
            }
            bytes += key.len() + value.len();
            let mut row = Map::new();
            put_json(&mut row, "key", &key);
            put_json(&mut row, "value", &value);
            rows.push(Value::Object(row));
        }
        if page.is_empty() {
            page.insert("next".to_owned(), Value::Null);
        }
        page.shift_insert(0, "rows".to_owned(), Value::Array(rows));
        Ok(Value::Object(page))
    }
}
