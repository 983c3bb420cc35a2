//! What fuzzing calls: the texts that an operator writes.
//!
//! As in the crates below, where the rules stand. The config file has no writer; what is checked is
//! that its refusals name a line that is there, and that what it states means the same again.

use std::path::Path;

pub use mainstay_storage::fuzz::Target;

use crate::config::{ConfigError, Delay, Idle, Size, Stated, file};
use crate::encoding::{url_decode, url_encode};
use crate::standby_signal;
use crate::upstream::Upstream;

/// Everything that can be fuzzed here.
pub const TARGETS: [Target; 2] = [("config", config), ("url", url)];

/// A config file, and the values in it.
fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = Path::new("mainstay.toml");
    match file::parse(path, text) {
        Ok(stated) => {
            assert_eq!(stated.clone().or(Stated::default()), stated);
            assert_eq!(Stated::default().or(stated.clone()), stated);
            assert_eq!(file::parse(path, text), Ok(stated.clone()));
            if let Some(policy) = stated.sync {
                assert_eq!(policy.to_string().parse(), Ok(policy));
            }
            if let Some(on_miss) = stated.on_miss {
                assert_eq!(on_miss.to_string().parse(), Ok(on_miss));
            }
        }
        Err(ConfigError::File { line, what, .. }) => {
            let lines = text.matches('\n').count() + 1;
            assert!(
                line.is_none_or(|line| (1..=lines).contains(&line)),
                "{what}"
            );
            assert!(!what.is_empty() && what.len() <= 16 * text.len() + 4096);
        }
        Err(error) => panic!("the file alone cannot be {error}"),
    }
    if let Ok(size) = text.parse::<Size>() {
        assert_eq!(size.0.to_string().parse(), Ok(size));
    }
    if let Ok(delay) = text.parse::<Delay>() {
        let written = mainstay_replication::protocol::level::duration_text(delay.0);
        assert_eq!(written.parse(), Ok(delay));
    }
    if let Ok(idle) = text.parse::<Idle>() {
        let written = mainstay_replication::protocol::level::duration_text(idle.0);
        assert_eq!(written.parse(), Ok(idle));
    }
}

/// Whom to follow: a URL, or libpq's settings; and bytes in a URL.
fn url(data: &[u8]) {
    assert_eq!(url_decode(&url_encode(data)).as_deref(), Ok(data));
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(bytes) = url_decode(text) {
        assert!(bytes.len() <= text.len());
        assert_eq!(url_decode(&url_encode(&bytes)), Ok(bytes));
    }
    match Upstream::parse(text) {
        Ok(upstream) => {
            check_addresses(&upstream.addresses);
            let user = upstream.user.as_ref().map(|user| format!("{user}@"));
            let hosts = upstream.addresses.join(",");
            let again = format!("postgres://{}{hosts}", user.unwrap_or_default());
            assert_eq!(Upstream::parse(&again).ok(), Some(upstream));
        }
        // What was given may hold a password, and is not repeated.
        Err(error) => assert!(error.to_string().len() < 256, "{error}"),
    }
    let setting = standby_signal::setting(text, "primary_conninfo");
    for conninfo in [Some(text), setting.as_deref()].into_iter().flatten() {
        if let Ok(upstream) = standby_signal::Upstream::parse(conninfo) {
            assert!(upstream.addresses.len() <= conninfo.len() + 1);
        }
    }
}

fn check_addresses(addresses: &[String]) {
    assert!((1..=16).contains(&addresses.len()));
    for address in addresses {
        let (host, port) = address.rsplit_once(':').expect("a host and a port");
        assert!(!host.is_empty() && port.parse::<u16>().is_ok(), "{address}");
    }
}
