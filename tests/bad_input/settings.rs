//! Settings that cannot be used.

use std::fs;

use tempfile::TempDir;

use super::{REFUSED, USAGE, start};
use crate::support::{Done, assert_says, mainstay};

#[track_caller]
fn with_config(text: &str) -> Done {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("node.toml");
    fs::write(&path, text).unwrap();
    let done = start(&dir, "a")
        .arg("--config", path.to_string_lossy())
        .refused();
    assert!(!dir.path().join("a").exists(), "nothing is created");
    done
}

#[test]
fn an_unknown_key_in_the_config_file_is_named_with_its_line() {
    let done = with_config("[node]\nname = \"a\"\n\n[http]\nlisten_on = \"127.0.0.1:0\"\n");
    assert_eq!(done.code, USAGE, "{done:?}");
    assert_says(&done.err, &["node.toml line 5", "listen_on", "listen"]);
    let done = with_config("[replicaton]\nlisten = \"127.0.0.1:0\"\n");
    assert_eq!(done.code, USAGE, "{done:?}");
    assert_says(&done.err, &["node.toml line 1", "replicaton"]);
    let done = with_config("[sync]\n\npolicy = \"ANY 1 (*\"\n");
    assert_eq!(done.code, USAGE, "{done:?}");
    assert_says(&done.err, &["node.toml line 3"]);
    let done = with_config("[node\n");
    assert_eq!(done.code, USAGE, "{done:?}");
    assert_says(&done.err, &["node.toml line 1"]);
}

#[test]
fn without_credentials_only_loopback_is_listened_on() {
    let dir = TempDir::new().unwrap();
    for (flag, side, key) in [
        ("--listen", "replication", "replication.password_file"),
        ("--http", "HTTP", "http.token_file"),
    ] {
        for address in ["0.0.0.0:0", "[::]:0"] {
            let done = start(&dir, "a").arg(flag, address).refused();
            assert_eq!(done.code, REFUSED, "{done:?}");
            assert_says(
                &done.err,
                &[side, address, "no credentials", key, "127.0.0.1:0"],
            );
        }
    }
    assert!(!dir.path().join("a").exists(), "nothing is created");
    let secret = dir.path().join("secret");
    fs::write(&secret, "correct horse\n").unwrap();
    let secret = secret.to_string_lossy();
    let guarded = start(&dir, "a")
        .arg("--listen", "0.0.0.0:0")
        .arg("--password-file", &secret);
    let node = guarded.start();
    assert!(
        node.replication.starts_with("0.0.0.0:"),
        "{}",
        node.replication
    );
}

#[test]
fn flags_that_make_no_sense_are_explained() {
    let dir = TempDir::new().unwrap();
    for (flag, value, parts) in [
        ("--sync", "ANY 0 (*)", &["--sync"][..]),
        ("--sync", "SOME 1 (*)", &["--sync"]),
        ("--on-miss", "perhaps", &["--on-miss", "perhaps"]),
        ("--segment-size", "3MiB", &["power of two", "16MiB"]),
        ("--segment-size", "much", &["--segment-size", "much"]),
        ("--follow", "127.0.0.1:5433", &["postgres://"]),
        (
            "--follow",
            "postgres://u:secret@127.0.0.1:5433",
            &["password file"],
        ),
        (
            "--accept-loss-from",
            "here",
            &["--accept-loss-from", "here"],
        ),
    ] {
        let done = start(&dir, "a").arg(flag, value).refused();
        assert_eq!(done.code, USAGE, "{flag} {value}: {done:?}");
        assert_says(&done.err, parts);
        assert!(!done.err.contains("secret"), "{}", done.err);
    }
    let done = mainstay(["start"]);
    assert_eq!(done.code, USAGE, "{done:?}");
    assert_says(&done.err, &["--data DIR"]);
}
