//! A real node behind a real socket, asked over HTTP.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;
use crate::client::{Client, ClientError};

/// A node with its HTTP side, for tests.
pub(crate) struct Serving {
    pub(crate) client: Client,
    pub(crate) address: String,
    node: Node,
    stop: Arc<Notify>,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
}

impl Serving {
    pub(crate) fn primary() -> Self {
        Self::start(None, HttpOptions::default())
    }

    pub(crate) fn start(upstream: Option<&Serving>, options: HttpOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut builder = Node::builder(dir.path()).name("a").listen("127.0.0.1:0");
        if let Some(upstream) = upstream.and_then(|upstream| upstream.node.listen_addr()) {
            builder = builder
                .name("b")
                .follow(format!("postgres://mainstay@{upstream}"));
        }
        let node = runtime.block_on(builder.start()).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = Client::new(&address, options.token.clone());
        let stop = Arc::new(Notify::new());
        let served = serve(
            node.clone(),
            listener,
            options,
            stop.clone(),
            std::future::pending(),
        );
        runtime.spawn(served);
        Self {
            client,
            address,
            node,
            stop,
            runtime,
            _dir: dir,
        }
    }

    /// Sends `request` as it is, and returns the status and the body.
    fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
        let (head, len) = (head.replace('\n', "\r\n"), body.len());
        let text = format!(
            "{head}\r\nhost: {}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}",
            self.address
        );
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status, body)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.runtime.block_on(self.node.stop()).unwrap();
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (u16, String) {
    match result {
        Err(ClientError::Refused { status, error, .. }) => (status, error),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_value_is_put_got_and_deleted_whatever_bytes_its_key_has() {
    let serving = Serving::primary();
    let client = &serving.client;
    for key in [
        b"ada".as_slice(),
        b"a/b?c#d%e f",
        "grün".as_bytes(),
        &[0, 0xFF, b'/'],
        b"..",
    ] {
        assert_eq!(client.get("t", key, None).unwrap(), None);
        let written = client.put("t", key, b"\0value\xFF".to_vec()).unwrap();
        assert_eq!(written.timeline, 1);
        let value = client.get("t", key, None).unwrap();
        assert_eq!(value.as_deref(), Some(b"\0value\xFF".as_slice()), "{key:?}");
        client.delete("t", key).unwrap();
        assert_eq!(client.get("t", key, None).unwrap(), None);
    }
}

#[test]
fn the_answers_have_exactly_the_documented_form() {
    let serving = Serving::primary();
    let (status, body) = serving.raw("PUT /v1/tables/t/keys/k HTTP/1.1\n\nv");
    assert_eq!(status, 200);
    let answer = serde_json::from_str::<serde_json::Value>(&body).unwrap();
    let lsn = answer["lsn"].as_str().unwrap();
    let expected = format!(r#"{{"lsn":"{lsn}","timeline":1}}"#);
    assert_eq!(body.trim_end(), expected);
    assert!(lsn.parse::<crate::Lsn>().is_ok());
    let (status, body) = serving.raw(&format!("GET /v1/tables/t/keys/k?min_lsn={lsn} HTTP/1.1"));
    assert_eq!((status, body.as_str()), (200, "v"));
    let (status, body) = serving.raw("GET /v1/tables/t/keys/none HTTP/1.1");
    assert_eq!(
        (status, body.as_str()),
        (404, "{\"error\":\"there is no such key\"}\n")
    );
    let (_, body) = serving.raw("GET /v1/tables/t/keys HTTP/1.1");
    assert_eq!(
        body,
        "{\"rows\":[{\"key\":\"k\",\"value\":\"v\"}],\"next\":null}\n"
    );
    assert_eq!(serving.raw("GET /health HTTP/1.1").0, 200);
}

#[test]
fn pages_of_a_scan_add_up_to_the_table() {
    let serving = Serving::primary();
    let mut keys = (0..7_u8).map(|n| vec![b'p', 0xFE, n]).collect::<Vec<_>>();
    keys.extend([b"pa".to_vec(), b"pb".to_vec()]);
    keys.sort();
    for key in keys.iter().chain([&b"o".to_vec(), &b"q".to_vec()]) {
        serving.client.put("t", key, key.clone()).unwrap();
    }
    for limit in 1..=10 {
        let mut read = Vec::new();
        let mut from = Some(Vec::new());
        while let Some(key) = from {
            let page = serving.client.scan("t", b"p", &key, limit).unwrap();
            assert!(page.rows.len() <= limit);
            assert!(page.rows.iter().all(|(key, value)| key == value));
            read.extend(page.rows.into_iter().map(|(key, _)| key));
            from = page.next;
        }
        assert_eq!(read, keys, "limit {limit}");
    }
    assert!(
        serving
            .client
            .scan("no such table", b"", b"", 1)
            .unwrap()
            .rows
            .is_empty()
    );
}

#[test]
fn a_transaction_is_stored_whole_or_not_at_all() {
    let serving = Serving::primary();
    let body = |ops: &str| format!("{{\"ops\":[{ops}]}}").into_bytes();
    let put = r#"{"op":"put","table":"t","key":"k","value":"v"}"#;
    let empty_key = r#"{"op":"put","table":"t","key":"","value":"v"}"#;
    let bad = serving
        .client
        .transaction(body(&format!("{put},{empty_key}")));
    let (status, error) = refused(bad);
    assert_eq!(status, 400);
    assert!(error.starts_with("ops[1]: a key is empty"), "{error}");
    assert_eq!(serving.client.get("t", b"k", None).unwrap(), None);
    serving.client.transaction(body(put)).unwrap();
    assert_eq!(
        serving.client.get("t", b"k", None).unwrap().as_deref(),
        Some(b"v".as_slice())
    );
    let (status, error) = refused(serving.client.transaction(b"{".to_vec()));
    assert_eq!(
        (status, error.starts_with("not a transaction: EOF")),
        (400, true),
        "{error}"
    );
}

#[test]
fn bad_requests_are_told_what_is_wrong_with_them() {
    let serving = Serving::primary();
    let error = |request: &str, body: &str| {
        let (status, answer) = serving.raw(&format!("{request} HTTP/1.1\n\n{body}"));
        let answer = serde_json::from_str::<serde_json::Value>(&answer).unwrap();
        format!("{status} {}", answer["error"].as_str().unwrap())
    };
    assert_eq!(
        error("GET /v1/tables/t/keys/50%", ""),
        "400 the key: the % at byte 2 is not followed by two hexadecimal digits; write %25 for a %"
    );
    assert_eq!(
        error("PUT /v1/tables/t/keys/", "v"),
        "400 a key is empty; the shortest has one byte"
    );
    assert_eq!(
        error("GET /v1/tables/%FF/keys/k", ""),
        "400 the table's name is not UTF-8"
    );
    assert!(
        error("GET /v1/tables/t/keys/k?min_lsn=7", "").starts_with("400 min_lsn: \"7\" is not")
    );
    let slow = error("GET /v1/tables/t/keys/k?min_lsn=0/1&timeout_ms=9999999", "");
    assert_eq!(slow, "400 timeout_ms is 9999999, the most is 600000");
    assert!(
        error("GET /v1/tables/t/keys?limit=0", "").starts_with("400 limit: \"0\" is not a number")
    );
    assert_eq!(
        error("GET /v1/tables/t/keys?form=a", ""),
        "400 unknown parameter \"form\""
    );
    let chunked = error(
        "PUT /v1/tables/t/keys/k HTTP/1.1\ntransfer-encoding: chunked\nx:",
        "",
    );
    assert_eq!(chunked, "411 a body of unknown length is not taken");
    assert_eq!(
        error("DELETE /v1/status", ""),
        "405 /v1/status does not answer DELETE"
    );
    assert_eq!(error("GET /v2", ""), "404 there is nothing at /v2");
    assert!(
        error("POST /v1/promote", "{\"froce\":true}").starts_with("400 the body: unknown field")
    );
    assert!(error("POST /v1/follow", "{}").starts_with("400 the body: missing field `url`"));
    let long = "x".repeat(mainstay_storage::KEY_MAX + 1);
    let put = error(
        "POST /v1/transactions",
        &format!(
            "{{\"ops\":[{{\"op\":\"put\",\"table\":\"t\",\"key\":\"{long}\",\"value\":\"\"}}]}}"
        ),
    );
    assert_eq!(
        put,
        "413 ops[0]: key of 65528 bytes is over the limit of 65527 bytes"
    );
    let body = " ".repeat(ORDER_BYTES_MAX + 1);
    let large = format!("413 the body is over the limit of {ORDER_BYTES_MAX} bytes");
    assert_eq!(error("POST /v1/promote", &body), large);
}

#[test]
fn a_position_that_does_not_come_in_time_is_a_504() {
    let serving = Serving::primary();
    let wait = Some(("7F/0", std::time::Duration::from_millis(20)));
    let (status, error) = refused(serving.client.get("t", b"k", wait));
    assert_eq!(status, 504, "{error}");
}

#[test]
fn a_standby_answers_reads_and_names_the_primary_to_writers() {
    let primary = Serving::primary();
    let standby = Serving::start(Some(&primary), HttpOptions::default());
    let written = primary.client.put("t", b"k", b"v".to_vec()).unwrap();
    let wait = Some((written.lsn.as_str(), std::time::Duration::from_secs(20)));
    let value = standby.client.get("t", b"k", wait).unwrap();
    assert_eq!(value.as_deref(), Some(b"v".as_slice()));
    let (status, body) = standby.raw("PUT /v1/tables/t/keys/k HTTP/1.1\n\nw");
    let address = primary.node.listen_addr().unwrap().to_string();
    let body = serde_json::from_str::<serde_json::Value>(&body).unwrap();
    assert_eq!(status, 421, "{body}");
    assert!(
        body["primary"].as_str().unwrap().contains(&address),
        "{body}"
    );
    assert_eq!(standby.client.status().unwrap()["role"], "standby");
    let (status, error) = refused(primary.client.follow("not a url"));
    assert_eq!(status, 400, "{error}");
}

#[test]
fn with_a_token_only_who_has_it_is_heard() {
    let token = || Some("s3cret".to_owned());
    let serving = Serving::start(
        None,
        HttpOptions {
            token: token(),
            level: None,
        },
    );
    assert!(serving.client.status().is_ok());
    let (status, error) = refused(Client::new(&serving.address, None).status());
    assert_eq!((status, error.as_str()), (401, "a token is needed"));
    let wrong = Client::new(&serving.address, Some("s3cres".to_owned()));
    let (status, error) = refused(wrong.put("t", b"k", Vec::new()));
    assert_eq!((status, error.as_str()), (401, "the token is wrong"));
    assert_eq!(serving.raw("GET /health HTTP/1.1").0, 200);
}

#[test]
fn a_web_page_of_another_origin_is_refused() {
    let serving = Serving::primary();
    let with = |origin: &str| {
        serving
            .raw(&format!("POST /v1/stop HTTP/1.1\norigin: {origin}"))
            .0
    };
    assert_eq!(with("http://example.com"), 403);
    assert_eq!(with("null"), 403);
    assert_eq!(with(&format!("http://{}", serving.address)), 200);
}

#[test]
fn stop_is_answered_before_it_happens() {
    let serving = Serving::primary();
    serving.client.stop().unwrap();
    serving.runtime.block_on(serving.stop.notified());
}
