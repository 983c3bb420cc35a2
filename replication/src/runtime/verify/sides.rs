//! The two sides of a comparison, as the standby holds them: a session on its primary, and one
//! position that both can read.

use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{Error as StorageError, Lsn, RECORD_HEADER_LEN, WaitError};
use tokio::time::timeout;

use super::{Contents, POSITION_TIMEOUT, POSITION_TRIES_MAX};
use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::verify::{Digest, Grain, Part, Span};
use crate::runtime::applicator::{Held, Holder};
use crate::runtime::client::Client;
use crate::runtime::core::Core;
use crate::wire::command::{Command, VerifyAt, VerifyCommand};
use crate::wire::result::{Answer, RowSet};
use crate::wire::{Row, sqlstate};

/// A position that this node's store keeps readable.
pub(super) struct Pin {
    pub(super) contents: Arc<dyn Contents>,
    pub(super) at: Lsn,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.contents.release(self.at);
    }
}

/// Both sides at one position.
pub(super) struct Sides {
    pub(super) client: Client,
    pub(super) pin: Pin,
    /// Present while the replay stands at the position.
    pub(super) held: Option<Held>,
}

/// A whole or partial row of the primary's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) key: Bytes,
    /// Bytes of the whole value.
    pub(super) size: usize,
    pub(super) bytes: Bytes,
}

/// Holds both sides at a position: the newest, or one of its own in the log if `place` says so, at
/// which the replay then stays.
///
/// # Errors
/// [`Error::Refused`] where the two cannot be compared, connection errors.
pub(super) async fn hold(core: &Arc<Core>, holder: &Holder, place: bool) -> Result<Sides> {
    let contents = core.verdict.contents().ok_or_else(|| {
        let text = "the rows of this node are in a store of another kind, which cannot be compared";
        Error::Refused(text.to_owned())
    })?;
    let mut client = connect(core).await?;
    if core.stays_behind() {
        if place {
            return Err(Error::Refused(
                "this standby stays behind on purpose, and its rows cannot be mended meanwhile; \
                 let it apply first"
                    .to_owned(),
            ));
        }
        return behind(core, client, contents).await;
    }
    for _ in 0..POSITION_TRIES_MAX {
        let held = holder.hold();
        in_time(held.at(Lsn::ZERO)).await?;
        let at = match place {
            true => VerifyAt::Place,
            false => VerifyAt::Newest,
        };
        let at = begin(core, &mut client, at).await?;
        // What the primary shows is committed there, and this node hears of it.
        in_time(async {
            reached(core.wal.flushed().wait(at).await)?;
            reached(core.wal.commit().wait(at).await)?;
            held.at(at).await
        })
        .await?;
        // A record that is missing takes more room than this.
        if at.bytes_since(core.applied.get()) >= RECORD_HEADER_LEN as u64 {
            return Err(Error::Refused(
                "this standby was told to apply nothing meanwhile; verify again".to_owned(),
            ));
        }
        match pin(contents.clone(), at).await {
            Ok(pin) => {
                let held = place.then_some(held);
                return Ok(Sides { client, pin, held });
            }
            // This node was ahead of what the primary showed.
            Err(Error::Storage(StorageError::SnapshotTooOld { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Refused(format!(
        "no position was found in {POSITION_TRIES_MAX} attempts that both nodes can read; try again"
    )))
}

/// At the position of a standby that stays behind on purpose, if the primary can still read it.
async fn behind(
    core: &Arc<Core>,
    mut client: Client,
    contents: Arc<dyn Contents>,
) -> Result<Sides> {
    let newest = contents.clone();
    let at = blocking(move || newest.hold_newest()).await?;
    let pin = Pin { contents, at };
    match begin(core, &mut client, VerifyAt::Lsn(at)).await {
        Err(error) if is_too_old(&error) => Err(Error::Refused(format!(
            "this standby stays behind on purpose, at {at}, which the primary cannot read any \
             more; let it catch up first"
        ))),
        begun => begun.map(|_| Sides {
            client,
            pin,
            held: None,
        }),
    }
}

async fn pin(contents: Arc<dyn Contents>, at: Lsn) -> Result<Pin> {
    let holding = contents.clone();
    blocking(move || holding.hold(at)).await?;
    Ok(Pin { contents, at })
}

fn reached(waited: std::result::Result<Lsn, WaitError>) -> Result<()> {
    waited.map(|_| ()).map_err(|_| Error::NotRunning)
}

async fn in_time(work: impl Future<Output = Result<()>>) -> Result<()> {
    timeout(POSITION_TIMEOUT, work).await.unwrap_or_else(|_| {
        let seconds = POSITION_TIMEOUT.as_secs();
        Err(Error::Refused(format!(
            "this standby did not apply what the primary shows within {seconds} s; wait until it \
             has caught up"
        )))
    })
}

/// A session on the primary: the node that is followed, or the one that the log names.
async fn connect(core: &Core) -> Result<Client> {
    if core.role() != Role::Standby {
        return Err(Error::Refused(
            "a primary is what standbys are compared with; ask a standby".to_owned(),
        ));
    }
    let upstream = core.upstream().map(|(_, address)| address);
    let named = core.cluster().primary.address;
    let mut addresses = Vec::from_iter(upstream);
    if !named.is_empty() && !addresses.contains(&named) {
        addresses.push(named);
    }
    let mut failed = None;
    for address in addresses {
        match primary_at(core, &address).await {
            Ok(client) => return Ok(client),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| {
        let text = "the primary cannot be reached: this standby is connected to nobody";
        Error::Refused(text.to_owned())
    }))
}

async fn primary_at(core: &Core, address: &str) -> Result<Client> {
    let mut client = Client::connect(&core.config, address).await?;
    let (ours, theirs) = (
        core.wal.identity().system_id,
        client.system_identity().await?.system_id,
    );
    if ours != theirs {
        return Err(Error::Foreign {
            peer: address.to_owned(),
            expected: ours,
            found: theirs,
        });
    }
    let answer = client.rows(&Command::IdentifyNode).await?;
    let row = answer.sets.first().and_then(|set| set.rows.first());
    match row.and_then(|row| row.text(3)) {
        Some(role) if role == Role::Primary.as_str() => Ok(client),
        _ => Err(Error::Refused(format!(
            "{address} is no primary; try again when this cluster has one"
        ))),
    }
}

async fn begin(core: &Core, client: &mut Client, at: VerifyAt) -> Result<Lsn> {
    let timeline = core.wal.timeline();
    let command = VerifyCommand::Begin { timeline, at };
    let answer = ask(client, command).await?;
    let row = answer.sets.first().and_then(|set| set.rows.first());
    let at = row
        .and_then(|row| row.text(0))
        .and_then(|text| text.parse().ok());
    at.ok_or_else(|| client.broken("its answer names no position"))
}

/// Asks the primary; what it refuses, this node refuses.
async fn ask(client: &mut Client, command: VerifyCommand) -> Result<Answer> {
    let answer = client.rows(&Command::Verify(command)).await;
    answer.map_err(|error| match error {
        Error::Answer {
            peer,
            sqlstate: code,
            message,
        } if code == sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE
            || code == sqlstate::OBJECT_IN_USE =>
        {
            Error::Refused(format!("{peer}: {message}"))
        }
        Error::Answer { peer, sqlstate, .. } if sqlstate == "0A000" => Error::Refused(format!(
            "{peer} cannot compare its rows; it may be of an older version, or keep them in a \
             store of another kind"
        )),
        other => other,
    })
}

/// Whether the primary cannot read the position any more.
pub(super) fn is_too_old(error: &Error) -> bool {
    match error {
        Error::Answer { sqlstate: code, .. } => code == sqlstate::SNAPSHOT_TOO_OLD,
        Error::Storage(StorageError::SnapshotTooOld { .. }) => true,
        _ => false,
    }
}

/// The primary's ranges of `span`, from its begin on.
pub(super) async fn ranges(client: &mut Client, span: Span, grain: Grain) -> Result<Vec<Part>> {
    let command = VerifyCommand::Ranges {
        rows: grain.rows(),
        after: span.after,
        upto: span.upto,
    };
    let answer = ask(client, command).await?;
    let parts = rows_of(&answer).map(part).collect::<Option<Vec<_>>>();
    parts.ok_or_else(|| client.broken("its ranges cannot be read"))
}

pub(super) fn part(row: &Row) -> Option<Part> {
    let hash = row.0.get(3)?.as_ref()?;
    let digest = Digest {
        rows: row.text(1)?.parse().ok()?,
        bytes: row.text(2)?.parse().ok()?,
        hash: hash[..].try_into().ok()?,
    };
    let upto = row.0.first()?.clone();
    Some(Part { upto, digest })
}

/// The primary's rows of `span` from its begin on, the first one's value from `offset` on, and
/// whether those are all.
pub(super) async fn rows(
    client: &mut Client,
    span: &Span,
    offset: usize,
) -> Result<(Vec<Piece>, bool)> {
    let command = VerifyCommand::Rows {
        offset: offset as u64,
        after: span.after.clone(),
        upto: span.upto.clone(),
    };
    let answer = ask(client, command).await?;
    let mut pieces = Vec::new();
    for row in rows_of(&answer) {
        if let Some(None) = row.0.first() {
            return Ok((pieces, true));
        }
        let piece = piece(row);
        pieces.push(piece.ok_or_else(|| client.broken("its rows cannot be read"))?);
    }
    match pieces.is_empty() {
        true => Err(client.broken("it shipped nothing and says that there is more")),
        false => Ok((pieces, false)),
    }
}

pub(super) fn piece(row: &Row) -> Option<Piece> {
    Some(Piece {
        key: row.0.first()?.clone()?,
        size: row.text(1)?.parse().ok()?,
        bytes: row.0.get(2)?.clone()?,
    })
}

fn rows_of(answer: &Answer) -> impl Iterator<Item = &Row> {
    answer.sets.iter().flat_map(|set: &RowSet| &set.rows)
}

/// Does what may wait for the disk where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> mainstay_storage::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Error::Invalid(error.to_string()))??)
}
