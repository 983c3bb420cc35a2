//! The cluster that the network is tried on: what its nodes do, and what must hold at every step.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mainstay_storage::{
    Change, Error, LogBytes, Lsn, MemoryReader, MemoryStore, NewLog, ReadAt, SegmentSize, SimDisk,
    Wal, WalEntry, WalOptions,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use turmoil::Sim;

use crate::protocol::level::Level;
use crate::wire::scram::Verifier;
use crate::{Password, WalReplicator, WalStreamingConfig};

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

/// Virtual time of one step, in which a disk does at most one piece of work.
pub(super) const TICK: Duration = Duration::from_millis(5);

const PORT: u16 = 5433;
const TABLE: u32 = 7;

/// Writers on the primary.
const WRITERS: u64 = 2;

/// Virtual time for which a standby that is started again is down.
const DOWN: Duration = Duration::from_millis(300);

/// Real time that a standby's thread may take to apply what it has.
const APPLIED_MAX: Duration = Duration::from_secs(60);

struct Node {
    replicator: WalReplicator,
    wal: Wal,
    rows: MemoryReader,
    /// The highest commit position that was seen here.
    commit: AtomicU64,
    was_connected: AtomicUsize,
}

/// An entry whose commit was acknowledged: where it starts, and its key.
type Acknowledged = (Lsn, [u8; 8]);

pub(super) struct Cluster {
    nodes: [Arc<Node>; 3],
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    writing: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    /// Writers that had their last entry acknowledged.
    written: Arc<AtomicU64>,
    /// How often each node was told to stop and start.
    restarts: [watch::Sender<u64>; 3],
    lost_connections: AtomicUsize,
}

fn user() -> (String, Verifier) {
    let verifier = Verifier::from_password("secret", b"0123456789abcdef", 1);
    ("mainstay".to_owned(), verifier)
}

fn config(name: &str, follow: Option<&str>) -> WalStreamingConfig {
    let primary = follow.is_none();
    WalStreamingConfig {
        name: name.to_owned(),
        listen: Some(format!("0.0.0.0:{PORT}")),
        advertise: Some(format!("{name}:{PORT}")),
        follow: follow
            .map(|name| format!("{name}:{PORT}"))
            .into_iter()
            .collect(),
        follow_password: Some(Password::new("secret")),
        users: vec![user()],
        sync: primary.then(|| "ANY 1 (*)".parse().expect("a policy")),
        heartbeat_interval: Duration::from_millis(500),
        heartbeat_timeout: Duration::from_secs(3),
        batch_size: 4 << 10,
        segment_size: SegmentSize::MIN,
        ..WalStreamingConfig::default()
    }
}

impl Node {
    fn new(number: u64, new: &NewLog, follow: Option<&str>) -> Self {
        let disk = Arc::new(SimDisk::new(number));
        let options = WalOptions {
            segment_size: SegmentSize::MIN,
            // Some of what a standby missed is read from the files again.
            tail_bytes: 8 << 10,
            driven: true,
            ..WalOptions::new(|| 7)
        };
        let new = NewLog {
            node_id: NewLog::new_cluster(SegmentSize::MIN).node_id,
            own: follow.is_none(),
            ..new.clone()
        };
        let wal = Wal::create(disk.clone(), Path::new("/node"), new, &options).unwrap();
        let store = MemoryStore::new(disk);
        let rows = store.reader();
        let name = NAMES[usize::try_from(number).expect("below three")];
        let copy = |_: &Path| Err(Error::Closed);
        let config = config(name, follow);
        let replicator = WalReplicator::with_engine(config, wal.clone(), Box::new(store), copy);
        Self {
            replicator,
            wal,
            rows,
            commit: AtomicU64::new(0),
            was_connected: AtomicUsize::new(0),
        }
    }
}

impl Cluster {
    /// One primary and two standbys of it, or with `cascade` a standby and one that follows that.
    pub(super) fn start(sim: &mut Sim<'_>, cascade: bool) -> Self {
        let new = NewLog::new_cluster(SegmentSize::MIN);
        let follow = [None, Some("a"), Some(if cascade { "b" } else { "a" })];
        let nodes = [0, 1, 2].map(|n| Arc::new(Node::new(n as u64, &new, follow[n])));
        let cluster = Self {
            nodes,
            acknowledged: Arc::default(),
            writing: watch::Sender::new(true),
            stopping: watch::Sender::new(false),
            written: Arc::default(),
            restarts: [(); 3].map(|()| watch::Sender::new(0)),
            lost_connections: AtomicUsize::new(0),
        };
        for (number, name) in NAMES.into_iter().enumerate() {
            let node = cluster.nodes[number].clone();
            let stopping = cluster.stopping.clone();
            let restarts = cluster.restarts[number].clone();
            let writers = cluster.writers();
            sim.host(name, move || {
                let node = node.clone();
                let (stopping, restarts) = (stopping.subscribe(), restarts.subscribe());
                let writers = (number == 0).then(|| writers.clone());
                async move {
                    match writers {
                        Some(writers) => be_primary(&node.replicator, writers, stopping).await?,
                        None => be_standby(&node.replicator, restarts, stopping).await?,
                    }
                    Ok(())
                }
            });
        }
        cluster
    }

    fn writers(&self) -> Writers {
        Writers {
            nodes: self.nodes.clone(),
            acknowledged: self.acknowledged.clone(),
            writing: self.writing.clone(),
            written: self.written.clone(),
        }
    }

    /// A little virtual time goes by; then each disk does a piece of work, and the invariants hold.
    pub(super) fn step(&self, sim: &mut Sim<'_>) {
        sim.step().unwrap();
        let mut commits = Vec::new();
        for node in &self.nodes {
            node.wal.drive();
            let commit = node.wal.commit().get();
            let before = node.commit.swap(commit.get(), Ordering::Relaxed);
            assert!(commit.get() >= before, "a commit position went back");
            assert!(commit <= node.wal.flushed().get());
            commits.push(commit);
            let connected = usize::from(node.replicator.is_connected());
            let was = node.was_connected.swap(connected, Ordering::Relaxed);
            if was > connected {
                self.lost_connections.fetch_add(1, Ordering::Relaxed);
            }
        }
        assert!(
            commits.iter().all(|commit| *commit <= commits[0]),
            "a standby believes more committed than its primary: {self:?}"
        );
    }

    /// Stops and starts a standby; the primary goes on.
    pub(super) fn restart(&self, name: &str) {
        let number = NAMES.iter().position(|it| *it == name);
        self.restarts[number.expect("a node")].send_modify(|times| *times += 1);
    }

    /// Each writer appends one entry more.
    pub(super) fn end_writing(&self) {
        self.writing.send_replace(false);
    }

    pub(super) fn has_converged(&self) -> bool {
        let end = self.nodes[0].wal.appended();
        let here =
            |node: &Arc<Node>| node.replicator.is_running() && node.wal.commit().get() == end;
        self.written.load(Ordering::Relaxed) == WRITERS && self.nodes.iter().all(here)
    }

    /// Every standby has the primary's log, byte by byte, and every acknowledged row in its store.
    pub(super) fn check(&self) {
        let acknowledged = self.acknowledged.lock();
        let log = log(&self.nodes[0].wal);
        for node in &self.nodes[1..] {
            assert!(log == self::log(&node.wal), "the logs differ: {self:?}");
            let last = acknowledged.iter().map(|(lsn, _)| *lsn + 1).max().unwrap();
            let applied = node.replicator.applied().unwrap();
            applied.wait_blocking(last, Some(APPLIED_MAX)).unwrap();
            for (lsn, key) in &*acknowledged {
                let row = node.rows.get(TABLE, key, node.rows.applied()).unwrap();
                assert!(row.is_some(), "what was acknowledged at {lsn} is not there");
            }
        }
    }

    pub(super) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.lock().len()
    }

    pub(super) fn lost_connections(&self) -> usize {
        self.lost_connections.load(Ordering::Relaxed)
    }
}

/// What the primary does until it is to stop.
async fn be_primary(
    replicator: &WalReplicator,
    writers: Writers,
    mut stopping: watch::Receiver<bool>,
) -> crate::Result<()> {
    replicator.start().await?;
    writers.run().await;
    // The sender outlives the network.
    let _ = stopping.wait_for(|stopping| *stopping).await;
    replicator.stop().await
}

/// What a standby does until it is to stop.
async fn be_standby(
    replicator: &WalReplicator,
    mut restarts: watch::Receiver<u64>,
    mut stopping: watch::Receiver<bool>,
) -> crate::Result<()> {
    loop {
        replicator.start().await?;
        let stops = tokio::select! {
            _ = restarts.changed() => false,
            _ = stopping.wait_for(|stopping| *stopping) => true,
        };
        replicator.stop().await?;
        if stops {
            return Ok(());
        }
        tokio::time::sleep(DOWN).await;
    }
}

fn log(wal: &Wal) -> Vec<u8> {
    let (mut at, end) = (wal.oldest(), wal.flushed().get());
    let (mut bytes, mut all) = (LogBytes::new(wal.clone()), Vec::new());
    while at < end {
        let more = bytes.read(at, end, 1 << 20).unwrap();
        at = at + more.len() as u64;
        all.extend_from_slice(&more);
    }
    all
}

/// Those who write on the primary, each one entry after the other.
#[derive(Clone)]
struct Writers {
    nodes: [Arc<Node>; 3],
    acknowledged: Arc<Mutex<Vec<Acknowledged>>>,
    writing: watch::Sender<bool>,
    written: Arc<AtomicU64>,
}

impl Writers {
    async fn run(&self) {
        tokio::join!(self.write(0), self.write(1));
    }

    async fn write(&self, writer: u64) {
        let mut key = writer;
        loop {
            let last = !*self.writing.borrow();
            self.commit(key.to_be_bytes()).await;
            if last {
                self.written.fetch_add(1, Ordering::Relaxed);
                return;
            }
            key += WRITERS;
            tokio::time::sleep(Duration::from_millis(20 + key % 7 * 15)).await;
        }
    }

    /// Commits one row, and sees that what is acknowledged is where the policy wants it.
    async fn commit(&self, key: [u8; 8]) {
        let [primary, standbys @ ..] = &self.nodes;
        let len = usize::from(key[7]) * 23;
        let change = Change::put(TABLE, key.to_vec(), vec![key[7]; len]);
        let entry = WalEntry::new(change.entry_type(), None, change.encode());
        let lsn = primary.replicator.append(entry).await.unwrap();
        let waited = primary.replicator.wait_for(lsn, Level::RemoteFlush);
        waited.await.unwrap();
        let has = |node: &Arc<Node>| node.wal.flushed().get() > lsn;
        assert!(
            has(primary) && standbys.iter().any(has),
            "{lsn} is nowhere else"
        );
        self.acknowledged.lock().push((lsn, key));
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, node) in NAMES.iter().zip(&self.nodes) {
            let (wal, connected) = (&node.wal, node.replicator.is_connected());
            let positions = [wal.appended(), wal.flushed().get(), wal.commit().get()];
            write!(f, "{name} {positions:?} connected {connected}; ")?;
        }
        write!(f, "{} acknowledged", self.acknowledged())
    }
}
