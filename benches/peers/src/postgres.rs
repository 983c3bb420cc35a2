//! PostgreSQL: a primary and a standby of the version that Debian has, set up to be fast without
//! giving up what it promises. What is asked of them is in `loads`.
//!
//! What is set and why stands in `SETTINGS`. The server will not run as root, so everything is
//! done as its own user then.

mod loads;

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::process::cpu_seconds;

const PATIENCE: Duration = Duration::from_secs(120);

/// Memory that holds everything that is measured, no checkpoint and no vacuum in a round, log that
/// is recycled and not compressed; every commit is synced, pages are written in full.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 120
shared_buffers = 1GB
wal_buffers = 64MB
wal_compression = off
max_wal_size = 8GB
wal_keep_size = 6GB
min_wal_size = 2GB
checkpoint_timeout = 1h
max_wal_senders = 10
wal_level = replica
hot_standby = on
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 100ms
autovacuum = off
jit = off
synchronous_commit = on
fsync = on
full_page_writes = on
";

/// One row of about 100 bytes: 24 of header, 8 of key, 68 of payload.
const INSERT: &str = "insert into rows(v) values (decode(repeat('ab', 68), 'hex'));";

/// How a commit waits.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The standby does not run.
    Alone,
    /// It streams, and nobody waits for it.
    Async,
    /// A commit waits for the standby's disk.
    Flush,
}

pub(crate) struct Postgres {
    root: PathBuf,
    ports: [u16; 2],
    mode: Option<Mode>,
}

const ENDS: [&str; 2] = ["primary", "standby"];

impl Postgres {
    /// A primary with the tables of the load, and its standby.
    pub(crate) fn start(root: &Path) -> Self {
        let root = root.join("postgres");
        fs::create_dir(&root).expect("there is room");
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(&root).status();
            assert!(owned.expect("chown").success(), "the user postgres exists");
        }
        let mut this = Self {
            root,
            ports: [(); 2].map(|()| free_port()),
            mode: None,
        };
        let primary = this.dir(0);
        this.tool("initdb")
            .arg("-D")
            .arg(&primary)
            .args(["-A", "trust", "--no-sync", "-E", "UTF8", "--no-locale"])
            .run();
        this.configure(0);
        let hba = primary.join("pg_hba.conf");
        let rules = fs::read_to_string(&hba).expect("initdb made it");
        let rules = format!("{rules}host replication all 127.0.0.1/32 trust\n");
        fs::write(&hba, rules).expect("it is ours");
        this.up(0);
        this.sql("create table rows(id bigserial primary key, v bytea)");
        this.sql("create table seen(id bigint primary key)");
        this.make_standby();
        fs::write(this.root.join("insert.sql"), INSERT).expect("there is room");
        this
    }

    fn configure(&self, end: usize) {
        let path = self.dir(end).join("postgresql.conf");
        let mut text = fs::read_to_string(&path).expect("initdb made it");
        text.push_str(SETTINGS);
        let (port, sockets) = (self.ports[end], self.root.display());
        let more = writeln!(text, "port = {port}\nunix_socket_directories = '{sockets}'");
        more.expect("it is memory");
        fs::write(&path, text).expect("it is ours");
    }

    /// Makes the standby anew, by `pg_basebackup`.
    pub(crate) fn make_standby(&mut self) {
        let standby = self.dir(1);
        if standby.exists() {
            self.down(1, "immediate");
            fs::remove_dir_all(&standby).expect("it is ours");
        }
        self.basebackup("standby", &["-R", "--no-sync"]);
        let auto = standby.join("postgresql.auto.conf");
        let text = fs::read_to_string(&auto).expect("-R made it");
        let named = text.replace("user=postgres", "user=postgres application_name=s1");
        fs::write(&auto, named).expect("it is ours");
        let conf = standby.join("postgresql.conf");
        let text = fs::read_to_string(&conf).expect("it was copied");
        let [own, other] = [self.ports[1], self.ports[0]];
        let text = text.replace(&format!("port = {other}"), &format!("port = {own}"));
        fs::write(&conf, text).expect("it is ours");
        self.up(1);
        self.mode = None;
    }

    /// Copies the primary to a directory of this name, synced unless `more` says otherwise.
    pub(crate) fn basebackup(&self, name: &str, more: &[&str]) -> PathBuf {
        let to = self.root.join(name);
        let port = self.ports[0].to_string();
        self.tool("pg_basebackup")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port,
                "-X",
                "stream",
                "-c",
                "fast",
                "-D",
            ])
            .arg(&to)
            .args(more.iter().copied())
            .run();
        to
    }

    pub(crate) fn dir(&self, end: usize) -> PathBuf {
        self.root.join(ENDS[end])
    }

    pub(crate) fn up(&self, end: usize) {
        let log = self.root.join(format!("{}.log", ENDS[end]));
        self.tool("pg_ctl")
            .args(["-s", "-w", "-t", "120", "start", "-D"])
            .arg(self.dir(end))
            .arg("-l")
            .arg(log)
            .run();
    }

    pub(crate) fn down(&self, end: usize, how: &str) {
        if !self.dir(end).join("postmaster.pid").exists() {
            return;
        }
        self.tool("pg_ctl")
            .args(["-s", "-w", "-t", "120", "stop", "-m", how, "-D"])
            .arg(self.dir(end))
            .run();
    }

    pub(crate) fn connect(&self, end: usize) -> Client {
        let config = format!(
            "host={} port={} user=postgres dbname=postgres",
            self.root.display(),
            self.ports[end]
        );
        Client::connect(&config, NoTls).expect("the server runs")
    }

    pub(crate) fn sql(&self, statement: &str) {
        let done = self.connect(0).batch_execute(statement);
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// Recycles log on both nodes, but for the newest `kept`, as settings call a size. A standby
    /// that comes back later finds what it needs all the same.
    fn recycle_log(&self, kept: &str) {
        for size in [kept, "6GB"] {
            for node in 0..2 {
                let mut client = self.connect(node);
                let statements = [
                    format!("alter system set wal_keep_size = '{size}'"),
                    "select pg_reload_conf()".to_owned(),
                    if size == kept {
                        "checkpoint"
                    } else {
                        "select 1"
                    }
                    .to_owned(),
                ];
                for statement in statements {
                    let done = client.batch_execute(&statement);
                    done.unwrap_or_else(|error| panic!("{statement}: {error}"));
                }
            }
        }
    }

    /// Commits wait as `mode` says from now on.
    pub(crate) fn set_mode(&mut self, mode: Mode) {
        if self.mode == Some(mode) {
            return;
        }
        let names = if mode == Mode::Flush { "s1" } else { "" };
        let mut client = self.connect(0);
        let set = format!("alter system set synchronous_standby_names = '{names}'");
        client.batch_execute(&set).expect("it is the superuser");
        client
            .batch_execute("select pg_reload_conf()")
            .expect("it is the superuser");
        match mode {
            Mode::Alone => self.down(1, "fast"),
            _ if self.pid(1).is_none() => self.up(1),
            _ => {}
        }
        if mode != Mode::Alone {
            let state = if mode == Mode::Flush { "sync" } else { "async" };
            self.until_standby(&format!("sync_state = '{state}'"));
        }
        self.mode = Some(mode);
    }

    /// Waits until the standby has everything and `condition` holds of it.
    pub(crate) fn until_standby(&self, condition: &str) {
        let query = format!(
            "select count(*) from pg_stat_replication where state = 'streaming' \
             and replay_lsn >= pg_current_wal_flush_lsn() and {condition}"
        );
        let (mut client, begun) = (self.connect(0), Instant::now());
        loop {
            let found = client.query_one(&query, &[]).expect("a query");
            if found.get::<_, i64>(0) == 1 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the standby does not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn pid(&self, end: usize) -> Option<u32> {
        let text = fs::read_to_string(self.dir(end).join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.parse::<u32>().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    fn cpu(&self) -> f64 {
        let ends = [0, 1].into_iter().filter_map(|end| self.pid(end));
        ends.map(cpu_seconds).sum()
    }

    fn tool(&self, name: &str) -> Tool {
        let bin = bin_dir().join(name);
        let program = if bin.exists() {
            bin
        } else {
            PathBuf::from(name)
        };
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("runuser");
                command.args(["-u", "postgres", "--"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        command.current_dir(&self.root).stdin(Stdio::null());
        Tool { command }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.down(1, "immediate");
        self.down(0, "immediate");
    }
}

struct Tool {
    command: Command,
}

impl Tool {
    fn arg(&mut self, argument: impl AsRef<std::ffi::OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    fn args<'a>(&mut self, arguments: impl IntoIterator<Item = &'a str>) -> &mut Self {
        self.command.args(arguments);
        self
    }

    /// # Panics
    /// When it fails, with what it said.
    fn run(&mut self) -> String {
        // A server that a tool leaves behind would hold a pipe open for ever.
        let out = tempfile::tempfile().expect("there is room");
        let err = out.try_clone().expect("a file");
        let mut said = out.try_clone().expect("a file");
        let status = self.command.stdout(out).stderr(err).status();
        let mut text = String::new();
        std::io::Seek::rewind(&mut said).expect("a file");
        std::io::Read::read_to_string(&mut said, &mut text).expect("text");
        let status = status.unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        assert!(status.success(), "{:?}: {text}", self.command);
        text
    }
}

fn is_root() -> bool {
    let out = Command::new("id").arg("-u").output().expect("id");
    out.stdout.trim_ascii() == b"0"
}

pub(crate) fn bin_dir() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let versions = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let mut versions = versions
        .filter(|bin| bin.join("initdb").exists())
        .collect::<Vec<_>>();
    versions.sort();
    versions.pop().unwrap_or_default()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it listens").port()
}
