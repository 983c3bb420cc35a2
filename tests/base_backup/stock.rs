//! `pg_basebackup`: what it makes is verified by its own tool and starts as a standby.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use tempfile::TempDir;

use super::{assert_same_rows, fill, start, verify};
use crate::support::{Done, Ledger, Node, Writers, find_tool, lsn, run, scrub};

/// Runs `pg_basebackup` of `node` into `into`; `None` when it is missing and may be.
pub(super) fn pg_basebackup(node: &Node, into: &Path, more: &[&str]) -> Option<Done> {
    let mut command = tool("pg_basebackup")?;
    let conninfo = format!("host=127.0.0.1 port={} user=mainstay", node.port());
    command.args(["-w", "-P", "-d", &conninfo, "-D"]).arg(into);
    Some(run(command.args(more)))
}

fn tool(name: &str) -> Option<Command> {
    let mut command = Command::new(find_tool(name)?);
    scrub(&mut command);
    command.env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C");
    Some(command)
}

/// Takes a backup while others write, starts on it without a word about whom to follow, and
/// compares everything.
fn becomes_a_standby(options: &[&str], plain: bool) {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "before-", 10);
    let ledger = Arc::new(Ledger::default());
    let writers = Writers::start(4, &primary.http, &ledger);
    writers.until_acknowledged(50);
    let into = dir.path().join("b");
    let Some(done) = pg_basebackup(&primary, &into, options) else {
        return writers.stop();
    };
    let said = done.ok().err;
    assert!(!said.contains("could not"), "{said}");
    if plain {
        let mut verifier = tool("pg_verifybackup").expect("it comes with pg_basebackup");
        run(verifier.arg("-n").arg(&into)).ok();
        verify(&into).ok();
    }
    writers.until_acknowledged(50);
    let standby = start(&dir, "b").start();
    writers.until_acknowledged(50);
    writers.stop();
    assert_eq!(standby.http.status()["role"], "standby");
    standby.http.wait_for(ledger.end());
    assert_same_rows(&standby, &primary, "rows");
    assert_same_rows(&standby, &primary, "t");
    ledger.check(&standby.http);
    for name in [
        "backup_label",
        "backup_manifest",
        "pg_wal",
        "bootstrap",
        "base.tar",
    ] {
        assert!(!into.join(name).exists(), "{name} is left");
    }
}

#[test]
fn a_plain_backup_under_writes_becomes_a_standby() {
    becomes_a_standby(&["-Fp", "-X", "stream", "-R"], true);
}

#[test]
fn archives_taken_under_writes_become_a_standby() {
    becomes_a_standby(&["-Ft", "-X", "stream", "-R"], false);
}

#[test]
fn a_backup_that_fetched_its_log_becomes_a_standby() {
    let more = [
        "-X",
        "fetch",
        "-R",
        "-c",
        "fast",
        "-l",
        "the label",
        "--manifest-checksums=SHA256",
    ];
    becomes_a_standby(&more, true);
}

#[test]
fn a_standby_made_by_the_tool_follows_after_a_restart_and_not_once_it_was_promoted() {
    let dir = TempDir::new().unwrap();
    let mut primary = start(&dir, "a").start();
    fill(&primary, "row-", 3);
    let into = dir.path().join("b");
    let slot = ["-X", "stream", "-R", "-C", "-S", "b_slot"];
    let Some(done) = pg_basebackup(&primary, &into, &slot) else {
        return;
    };
    done.ok();
    let mut standby = start(&dir, "b").start();
    fill(&primary, "more-", 2);
    assert_same_rows(&standby, &primary, "t");
    standby.kill_and_restart();
    fill(&primary, "again-", 2);
    assert_same_rows(&standby, &primary, "t");
    primary.kill();
    standby.http.promote();
    standby.kill_and_restart();
    assert_eq!(standby.http.status()["role"], "primary");
    fill(&standby, "promoted-", 2);
}

#[test]
fn a_backup_of_a_standby_under_writes_becomes_another_standby() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "before-", 10);
    let first = start(&dir, "b").follow(&primary).start();
    let ledger = Arc::new(Ledger::default());
    let writers = Writers::start(4, &primary.http, &ledger);
    writers.until_acknowledged(50);
    let into = dir.path().join("c");
    let Some(done) = pg_basebackup(&first, &into, &["-X", "stream"]) else {
        return writers.stop();
    };
    done.ok();
    verify(&into).ok();
    let second = start(&dir, "c").follow(&primary).start();
    writers.until_acknowledged(50);
    writers.stop();
    second.http.wait_for(ledger.end());
    ledger.check(&second.http);
    assert_same_rows(&second, &primary, "t");
}

#[test]
fn a_standby_made_with_a_password_follows_with_it() {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "correct horse\n").unwrap();
    let secret = secret.to_string_lossy().into_owned();
    let protected = |name: &str| start(&dir, name).arg("--password-file", &secret);
    let primary = protected("a").start();
    fill(&primary, "row-", 3);
    let Some(mut command) = tool("pg_basebackup") else {
        return;
    };
    let conninfo = format!("host=127.0.0.1 port={} user=mainstay", primary.port());
    command
        .args(["-w", "-R", "-d", &conninfo, "-D"])
        .arg(dir.path().join("b"));
    assert_ne!(run(&mut command).code, Some(0), "without the password");
    run(command.env("PGPASSWORD", "correct horse")).ok();
    let standby = protected("b").start();
    fill(&primary, "more-", 2);
    assert_same_rows(&standby, &primary, "t");
}

#[test]
fn what_is_not_committed_is_not_in_a_backup() {
    let dir = TempDir::new().unwrap();
    let mut primary = start(&dir, "a").start();
    let committed = fill(&primary, "row-", 5);
    primary.terminate();
    let primary = start(&dir, "a").arg("--sync", "ANY 1 (nobody)").start();
    let local = json!({ "level": "local", "ops": [
        { "op": "put", "table": "t", "key": "not-yet", "value": "x".repeat(200_000) },
    ]});
    let body = local.to_string().into_bytes();
    let flushed = primary
        .http
        .send("POST", "/v1/transactions", &body)
        .unwrap()
        .ok()
        .lsn();
    let into = dir.path().join("b");
    let Some(done) = pg_basebackup(&primary, &into, &["-X", "stream"]) else {
        return;
    };
    done.ok();
    let manifest = std::fs::read_to_string(into.join("backup_manifest")).unwrap();
    let end = manifest.split("\"End-LSN\": \"").nth(1).unwrap();
    let end = lsn(end.split('"').next().unwrap());
    assert!(
        committed <= end && end < flushed,
        "{committed} {end} {flushed}"
    );
    verify(&into).ok();
    let mut log = Vec::new();
    for entry in std::fs::read_dir(into.join("pg_wal")).unwrap() {
        // The directory for what was archived is empty.
        log.extend(std::fs::read(entry.unwrap().path()).unwrap_or_default());
    }
    assert!(!log.windows(7).any(|bytes| bytes == b"not-yet"));
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 1);
    let cases = [
        (
            vec!["-Ft", "-X", "fetch", "--compress=server-gzip"],
            "compression by the server",
        ),
        (vec!["-X", "fetch", "-t", "blackhole"], "another target"),
    ];
    for (options, why) in cases {
        let mut command = match tool("pg_basebackup") {
            Some(command) => command,
            None => return,
        };
        let conninfo = format!("host=127.0.0.1 port={} user=mainstay", primary.port());
        command.args(["-w", "-d", &conninfo]).args(&options);
        if !options.contains(&"-t") {
            command.arg("-D").arg(dir.path().join("refused"));
        }
        let done = run(&mut command);
        assert_ne!(done.code, Some(0));
        assert!(done.err.contains(why), "{}", done.err);
    }
}
