//! Engines that are libraries of the same process: raft-engine, fjall, redb.
//!
//! `raft-engine` is a log without a store; the others are stores. Each is used as its own
//! documentation says for a commit that must survive a power cut.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use raft_proto::eraftpb::Entry;

use crate::measure::{Figures, Latencies};

/// A sync this often, where commits do not wait for one.
const SYNC_EVERY: Duration = Duration::from_millis(100);

/// Something that makes a batch of rows durable.
trait Engine: Send + Sync {
    /// `client` commits rows with these keys; waits for the disk if `durable`.
    fn commit(&self, client: u64, first: u64, keys: &[[u8; 8]], value: &[u8], durable: bool);
    fn sync(&self) {}
}

struct RaftLog(raft_engine::Engine);

#[derive(Clone)]
struct Entries;

impl raft_engine::MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

impl RaftLog {
    fn open(dir: &Path) -> Self {
        let config = raft_engine::Config {
            dir: dir.join("raft").to_str().expect("text").to_owned(),
            batch_compression_threshold: raft_engine::ReadableSize::kb(0),
            prefill_for_recycle: true,
            prefill_limit: Some(raft_engine::ReadableSize::gb(1)),
            purge_threshold: raft_engine::ReadableSize::gb(1),
            ..raft_engine::Config::default()
        };
        Self(raft_engine::Engine::open(config).expect("an empty directory"))
    }
}

impl Engine for RaftLog {
    fn commit(&self, client: u64, first: u64, keys: &[[u8; 8]], value: &[u8], durable: bool) {
        let entries = (0..keys.len() as u64).map(|at| Entry {
            index: first + at + 1,
            data: value.to_vec().into(),
            ..Entry::default()
        });
        let entries = entries.collect::<Vec<_>>();
        let mut batch = raft_engine::LogBatch::with_capacity(1);
        let added = batch.add_entries::<Entries>(client + 1, &entries);
        added.expect("it fits");
        self.0.write(&mut batch, durable).expect("the disk works");
    }
}

struct Fjall(fjall::Database, fjall::Keyspace);

impl Fjall {
    fn open(dir: &Path) -> Self {
        let database = fjall::Database::builder(dir.join("fjall")).open();
        let database = database.expect("an empty directory");
        let rows = database.keyspace("rows", fjall::KeyspaceCreateOptions::default);
        Self(database, rows.expect("a name"))
    }
}

impl Engine for Fjall {
    fn commit(&self, _: u64, _: u64, keys: &[[u8; 8]], value: &[u8], durable: bool) {
        let mut batch = self.0.batch();
        for key in keys {
            batch.insert(&self.1, key, value);
        }
        batch.commit().expect("the disk works");
        if durable {
            self.sync();
        }
    }

    fn sync(&self) {
        let synced = self.0.persist(fjall::PersistMode::SyncAll);
        synced.expect("the disk works");
    }
}

const ROWS: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("rows");

struct Redb(redb::Database);

impl Engine for Redb {
    fn commit(&self, _: u64, _: u64, keys: &[[u8; 8]], value: &[u8], durable: bool) {
        let mut transaction = self.0.begin_write().expect("it is open");
        let durability = match durable {
            true => redb::Durability::Immediate,
            false => redb::Durability::None,
        };
        transaction
            .set_durability(durability)
            .expect("no savepoints");
        {
            let mut rows = transaction.open_table(ROWS).expect("it is open");
            for key in keys {
                rows.insert(&key[..], value).expect("it fits");
            }
        }
        transaction.commit().expect("the disk works");
    }
}

fn open(engine: &str, dir: &Path) -> Arc<dyn Engine> {
    match engine {
        "raft-engine" => Arc::new(RaftLog::open(dir)),
        "fjall" => Arc::new(Fjall::open(dir)),
        "redb" => {
            let database = redb::Database::create(dir.join("rows.redb"));
            Arc::new(Redb(database.expect("an empty directory")))
        }
        other => panic!("no engine {other}"),
    }
}

/// What clients of an engine do.
#[derive(Debug, Copy, Clone)]
pub(crate) struct Load {
    pub(crate) clients: u64,
    pub(crate) rows: u64,
    /// Wait for the disk at each commit, or have it synced now and then.
    pub(crate) durable: bool,
    pub(crate) ordered: bool,
}

/// Rows of 100 bytes a second, by `engine` in an empty directory.
pub(crate) fn run(engine: &str, dir: &Path, load: Load, seconds: f64) -> Figures {
    let opened = open(engine, dir);
    let (stop, next) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let begun = Instant::now();
    let clients = (0..load.clients).map(|client| {
        let (engine, stop, next) = (opened.clone(), stop.clone(), next.clone());
        std::thread::spawn(move || serve(&*engine, client, load, &stop, &next))
    });
    let clients = clients.collect::<Vec<_>>();
    std::thread::sleep(Duration::from_secs_f64(seconds));
    stop.store(true, Ordering::Relaxed);
    let mut all = Latencies::default();
    for client in clients {
        all.extend(client.join().expect("no client fails"));
    }
    opened.sync();
    let rate = (all.len() as u64 * load.rows) as f64 / begun.elapsed().as_secs_f64();
    let mut figures = Figures::of(rate);
    for (name, micros) in all.percentiles() {
        figures = figures.with(name, micros);
    }
    figures
}

fn serve(
    engine: &dyn Engine,
    client: u64,
    load: Load,
    stop: &AtomicBool,
    next: &AtomicU64,
) -> Latencies {
    let (mut all, value, mut first) = (Latencies::default(), [7; 100], 0);
    let mut synced = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let base = next.fetch_add(load.rows, Ordering::Relaxed);
        let keys = (base..base + load.rows).map(|row| match load.ordered {
            true => row.to_be_bytes(),
            false => row.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes(),
        });
        let keys = keys.collect::<Vec<_>>();
        let begun = Instant::now();
        engine.commit(client, first, &keys, &value, load.durable);
        first += load.rows;
        all.record(begun.elapsed());
        if !load.durable && synced.elapsed() > SYNC_EVERY {
            engine.sync();
            synced = Instant::now();
        }
    }
    all
}
