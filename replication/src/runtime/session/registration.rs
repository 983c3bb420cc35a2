//! A standby says who it is, and what it came for is known while it is here.

use crate::cluster::{ADDRESS_BYTES_MAX, Member};
use crate::config::StreamState;
use crate::error::Error;
use crate::protocol::name::NodeName;
use crate::runtime::core::Visit;
use crate::runtime::slots::Answer;
use crate::wire::command::RegisterStandby;
use crate::wire::result::ResultSet;
use crate::wire::{Column, ErrorFields, Row, sqlstate};

use super::{Registered, Session};

impl Session {
    pub(super) fn register(&mut self, standby: RegisterStandby) -> Answer {
        let refused = |sqlstate, text: String| Box::new(ErrorFields::error(sqlstate, text));
        let name = standby.name.parse();
        let name = name.map_err(|error| refused(sqlstate::INVALID_NAME, format!("{error}")))?;
        if standby.incarnation.is_nil() {
            let why = "the nil incarnation is no life of any data".to_owned();
            return Err(refused(sqlstate::INVALID_PARAMETER_VALUE, why));
        }
        let cluster = self.core.cluster();
        let known = cluster.standby(&name).cloned();
        let member = Member {
            name,
            node_id: standby.node,
            incarnation: standby.incarnation,
            address: standby.address,
            priority: known.as_ref().map_or(100, |known| known.priority),
            votes: known.as_ref().is_none_or(|known| known.votes),
        };
        let logged = self.core.is_primary();
        if logged {
            let registered = self.core.register(member.clone());
            registered.map_err(|error| match error {
                Error::Invalid(_) => refused(sqlstate::INVALID_PARAMETER_VALUE, error.to_string()),
                error => refused(sqlstate::INVALID_AUTHORIZATION, error.to_string()),
            })?;
            self.visits(&member.name, StreamState::Startup);
        } else if !member.address.is_empty() && member.address.len() <= ADDRESS_BYTES_MAX {
            self.core.met(member.name.clone(), member.address.clone());
        }
        self.standby = Some(Registered { member, logged });
        Ok(
            ResultSet::new(vec![Column::text("role")], "REGISTER_STANDBY")
                .with_row(Row::new([Some(self.core.role().as_str().to_owned())])),
        )
    }

    /// The client, if it is a native standby, takes a base backup while the result lives.
    pub(crate) fn visits_for_backup(&self) -> Option<Visit> {
        let name = self.application.parse::<NodeName>().ok()?;
        let native = self.native.then_some(name)?;
        Some(self.core.visit(&native, self.number, StreamState::Backup))
    }

    fn visits(&mut self, name: &NodeName, state: StreamState) {
        self.visit = Some(self.core.visit(name, self.number, state));
    }
}
