//! Clients that write and read a cluster at random, and keep the history of it.
//!
//! What is promised of a read depends on where it is asked, so there are two accounts.
//!
//! * By real time: all writes, and reads of the primary that name the end of its promotion. They
//!   are linearizable as long as nobody was promoted in its place; such a read is left out when that
//!   has happened before its answer was there, since a primary that was replaced may show old data.
//! * By position in the log: all reads of all nodes, however old what they show. Each shows what
//!   the writes up to its position made of its key, and nothing that comes later.
//!
//! A write is unknown exactly when its answer says so or did not come; every other refusal says
//! that nothing was done, and is taken at its word.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{History, Op, OpId, Outcome, Value, Verdict};
use crate::sim::random::Random;
use crate::support::{Answer, DEADLINE, Http, LOOK_EVERY, until};

pub(super) const TABLE: &str = "t";

/// Keys that all clients share.
const KEYS: u64 = 8;

/// Steps for each key of a history.
const STEPS_MAX: u64 = 1_000_000;

/// A node's time as the primary.
#[derive(Debug, Clone)]
pub(super) struct Reign {
    pub(super) number: u64,
    pub(super) address: String,
    /// Where its promotion ended; a node shows everything that was acknowledged before once it
    /// shows this.
    pub(super) from: u64,
}

/// What was done at a known position of the log.
#[derive(Debug)]
struct Placed {
    at: u64,
    client: usize,
    key: String,
    op: Op,
    outcome: Outcome,
}

/// What all clients called and were answered.
#[derive(Debug)]
pub(super) struct Account {
    begun: Instant,
    history: Mutex<History>,
    placed: Mutex<Vec<Placed>>,
    /// Writes that may have taken effect anywhere.
    unplaced: Mutex<Vec<(usize, String, Op)>>,
    reign: Mutex<Reign>,
    changed: Condvar,
    stopped: AtomicBool,
    done: AtomicU64,
}

/// What a check of an account found, and how much there was.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) by_time: Verdict,
    pub(super) by_position: Verdict,
    pub(super) operations: usize,
    pub(super) positions: usize,
    pub(super) unknown: usize,
}

impl Account {
    pub(super) fn new(first: Reign) -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            history: Mutex::default(),
            placed: Mutex::default(),
            unplaced: Mutex::default(),
            reign: Mutex::new(first),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
            done: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).expect("a test is short")
    }

    /// From now on clients turn to another primary.
    pub(super) fn reigns(&self, next: Reign) {
        *self.reign.lock().expect("nobody panics with it") = next;
        self.changed.notify_all();
    }

    fn reign(&self) -> Reign {
        self.reign.lock().expect("nobody panics with it").clone()
    }

    /// Waits until another reigns than `number`, clients are to stop, or the time is up.
    fn wait_for_another(&self, number: u64, within: Duration) {
        let reign = self.reign.lock().expect("nobody panics with it");
        let waits =
            |reign: &mut Reign| reign.number == number && !self.stopped.load(Ordering::Acquire);
        let waited = self.changed.wait_timeout_while(reign, within, waits);
        drop(waited.expect("nobody panics with it"));
    }

    /// Waits until `more` further operations were answered.
    #[track_caller]
    pub(super) fn until_done(&self, more: u64) {
        let goal = self.done.load(Ordering::Acquire) + more;
        until("clients make progress", || {
            self.done.load(Ordering::Acquire) >= goal
        });
    }

    fn invoke(&self, client: usize, key: &str, op: &Op) -> OpId {
        let mut history = self.history.lock().expect("nobody panics with it");
        history.invoke(client, key, op.clone(), self.now())
    }

    fn returned(&self, id: OpId, outcome: Outcome) {
        let mut history = self.history.lock().expect("nobody panics with it");
        history.returned(id, outcome, self.now());
        self.done.fetch_add(1, Ordering::AcqRel);
    }

    fn never(&self, id: OpId) {
        self.history
            .lock()
            .expect("nobody panics with it")
            .never(id);
    }

    fn unknown(&self, id: OpId) {
        self.history
            .lock()
            .expect("nobody panics with it")
            .unknown(id);
    }

    fn place(&self, placed: Placed) {
        self.placed
            .lock()
            .expect("nobody panics with it")
            .push(placed);
    }

    fn unplace(&self, client: usize, key: &str, op: &Op) {
        let mut unplaced = self.unplaced.lock().expect("nobody panics with it");
        unplaced.push((client, key.to_owned(), op.clone()));
    }

    /// Checks both accounts.
    pub(super) fn check(&self) -> Found {
        let mut placed = self.placed.lock().expect("nobody panics with it");
        let unplaced = self.unplaced.lock().expect("nobody panics with it");
        placed.sort_by_key(|one| (one.at, one.op.only_reads()));
        // Positions serve as times: each operation is over before the one behind it begins.
        let mut by_position = History::new();
        for (client, key, op) in unplaced.iter() {
            let id = by_position.invoke(*client, key, op.clone(), 0);
            by_position.unknown(id);
        }
        for one in placed.iter() {
            let id = by_position.invoke(one.client, &one.key, one.op.clone(), one.at);
            by_position.returned(id, one.outcome.clone(), one.at);
        }
        let history = self.history.lock().expect("nobody panics with it");
        Found {
            by_time: history.check(STEPS_MAX),
            by_position: by_position.check(STEPS_MAX),
            operations: history.operations.len(),
            positions: placed.len(),
            unknown: unplaced.len(),
        }
    }
}

/// Threads that are clients until they are stopped.
#[derive(Debug)]
pub(super) struct Clients {
    account: Arc<Account>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts `count` of them; all chance is from `seed`. `nodes` are the addresses of all nodes.
    pub(super) fn start(count: usize, seed: u64, account: &Arc<Account>, nodes: &[String]) -> Self {
        let threads = (1..=count).map(|number| {
            let (account, nodes) = (account.clone(), nodes.to_vec());
            let random = Random::new(seed.wrapping_mul(1_000).wrapping_add(number as u64));
            std::thread::spawn(move || Client::new(number, account, &nodes).run(random))
        });
        Self {
            account: account.clone(),
            threads: threads.collect(),
        }
    }

    /// Ends them after what they are about.
    #[track_caller]
    pub(super) fn stop(self) {
        self.account.stopped.store(true, Ordering::Release);
        self.account.changed.notify_all();
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
    }
}

/// What a client does after an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    /// It was refused: the same primary may do it a little later.
    Pause,
    /// The connection broke.
    TurnToAnother,
}

#[derive(Debug)]
struct Client {
    number: usize,
    account: Arc<Account>,
    reign: Reign,
    primary: Http,
    /// All nodes, and the position that each showed last in this reign.
    nodes: Vec<(Http, u64)>,
}

impl Client {
    fn new(number: usize, account: Arc<Account>, nodes: &[String]) -> Self {
        let reign = account.reign();
        Self {
            number,
            primary: Http::new(&reign.address),
            account,
            reign,
            nodes: nodes.iter().map(|node| (Http::new(node), 0)).collect(),
        }
    }

    fn run(&mut self, mut random: Random) {
        for count in 1.. {
            if self.account.stopped.load(Ordering::Acquire) {
                return;
            }
            self.look_who_reigns();
            let value = self.number as u64 * 1_000_000 + count;
            let key = random.below(KEYS);
            let other = (key + 1 + random.below(KEYS - 1)) % KEYS;
            let [key, other] = [key, other].map(|key| format!("k{key}"));
            let next = match random.below(20) {
                0..5 => self.write(&[(key, Op::Put(value))]),
                5..7 => self.write(&[(key, Op::Delete)]),
                7..9 => self.write(&[(key, Op::Put(value)), (other, Op::Put(value))]),
                9 => self.write(&[(key, Op::Put(value)), (other, Op::Delete)]),
                10..15 => self.read(&key),
                _ => {
                    let node = random.index(self.nodes.len());
                    self.read_any(node, &key)
                }
            };
            match next {
                Next::GoOn => {}
                Next::Pause => self.account.wait_for_another(self.reign.number, LOOK_EVERY),
                Next::TurnToAnother => self.account.wait_for_another(self.reign.number, DEADLINE),
            }
        }
    }

    fn look_who_reigns(&mut self) {
        let reign = self.account.reign();
        if reign.number != self.reign.number {
            self.primary = Http::new(&reign.address);
            self.reign = reign;
            for (_, shown) in &mut self.nodes {
                *shown = 0;
            }
        }
    }

    /// Writes one or several keys in one transaction.
    fn write(&self, ops: &[(String, Op)]) -> Next {
        let begun = ops.iter();
        let begun = begun.map(|(key, op)| self.account.invoke(self.number, key, op));
        let begun = begun.collect::<Vec<_>>();
        let answer = match ops {
            [(key, Op::Put(value))] => {
                let value = value.to_string();
                self.primary.send("PUT", &path(key), value.as_bytes())
            }
            [(key, Op::Delete)] => self.primary.send("DELETE", &path(key), &[]),
            _ => {
                let body = transaction(ops).to_string();
                self.primary
                    .send("POST", "/v1/transactions", body.as_bytes())
            }
        };
        let each = || begun.iter().copied().zip(ops);
        match answer.as_ref().map(|answer| (answer.status, answer)) {
            Ok((200, answer)) => {
                let at = answer.lsn();
                for (id, (key, op)) in each() {
                    self.account.returned(id, Outcome::Done);
                    self.place(at, key, op.clone(), Outcome::Done);
                }
                Next::GoOn
            }
            Ok((409 | 412 | 421 | 503, _)) => {
                begun.iter().for_each(|id| self.account.never(*id));
                Next::Pause
            }
            Ok((status, answer)) if status != 504 => panic!("{status}: {}", answer.text()),
            Ok((_, answer)) => {
                assert_eq!(answer.json()["outcome"], "unknown", "{}", answer.text());
                each().for_each(|(id, (key, op))| self.unknown(id, key, op));
                Next::Pause
            }
            Err(_) => {
                each().for_each(|(id, (key, op))| self.unknown(id, key, op));
                Next::TurnToAnother
            }
        }
    }

    fn unknown(&self, id: OpId, key: &str, op: &Op) {
        self.account.unknown(id);
        self.account.unplace(self.number, key, op);
    }

    fn place(&self, at: u64, key: &str, op: Op, outcome: Outcome) {
        self.account.place(Placed {
            at,
            client: self.number,
            key: key.to_owned(),
            op,
            outcome,
        });
    }

    /// Reads the primary, from where its promotion ended on.
    fn read(&self, key: &str) -> Next {
        let from = mainstay::Lsn::new(self.reign.from);
        let path = format!("{}?min_lsn={from}", path(key));
        let id = self.account.invoke(self.number, key, &Op::Get);
        let Ok(answer) = self.primary.send("GET", &path, &[]) else {
            self.account.unknown(id);
            return Next::TurnToAnother;
        };
        let Some((value, at)) = held(&answer) else {
            self.account.never(id);
            return Next::Pause;
        };
        if self.account.reign().number == self.reign.number {
            self.account.returned(id, Outcome::Value(value));
        } else {
            self.account.unknown(id);
        }
        self.place(at, key, Op::Get, Outcome::Value(value));
        Next::GoOn
    }

    /// Reads any node, whatever it shows.
    fn read_any(&mut self, node: usize, key: &str) -> Next {
        let Ok(answer) = self.nodes[node].0.send("GET", &path(key), &[]) else {
            return Next::Pause;
        };
        let Some((value, at)) = held(&answer) else {
            return Next::Pause;
        };
        self.place(at, key, Op::Get, Outcome::Value(value));
        let shown = &mut self.nodes[node].1;
        // A node that was killed starts again in another reign only.
        if self.account.reign().number == self.reign.number {
            assert!(
                at >= *shown,
                "node {node} showed {shown:X}, and then {at:X}"
            );
            *shown = at;
        }
        Next::GoOn
    }
}

/// Reads all keys of the primary, as one more client.
#[track_caller]
pub(super) fn read_all(account: &Arc<Account>) {
    let reader = Client::new(0, account.clone(), &[]);
    for key in 0..KEYS {
        assert_eq!(reader.read(&format!("k{key}")), Next::GoOn);
    }
}

pub(super) fn path(key: &str) -> String {
    format!("/v1/tables/{TABLE}/keys/{key}")
}

fn transaction(ops: &[(String, Op)]) -> serde_json::Value {
    let ops = ops.iter().map(|(key, op)| match op {
        Op::Put(value) => {
            json!({ "op": "put", "table": TABLE, "key": key, "value": value.to_string() })
        }
        _ => json!({ "op": "delete", "table": TABLE, "key": key }),
    });
    json!({ "ops": ops.collect::<Vec<_>>() })
}

/// What a read showed, and as of where; `None` when it was refused.
pub(super) fn held(answer: &Answer) -> Option<(Option<Value>, u64)> {
    let value = match answer.status {
        200 => Some(answer.text().parse().expect("values here are numbers")),
        404 => None,
        409 | 503 | 504 => return None,
        other => panic!("{other}: {}", answer.text()),
    };
    Some((value, answer.read_at.expect("a read says as of where")))
}
