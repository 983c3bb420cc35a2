//! Clients outside of the cluster: writers that go where they are answered, and a reader.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::account::{ACCOUNTS, Account, Fate, Sent, operations};
use crate::support::{DEADLINE, Http, LOOK_EVERY};

/// Clients that write at the same time.
pub(super) const WRITERS: usize = 6;

/// How long a client waits for an answer. It is not known then what became of the request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Rest of a writer that was not answered well, and of the reader between two looks.
const REST: Duration = Duration::from_millis(10);

/// Where the nodes are for clients; one that was started again is somewhere else.
#[derive(Debug, Default)]
pub(super) struct Directory {
    nodes: Mutex<Vec<Http>>,
}

impl Directory {
    pub(super) fn list(&self, addresses: impl Iterator<Item = String>) {
        let nodes = addresses.map(|address| Http::with_patience(&address, PATIENCE));
        *self.nodes.lock().expect("nobody panics with it") = nodes.collect();
    }

    fn node(&self, at: usize) -> Http {
        let nodes = self.nodes.lock().expect("nobody panics with it");
        nodes[at % nodes.len()].clone()
    }
}

#[derive(Debug)]
struct Shared {
    account: Arc<Account>,
    directory: Arc<Directory>,
    stop: AtomicBool,
    stopped: (Mutex<()>, Condvar),
}

/// Threads that write and read until they are stopped.
#[derive(Debug)]
pub(super) struct Clients {
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Clients {
    pub(super) fn start(account: &Arc<Account>, directory: &Arc<Directory>) -> Self {
        let shared = Arc::new(Shared {
            account: account.clone(),
            directory: directory.clone(),
            stop: AtomicBool::new(false),
            stopped: Default::default(),
        });
        let writer = |writer: usize| {
            let shared = shared.clone();
            std::thread::spawn(move || write(writer, &shared))
        };
        let mut threads = (0..WRITERS).map(writer).collect::<Vec<_>>();
        let reader = shared.clone();
        threads.push(std::thread::spawn(move || read(&reader)));
        Self { threads, shared }
    }

    /// Waits until `more` further transactions are acknowledged.
    #[track_caller]
    pub(super) fn until_acknowledged(&self, more: u64) {
        let there = self.acknowledges_within(more, DEADLINE);
        assert!(there, "timed out waiting: the clients make no progress");
    }

    /// Waits until `more` further transactions are acknowledged, at most so long; says whether they
    /// were.
    pub(super) fn acknowledges_within(&self, more: u64, at_most: Duration) -> bool {
        let (begun, goal) = (Instant::now(), self.shared.account.acknowledged() + more);
        while self.shared.account.acknowledged() < goal {
            if begun.elapsed() > at_most {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }

    /// Ends them after what they are about.
    pub(super) fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.stopped.1.notify_all();
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
    }
}

impl Shared {
    fn ends(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn rest(&self) {
        let guard = self.stopped.0.lock().expect("nobody panics with it");
        let rested = self.stopped.1.wait_timeout(guard, REST);
        drop(rested.expect("nobody panics with it"));
    }
}

fn write(writer: usize, shared: &Shared) {
    let mut at = 0;
    while !shared.ends() {
        let sent = shared.account.begin(writer);
        let fate = send(sent, &shared.directory.node(at), &shared.account);
        shared.account.answered(sent, fate);
        if !matches!(fate, Fate::Acknowledged(_)) {
            at += 1;
            shared.rest();
        }
    }
}

/// Sends a transaction, at either level that a failover keeps.
fn send(sent: Sent, http: &Http, account: &Account) -> Fate {
    let level = match sent.1 % 8 {
        0 => "remote_apply",
        _ => "remote_flush",
    };
    let ops = operations(sent).into_iter().map(
        |(table, key, value)| json!({ "op": "put", "table": table, "key": key, "value": value }),
    );
    let body = json!({ "ops": ops.collect::<Vec<_>>(), "level": level }).to_string();
    let Ok(answer) = http.send("POST", "/v1/transactions", body.as_bytes()) else {
        return Fate::Unknown;
    };
    match answer.status {
        200 => {
            let receipt = answer.json();
            if receipt["level"] != level {
                account.fault(format!("{sent:?} asked for {level}: {receipt}"));
            }
            Fate::Acknowledged(answer.lsn())
        }
        // Each of these says that nothing was done.
        409 | 412 | 421 | 503 | 507 => Fate::Refused,
        504 => Fate::Unknown,
        other => {
            account.fault(format!("{sent:?} was answered {other}: {}", answer.text()));
            Fate::Unknown
        }
    }
}

/// Looks at the accounts, now here, now there.
fn read(shared: &Shared) {
    for at in 0.. {
        if shared.ends() {
            return;
        }
        let shown = shared.directory.node(at).try_rows(ACCOUNTS, "committed");
        // One that is gone or not ready shows nothing.
        if let Ok(accounts) = shown {
            shared.account.seen(&accounts);
        }
        shared.rest();
    }
}
