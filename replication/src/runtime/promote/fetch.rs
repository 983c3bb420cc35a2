//! Fetching, from a member, the log that a candidate lacks.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::PHASE_TIMEOUT;
use super::ask::connect;
use crate::error::{Error, Result};
use crate::protocol::name::NodeName;
use crate::protocol::policy::BoundPolicy;
use crate::protocol::promotion::{CandidateEvent as Event, LogEnd};
use crate::runtime::client::{Answered, Client};
use crate::runtime::core::Core;
use crate::runtime::promise;
use crate::wire::BackendMessage;
use crate::wire::command::{Command, StartReplication};
use crate::wire::replication::SenderMessage;

/// Streams what a member has and this node lacks.
pub(super) async fn run(
    core: &Arc<Core>,
    name: &NodeName,
    address: Option<String>,
    end: LogEnd,
) -> Event {
    match timeout(PHASE_TIMEOUT, fetch_log(core, name, address, end)).await {
        Ok(Ok(policies)) => Event::Fetched {
            end: promise::log_end(&core.wal),
            policies,
            lives: core.lives(),
        },
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot fetch the log of a member");
            Event::FetchFailed
        }
        Err(_) => Event::FetchFailed,
    }
}

async fn fetch_log(
    core: &Arc<Core>,
    name: &NodeName,
    address: Option<String>,
    end: LogEnd,
) -> Result<Vec<BoundPolicy>> {
    let mut client = connect(core, name, address.as_deref()).await?;
    adopt_theirs(core, &mut client).await?;
    let mut at = core.wal.appended();
    let timeline = core.wal.timeline();
    let start = StartReplication {
        slot: None,
        start: at,
        timeline: Some(timeline.number),
        timeline_id: Some(timeline.id),
    };
    match client.ask(&Command::StartReplication(start)).await? {
        Answered::Copy(_) => {}
        Answered::Done(_) => return Err(client.broken("it has nothing to send")),
    }
    let mut carry = BytesMut::new();
    while at < end.flushed {
        let BackendMessage::CopyData(payload) = client.message().await? else {
            return Err(client.broken("it ended the stream early"));
        };
        let message = SenderMessage::decode(payload, true).map_err(|source| client.wire(source))?;
        if let SenderMessage::WalData { payload, .. } = message {
            carry.extend_from_slice(&payload);
            let bytes: Bytes = carry.split().freeze();
            let taken = core.wal.append_raw(at, &bytes)?;
            let used = usize::try_from(taken.bytes_since(at)).unwrap_or(bytes.len());
            carry.extend_from_slice(&bytes[used.min(bytes.len())..]);
            at = taken;
        }
    }
    let flushed = core.wal.flushed().wait(at).await;
    flushed.map_err(|_| Error::Storage(mainstay_storage::Error::Closed))?;
    core.policies()
}

/// Takes over a member's history where it continues ours.
async fn adopt_theirs(core: &Arc<Core>, client: &mut Client) -> Result<()> {
    let theirs = client.server.timeline;
    if theirs == core.wal.timeline() {
        return Ok(());
    }
    let history = client.history(theirs).await?;
    Ok(core.wal.adopt_history(&history)?)
}
