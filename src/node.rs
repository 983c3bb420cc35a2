//! A stand-in for the node, in memory, with the face of the real one.
#![allow(missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use mainstay_storage::{Lsn, SegmentSize, Timeline};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::{Level, OnMiss, SyncPolicy};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Storage(#[from] mainstay_storage::Error),
    #[error("this node is not the primary, so it accepts no writes; the primary is {}", primary.as_deref().unwrap_or("not known here"))]
    NotPrimary { primary: Option<String> },
    #[error(
        "the outcome of the commit at {lsn} is unknown: {why}. Ask again with wait_for, or read the data"
    )]
    Unknown { lsn: Lsn, why: String },
    #[error("{lsn} was not reached here within the time given; this node is at {at}")]
    TimedOut { lsn: Lsn, at: Lsn },
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Config(String),
    #[error("refused: {0}")]
    Refused(String),
    #[error("stopped")]
    Stopped,
}

#[derive(Debug, Clone)]
pub struct Receipt {
    pub lsn: Lsn,
    pub timeline: Timeline,
    pub level: Level,
    pub standbys: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Promoted {
    pub promoted: bool,
    pub new_primary_name: String,
    pub timeline: u32,
    pub lsn: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    pub name: String,
    pub node_id: String,
    pub system_id: String,
    pub role: String,
    pub timeline: u32,
    pub promotion_id: String,
    pub status: String,
    pub lsn: Positions,
    pub standbys: Vec<StandbyStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Positions {
    pub appended: String,
    pub written: String,
    pub flushed: String,
    pub commit: String,
    pub applied: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct StandbyStatus {
    pub name: String,
    pub node_id: String,
    pub state: String,
    pub sync_state: String,
    pub sent_lsn: String,
    pub write_lsn: String,
    pub flush_lsn: String,
    pub replay_lsn: String,
    pub lag_bytes: u64,
    pub write_lag_ms: f64,
    pub flush_lag_ms: f64,
    pub replay_lag_ms: f64,
    pub last_contact_ms: u64,
}

type Row = (String, Vec<u8>);
type Rows = BTreeMap<Row, Bytes>;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Commit {
    lsn: u64,
    ops: Vec<(String, String, Option<String>)>,
}

#[derive(Debug)]
struct State {
    rows: Rows,
    log: Vec<Commit>,
    primary: bool,
    timeline: u32,
    follow: Option<String>,
    acks: HashMap<String, u64>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    needed: usize,
    addr: Option<SocketAddr>,
    state: std::sync::Mutex<State>,
    end: watch::Sender<u64>,
    acked: watch::Sender<u64>,
    target: watch::Sender<u64>,
    stopped: watch::Sender<bool>,
}

#[derive(Debug, Clone)]
pub struct Node(Arc<Inner>);

#[derive(Debug, Default)]
pub struct NodeBuilder {
    name: String,
    listen: Option<String>,
    follow: Option<String>,
    sync: SyncPolicy,
}

impl NodeBuilder {
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    pub fn listen(mut self, listen: impl Into<String>) -> Self {
        self.listen = Some(listen.into());
        self
    }
    pub fn advertise(self, _advertise: impl Into<String>) -> Self {
        self
    }
    pub fn follow(mut self, url: impl Into<String>) -> Self {
        self.follow = Some(url.into());
        self
    }
    pub fn sync(mut self, policy: SyncPolicy) -> Self {
        self.sync = policy;
        self
    }
    pub fn on_miss(self, _on_miss: OnMiss) -> Self {
        self
    }
    pub fn accept_loss_from(self, _from: Lsn) -> Self {
        self
    }
    pub fn cluster_name(self, _name: impl Into<String>) -> Self {
        self
    }
    pub fn slot(self, _name: impl Into<String>) -> Self {
        self
    }
    pub fn password(self, _password: impl Into<String>) -> Self {
        self
    }
    pub fn upstream_password(self, _password: impl Into<String>) -> Self {
        self
    }
    pub fn segment_size(self, _size: SegmentSize) -> Self {
        self
    }
    pub fn wal_keep_size(self, _bytes: u64) -> Self {
        self
    }
    pub fn slot_keep_size_max(self, _bytes: u64) -> Self {
        self
    }

    pub async fn start(self) -> Result<Node> {
        let failed = |error: std::io::Error| Error::Config(error.to_string());
        let listener = match &self.listen {
            Some(listen) => Some(TcpListener::bind(listen).await.map_err(failed)?),
            None => None,
        };
        let addr = listener.as_ref().and_then(|it| it.local_addr().ok());
        let node = Node(Arc::new(Inner {
            name: self.name,
            needed: self.sync.needed(),
            addr,
            state: std::sync::Mutex::new(State {
                rows: BTreeMap::new(),
                log: Vec::new(),
                primary: self.follow.is_none(),
                timeline: 1,
                follow: self.follow,
                acks: HashMap::new(),
            }),
            end: watch::Sender::new(0),
            acked: watch::Sender::new(0),
            target: watch::Sender::new(0),
            stopped: watch::Sender::new(false),
        }));
        if let Some(listener) = listener {
            tokio::spawn(serve(node.clone(), listener));
        }
        tokio::spawn(follow(node.clone()));
        Ok(node)
    }
}

async fn serve(node: Node, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(send(node.clone(), stream));
    }
}

async fn send(node: Node, stream: TcpStream) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let name = lines.next_line().await?.unwrap_or_default();
    let from = lines.next_line().await?.unwrap_or_default();
    let mut at = from.parse::<usize>().unwrap_or(0);
    node.0.state.lock().unwrap().acks.insert(name.clone(), 0);
    let acks = node.clone();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let mut state = acks.0.state.lock().unwrap();
            state.acks.insert(name.clone(), line.parse().unwrap_or(0));
            let mut all = state.acks.values().copied().collect::<Vec<_>>();
            all.sort_unstable_by(|a, b| b.cmp(a));
            if let Some(lsn) = acks.0.needed.checked_sub(1).and_then(|at| all.get(at)) {
                acks.0.acked.send_replace(*lsn);
            }
        }
    });
    let mut end = node.0.end.subscribe();
    loop {
        let batch = node.0.state.lock().unwrap().log[at..].to_vec();
        at += batch.len();
        let mut bytes = Vec::new();
        for commit in batch {
            bytes.extend(serde_json::to_vec(&commit).unwrap());
            bytes.push(b'\n');
        }
        write.write_all(&bytes).await?;
        if end.changed().await.is_err() {
            return Ok(());
        }
    }
}

async fn follow(node: Node) {
    let mut target = node.0.target.subscribe();
    loop {
        let url = {
            let state = node.0.state.lock().unwrap();
            state.follow.clone().filter(|_| !state.primary)
        };
        let addr = url.as_deref().and_then(|url| url.rsplit(['@', '/']).next());
        tokio::select! {
            _ = async { match addr {
                Some(addr) => { let _ = receive(&node, addr).await; }
                None => std::future::pending().await,
            } } => tokio::time::sleep(Duration::from_millis(20)).await,
            _ = target.changed() => {}
        }
    }
}

async fn receive(node: &Node, addr: &str) -> std::io::Result<()> {
    let stream = TcpStream::connect(addr).await?;
    let _ = stream.set_nodelay(true);
    let (read, mut write) = stream.into_split();
    let at = node.0.state.lock().unwrap().log.len();
    let hello = format!("{}\n{at}\n", node.0.name);
    write.write_all(hello.as_bytes()).await?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let commit: Commit = serde_json::from_str(&line)?;
        let lsn = commit.lsn;
        apply(&mut node.0.state.lock().unwrap(), commit);
        node.0.end.send_replace(lsn);
        write.write_all(format!("{lsn}\n").as_bytes()).await?;
    }
    Ok(())
}

fn apply(state: &mut State, commit: Commit) {
    for (table, key, value) in &commit.ops {
        let key = (table.clone(), BASE64_STANDARD.decode(key).unwrap());
        match value {
            Some(value) => {
                let value = BASE64_STANDARD.decode(value).unwrap().into();
                state.rows.insert(key, value);
            }
            None => drop(state.rows.remove(&key)),
        }
    }
    state.log.push(commit);
}

#[derive(Debug)]
pub struct WriteTransaction {
    node: Node,
    ops: Vec<(String, String, Option<String>)>,
}

impl WriteTransaction {
    pub fn put(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<()> {
        mainstay_storage::check_key(key)?;
        let (key, value) = (BASE64_STANDARD.encode(key), BASE64_STANDARD.encode(value));
        self.ops.push((table.to_owned(), key, Some(value)));
        Ok(())
    }

    pub fn delete(&mut self, table: &str, key: &[u8]) -> Result<()> {
        mainstay_storage::check_key(key)?;
        self.ops
            .push((table.to_owned(), BASE64_STANDARD.encode(key), None));
        Ok(())
    }

    pub async fn commit(self) -> Result<Receipt> {
        self.commit_at(Level::RemoteFlush).await
    }

    pub async fn commit_at(self, level: Level) -> Result<Receipt> {
        let inner = self.node.0;
        let (lsn, timeline) = {
            let mut state = inner.state.lock().unwrap();
            if !state.primary {
                return Err(Error::NotPrimary {
                    primary: state.follow.clone(),
                });
            }
            let lsn = 0x100_0000 + (state.log.len() as u64 + 1) * 64;
            apply(&mut state, Commit { lsn, ops: self.ops });
            inner.end.send_replace(lsn);
            (lsn, state.timeline)
        };
        if inner.needed > 0 {
            let _ = inner
                .acked
                .subscribe()
                .wait_for(|acked| *acked >= lsn)
                .await;
        }
        let timeline = Timeline {
            number: timeline,
            id: uuid::Uuid::nil(),
        };
        Ok(Receipt {
            lsn: Lsn::new(lsn),
            timeline,
            level,
            standbys: Vec::new(),
        })
    }
}

#[derive(Debug)]
pub struct Snapshot {
    rows: Rows,
    lsn: Lsn,
}

pub type ScanRows =
    Box<dyn Iterator<Item = Result<(Bytes, Bytes), mainstay_storage::Error>> + Send>;

impl Snapshot {
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>> {
        mainstay_storage::check_key(key)?;
        Ok(self.rows.get(&(table.to_owned(), key.to_vec())).cloned())
    }

    pub fn scan<'a>(&self, table: &str, range: impl RangeBounds<&'a [u8]>) -> Result<ScanRows> {
        let rows = self.rows.iter().filter(|((of, key), _)| {
            of == table && RangeBounds::<&[u8]>::contains(&range, &key.as_slice())
        });
        let rows = rows.map(|((_, key), value)| Ok((Bytes::from(key.clone()), value.clone())));
        Ok(Box::new(rows.collect::<Vec<_>>().into_iter()))
    }
}

impl Node {
    pub fn builder(_dir: impl AsRef<Path>) -> NodeBuilder {
        NodeBuilder::default()
    }

    pub async fn put(&self, table: &str, key: &[u8], value: &[u8]) -> Result<Receipt> {
        let mut tx = self.begin()?;
        tx.put(table, key, value)?;
        tx.commit().await
    }

    pub async fn delete(&self, table: &str, key: &[u8]) -> Result<Receipt> {
        let mut tx = self.begin()?;
        tx.delete(table, key)?;
        tx.commit().await
    }

    pub fn begin(&self) -> Result<WriteTransaction> {
        if *self.0.stopped.borrow() {
            return Err(Error::Stopped);
        }
        Ok(WriteTransaction {
            node: self.clone(),
            ops: Vec::new(),
        })
    }

    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>> {
        mainstay_storage::check_key(key)?;
        let state = self.0.state.lock().unwrap();
        Ok(state.rows.get(&(table.to_owned(), key.to_vec())).cloned())
    }

    pub fn snapshot(&self) -> Result<Snapshot> {
        if *self.0.stopped.borrow() {
            return Err(Error::Stopped);
        }
        let state = self.0.state.lock().unwrap();
        Ok(Snapshot {
            rows: state.rows.clone(),
            lsn: Lsn::new(*self.0.end.borrow()),
        })
    }

    pub async fn wait_for(&self, lsn: Lsn, timeout: Duration) -> Result<()> {
        let mut end = self.0.end.subscribe();
        let reached = end.wait_for(|end| *end >= lsn.get());
        let reached = tokio::time::timeout(timeout, reached).await.is_ok();
        let at = Lsn::new(*self.0.end.borrow());
        if reached {
            Ok(())
        } else {
            Err(Error::TimedOut { lsn, at })
        }
    }

    pub fn status(&self) -> NodeStatus {
        let state = self.0.state.lock().unwrap();
        let end = *self.0.end.borrow();
        let lsn = Lsn::new(end).to_string();
        let at = || lsn.clone();
        NodeStatus {
            name: self.0.name.clone(),
            node_id: uuid::Uuid::nil().to_string(),
            system_id: "1".to_owned(),
            role: if state.primary { "primary" } else { "standby" }.to_owned(),
            timeline: state.timeline,
            promotion_id: uuid::Uuid::nil().to_string(),
            status: "synchronized".to_owned(),
            lsn: Positions {
                appended: at(),
                written: at(),
                flushed: at(),
                commit: at(),
                applied: at(),
            },
            standbys: state
                .acks
                .iter()
                .map(|(name, acked)| standby(name, *acked, end))
                .collect(),
        }
    }

    pub async fn promote(&self, _force: bool) -> Result<Promoted> {
        let mut state = self.0.state.lock().unwrap();
        if state.primary {
            return Err(Error::Refused("this node is the primary already".into()));
        }
        (state.primary, state.follow) = (true, None);
        state.timeline += 1;
        self.0.target.send_modify(|count| *count += 1);
        let lsn = Lsn::new(*self.0.end.borrow()).to_string();
        let (new_primary_name, timeline) = (self.0.name.clone(), state.timeline);
        Ok(Promoted {
            promoted: true,
            new_primary_name,
            timeline,
            lsn,
        })
    }

    pub async fn follow(&self, url: &str) -> Result<()> {
        if !url.starts_with("postgres://") {
            return Err(Error::Usage(format!("{url:?} is not a postgres:// URL")));
        }
        let mut state = self.0.state.lock().unwrap();
        (state.primary, state.follow) = (false, Some(url.to_owned()));
        self.0.target.send_modify(|count| *count += 1);
        Ok(())
    }

    pub async fn stop(&self) -> Result<()> {
        self.0.stopped.send_replace(true);
        Ok(())
    }

    pub fn listen_addr(&self) -> Option<SocketAddr> {
        self.0.addr
    }
}

fn standby(name: &str, acked: u64, end: u64) -> StandbyStatus {
    let at = Lsn::new(acked).to_string();
    StandbyStatus {
        name: name.to_owned(),
        node_id: uuid::Uuid::nil().to_string(),
        state: "streaming".to_owned(),
        sync_state: "quorum".to_owned(),
        sent_lsn: at.clone(),
        write_lsn: at.clone(),
        flush_lsn: at.clone(),
        replay_lsn: at,
        lag_bytes: end.saturating_sub(acked),
        write_lag_ms: 0.0,
        flush_lag_ms: 0.0,
        replay_lag_ms: 0.0,
        last_contact_ms: 0,
    }
}
