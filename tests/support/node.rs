//! Nodes as child processes of a test.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;

use serde_json::Value;

use super::run::{Background, Done, program, signal, wait};
use super::{DEADLINE, Http, mainstay};

/// Lines of a node's log that are shown when its test fails.
const LOG_LINES_SHOWN: usize = 60;

/// How a node is started.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    name: String,
    dir: PathBuf,
    args: Vec<String>,
    /// The network namespace that it runs in, if it is not that of the test.
    namespace: Option<String>,
}

impl Start {
    /// A node `name` with its data in `dir/name`, on free ports.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let this = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            args: Vec::new(),
            namespace: None,
        };
        this.arg("--listen", "127.0.0.1:0")
            .arg("--http", "127.0.0.1:0")
    }

    /// Sets a flag, instead of what it was before.
    pub(crate) fn arg(self, flag: &str, value: impl AsRef<str>) -> Self {
        let mut this = self.without(flag);
        this.args
            .extend([flag.to_owned(), value.as_ref().to_owned()]);
        this
    }

    /// Takes a flag away.
    pub(crate) fn without(mut self, flag: &str) -> Self {
        if let Some(at) = self.args.iter().position(|arg| arg == flag) {
            self.args.drain(at..at + 2);
        }
        self
    }

    /// Runs it in a network namespace, where its HTTP side cannot be reached from outside.
    pub(crate) fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Makes it a standby of `primary`.
    pub(crate) fn follow(self, primary: &Node) -> Self {
        self.arg("--follow", primary.url())
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    fn command_line(&self) -> Vec<String> {
        let data = self.data().to_string_lossy().into_owned();
        let mut args = ["start", "--name", &self.name, "--data", &data]
            .map(str::to_owned)
            .to_vec();
        args.extend(self.args.iter().cloned());
        args
    }

    /// Starts it, and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&self) -> Node {
        let log = self.dir.join(format!("{}.log", self.name));
        let mut command = program(self.namespace.as_deref());
        command.args(self.command_line()).arg("--until-stdin-ends");
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(out);
        let mut child = command.spawn().unwrap();
        let (sender, receiver) = mpsc::sync_channel(1);
        let out = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            let mut line = String::new();
            // No line at all is what a node that cannot start says.
            let _ = BufReader::new(out).read_line(&mut line);
            // When nobody waits any more, nobody needs it.
            let _ = sender.send(line);
        });
        let line = receiver.recv_timeout(DEADLINE).unwrap_or_default();
        let mut node = Node {
            start: self.clone(),
            child: Some(child),
            http: Http::new("127.0.0.1:0"),
            http_address: String::new(),
            replication: String::new(),
            log,
        };
        let ready = serde_json::from_str::<Value>(&line);
        let ready = ready.unwrap_or_else(|_| panic!("node {} is not ready: {line:?}", self.name));
        let text = |field: &str| ready[field].as_str().expect("it is in the line").to_owned();
        (node.replication, node.http_address) = (text("replication"), text("http"));
        node.http = Http::new(&node.http_address);
        node
    }

    /// Starts it without waiting for anything.
    #[track_caller]
    pub(crate) fn begin(&self) -> Background {
        let mut command = program(None);
        let log = self.dir.join(format!("{}.begun.log", self.name));
        Background::start(command.args(self.command_line()), &log)
    }

    /// Starts it although it must not come up, and returns what it ended with.
    #[track_caller]
    pub(crate) fn refused(&self) -> Done {
        let done = mainstay(self.command_line());
        assert_ne!(done.code, Some(0), "{done:?}");
        done
    }
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    start: Start,
    child: Option<Child>,
    pub(crate) http: Http,
    pub(crate) http_address: String,
    /// Where its replication side listens.
    pub(crate) replication: String,
    log: PathBuf,
}

impl Node {
    pub(crate) fn data(&self) -> PathBuf {
        self.start.data()
    }

    /// How it was started.
    pub(crate) fn start(&self) -> &Start {
        &self.start
    }

    /// The URL under which others follow it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://mainstay@{}", self.replication)
    }

    /// The port of its replication side.
    pub(crate) fn port(&self) -> &str {
        self.replication
            .rsplit(':')
            .next()
            .expect("an address has a port")
    }

    /// The start of the same node on the ports that it has now.
    pub(crate) fn same_ports(&self) -> Start {
        let start = self.start.clone().arg("--listen", &self.replication);
        start.arg("--http", &self.http_address)
    }

    /// The start of the same node on ports of its own choice, where nobody looks for it.
    pub(crate) fn other_ports(&self) -> Start {
        self.start.clone()
    }

    /// The most memory in bytes that the process ever had at once, by the system's count.
    #[track_caller]
    pub(crate) fn peak_memory(&self) -> u64 {
        let child = self.child.as_ref().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("the system says it")
            << 10
    }

    /// Kills it with SIGKILL: it gets no chance to say or write anything.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // One that has ended cannot be killed, which is as good.
            let _ = child.kill();
            child.wait().expect("a child can be waited for");
        }
    }

    /// Stops it where it is with SIGSTOP: it does nothing, and its connections stay.
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets it go on after [`pause`](Self::pause).
    #[track_caller]
    pub(crate) fn go_on(&self) {
        self.signal("CONT");
    }

    #[track_caller]
    fn signal(&self, name: &str) {
        signal(name, self.child.as_ref().expect("it runs").id());
    }

    /// Whether it was not killed or ended by this test.
    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Kills it and starts it again on the same ports.
    #[track_caller]
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        *self = self.same_ports().start();
    }

    /// Ends it with SIGTERM.
    #[track_caller]
    pub(crate) fn terminate(&mut self) {
        self.signal("TERM");
        let child = self.child.as_mut().expect("it runs");
        let ended = wait(child);
        let code = ended.and_then(|status| status.code());
        assert_eq!(
            code,
            Some(0),
            "node {} did not end properly: {ended:?}",
            self.start.name
        );
        self.child = None;
    }

    /// What it has logged so far, in all its lives.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // One that has ended cannot be killed, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let said = self.said();
            let lines = said.lines().collect::<Vec<_>>();
            let last = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
            eprintln!("---- {}\n{last}", self.log.display());
        }
    }
}
