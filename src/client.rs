//! Talking to a node over HTTP, one request at a time, from synchronous code.
//!
//! The command line and the demo are its users. It knows the paths of the node's HTTP interface
//! and turns what can go wrong into sentences that say what to do. It retries nothing.

mod page;

use std::io;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::http::{Method, Request, Response};
use ureq::{Agent, AsSendBody, Body};

use crate::Level;
use crate::encoding::url_encode;
use crate::http::{VALUE_BYTES_MAX, WAIT_MS_MAX};
pub(crate) use page::Page;
use page::PageForm;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take when the caller does not say: a write waits for its standbys.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a verification may take: it reads everything, and ends when nobody waits for it.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest answer that is read, in bytes: a page of a scan that is one value of the largest size,
/// every byte of it escaped.
const ANSWER_BYTES_MAX: u64 = 6 * VALUE_BYTES_MAX as u64 + (1 << 20);

/// A node's address, and connections to it that are kept open. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: Agent,
    address: String,
    token: Option<String>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody answers there.
    #[error(
        "cannot reach {address}: {why}. Is the node running? Start it with: \
         mainstay start --data DIR --name NAME --http {address}"
    )]
    Unreachable { address: String, why: String },
    /// The connection broke, or no answer came in time: what was asked may have happened.
    #[error(
        "no answer from {address}: {why}. What was asked may or may not have happened; \
         see: mainstay status --http {address}"
    )]
    NoAnswer { address: String, why: String },
    /// The node says no.
    #[error("{error}{}", hint.as_ref().map(|hint| format!("\n  {hint}")).unwrap_or_default())]
    Refused {
        status: u16,
        error: String,
        hint: Option<String>,
    },
    /// This is not a node, or one of another version.
    #[error("{address} gave an answer that cannot be understood: {why}. Is it a Mainstay node?")]
    Garbled { address: String, why: String },
}

pub(crate) type ClientResult<T> = Result<T, ClientError>;

/// Where a write ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Written {
    pub(crate) lsn: String,
    pub(crate) timeline: u32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Complaint {
    error: String,
    hint: Option<String>,
}

impl Client {
    /// A client of the node whose HTTP side listens on `address` (`host:port`).
    pub(crate) fn new(address: &str, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT));
        let agent = config.build().new_agent();
        Self {
            agent,
            address: address.to_owned(),
            token,
        }
    }

    /// The node's status, as `GET /v1/status` answers it.
    pub(crate) fn status(&self) -> ClientResult<Value> {
        self.parsed(self.send(Method::GET, "/v1/status", Vec::new(), ANSWER_TIMEOUT)?)
    }

    /// What happened to the node, as `GET /v1/events?query` answers it.
    pub(crate) fn events(&self, query: &str) -> ClientResult<Value> {
        let path = format!("/v1/events?{query}");
        self.parsed(self.send(Method::GET, &path, Vec::new(), ANSWER_TIMEOUT)?)
    }

    pub(crate) fn put(&self, table: &str, key: &[u8], value: Vec<u8>) -> ClientResult<Written> {
        self.parsed(self.send(Method::PUT, &key_path(table, key), value, ANSWER_TIMEOUT)?)
    }

    pub(crate) fn delete(&self, table: &str, key: &[u8]) -> ClientResult<Written> {
        let path = key_path(table, key);
        self.parsed(self.send(Method::DELETE, &path, Vec::new(), ANSWER_TIMEOUT)?)
    }

    /// The value of `key`, once the node shows everything up to `min_lsn`, for which it may take
    /// `wait`.
    pub(crate) fn get(
        &self,
        table: &str,
        key: &[u8],
        min_lsn: Option<(&str, Duration)>,
    ) -> ClientResult<Option<Vec<u8>>> {
        let mut path = key_path(table, key);
        let mut timeout = ANSWER_TIMEOUT;
        if let Some((lsn, wait)) = min_lsn {
            let millis = wait.as_millis().min(u128::from(WAIT_MS_MAX));
            path += &format!("?min_lsn={lsn}&timeout_ms={millis}");
            timeout += wait;
        }
        match self.send(Method::GET, &path, Vec::new(), timeout) {
            Ok(answer) => self.bytes(answer).map(Some),
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Rows of `table` from the key `from` on whose keys begin with `prefix`, at most `limit`.
    pub(crate) fn scan(
        &self,
        table: &str,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
    ) -> ClientResult<Page> {
        let (table, prefix) = (url_encode(table.as_bytes()), url_encode(prefix));
        let from = url_encode(from);
        let path = format!("/v1/tables/{table}/keys?prefix={prefix}&from={from}&limit={limit}");
        let answer = self.send(Method::GET, &path, Vec::new(), ANSWER_TIMEOUT)?;
        let form = self.parsed::<PageForm>(answer)?;
        form.decode().map_err(|why| self.garbled(why))
    }

    /// Commits `body`, a transaction as `POST /v1/transactions` takes it.
    pub(crate) fn transaction(&self, body: Vec<u8>) -> ClientResult<Written> {
        self.parsed(self.send(Method::POST, "/v1/transactions", body, ANSWER_TIMEOUT)?)
    }

    /// Commits `body` as [`transaction`](Self::transaction) does, and returns the level that was
    /// confirmed.
    pub(crate) fn commit(&self, body: Vec<u8>) -> ClientResult<Level> {
        let answer = self.send(Method::POST, "/v1/transactions", body, ANSWER_TIMEOUT)?;
        let receipt = self.parsed::<Value>(answer)?;
        let level = receipt["level"].as_str();
        let level = level.and_then(|level| level.parse().ok());
        level.ok_or_else(|| self.garbled(format!("a receipt without a level: {receipt}")))
    }

    /// Gives the order `name` with the options in `body`, and returns the node's answer.
    pub(crate) fn order(&self, name: &str, body: &Value) -> ClientResult<Value> {
        let (path, body) = (format!("/v1/{name}"), body.to_string().into_bytes());
        self.parsed(self.send(Method::POST, &path, body, ANSWER_TIMEOUT)?)
    }

    /// The synchronous policy, as `GET /v1/policy` answers it.
    pub(crate) fn policy(&self) -> ClientResult<Value> {
        self.parsed(self.send(Method::GET, "/v1/policy", Vec::new(), ANSWER_TIMEOUT)?)
    }

    /// Changes the synchronous policy (`what` is `policy`) or takes a standby out (`remove`), and
    /// returns the node's answer.
    pub(crate) fn set_policy(&self, what: &str, value: &str, force: bool) -> ClientResult<Value> {
        let body = json!({ what: value, "force": force }).to_string();
        let body = body.into_bytes();
        self.parsed(self.send(Method::POST, "/v1/policy", body, ANSWER_TIMEOUT)?)
    }

    /// Hands the primary's place to the standby `to`, or to the one that is furthest, and returns
    /// the node's answer.
    pub(crate) fn switchover(&self, to: Option<&str>) -> ClientResult<Value> {
        let body = json!({ "to": to }).to_string().into_bytes();
        self.parsed(self.send(Method::POST, "/v1/switchover", body, ANSWER_TIMEOUT)?)
    }

    /// Makes the primary a standby of the node at `url`.
    pub(crate) fn demote(&self, url: &str) -> ClientResult<()> {
        let body = json!({ "url": url }).to_string().into_bytes();
        self.send(Method::POST, "/v1/demote", body, ANSWER_TIMEOUT)
            .map(drop)
    }

    /// Compares a standby's rows with its primary's, and returns the node's answer.
    pub(crate) fn verify(&self, repair: bool) -> ClientResult<Value> {
        let body = json!({ "repair": repair }).to_string().into_bytes();
        self.parsed(self.send(Method::POST, "/v1/verify", body, VERIFY_TIMEOUT)?)
    }

    /// Lets a standby apply nothing, or go on.
    pub(crate) fn apply(&self, paused: bool) -> ClientResult<()> {
        let body = json!({ "paused": paused }).to_string().into_bytes();
        self.send(Method::POST, "/v1/apply", body, ANSWER_TIMEOUT)
            .map(drop)
    }

    /// Makes the node follow the primary at `url`.
    pub(crate) fn follow(&self, url: &str) -> ClientResult<()> {
        let body = json!({ "url": url }).to_string().into_bytes();
        self.send(Method::POST, "/v1/follow", body, ANSWER_TIMEOUT)
            .map(drop)
    }

    /// The node's slots, as `GET /v1/slots` answers them.
    pub(crate) fn slots(&self) -> ClientResult<Value> {
        self.parsed(self.send(Method::GET, "/v1/slots", Vec::new(), ANSWER_TIMEOUT)?)
    }

    /// Drops the slot `name`.
    pub(crate) fn drop_slot(&self, name: &str) -> ClientResult<()> {
        let path = format!("/v1/slots/{}", url_encode(name.as_bytes()));
        self.send(Method::DELETE, &path, Vec::new(), ANSWER_TIMEOUT)
            .map(drop)
    }

    /// Asks the node to stop; it answers before it does.
    pub(crate) fn stop(&self) -> ClientResult<()> {
        self.send(Method::POST, "/v1/stop", Vec::new(), ANSWER_TIMEOUT)
            .map(drop)
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> ClientResult<Response<Body>> {
        let mut request = Request::builder().method(&method);
        request = request.uri(format!("http://{}{path}", self.address));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let sent = if matches!(method, Method::PUT | Method::POST) {
            self.run(request.body(body), timeout)
        } else {
            self.run(request.body(()), timeout)
        };
        let answer = sent.map_err(|error| self.failed(&error, timeout))?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(self.complaint(answer))
        }
    }

    fn run(
        &self,
        request: Result<Request<impl AsSendBody>, ureq::http::Error>,
        timeout: Duration,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.configure_request(request?);
        self.agent
            .run(request.timeout_recv_response(Some(timeout)).build())
    }

    fn failed(&self, error: &ureq::Error, timeout: Duration) -> ClientError {
        let address = self.address.clone();
        let unreachable = |why: String| ClientError::Unreachable {
            address: self.address.clone(),
            why,
        };
        match error {
            ureq::Error::HostNotFound => unreachable("there is no such host".to_owned()),
            ureq::Error::ConnectionFailed => unreachable("no connection".to_owned()),
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => unreachable(
                format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()),
            ),
            ureq::Error::Timeout(_) => {
                let why = format!("none came within {} s", timeout.as_secs());
                ClientError::NoAnswer { address, why }
            }
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => {
                unreachable("that is not a HOST:PORT".to_owned())
            }
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                unreachable("connection refused".to_owned())
            }
            ureq::Error::Io(error) if !broke_off(error.kind()) => unreachable(error.to_string()),
            ureq::Error::Io(error) => ClientError::NoAnswer {
                address,
                why: error.to_string(),
            },
            other => ClientError::Garbled {
                address,
                why: other.to_string(),
            },
        }
    }

    fn complaint(&self, answer: Response<Body>) -> ClientError {
        let status = answer.status().as_u16();
        let bytes = self.bytes(answer).unwrap_or_default();
        let complaint = serde_json::from_slice::<Complaint>(&bytes).unwrap_or_default();
        let error = match complaint.error {
            error if error.is_empty() => format!("{} answered with status {status}", self.address),
            error => error,
        };
        ClientError::Refused {
            status,
            error,
            hint: complaint.hint,
        }
    }

    fn bytes(&self, mut answer: Response<Body>) -> ClientResult<Vec<u8>> {
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        body.read_to_vec()
            .map_err(|error| self.failed(&error, ANSWER_TIMEOUT))
    }

    fn parsed<T: DeserializeOwned>(&self, answer: Response<Body>) -> ClientResult<T> {
        let bytes = self.bytes(answer)?;
        serde_json::from_slice(&bytes).map_err(|error| self.garbled(error.to_string()))
    }

    fn garbled(&self, why: String) -> ClientError {
        ClientError::Garbled {
            address: self.address.clone(),
            why,
        }
    }
}

/// Whether a connection that was there is gone.
fn broke_off(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

fn key_path(table: &str, key: &[u8]) -> String {
    format!(
        "/v1/tables/{}/keys/{}",
        url_encode(table.as_bytes()),
        url_encode(key)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_at_the_address_is_said_with_the_command_that_mends_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Client::new(&address, None)
            .status()
            .unwrap_err()
            .to_string();
        let expected = format!(
            "cannot reach {address}: connection refused. Is the node running? Start it with: \
             mainstay start --data DIR --name NAME --http {address}"
        );
        assert_eq!(error, expected);
    }

    /// Answers one request with `words`, and hangs up.
    fn answering(words: &'static [u8]) -> (String, std::thread::JoinHandle<()>) {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers = std::thread::spawn(move || {
            let (mut line, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                line.read_exact(&mut byte).unwrap();
                asked.push(byte[0]);
            }
            line.write_all(words).unwrap();
        });
        (address, answers)
    }

    #[test]
    fn a_node_that_dies_before_it_answers_leaves_what_was_asked_open() {
        let (address, answers) = answering(b"");
        let error = Client::new(&address, None).status().unwrap_err();
        assert!(matches!(error, ClientError::NoAnswer { .. }), "{error:?}");
        assert!(error.to_string().contains("may or may not have happened"));
        answers.join().unwrap();
    }

    #[test]
    fn what_is_no_answer_of_a_node_is_said_to_be_none() {
        for words in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"220 mail.example.org ESMTP\r\n\r\n",
        ] {
            let (address, answers) = answering(words);
            let error = Client::new(&address, None).status().unwrap_err();
            assert!(matches!(error, ClientError::Garbled { .. }), "{error:?}");
            answers.join().unwrap();
        }
    }

    #[test]
    fn an_address_that_is_none_is_said_to_be_none() {
        for bad in ["", "a b", "host:port:8008", "http://x"] {
            let error = Client::new(bad, None).status().unwrap_err();
            assert!(
                matches!(error, ClientError::Unreachable { .. }),
                "{bad}: {error:?}"
            );
        }
    }
}
