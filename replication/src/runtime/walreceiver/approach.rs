//! What is said to an upstream before its log comes: registration, identity, history, the request
//! for the stream.
//!
//! Each answer goes to the machine as an event, and what follows from it is decided there. Whatever
//! keeps a connection from being used ends it with the reason.

use mainstay_storage::{Lsn, Timeline};

use super::Driver;
use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::receiver::{Event, is_stale, newest_known};
use crate::runtime::client::{Answered, Client};
use crate::wire::command::{Command, RegisterStandby, StartReplication};
use crate::wire::sqlstate;

impl Driver {
    /// The newest timeline that this node opened, follows or promised.
    pub(super) fn newest_known(&self) -> Timeline {
        newest_known(&self.core.wal.history(), self.core.wal.control().promised())
    }

    pub(super) async fn connect(&mut self) -> Result<()> {
        let now = self.core.clock.now();
        let address = self.upstreams.next(now)?;
        self.ending = false;
        let mut client = Client::connect(&self.core.config, &address).await?;
        let identity = self.core.wal.identity();
        // Another cluster must not count on this node, not even for a moment.
        if client.system_identity().await?.system_id == identity.system_id {
            let register = RegisterStandby {
                name: self.core.name.as_str().to_owned(),
                node: identity.node_id,
                incarnation: identity.incarnation,
                address: self.core.address(),
            };
            let answer = client.rows(&Command::RegisterStandby(register)).await?;
            let role = answer.sets.first().and_then(|set| set.rows.first());
            let role = role.and_then(|row| row.text(0));
            self.from_primary = role == Some(Role::Primary.as_str());
            if !self.from_primary && self.upstreams.pass_over(now) {
                return Err(client.broken("it is a standby itself, not the primary"));
            }
            if self.from_primary && !is_stale(client.server.timeline, self.newest_known()) {
                self.upstreams.found_primary();
            }
            if let Some(slot) = &self.core.config.follow_slot {
                client.make_slot(slot).await?;
            }
        }
        self.core
            .set_upstream(Some((client.server.name.clone(), address)));
        self.client = Some(client);
        if self.from_primary {
            self.core.primary_renewed();
        }
        self.events.push_back(Event::Connected);
        Ok(())
    }

    pub(super) fn client(&mut self) -> Result<&mut Client> {
        self.client
            .as_mut()
            .ok_or_else(|| Error::Invalid("no connection".to_owned()))
    }

    pub(super) async fn identify(&mut self) -> Result<()> {
        let client = self.client()?;
        let identity = client.system_identity().await?;
        let mut timeline = client.server.timeline;
        if identity.timeline != timeline.number {
            // It switched since the session began; the next session tells the id.
            return Err(client.broken("its timeline changed meanwhile"));
        }
        timeline.number = identity.timeline;
        self.telling.upstream_end = identity.position;
        self.events.push_back(Event::Identified {
            system_id: identity.system_id,
            timeline,
            flushed: identity.position,
            oldest: Lsn::ZERO,
        });
        Ok(())
    }

    pub(super) async fn fetch_history(&mut self, timeline: Timeline) -> Result<()> {
        let history = self.client()?.history(timeline).await?;
        self.events.push_back(Event::HistoryFetched(history));
        Ok(())
    }

    pub(super) async fn start(&mut self, from: Lsn, timeline: Timeline) -> Result<()> {
        self.drop_incoming();
        if let Some(why) = self.weigh(from).await? {
            self.gives_up(why);
            return Ok(());
        }
        let start = StartReplication {
            slot: self.core.config.follow_slot.clone(),
            start: from,
            timeline: Some(timeline.number),
            timeline_id: Some(timeline.id),
        };
        let client = self.client()?;
        let event = match client.ask(&Command::StartReplication(start)).await {
            Ok(Answered::Copy(_)) => {
                self.continues();
                Event::Started
            }
            // The stream begins exactly where the timeline ended.
            Ok(Answered::Done(_)) => Event::NextTimeline,
            Err(Error::Answer {
                sqlstate: code,
                message,
                ..
            }) => {
                tracing::warn!(%message, "the upstream refused the stream");
                if code == sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE {
                    self.drop_lost_slot().await?;
                }
                Event::StartRefused {
                    removed: code == sqlstate::UNDEFINED_FILE,
                }
            }
            Err(error) => return Err(error),
        };
        self.events.push_back(event);
        Ok(())
    }
}
