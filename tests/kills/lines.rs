//! The lines between nodes do what a round tells them to.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::support::{DEADLINE, End, Mesh, Way, until};

/// More than a line holds by itself.
const MUCH: usize = 100_000;

/// A connection from node `a` to node `b`, and what `b` has of it.
fn dial(mesh: &Mesh) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    mesh.lead_to(1, &listener.local_addr().unwrap().to_string());
    let mut a = TcpStream::connect(mesh.address(1)).unwrap();
    a.write_all(&first_message()).unwrap();
    let (mut b, _) = listener.accept().unwrap();
    for side in [&a, &b] {
        side.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    let mut first = vec![0; first_message().len()];
    b.read_exact(&mut first).unwrap();
    assert_eq!(first, first_message());
    (a, b)
}

fn first_message() -> Vec<u8> {
    let said = b"\0\x03\0\0user\0x\0application_name\0a\0\0";
    let mut message = (4 + said.len() as u32).to_be_bytes().to_vec();
    message.extend(said);
    message
}

fn send_much(mut a: &TcpStream) {
    // The line may break in the middle of it.
    let _ = a.write_all(&[b'v'; MUCH]);
}

/// What arrives until the line breaks, and how it does.
fn read_all(mut b: TcpStream) -> (usize, Option<ErrorKind>) {
    let (mut all, mut bytes) = (0, [0; 1000]);
    loop {
        match b.read(&mut bytes) {
            Ok(0) => return (all, None),
            Ok(read) => all += read,
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

#[test]
fn a_line_breaks_at_the_byte_that_was_named_with_an_end_or_a_reset() {
    for (end, seen) in [
        (End::Close, None),
        (End::Reset, Some(ErrorKind::ConnectionReset)),
    ] {
        let mesh = Mesh::between(&["a", "b"]);
        let (a, b) = dial(&mesh);
        mesh.line(0, 1).break_after(Way::ToNode, 12_345, end);
        let sending = thread::spawn(move || send_much(&a));
        let (bytes, how) = read_all(b);
        sending.join().unwrap();
        assert_eq!(how, seen, "{end:?}");
        // A reset may overtake what was sent before it.
        assert!(
            bytes == 12_345 || (end == End::Reset && bytes < 12_345),
            "{bytes}"
        );
        // Who dials again gets through.
        let (a, b) = dial(&mesh);
        let sending = thread::spawn(move || send_much(&a));
        assert_eq!(read_all(b), (MUCH, None));
        sending.join().unwrap();
    }
}

#[test]
fn a_line_that_is_held_or_trickles_loses_nothing_and_stops_nobody_else() {
    let mesh = Mesh::between(&["a", "b"]);
    let (a, b) = dial(&mesh);
    mesh.line(1, 0).hold(Way::ToNode);
    mesh.line(0, 1).hold(Way::ToNode);
    let sending = thread::spawn(move || send_much(&a));
    let mut back = &b;
    back.set_nonblocking(true).unwrap();
    let nothing = back.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    mesh.line(0, 1).trickle(Way::ToNode, 700);
    mesh.line(0, 1).hold_after(Way::ToNode, 5000);
    let mut there = vec![0; MUCH];
    let mut bytes = 0;
    until("what may pass has passed", || {
        bytes += back.read(&mut there).unwrap_or(0);
        bytes == 5000
    });
    mesh.line(0, 1).release(Way::ToNode);
    b.set_nonblocking(false).unwrap();
    assert_eq!(read_all(b), (MUCH - 5000, None));
    sending.join().unwrap();
}
