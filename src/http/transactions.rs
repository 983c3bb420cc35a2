//! Several writes, all or none.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;
use serde::Deserialize;

use super::error::{ApiError, ApiResult, of_body};
use super::keys::receipt_json;
use super::{Api, TRANSACTION_BYTES_MAX, TRANSACTION_OPS_MAX, blocking};
use crate::encoding::from_json;
use crate::{Level, Node, WriteTransaction};

/// How often a transaction that conflicts is run again before the client is told.
const CONFLICT_RETRIES_MAX: u32 = 16;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    ops: Vec<OpForm>,
    level: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpForm {
    op: Kind,
    table: String,
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

#[derive(Debug, Copy, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Put,
    Delete,
}

/// One write; `value` is `None` for a delete.
#[derive(Debug, PartialEq, Eq)]
struct Op {
    table: String,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

pub(crate) async fn post(
    State(api): State<Api>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<Response> {
    let body = body.map_err(|rejection| of_body(&rejection, TRANSACTION_BYTES_MAX))?;
    let (ops, level) = blocking(move || parse(&body)).await?;
    let level = level.or(api.options.level);
    let ops = Arc::new(ops);
    let mut retries = 0;
    let receipt = loop {
        let (node, ops) = (api.node.clone(), ops.clone());
        let tx = blocking(move || write(&node, &ops)).await?;
        let done = match level {
            Some(level) => tx.commit_at(level).await,
            None => tx.commit().await,
        };
        match done {
            Ok(receipt) => break receipt,
            // Nothing was read, so nothing that another transaction did can matter to it.
            Err(error) if error.is_conflict() && retries < CONFLICT_RETRIES_MAX => retries += 1,
            Err(error) => return Err(error.into()),
        }
    };
    Ok(receipt_json(&receipt))
}

fn parse(body: &[u8]) -> ApiResult<(Vec<Op>, Option<Level>)> {
    let request = serde_json::from_slice::<Request>(body).map_err(|error| {
        let hint = r#"send {"ops":[{"op":"put","table":"t","key":"k","value":"v"}]}"#;
        ApiError::bad(format!("not a transaction: {error}")).hint(hint)
    })?;
    let level = request
        .level
        .map(|level| level.parse::<Level>())
        .transpose();
    let level = level.map_err(|error| ApiError::bad(error.to_string()))?;
    match request.ops.len() {
        0 => return Err(ApiError::bad("a transaction without ops does nothing")),
        count if count > TRANSACTION_OPS_MAX => {
            let what = format!("{count} ops are over the limit of {TRANSACTION_OPS_MAX}");
            return Err(ApiError::new(413, what));
        }
        _ => {}
    }
    let ops = request.ops.into_iter().enumerate();
    let ops = ops.map(|(at, form)| {
        form.check()
            .map_err(|error| ApiError::bad(format!("ops[{at}]: {error}")))
    });
    Ok((ops.collect::<ApiResult<_>>()?, level))
}

impl OpForm {
    fn check(self) -> Result<Op, String> {
        let key = from_json("key", self.key, self.key_base64)?;
        let value = match self.op {
            Kind::Put => Some(from_json("value", self.value, self.value_base64)?),
            Kind::Delete if self.value.is_some() || self.value_base64.is_some() => {
                return Err("a delete has no value".to_owned());
            }
            Kind::Delete => None,
        };
        Ok(Op {
            table: self.table,
            key,
            value,
        })
    }
}

fn write(node: &Node, ops: &[Op]) -> ApiResult<WriteTransaction> {
    let mut tx = node.begin()?;
    for (at, Op { table, key, value }) in ops.iter().enumerate() {
        let done = match value {
            Some(value) => tx.put(table, key, value),
            None => tx.delete(table, key),
        };
        done.map_err(|error| ApiError::from(error).within(&format!("ops[{at}]")))?;
    }
    Ok(tx)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> String {
        format!("{:?}", parse(body.as_bytes()).unwrap_err())
    }

    #[test]
    fn a_transaction_reads_text_and_base64() {
        let body = r#"{"ops":[{"op":"put","table":"t","key":"k","value_base64":"/wA="},
            {"op":"delete","table":"t","key_base64":"/w=="}],"level":"local"}"#;
        let (ops, level) = parse(body.as_bytes()).unwrap();
        let table = || "t".to_owned();
        let put = Op {
            table: table(),
            key: b"k".to_vec(),
            value: Some(vec![0xFF, 0]),
        };
        assert_eq!(
            ops,
            [
                put,
                Op {
                    table: table(),
                    key: vec![0xFF],
                    value: None
                }
            ]
        );
        assert_eq!(level, Some(Level::Local));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let one = |op: &str| error(&format!(r#"{{"ops":[{op}]}}"#));
        assert!(error("{}").contains("missing field `ops`"));
        assert!(error(r#"{"ops":[]}"#).contains("does nothing"));
        assert!(error("x").contains("line 1 column 1"));
        assert!(one(r#"{"op":"put","table":"t","key":"k"}"#).contains("ops[0]: `value`"));
        let delete = r#"{"op":"delete","table":"t","key":"k","value":""}"#;
        assert!(one(delete).contains("ops[0]: a delete has no value"));
        assert!(one(r#"{"op":"drop","table":"t"}"#).contains("expected `put` or `delete`"));
        assert!(one(r#"{"op":"put","table":"t","kye":""}"#).contains("unknown field `kye`"));
    }
}
