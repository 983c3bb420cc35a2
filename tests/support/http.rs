//! A small client of the node's HTTP side.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{Request, Response};

use super::{DEADLINE, Rows, lsn, until};

/// Longest answer in bytes.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Rows in one page of a scan.
const PAGE_ROWS: usize = 10_000;

/// A node's address, and connections to it.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    agent: Agent,
    address: String,
}

/// What a node answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As of where in the log a read was answered.
    pub(crate) read_at: Option<u64>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Panics, with what was said, unless the answer is 200.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.text());
        self
    }

    /// Where the write ended.
    #[track_caller]
    pub(crate) fn lsn(&self) -> u64 {
        lsn(self.json()["lsn"]
            .as_str()
            .expect("a write's answer has an LSN"))
    }
}

impl Http {
    pub(crate) fn new(address: &str) -> Self {
        Self::with_patience(address, DEADLINE)
    }

    /// A client that gives up on an answer after `patience`.
    pub(crate) fn with_patience(address: &str, patience: Duration) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(patience));
        Self {
            agent: config.build().new_agent(),
            address: address.to_owned(),
        }
    }

    /// Sends a request. An error means that nobody knows what became of it.
    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address));
        let answer = if matches!(method, "PUT" | "POST") {
            self.agent
                .run(request.body(body).map_err(|error| error.to_string())?)
        } else {
            self.agent
                .run(request.body(()).map_err(|error| error.to_string())?)
        };
        let mut answer: Response<ureq::Body> = answer.map_err(|error| error.to_string())?;
        let body = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec();
        let body = body.map_err(|error| error.to_string())?;
        let read_at = answer.headers().get("mainstay-lsn");
        Ok(Answer {
            status: answer.status().as_u16(),
            read_at: read_at.map(|text| lsn(text.to_str().expect("an LSN is plain ASCII"))),
            body,
        })
    }

    #[track_caller]
    fn must(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let sent = self.send(method, path, body);
        sent.unwrap_or_else(|error| panic!("{method} {path} at {}: {error}", self.address))
    }

    #[track_caller]
    pub(crate) fn put(&self, table: &str, key: &str, value: &[u8]) -> Answer {
        self.must("PUT", &format!("/v1/tables/{table}/keys/{key}"), value)
    }

    /// The receipt of a transaction that sets one key.
    #[track_caller]
    pub(crate) fn receipt(&self, table: &str, key: &str, value: &str) -> Value {
        let op = json!({ "op": "put", "table": table, "key": key, "value": value });
        let body = json!({ "ops": [op] }).to_string();
        let answer = self.must("POST", "/v1/transactions", body.as_bytes());
        answer.ok().json()
    }

    #[track_caller]
    pub(crate) fn get(&self, table: &str, key: &str) -> Answer {
        self.must("GET", &format!("/v1/tables/{table}/keys/{key}"), &[])
    }

    /// Waits until everything up to `lsn` can be read at this node.
    #[track_caller]
    pub(crate) fn wait_for(&self, lsn: u64) {
        let at = mainstay::Lsn::new(lsn);
        let path = format!("/v1/tables/none/keys/none?min_lsn={at}&timeout_ms=50000");
        let answer = self.must("GET", &path, &[]);
        assert_eq!(answer.status, 404, "{}", answer.text());
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.must("GET", "/v1/status", &[]).ok().json()
    }

    #[track_caller]
    pub(crate) fn slots(&self) -> Value {
        self.must("GET", "/v1/slots", &[]).ok().json()
    }

    /// The synchronous policy, and how it stands.
    #[track_caller]
    pub(crate) fn policy(&self) -> Value {
        self.must("GET", "/v1/policy", &[]).ok().json()
    }

    /// Changes the policy, and returns the answer.
    #[track_caller]
    pub(crate) fn set_policy(&self, order: &Value) -> Value {
        let order = order.to_string();
        self.must("POST", "/v1/policy", order.as_bytes())
            .ok()
            .json()
    }

    /// Waits until exactly `count` standbys stream.
    #[track_caller]
    pub(crate) fn until_streaming(&self, count: usize) {
        until("the standbys stream", || {
            let status = self.status();
            let standbys = status["standbys"].as_array().expect("a list");
            let streaming = standbys.iter().filter(|one| one["state"] == "streaming");
            streaming.count() == count
        });
    }

    /// What `GET /v1/events?query` answers.
    #[track_caller]
    pub(crate) fn events(&self, query: &str) -> Vec<Value> {
        let answer = self.must("GET", &format!("/v1/events?{query}"), &[]);
        let answer = answer.ok().json();
        answer["events"].as_array().expect("a list").clone()
    }

    /// One of the positions of the status.
    #[track_caller]
    pub(crate) fn position(&self, name: &str) -> u64 {
        lsn(self.status()["lsn"][name]
            .as_str()
            .expect("the status has this position"))
    }

    /// Promotes the node once it has noticed that its primary is silent; returns the answer.
    #[track_caller]
    pub(crate) fn promote(&self) -> Value {
        let mut promoted = None;
        until("the promotion is accepted", || {
            let answer = self.must("POST", "/v1/promote", br#"{"force":false}"#);
            if answer.status == 412 {
                assert!(
                    answer.text().contains("heard from a primary"),
                    "{}",
                    answer.text()
                );
                return false;
            }
            promoted = Some(answer.ok().json());
            true
        });
        promoted.expect("it was accepted")
    }

    #[track_caller]
    pub(crate) fn follow(&self, url: &str) -> Answer {
        self.must(
            "POST",
            "/v1/follow",
            json!({ "url": url }).to_string().as_bytes(),
        )
    }

    /// A whole table whose keys are text.
    #[track_caller]
    pub(crate) fn rows(&self, table: &str) -> Rows {
        let rows = self.try_rows(table, "committed");
        rows.unwrap_or_else(|error| panic!("scan of {table} at {}: {error}", self.address))
    }

    /// What tells a table's rows from others, and how many there are; a page is held at a time.
    #[track_caller]
    pub(crate) fn digest(&self, table: &str) -> (u64, usize) {
        let (mut hasher, mut count) = (DefaultHasher::new(), 0);
        let each = |key: String, value: &str| {
            (key, value).hash(&mut hasher);
            count += 1;
        };
        let read = self.each_row(table, "committed", each);
        read.unwrap_or_else(|error| panic!("scan of {table} at {}: {error}", self.address));
        (hasher.finish(), count)
    }

    /// As [`rows`](Self::rows), at a read level, of a node that may be gone.
    pub(crate) fn try_rows(&self, table: &str, level: &str) -> Result<Rows, String> {
        let mut rows = Rows::new();
        self.each_row(table, level, |key, value| {
            rows.insert(key, value.as_bytes().to_vec());
        })?;
        Ok(rows)
    }

    fn each_row(
        &self,
        table: &str,
        level: &str,
        mut each: impl FnMut(String, &str),
    ) -> Result<(), String> {
        let mut from = String::new();
        loop {
            let path =
                format!("/v1/tables/{table}/keys?from={from}&limit={PAGE_ROWS}&read_level={level}");
            let page = self.send("GET", &path, &[])?;
            if page.status != 200 {
                return Err(page.text());
            }
            let page = page.json();
            for row in page["rows"].as_array().expect("a page has rows") {
                let key = row["key"].as_str().expect("keys here are text").to_owned();
                each(key, row["value"].as_str().expect("values here are text"));
            }
            match page["next"].as_str() {
                Some(next) => from = next.to_owned(),
                None => return Ok(()),
            }
        }
    }
}
