//! PostgreSQL's own tools against a node: `pg_receivewal`, `pg_isready`, `psql`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Background, Done, Node, Start, find_tool, lsn, run, scrub, until};

/// Size of a segment here, so that an archive has several.
const SEGMENT: usize = 1 << 20;

/// A node in small segments that removes none of them.
fn start(dir: &TempDir, name: &str) -> Start {
    Start::new(dir.path(), name)
        .arg("--segment-size", "1MiB")
        .arg("--wal-keep-size", "1GiB")
}

/// A tool's command; `None` when the tool is missing and may be.
fn tool(name: &str) -> Option<Command> {
    let mut command = Command::new(find_tool(name)?);
    scrub(&mut command);
    command.env("PGCONNECT_TIMEOUT", "10").env("LC_ALL", "C");
    Some(command)
}

/// Connection parameters that name these nodes in this order.
fn hosts(nodes: &[&Node], more: &str) -> String {
    let hosts = nodes
        .iter()
        .map(|_| "127.0.0.1")
        .collect::<Vec<_>>()
        .join(",");
    let ports = nodes
        .iter()
        .map(|node| node.port())
        .collect::<Vec<_>>()
        .join(",");
    format!("host={hosts} port={ports} user=mainstay {more}")
}

/// What psql prints for one command on a replication connection.
fn psql(nodes: &[&Node], more: &str, command: &str) -> Option<Done> {
    let mut psql = tool("psql")?;
    psql.args([
        "-X",
        "-A",
        "-t",
        "-w",
        "-d",
        &hosts(nodes, more),
        "-c",
        command,
    ]);
    Some(run(&mut psql))
}

/// Writes `count` rows that fill several segments; returns the end of the last.
fn write(node: &Node, prefix: &str, count: usize) -> u64 {
    let value = |row: usize| vec![b'a' + (row % 26) as u8; 90_000 + 777 * row];
    let written = (0..count).map(|row| node.http.put("t", &format!("{prefix}{row}"), &value(row)));
    written
        .map(|answer| answer.ok().lsn())
        .max()
        .expect("there are rows")
}

/// The segments that pg_receivewal wrote, by name without `.partial`.
fn archive(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let name = name.trim_end_matches(".partial").to_owned();
        // One that is renamed meanwhile is there under its other name next time.
        if let Ok(bytes) = std::fs::read(&path) {
            files.insert(name, bytes);
        }
    }
    files
}

/// Whether the archive holds the log of `timeline` up to `end`.
fn holds(dir: &Path, timeline: u32, end: u64) -> bool {
    let last = end - 1;
    let name = format!(
        "{timeline:08X}{:08X}{:08X}",
        last >> 32,
        (last & 0xFFFF_FFFF) >> 20
    );
    let offset = usize::try_from(last & 0xF_FFFF).unwrap();
    // A record is padded with less than eight zeros, and none is shorter than two times eight.
    let tail = |bytes: &[u8]| {
        let tail = bytes.get(offset.saturating_sub(15)..=offset)?;
        Some(tail.iter().any(|byte| *byte != 0))
    };
    archive(dir)
        .get(&name)
        .is_some_and(|bytes| tail(bytes).unwrap_or(false))
}

/// Compares the archive's segments of `timeline` with the node's, up to `end`; returns how many.
#[track_caller]
fn assert_same_segments(dir: &Path, node: &Node, timeline: u32, end: u64) -> usize {
    let mut compared = 0;
    for (name, archived) in archive(dir) {
        if name.len() != 24 || !name.starts_with(&format!("{timeline:08X}")) {
            continue;
        }
        assert_eq!(archived.len(), SEGMENT, "{name}");
        let own = std::fs::read(node.data().join("wal").join(&name)).unwrap();
        let high = u64::from_str_radix(&name[8..16], 16).unwrap() << 32;
        let begin = high + (u64::from_str_radix(&name[16..], 16).unwrap() << 20);
        let upto = usize::try_from(end.saturating_sub(begin))
            .unwrap()
            .min(SEGMENT);
        assert!(
            own[..upto] == archived[..upto],
            "{name} differs within its first {upto} bytes"
        );
        // Where slots are is logged as they move, so there may be more of the same log.
        let rest = archived[upto..].iter().zip(&own[upto..]);
        let same = rest.filter(|(byte, _)| **byte != 0).all(|(a, b)| a == b);
        assert!(same, "{name} has other bytes from {upto} on");
        compared += 1;
    }
    compared
}

fn receivewal(nodes: &[&Node], into: &Path, more: &[&str]) -> Option<Background> {
    std::fs::create_dir_all(into).unwrap();
    let mut command = tool("pg_receivewal")?;
    let attributes = if nodes.len() > 1 {
        "target_session_attrs=primary"
    } else {
        ""
    };
    command
        .args(["-v", "-w", "-d", &hosts(nodes, attributes), "-D"])
        .arg(into)
        .args(more);
    Some(Background::start(&mut command, &into.with_extension("log")))
}

fn until_streaming(receiver: &Background) {
    until("the stream begins", || {
        receiver.said().contains("starting log streaming")
    });
}

#[test]
fn pg_receivewal_writes_files_identical_to_the_segments() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    write(&node, "before-", 10);
    let into = dir.path().join("archive");
    let Some(mut receiver) = receivewal(&[&node], &into, &["--no-loop"]) else {
        return;
    };
    until_streaming(&receiver);
    write(&node, "during-", 40);
    let end = node.http.position("commit");
    until("everything is received", || holds(&into, 1, end));
    assert_eq!(receiver.interrupt(), Some(0), "{}", receiver.said());
    let segments = assert_same_segments(&into, &node, 1, end);
    assert!(segments >= 4, "{segments} segments");
}

fn slot_names(node: &Node, field: &str) -> Vec<String> {
    let slots = node.http.slots();
    let slots = slots.as_array().expect("a list").iter();
    let named = slots.filter(|slot| slot[field] == true);
    named
        .map(|slot| slot["name"].as_str().expect("a text").to_owned())
        .collect()
}

#[test]
fn a_slot_survives_a_failover_without_a_gap() {
    let dir = TempDir::new().unwrap();
    // Nothing but slots keeps the log.
    let lean = |name: &str| start(&dir, name).arg("--wal-keep-size", "0");
    let mut a = lean("a").start();
    let Some(mut create) = tool("pg_receivewal") else {
        return;
    };
    create.args(["-w", "-d", &hosts(&[&a], "")]);
    run(create.args(["--create-slot", "-S", "archive"])).ok();
    let b = lean("b").follow(&a).arg("--slot", "b").start();
    let into = dir.path().join("archive");
    let slot = ["--no-loop", "-S", "archive", "--synchronous"];
    let mut receiver = receivewal(&[&a], &into, &slot).expect("it was there before");
    until_streaming(&receiver);
    let first = write(&a, "first-", 10);
    until("it is received", || holds(&into, 1, first));
    assert_eq!(receiver.interrupt(), Some(0), "{}", receiver.said());
    assert_eq!(slot_names(&a, "active"), ["b"]);
    let end = write(&a, "away-", 40);
    b.http.wait_for(end);
    until("b carries the slot", || {
        slot_names(&b, "carried").contains(&"archive".to_owned())
    });
    a.terminate();
    b.http.promote();
    write(&b, "later-", 180);
    let slots = b.http.slots();
    assert_eq!(slots.as_array().map(Vec::len), Some(1), "{slots}");
    assert_eq!(
        (&slots[0]["name"], &slots[0]["carried"]),
        (&"archive".into(), &false.into())
    );
    assert_eq!(slots[0]["wal_status"], "extended", "{slots}");
    let mut receiver = receivewal(&[&b], &into, &slot).expect("it was there before");
    let end = write(&b, "again-", 15);
    until("everything is received", || holds(&into, 2, end));
    assert_eq!(receiver.interrupt(), Some(0), "{}", receiver.said());
    assert!(assert_same_segments(&into, &b, 2, end) > 3);
}

#[test]
fn a_stream_beyond_what_is_configured_is_refused() {
    let dir = TempDir::new().unwrap();
    let a = start(&dir, "a").arg("--max-wal-senders", "1");
    let a = a.arg("--max-replication-slots", "1").start();
    let first = receivewal(&[&a], &dir.path().join("first"), &["--no-loop"]);
    let Some(first) = first else { return };
    until_streaming(&first);
    let second = receivewal(&[&a], &dir.path().join("second"), &["--no-loop"]);
    let second = second.expect("it was there before");
    until("it is refused", || {
        let text = "number of requested standby connections exceeds max_wal_senders (currently 1)";
        second.said().contains(text)
    });
    let create = |name: &str| {
        let command = format!("CREATE_REPLICATION_SLOT {name} PHYSICAL");
        psql(&[&a], "replication=true", &command)
    };
    let Some(made) = create("one") else { return };
    made.ok();
    let refused = create("two").expect("it was there before");
    assert!(
        refused.err.contains("all replication slots are in use"),
        "{refused:?}"
    );
    assert!(refused.err.contains("(currently 1)"), "{refused:?}");
    let refused = create("\"Bad\"").expect("it was there before");
    let text = "replication slot name \"Bad\" contains invalid character";
    assert!(refused.err.contains(text), "{refused:?}");
}

#[test]
fn pg_receivewal_with_a_slot_receives_what_was_written_while_it_was_away() {
    let dir = TempDir::new().unwrap();
    // Nothing but the slot keeps the log here.
    let node = start(&dir, "a").arg("--wal-keep-size", "0").start();
    let into = dir.path().join("archive");
    let Some(mut create) = tool("pg_receivewal") else {
        return;
    };
    create.args([
        "-w",
        "-d",
        &hosts(&[&node], ""),
        "--create-slot",
        "-S",
        "archive",
    ]);
    run(&mut create).ok();
    assert_ne!(run(&mut create).code, Some(0), "the slot exists already");
    run(create.arg("--if-not-exists")).ok();
    let slot = ["--no-loop", "-S", "archive", "--synchronous"];
    let Some(mut receiver) = receivewal(&[&node], &into, &slot) else {
        return;
    };
    until_streaming(&receiver);
    let first = write(&node, "first-", 15);
    let reached = |goal: u64| {
        let answer = psql(
            &[&node],
            "replication=true",
            "READ_REPLICATION_SLOT archive",
        )?
        .ok();
        let position = answer.out.trim().split('|').nth(1)?.to_owned();
        // It is noted once a segment, for it holds back whole ones.
        Some(!position.is_empty() && lsn(&position) >> 20 >= goal >> 20)
    };
    until("the slot moves on", || reached(first).unwrap_or(true));
    assert_eq!(receiver.interrupt(), Some(0), "{}", receiver.said());
    write(&node, "away-", 40);
    let mut receiver = receivewal(&[&node], &into, &slot).expect("it was there before");
    write(&node, "again-", 15);
    let end = node.http.position("commit");
    until("everything is received", || holds(&into, 1, end));
    assert_eq!(receiver.interrupt(), Some(0), "{}", receiver.said());
    let names = archive(&into).into_keys().collect::<Vec<_>>();
    assert_eq!(
        names.first().map(String::as_str),
        Some("000000010000000000000001")
    );
    assert_eq!(
        assert_same_segments(&into, &node, 1, end),
        usize::try_from((end - 1) >> 20).unwrap(),
        "{names:?}"
    );
    let mut drop = tool("pg_receivewal").expect("it was there before");
    drop.args([
        "-w",
        "-d",
        &hosts(&[&node], ""),
        "--drop-slot",
        "-S",
        "archive",
    ]);
    run(&mut drop).ok();
}

#[test]
fn pg_receivewal_goes_on_over_a_restart_and_a_promotion() {
    let dir = TempDir::new().unwrap();
    let mut a = start(&dir, "a").start();
    let b = start(&dir, "b").follow(&a).start();
    let into = dir.path().join("archive");
    let Some(mut receiver) = receivewal(&[&a, &b], &into, &[]) else {
        return;
    };
    until_streaming(&receiver);
    let first = write(&a, "first-", 15);
    until("the first rows are received", || holds(&into, 1, first));
    a.kill_and_restart();
    let second = write(&a, "second-", 15);
    until("it goes on after the restart", || holds(&into, 1, second));
    b.http.wait_for(second);
    until("the standby has all of the log", || {
        b.http.position("flushed") >= a.http.position("flushed")
    });
    let switch = a.http.position("commit");
    a.kill();
    let promoted = b.http.promote();
    assert_eq!(promoted["timeline"], 2);
    let end = write(&b, "third-", 15);
    until("it goes on on the new timeline", || holds(&into, 2, end));
    assert_eq!(receiver.interrupt(), Some(0), "{}", receiver.said());
    assert!(assert_same_segments(&into, &a, 1, switch) >= 3);
    let end = b.http.position("commit");
    assert!(assert_same_segments(&into, &b, 2, end) >= 2);
    let files = archive(&into);
    let begin = format!("0000000200000000{:08X}", switch >> 20);
    assert!(files.contains_key(&begin), "{:?}", files.keys());
    let history = String::from_utf8_lossy(&files["00000002.history"]);
    assert!(history.starts_with("1\t"), "{history}");
    let own = std::fs::read(b.data().join("wal").join("00000002.history")).unwrap();
    assert_eq!(history, String::from_utf8_lossy(&own));
}

#[test]
fn pg_isready_and_psql_get_the_answers_of_a_server() {
    let dir = TempDir::new().unwrap();
    let mut node = start(&dir, "a").start();
    let Some(mut isready) = tool("pg_isready") else {
        return;
    };
    isready.args(["-h", "127.0.0.1", "-p", node.port(), "-t", "10"]);
    assert!(run(&mut isready).ok().out.contains("accepting connections"));
    let end = write(&node, "row-", 3);
    let Some(identity) = psql(&[&node], "replication=true", "IDENTIFY_SYSTEM") else {
        return;
    };
    let identity = identity.ok().out;
    let fields = identity.trim().split('|').collect::<Vec<_>>();
    let status = node.http.status();
    assert_eq!(fields[0], status["system_id"].as_str().unwrap());
    assert_eq!((fields[1], fields[3]), ("1", ""), "{identity}");
    assert!(lsn(fields[2]) >= end, "{identity}");
    let show = |name: &str| psql(&[&node], "replication=true", name).unwrap().ok().out;
    assert_eq!(show("SHOW wal_segment_size").trim(), "1MB");
    assert_eq!(show("SHOW data_directory_mode").trim(), "0700");
    assert!(show("SHOW server_version").starts_with("15."));
    let unknown = psql(&[&node], "replication=true", "SHOW no_such_thing").unwrap();
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.err.contains("unrecognized configuration parameter"),
        "{}",
        unknown.err
    );
    let sql = psql(&[&node], "dbname=x", "SELECT * FROM t").unwrap();
    assert!(sql.err.contains("not a PostgreSQL server"), "{}", sql.err);
    node.kill();
    assert_eq!(run(&mut isready).code, Some(2));
}

#[test]
fn libpq_finds_the_primary_and_the_standby_of_a_pair() {
    let dir = TempDir::new().unwrap();
    let mut a = start(&dir, "a").start();
    let b = start(&dir, "b").follow(&a).start();
    let connected = |nodes: [&Node; 2], attributes: &str, mode: &str| {
        let more = format!("target_session_attrs={attributes} {mode}");
        Some(
            psql(&nodes, &more, r"\echo :PORT")?
                .ok()
                .out
                .trim()
                .to_owned(),
        )
    };
    let cases = [
        ("primary", &a),
        ("read-write", &a),
        ("standby", &b),
        ("read-only", &b),
        ("prefer-standby", &b),
    ];
    for (attributes, expected) in cases {
        for mode in ["replication=true", "dbname=mainstay"] {
            for nodes in [[&a, &b], [&b, &a]] {
                let Some(port) = connected(nodes, attributes, mode) else {
                    return;
                };
                assert_eq!(port, expected.port(), "{attributes} {mode}");
            }
        }
    }
    let (port_of_a, port_of_b) = (a.port().to_owned(), b.port().to_owned());
    a.kill();
    let more = "target_session_attrs=prefer-standby";
    assert_eq!(
        psql(&[&a, &b], more, r"\echo :PORT")
            .unwrap()
            .ok()
            .out
            .trim(),
        port_of_b
    );
    assert_ne!(
        psql(&[&a, &b], "target_session_attrs=primary", "")
            .unwrap()
            .code,
        Some(0)
    );
    b.http.promote();
    let more = "target_session_attrs=primary";
    assert_eq!(
        psql(&[&a, &b], more, r"\echo :PORT")
            .unwrap()
            .ok()
            .out
            .trim(),
        port_of_b
    );
    assert_ne!(port_of_a, port_of_b);
}
