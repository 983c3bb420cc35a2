//! Writing commands, for the client's side.
//!
//! The mirror of the parser: what it writes, [`Command::parse`] reads back, and a stock server
//! reads it too as long as it uses nothing native. Names and strings are always quoted.

use std::fmt;

use mainstay_storage::Timeline;

use super::backup::{BackupOptions, BackupTarget, Compression, ManifestMode};
use super::{
    Command, FailOver, PromiseTimeline, RegisterStandby, SlotKind, SnapshotAction,
    StartReplication, TakeOver, TimelineOpened,
};

/// `name` as a quoted identifier.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as a quoted string.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |slot: &str| quote_identifier(slot);
        match self {
            Self::IdentifySystem => f.write_str("IDENTIFY_SYSTEM"),
            Self::Show(parameter) => write!(f, "SHOW {parameter}"),
            Self::ReadReplicationSlot { slot } => {
                write!(f, "READ_REPLICATION_SLOT {}", name(slot))
            }
            Self::CreateReplicationSlot {
                slot,
                temporary,
                kind,
            } => {
                let temporary = if *temporary { "TEMPORARY " } else { "" };
                write!(
                    f,
                    "CREATE_REPLICATION_SLOT {} {temporary}{kind}",
                    name(slot)
                )
            }
            Self::AlterReplicationSlot {
                slot,
                failover,
                two_phase,
            } => write_alter(f, slot, *failover, *two_phase),
            Self::DropReplicationSlot { slot, wait } => {
                let wait = if *wait { " WAIT" } else { "" };
                write!(f, "DROP_REPLICATION_SLOT {}{wait}", name(slot))
            }
            Self::StartReplication(start) => start.fmt(f),
            Self::StartLogicalReplication {
                slot,
                start,
                options,
            } => {
                let slot = name(slot);
                write!(f, "START_REPLICATION SLOT {slot} LOGICAL {start}")?;
                write_plugin_options(f, options)
            }
            Self::TimelineHistory { timeline } => write!(f, "TIMELINE_HISTORY {timeline}"),
            Self::BaseBackup(options) => options.fmt(f),
            Self::UploadManifest => f.write_str("UPLOAD_MANIFEST"),
            Self::ProbeTimeline => f.write_str("PROBE_TIMELINE"),
            Self::PromiseTimeline(promise) => promise.fmt(f),
            Self::TimelineOpened(opened) => opened.fmt(f),
            Self::TakeOver(asked) => asked.fmt(f),
            Self::Verify(asked) => asked.fmt(f),
            Self::FailOver(asked) => asked.fmt(f),
            Self::IdentifyNode => f.write_str("IDENTIFY_NODE"),
            Self::RegisterStandby(standby) => standby.fmt(f),
            Self::ClearSearchPath => {
                f.write_str("SELECT pg_catalog.set_config('search_path', '', false)")
            }
            Self::IsInRecovery => f.write_str("SELECT pg_catalog.pg_is_in_recovery()"),
            Self::SelectOne => f.write_str("SELECT 1"),
            Self::Empty => Ok(()),
            Self::Sql(sql) => f.write_str(sql),
        }
    }
}

impl fmt::Display for StartReplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("START_REPLICATION")?;
        if let Some(slot) = &self.slot {
            write!(f, " SLOT {}", quote_identifier(slot))?;
        }
        write!(f, " {}", self.start)?;
        if let Some(timeline) = self.timeline {
            write!(f, " TIMELINE {timeline}")?;
        }
        if let Some(id) = self.timeline_id {
            write!(f, " (timeline_id '{id}')")?;
        }
        Ok(())
    }
}

impl fmt::Display for PromiseTimeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, id) = (self.timeline.number, self.timeline.id);
        let candidate = quote_literal(&self.candidate);
        let address = quote_literal(&self.address);
        write!(f, "PROMISE_TIMELINE {number} '{id}' {candidate} {address}")?;
        for (at, Timeline { number, id }) in self.continues.iter().enumerate() {
            let mark = if at == 0 { " (" } else { ", " };
            write!(f, "{mark}{number} '{id}'")?;
        }
        f.write_str(if self.continues.is_empty() { "" } else { ")" })
    }
}

impl fmt::Display for TimelineOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, id) = (self.timeline.number, self.timeline.id);
        let (primary, address) = (quote_literal(&self.primary), quote_literal(&self.address));
        write!(f, "TIMELINE_OPENED {number} '{id}' {primary} {address}")
    }
}

impl fmt::Display for TakeOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, id, end) = (self.timeline.number, self.timeline.id, self.end);
        write!(f, "TAKE_OVER {number} '{id}' {end}")
    }
}

impl fmt::Display for FailOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |given: bool, word| if given { word } else { "" };
        let why = quote_literal(&self.why);
        let force = word(self.force, "force");
        let given_up = word(self.without_policy, "without_policy");
        let bytes = self.max_lag.map(|bytes| bytes.to_string());
        let bytes = bytes.unwrap_or_default();
        write!(f, "FAIL_OVER {why} '{force}' '{given_up}' '{bytes}'")
    }
}

impl fmt::Display for RegisterStandby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, address) = (quote_literal(&self.name), quote_literal(&self.address));
        let (node, incarnation) = (self.node, self.incarnation);
        write!(
            f,
            "REGISTER_STANDBY {name} '{node}' '{incarnation}' {address}"
        )
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Physical { reserve_wal: false } => f.write_str("PHYSICAL"),
            Self::Physical { reserve_wal: true } => f.write_str("PHYSICAL (RESERVE_WAL)"),
            Self::Logical {
                plugin,
                snapshot,
                two_phase,
                failover,
            } => {
                let snapshot = match snapshot {
                    SnapshotAction::Export => "export",
                    SnapshotAction::Use => "use",
                    SnapshotAction::Nothing => "nothing",
                };
                let plugin = quote_identifier(plugin);
                write!(f, "LOGICAL {plugin} (SNAPSHOT '{snapshot}'")?;
                if *two_phase {
                    f.write_str(", TWO_PHASE")?;
                }
                if *failover {
                    f.write_str(", FAILOVER")?;
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for BackupOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = vec![format!("LABEL {}", quote_literal(&self.label))];
        let mut add = |when: bool, option: String| {
            if when {
                options.push(option);
            }
        };
        add(self.progress, "PROGRESS".to_owned());
        add(self.fast_checkpoint, "CHECKPOINT 'fast'".to_owned());
        add(self.wal, "WAL".to_owned());
        add(!self.wait, "WAIT 0".to_owned());
        if let Some(rate) = self.max_rate_kb {
            add(true, format!("MAX_RATE {rate}"));
        }
        add(self.tablespace_map, "TABLESPACE_MAP".to_owned());
        add(!self.verify_checksums, "VERIFY_CHECKSUMS 0".to_owned());
        match self.manifest {
            ManifestMode::No => {}
            ManifestMode::Yes => add(true, "MANIFEST 'yes'".to_owned()),
            ManifestMode::ForceEncode => add(true, "MANIFEST 'force-encode'".to_owned()),
        }
        if let Some(algorithm) = self.manifest_checksums {
            add(true, format!("MANIFEST_CHECKSUMS '{}'", algorithm.as_str()));
        }
        match &self.target {
            BackupTarget::Legacy => {}
            BackupTarget::Client => add(true, "TARGET 'client'".to_owned()),
            BackupTarget::Blackhole => add(true, "TARGET 'blackhole'".to_owned()),
            BackupTarget::Server(path) => {
                let path = quote_literal(path);
                add(true, format!("TARGET 'server', TARGET_DETAIL {path}"));
            }
        }
        if self.compression != Compression::None {
            let compression = self.compression.as_str();
            add(true, format!("COMPRESSION '{compression}'"));
        }
        if let Some(detail) = &self.compression_detail {
            add(
                true,
                format!("COMPRESSION_DETAIL {}", quote_literal(detail)),
            );
        }
        add(self.incremental, "INCREMENTAL".to_owned());
        write!(f, "BASE_BACKUP ({})", options.join(", "))
    }
}

fn write_alter(
    f: &mut fmt::Formatter<'_>,
    slot: &str,
    failover: Option<bool>,
    two_phase: Option<bool>,
) -> fmt::Result {
    let option = |name, value: Option<bool>| value.map(|value| format!("{name} {value}"));
    let options = [option("FAILOVER", failover), option("TWO_PHASE", two_phase)];
    let options = options.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let slot = quote_identifier(slot);
    write!(f, "ALTER_REPLICATION_SLOT {slot} ({options})")
}

fn write_plugin_options(
    f: &mut fmt::Formatter<'_>,
    options: &[(String, Option<String>)],
) -> fmt::Result {
    for (at, (name, value)) in options.iter().enumerate() {
        f.write_str(if at == 0 { " (" } else { ", " })?;
        f.write_str(&quote_identifier(name))?;
        if let Some(value) = value {
            write!(f, " {}", quote_literal(value))?;
        }
    }
    f.write_str(if options.is_empty() { "" } else { ")" })
}
