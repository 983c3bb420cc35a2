//! What the tests of the whole product share: nodes as child processes, tools, and waiting.
//!
//! Every wait has a deadline and ends as soon as what is waited for is there. A child never
//! outlives its test: it is killed when its handle is dropped, and ends by itself when the test's
//! process dies. A node's log is printed when its test fails.

mod hold;
mod http;
mod mesh;
mod node;
mod proxy;
mod run;
mod skip;
mod twin;
mod valve;
mod writers;

pub(crate) use hold::Relay;
pub(crate) use http::{Answer, Http};
pub(crate) use mesh::Mesh;
pub(crate) use node::{Node, Start};
pub(crate) use proxy::{Proxy, Then};
pub(crate) use run::{Background, Done, mainstay, program, run, scrub};
pub(crate) use skip::{find_tool, find_tool_of, skipped};
pub(crate) use twin::{Twin, say};
pub(crate) use valve::{End, Line, Valve, Way};
pub(crate) use writers::{Ledger, Writers};

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest time that anything may take here.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How often something that cannot be waited for is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The rows of a table.
pub(crate) type Rows = BTreeMap<String, Vec<u8>>;

/// Waits until `done` says so.
///
/// # Panics
/// With `what` when it does not within [`DEADLINE`].
#[track_caller]
pub(crate) fn until(what: &str, done: impl FnMut() -> bool) {
    until_within(DEADLINE, what, done);
}

/// As [`until`], for what may take long because much is asked for.
#[track_caller]
pub(crate) fn until_within(deadline: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < deadline, "timed out waiting: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What `work` returns, which has to come within [`DEADLINE`]. A thread of its own does it, so that
/// what blocks for ever fails a test instead of holding it up.
#[track_caller]
pub(crate) fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        // When nobody waits any more, nobody needs it.
        let _ = sender.send(work());
    });
    let done = receiver.recv_timeout(DEADLINE);
    done.expect("it failed, or took too long")
}

/// Checks that `text` holds each of `parts`, whatever the case.
#[track_caller]
pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    let lower = text.to_lowercase();
    for part in parts {
        assert!(
            lower.contains(&part.to_lowercase()),
            "{part:?} is missing in: {text}"
        );
    }
}

/// The number in the environment variable `name`, or `default`.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text:?}")),
        Err(_) => default,
    }
}

/// A position's text as a number.
pub(crate) fn lsn(text: &str) -> u64 {
    text.parse::<mainstay::Lsn>()
        .unwrap_or_else(|error| panic!("{text:?}: {error}"))
        .get()
}
