//! Clients that write and read a cluster at random, and tell the account of it.
//!
//! A write is unknown exactly when its answer says so or did not come; every other refusal says
//! that nothing was done, and is taken at its word.

use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::json;

use super::account::{Account, Placed, Reign};
use super::member::Line;
use super::{Op, OpId, Outcome, Value};
use crate::sim::random::Random;
use crate::support::{Answer, DEADLINE, Http, LOOK_EVERY, lsn};

pub(super) const TABLE: &str = "t";

/// Keys that all clients share.
const KEYS: u64 = 8;

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
        self.account.stop();
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
    /// To where the primary takes transactions, once there was one to be asked for.
    line: Option<Line>,
    /// What its last read of the primary showed.
    seen: Option<Option<Value>>,
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
            line: None,
            seen: None,
            nodes: nodes.iter().map(|node| (Http::new(node), 0)).collect(),
        }
    }

    fn run(&mut self, mut random: Random) {
        for count in 1.. {
            if self.account.is_stopped() {
                return;
            }
            self.look_who_reigns();
            let value = self.number as u64 * 1_000_000 + count;
            let key = random.below(KEYS);
            let other = (key + 1 + random.below(KEYS - 1)) % KEYS;
            let [key, other] = [key, other].map(|key| format!("k{key}"));
            let transactions = self.reign.transactions.is_some();
            let next = match random.below(20) {
                0..5 => self.write(&[(key, Op::Put(value))]),
                5..7 => self.write(&[(key, Op::Delete)]),
                7..9 => self.write(&[(key, Op::Put(value)), (other, Op::Put(value))]),
                9 => self.write(&[(key, Op::Put(value)), (other, Op::Delete)]),
                10..14 => self.read(&key),
                14..16 if transactions => self.transact(&key, &Op::Get),
                16..19 if transactions => self.compare_and_set(&key, value),
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
            self.line = None;
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

    /// Reads the primary, and puts `new` if the key still holds that.
    fn compare_and_set(&mut self, key: &str, new: Value) -> Next {
        let next = self.read(key);
        let Some(old) = self.seen.take().filter(|_| next == Next::GoOn) else {
            return next;
        };
        self.transact(key, &Op::CompareAndSet { old, new })
    }

    /// Asks for a transaction that reads and then writes.
    fn transact(&mut self, key: &str, op: &Op) -> Next {
        if self.line.is_none() {
            let address = self.reign.transactions.as_ref().expect("it takes them");
            self.line = Line::to(address).ok();
        }
        // Where nobody listens, nothing was asked.
        let Some(line) = &mut self.line else {
            return Next::Pause;
        };
        let mark = format!("mark{}", self.number);
        let asked = match op {
            Op::CompareAndSet { old, new } => {
                let old = old.map_or("-".to_owned(), |old| old.to_string());
                format!("set {key} {old} {new} {mark}")
            }
            _ => format!("get {key} {mark}"),
        };
        let id = self.account.invoke(self.number, key, op);
        let Ok(answer) = line.ask(&asked) else {
            self.line = None;
            self.unknown(id, key, op);
            return Next::TurnToAnother;
        };
        match answer.split(' ').collect::<Vec<_>>()[..] {
            ["done", said, at] => {
                let value = said.parse::<Value>().ok();
                let outcome = match op {
                    Op::Get => Outcome::Value(value),
                    _ => Outcome::Swapped(said == "true"),
                };
                self.account.returned(id, outcome.clone());
                self.place(lsn(at), key, op.clone(), outcome);
                Next::GoOn
            }
            ["unknown"] => {
                self.unknown(id, key, op);
                Next::Pause
            }
            ["refused"] => {
                self.account.never(id);
                Next::Pause
            }
            _ => panic!("{asked}: {answer}"),
        }
    }

    /// Reads the primary, from where its promotion ended on.
    fn read(&mut self, key: &str) -> Next {
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
        self.seen = Some(value);
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
    let mut reader = Client::new(0, account.clone(), &[]);
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
