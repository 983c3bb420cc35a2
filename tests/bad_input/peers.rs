//! Peers that must not be followed, or that cannot prove who they are.

use std::fs;

use tempfile::TempDir;

use super::{assert_filled, fill, start};
use crate::support::{assert_says, until};

#[test]
fn a_standby_pointed_at_another_cluster_keeps_its_rows_and_says_so() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    let standby = start(&dir, "b").follow(&primary).start();
    let end = fill(&primary);
    standby.http.wait_for(end);
    let other = start(&dir, "other").start();
    other.http.put("t", "0000", b"of the other cluster").ok();
    // Whether it is told at once or finds out, it must not take anything from there.
    let told = standby.http.follow(&other.url());
    let knows = || standby.http.status()["status"] == "broken";
    until("it is refused or known to be broken", || {
        told.status != 200 || knows()
    });
    until("the reason is told", || {
        standby.said().contains("belongs to cluster")
    });
    assert_filled(&standby);
    let strangers = other.http.status()["standbys"].clone();
    assert_eq!(
        strangers,
        serde_json::json!([]),
        "the other cluster must not count on it"
    );
    standby.http.follow(&primary.url()).ok();
    let end = primary.http.put("more", "1", b"1").ok().lsn();
    standby.http.wait_for(end);
    assert_eq!(standby.http.get("more", "1").ok().body, b"1");
    assert_filled(&standby);
}

#[test]
fn a_standby_with_a_wrong_password_is_refused() {
    let dir = TempDir::new().unwrap();
    let secret = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (right, wrong) = (
        secret("right", "correct horse\n"),
        secret("wrong", "battery\n"),
    );
    let primary = start(&dir, "a").arg("--password-file", &right).start();
    fill(&primary);
    let standby = start(&dir, "b").follow(&primary);
    let done = standby
        .clone()
        .arg("--upstream-password-file", &wrong)
        .refused();
    assert_says(&done.err, &["password", "mainstay", &primary.replication]);
    assert!(!done.err.contains("battery"), "{}", done.err);
    let done = standby.refused();
    assert_says(&done.err, &["password", &primary.replication]);
    let standby = standby.arg("--upstream-password-file", &right).start();
    assert_filled(&standby);
}

#[test]
fn a_standby_of_nobody_says_whom_it_cannot_reach() {
    let dir = TempDir::new().unwrap();
    let done = start(&dir, "b")
        .arg("--follow", "postgres://127.0.0.1:1")
        .refused();
    assert_says(&done.err, &["127.0.0.1:1", "refused"]);
    let primary = start(&dir, "a").start();
    fill(&primary);
    assert_filled(&start(&dir, "b").follow(&primary).start());
}

#[test]
fn writes_at_a_standby_name_the_primary() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    let standby = start(&dir, "b").follow(&primary).start();
    until("the standby knows its primary", || {
        let answer = standby.http.put("t", "k", b"v");
        assert_eq!(answer.status, 421, "{}", answer.text());
        answer.text().contains(&primary.replication)
    });
}
