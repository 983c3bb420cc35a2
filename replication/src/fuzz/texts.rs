//! What people and peers write as text, and the one structure that goes into the log with bincode.

use super::Input;
use crate::cluster::{ClusterConfig, MEMBERS_MAX};
use crate::protocol::level::{Level, OnMiss, duration_text, parse_duration};
use crate::protocol::name::NodeName;
use crate::protocol::policy::{BoundPolicy, POLICY_NAMES_MAX, SyncPolicy};
use crate::protocol::slot::{SLOTS_MAX, SlotSet};
use crate::wire::ReplicationMode;
use crate::wire::command::{Command, Dialect, quote_identifier, quote_literal};
use crate::wire::scram::Verifier;
use mainstay_storage::Lsn;

/// A query, of any kind of session.
pub(super) fn command(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let mode = match kind % 4 {
        0 => ReplicationMode::None,
        1 => ReplicationMode::Database,
        _ => ReplicationMode::Physical,
    };
    let native = kind & 4 != 0;
    let dialect = Dialect { mode, native };
    let Ok(text) = std::str::from_utf8(input.rest()) else {
        return;
    };
    match Command::parse(text, dialect) {
        Ok(command) => {
            let written = command.to_string();
            let again = Command::parse(&written, dialect);
            assert_eq!(again, Ok(command), "{text:?} is written {written:?}");
        }
        Err(error) => {
            assert!(!error.closes(), "a text costs the session: {error}");
            assert!(error.to_string().len() <= 2 * text.len() + 512);
        }
    }
    if !text.contains('\0') {
        let quoted = (quote_identifier(text), quote_literal(text));
        assert!(quoted.0.len() <= 2 * text.len() + 2 && quoted.1.len() <= 2 * text.len() + 2);
    }
}

/// The grammar of policies, and the words around it.
pub(super) fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<SyncPolicy>() {
        Ok(policy) => {
            assert_eq!(policy.to_string().parse(), Ok(policy.clone()));
            binds(policy);
        }
        Err(error) => {
            assert!(error.to_string().len() < 2048, "{error}");
            let place = error.at().unwrap_or(1);
            assert!((1..=text.chars().count() + 1).contains(&place), "{error}");
        }
    }
    if let Ok(level) = text.parse::<Level>() {
        assert_eq!(level.to_string().parse(), Ok(level));
    }
    if let Ok(on_miss) = text.parse::<OnMiss>() {
        assert_eq!(on_miss.to_string().parse(), Ok(on_miss));
    }
    if let Some(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
    }
    if let Ok(name) = text.parse::<NodeName>() {
        assert_eq!(name.as_str().parse(), Ok(name));
    }
}

/// Any set that confirms meets any set that promises.
fn binds(policy: SyncPolicy) {
    let names = ["p", "a", "b", "c"].map(|name| name.parse::<NodeName>().expect("a name"));
    let bound = BoundPolicy::new(policy, &names[1..], &names[0], Lsn::new(8));
    let (needed, counted) = (bound.needed(), bound.counted().len());
    assert!(counted <= POLICY_NAMES_MAX && !bound.counted().contains(&names[0]));
    if (1..=counted).contains(&needed) {
        assert_eq!(needed + bound.promises_needed(), counted + 1);
    }
}

/// The list of slots in the control file.
pub(super) fn slots(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(mut slots) = SlotSet::decode(text) else {
        return;
    };
    assert!(slots.iter().count() <= SLOTS_MAX.min(text.len()));
    let written = slots.encode();
    let again = SlotSet::decode(&written).expect("our own list");
    assert_eq!(again.encode(), written);
    let told = slots.positions();
    slots.carry(&told);
    slots.take_over(&told, told.first().map(|(name, _)| name.as_str()));
    assert!(slots.iter().all(|slot| !slot.carried || slot.temporary));
    assert!(SlotSet::decode(&slots.encode()).is_ok());
}

/// The text that stands for a password.
pub(super) fn verifier(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<Verifier>() {
        Ok(verifier) => {
            let written = verifier.to_text();
            let again = written.parse::<Verifier>().expect("our own text");
            assert_eq!(again.to_text(), written);
            let shown = format!("{verifier:?}");
            let keys = written.rsplit_once('$').expect("it has keys").1;
            assert!(keys.split(':').all(|key| !shown.contains(key)));
        }
        // The text is a secret too.
        Err(error) => assert_eq!(error, crate::wire::scram::ParseVerifierError),
    }
}

/// The configuration of a cluster, as its log holds it.
pub(super) fn cluster(data: &[u8]) {
    let Ok(Some(config)) = ClusterConfig::decode(data) else {
        return;
    };
    assert!(config.standbys.len() <= MEMBERS_MAX);
    // Names that no slot can have, and more than a log takes, are for those who act on them.
    let Ok(bytes) = config.encode() else { return };
    assert_eq!(
        ClusterConfig::decode(&bytes).ok(),
        Some(Some(config.clone()))
    );
    let bound = config.bound(Lsn::new(8));
    assert!(!bound.counted().contains(&config.primary.name));
    let mut slots = SlotSet::new();
    slots.carry(&config.slots);
    slots.take_over(&config.slots, None);
    assert!(slots.iter().count() <= SLOTS_MAX);
    assert!(SlotSet::decode(&slots.encode()).is_ok());
}
