//! The demo's nodes: child processes of this executable.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use crate::Lsn;
use crate::cli::Failure;
use crate::client::Client;

/// The policy that the demo runs under.
pub(crate) const POLICY: &str = "ANY 1 (*)";

/// How long a node may take to come up.
const READY_MAX: Duration = Duration::from_secs(20);

/// How long a node may take to end by itself.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Lines of a node's log that are shown when it does not come up.
const LOG_LINES_SHOWN: usize = 8;

/// The children, by name. They are killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    dir: PathBuf,
    children: Mutex<BTreeMap<String, Child>>,
}

/// A running node.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Where its replication side listens.
    pub(crate) replication: String,
    pub(crate) client: Client,
}

/// What a node says on its first line.
#[derive(Debug, Deserialize)]
struct Ready {
    replication: String,
    http: String,
}

impl Cluster {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            children: Mutex::default(),
        }
    }

    /// Starts a node and waits until it is ready. `upstream` is the address of the primary; without
    /// one the node is the primary itself.
    pub(crate) fn start(&self, name: &str, upstream: Option<&Member>) -> Result<Member, Failure> {
        let log = self.dir.join(format!("{name}.log"));
        let mut command = Command::new(std::env::current_exe()?);
        for (variable, _) in std::env::vars_os() {
            // Settings of somebody's real node are not for these.
            let text = variable.to_string_lossy();
            if text.starts_with("MAINSTAY_") && text != "MAINSTAY_LOG" {
                command.env_remove(&variable);
            }
        }
        command
            .arg("start")
            .arg("--data")
            .arg(self.dir.join(name))
            .args(["--name", name]);
        command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        command.args(["--sync", POLICY, "--until-stdin-ends"]);
        if let Some(upstream) = upstream {
            command.args(["--follow", &upstream.url()]);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?);
        let mut child = command.spawn()?;
        let out = child.stdout.take();
        self.children.lock().insert(name.to_owned(), child);
        let (sender, receiver) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = out.map(|out| BufReader::new(out).read_line(&mut line));
            // When nobody waits any more, nobody needs it.
            let _ = sender.send((read, line));
        });
        let line = receiver
            .recv_timeout(READY_MAX)
            .map(|(_, line)| line)
            .unwrap_or_default();
        let ready = serde_json::from_str::<Ready>(&line);
        let ready = ready.map_err(|_| not_ready(name, &log))?;
        let client = Client::new(&ready.http, None);
        Ok(Member {
            name: name.to_owned(),
            replication: ready.replication,
            client,
        })
    }

    /// Kills a node as a power cut would: it gets no chance to say or write anything.
    pub(crate) fn kill(&self, name: &str) -> io::Result<()> {
        match self.children.lock().remove(name) {
            Some(mut child) => child.kill().and_then(|()| child.wait()).map(drop),
            None => Ok(()),
        }
    }

    /// Kills all nodes.
    pub(crate) fn kill_all(&self) {
        for (_, mut child) in std::mem::take(&mut *self.children.lock()) {
            // One that has ended already cannot be killed, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends all nodes properly, and kills what does not end.
    pub(crate) fn stop_all(&self) {
        let mut children = std::mem::take(&mut *self.children.lock());
        for child in children.values_mut() {
            drop(child.stdin.take());
        }
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline {
            children.retain(|_, child| !matches!(child.try_wait(), Ok(Some(_))));
            if children.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        *self.children.lock() = children;
        self.kill_all();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
    }
}

impl Member {
    /// The URL under which others follow it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://mainstay@{}", self.replication)
    }

    /// Timeline and flushed position, by which nodes are ranked.
    pub(crate) fn progress(&self) -> Result<(u64, Lsn), Failure> {
        let status = self.client.status()?;
        let flushed = status["lsn"]["flushed"]
            .as_str()
            .and_then(|lsn| lsn.parse().ok());
        let timeline = status["timeline"].as_u64().unwrap_or(0);
        Ok((timeline, flushed.unwrap_or(Lsn::ZERO)))
    }

    /// What this node says of its standbys.
    pub(crate) fn standbys(&self) -> Result<Vec<Value>, Failure> {
        let mut status = self.client.status()?;
        Ok(status["standbys"]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default())
    }
}

fn not_ready(name: &str, log: &Path) -> Failure {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().collect::<Vec<_>>();
    let last = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n    ");
    let seconds = READY_MAX.as_secs();
    Failure::failed(format!(
        "node {name} did not come up within {seconds} s; its log {} ends with\n    {last}",
        log.display()
    ))
}
