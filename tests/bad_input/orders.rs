//! Orders over HTTP that say something else than they mean.

use tempfile::TempDir;

use crate::support::Start;

/// Each order with bodies that would be one if names were guessed from their places.
const ORDERS: [(&str, &[&str]); 7] = [
    ("failover", &["[]", r#"["b",true]"#, "null", "true"]),
    ("promote", &["[]", "[true]", "null"]),
    ("resync", &["[]", " [true]"]),
    ("verify", &["[]", "[true]"]),
    ("switchover", &["[]", r#"["b"]"#]),
    ("apply", &["[true]", ""]),
    ("follow", &[r#"["postgres://127.0.0.1:1"]"#, ""]),
];

#[test]
fn an_order_is_an_object_with_names_or_is_refused() {
    let dir = TempDir::new().unwrap();
    let node = Start::new(dir.path(), "a").start();
    for (order, bodies) in ORDERS {
        for body in bodies {
            let path = format!("/v1/{order}");
            let answer = node.http.send("POST", &path, body.as_bytes()).unwrap();
            let (status, text) = (answer.status, answer.text());
            assert_eq!(status, 400, "{order} {body}: {text}");
            assert!(
                text.contains("an order is an object"),
                "{order} {body}: {text}"
            );
            assert!(text.contains("send {"), "{order} {body}: {text}");
        }
    }
    assert_eq!(node.http.status()["timeline"], 1);
    node.http.put("t", "k", b"goes on").ok();
}
