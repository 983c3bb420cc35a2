//! What a node records of itself, beside what replication tells.

use mainstay_replication::{Promotion, Role};
use mainstay_storage::{Lsn, Recovered, Timeline, Wal};

use super::discard::Discarded;
use super::life::Plan;
use crate::events::{Draft, EventType};
use crate::orders::Resynced;
use crate::status::Verified;

/// The log was opened, and is as `recovered` says; new if it says nothing. `filled` says where a
/// directory that was empty before came from.
pub(super) fn opened(plan: &Plan, wal: &Wal, recovered: Option<&Recovered>, filled: Option<Draft>) {
    let events = &plan.events;
    events.identify(wal.identity().node_id.to_string());
    if plan.starting {
        events.record(started(plan, wal, recovered));
    }
    filled.into_iter().for_each(|draft| events.record(draft));
    if let Some(loss) = recovered.and_then(|recovered| recovered.loss.as_ref()) {
        let draft = Draft::new(EventType::AcceptedLoss, loss.to_string());
        let draft = draft.with("from", loss.from.to_string());
        events.record(draft.with("proven", loss.proven.to_string()));
    } else if let Some(torn) = recovered.and_then(|recovered| recovered.torn.as_ref()) {
        let (at, bytes, saved_to) = (torn.at, torn.bytes, torn.saved_to.display().to_string());
        let text = format!(
            "{bytes} bytes from {at} on, a write that was never finished, are in {saved_to}"
        );
        let draft = Draft::new(EventType::LogCut, text);
        let draft = draft.with("at", at.to_string()).with("bytes", bytes);
        events.record(draft.with("saved_to", saved_to));
    }
}

fn started(plan: &Plan, wal: &Wal, recovered: Option<&Recovered>) -> Draft {
    let (name, number) = (plan.config.name.as_str(), wal.timeline().number);
    let primary = plan.is_primary();
    let role = if primary {
        Role::Primary
    } else {
        Role::Standby
    };
    let role = role.as_str();
    let clean = recovered.is_none_or(|recovered| recovered.clean);
    let after = if clean {
        ""
    } else {
        ", after it had not been stopped properly"
    };
    let text = format!("{name} starts as {role} on timeline {number}{after}");
    let draft = as_role(Draft::new(EventType::Started, text), name, primary);
    let draft = draft.with("role", role).with("timeline", number);
    let draft = draft.with("clean", clean);
    draft.with("version", env!("CARGO_PKG_VERSION"))
}

/// Says that it is about the node `name`, which is a primary or not.
fn as_role(draft: Draft, name: &str, primary: bool) -> Draft {
    match primary {
        true => draft.primary(name),
        false => draft.standby(name),
    }
}

/// The node stopped, or failed to start.
pub(super) fn stopped(name: &str, primary: bool, error: Option<&crate::Error>) -> Draft {
    let text = match error {
        None => format!("{name} was stopped"),
        Some(error) => format!("{name} ended, and not as it should: {error}"),
    };
    as_role(Draft::new(EventType::Stopped, text), name, primary).with("clean", error.is_none())
}

/// The directory held a base backup.
pub(super) fn adopted(me: &str, label: &str, end: Lsn) -> Draft {
    let text = format!("the data are those of the base backup {label:?}, as of {end}");
    let draft = Draft::new(EventType::Reseeded, text).standby(me);
    draft.with("label", label).with("lsn", end.to_string())
}

/// The data are a copy of another node's.
pub(super) fn reseeded(me: &str, bytes: u64, why: &str) -> Draft {
    let text = format!("the data are a copy of another node's, {bytes} bytes: {why}");
    let draft = Draft::new(EventType::Reseeded, text).standby(me);
    let draft = draft.with("bytes", bytes);
    draft.with("reason", why)
}

/// This standby was told to copy everything anew.
pub(super) fn resync(me: &str, resynced: &Resynced) -> Draft {
    let (way, why) = (&resynced.resync, &resynced.reason);
    let draft = Draft::new(EventType::Resync, format!("{me} goes on by {way}: {why}"));
    let draft = draft.standby(me).with("way", way.as_str());
    let draft = draft.with("reason", why.as_str());
    draft.with("log_bytes", resynced.log_bytes)
}

/// A copy that was to be taken could not be had, and the node goes on as it was.
pub(super) fn not_copied(me: &str, error: &crate::Error) -> Draft {
    let text = format!("{me} goes on with the data it has: no copy could be had: {error}");
    let draft = Draft::new(EventType::Resync, text).standby(me);
    draft.with("way", "log").with("reason", error.to_string())
}

/// The data went back to `to`.
pub(super) fn rewound(me: &str, to: Lsn, discarded: &Discarded) -> Draft {
    let count = discarded.transactions;
    let path = discarded.path.as_deref();
    let path = path.map(|path| path.display().to_string());
    let listed = match &path {
        Some(path) => {
            format!("; {count} transactions that only this node had are listed in {path}")
        }
        None => String::new(),
    };
    let text = format!("the data went back to {to}, where the new primary's log begins{listed}");
    let draft = Draft::new(EventType::Rewound, text).standby(me);
    let draft = draft.with("lsn", to.to_string());
    draft.with("transactions", count).with("saved_to", path)
}

/// This primary handed its place to `to`.
pub(super) fn switched_over(me: &str, to: &str, timeline: Timeline, pause_ms: u64) -> Draft {
    let text = format!("{me} handed over to {to}; writes were held for {pause_ms} ms");
    let draft = Draft::new(EventType::SwitchedOver, text).primary(to);
    let draft = draft.standby(me).with("timeline", timeline.number);
    draft.with("pause_ms", pause_ms)
}

/// This node took the place of `previous`, which did not hand it over.
pub(super) fn failed_over(
    me: &str,
    previous: Option<String>,
    promotion: &Promotion,
    why: Option<&str>,
) -> Draft {
    let (timeline, loss) = (promotion.timeline, promotion.possible_loss);
    let from = previous
        .as_deref()
        .unwrap_or("a primary that is not known here");
    let text = format!(
        "{me} took over from {from}, on timeline {}",
        timeline.number
    );
    let draft = Draft::new(EventType::Failover, text).primary(me);
    let draft = draft.with("timeline", timeline.number);
    draft
        .with("previous_primary", previous)
        .with("notices", &promotion.notices[..])
        .with("why", why.map(str::to_owned))
        .with("lost_bytes_max", loss.bytes)
        .with("lost_transactions_max", loss.transactions)
}

/// This node could not turn to the new primary.
pub(super) fn stuck(me: &str, error: &crate::Error) -> Draft {
    let text = format!("{me} cannot follow the new primary: {error}; restart it");
    Draft::new(EventType::ReplicationUnhealthy, text).standby(me)
}

/// This node was told to follow the node at `url`.
pub(super) fn told_to_follow(me: &str, upstreams: &[String]) -> Draft {
    let text = format!("{me} was told to follow {}", upstreams.join(", "));
    let draft = Draft::new(EventType::PrimaryChanged, text).standby(me);
    draft.with("addresses", upstreams)
}

/// This standby's rows were compared, and are the primary's.
pub(super) fn verified(done: &Verified) -> Draft {
    let (me, rows, at) = (&done.standby_name, done.rows, &done.lsn);
    let text = format!("{me} holds what its primary holds: {rows} rows were compared at {at}");
    of_verification(EventType::Verified, text, done)
}

/// They differ.
pub(super) fn verify_mismatch(done: &Verified) -> Draft {
    let (me, ranges, at) = (&done.standby_name, done.mismatched_ranges, &done.lsn);
    let first = done.first_difference.as_ref();
    let text = match first {
        Some(first) => format!(
            "{me} differs from its primary at {at}, in {ranges} ranges; first {}",
            first.text
        ),
        None => format!("{me} differs from its primary at {at}, in {ranges} ranges"),
    };
    let draft = of_verification(EventType::VerifyMismatch, text, done);
    draft
        .with("mismatched_ranges", ranges)
        .with("first_difference", serde_json::json!(first))
}

/// What differed was taken anew.
pub(super) fn repaired(done: &Verified) -> Draft {
    let (me, repaired) = (&done.standby_name, serde_json::json!(done.repaired));
    let text = format!(
        "{me} took {} ranges anew from its primary, of {} rows; {} were wrong",
        repaired["ranges"], repaired["shipped_rows"], repaired["rows"]
    );
    of_verification(EventType::Repaired, text, done).with("repaired", repaired)
}

fn of_verification(event: EventType, text: String, done: &Verified) -> Draft {
    let draft = Draft::new(event, text).standby(&done.standby_name);
    draft.with("lsn", done.lsn.clone()).with("rows", done.rows)
}
