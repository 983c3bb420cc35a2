//! The packet that begins a session, and what is negotiated with it.
//!
//! Versions and protocol options are settled here exactly as PostgreSQL does it: what the server
//! does not know is listed in one NegotiateProtocolVersion message, and that message is never
//! sent unasked, because older clients take it for a failure. The native extension is one such
//! option, so a stock server turns it down by itself. Who may come in is not decided here.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::cursor::{Cursor, patch_length, put_cstr};
use crate::wire::{Result, Secret, WireError, sqlstate};

/// The protocol option by which native peers find each other.
pub const NATIVE_OPTION: &str = "_pq_.mainstay";
/// Newest version of the native extension.
pub const NATIVE_VERSION: u32 = 1;
/// The only minor version of protocol 3 that is spoken here; higher ones are negotiated down.
pub const PROTOCOL_MINOR: u16 = 0;
/// Longest application name kept, in bytes.
const APPLICATION_NAME_MAX: usize = 63;
/// Lengths a cancel key may have, in bytes.
pub(super) const CANCEL_KEY_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

pub(super) const PROTOCOL_MAJOR: u16 = 3;
pub(super) const CANCEL_CODE: u32 = 80_877_102;
pub(super) const SSL_CODE: u32 = 80_877_103;
pub(super) const GSS_CODE: u32 = 80_877_104;

const OPTION_PREFIX: &str = "_pq_.";
const MESSAGE: &str = "startup packet";

/// What a session is for, from the startup parameter `replication`.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum ReplicationMode {
    /// SQL only.
    None,
    /// Replication commands only.
    Physical,
    /// Replication commands and SQL.
    Database,
}

/// The startup packet of a session. `Debug` shows the names of parameters only, because a value
/// of `options` may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct StartupMessage {
    /// Requested minor version of protocol 3.
    pub minor: u16,
    /// Who the client says it is; not empty.
    pub user: String,
    /// The database, if it named one.
    pub database: Option<String>,
    /// What the session is for.
    pub replication: ReplicationMode,
    /// Run-time parameters in the order they came: `application_name`, `options` and others.
    pub parameters: Vec<(String, String)>,
    /// Protocol options (`_pq_.` names) in the order they came.
    pub protocol_options: Vec<(String, String)>,
}

/// The content of NegotiateProtocolVersion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiation {
    /// The full version code that will be spoken, as `0x00030000`.
    pub version: u32,
    /// Every protocol option that is not known, in the order they came.
    pub unknown: Vec<String>,
}

/// A request to cancel what another session does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// The session's id, from its BackendKeyData.
    pub pid: i32,
    /// The session's key.
    pub key: Secret,
}

impl StartupMessage {
    /// A packet for `user`, without anything else.
    pub fn new(user: &str, replication: ReplicationMode) -> Self {
        Self {
            minor: PROTOCOL_MINOR,
            user: user.to_owned(),
            database: None,
            replication,
            parameters: Vec::new(),
            protocol_options: Vec::new(),
        }
    }

    /// Adds a run-time parameter.
    pub fn with_parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Names a database.
    pub fn with_database(mut self, database: &str) -> Self {
        self.database = Some(database.to_owned());
        self
    }

    /// Asks for the native extension.
    pub fn with_native(mut self) -> Self {
        let option = (NATIVE_OPTION.to_owned(), NATIVE_VERSION.to_string());
        self.protocol_options.push(option);
        self
    }

    /// The database, which is the user's name if none was given.
    pub fn database(&self) -> &str {
        match self.database.as_deref() {
            None | Some("") => &self.user,
            Some(database) => database,
        }
    }

    /// The value of run-time parameter `name`; the last one counts.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut found = self.parameters.iter().rev();
        let (_, value) = found.find(|(parameter, _)| parameter == name)?;
        Some(value)
    }

    /// The application name, fit for a log: printable ASCII, at most 63 bytes.
    pub fn application_name(&self) -> String {
        let name = self.parameter("application_name").unwrap_or_default();
        let clean = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
        name.chars().map(clean).take(APPLICATION_NAME_MAX).collect()
    }

    /// The version of the native extension to speak, if the client asks for it.
    ///
    /// # Errors
    /// When the option's value is not a version.
    pub fn native_version(&self) -> Result<Option<u32>> {
        let mut options = self.protocol_options.iter().rev();
        let Some((name, value)) = options.find(|(name, _)| name == NATIVE_OPTION) else {
            return Ok(None);
        };
        match value.parse::<u32>() {
            Ok(version) if version > 0 => Ok(Some(version.min(NATIVE_VERSION))),
            _ => Err(invalid_parameter(
                name,
                value,
                "It is the highest version of the extension that the client speaks.",
            )),
        }
    }

    /// What has to be negotiated before authentication; `None` if nothing has to, and then no
    /// message may be sent.
    pub fn negotiation(&self) -> Option<Negotiation> {
        let names = self.protocol_options.iter().map(|(name, _)| name);
        let unknown: Vec<_> = names
            .filter(|name| *name != NATIVE_OPTION)
            .cloned()
            .collect();
        if self.minor == PROTOCOL_MINOR && unknown.is_empty() {
            return None;
        }
        let version = version_code(PROTOCOL_MINOR);
        Some(Negotiation { version, unknown })
    }

    /// Appends the packet.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32(0);
        out.put_u32(version_code(self.minor));
        let mut pair = |name: &str, value: &str| {
            put_cstr(out, name);
            put_cstr(out, value);
        };
        pair("user", &self.user);
        if let Some(database) = &self.database {
            pair("database", database);
        }
        match self.replication {
            ReplicationMode::None => {}
            ReplicationMode::Physical => pair("replication", "true"),
            ReplicationMode::Database => pair("replication", "database"),
        }
        for (name, value) in self.parameters.iter().chain(&self.protocol_options) {
            pair(name, value);
        }
        out.put_u8(0);
        patch_length(out, start);
    }

    /// Reads the packet behind its version.
    pub(super) fn decode_body(minor: u16, body: Bytes) -> Result<Self> {
        let mut cursor = Cursor::new(MESSAGE, body);
        let mut message = Self {
            minor,
            ..Self::new("", ReplicationMode::None)
        };
        loop {
            let name = cursor.cstr()?;
            if name.is_empty() {
                break;
            }
            let value = cursor.cstr()?;
            match name.as_str() {
                "user" => message.user = value,
                "database" => message.database = Some(value),
                "replication" => message.replication = parse_replication(&name, &value)?,
                _ if name.starts_with(OPTION_PREFIX) => {
                    message.protocol_options.push((name, value));
                }
                _ => message.parameters.push((name, value)),
            }
        }
        cursor.finish()?;
        if message.user.is_empty() {
            let text = "no PostgreSQL user name specified in startup packet";
            return Err(WireError::fatal(sqlstate::INVALID_AUTHORIZATION, text));
        }
        Ok(message)
    }
}

impl fmt::Debug for StartupMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.parameters.iter().chain(&self.protocol_options);
        let names: Vec<_> = all.map(|(name, _)| name).collect();
        f.debug_struct("StartupMessage")
            .field("minor", &self.minor)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("replication", &self.replication)
            .field("names", &names)
            .finish()
    }
}

impl CancelRequest {
    /// Appends the packet.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32(0);
        out.put_u32(CANCEL_CODE);
        out.put_i32(self.pid);
        out.put_slice(self.key.expose());
        patch_length(out, start);
    }

    /// Reads the packet behind its code.
    pub(super) fn decode_body(body: Bytes) -> Result<Self> {
        let mut cursor = Cursor::new("cancel request", body);
        let pid = cursor.i32()?;
        let key = cursor.rest();
        if !CANCEL_KEY_BYTES.contains(&key.len()) {
            return Err(cursor.bad("its key has a wrong length"));
        }
        let key = Secret::new(key);
        Ok(Self { pid, key })
    }
}

/// Appends an SSLRequest.
pub fn encode_ssl_request(out: &mut BytesMut) {
    out.put_u32(8);
    out.put_u32(SSL_CODE);
}

fn version_code(minor: u16) -> u32 {
    u32::from(PROTOCOL_MAJOR) << 16 | u32::from(minor)
}

fn parse_replication(name: &str, value: &str) -> Result<ReplicationMode> {
    if value == "database" {
        return Ok(ReplicationMode::Database);
    }
    match parse_bool(value) {
        Some(true) => Ok(ReplicationMode::Physical),
        Some(false) => Ok(ReplicationMode::None),
        None => Err(invalid_parameter(
            name,
            value,
            "Valid values are: \"false\", 0, \"true\", 1, \"database\".",
        )),
    }
}

fn invalid_parameter(name: &str, value: &str, hint: &'static str) -> WireError {
    let value: String = value.chars().take(APPLICATION_NAME_MAX).collect();
    WireError::Fatal {
        sqlstate: sqlstate::INVALID_PARAMETER_VALUE,
        message: format!("invalid value for parameter \"{name}\": \"{value}\""),
        hint: Some(hint),
    }
}

/// A boolean as PostgreSQL reads one: `1`, `0`, or any beginning of `true`, `false`, `yes`, `no`,
/// `on`, `off` that says which, in either case.
pub(super) fn parse_bool(value: &str) -> Option<bool> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        return Some(true);
    }
    if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        return Some(false);
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::strict::every_byte_counts;
    use crate::wire::{FirstPacket, StartupDecoder};

    fn read(message: &StartupMessage) -> Result<StartupMessage> {
        let mut buf = BytesMut::new();
        message.encode(&mut buf);
        match StartupDecoder::new().next(&mut buf)? {
            Some(FirstPacket::Startup(read)) => Ok(read),
            other => panic!("read {other:?}"),
        }
    }

    fn with_replication(value: &str) -> Result<ReplicationMode> {
        let message = StartupMessage::new("u", ReplicationMode::None);
        read(&message.with_parameter("replication", value)).map(|read| read.replication)
    }

    #[test]
    fn the_spellings_of_replication_are_postgresqls() {
        for yes in ["true", "on", "yes", "1", "TRUE", "t", "y"] {
            assert_eq!(
                with_replication(yes),
                Ok(ReplicationMode::Physical),
                "{yes}"
            );
        }
        for no in ["false", "off", "no", "0", "f", "n", "of"] {
            assert_eq!(with_replication(no), Ok(ReplicationMode::None), "{no}");
        }
        assert_eq!(with_replication("database"), Ok(ReplicationMode::Database));
        for bad in ["banana", "", "o", "DATABASE", "2", "truee"] {
            let error = with_replication(bad).unwrap_err();
            assert_eq!((error.sqlstate(), error.closes()), ("22023", true), "{bad}");
        }
    }

    #[test]
    fn a_user_is_required_and_names_the_database() {
        let error = read(&StartupMessage::new("", ReplicationMode::None)).unwrap_err();
        assert_eq!(error.sqlstate(), "28000");
        assert!(matches!(error, WireError::Fatal { .. }), "{error:?}");
        let message = StartupMessage::new("ann", ReplicationMode::None);
        assert_eq!(message.database(), "ann");
        assert_eq!(message.with_database("shop").database(), "shop");
    }

    #[test]
    fn the_terminator_must_be_the_last_byte() {
        for bad in [
            &b"user\0u\0"[..],
            b"user\0u\0\0\0",
            b"user\0u\0\0x",
            b"user\0u",
            b"",
        ] {
            let read = StartupMessage::decode_body(0, Bytes::copy_from_slice(bad));
            let error = read.unwrap_err();
            assert_eq!(error.sqlstate(), "08P01", "{bad:?}");
            assert!(matches!(error, WireError::Malformed { .. }), "{error:?}");
        }
    }

    #[test]
    fn nothing_is_negotiated_unasked() {
        let plain = StartupMessage::new("u", ReplicationMode::Physical);
        assert_eq!(plain.negotiation(), None);
        assert_eq!(plain.clone().with_native().negotiation(), None);
        assert_eq!(plain.with_native().native_version(), Ok(Some(1)));
    }

    #[test]
    fn unknown_options_and_newer_versions_are_answered_exactly() {
        let mut message = StartupMessage::new("u", ReplicationMode::None).with_native();
        message.minor = 9999;
        let version = 0x0003_0000;
        let answer = |unknown: &[&str]| {
            let unknown = unknown.iter().map(|&name| name.to_owned()).collect();
            Some(Negotiation { version, unknown })
        };
        assert_eq!(message.negotiation(), answer(&[]));
        for name in ["_pq_.b", "_pq_.test_protocol_negotiation", "_pq_.a"] {
            message.protocol_options.push((name.into(), "1".into()));
        }
        let unknown = ["_pq_.b", "_pq_.test_protocol_negotiation", "_pq_.a"];
        assert_eq!(message.negotiation(), answer(&unknown));
        message.minor = 0;
        assert_eq!(message.negotiation(), answer(&unknown));
    }

    #[test]
    fn the_older_side_of_the_extension_sets_its_version() {
        let mut message = StartupMessage::new("u", ReplicationMode::Physical);
        assert_eq!(message.native_version(), Ok(None));
        message
            .protocol_options
            .push((NATIVE_OPTION.into(), "7".into()));
        assert_eq!(message.native_version(), Ok(Some(1)));
        message
            .protocol_options
            .push((NATIVE_OPTION.into(), "x".into()));
        assert_eq!(message.native_version().unwrap_err().sqlstate(), "22023");
    }

    #[test]
    fn an_application_name_is_cleaned_for_logs() {
        let message = StartupMessage::new("u", ReplicationMode::None)
            .with_parameter("application_name", "a\nb\u{1b}é");
        assert_eq!(message.application_name(), "a?b??");
    }

    #[test]
    fn a_cancel_key_and_the_values_of_parameters_never_show() {
        let message = StartupMessage::new("u", ReplicationMode::None)
            .with_parameter("options", "-c password=pencil");
        let shown = format!("{message:?}");
        assert!(shown.contains("options") && !shown.contains("pencil"));
        let request = CancelRequest {
            pid: 7,
            key: Secret::new(&b"abcd"[..]),
        };
        assert!(!format!("{request:?}").contains("abcd"));
        let mut buf = BytesMut::new();
        request.encode(&mut buf);
        assert_eq!(buf.len(), 16);
        let read = StartupDecoder::new().next(&mut buf);
        assert_eq!(read, Ok(Some(FirstPacket::Cancel(request))));
    }

    fn text() -> impl Strategy<Value = String> {
        "[^\0]{1,20}"
    }

    proptest! {
        #[test]
        fn every_startup_packet_round_trips(
            minor: u16,
            user in text(),
            database in prop::option::of(text()),
            mode in 0..3u8,
            parameters in prop::collection::vec(("[a-z]{9,12}", "[^\0]{0,20}"), 0..4),
            options in prop::collection::vec(("_pq_\\.[a-z]{1,9}", "[^\0]{0,20}"), 0..4),
        ) {
            let replication = match mode {
                0 => ReplicationMode::None,
                1 => ReplicationMode::Physical,
                _ => ReplicationMode::Database,
            };
            prop_assume!(parameters.iter().all(|(name, _)| name != "replication"));
            let message = StartupMessage {
                minor, user, database, replication, parameters, protocol_options: options,
            };
            let mut whole = BytesMut::new();
            message.encode(&mut whole);
            for len in 0..whole.len() {
                let read = StartupDecoder::new().next(&mut BytesMut::from(&whole[..len]));
                prop_assert_eq!(read, Ok(None));
            }
            every_byte_counts(&whole[8..], b'x', |body| {
                let mut out = BytesMut::new();
                StartupMessage::decode_body(minor, body).ok()?.encode(&mut out);
                Some(out.freeze().slice(8..))
            })?;
            prop_assert_eq!(read(&message), Ok(message));
        }

        #[test]
        fn every_cancel_request_round_trips(
            pid: i32,
            key in prop::collection::vec(any::<u8>(), CANCEL_KEY_BYTES),
            more: u8,
        ) {
            let request = CancelRequest { pid, key: Secret::new(key) };
            let packet = |request: &CancelRequest| {
                let mut out = BytesMut::new();
                request.encode(&mut out);
                out
            };
            every_byte_counts(&packet(&request)[8..], more, |body| {
                let read = CancelRequest::decode_body(body).ok()?;
                Some(packet(&read).freeze().slice(8..))
            })?;
            let read = StartupDecoder::new().next(&mut packet(&request));
            prop_assert_eq!(read, Ok(Some(FirstPacket::Cancel(request))));
        }
    }
}
