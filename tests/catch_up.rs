//! A standby that was away, or whose line stalled, while log accumulated: it catches up from files,
//! and neither node needs more memory for more log.

use std::time::Instant;

use tempfile::TempDir;

use crate::support::{DEADLINE, Node, Start, Valve, Way, number, until_within};

const TABLE: &str = "t";

const MIB: u64 = 1 << 20;

/// Log that accumulates, in MiB, unless `MAINSTAY_CATCHUP_MIB` says otherwise.
const LOG_MIB: u64 = 48;

/// Bytes of a row, and how many there are; each is written again and again.
const ROW: usize = 256 << 10;
const ROWS: u64 = 512;

/// Threads that write.
const WRITERS: u64 = 4;

/// The most memory that either node may take here, of what the documentation states: five
/// memtables of 48 MiB and two that a merge holds, 64 MiB of cache, 32 MiB of log that is kept at
/// hand, 64 MiB on its way into it, 44 MiB on its way from the upstream or to a standby, 32 MiB for
/// the rest.
const MEMORY_MAX: u64 = (7 * 48 + 64 + 32 + 64 + 44 + 32) * MIB;

/// A primary and its standby, which follows through a slot, so that no log is removed before it has
/// it, and never copies instead of catching up.
fn pair(dir: &TempDir) -> (Node, Node, Valve) {
    let a = Start::new(dir.path(), "a").start();
    let line = Valve::to(&a.replication);
    let b = Start::new(dir.path(), "b").arg("--slot", "b");
    let b = b.arg("--follow", line.url()).arg("--rebuild-from", "1TiB");
    let b = b.start();
    b.http.wait_for(a.http.put(TABLE, "first", b"v").ok().lsn());
    (a, b, line)
}

/// Writes until the primary's log has grown by so many MiB, and returns its end.
fn accumulate(a: &Node, mib: u64) -> u64 {
    let goal = a.http.position("flushed") + mib * MIB;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut value = vec![b'v'; ROW];
                for row in (writer..).step_by(WRITERS as usize) {
                    let number = format!("{row:020}");
                    value[..number.len()].copy_from_slice(number.as_bytes());
                    let key = format!("k{:06}", row % ROWS);
                    if a.http.put(TABLE, &key, &value).ok().lsn() >= goal {
                        return;
                    }
                }
            });
        }
    });
    a.http.position("flushed")
}

/// Waits until the standby has and shows everything up to `end`, and says how fast that went.
fn measure(what: &str, [a, b]: [&Node; 2], from: u64, end: u64, begun: Instant) {
    let patience = DEADLINE + DEADLINE * u32::try_from((end - from) / (256 * MIB)).unwrap();
    let reached = |position| until_within(patience, what, || b.http.position(position) >= end);
    reached("flushed");
    let flushed = begun.elapsed();
    reached("applied");
    let mib = (end - from) as f64 / MIB as f64;
    let [peak_a, peak_b] = [a, b].map(Node::peak_memory);
    println!(
        "{what}: {mib:.0} MiB flushed in {flushed:.1?} ({:.0} MiB/s), applied in {:.1?}; the \
         primary had {} MiB at most, the standby {} MiB",
        mib / flushed.as_secs_f64(),
        begun.elapsed(),
        peak_a / MIB,
        peak_b / MIB
    );
    for (node, peak) in [("primary", peak_a), ("standby", peak_b)] {
        let (peak, most) = (peak / MIB, MEMORY_MAX / MIB);
        assert!(
            peak <= most,
            "{what}: the {node} had {peak} MiB, over {most}"
        );
    }
    assert_eq!(a.http.digest(TABLE), b.http.digest(TABLE));
}

#[test]
fn a_standby_that_was_stopped_catches_up_in_bounded_memory() {
    let dir = TempDir::new().unwrap();
    let (a, mut b, _line) = pair(&dir);
    b.terminate();
    let from = a.http.position("flushed");
    let end = accumulate(&a, number("MAINSTAY_CATCHUP_MIB", LOG_MIB));
    let begun = Instant::now();
    let b = b.same_ports().start();
    measure("after a stop", [&a, &b], from, end, begun);
    assert_eq!(b.said().matches("took a base backup").count(), 1);
}

#[test]
fn a_standby_whose_line_stalled_catches_up_in_bounded_memory() {
    let dir = TempDir::new().unwrap();
    let (a, b, line) = pair(&dir);
    line.hold(Way::FromNode);
    let from = b.http.position("flushed");
    let end = accumulate(&a, number("MAINSTAY_CATCHUP_MIB", LOG_MIB));
    // A few bytes may have been on their way.
    let held = b.http.position("flushed");
    assert!(held < from + MIB, "it was not held: {from} to {held}");
    let begun = Instant::now();
    line.release(Way::FromNode);
    measure("after a stall", [&a, &b], from, end, begun);
    assert_eq!(b.said().matches("took a base backup").count(), 1);
}
