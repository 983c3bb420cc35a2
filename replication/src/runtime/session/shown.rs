//! What a connection is told of this node and its log: identity, settings, timelines.
//!
//! A stock client is told of no position and of no timeline above the commit LSN. Everything is
//! answered from memory, and nothing is changed.

use bytes::BytesMut;
use mainstay_storage::{Lsn, TimelineHistory, history_file_name};

use super::{SERVER_VERSION, Session};
use crate::runtime::slots::Answer;
use crate::wire::result::{self, HistoryFile, ResultSet, SystemIdentity};
use crate::wire::{ErrorFields, ReplicationMode, sqlstate};

impl Session {
    /// The end of the log as this connection may know it.
    fn end_shown(&self) -> Lsn {
        let (flushed, commit) = (self.core.wal.flushed().get(), self.core.wal.commit().get());
        if self.native {
            flushed
        } else {
            commit.min(flushed)
        }
    }

    /// The timelines as this connection may know them: a stock client is shown a switch only once
    /// it is committed.
    pub(crate) fn history_shown(&self) -> TimelineHistory {
        let history = self.core.wal.history();
        let shown = self.end_shown();
        let spans = history.spans().iter().rev();
        let newest = spans.map(|span| (span.begin, span.timeline.number));
        let number = newest.filter(|(begin, _)| self.native || *begin < shown);
        let number = number.map(|(_, number)| number).next();
        number
            .and_then(|number| history.until(number))
            .unwrap_or_else(|| (*history).clone())
    }

    pub(super) fn identify_system(&self) -> ResultSet {
        let database = match self.mode {
            ReplicationMode::Physical => None,
            _ => Some(self.user.clone()),
        };
        let identity = SystemIdentity {
            system_id: self.core.wal.identity().system_id,
            timeline: self.history_shown().current().number,
            position: self.end_shown(),
            database,
        };
        identity.result()
    }

    pub(super) fn show(&self, name: &str) -> Answer {
        let size = self.core.wal.segment_size().bytes() >> 20;
        let read_only = if self.core.is_primary() { "off" } else { "on" };
        let value = match name {
            "wal_segment_size" if size >= 1024 => format!("{}GB", size >> 10),
            "wal_segment_size" => format!("{size}MB"),
            "data_directory_mode" => "0700".to_owned(),
            "transaction_read_only" | "default_transaction_read_only" | "in_hot_standby" => {
                read_only.to_owned()
            }
            "server_version" => SERVER_VERSION.to_owned(),
            "integer_datetimes" | "standard_conforming_strings" => "on".to_owned(),
            "max_wal_senders" => self.core.config.max_wal_senders.to_string(),
            "max_replication_slots" => self.core.config.max_replication_slots.to_string(),
            "synchronous_standby_names" => self.core.cluster().policy.to_string(),
            _ => {
                let text = format!("unrecognized configuration parameter \"{name}\"");
                return Err(ErrorFields::error(sqlstate::UNDEFINED_OBJECT, text).into());
            }
        };
        Ok(result::show(name, &value))
    }

    /// The columns first, then perhaps an error: PostgreSQL's order.
    pub(super) fn timeline_history(&mut self, timeline: u32) {
        let history = self.history_shown();
        let text = history.until(timeline).map(|history| history.to_text());
        match text.filter(|text| !text.is_empty()) {
            Some(text) => self.answer(Ok(HistoryFile::new(timeline, text).result())),
            None => {
                let mut out = BytesMut::new();
                HistoryFile::columns().encode_columns(&mut out);
                self.link.queue(out.freeze());
                let name = history_file_name(timeline);
                let text =
                    format!("could not open file \"pg_wal/{name}\": No such file or directory");
                self.error(ErrorFields::error(sqlstate::UNDEFINED_FILE, text));
            }
        }
    }
}
