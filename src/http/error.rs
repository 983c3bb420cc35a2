//! What an HTTP client is told when something does not work.

use std::error::Error as _;
use std::io;

use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use mainstay_replication::SlotError;

use super::BODY_SILENCE_MAX;
use crate::Error;

pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// A status code, what went wrong, what to do, and what a program may want to know of it.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    error: String,
    hint: Option<String>,
    facts: Vec<(&'static str, Value)>,
}

impl ApiError {
    pub(crate) fn new(status: u16, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            hint: None,
            facts: Vec::new(),
        }
    }

    /// The request itself is at fault.
    pub(crate) fn bad(error: impl Into<String>) -> Self {
        Self::new(400, error)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says in what part of the request it lies.
    pub(crate) fn within(mut self, part: &str) -> Self {
        self.error = format!("{part}: {}", self.error);
        self
    }

    pub(crate) fn fact(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.facts.push((name, value.into()));
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = Map::new();
        body.insert("error".to_owned(), self.error.into());
        body.extend(self.hint.map(|hint| ("hint".to_owned(), hint.into())));
        let facts = self.facts.into_iter();
        body.extend(facts.map(|(name, value)| (name.to_owned(), value)));
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json(status, Value::Object(body))
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: Value) -> Response {
    let headers = [("content-type", "application/json")];
    (status, headers, format!("{body}\n")).into_response()
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Storage(error) => of_storage(&error, text),
            Error::NotPrimary {
                primary: Some(primary),
            } => Self::new(421, text)
                .hint(format!("send writes to {primary}"))
                .fact("primary", primary),
            Error::NotPrimary { primary: None } => Self::new(421, text)
                .hint("ask the other nodes for /v1/status; one says \"role\":\"primary\"")
                .fact("primary", Value::Null),
            Error::Unknown { lsn, timeline, .. } => Self::new(504, text)
                .fact("outcome", "unknown")
                .fact("lsn", lsn.to_string())
                .fact("timeline", timeline.number),
            Error::TimedOut { lsn, at } => Self::new(504, text)
                .hint("ask again, give a longer timeout_ms, or read on the primary")
                .fact("lsn", lsn.to_string())
                .fact("at", at.to_string()),
            Error::Usage(_) | Error::Config(_) => Self::bad(text),
            Error::Replication(error) => of_replication(&error, text),
            Error::Refused(_) => Self::new(412, text),
            Error::Stopped => stopping(),
        }
    }
}

fn stopping() -> ApiError {
    ApiError::new(503, "this node is stopping, or turning to another primary")
        .hint("ask again in a moment, or ask another node")
}

fn of_storage(error: &mainstay_storage::Error, text: String) -> ApiError {
    use mainstay_storage::Error as Storage;
    match error {
        Storage::Invalid(_) => ApiError::bad(text),
        Storage::TooLarge { .. } => ApiError::new(413, text),
        Storage::Conflict { .. } | Storage::SnapshotTooOld { .. } => ApiError::new(409, text),
        Storage::Full { .. } => ApiError::new(507, text),
        Storage::Poisoned { .. } | Storage::Behind { .. } | Storage::Store(_) => {
            ApiError::new(503, text)
        }
        Storage::Closed => stopping(),
        _ => ApiError::new(500, text),
    }
}

fn of_replication(error: &mainstay_replication::Error, text: String) -> ApiError {
    use mainstay_replication::Error as Replication;
    match error {
        Replication::NotPrimary => ApiError::new(421, text),
        Replication::Slot(SlotError::Missing(_)) => ApiError::new(404, text),
        Replication::Slot(SlotError::Active { .. }) => ApiError::new(409, text),
        Replication::Slot(_) => ApiError::bad(text),
        Replication::Foreign { .. } => ApiError::new(412, text),
        Replication::Wire { .. }
        | Replication::Connection { .. }
        | Replication::Answer { .. }
        | Replication::Silent { .. } => ApiError::new(502, text),
        _ => ApiError::new(500, text),
    }
}

impl From<mainstay_storage::Error> for ApiError {
    fn from(error: mainstay_storage::Error) -> Self {
        Error::from(error).into()
    }
}

/// A body that was not received, of at most `max` bytes.
pub(crate) fn of_body(rejection: &BytesRejection, max: usize) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(413, format!("the body is over the limit of {max} bytes"));
    }
    if is_silence(rejection) {
        let seconds = BODY_SILENCE_MAX.as_secs();
        let text = format!("nothing of the body came for {seconds} s; nothing was done");
        return ApiError::new(408, text);
    }
    ApiError::bad(format!(
        "the body did not arrive whole: {}",
        rejection.body_text()
    ))
}

fn is_silence(rejection: &BytesRejection) -> bool {
    let mut source = rejection.source();
    while let Some(error) = source {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Bytes;
    use axum::extract::{FromRequest as _, Request};
    use mainstay_storage::Lsn;

    use super::super::bounds::without_silence;

    fn status(error: Error) -> u16 {
        ApiError::from(error).status
    }

    #[test]
    fn each_kind_of_error_has_its_status() {
        let lsn = Lsn::new(64);
        let storage = mainstay_storage::Error::Conflict { with: lsn };
        assert_eq!(status(storage.into()), 409);
        let too_large = mainstay_storage::Error::TooLarge {
            what: "key",
            size: 2,
            max: 1,
        };
        assert_eq!(status(too_large.into()), 413);
        assert_eq!(status(mainstay_storage::Error::Closed.into()), 503);
        assert_eq!(
            status(mainstay_storage::Error::Invalid(String::new()).into()),
            400
        );
        assert_eq!(status(Error::NotPrimary { primary: None }), 421);
        assert_eq!(status(Error::TimedOut { lsn, at: lsn }), 504);
        assert_eq!(
            status(Error::Unknown {
                lsn,
                timeline: mainstay_storage::Timeline {
                    number: 1,
                    id: uuid::Uuid::nil(),
                },
                why: String::new()
            }),
            504
        );
        assert_eq!(status(Error::Refused(String::new())), 412);
        assert_eq!(status(Error::Stopped), 503);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_has_its_status() {
        let silent = axum::body::Body::from_stream(tokio_stream::pending::<Result<Bytes, Error>>());
        let silent = without_silence(silent, std::time::Duration::from_millis(1));
        let request = Request::new(silent);
        let rejection = Bytes::from_request(request, &()).await.unwrap_err();
        assert_eq!(of_body(&rejection, 1).status, 408);
    }
}
