//! `mainstay start`: a node in this process, until it is told to stop.
//!
//! When the node is ready, one line of JSON goes to standard output, so that whoever started it
//! with port 0 learns the addresses; everything after that is log, on standard error.

use std::future::Future;
use std::io::Read as _;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Failure, print};
use crate::config::{Delay, Idle, Settings, Size, Stated, StoreSizes};
use crate::http::{self, HttpOptions};
use crate::{Error, Lsn, Node, OnMiss, SyncPolicy};

/// How long requests that run may go on when the node is told to stop.
const GRACE: Duration = Duration::from_secs(2);

/// How long everything may take when the node is told to stop.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How many heartbeats of a peer have to be missed before it counts as gone.
const HEARTBEATS: u32 = 10;

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Directory that holds this node's log and store; created if missing
    #[arg(long, value_name = "DIR", env = "MAINSTAY_DATA")]
    data: Option<PathBuf>,
    /// The node's name, by which a policy counts it
    #[arg(long, env = "MAINSTAY_NAME")]
    name: Option<String>,
    /// Where standbys and PostgreSQL's tools connect [default: 127.0.0.1:5433]
    #[arg(long, value_name = "HOST:PORT", env = "MAINSTAY_LISTEN")]
    listen: Option<String>,
    /// Where HTTP listens [default: 127.0.0.1:8008]
    #[arg(long, value_name = "HOST:PORT", env = "MAINSTAY_HTTP")]
    http: Option<String>,
    /// Be a standby of postgres://user@host:port[,host:port]
    #[arg(long, value_name = "URL", env = "MAINSTAY_FOLLOW")]
    follow: Option<String>,
    /// Who must confirm a commit: "ANY 1 (b, c)", "FIRST 2 (*)", off
    #[arg(long, value_name = "POLICY", env = "MAINSTAY_SYNC")]
    sync: Option<SyncPolicy>,
    /// When nobody confirms: block, degrade:10s or fail:10s [default: block]
    #[arg(long, value_name = "RULE", env = "MAINSTAY_ON_MISS")]
    on_miss: Option<OnMiss>,
    /// TOML file with any of these; flags and environment win over it
    #[arg(long, value_name = "FILE", env = "MAINSTAY_CONFIG")]
    config: Option<PathBuf>,
    /// Start although the log is damaged, giving up everything from exactly this position on
    #[arg(long, value_name = "LSN")]
    accept_loss_from: Option<Lsn>,
    /// The cluster's name
    #[arg(long, value_name = "NAME", env = "MAINSTAY_CLUSTER")]
    cluster: Option<String>,
    /// The address that other nodes are told, if they cannot use --listen
    #[arg(long, value_name = "HOST:PORT", env = "MAINSTAY_ADVERTISE")]
    advertise: Option<String>,
    /// Replication slot to follow through, created if it does not exist [default: none]
    #[arg(long, value_name = "NAME", env = "MAINSTAY_SLOT")]
    slot: Option<String>,
    /// File whose first line is the password that connections must bring
    #[arg(long, value_name = "FILE", env = "MAINSTAY_PASSWORD_FILE")]
    password_file: Option<PathBuf>,
    /// File whose first line is the password for the node that is followed
    #[arg(long, value_name = "FILE", env = "MAINSTAY_UPSTREAM_PASSWORD_FILE")]
    upstream_password_file: Option<PathBuf>,
    /// As a standby, wait at least this long before applying what is committed
    #[arg(long, value_name = "TIME", env = "MAINSTAY_MIN_APPLY_DELAY")]
    min_apply_delay: Option<Delay>,
    /// File whose first line is the token that HTTP requests must bring
    #[arg(long, value_name = "FILE", env = "MAINSTAY_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Size of a log segment, for a new data directory [default: 16MiB]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_SEGMENT_SIZE")]
    segment_size: Option<Size>,
    /// How much log to keep in any case
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_WAL_KEEP_SIZE")]
    wal_keep_size: Option<Size>,
    /// How much log a slot may hold back at most
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_SLOT_KEEP_SIZE")]
    slot_keep_size: Option<Size>,
    /// How long nobody may use a slot before it is given up [default: for ever]
    #[arg(long, value_name = "TIME", env = "MAINSTAY_SLOT_IDLE_TIMEOUT")]
    slot_idle_timeout: Option<Idle>,
    /// Most replication slots [default: 10]
    #[arg(long, value_name = "N", env = "MAINSTAY_MAX_REPLICATION_SLOTS")]
    max_replication_slots: Option<usize>,
    /// Most streams and base backups that are served at once [default: 10]
    #[arg(long, value_name = "N", env = "MAINSTAY_MAX_WAL_SENDERS")]
    max_wal_senders: Option<usize>,
    /// How long a peer may be silent before it counts as gone [default: 10s]
    #[arg(long, value_name = "TIME", env = "MAINSTAY_HEARTBEAT_TIMEOUT")]
    heartbeat_timeout: Option<Delay>,
    /// The most log that this node may lack when it is promoted [default: any amount]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_MAX_LAG")]
    max_lag: Option<Size>,
    /// As a standby this far behind, copy the upstream's data if that is clearly cheaper than
    /// their log [default: 1GiB]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_REBUILD_FROM")]
    rebuild_from: Option<Size>,
    #[command(flatten)]
    store: StoreSizes,
    /// Stop when standard input ends: for a program that must not leave nodes behind
    #[arg(long)]
    until_stdin_ends: bool,
}

/// Runs the verb.
pub(crate) fn run(args: StartArgs) -> Result<(), Failure> {
    log_to_stderr()?;
    let file = args
        .config
        .as_deref()
        .map(Stated::read)
        .transpose()?
        .unwrap_or_default();
    let until_stdin_ends = args.until_stdin_ends;
    let accept_loss_from = args.accept_loss_from;
    let settings = args.stated().or(file).settle(accept_loss_from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(serve(settings, until_stdin_ends));
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

impl StartArgs {
    fn stated(self) -> Stated {
        Stated {
            cluster: self.cluster,
            data: self.data,
            name: self.name,
            listen: self.listen,
            advertise: self.advertise,
            password_file: self.password_file,
            http: self.http,
            token_file: self.token_file,
            follow: self.follow,
            slot: self.slot,
            upstream_password_file: self.upstream_password_file,
            min_apply_delay: self.min_apply_delay,
            sync: self.sync,
            level: None,
            on_miss: self.on_miss,
            segment_size: self.segment_size,
            wal_keep_size: self.wal_keep_size,
            slot_keep_size: self.slot_keep_size,
            slot_idle_timeout: self.slot_idle_timeout,
            max_replication_slots: self.max_replication_slots,
            max_wal_senders: self.max_wal_senders,
            heartbeat_timeout: self.heartbeat_timeout,
            max_lag: self.max_lag,
            rebuild_from: self.rebuild_from,
            store: self.store,
        }
    }
}

fn log_to_stderr() -> Result<(), Failure> {
    let level = match std::env::var("MAINSTAY_LOG") {
        Ok(level) => level.parse::<tracing::Level>().map_err(|_| {
            let what = "is not a log level; use error, warn, info, debug or trace";
            Failure::usage(format!("MAINSTAY_LOG: {level:?} {what}"))
        })?,
        Err(_) => tracing::Level::INFO,
    };
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr);
    let subscriber = subscriber.with_max_level(level).with_ansi(false).finish();
    // Another one is there already only when this process runs several nodes; it serves as well.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

async fn serve(settings: Settings, until_stdin_ends: bool) -> Result<(), Failure> {
    let stop = Arc::new(Notify::new());
    let mut told = pin!(told_to_stop(stop.clone(), until_stdin_ends)?);
    // Before the data are touched, so that a port in use costs nothing.
    let listener = TcpListener::bind(&settings.http).await.map_err(|error| {
        Failure::failed(format!(
            "cannot listen for HTTP on {}: {error}",
            settings.http
        ))
    })?;
    let http = listener.local_addr()?.to_string();
    let node = tokio::select! {
        node = start_node(&settings) => node?,
        // It may be being filled, which takes long; the next start does that again.
        () = &mut told => {
            tracing::info!("stopped before it was ready");
            return Ok(());
        }
    };
    let options = HttpOptions {
        token: settings.token.clone(),
        level: settings.level,
    };
    let closing = Arc::new(Notify::new());
    let close = closing.clone();
    let server = tokio::spawn(http::serve(
        node.clone(),
        listener,
        options,
        stop,
        async move {
            close.notified().await;
        },
    ));
    let ready = ready(&node, &settings.name, &http);
    tracing::info!(
        "{} is ready: {}, timeline {}, replication on {}, HTTP on {http}",
        settings.name,
        ready["role"].as_str().unwrap_or("?"),
        ready["timeline"],
        ready["replication"].as_str().unwrap_or("no port"),
    );
    print(ready)?;
    told.await;
    tracing::info!("stopping");
    closing.notify_one();
    let stopped = tokio::time::timeout(STOP_MAX, stop_all(&node, server)).await;
    stopped.unwrap_or_else(|_| {
        let seconds = STOP_MAX.as_secs();
        Err(Failure::failed(format!(
            "not everything ended within {seconds} s; it recovers then"
        )))
    })
}

async fn start_node(settings: &Settings) -> Result<Node, Failure> {
    let mut builder = Node::builder(&settings.data)
        .name(&settings.name)
        .listen(&settings.listen)
        .on_miss(settings.on_miss)
        .store(settings.store.clone());
    if let Some(policy) = &settings.sync {
        builder = builder.sync(policy.clone());
    }
    if let Some(advertise) = &settings.advertise {
        builder = builder.advertise(advertise);
    }
    if let Some(url) = &settings.follow {
        builder = builder.follow(url);
    }
    if let Some(lsn) = settings.accept_loss_from {
        builder = builder.accept_loss_from(lsn);
    }
    if let Some(name) = &settings.cluster {
        builder = builder.cluster_name(name);
    }
    if let Some(slot) = &settings.slot {
        builder = builder.slot(slot);
    }
    if let Some(password) = &settings.password {
        builder = builder.password(password);
    }
    if let Some(password) = &settings.upstream_password {
        builder = builder.upstream_password(password);
    }
    if let Some(size) = settings.segment_size {
        builder = builder.segment_size(size);
    }
    if let Some(delay) = settings.min_apply_delay {
        builder = builder.min_apply_delay(delay);
    }
    if let Some(bytes) = settings.wal_keep_size {
        builder = builder.wal_keep_size(bytes);
    }
    if let Some(bytes) = settings.slot_keep_size {
        builder = builder.slot_keep_size_max(bytes);
    }
    if let Some(idle) = settings.slot_idle_timeout {
        builder = builder.slot_idle_timeout(idle);
    }
    if let Some(max) = settings.max_replication_slots {
        builder = builder.max_replication_slots(max);
    }
    if let Some(max) = settings.max_wal_senders {
        builder = builder.max_wal_senders(max);
    }
    if let Some(timeout) = settings.heartbeat_timeout {
        builder = builder.heartbeat(timeout / HEARTBEATS, timeout);
    }
    if let Some(bytes) = settings.max_lag {
        builder = builder.max_lag(bytes);
    }
    if let Some(bytes) = settings.rebuild_from {
        builder = builder.rebuild_from(bytes);
    }
    builder
        .start()
        .await
        .map_err(|error| cannot_start(error, settings))
}

/// Adds to an error at the start the ways out of it.
fn cannot_start(error: Error, settings: &Settings) -> Failure {
    let at = match &error {
        Error::Storage(mainstay_storage::Error::Corrupt { at, .. }) => Some(*at),
        _ => None,
    };
    let mut failure = Failure::from(error);
    if let Some(at) = at.filter(|at| !at.is_zero()) {
        let (data, name) = (settings.data.display(), &settings.name);
        failure.text += &format!(
            "\n  Take the data from another node: start an empty directory with --follow\n  \
             Accept the loss of everything from {at} on:   mainstay start --data {data} --name \
             {name} --accept-loss-from {at}"
        );
    }
    failure
}

/// The line that says where the node can be reached.
fn ready(node: &Node, name: &str, http: &str) -> Value {
    let status = serde_json::to_value(node.status()).unwrap_or_default();
    let listen = node.listen_addr().map(|address| address.to_string());
    json!({
        "ready": true,
        "name": name,
        "role": status["role"],
        "timeline": status["timeline"],
        "replication": listen,
        "http": http,
        "pid": std::process::id(),
    })
}

/// Completes when this process is asked to end, by whatever way.
fn told_to_stop(
    asked: Arc<Notify>,
    until_stdin_ends: bool,
) -> Result<impl Future<Output = ()>, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if until_stdin_ends {
        let asked = asked.clone();
        // A thread of its own: reading standard input cannot be cancelled.
        let watch = std::thread::Builder::new().name("mainstay-stdin".to_owned());
        watch.spawn(move || {
            let mut byte = [0];
            let mut stdin = std::io::stdin().lock();
            while stdin.read(&mut byte).is_ok_and(|read| read > 0) {}
            asked.notify_one();
        })?;
    }
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = asked.notified() => {}
        }
    })
}

/// Lets running requests end for a moment, then stops the node, which ends the rest.
async fn stop_all(node: &Node, mut server: JoinHandle<std::io::Result<()>>) -> Result<(), Failure> {
    let ended = tokio::time::timeout(GRACE, &mut server).await.is_ok();
    let stopped = node.stop().await;
    if !ended && tokio::time::timeout(GRACE, &mut server).await.is_err() {
        server.abort();
    }
    Ok(stopped?)
}
