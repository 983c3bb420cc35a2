//! Nodes on machines of their own, as far as their network goes: packets that are lost without a
//! word, as where a cable is drawn.
//!
//! A proxy ends a connection or holds it, and the system goes on to acknowledge what it takes in.
//! Here nothing comes back at all, and nobody is told. Each node has a network namespace, all are
//! connected by a bridge in one more, and clients run beside the nodes.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Background, Done, Node, Start, assert_says, find_tool_of, program, run, skipped, until,
};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A network card that nobody has.
const NOBODY: &str = "02:00:00:00:00:99";

/// Networks of this process so far.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

/// Namespaces and what connects them. They are gone when it is dropped.
struct Network {
    /// What its namespaces' names begin with.
    tag: String,
}

impl Network {
    /// One for each node, connected; `None`, and said so, where this machine does not allow it.
    fn connected() -> Option<Self> {
        find_tool_of("ip", "iproute2")?;
        let count = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let tag = format!("mainstay-{}-{count}", std::process::id());
        let this = Self { tag };
        let hub = this.hub();
        let made = ip(&["netns", "add", &hub]);
        if made.code != Some(0) {
            let why = made.err.trim();
            skipped(&format!("cannot make a network namespace: {why}"));
            return None;
        }
        let bridge = ip(&["-n", &hub, "link", "add", "hub", "type", "bridge"]);
        if bridge.code != Some(0) {
            let why = bridge.err.trim();
            skipped(&format!("cannot make a bridge between networks: {why}"));
            return None;
        }
        ip(&["-n", &hub, "link", "set", "hub", "up"]).ok();
        for (at, name) in NAMES.iter().enumerate() {
            this.connect(&hub, name, &address(at));
        }
        Some(this)
    }

    fn connect(&self, hub: &str, name: &str, address: &str) {
        let own = self.namespace(name);
        ip(&["netns", "add", &own]).ok();
        let plug = plug(name);
        let cable = ["link", "add", "net", "type", "veth", "peer", "name", &plug];
        ip(&[&["-n", &own][..], &cable, &["netns", hub]].concat()).ok();
        ip(&["-n", hub, "link", "set", &plug, "master", "hub", "up"]).ok();
        let subnet = format!("{address}/24");
        ip(&["-n", &own, "addr", "add", &subnet, "dev", "net"]).ok();
        ip(&["-n", &own, "link", "set", "net", "up"]).ok();
        ip(&["-n", &own, "link", "set", "lo", "up"]).ok();
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    fn hub(&self) -> String {
        self.namespace("hub")
    }

    /// Draws a node's cable, or puts it in again.
    fn set_cable(&self, name: &str, to: &str) {
        ip(&["-n", &self.hub(), "link", "set", &plug(name), to]).ok();
    }

    /// Loses what `from` sends to `to`: it is addressed to a card that nobody has.
    fn lose(&self, from: &str, to: usize) {
        let (own, address) = (self.namespace(from), address(to));
        let entry = [
            "replace",
            &address,
            "lladdr",
            NOBODY,
            "dev",
            "net",
            "nud",
            "permanent",
        ];
        ip(&[&["-n", &own, "neigh"][..], &entry].concat()).ok();
    }

    fn find(&self, from: &str, to: usize) {
        let (own, address) = (self.namespace(from), address(to));
        ip(&["-n", &own, "neigh", "del", &address, "dev", "net"]).ok();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in NAMES.iter().chain(&["hub"]) {
            // One that was never made cannot be removed.
            let _ = ip(&["netns", "del", &self.namespace(name)]);
        }
    }
}

fn ip(args: &[&str]) -> Done {
    run(Command::new("ip").args(args))
}

/// The end of a node's cable at the bridge.
fn plug(name: &str) -> String {
    format!("to-{name}")
}

fn address(at: usize) -> String {
    format!("10.0.0.{}", at + 1)
}

fn url(at: usize) -> String {
    format!("postgres://mainstay@{}:5433", address(at))
}

/// Nodes, each in its namespace, and what was acknowledged.
struct Cluster {
    _nodes: Vec<Node>,
    network: Network,
    acknowledged: Vec<String>,
}

impl Cluster {
    fn start(dir: &Path) -> Option<Self> {
        let network = Network::connected()?;
        let password = dir.join("password");
        std::fs::write(&password, "correct horse").unwrap();
        let password = password.to_str().expect("it is text");
        let mut nodes = Vec::new();
        for (at, name) in NAMES.iter().enumerate() {
            let mut start = Start::new(dir, name)
                .within(&network.namespace(name))
                .arg("--listen", format!("{}:5433", address(at)))
                .arg("--http", "127.0.0.1:8008")
                .arg("--password-file", password)
                .arg("--upstream-password-file", password)
                .arg("--heartbeat-timeout", "1s")
                .arg("--sync", "ANY 1 (*)");
            if at > 0 {
                start = start.arg("--follow", url(0));
            }
            nodes.push(start.start());
        }
        let this = Self {
            _nodes: nodes,
            network,
            acknowledged: Vec::new(),
        };
        this.until_streaming(0);
        Some(this)
    }

    /// Runs a command of `mainstay` beside a node.
    fn at(&self, node: usize, args: &[&str]) -> Done {
        let namespace = self.network.namespace(NAMES[node]);
        run(program(Some(&namespace)).args(args))
    }

    fn status(&self, node: usize) -> Value {
        let said = self.at(node, &["status", "--json"]).ok().out;
        serde_json::from_str(&said).expect("a status is JSON")
    }

    fn until_streaming(&self, primary: usize) {
        until("both others stream", || {
            let status = self.status(primary);
            let standbys = status["standbys"].as_array().expect("a list");
            let streaming = standbys.iter().filter(|one| one["state"] == "streaming");
            streaming.count() == 2
        });
    }

    /// Writes some rows, all of which have to be acknowledged.
    fn put_some(&mut self, node: usize) {
        for _ in 0..5 {
            let key = format!("k{:03}", self.acknowledged.len());
            self.at(node, &["put", "t", &key, "v"]).ok();
            self.acknowledged.push(key);
        }
    }

    /// Begins to write a row that must not be acknowledged.
    fn put_in_vain(&self, node: usize, key: &str, dir: &Path) -> Background {
        let namespace = self.network.namespace(NAMES[node]);
        let mut command = program(Some(&namespace));
        Background::start(command.args(["put", "t", key, "v"]), &dir.join(key))
    }

    /// Has one of the others take over from `old`, once it counts as gone; returns which.
    fn fail_over(&self, old: usize) -> usize {
        let asked = (old + 1) % NAMES.len();
        let mut new = None;
        until("a standby takes over", || {
            let done = self.at(asked, &["failover", "--json"]);
            if done.code == Some(0) {
                let answer = serde_json::from_str::<Value>(&done.out).expect("JSON");
                let name = answer["new_primary_name"].as_str().expect("a text");
                new = NAMES.iter().position(|one| *one == name);
            }
            new.is_some()
        });
        let new = new.expect("it has a name that is known");
        assert_ne!(new, old);
        new
    }

    /// Waits until the old primary knows that it was replaced, has it follow the new one, and
    /// checks that each node holds what was acknowledged.
    fn heal(&mut self, old: usize, new: usize) {
        until("the old primary is fenced", || {
            self.status(old)["role"] == "fenced"
        });
        self.at(old, &["follow", &url(new)]).ok();
        self.until_streaming(new);
        self.put_some(new);
        for (node, name) in NAMES.iter().enumerate() {
            until("it has everything", || {
                let rows = self.at(node, &["scan", "t"]).ok().out;
                self.acknowledged
                    .last()
                    .is_some_and(|last| rows.contains(last))
            });
            let rows = self.at(node, &["scan", "t"]).ok().out;
            let lost = self.acknowledged.iter().filter(|key| !rows.contains(*key));
            let lost = lost.collect::<Vec<_>>();
            assert!(lost.is_empty(), "LOST at {name}: {lost:?}");
        }
    }
}

#[test]
fn a_primary_whose_packets_vanish_is_replaced_and_acknowledges_nothing_meanwhile() {
    let dir = TempDir::new().unwrap();
    let Some(mut cluster) = Cluster::start(dir.path()) else {
        return;
    };
    cluster.put_some(0);
    cluster.network.set_cable("a", "down");
    let vain = cluster.put_in_vain(0, "cut-off", dir.path());
    let new = cluster.fail_over(0);
    cluster.put_some(new);
    assert_eq!(vain.said(), "", "nobody confirmed it");
    assert_eq!(cluster.status(0)["role"], "primary", "nobody could tell it");
    cluster.network.set_cable("a", "up");
    cluster.heal(0, new);
    until("the writer learns of it", || !vain.said().is_empty());
    assert_says(&vain.said(), &["unknown"]);

    // Now the primary hears the others, and they do not hear it.
    let old = new;
    let others = (0..NAMES.len())
        .filter(|&other| other != old)
        .collect::<Vec<_>>();
    for &other in &others {
        cluster.network.lose(NAMES[old], other);
    }
    let vain = cluster.put_in_vain(old, "unheard", dir.path());
    let new = cluster.fail_over(old);
    cluster.put_some(new);
    assert_eq!(vain.said(), "", "nobody confirmed it");
    for &other in &others {
        cluster.network.find(NAMES[old], other);
    }
    cluster.heal(old, new);
    until("the writer learns of it", || !vain.said().is_empty());
    assert_says(&vain.said(), &["unknown"]);
}
