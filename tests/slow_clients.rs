//! Clients that ask for much and take nothing in: what they cost a standby is bounded, and they
//! hold up neither receiving nor applying.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use tempfile::TempDir;

use crate::support::{DEADLINE, Start};

const TABLE: &str = "t";

/// Clients that take nothing in.
const CLIENTS: usize = 8;

/// Rows of a page, and bytes of each: as much as one answer holds.
const PAGE_ROWS: usize = 80;
const ROW: usize = 100_000;

/// How often all rows are written anew meanwhile.
const ROUNDS: usize = 6;

const MIB: u64 = 1 << 20;

/// A standby's memory here: five memtables of 1 MiB, written-out ones of 2 MiB, 64 MiB of cache,
/// 32 MiB of log on its way to disk and 32 MiB kept of it, and a page of 8 MiB for each client, as
/// text and while it is put together. A build for debugging has some 30 MiB of its own.
const MEMORY_MAX: u64 = (5 + 2 + 64 + 32 + 32 + 30) * MIB + CLIENTS as u64 * 3 * 8 * MIB;

#[test]
fn clients_that_take_nothing_in_hold_up_no_standby_and_get_their_answer_in_the_end() {
    let dir = TempDir::new().unwrap();
    let sizes = |name: &str| {
        let start = Start::new(dir.path(), name).arg("--memtable-size", "1MiB");
        start.arg("--snapshot-memory", "2MiB")
    };
    let a = sizes("a").start();
    let b = sizes("b").follow(&a).start();
    let write = |round: usize| {
        let value = vec![b'0' + u8::try_from(round).unwrap(); ROW];
        let rows = (0..PAGE_ROWS).map(|row| a.http.put(TABLE, &format!("k{row:03}"), &value));
        rows.map(|answer| answer.ok().lsn()).max().unwrap()
    };
    b.http.wait_for(write(0));
    let clients = [(); CLIENTS].map(|()| {
        let mut client = TcpStream::connect(&b.http_address).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let path = format!("/v1/tables/{TABLE}/keys?limit=10000");
        let request = format!("GET {path} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        // Its answer was put together, as far as a line holds it.
        client.peek(&mut [0]).unwrap();
        client
    });
    for round in 1..=ROUNDS {
        // Were applying held up, this would not come.
        b.http.wait_for(write(round));
    }
    assert_eq!(b.http.rows(TABLE), a.http.rows(TABLE));
    let peak = b.peak_memory();
    println!("the standby had {} MiB at most", peak / MIB);
    assert!(
        peak <= MEMORY_MAX,
        "{} MiB, over {}",
        peak / MIB,
        MEMORY_MAX / MIB
    );
    for mut client in clients {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{}", &answer[..200]);
        // One state of the data, that of its time.
        let rows = answer.matches(&"0".repeat(ROW)).count();
        assert_eq!(rows, PAGE_ROWS);
    }
}
