//! The config file: its keys, and what they mean.
//!
//! ```toml
//! [cluster]
//! name = "orders"
//!
//! [node]
//! name = "a"
//! data_dir = "/srv/a"
//!
//! [replication]
//! listen = "10.0.0.1:5433"
//! advertise = "a.example:5433"
//! password_file = "/etc/mainstay/replication.password"
//! max_wal_senders = 10
//! heartbeat_timeout = "10s"  # silence after which a peer counts as gone
//!
//! [http]
//! listen = "10.0.0.1:8008"
//! token_file = "/etc/mainstay/http.token"
//!
//! [upstream]
//! url = "postgres://mainstay@b.example:5433"
//! slot = "a"
//! min_apply_delay = "10m"   # stay behind on purpose
//! rebuild_from = "1GiB"     # so far behind, weigh a copy of the upstream's data
//! password_file = "/etc/mainstay/replication.password"
//!
//! [sync]
//! policy = "ANY 1 (b, c)"   # or: mode = "any", count = 1, for ANY 1 (*)
//! level = "durable"         # received, durable or applied
//! timeout = "10s"
//! on_timeout = "degrade"    # block, degrade or fail
//!
//! [failover]
//! max_lag = "16MiB"         # what it may lack when it is promoted
//!
//! [wal]
//! segment_size = "16MiB"
//! keep_size = "1GiB"
//!
//! [slots]
//! max_keep_size = "10GiB"
//! idle_timeout = "10m"
//! max_replication_slots = 10
//!
//! [store]
//! memtable_size = "48MiB"
//! block_cache = "64MiB"
//! snapshot_age = "16GiB"
//! snapshot_memory = "512MiB"
//! ```

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Delay, Size, Stated, StoreSizes};
use crate::{Level, OnMiss, SyncPolicy};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    cluster: Cluster,
    node: Node,
    replication: Replication,
    http: Http,
    upstream: Upstream,
    sync: Sync,
    failover: Failover,
    wal: Wal,
    slots: Slots,
    store: StoreSizes,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Cluster {
    name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Node {
    name: Option<String>,
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Replication {
    listen: Option<String>,
    advertise: Option<String>,
    password_file: Option<PathBuf>,
    max_wal_senders: Option<usize>,
    heartbeat_timeout: Option<Delay>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Http {
    listen: Option<String>,
    token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Upstream {
    url: Option<String>,
    slot: Option<String>,
    password_file: Option<PathBuf>,
    min_apply_delay: Option<Delay>,
    rebuild_from: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Failover {
    max_lag: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sync {
    policy: Option<Spanned<String>>,
    mode: Option<Spanned<Mode>>,
    count: Option<Spanned<usize>>,
    level: Option<SyncLevel>,
    timeout: Option<Spanned<String>>,
    on_timeout: Option<Spanned<OnTimeout>>,
}

#[derive(Debug, Copy, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    Off,
    Any,
    First,
}

#[derive(Debug, Copy, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SyncLevel {
    Received,
    Durable,
    Applied,
}

#[derive(Debug, Copy, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnTimeout {
    Block,
    Degrade,
    Fail,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wal {
    segment_size: Option<Size>,
    keep_size: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Slots {
    max_keep_size: Option<Size>,
    idle_timeout: Option<Spanned<String>>,
    max_replication_slots: Option<usize>,
}

/// Reads the text of the config file at `path`.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Stated, ConfigError> {
    let error = |at: Option<usize>, what: String| {
        let line = at.map(|at| text[..at.min(text.len())].matches('\n').count() + 1);
        ConfigError::File {
            path: path.to_owned(),
            line,
            what,
        }
    };
    let file = toml::from_str::<File>(text).map_err(|refused| {
        let at = refused.span().map(|span| span.start);
        error(at, refused.message().to_owned())
    })?;
    let level = file.sync.level.map(|level| match level {
        SyncLevel::Received => Level::RemoteWrite,
        SyncLevel::Durable => Level::RemoteFlush,
        SyncLevel::Applied => Level::RemoteApply,
    });
    let sync = file
        .sync
        .policy()
        .map_err(|(at, what)| error(Some(at), what))?;
    let on_miss = file
        .sync
        .on_miss()
        .map_err(|(at, what)| error(Some(at), what))?;
    let idle = file.slots.idle_timeout.as_ref();
    let idle = idle.map(|idle| parsed(idle.get_ref(), idle.span().start));
    let idle = idle
        .transpose()
        .map_err(|(at, what)| error(Some(at), what))?;
    Ok(Stated {
        cluster: file.cluster.name,
        data: file.node.data_dir,
        name: file.node.name,
        listen: file.replication.listen,
        advertise: file.replication.advertise,
        password_file: file.replication.password_file,
        http: file.http.listen,
        token_file: file.http.token_file,
        follow: file.upstream.url,
        slot: file.upstream.slot,
        upstream_password_file: file.upstream.password_file,
        min_apply_delay: file.upstream.min_apply_delay,
        sync,
        level,
        on_miss,
        segment_size: file.wal.segment_size,
        wal_keep_size: file.wal.keep_size,
        slot_keep_size: file.slots.max_keep_size,
        slot_idle_timeout: idle,
        max_replication_slots: file.slots.max_replication_slots,
        max_wal_senders: file.replication.max_wal_senders,
        heartbeat_timeout: file.replication.heartbeat_timeout,
        max_lag: file.failover.max_lag,
        rebuild_from: file.upstream.rebuild_from,
        store: file.store,
    })
}

type Placed<T> = Result<T, (usize, String)>;

impl Sync {
    fn policy(&self) -> Placed<Option<SyncPolicy>> {
        let count = self.count.as_ref();
        if let (Some(policy), Some(at)) = (
            &self.policy,
            self.mode
                .as_ref()
                .map(|mode| mode.span())
                .or(count.map(|count| count.span())),
        ) {
            let what = format!(
                "sync.policy is {:?}; sync.mode and sync.count say the same another way, \
                 give one of them",
                policy.get_ref()
            );
            return Err((at.start, what));
        }
        if let Some(policy) = &self.policy {
            return parsed(policy.get_ref(), policy.span().start).map(Some);
        }
        let (word, at) = match &self.mode {
            None => {
                let what = "sync.count counts nothing without sync.mode".to_owned();
                return count.map_or(Ok(None), |count| Err((count.span().start, what)));
            }
            Some(mode) => match mode.get_ref() {
                Mode::Off => return Ok(Some(SyncPolicy::Off)),
                Mode::Any => ("ANY", mode.span().start),
                Mode::First => ("FIRST", mode.span().start),
            },
        };
        let at = count.map_or(at, |count| count.span().start);
        let count = count.map_or(1, |count| *count.get_ref());
        parsed(&format!("{word} {count} (*)"), at).map(Some)
    }

    fn on_miss(&self) -> Placed<Option<OnMiss>> {
        let word = self
            .on_timeout
            .as_ref()
            .map(|word| (*word.get_ref(), word.span().start));
        match (&self.timeout, word) {
            (None, None) => Ok(None),
            (None, Some((OnTimeout::Block, _))) => Ok(Some(OnMiss::Block)),
            (None, Some((_, at))) => Err((at, "sync.timeout is missing: after how long?".into())),
            (Some(timeout), None | Some((OnTimeout::Block, _))) => {
                let what = "sync.timeout needs sync.on_timeout = \"degrade\" or \"fail\"";
                Err((timeout.span().start, what.to_owned()))
            }
            (Some(timeout), Some((OnTimeout::Degrade, _))) => {
                let text = format!("degrade:{}", timeout.get_ref());
                parsed(&text, timeout.span().start).map(Some)
            }
            (Some(timeout), Some((OnTimeout::Fail, _))) => {
                let text = format!("fail:{}", timeout.get_ref());
                parsed(&text, timeout.span().start).map(Some)
            }
        }
    }
}

fn parsed<T: FromStr<Err: Display>>(text: &str, at: usize) -> Placed<T> {
    text.parse::<T>().map_err(|error| (at, error.to_string()))
}
