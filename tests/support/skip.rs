//! Tests that need what a machine may not have.

use std::path::PathBuf;

/// Finds a program of Debian's `postgresql-client`; see [`find_tool_of`].
#[track_caller]
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    find_tool_of(name, "postgresql-client")
}

/// Finds a program of a package of Debian. `None` when it is missing and may be: a SKIPPED line
/// says so.
///
/// # Panics
/// When it is missing and `MAINSTAY_REQUIRE_ALL=1` is set: it can be installed.
#[track_caller]
pub(crate) fn find_tool_of(name: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::env::split_paths(&path).collect::<Vec<_>>();
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut versions = versions
        .map(|version| version.path().join("bin"))
        .collect::<Vec<_>>();
    versions.sort();
    dirs.extend(versions.into_iter().rev());
    let found = dirs
        .into_iter()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        let required = std::env::var("MAINSTAY_REQUIRE_ALL").is_ok_and(|value| value == "1");
        let why = format!("{name} is missing; install Debian's package {package}");
        assert!(!required, "{why}");
        skipped(&why);
    }
    found
}

/// Says that a test, or a part of it, did not run here, past the capture of its output.
pub(crate) fn skipped(why: &str) {
    use std::io::Write as _;
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    // Written directly: the test harness shows nothing that a passing test prints.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}
