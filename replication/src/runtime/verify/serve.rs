//! The primary's side of a comparison: a position that stays readable for a session, and answers
//! about it.

use std::sync::Arc;

use bytes::Bytes;
use mainstay_storage::{Error as StorageError, Lsn, Timeline};
use tokio::time::timeout;

use super::{Contents, PAGE_BYTES, PAGE_ROWS_MAX, PIECE_BYTES, POSITION_TIMEOUT, cut};
use crate::protocol::verify::{Grain, Part, Span};
use crate::runtime::clock::Clock;
use crate::runtime::core::{Core, Turn};
use crate::runtime::slots::Answer;
use crate::wire::command::{VerifyAt, VerifyCommand};
use crate::wire::result::ResultSet;
use crate::wire::{Column, ErrorFields, Row, sqlstate};

/// A position that is kept readable for one session.
pub(crate) struct Served {
    contents: Arc<dyn Contents>,
    at: Lsn,
    turn: Turn,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.contents.release(self.at);
    }
}

/// Answers a command; `served` is what the session holds.
pub(crate) async fn serve(
    core: &Arc<Core>,
    served: &mut Option<Served>,
    asked: VerifyCommand,
) -> Answer {
    match asked {
        VerifyCommand::Begin { timeline, at } => {
            // What was held before makes room.
            *served = None;
            let held = served.insert(begin(core, timeline, at).await?);
            let columns = vec![Column::text("position")];
            let row = Row::new([Some(held.at.to_string())]);
            Ok(ResultSet::new(columns, "VERIFY_BEGIN").with_row(row))
        }
        VerifyCommand::Ranges { rows, after, upto } => {
            let (contents, at) = position(core, served)?;
            let grain = Grain::ALL.into_iter().find(|grain| grain.rows() == rows);
            let grain = grain.ok_or_else(|| {
                let text = format!("ranges of {rows} rows are not made here");
                Box::new(ErrorFields::error(sqlstate::INVALID_PARAMETER_VALUE, text))
            })?;
            let (span, clock) = (Span { after, upto }, core.clock);
            let cut = move || cut::parts(&*contents, clock, at, &span, grain);
            Ok(ranges(blocking(cut).await?))
        }
        VerifyCommand::Rows {
            offset,
            after,
            upto,
        } => {
            let (contents, at) = position(core, served)?;
            let (span, clock) = (Span { after, upto }, core.clock);
            blocking(move || page(&*contents, clock, at, &span, offset)).await
        }
    }
}

async fn begin(
    core: &Arc<Core>,
    timeline: Timeline,
    at: VerifyAt,
) -> Result<Served, Box<ErrorFields>> {
    let state = sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;
    if !core.is_primary() {
        return Err(refused(state, "this node is no primary"));
    }
    let ours = core.wal.timeline();
    if ours != timeline {
        let text = format!("this node is on timeline {ours}, the other one on {timeline}");
        return Err(refused(state, &text));
    }
    let contents = core.verdict.contents().ok_or_else(|| {
        let text = "this node's rows are in a store of another kind, which cannot be compared";
        refused(sqlstate::FEATURE_NOT_SUPPORTED, text)
    })?;
    let turn = core.verdict.serve(core.clock.now()).ok_or_else(|| {
        let text = "another standby is compared with this node just now; try again later";
        refused(sqlstate::OBJECT_IN_USE, text)
    })?;
    let at = match at {
        VerifyAt::Place => Some(place(core, &contents).await?),
        VerifyAt::Lsn(at) if at > core.wal.commit().get() => {
            return Err(refused(state, &format!("{at} is not committed here")));
        }
        VerifyAt::Lsn(at) => Some(at),
        VerifyAt::Newest => None,
    };
    let holding = contents.clone();
    let at = blocking(move || {
        let newest = holding.hold_newest()?;
        let Some(at) = at else { return Ok(newest) };
        let held = holding.hold(at);
        holding.release(newest);
        held.map(|()| at)
    });
    Ok(Served {
        at: at.await?,
        contents,
        turn,
    })
}

/// A record of its own in the log, once it is committed.
async fn place(core: &Core, contents: &Arc<dyn Contents>) -> Result<Lsn, Box<ErrorFields>> {
    let state = sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;
    let placing = contents.clone();
    let placed = tokio::task::spawn_blocking(move || placing.place()).await;
    let placed = placed.map_err(|error| refused(sqlstate::INTERNAL_ERROR, &error.to_string()))?;
    let at = placed.map_err(|why| refused(state, &why))?;
    let committed = timeout(POSITION_TIMEOUT, core.wal.commit().wait(at)).await;
    match committed {
        Ok(Ok(_)) => Ok(at),
        _ => {
            let seconds = POSITION_TIMEOUT.as_secs();
            let text = format!("the synchronous policy was not met within {seconds} s");
            Err(refused(state, &text))
        }
    }
}

type Position = (Arc<dyn Contents>, Lsn);

fn position(core: &Core, served: &Option<Served>) -> Result<Position, Box<ErrorFields>> {
    let now = core.clock.now();
    let held = served.as_ref().filter(|held| held.turn.heard(now));
    let held = held.ok_or_else(|| {
        let text = "there is no position to compare at; VERIFY_BEGIN comes first";
        refused(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, text)
    })?;
    Ok((held.contents.clone(), held.at))
}

pub(super) fn ranges(parts: Vec<Part>) -> ResultSet {
    let columns = ["upto", "rows", "bytes", "sha256"];
    let columns = columns.map(Column::text).to_vec();
    let mut set = ResultSet::new(columns, "VERIFY_RANGES");
    set.rows.extend(parts.into_iter().map(|part| {
        let number = |number: u64| Some(Bytes::from(number.to_string()));
        let Part { upto, digest } = part;
        let hash = Bytes::copy_from_slice(&digest.hash);
        Row(vec![
            upto,
            number(digest.rows),
            number(digest.bytes),
            Some(hash),
        ])
    }));
    set
}

/// Rows of a span from its begin on, the first one's value from `offset` on: key, size of the
/// value, and the value or a piece of it. A row of nothing says that there are no more.
pub(super) fn page(
    contents: &dyn Contents,
    clock: Clock,
    at: Lsn,
    span: &Span,
    offset: u64,
) -> mainstay_storage::Result<ResultSet> {
    let begun = clock.now();
    let columns = ["key", "size", "piece"].map(Column::text).to_vec();
    let mut set = ResultSet::new(columns, "VERIFY_ROWS");
    let mut offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut bytes = 0;
    for row in contents.rows(span.after.as_deref(), span.upto.as_deref(), at)? {
        let (key, value) = row?;
        let size = value.len();
        let mut rest = value.slice(offset.min(size)..);
        offset = 0;
        loop {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            bytes += key.len() + piece.len();
            let size = Bytes::from(size.to_string());
            set.rows
                .push(Row(vec![Some(key.clone()), Some(size), Some(piece)]));
            let late = clock.now() - begun >= super::ANSWER_TIME_MAX;
            if bytes >= PAGE_BYTES || set.rows.len() >= PAGE_ROWS_MAX || late {
                return Ok(set);
            }
            if rest.is_empty() {
                break;
            }
        }
    }
    set.rows.push(Row(vec![None, None, None]));
    Ok(set)
}

/// Does what may wait for the disk where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> mainstay_storage::Result<T> + Send + 'static,
) -> Result<T, Box<ErrorFields>> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| refused(sqlstate::INTERNAL_ERROR, &error.to_string()))?;
    done.map_err(|error| {
        let code = match error {
            StorageError::SnapshotTooOld { .. } => sqlstate::SNAPSHOT_TOO_OLD,
            StorageError::Closed => sqlstate::ADMIN_SHUTDOWN,
            _ => sqlstate::INTERNAL_ERROR,
        };
        refused(code, &error.to_string())
    })
}

fn refused(sqlstate: &'static str, text: &str) -> Box<ErrorFields> {
    ErrorFields::error(sqlstate, text.to_owned()).into()
}
