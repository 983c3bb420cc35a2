//! Three nodes, the lines between them, and the operator who brings them together again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::account::{ACCOUNTS, Account, Fault, ROWS};
use super::clients::Directory;
use crate::sim::random::Random;
use crate::support::{DEADLINE, LOOK_EVERY, Mesh, Node, Start, Way, until_within};

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

/// How long a node may be silent before it counts as gone.
pub(super) const SILENCE: &str = "1s";

/// Policies under which nothing that was acknowledged may be lost, of which a cluster has one.
const POLICIES: [&str; 4] = [
    "ANY 1 (*)",
    "FIRST 1 (a, b, c)",
    "ANY 1 (a, b, c)",
    "ANY 2 (a, b, c)",
];

/// See the module.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) mesh: Mesh,
    pub(super) directory: Arc<Directory>,
    pub(super) policy: &'static str,
    /// Nodes that were seen as the primary and told to follow nobody since: only these may start
    /// as primaries.
    primaries: BTreeSet<usize>,
    /// Nodes that SIGSTOP holds.
    paused: Vec<usize>,
    /// Where the last round was written down, so that it can be waited for.
    rounds: u64,
    _dir: TempDir,
}

/// What a node said of itself just now, if it did.
pub(super) fn status(node: &Node) -> Option<Value> {
    let answer = node
        .runs()
        .then(|| node.http.send("GET", "/v1/status", &[]));
    let answer = answer?.ok().filter(|answer| answer.status == 200)?;
    Some(answer.json())
}

impl Cluster {
    /// The first node as the primary, and the others as its standbys, all of whom stream.
    pub(super) fn start(random: &mut Random) -> Self {
        Self::under(POLICIES[random.index(POLICIES.len())])
    }

    /// As [`start`](Self::start), under a policy of choice.
    pub(super) fn under(policy: &'static str) -> Self {
        let dir = TempDir::new().unwrap();
        let mesh = Mesh::between(&NAMES);
        let mut nodes = Vec::new();
        for (at, name) in NAMES.iter().enumerate() {
            let mut start = Start::new(dir.path(), name)
                .arg("--advertise", mesh.address(at))
                .arg("--sync", policy)
                .arg("--heartbeat-timeout", SILENCE)
                .arg("--segment-size", "1MiB")
                .arg("--memtable-size", "1MiB");
            if at > 0 {
                start = start.arg("--follow", url(&mesh, 0));
            }
            let node = start.start();
            mesh.lead_to(at, &node.replication);
            nodes.push(node);
        }
        nodes[0].http.until_streaming(2);
        let this = Self {
            nodes,
            mesh,
            directory: Arc::default(),
            policy,
            primaries: BTreeSet::from([0]),
            paused: Vec::new(),
            rounds: 0,
            _dir: dir,
        };
        this.list();
        this
    }

    fn list(&self) {
        let addresses = self.nodes.iter().map(|node| node.http_address.clone());
        self.directory.list(addresses);
    }

    /// The primary of the newest timeline among those that answer.
    pub(super) fn primary(&mut self) -> Option<usize> {
        let answering = (0..self.nodes.len()).filter(|at| !self.paused.contains(at));
        let primaries = answering.filter_map(|at| {
            let status = status(&self.nodes[at])?;
            let timeline = status["timeline"].as_u64()?;
            (status["role"] == "primary").then_some((timeline, at))
        });
        let (_, at) = primaries.max()?;
        self.primaries.insert(at);
        Some(at)
    }

    /// Kills a node; false when it was killed before.
    pub(super) fn kill(&mut self, at: usize) -> bool {
        let runs = self.nodes[at].runs();
        self.nodes[at].kill();
        self.paused.retain(|&paused| paused != at);
        runs
    }

    /// Stops a node where it is.
    pub(super) fn pause(&mut self, at: usize) {
        if self.nodes[at].runs() && !self.paused.contains(&at) {
            self.nodes[at].pause();
            self.paused.push(at);
        }
    }

    /// Nodes that run and are not stopped.
    pub(super) fn awake(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|&at| self.nodes[at].runs() && !self.paused.contains(&at))
            .collect()
    }

    /// Lets nodes go on that were stopped, opens the lines, and starts nodes that were killed: as
    /// standbys of the primary that there is, or as the primary that one was.
    fn end_faults(&mut self, random: &mut Random) {
        for at in std::mem::take(&mut self.paused) {
            self.nodes[at].go_on();
        }
        for line in self.mesh.lines() {
            line.release(Way::ToNode);
            line.release(Way::FromNode);
        }
        let primary = self.primary();
        let mut starts = Vec::new();
        for at in (0..self.nodes.len()).filter(|&at| !self.nodes[at].runs()) {
            let start = self.nodes[at].start().clone();
            let start = match self.primaries.contains(&at) && random.one_in(2) {
                true => start.without("--follow"),
                false => {
                    self.primaries.remove(&at);
                    let upstream = primary.unwrap_or((at + 1) % self.nodes.len());
                    start.arg("--follow", url(&self.mesh, upstream))
                }
            };
            starts.push((at, thread::spawn(move || start.start())));
        }
        for (at, starting) in starts {
            self.nodes[at] = starting
                .join()
                .expect("a node that was killed starts again");
            self.mesh.lead_to(at, &self.nodes[at].replication);
        }
        self.list();
    }

    /// Ends all faults and does what an operator does, until one node is the primary and the others
    /// stream from it; returns which one.
    pub(super) fn heal(&mut self, random: &mut Random) -> usize {
        self.end_faults(random);
        let begun = Instant::now();
        for look in 1.. {
            let all = self.nodes.iter().filter_map(status).collect::<Vec<_>>();
            assert!(
                begun.elapsed() < DEADLINE,
                "the cluster does not heal: {all:#?}"
            );
            assert_eq!(
                all.len(),
                self.nodes.len(),
                "a node ended by itself: {all:#?}"
            );
            two_primaries_of_one_number(&all);
            let primaries = (0..all.len()).filter(|&at| all[at]["role"] == "primary");
            let newest = primaries.max_by_key(|&at| all[at]["timeline"].as_u64());
            if let Some(newest) = newest.filter(|&newest| self.gather(newest, &all, look)) {
                return newest;
            }
            if newest.is_none() {
                // Refused as long as somebody heard a primary just now.
                let one = &self.nodes[random.index(self.nodes.len())];
                let _ = one.http.send("POST", "/v1/failover", b"{}");
                if begun.elapsed() > NOBODY_FOR {
                    self.show_themselves(&all);
                }
            }
            thread::sleep(LOOK_EVERY);
        }
        unreachable!("it goes on until the cluster is healed");
    }

    /// Has primaries that were replaced follow the standby of the newest timeline, which may not
    /// know where they are.
    fn show_themselves(&mut self, all: &[Value]) {
        let timeline = |at: &usize| all[*at]["timeline"].as_u64();
        let Some(newest) = (0..all.len()).max_by_key(timeline) else {
            return;
        };
        for at in (0..all.len()).filter(|&at| all[at]["role"] == "fenced" && at != newest) {
            self.order_to_follow(at, newest);
        }
    }

    fn order_to_follow(&mut self, at: usize, upstream: usize) {
        self.primaries.remove(&at);
        let order = json!({ "url": url(&self.mesh, upstream) }).to_string();
        let http = &self.nodes[at].http;
        // One that cannot be told now is told again.
        let _ = http.send("POST", "/v1/follow", order.as_bytes());
    }

    /// Tells those who do not follow the primary whom to follow; says whether all do.
    fn gather(&mut self, primary: usize, last: &[Value], looks: u64) -> bool {
        let standbys = last[primary]["standbys"].as_array().expect("a list");
        let mut all = true;
        for at in (0..last.len()).filter(|&at| at != primary) {
            let streams = |one: &&Value| one["name"] == NAMES[at] && one["state"] == "streaming";
            if last[at]["role"] == "standby" && standbys.iter().any(|one| streams(&one)) {
                continue;
            }
            all = false;
            // An older primary is fenced once it hears of the newer one, and others dial again by
            // themselves; whoever does not is told.
            if last[at]["role"] == "fenced" || looks.is_multiple_of(TOLD_EVERY) {
                self.order_to_follow(at, primary);
            }
        }
        all
    }

    /// Checks, with the clients at rest and the cluster healed, that every node holds the same, and
    /// that it is what was acknowledged. Returns what is wrong.
    pub(super) fn check(&mut self, primary: usize, account: &Account) -> Vec<Fault> {
        self.rounds += 1;
        let node = &self.nodes[primary];
        let (begun, mut last) = (Instant::now(), None);
        until_within(DEADLINE * 2, "the primary answers", || {
            let round = self.rounds.to_string();
            let path = "/v1/tables/rest/keys/round";
            let answer = node.http.send("PUT", path, round.as_bytes());
            let done = answer.as_ref().is_ok_and(|answer| answer.status == 200);
            last = Some(answer);
            done || begun.elapsed() > DEADLINE
        });
        let answer = last.expect("it was asked");
        let end = match answer {
            Ok(answer) if answer.status == 200 => answer.lsn(),
            Ok(answer) => panic!("not acknowledged: {}: {}", answer.status, answer.text()),
            Err(error) => panic!("not acknowledged: {error}; it says {}", node.http.status()),
        };
        let mut all = self.nodes.iter().map(|node| {
            node.http.wait_for(end);
            (node.http.rows(ROWS), node.http.rows(ACCOUNTS))
        });
        let first = all.next().expect("there are nodes");
        let faults = account.check(&first.0, &first.1);
        for other in all {
            assert!(other == first, "the nodes differ");
        }
        faults
    }
}

/// How long an operator waits for a failover before looking for who is missing.
const NOBODY_FOR: Duration = Duration::from_secs(15);

/// So many looks after one another at a node that does not follow, it is told to.
const TOLD_EVERY: u64 = 200;

fn url(mesh: &Mesh, at: usize) -> String {
    format!("postgres://mainstay@{}", mesh.address(at))
}

/// Fails when two nodes say that they are the primary of timelines of the same number.
fn two_primaries_of_one_number(all: &[Value]) {
    let primaries = all.iter().filter(|one| one["role"] == "primary");
    let mut numbers = primaries
        .map(|one| one["timeline"].clone())
        .collect::<Vec<_>>();
    let count = numbers.len();
    numbers.dedup();
    assert_eq!(
        numbers.len(),
        count,
        "two primaries of one timeline: {all:#?}"
    );
}
