//! Who may ask: the token, and no web page of somebody else.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Api, ApiError};

pub(crate) async fn check(State(api): State<Api>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let allowed = same_origin(request.headers()).and_then(|()| match &api.options.token {
        Some(token) if path != "/health" => has_token(request.headers(), token),
        _ => Ok(()),
    });
    match allowed {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// A browser sends the page's origin with every write that a script asks for. A node that trusts
/// its machine must not trust every page that is open on it.
fn same_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let authority = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"));
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match (authority, host) {
        (Some((_, authority)), Some(host)) if authority == host => Ok(()),
        _ => Err(ApiError::new(
            403,
            "refused: a web page of another origin asks",
        )),
    }
}

fn has_token(headers: &HeaderMap, token: &str) -> Result<(), ApiError> {
    let given = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
    let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
    if given.is_some_and(|given| same(given, token.as_bytes())) {
        return Ok(());
    }
    let what = if given.is_some() {
        "the token is wrong"
    } else {
        "a token is needed"
    };
    let hint = "send `Authorization: Bearer TOKEN`, or give the command line --token-file";
    Err(ApiError::new(401, what).hint(hint))
}

/// Compares in a time that does not tell how many bytes agree.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
