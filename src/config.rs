//! The node's settings: from the config file, the environment and the command line.
//!
//! A file is TOML; a key it does not know is an error that names the line. Flags win over
//! environment variables, these over the file, and the file over the defaults. What comes out is
//! one [`Settings`] that has been checked as a whole. Nothing here is started or created.

use std::fmt;
use std::net::ToSocketAddrs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_replication::protocol::level::parse_duration;
use mainstay_replication::{APPLY_DELAY_MAX, SLOTS_MAX};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::{Level, LsmOptions, Lsn, OnMiss, SegmentSize, SyncPolicy};

/// Longest config, password or token file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Silence after which a peer may count as gone.
const HEARTBEAT_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

/// Where the replication side listens when nothing else is said.
pub(crate) const LISTEN_DEFAULT: &str = "127.0.0.1:5433";

/// Where the HTTP side listens when nothing else is said.
pub(crate) const HTTP_DEFAULT: &str = "127.0.0.1:8008";

/// What is wrong with the configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file.
    #[error("{}{}: {what}", path.display(), line.map(|line| format!(" line {line}")).unwrap_or_default())]
    File {
        path: PathBuf,
        line: Option<usize>,
        what: String,
    },
    /// The settings as a whole.
    #[error("{0}")]
    Unusable(String),
    /// They would leave the node open to everybody.
    #[error("refused: {0}")]
    Unsafe(String),
}

/// Everything that can be said about a node, each part by whoever comes first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Stated {
    pub(crate) cluster: Option<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) name: Option<String>,
    pub(crate) listen: Option<String>,
    pub(crate) advertise: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) http: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) follow: Option<String>,
    pub(crate) slot: Option<String>,
    pub(crate) upstream_password_file: Option<PathBuf>,
    pub(crate) min_apply_delay: Option<Delay>,
    pub(crate) sync: Option<SyncPolicy>,
    pub(crate) level: Option<Level>,
    pub(crate) on_miss: Option<OnMiss>,
    pub(crate) segment_size: Option<Size>,
    pub(crate) wal_keep_size: Option<Size>,
    pub(crate) slot_keep_size: Option<Size>,
    pub(crate) slot_idle_timeout: Option<Idle>,
    pub(crate) max_replication_slots: Option<usize>,
    pub(crate) max_wal_senders: Option<usize>,
    pub(crate) heartbeat_timeout: Option<Delay>,
    pub(crate) max_lag: Option<Size>,
    pub(crate) rebuild_from: Option<Size>,
    pub(crate) store: StoreSizes,
}

/// A node's settings, complete and checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) cluster: Option<String>,
    pub(crate) data: PathBuf,
    pub(crate) name: String,
    pub(crate) listen: String,
    pub(crate) advertise: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) http: String,
    pub(crate) token: Option<String>,
    pub(crate) follow: Option<String>,
    pub(crate) slot: Option<String>,
    pub(crate) upstream_password: Option<String>,
    pub(crate) min_apply_delay: Option<Duration>,
    /// `None` is what the log says.
    pub(crate) sync: Option<SyncPolicy>,
    pub(crate) level: Option<Level>,
    pub(crate) on_miss: OnMiss,
    pub(crate) segment_size: Option<SegmentSize>,
    pub(crate) wal_keep_size: Option<u64>,
    pub(crate) slot_keep_size: Option<u64>,
    pub(crate) slot_idle_timeout: Option<Duration>,
    pub(crate) max_replication_slots: Option<usize>,
    pub(crate) max_wal_senders: Option<usize>,
    pub(crate) heartbeat_timeout: Option<Duration>,
    pub(crate) max_lag: Option<u64>,
    pub(crate) rebuild_from: Option<u64>,
    pub(crate) store: LsmOptions,
    pub(crate) accept_loss_from: Option<Lsn>,
}

/// A number of bytes, written `16MiB`, `10MB` or `1048576`.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

/// A time, written `250ms`, `10s` or `5m`.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Delay(pub(crate) Duration);

impl std::str::FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let delay = parse_duration(text).filter(|delay| *delay <= APPLY_DELAY_MAX);
        delay.map(Delay).ok_or_else(|| {
            format!("{text:?} is not a delay; write 250ms, 10s or 5m, a week at most")
        })
    }
}

impl TryFrom<String> for Delay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// How long something may go unused, written `10s`, `5m` or `250ms`.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(crate) struct Idle(pub(crate) Duration);

impl std::str::FromStr for Idle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = parse_duration(text).filter(|duration| !duration.is_zero());
        let unlike = || format!("{text:?} is not a time; one looks like 90s, 10m or 250ms");
        duration.map(Self).ok_or_else(unlike)
    }
}

pub(crate) mod file;
mod store;

pub(crate) use store::StoreSizes;

impl Stated {
    /// Reads the config file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, or says something that is not known, with the line.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        file::parse(path, &read_small(path)?)
    }

    /// These, and where they say nothing, `other`.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            cluster: self.cluster.or(other.cluster),
            data: self.data.or(other.data),
            name: self.name.or(other.name),
            listen: self.listen.or(other.listen),
            advertise: self.advertise.or(other.advertise),
            password_file: self.password_file.or(other.password_file),
            http: self.http.or(other.http),
            token_file: self.token_file.or(other.token_file),
            follow: self.follow.or(other.follow),
            slot: self.slot.or(other.slot),
            upstream_password_file: self.upstream_password_file.or(other.upstream_password_file),
            min_apply_delay: self.min_apply_delay.or(other.min_apply_delay),
            sync: self.sync.or(other.sync),
            level: self.level.or(other.level),
            on_miss: self.on_miss.or(other.on_miss),
            segment_size: self.segment_size.or(other.segment_size),
            wal_keep_size: self.wal_keep_size.or(other.wal_keep_size),
            slot_keep_size: self.slot_keep_size.or(other.slot_keep_size),
            slot_idle_timeout: self.slot_idle_timeout.or(other.slot_idle_timeout),
            max_replication_slots: self.max_replication_slots.or(other.max_replication_slots),
            max_wal_senders: self.max_wal_senders.or(other.max_wal_senders),
            heartbeat_timeout: self.heartbeat_timeout.or(other.heartbeat_timeout),
            max_lag: self.max_lag.or(other.max_lag),
            rebuild_from: self.rebuild_from.or(other.rebuild_from),
            store: self.store.or(other.store),
        }
    }

    /// Fills in the defaults, reads the secrets and checks the whole.
    ///
    /// # Errors
    /// What is missing, unreadable, contradictory or unsafe.
    pub(crate) fn settle(self, accept_loss_from: Option<Lsn>) -> Result<Settings, ConfigError> {
        let missing = |what: &str| Err(ConfigError::Unusable(what.to_owned()));
        let Some(data) = self.data else {
            return missing("no data directory: give --data DIR, or node.data_dir in the file");
        };
        let Some(name) = self.name else {
            return missing("the node has no name: give --name NAME, or node.name in the file");
        };
        let password = self.password_file.as_deref().map(read_secret).transpose()?;
        let token = self.token_file.as_deref().map(read_secret).transpose()?;
        let listen = self.listen.unwrap_or_else(|| LISTEN_DEFAULT.to_owned());
        let http = self.http.unwrap_or_else(|| HTTP_DEFAULT.to_owned());
        let guard = "replication.password_file (--password-file FILE)";
        check_listen("replication", &listen, password.is_some(), guard)?;
        check_listen(
            "HTTP",
            &http,
            token.is_some(),
            "http.token_file (--token-file FILE)",
        )?;
        if self
            .max_replication_slots
            .is_some_and(|max| max > SLOTS_MAX)
        {
            let what = format!("slots.max_replication_slots is over {SLOTS_MAX}");
            return Err(ConfigError::Unusable(what));
        }
        let upstream = self.upstream_password_file.as_deref();
        let segment_size = self.segment_size.map(segment_size).transpose()?;
        Ok(Settings {
            cluster: self.cluster,
            data,
            name,
            listen,
            advertise: self.advertise,
            password,
            http,
            token,
            follow: self.follow,
            slot: self.slot,
            upstream_password: upstream.map(read_secret).transpose()?,
            min_apply_delay: self.min_apply_delay.map(|delay| delay.0),
            sync: self.sync,
            level: self.level,
            on_miss: self.on_miss.unwrap_or_default(),
            segment_size,
            wal_keep_size: self.wal_keep_size.map(|size| size.0),
            slot_keep_size: self.slot_keep_size.map(|size| size.0),
            slot_idle_timeout: self.slot_idle_timeout.map(|idle| idle.0),
            max_replication_slots: self.max_replication_slots,
            max_wal_senders: self.max_wal_senders,
            heartbeat_timeout: self.heartbeat_timeout.map(heartbeat_timeout).transpose()?,
            max_lag: self.max_lag.map(|size| size.0),
            rebuild_from: self.rebuild_from.map(|size| size.0),
            store: self.store.settle()?,
            accept_loss_from,
        })
    }
}

/// A peer is not to count as gone between two of its heartbeats, nor to be waited for all day.
fn heartbeat_timeout(Delay(timeout): Delay) -> Result<Duration, ConfigError> {
    if HEARTBEAT_TIMEOUTS.contains(&timeout) {
        return Ok(timeout);
    }
    let what = "replication.heartbeat_timeout must be from 100ms to 60m, such as 10s";
    Err(ConfigError::Unusable(what.to_owned()))
}

fn segment_size(size: Size) -> Result<SegmentSize, ConfigError> {
    let size = u32::try_from(size.0).ok().and_then(SegmentSize::new);
    size.ok_or_else(|| {
        let what = "wal.segment_size must be a power of two from 1MiB to 1GiB, such as 16MiB";
        ConfigError::Unusable(what.to_owned())
    })
}

/// Refuses to listen where strangers are, unless they have to prove who they are.
fn check_listen(side: &str, listen: &str, guarded: bool, guard: &str) -> Result<(), ConfigError> {
    let addresses = listen.to_socket_addrs().map_err(|error| {
        ConfigError::Unusable(format!(
            "{listen:?} is no address to listen on (HOST:PORT): {error}"
        ))
    })?;
    let mut open = addresses.filter(|address| !address.ip().is_loopback());
    match open.next() {
        Some(_) if !guarded => {
            let port = listen.rsplit(':').next().unwrap_or_default();
            Err(ConfigError::Unsafe(format!(
                "{side} would listen on {listen}, which other machines can reach, and no \
                 credentials are configured, so whoever reaches it could read and change \
                 everything.\n  For this machine alone: 127.0.0.1:{port}\n  For others too: \
                 configure {guard}"
            )))
        }
        _ => Ok(()),
    }
}

fn read_small(path: &Path) -> Result<String, ConfigError> {
    let failed = |what: String| ConfigError::File {
        path: path.to_owned(),
        line: None,
        what,
    };
    let len = std::fs::metadata(path)
        .map_err(|error| failed(error.to_string()))?
        .len();
    if len > FILE_BYTES_MAX {
        return Err(failed(format!(
            "{len} bytes are over the limit of {FILE_BYTES_MAX}"
        )));
    }
    std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}

/// A password or token: the file's first line.
pub(crate) fn read_secret(path: &Path) -> Result<String, ConfigError> {
    let text = read_small(path)?;
    let secret = text.lines().next().unwrap_or_default().trim();
    if secret.is_empty() {
        let what = "its first line is empty; the secret belongs there".to_owned();
        return Err(ConfigError::File {
            path: path.to_owned(),
            line: None,
            what,
        });
    }
    Ok(secret.to_owned())
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "B" => 1,
            "kB" | "KB" => 1000,
            "KiB" => 1 << 10,
            "MB" => 1000_u64.pow(2),
            "MiB" => 1 << 20,
            "GB" => 1000_u64.pow(3),
            "GiB" => 1 << 30,
            "TB" => 1000_u64.pow(4),
            "TiB" => 1 << 40,
            _ => 0,
        };
        let plain = digits.trim_end().bytes().all(|byte| byte.is_ascii_digit());
        let count = digits
            .trim_end()
            .parse::<u64>()
            .ok()
            .filter(|_| plain && unit > 0);
        count
            .and_then(|count| count.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| {
                format!("{text:?} is not a size; one looks like 16MiB, 10MB or 1048576 (bytes)")
            })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"16MiB\", \"10MB\" or a number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Size, E> {
                Ok(Size(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Size, E> {
                let size = u64::try_from(number).map(Size);
                size.map_err(|_| E::custom(format!("{number} is not a size")))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests;
