//! Redis with an append-only file: a primary and its replica, and a client of one connection that
//! asks for `WAIT 1` with each write.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure::{Figures, Latencies};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Redis {
    servers: [Child; 2],
    port: u16,
}

impl Redis {
    /// Both sync their file at each write.
    pub(crate) fn start(root: &Path) -> Self {
        let ports = [(); 2].map(|()| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("it listens").port()
        });
        let servers = [0, 1].map(|end| {
            let dir = root.join(format!("redis{end}"));
            fs::create_dir(&dir).expect("there is room");
            let mut command = Command::new("redis-server");
            command.args(["--port", &ports[end].to_string(), "--bind", "127.0.0.1"]);
            command.args([
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--save",
                "",
            ]);
            command
                .args(["--repl-backlog-size", "256mb", "--dir"])
                .arg(&dir);
            if end == 1 {
                command.args(["--replicaof", &format!("127.0.0.1 {}", ports[0])]);
            }
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command.spawn().expect("redis-server is installed")
        });
        let this = Self {
            servers,
            port: ports[0],
        };
        let begun = Instant::now();
        while !this.replicates() {
            assert!(begun.elapsed() < PATIENCE, "the replica does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }

    fn replicates(&self) -> bool {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        let mut client = BufReader::new(stream);
        let sent = client.get_mut().write_all(b"WAIT 1 100\r\n");
        let mut line = String::new();
        sent.is_ok() && client.read_line(&mut line).is_ok() && line.trim() == ":1"
    }

    /// The median latency of a write of 100 bytes that the replica has too, in microseconds.
    pub(crate) fn wait_one(&self, seconds: f64) -> Figures {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let mut client = BufReader::new(stream);
        let (value, begun) = ("x".repeat(100), Instant::now());
        let (mut all, mut number, mut line) = (Latencies::default(), 0_u64, String::new());
        while begun.elapsed().as_secs_f64() < seconds {
            number += 1;
            let key = number.to_string();
            let request = format!(
                "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$100\r\n{value}\r\nWAIT 1 1000\r\n",
                key.len()
            );
            let one = Instant::now();
            client
                .get_mut()
                .write_all(request.as_bytes())
                .expect("it listens");
            for expected in ["+OK", ":1"] {
                line.clear();
                client.read_line(&mut line).expect("it answers");
                assert_eq!(line.trim(), expected, "the replica confirms");
            }
            all.record(one.elapsed());
        }
        let percentiles = all.percentiles();
        Figures::of(percentiles[0].1).with("p99", percentiles[2].1)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // One that ended already needs no end.
            let _ = (server.kill(), server.wait());
        }
    }
}
