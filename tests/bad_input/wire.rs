//! What strangers may send to the replication port.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use tempfile::TempDir;

use super::{assert_filled, fill, start};
use crate::support::{DEADLINE, Node, assert_says, until};

/// Longest message that is read here.
const MESSAGE_MAX: usize = 1 << 20;

/// A connection that speaks the protocol by hand.
struct Raw {
    stream: TcpStream,
}

impl Raw {
    fn connect(node: &Node) -> Self {
        let stream = TcpStream::connect(&node.replication).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream }
    }

    /// A connection that was let in, ready for commands.
    fn replication(node: &Node) -> Self {
        let mut this = Self::connect(node);
        let parameters = b"user\0mainstay\0replication\0true\0\0";
        let length = u32::try_from(8 + parameters.len()).unwrap();
        let packet = [&length.to_be_bytes()[..], &[0, 3, 0, 0], parameters].concat();
        this.send(&packet);
        let answer = this.until_ready();
        assert!(answer.iter().all(|(tag, _)| *tag != b'E'), "{answer:?}");
        this
    }

    fn send(&mut self, bytes: &[u8]) {
        // A server that has heard enough may have closed the connection.
        let _ = self.stream.write_all(bytes);
    }

    fn query(&mut self, text: &str) -> Vec<(u8, Vec<u8>)> {
        let length = u32::try_from(text.len() + 5).unwrap();
        self.send(&[b"Q", &length.to_be_bytes()[..], text.as_bytes(), b"\0"].concat());
        self.until_ready()
    }

    /// Everything up to the server's close of the connection.
    fn read_all(mut self) -> String {
        // It may be closed already.
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut bytes = Vec::new();
        // A reset ends it as well.
        let _ = self.stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The messages up to ReadyForQuery, or up to the end.
    fn until_ready(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut messages = Vec::new();
        loop {
            let mut head = [0; 5];
            if self.stream.read_exact(&mut head).is_err() {
                return messages;
            }
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            assert!((4..MESSAGE_MAX).contains(&length), "{head:?}");
            let mut body = vec![0; length - 4];
            self.stream.read_exact(&mut body).unwrap();
            messages.push((head[0], body));
            if head[0] == b'Z' {
                return messages;
            }
        }
    }
}

/// The text of the error among the messages.
#[track_caller]
fn error(messages: &[(u8, Vec<u8>)]) -> String {
    let error = messages.iter().find(|(tag, _)| *tag == b'E');
    let (_, body) = error.unwrap_or_else(|| panic!("no error in {messages:?}"));
    String::from_utf8_lossy(body).replace('\0', " ")
}

#[test]
fn garbage_at_the_port_costs_the_connection_only() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    fill(&node);
    let code = |code: u32| [&8_u32.to_be_bytes()[..], &code.to_be_bytes()].concat();
    let noise = (0..9000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let packets: [Vec<u8>; 10] = [
        Vec::new(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xFF; 64],
        noise,
        code(0),
        code(2 << 16),
        code(196_608),
        [&20_u32.to_be_bytes()[..], &[0, 3, 0, 0], b"user\0mainsta"].concat(),
        [&0x7FFF_FFFF_u32.to_be_bytes()[..], &[0, 3, 0, 0]].concat(),
    ];
    for packet in packets {
        let shown = format!("{:?}", &packet[..packet.len().min(16)]);
        let mut raw = Raw::connect(&node);
        raw.send(&packet);
        let said = raw.read_all();
        let known = said.is_empty() || said.starts_with('E');
        assert!(known && !said.contains("panic"), "{shown}: {said:?}");
    }
    // Ten connections that say nothing do not keep the next one out.
    let idle = (0..10).map(|_| Raw::connect(&node)).collect::<Vec<_>>();
    let identity = Raw::replication(&node).query("IDENTIFY_SYSTEM");
    assert_eq!(identity.first().map(|(tag, _)| *tag), Some(b'T'));
    drop(idle);
    assert_filled(&node);
    assert!(!node.said().contains("panicked"), "{}", node.said());
}

#[test]
fn an_oversized_frame_ends_its_connection_with_a_reason() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    fill(&node);
    for (tag, length, parts) in [
        (
            b'Q',
            u32::MAX,
            "4294967295 bytes is longer than the 1048576 allowed",
        ),
        (b'Q', 0x3FFF_FFFF, "longer than the 1048576 allowed"),
        (b'Q', 3, "length"),
        (b'd', 1 << 30, "longer than the 10000 allowed"),
    ] {
        let mut raw = Raw::replication(&node);
        raw.send(&[&[tag][..], &length.to_be_bytes(), b"and some text"].concat());
        let said = raw.read_all();
        assert!(said.starts_with('E'), "{tag} {length}: {said:?}");
        assert_says(&said, &["08P01", parts]);
    }
    let mut raw = Raw::replication(&node);
    raw.send(b"?\0\0\0\x04");
    assert_says(&raw.read_all(), &["08P01", "message type"]);
    assert_filled(&node);
}

#[test]
fn commands_that_make_no_sense_leave_the_session_usable() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    let mut raw = Raw::replication(&node);
    for (command, parts) in [
        (
            "NO_SUCH_COMMAND",
            &["0A000", "cannot execute SQL commands"][..],
        ),
        ("START_REPLICATION 0/0 TIMELINE", &["42601"]),
        ("START_REPLICATION X/Y", &["42601"]),
        (
            "START_REPLICATION SLOT \"none\" 0/100000 TIMELINE 1",
            &["42704", "none"],
        ),
        ("START_REPLICATION 0/100000 TIMELINE 7", &["timeline 7"]),
        ("TIMELINE_HISTORY 9", &["58P01", "00000009.history"]),
        ("DROP_REPLICATION_SLOT none", &["42704", "none"]),
        (
            "CREATE_REPLICATION_SLOT \"Not Allowed\" PHYSICAL",
            &["42602"],
        ),
    ] {
        assert_says(&error(&raw.query(command)), parts);
    }
    let identity = raw.query("IDENTIFY_SYSTEM");
    assert_eq!(identity.last().map(|(tag, _)| *tag), Some(b'Z'));
}

#[test]
fn a_start_beyond_the_end_of_the_log_is_refused_and_the_session_goes_on() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    fill(&node);
    let mut raw = Raw::replication(&node);
    let answer = raw.query("START_REPLICATION FF/0 TIMELINE 1");
    assert_says(&error(&answer), &["FF/0", "ahead"]);
    let identity = raw.query("IDENTIFY_SYSTEM");
    assert!(identity.iter().any(|(tag, _)| *tag == b'D'), "{identity:?}");
    assert_filled(&node);
}

#[test]
fn a_wrong_password_is_refused_as_postgresql_does() {
    use crate::support::{find_tool, run, scrub};
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "correct horse\n").unwrap();
    let node = start(&dir, "a")
        .arg("--password-file", secret.to_string_lossy())
        .start();
    let Some(psql) = find_tool("psql") else {
        return;
    };
    let ask = |user: &str, password: Option<&str>| {
        let mut command = std::process::Command::new(&psql);
        scrub(&mut command);
        command.envs(password.map(|password| ("PGPASSWORD", password)));
        let at = format!(
            "host=127.0.0.1 port={} user={user} replication=true",
            node.port()
        );
        run(command.args(["-X", "-A", "-t", "-w", "-d", &at, "-c", "IDENTIFY_SYSTEM"]))
    };
    for (user, password) in [("mainstay", "wrong"), ("nobody", "correct horse")] {
        let done = ask(user, Some(password));
        assert_eq!(done.code, Some(2), "{done:?}");
        assert_says(
            &done.err,
            &[&format!(
                "password authentication failed for user \"{user}\""
            )],
        );
    }
    assert_says(&ask("mainstay", None).err, &["no password supplied"]);
    assert!(
        ask("mainstay", Some("correct horse"))
            .ok()
            .out
            .contains("|1|")
    );
}

#[test]
fn a_temporary_slot_ends_with_its_connection() {
    let dir = TempDir::new().unwrap();
    let node = start(&dir, "a").start();
    let mut raw = Raw::replication(&node);
    let created = raw.query("CREATE_REPLICATION_SLOT t TEMPORARY PHYSICAL RESERVE_WAL");
    assert!(created.iter().all(|(tag, _)| *tag != b'E'), "{created:?}");
    let slots = node.http.slots();
    assert_eq!(
        (&slots[0]["name"], &slots[0]["active"]),
        (&"t".into(), &true.into())
    );
    drop(raw);
    until("it is gone", || node.http.slots() == serde_json::json!([]));
}
