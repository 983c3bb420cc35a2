//! Rows that cannot be taken, over HTTP and from files.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::{FAILED, start};
use crate::support::{Done, Node, assert_says, mainstay};

/// Longest key in bytes.
const KEY_MAX: usize = mainstay_storage::KEY_MAX;

/// Longest body that is taken as a value, in bytes.
const VALUE_MAX: usize = mainstay_storage::VALUE_MAX;

/// Longest value in a log with segments of 1 MiB: what fits into a record, a quarter of one.
const VALUE_IN_1_MIB_MAX: usize = (256 << 10) - 128;

#[test]
fn keys_and_values_over_their_limits_are_refused_over_http() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    let transaction = |key: &str| {
        let put = json!({ "op": "put", "table": "t", "key": key, "value": "v" });
        let other = json!({ "op": "put", "table": "t", "key": "other", "value": "v" });
        let body = json!({ "ops": [other, put] }).to_string();
        node.http
            .send("POST", "/v1/transactions", body.as_bytes())
            .unwrap()
    };
    let long = transaction(&"k".repeat(KEY_MAX + 1));
    assert_eq!(long.status, 413, "{}", long.text());
    assert_says(
        &long.text(),
        &["ops[1]", "key of 65528 bytes", "limit of 65527 bytes"],
    );
    let empty = transaction("");
    assert_eq!(empty.status, 400, "{}", empty.text());
    assert_says(&empty.text(), &["key"]);
    assert_eq!(node.http.put("t", "", b"v").status, 400);
    let table = node.http.put(&"t".repeat(256), "k", b"v");
    assert!(
        matches!(table.status, 400 | 413),
        "{} {}",
        table.status,
        table.text()
    );
    assert_says(&table.text(), &["table", "256", "255"]);
    // The answer may come before all of the body was sent, and end the connection.
    if let Ok(answer) = node
        .http
        .send("PUT", "/v1/tables/t/keys/large", &vec![b'v'; VALUE_MAX + 1])
    {
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert_says(&answer.text(), &["limit of 67108864 bytes"]);
    }
    let record = node.http.put("t", "large", &vec![b'v'; 256 << 10]);
    assert_eq!(record.status, 413, "{}", record.text());
    assert_says(&record.text(), &["value of 262144 bytes", "over the limit"]);
    assert!(node.http.rows("t").is_empty(), "nothing of this was stored");
    let value = vec![b'v'; VALUE_IN_1_MIB_MAX];
    node.http.put("t", "large", &value).ok();
    transaction(&"k".repeat(KEY_MAX)).ok();
    assert!(node.http.get("t", "large").ok().body == value);
}

#[test]
fn requests_that_make_no_sense_are_explained() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    let post = |body: &str| {
        node.http
            .send("POST", "/v1/transactions", body.as_bytes())
            .unwrap()
    };
    for (body, part) in [
        ("{\"ops\":[]}", "does nothing"),
        ("{", "not a transaction"),
        (r#"{"ops":[{"op":"put","table":"t","key":"k"}]}"#, "ops[0]"),
        (r#"{"ops":[{"op":"drop","table":"t"}]}"#, "put"),
        (
            r#"{"ops":[{"op":"delete","table":"t","key":"k"}],"level":"much"}"#,
            "much",
        ),
    ] {
        let answer = post(body);
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert_says(&answer.text(), &[part]);
    }
    let get = |path: &str| node.http.send("GET", path, &[]).unwrap();
    let future = get("/v1/tables/t/keys/k?min_lsn=FF/0&timeout_ms=10");
    assert_eq!(future.status, 504, "{}", future.text());
    assert_says(&future.text(), &["FF/0", "was not reached"]);
    assert_eq!(get("/v1/tables/t/keys/k?min_lsn=soon").status, 400);
    assert_eq!(get("/v1/tables/t/keys?limit=0").status, 400);
    assert_eq!(get("/v1/tables/t/keys?lmit=1").status, 400);
    assert_eq!(get("/v1/tables/t/keys/%zz").status, 400);
    node.http.put("t", "k", b"v").ok();
}

#[track_caller]
fn import(dir: &TempDir, node: &Node, text: &[u8]) -> Done {
    let path = dir.path().join("rows.csv");
    fs::write(&path, text).unwrap();
    let path = path.to_string_lossy();
    mainstay([
        "import",
        "--http",
        &node.http_address,
        "--table",
        "t",
        "--key",
        "id",
        &path,
    ])
}

#[test]
fn a_file_with_a_bad_row_stops_there_and_nothing_of_its_batch_is_stored() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    for (text, parts) in [
        (
            &b"name,town\nada,london\n"[..],
            &["line 1", "no column \"id\"", "name, town"][..],
        ),
        (
            b"id;name\n1;ada\n",
            &["line 1", "no column \"id\"", "--delimiter"],
        ),
        (
            b"id,name\n1,ada\n2\n3,c\n",
            &["line 3", "the header has 2 columns", "this row 1"],
        ),
        (
            b"id,name\n1,ada\n2,b,c\n",
            &["line 3", "the header has 2 columns", "this row 3"],
        ),
        (
            b"id,name\n1,ada\n2,b\xFF\n",
            &["line 3", "\"name\"", "not UTF-8"],
        ),
        (b"id,name\n1,ada\n,b\n", &["line 3", "the key", "empty"]),
        (b"", &["the file is empty"]),
    ] {
        let done = import(&dir, &node, text);
        assert_eq!(done.code, FAILED, "{done:?}");
        assert_says(&done.err, &["rows.csv"]);
        assert_says(&done.err, parts);
        assert!(node.http.rows("t").is_empty(), "{done:?}");
    }
    import(&dir, &node, b"id,name\n1,ada\n2,bob\n").ok();
    let rows = node.http.rows("t");
    assert_eq!(rows.len(), 2);
    assert_eq!(rows["2"], br#"{"id":"2","name":"bob"}"#);
    let missing = mainstay([
        "import",
        "--http",
        &node.http_address,
        "--table",
        "t",
        "--key",
        "id",
        "no/such/file.csv",
    ]);
    assert_eq!(missing.code, FAILED, "{missing:?}");
    assert_says(&missing.err, &["no/such/file.csv"]);
}

#[test]
fn a_verb_without_a_node_says_how_to_start_one() {
    let done = mainstay(["get", "--http", "127.0.0.1:1", "t", "k"]);
    assert_eq!(done.code, Some(3), "{done:?}");
    assert_says(&done.err, &["cannot reach 127.0.0.1:1", "mainstay start"]);
}
