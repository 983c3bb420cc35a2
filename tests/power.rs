//! A real node on a disk that loses what was not synced when its power is cut.
//!
//! The disk is a file system of FUSE that this process serves. It keeps beside what files hold what
//! of it was synced, and at a power cut drops the rest or any part of it: pages, sizes, entries of
//! directories. It fails calls of choice, runs out of room, and dies at a call of choice. The
//! clients are outside and keep the record of what was acknowledged to them.
//!
//! ```text
//! ./tests/power/run --seed N --cuts 500
//! ```

mod bulk;
mod faults;
mod image;
mod mount;

use std::fs::{self, File};
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use fuser::Errno;
use tempfile::TempDir;

use bulk::Bulk;
use faults::Call;
use image::Survives;
use mount::Disk;

use crate::sim::random::Random;
use crate::support::{Http, Ledger, Node, Start, Valve, Way, Writers, assert_says, number, until};

/// Threads that write rows.
const WRITERS: usize = 4;

/// Power cuts in the suite, and before a disk is replaced by an empty one.
const CUTS: u64 = 10;
const CUTS_OF_A_DISK: u64 = 25;

/// What paths of segments of the log in use hold; one that is being prepared may fail, too, and is
/// prepared again.
const SEGMENTS: &str = "/wal/0000";

/// Room that a disk may have left before it is full.
const ROOM: u64 = 3 << 20;

/// How long a client waits that asks for what may never come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names the seed in which something failed.
struct Seed {
    seed: u64,
    cuts: u64,
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, cuts } = self;
            println!("seed {seed} again: ./tests/power/run --seed {seed} --cuts {cuts}");
        }
    }
}

/// A node that turns over segments and tables fast.
fn start(dir: &TempDir) -> Start {
    let start = Start::new(dir.path(), "a").arg("--segment-size", "1MiB");
    start
        .arg("--memtable-size", "1MiB")
        .arg("--wal-keep-size", "2MiB")
}

fn choose(random: &mut Random) -> Survives {
    match random.below(6) {
        0 | 1 => Survives::Nothing,
        2 => Survives::Everything,
        _ => Survives::Something,
    }
}

/// Cuts the power under a node that was killed; says how.
fn cut(disk: &mut Disk, random: &mut Random) -> String {
    let (pages, entries) = (choose(random), choose(random));
    disk.cut(pages, entries, random);
    format!("of pages survives {pages:?}, of entries {entries:?}")
}

/// Writes until the power goes: at once when enough was acknowledged, or at some call to the disk.
fn write_until_cut(
    mut node: Node,
    disk: &mut Disk,
    ledger: &Arc<Ledger>,
    bulk: &Bulk,
    random: &mut Random,
) -> String {
    let writers = Writers::start(WRITERS, &node.http, ledger);
    let writing = bulk.start(&node.http);
    let when = match random.one_in(2) {
        true => {
            let rows = random.below(200);
            writers.until_acknowledged(rows);
            format!("after {rows} rows")
        }
        false => {
            let calls = random.below(600);
            disk.image().faults.die_after(calls);
            until("the disk dies", || disk.image().faults.is_dead());
            format!("at call {calls}")
        }
    };
    node.kill();
    writers.join();
    writing.join().expect("who writes much does not panic");
    format!("{when}, {}", cut(disk, random))
}

/// Starts the node and cuts the power at some call of its recovery.
fn start_and_cut(start: &Start, disk: &mut Disk, random: &mut Random) -> String {
    let calls = random.below(60);
    disk.image().faults.die_after(calls);
    let mut node = start.begin();
    until("the disk dies, or the node is ready, or ends", || {
        let ready = node.said().contains("is ready");
        ready || disk.image().faults.is_dead() || node.has_ended()
    });
    let died = disk.image().faults.is_dead() || !node.has_ended();
    assert!(died, "it does not start: {}", node.said());
    drop(node);
    format!("; at call {calls} of the start, {}", cut(disk, random))
}

/// Runs one disk through so many power cuts; returns how many rows were acknowledged. `None` where
/// the machine has no FUSE.
fn run(seed: u64, cuts: u64) -> Option<u64> {
    let _named = Seed { seed, cuts };
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::mount(&dir.path().join("a"))?;
    let mut random = Random::new(seed);
    let (ledger, bulk) = (Arc::new(Ledger::default()), Bulk::default());
    let mut done = 0;
    while done < cuts {
        let node = start(&dir).start();
        ledger.check(&node.http);
        bulk.check(&node.http);
        let mut story = write_until_cut(node, &mut disk, &ledger, &bulk, &mut random);
        done += 1;
        while done < cuts && random.one_in(3) {
            story += &start_and_cut(&start(&dir), &mut disk, &mut random);
            done += 1;
        }
        println!("seed {seed}, cut {done}: {story}");
    }
    let node = start(&dir).start();
    ledger.check(&node.http);
    bulk.check(&node.http);
    Some(ledger.count() + bulk.count())
}

/// Runs disks, the first of this seed, until there were so many power cuts.
fn run_all(first: u64, cuts: u64) {
    let (mut left, mut acknowledged) = (cuts, 0);
    for seed in first.. {
        let some = left.min(CUTS_OF_A_DISK);
        let Some(more) = run(seed, some) else {
            return;
        };
        acknowledged += more;
        left -= some;
        if left == 0 {
            break;
        }
    }
    println!("{cuts} power cuts, {acknowledged} acknowledged, 0 lost");
    assert!(
        acknowledged > 20 * cuts,
        "{acknowledged} acknowledged test little"
    );
}

#[test]
fn a_node_whose_power_is_cut_keeps_every_acknowledged_write() {
    run_all(number("MAINSTAY_POWER_SEED", 1), CUTS);
}

/// What `tests/power/run` runs.
#[test]
#[ignore = "as long as it is told to; see tests/power/run"]
fn long_run() {
    run_all(
        number("MAINSTAY_POWER_SEED", 1),
        number("MAINSTAY_POWER_CUTS", CUTS),
    );
}

#[test]
fn the_disk_loses_what_a_program_does_not_sync() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().join("disk");
    let Some(mut disk) = Disk::mount(&at) else {
        return;
    };
    let write = |name: &str, text: &[u8]| {
        let mut file = File::create(at.join(name)).unwrap();
        file.write_all(text).unwrap();
        file
    };
    write("named", b"").sync_all().unwrap();
    write("kept", b"kept").sync_all().unwrap();
    File::open(&at).unwrap().sync_all().unwrap();
    write("named", b"not synced");
    write("nameless", b"synced").sync_all().unwrap();
    fs::rename(at.join("kept"), at.join("renamed")).unwrap();
    assert_eq!(fs::read(at.join("named")).unwrap(), b"not synced");
    disk.cut(Survives::Nothing, Survives::Nothing, &mut Random::new(1));
    assert_eq!(fs::read(at.join("named")).unwrap(), b"");
    assert_eq!(fs::read(at.join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(&at).unwrap().count(), 2);
}

#[test]
fn a_node_on_a_disk_that_lies_about_syncs_is_seen_to_lose_rows() {
    let dir = TempDir::new().unwrap();
    let Some(mut disk) = Disk::mount(&dir.path().join("a")) else {
        return;
    };
    let ledger = Arc::new(Ledger::default());
    let mut node = start(&dir).start();
    node.terminate();
    disk.image().faults.lies = true;
    let mut node = start(&dir).start();
    let writers = Writers::start(WRITERS, &node.http, &ledger);
    writers.until_acknowledged(50);
    node.kill();
    writers.join();
    disk.cut(Survives::Nothing, Survives::Nothing, &mut Random::new(1));
    let node = start(&dir).start();
    let rows = node.http.try_rows("rows", "committed");
    let rows = rows.map_or(0, |rows| rows.len() as u64);
    assert!(rows < ledger.count(), "{rows} rows are there");
}

/// Writes rows at one node until one is not acknowledged; returns that answer's status and text.
fn write_until_refused(http: &Http, rows: &mut Vec<String>, bytes: usize) -> (u16, String) {
    let mut refused = None;
    until("a write is refused", || {
        let key = format!("k{}", rows.len());
        let answer = http.send(
            "PUT",
            &format!("/v1/tables/t/keys/{key}"),
            &vec![b'v'; bytes],
        );
        let answer = answer.expect("the node answers");
        if answer.status == 200 {
            rows.push(key);
        } else {
            refused = Some((answer.status, answer.text()));
        }
        refused.is_some()
    });
    refused.expect("it was refused")
}

/// Checks that these rows are there, and `k` of the next number only if it may be.
fn assert_holds(http: &Http, rows: &[String], next_may: bool) {
    let there = http.rows("t");
    let lost = rows.iter().filter(|row| !there.contains_key(*row));
    assert_eq!(lost.count(), 0, "LOST some of {} rows", rows.len());
    let more = there.len() - rows.len();
    assert!(more == 0 || (next_may && more == 1), "{more} more rows");
}

#[test]
fn a_node_whose_log_cannot_be_synced_acknowledges_nothing_more_and_says_why() {
    acknowledges_nothing_more(Call::Sync, "sync");
}

#[test]
fn a_node_whose_log_cannot_be_written_acknowledges_nothing_more_and_says_why() {
    acknowledges_nothing_more(Call::Write, "write");
}

/// The first `call` for a file of the log fails, and what is said of it has `word`.
fn acknowledges_nothing_more(call: Call, word: &str) {
    let dir = TempDir::new().unwrap();
    let Some(mut disk) = Disk::mount(&dir.path().join("a")) else {
        return;
    };
    let mut node = start(&dir).start();
    let http = Http::with_patience(&node.http_address, PATIENCE);
    let mut rows = vec!["k0".to_owned()];
    http.put("t", "k0", b"v").ok();
    disk.image().faults.fail(call, SEGMENTS, Errno::EIO);
    let (status, text) = write_until_refused(&http, &mut rows, 10);
    assert!([503, 504].contains(&status), "{status} {text}");
    for _ in 0..3 {
        let answer = http.put("t", "later", b"v");
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_says(&answer.text(), &["log", word]);
    }
    assert_eq!(disk.image().faults.failed(), 1, "it was tried again");
    let status = http.status();
    assert_says(&status["problem"].to_string(), &["/wal/", word, "Restart"]);
    assert_eq!(status["status"], "broken");
    assert_says(&node.said(), &["Input/output error"]);
    node.kill();
    disk.cut(Survives::Nothing, Survives::Nothing, &mut Random::new(1));
    let node = start(&dir).start();
    assert_holds(&node.http, &rows, true);
    node.http.put("t", "again", b"v").ok();
}

#[test]
fn a_standby_whose_log_cannot_be_synced_is_not_chosen_to_take_over() {
    let dir = TempDir::new().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("b")) else {
        return;
    };
    let start = |name: &str| Start::new(dir.path(), name).arg("--sync", "ANY 2 (b, c, d)");
    let mut a = start("a").start();
    let b = start("b").follow(&a).start();
    let line = Valve::to(&a.replication);
    let [c, d] = ["c", "d"].map(|name| start(name).arg("--follow", line.url()).start());
    a.http.until_streaming(3);
    let end = a.http.put("t", "k", b"v").ok().lsn();
    for standby in [&b, &c, &d] {
        until("it has it", || standby.http.position("flushed") >= end);
    }
    // Of all that could take over b is the first by the policy, and nobody has more.
    line.hold(Way::FromNode);
    disk.image().faults.fail(Call::Sync, SEGMENTS, Errno::EIO);
    let writer = Http::with_patience(&a.http_address, PATIENCE);
    let written = writer.send("PUT", "/v1/tables/t/keys/more", b"v");
    assert!(written.is_err(), "{written:?}");
    until("b says so", || b.http.status()["status"] == "broken");
    a.kill();
    line.cut();
    let mut answer = None;
    until("the primary counts as gone", || {
        let asked = b.http.send("POST", "/v1/failover", b"{}").unwrap();
        let heard = asked.text().contains("heard from a primary");
        answer = Some(asked);
        !heard
    });
    let answer = answer.expect("it answered").ok().json();
    assert_eq!(answer["new_primary_name"], "c", "{answer}");
    for standby in [&c, &d] {
        standby.http.wait_for(end);
        assert_eq!(standby.http.get("t", "k").status, 200, "LOST");
    }
}

#[test]
fn a_node_whose_tables_cannot_be_synced_stops_writing_them_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let Some(mut disk) = Disk::mount(&dir.path().join("a")) else {
        return;
    };
    let mut node = start(&dir).start();
    let mut rows = vec!["k0".to_owned()];
    node.http.put("t", "k0", b"v").ok();
    disk.image().faults.fail(Call::Sync, "/tables/", Errno::EIO);
    let (status, text) = write_until_refused(&node.http, &mut rows, 50_000);
    // One during which it happens is in the log already; the next ones are not.
    assert!([503, 504].contains(&status), "{status} {text}");
    let later = node.http.put("t", "later", b"v");
    assert_eq!(later.status, 503, "{}", later.text());
    for text in [later.text(), node.http.status()["problem"].to_string()] {
        assert_says(&text, &["store", "Input/output error", "Restart"]);
    }
    assert_eq!(node.http.status()["status"], "broken");
    node.kill();
    disk.cut(Survives::Nothing, Survives::Nothing, &mut Random::new(1));
    let node = start(&dir).start();
    assert_holds(&node.http, &rows, status == 504);
    node.http.put("t", "again", b"v").ok();
}

#[test]
fn a_node_whose_disk_is_full_refuses_writes_and_goes_on_when_there_is_room_again() {
    let dir = TempDir::new().unwrap();
    let Some(mut disk) = Disk::mount(&dir.path().join("a")) else {
        return;
    };
    let mut node = start(&dir).start();
    let mut rows = Vec::new();
    node.http.put("t", "k", b"v").ok();
    let used = disk.image().used();
    disk.image().faults.space = Some(used + ROOM);
    let (status, text) = write_until_refused(&node.http, &mut rows, 50_000);
    assert_eq!(status, 507, "{text}");
    assert!(rows.len() > 10, "{} rows fitted", rows.len());
    let refused = rows.len();
    assert_eq!(node.http.get("t", &rows[refused - 1]).status, 200);
    disk.image().faults.space = None;
    until("there is room again", || {
        let answer = node.http.put("t", "room", b"v");
        assert!([200, 507].contains(&answer.status), "{}", answer.text());
        answer.status == 200
    });
    rows.extend(["k".to_owned(), "room".to_owned()]);
    assert_holds(&node.http, &rows, false);
    node.kill();
    disk.cut(Survives::Nothing, Survives::Nothing, &mut Random::new(1));
    let node = start(&dir).start();
    assert_holds(&node.http, &rows, false);
}
