//! Every example runs as a reader would run it, and ends by itself, well.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Builds the examples, and returns where they are.
fn built() -> &'static PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let this = std::env::current_exe().unwrap();
        let profile = this.parent().and_then(|deps| deps.parent()).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args(["build", "--quiet", "--examples", "--target-dir"]);
        cargo.arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "they do not build");
        profile.join("examples")
    })
}

/// Runs an example and returns what it printed.
fn run(name: &str) -> String {
    let out = Command::new(built().join(name)).output().unwrap();
    let (printed, errors) = (
        String::from_utf8(out.stdout).unwrap(),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(out.status.success(), "{name} printed {printed}\n{errors}");
    assert!(errors.is_empty(), "{name} complained: {errors}");
    printed
}

#[test]
fn embed_opens_writes_reads_and_reopens() {
    let printed = run("embed");
    assert!(printed.contains("visit number 1"), "{printed}");
    assert!(printed.contains("everything is still there"), "{printed}");
}

#[test]
fn primary_and_standby_reads_on_the_standby_what_was_written_on_the_primary() {
    let printed = run("primary_and_standby");
    assert!(printed.contains("b read grace, born 1906"), "{printed}");
    assert!(printed.contains("the primary is a ("), "{printed}");
}

#[test]
fn own_store_sqlite_fills_a_database_on_two_nodes() {
    let printed = run("own_store_sqlite");
    let count = printed.matches("2 cities, 1550000 people").count();
    assert_eq!(count, 2, "{printed}");
}

#[test]
fn sync_commit_waits_for_the_standby_and_goes_on_with_it() {
    let printed = run("sync_commit");
    assert!(printed.contains("orders 3 and 4 are safe"), "{printed}");
}

#[test]
fn subscribe_gets_every_change_from_where_it_asked() {
    let printed = run("subscribe");
    assert!(printed.contains("live: alan"), "{printed}");
    assert!(printed.contains("all 10,000 rows in order"), "{printed}");
}

#[test]
fn promote_takes_over_without_losing_an_order() {
    let printed = run("promote");
    assert!(printed.contains("b opened timeline 2"), "{printed}");
}
