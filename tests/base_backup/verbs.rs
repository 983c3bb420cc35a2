//! `mainstay backup`, `backup verify` and `restore`.

use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;

use super::{assert_same_rows, backup, fill, restore, start, verify};
use crate::support::{Background, Ledger, Writers, assert_says, scrub, until};

#[test]
fn a_backup_is_taken_verified_restored_and_followed() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 10);
    let kept = dir.path().join("kept");
    let done = backup(&primary, &kept, &["--label", "before the move"]).ok();
    assert!(done.out.contains("\"before the move\""), "{}", done.out);
    fill(&primary, "later-", 3);
    verify(&kept).ok();
    restore(&kept, &dir.path().join("b")).ok();
    verify(&kept).ok();
    let standby = start(&dir, "b").follow(&primary).start();
    assert_same_rows(&standby, &primary, "t");
    // It is a standby's, which a backup does not make a second primary.
    restore(&kept, &dir.path().join("c")).ok();
    let refused = start(&dir, "c").refused();
    assert!(refused.err.contains("--follow"), "{}", refused.err);
}

#[test]
fn where_nobody_is_left_a_restored_node_is_promoted() {
    let dir = TempDir::new().unwrap();
    let mut primary = start(&dir, "a").start();
    fill(&primary, "row-", 5);
    let kept = dir.path().join("kept");
    backup(&primary, &kept, &[]).ok();
    let rows = primary.http.rows("t");
    let gone = primary.url();
    primary.kill();
    restore(&kept, &dir.path().join("b")).ok();
    let mut node = start(&dir, "b").arg("--follow", &gone).start();
    assert!(
        node.http.rows("t") == rows,
        "a restored node is readable at once"
    );
    node.http.promote();
    fill(&node, "after-", 1);
    node.terminate();
    let again = start(&dir, "b").start();
    assert_eq!(again.http.status()["role"], "primary");
    assert_eq!(again.http.rows("t").len(), rows.len() + 1);
}

#[test]
fn a_slow_backup_keeps_to_its_rate_and_holds_up_no_writer() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 20);
    let ledger = Arc::new(Ledger::default());
    let writers = Writers::start(4, &primary.http, &ledger);
    let kept = dir.path().join("kept");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mainstay"));
    scrub(&mut command);
    command.args(["backup", "--max-rate", "512KiB", "--from", &primary.url()]);
    let begun = Instant::now();
    let taking = Background::start(command.arg(&kept), &dir.path().join("taking.log"));
    until("the backup begins", || kept.join("store").exists());
    writers.until_acknowledged(200);
    assert!(
        !kept.join("backup_manifest").exists(),
        "it ended too soon to say anything"
    );
    until("the backup ends", || taking.said().contains("complete"));
    // The log of 20 rows alone is 2 MB.
    assert!(begun.elapsed().as_secs() >= 2, "{:?}", begun.elapsed());
    writers.stop();
    verify(&kept).ok();
    restore(&kept, &dir.path().join("b")).ok();
    let standby = start(&dir, "b").follow(&primary).start();
    standby.http.wait_for(ledger.end());
    ledger.check(&standby.http);
}

#[test]
fn a_standby_is_filled_from_another_standby() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 10);
    let first = start(&dir, "b").follow(&primary).start();
    assert_same_rows(&first, &primary, "t");
    let both = format!("{},{}", first.url(), primary.replication);
    let second = start(&dir, "c").arg("--follow", both).start();
    assert!(second.said().contains("took a base backup"));
    fill(&primary, "later-", 3);
    assert_same_rows(&second, &primary, "t");
    let kept = dir.path().join("kept");
    backup(&first, &kept, &[]).ok();
    verify(&kept).ok();
}

#[test]
fn a_backup_over_a_promotion_begins_again_on_the_new_timeline() {
    let dir = TempDir::new().unwrap();
    let mut primary = start(&dir, "a").start();
    let standby = start(&dir, "b").follow(&primary).start();
    fill(&primary, "row-", 20);
    assert_same_rows(&standby, &primary, "t");
    let kept = dir.path().join("kept");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mainstay"));
    scrub(&mut command);
    command.args(["backup", "--max-rate", "1MiB", "--from", &standby.url()]);
    let taking = Background::start(command.arg(&kept), &dir.path().join("taking.log"));
    until("the backup begins", || kept.join("store").exists());
    primary.kill();
    standby.http.promote();
    let end = fill(&standby, "promoted-", 1);
    until("the backup ends", || taking.said().contains("complete"));
    let said = verify(&kept).ok().out;
    restore(&kept, &dir.path().join("c")).ok();
    let third = start(&dir, "c").follow(&standby).start();
    third.http.wait_for(end);
    assert_same_rows(&third, &standby, "t");
    assert!(said.contains("timeline 2"), "{said}");
}

#[test]
fn a_node_that_is_stopped_ends_a_backup_which_begins_again_when_it_is_back() {
    let dir = TempDir::new().unwrap();
    let mut primary = start(&dir, "a").start();
    fill(&primary, "row-", 20);
    let kept = dir.path().join("kept");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mainstay"));
    scrub(&mut command);
    command.args(["backup", "--max-rate", "512KiB", "--from", &primary.url()]);
    let taking = Background::start(command.arg(&kept), &dir.path().join("taking.log"));
    until("the backup begins", || kept.join("store").exists());
    let again = primary.same_ports();
    primary.terminate();
    let left = std::fs::read_dir(primary.data()).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with("backup-")).count(), 0);
    let primary = again.start();
    until("the backup ends", || taking.said().contains("complete"));
    verify(&kept).ok();
    restore(&kept, &dir.path().join("b")).ok();
    let standby = start(&dir, "b").follow(&primary).start();
    assert_same_rows(&standby, &primary, "t");
}

#[test]
fn a_backup_of_a_protected_node_needs_its_password() {
    let dir = TempDir::new().unwrap();
    let secret = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let (right, wrong) = (
        secret("right", "correct horse\n"),
        secret("wrong", "battery\n"),
    );
    let primary = start(&dir, "a").arg("--password-file", &right).start();
    fill(&primary, "row-", 1);
    let kept = dir.path().join("kept");
    for options in [&["--upstream-password-file", &wrong][..], &[]] {
        let done = backup(&primary, &kept, options);
        assert_ne!(done.code, Some(0));
        assert_says(&done.err, &["password"]);
        assert!(!kept.exists(), "nothing was created");
    }
    backup(&primary, &kept, &["--upstream-password-file", &right]).ok();
}

#[test]
fn an_embedder_gets_no_new_database_where_a_backup_lies() {
    let dir = TempDir::new().unwrap();
    let primary = start(&dir, "a").start();
    fill(&primary, "row-", 1);
    let kept = dir.path().join("kept");
    backup(&primary, &kept, &[]).ok();
    let error = mainstay::Database::open(&kept).unwrap_err().to_string();
    assert_says(&error, &["holds a base backup", "restore it"]);
    verify(&kept).ok();
}

#[test]
fn the_copy_of_a_backup_that_died_with_its_node_is_removed() {
    let dir = TempDir::new().unwrap();
    let mut primary = start(&dir, "a").start();
    fill(&primary, "row-", 3);
    let left = primary.data().join("backup-3");
    std::fs::create_dir_all(left.join("tables")).unwrap();
    std::fs::write(left.join("tables").join("0"), b"old").unwrap();
    primary.kill_and_restart();
    assert!(!left.exists());
    backup(&primary, &dir.path().join("kept"), &[]).ok();
}
