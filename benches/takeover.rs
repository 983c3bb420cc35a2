//! From the order to promote a standby to the first write that it acknowledges, at idle, with real
//! processes: the primary is killed before, and a third node confirms the write.
//!
//! `promote` is how long the order takes by itself. An order that is refused because the primary
//! was heard a moment ago is given again, and counts from then. Idle means that no node is still
//! making its next segment ready, which is a write of 16 MiB.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::Agent;

const ROUNDS: usize = 20;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node in a process of its own, killed when it is dropped.
struct Node {
    child: Child,
    dir: PathBuf,
    replication: String,
    http: String,
}

impl Node {
    fn start(dir: &Path, listen: [&str; 2], follow: Option<&Node>) -> Self {
        let name = dir.file_name().and_then(|name| name.to_str());
        let name = name.expect("a directory has a name");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args([
            "start",
            "--until-stdin-ends",
            "--sync",
            "ANY 1 (*)",
            "--name",
            name,
        ]);
        command
            .args(["--listen", listen[0], "--http", listen[1], "--data"])
            .arg(dir);
        if let Some(primary) = follow {
            command.arg("--follow").arg(primary.url());
        }
        command.env("MAINSTAY_LOG", "error");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the binary is there");
        let mut ready = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out)
            .read_line(&mut ready)
            .expect("it says when it is ready");
        let ready = serde_json::from_str::<Value>(&ready).expect("it is ready");
        let text = |field: &str| ready[field].as_str().expect("it is there").to_owned();
        Self {
            child,
            dir: dir.to_owned(),
            replication: text("replication"),
            http: text("http"),
        }
    }

    fn url(&self) -> String {
        format!("postgres://mainstay@{}", self.replication)
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
    }

    fn streaming(&self, agent: &Agent) -> usize {
        let answer = agent.get(format!("http://{}/v1/status", self.http)).call();
        let text = answer.expect("it answers").body_mut().read_to_string();
        let status = serde_json::from_str::<Value>(&text.expect("a text")).expect("JSON");
        let standbys = status["standbys"].as_array().expect("a list").iter();
        standbys
            .filter(|standby| standby["state"] == "streaming")
            .count()
    }

    fn put(&self, agent: &Agent, key: &str) -> u16 {
        let url = format!("http://{}/v1/tables/t/keys/{key}", self.http);
        let answer = agent.put(url).send("v").expect("it answers");
        answer.status().as_u16()
    }

    /// Whether the next segment is made ready, as a node does behind its writes.
    fn rests(&self) -> bool {
        let files = std::fs::read_dir(self.dir.join("wal")).expect("its log is there");
        let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let names = names.filter(|name| name.starts_with("spare"));
        names
            .collect::<Vec<_>>()
            .iter()
            .all(|name| name != "spare.tmp")
    }

    fn promote(&self, agent: &Agent) -> u16 {
        let url = format!("http://{}/v1/promote", self.http);
        let answer = agent.post(url).send(r#"{"force":false}"#);
        answer.expect("it answers").status().as_u16()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // One that was killed already needs no end.
        let _ = (self.child.kill(), self.child.wait());
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "timed out waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn main() {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None);
    let agent = config.timeout_global(Some(PATIENCE)).build().new_agent();
    let dir = tempfile::tempdir().expect("there is room");
    let any = ["127.0.0.1:0"; 2];
    let a = Node::start(&dir.path().join("a"), any, None);
    let others = ["b", "c"].map(|name| Node::start(&dir.path().join(name), any, Some(&a)));
    let mut nodes = Vec::from_iter([a].into_iter().chain(others));
    let (mut promoting, mut writing) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        until("both standbys stream", || nodes[0].streaming(&agent) == 2);
        assert_eq!(nodes[0].put(&agent, &format!("before-{round}")), 200);
        until("nobody prepares a segment", || {
            nodes.iter().all(Node::rests)
        });
        nodes[0].kill();
        let mut begun = Instant::now();
        until("it is promoted", || {
            begun = Instant::now();
            nodes[1].promote(&agent) == 200
        });
        promoting.push(begun.elapsed());
        assert_eq!(nodes[1].put(&agent, &format!("after-{round}")), 200);
        writing.push(begun.elapsed());
        let old = nodes.remove(0);
        let listen = [&old.replication, &old.http].map(String::as_str);
        let back = Node::start(&old.dir, listen, Some(&nodes[0]));
        nodes.push(back);
    }
    support::print_percentiles("takeover/promote", &mut promoting);
    support::print_percentiles(
        "takeover/promote to the first acknowledged write",
        &mut writing,
    );
}
