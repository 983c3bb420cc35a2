//! The URL of a primary: `postgres://[user@]host:port[,host:port...][/database]`.

use crate::error::{Error, Result};

/// The port that is meant when a URL names none.
const DEFAULT_PORT: u16 = 5433;

/// Most addresses in one URL.
const ADDRESSES_MAX: usize = 16;

/// Whom to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) user: Option<String>,
    /// `host:port`, tried in turn.
    pub(crate) addresses: Vec<String>,
}

impl Upstream {
    /// Reads a URL. A password in it is refused: it would show in process lists.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let bad = |why: &str| {
            let example = "postgres://mainstay@10.0.0.1:5433";
            Err(Error::Usage(format!(
                "cannot read the URL of the primary: {why}; an example: {example}"
            )))
        };
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"));
        let Some(rest) = rest else {
            return bad("it does not begin with postgres://");
        };
        let rest = rest.split(['/', '?']).next().unwrap_or_default();
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, rest),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return bad("it holds a password, which others could see; configure a password file");
        }
        let mut addresses = Vec::new();
        for host in hosts.split(',') {
            match with_port(host) {
                Some(address) => addresses.push(address),
                None => return bad("a host and port cannot be read"),
            }
        }
        if addresses.len() > ADDRESSES_MAX {
            return bad("it names more than 16 hosts");
        }
        let user = user.filter(|user| !user.is_empty()).map(str::to_owned);
        Ok(Self { user, addresses })
    }
}

fn with_port(host: &str) -> Option<String> {
    let port_at = host.rfind(':').filter(|at| !host[*at..].contains(']'));
    let (name, port) = match port_at {
        Some(at) => (&host[..at], host[at + 1..].parse().ok()?),
        None => (host, DEFAULT_PORT),
    };
    let bracketed = name.starts_with('[') && name.ends_with(']');
    let plain = !name.is_empty() && (bracketed || !name.contains([':', ' ', '[']));
    plain.then(|| format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_read_as_postgresql_reads_them() {
        let parse = |url: &str| Upstream::parse(url).map(|it| (it.user, it.addresses));
        let one = |user: Option<&str>, at: &[&str]| {
            (
                user.map(str::to_owned),
                at.iter().map(|at| (*at).to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(parse("postgres://h:1").unwrap(), one(None, &["h:1"]));
        assert_eq!(
            parse("postgresql://u@h/db?x=1").unwrap(),
            one(Some("u"), &["h:5433"])
        );
        assert_eq!(
            parse("postgres://a:1,b:2").unwrap(),
            one(None, &["a:1", "b:2"])
        );
        assert_eq!(
            parse("postgres://[::1]:9,[::2]").unwrap(),
            one(None, &["[::1]:9", "[::2]:5433"])
        );
        for bad in [
            "",
            "http://h",
            "postgres://",
            "postgres://u:secret@h",
            "postgres://h:x",
            "postgres://h:1,",
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(
                error.contains("postgres://") && !error.contains("secret"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_address_is_read_as_it_is_written(
            user in prop::option::of("[a-z@]{1,9}"),
            hosts in prop::collection::vec(("[a-z0-9.-]{1,12}|\\[[0-9a-f:]{2,9}\\]", any::<u16>()), 1..=16),
            rest in "(/[a-z]{0,5})?(\\?[a-z=]{0,9})?",
            text in "(postgres://)?([a-z@:,\\[\\]/0-9]{0,20}|\\PC{0,20})",
        ) {
            let addresses = hosts.into_iter().map(|(host, port)| format!("{host}:{port}"));
            let upstream = Upstream { user, addresses: addresses.collect() };
            let user = upstream.user.as_ref().map(|user| format!("{user}@"));
            let hosts = upstream.addresses.join(",");
            let url = format!("postgres://{}{hosts}{rest}", user.unwrap_or_default());
            prop_assert_eq!(Upstream::parse(&url).unwrap(), upstream);
            if let Ok(read) = Upstream::parse(&text) {
                prop_assert!((1..=ADDRESSES_MAX).contains(&read.addresses.len()));
            }
        }
    }
}
