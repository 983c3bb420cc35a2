//! Whom a standby follows that was made by `pg_basebackup -R`.
//!
//! The tool leaves `standby.signal` and, in `postgresql.auto.conf`, the connection parameters it
//! used itself. They count while the log is still a standby's and nobody says otherwise; a node
//! that was promoted removes the signal.

use std::io;
use std::path::Path;
use std::sync::Arc;

use mainstay_replication::{Password, WalStreamingConfig};
use mainstay_storage::{LogFiles, Lsn, OsDisk, Wal};

use crate::error::{Error, Result};

const SIGNAL: &str = "standby.signal";
const SETTINGS: &str = "postgresql.auto.conf";

/// Largest settings file that is read, in bytes.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;

/// Takes over whom to follow, if the directory says so.
///
/// # Errors
/// [`Error::Config`] for settings that cannot be read; the log's, disk errors.
pub(crate) fn follow(config: &mut WalStreamingConfig) -> Result<()> {
    let dir = &config.data_dir;
    if !dir.join(SIGNAL).exists() || !Wal::exists(&OsDisk, dir)? {
        return Ok(());
    }
    let files = LogFiles::read(Arc::new(OsDisk), dir)?;
    if files.control().own_from != Lsn::MAX {
        // What was promoted never goes back to that; PostgreSQL removes the file as well.
        let removed = std::fs::remove_file(dir.join(SIGNAL));
        return removed.map_err(|error| bad(&dir.join(SIGNAL), &error.to_string()));
    }
    let path = dir.join(SETTINGS);
    let text = read(&path).map_err(|error| bad(&path, &error.to_string()))?;
    let Some(conninfo) = setting(&text, "primary_conninfo") else {
        return Ok(());
    };
    let upstream = Upstream::parse(&conninfo).map_err(|why| bad(&path, &why))?;
    tracing::info!(addresses = ?upstream.addresses, "following as standby.signal says");
    config.follow = upstream.addresses;
    if let Some(user) = upstream.user {
        config.follow_user = user;
    }
    if config.follow_password.is_none() {
        config.follow_password = upstream.password.map(Password::new);
    }
    let slot = setting(&text, "primary_slot_name").filter(|name| !name.is_empty());
    config.follow_slot = config.follow_slot.take().or(slot);
    Ok(())
}

fn read(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > SETTINGS_BYTES_MAX {
        return Err(io::Error::other("it is too long"));
    }
    std::fs::read_to_string(path)
}

fn bad(path: &Path, why: &str) -> Error {
    let path = path.display();
    Error::Config(format!(
        "{path}: {why}; mend it, or say whom to follow with --follow"
    ))
}

/// The last value of a setting `name = 'value'`.
pub(crate) fn setting(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().rev().filter_map(|line| {
        let (key, value) = line.trim().split_once('=')?;
        let quoted = value.trim().strip_prefix('\'')?;
        (key.trim() == name).then(|| unquote(quoted, true).0)
    });
    lines.next()
}

/// What stands before the closing quote, and what behind it. A backslash takes the next character
/// as it is; where `doubled`, two quotes are one.
fn unquote(text: &str, doubled: bool) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if doubled && chars.next_if(|(_, c)| *c == '\'').is_some() => value.push('\''),
            '\'' => return (value, &text[at + 1..]),
            c => value.push(c),
        }
    }
    (value, "")
}

/// What counts here of libpq's connection parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) addresses: Vec<String>,
}

impl Upstream {
    pub(crate) fn parse(conninfo: &str) -> Result<Self, String> {
        let mut upstream = Self::default();
        let (mut hosts, mut ports) = (String::new(), "5433".to_owned());
        let mut rest = conninfo.trim_start();
        while !rest.is_empty() {
            let (key, value) = rest
                .split_once('=')
                .ok_or("primary_conninfo cannot be read")?;
            let value = value.trim_start();
            let (value, behind) = match value.strip_prefix('\'') {
                Some(quoted) => unquote(quoted, false),
                None => {
                    let end = value.find(char::is_whitespace).unwrap_or(value.len());
                    (value[..end].to_owned(), &value[end..])
                }
            };
            match key.trim() {
                "user" => upstream.user = Some(value),
                "password" => upstream.password = Some(value),
                "host" if hosts.is_empty() => hosts = value,
                "hostaddr" => hosts = value,
                "port" => ports = value,
                _ => {}
            }
            rest = behind.trim_start();
        }
        let ports = ports.split(',').collect::<Vec<_>>();
        for (at, host) in hosts.split(',').enumerate() {
            let port = ports.get(at).or(ports.last().filter(|_| ports.len() == 1));
            let port = port.filter(|port| port.parse::<u16>().is_ok());
            let port = port.ok_or("primary_conninfo has a port that is none")?;
            if host.is_empty() || host.starts_with(['/', '@']) {
                return Err("primary_conninfo names no host".to_owned());
            }
            let address = match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            };
            upstream.addresses.push(address);
        }
        Ok(upstream)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_tool_writes_is_read() {
        let text = "# Do not edit this file manually!\n\
            primary_conninfo = 'user=old host=nowhere port=1'\n\
            primary_conninfo = 'user=mainstay password=''a b\\\\''c'' passfile=''/var/lib/pg/.pgpass'' \
            channel_binding=prefer host=127.0.0.1 port=40001 sslmode=prefer'\n\
            primary_slot_name = 'b'\n";
        let conninfo = setting(text, "primary_conninfo").unwrap();
        let upstream = Upstream::parse(&conninfo).unwrap();
        assert_eq!(upstream.user.as_deref(), Some("mainstay"));
        assert_eq!(upstream.password.as_deref(), Some("a b'c"));
        assert_eq!(upstream.addresses, ["127.0.0.1:40001"]);
        assert_eq!(setting(text, "primary_slot_name").as_deref(), Some("b"));
        assert_eq!(setting(text, "primary"), None);
    }

    #[test]
    fn several_hosts_share_a_port_or_have_their_own() {
        let addresses = |text| Upstream::parse(text).map(|it| it.addresses);
        let shared = addresses("host=a,::1 port=5433").unwrap();
        assert_eq!(shared, ["a:5433", "[::1]:5433"]);
        assert_eq!(addresses("host=a,b port=1,2").unwrap(), ["a:1", "b:2"]);
        assert_eq!(
            addresses("host=a hostaddr=10.0.0.1").unwrap(),
            ["10.0.0.1:5433"]
        );
        for bad in [
            "",
            "host=/run port=1",
            "host=a,b,c port=1,2",
            "host=a port=x",
            "host",
        ] {
            assert!(addresses(bad).is_err(), "{bad}");
        }
    }

    /// A value as libpq's tools quote it.
    fn quoted(value: &str) -> String {
        format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    }

    proptest! {
        #[test]
        fn every_connection_is_read_as_it_is_written(
            user in "[a-z' \\\\=]{1,9}",
            password in prop::option::of("[^\u{0}]{1,12}"),
            hosts in prop::collection::vec(("[a-z0-9.-]{1,9}", any::<u16>()), 1..4),
            text in "(host|port|user|=|'|,|[a-z0-9]{1,4}| |\\PC){0,14}",
        ) {
            let (names, ports): (Vec<_>, Vec<_>) = hosts
                .iter()
                .map(|(host, port)| (host.clone(), port.to_string()))
                .unzip();
            let mut conninfo = format!("user={} ", quoted(&user));
            if let Some(password) = &password {
                conninfo += &format!("password={} ", quoted(password));
            }
            conninfo += &format!("host={} port={}", names.join(","), ports.join(","));
            let read = Upstream::parse(&conninfo).unwrap();
            prop_assert_eq!((read.user, read.password), (Some(user), password));
            let addresses = hosts.iter().map(|(host, port)| format!("{host}:{port}"));
            prop_assert_eq!(read.addresses, addresses.collect::<Vec<_>>());
            let _ = (Upstream::parse(&text), setting(&text, "primary_conninfo"));
        }
    }
}
