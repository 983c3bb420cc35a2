//! Answering candidates: what this node is, and what it promises.
//!
//! A promise is durable, and everything older is left, before it is answered; promises are made
//! one at a time.

use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, TimelineHistory, Wal};

use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::promotion::{
    Acceptor, AcceptorAction, AcceptorEvent, LogEnd, ProbeAnswer, Promise, PromiseRefusal,
    PromiseRequest, Promises, Purpose, Role as ProbedRole, Standstill,
};
use crate::protocol::vote::may_promise;
use crate::runtime::core::Core;
use crate::runtime::follower;
use crate::runtime::slots::Answer;
use crate::wire::command::PromiseTimeline;
use crate::wire::result::{ResultSet, RowSet};
use crate::wire::{Column, ErrorFields, Row, sqlstate};

/// Longest time for this node's own candidacy to take note.
const OVERTAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a log ends: the timeline of its last flushed record, and that record's end.
pub(crate) fn log_end(wal: &Wal) -> LogEnd {
    let flushed = wal.flushed().get();
    let last = Lsn::new(flushed.get().saturating_sub(1));
    LogEnd {
        timeline: wal.history().owner(last),
        flushed,
    }
}

/// The answer to PROBE_TIMELINE, which promises nothing.
pub(crate) fn probe(core: &Core) -> ResultSet {
    let highest = core.wal.control().highest_number();
    let (end, silence) = (log_end(&core.wal), core.primary_silence());
    probed(core.role(), end, highest, silence, core.passed_over())
}

fn probed(
    role: Role,
    end: LogEnd,
    highest: u32,
    silence: Option<Duration>,
    unfit: Option<String>,
) -> ResultSet {
    let columns = [
        "role",
        "timeline",
        "promotion_id",
        "flushed",
        "highest",
        "primary_heard_us",
        "unfit",
    ];
    ResultSet::new(columns.map(Column::text).to_vec(), "PROBE_TIMELINE").with_row(Row::new([
        Some(role.as_str().to_owned()),
        Some(end.timeline.number.to_string()),
        Some(end.timeline.id.to_string()),
        Some(end.flushed.to_string()),
        Some(highest.to_string()),
        silence.map(|silence| silence.as_micros().to_string()),
        unfit,
    ]))
}

/// Why the node that answered PROBE_TIMELINE must not become the primary, if it says so.
pub(crate) fn read_unfit(set: &RowSet) -> Option<String> {
    set.rows.first()?.text(6).map(str::to_owned)
}

/// Reads the answer to PROBE_TIMELINE.
///
/// # Errors
/// [`Error::Invalid`] when it has another shape.
pub(crate) fn read_probe(set: &RowSet) -> Result<ProbeAnswer> {
    let row = only_row(set, 7)?;
    let role = match row.text(0) {
        Some("primary") => ProbedRole::Primary,
        Some("standby") => ProbedRole::Standby,
        Some("fenced") => ProbedRole::Fenced,
        _ => return Err(unreadable()),
    };
    let heard = match row.text(5) {
        Some(micros) => Some(Duration::from_micros(field(Some(micros))?)),
        None => None,
    };
    Ok(ProbeAnswer {
        role,
        end: LogEnd {
            timeline: timeline(row, 1)?,
            flushed: field(row.text(3))?,
        },
        highest: field(row.text(4))?,
        primary_heard: heard,
    })
}

/// The answer to PROMISE_TIMELINE.
pub(crate) async fn serve(core: &Arc<Core>, asked: &PromiseTimeline) -> Answer {
    let failed = |error: String| Box::new(ErrorFields::error(sqlstate::INTERNAL_ERROR, error));
    let candidate = asked.candidate.parse();
    let candidate = candidate.map_err(|error| failed(format!("{error}")))?;
    let opened = timelines(&asked.continues).map_err(|error| failed(error.to_string()))?;
    let request = PromiseRequest {
        candidate,
        timeline: asked.timeline,
        purpose: opened
            .as_ref()
            .map_or(Purpose::Promote, |_| Purpose::Restart),
        opened: opened.unwrap_or_else(|| (*core.wal.history()).clone()),
    };
    let (life, cluster) = (core.wal.identity().incarnation, core.logged_cluster());
    let cluster = cluster.as_ref();
    let votes = cluster.is_some_and(|cluster| cluster.has_vote(&core.name, life));
    let promise = match may_promise(votes, request.purpose, &request.candidate, cluster) {
        true => make(core, request, Some(&asked.address)).await,
        false => Ok(Promise::Refused(PromiseRefusal::NoVote)),
    };
    promised(life, promise.map_err(|error| failed(error.to_string()))?)
}

/// The answer of data of this life.
fn promised(life: Uuid, promise: Promise) -> Answer {
    let columns = [
        "accepted",
        "reason",
        "timeline",
        "promotion_id",
        "flushed",
        "incarnation",
    ];
    let life = Some(life.to_string());
    let row = match promise {
        Promise::Accepted(end) => [
            Some("t".to_owned()),
            None,
            Some(end.timeline.number.to_string()),
            Some(end.timeline.id.to_string()),
            Some(end.flushed.to_string()),
            life,
        ],
        Promise::Refused(why) => {
            let (PromiseRefusal::Outbid(newest) | PromiseRefusal::NotContinued(newest)) = why
            else {
                return Err(ErrorFields::error(sqlstate::OBJECT_IN_USE, why.to_string()).into());
            };
            let number = Some(newest.number.to_string());
            [
                Some("f".to_owned()),
                Some(why.to_string()),
                number,
                Some(newest.id.to_string()),
                None,
                life,
            ]
        }
    };
    let columns = columns.map(Column::text).to_vec();
    Ok(ResultSet::new(columns, "PROMISE_TIMELINE").with_row(Row::new(row)))
}

/// The timelines that a restarted primary continues, as a history; `None` for other candidates.
/// Where each begins is not told, and does not matter.
fn timelines(continues: &[Timeline]) -> Result<Option<TimelineHistory>> {
    let Some((first, rest)) = continues.split_first() else {
        return Ok(None);
    };
    let mut history = TimelineHistory::new(*first, Lsn::ZERO);
    for next in rest {
        let opened = history.open(*next, Lsn::ZERO, "");
        opened.map_err(|error| Error::Invalid(error.to_string()))?;
    }
    Ok(Some(history))
}

/// Gives up `timeline`, which this node asked for itself and will never open.
///
/// # Errors
/// Disk errors; it stays bound then.
pub(crate) async fn give_up(core: &Arc<Core>, timeline: Timeline) -> Result<()> {
    let _one_at_a_time = core.promising.lock().await;
    match core.wal.control().attempted() == Some(timeline) {
        true => note(core, AcceptorEvent::GivenUp).await,
        false => Ok(()),
    }
}

/// Binds this node, which was the primary, to the opened timeline `by` that replaced it.
///
/// # Errors
/// Disk errors; a restart may not know of it then.
pub(crate) async fn remember(core: &Arc<Core>, by: Timeline) -> Result<()> {
    let _one_at_a_time = core.promising.lock().await;
    note(core, AcceptorEvent::Replaced(by)).await
}

/// Brings an event that nobody waits for; the lock is held.
async fn note(core: &Arc<Core>, event: AcceptorEvent) -> Result<()> {
    let mut actions = Vec::new();
    acceptor(core).on(event, &mut actions);
    match actions.pop() {
        Some(AcceptorAction::Save(promises)) => save(core, promises).await,
        _ => Ok(()),
    }
}

/// The acceptor as the disk has it.
fn acceptor(core: &Core) -> Acceptor {
    let control = core.wal.control();
    let promises = Promises {
        others: control.promised(),
        own: control.attempted(),
    };
    Acceptor::new(core.name.clone(), promises, core.wal.timeline())
}

async fn save(core: &Arc<Core>, promises: Promises) -> Result<()> {
    let wal = core.wal.clone();
    let saved =
        tokio::task::spawn_blocking(move || wal.save_promises(promises.others, promises.own));
    Ok(saved
        .await
        .map_err(|error| Error::Invalid(error.to_string()))??)
}

/// Reads the answer to PROMISE_TIMELINE: the life of the data that gave it, and what it says.
///
/// # Errors
/// [`Error::Invalid`] when it has another shape.
pub(crate) fn read_promise(set: &RowSet) -> Result<(Uuid, Promise)> {
    let row = only_row(set, 6)?;
    let (timeline, life) = (timeline(row, 2)?, field(row.text(5))?);
    let promise = match row.text(0) {
        Some("t") => Ok(Promise::Accepted(LogEnd {
            timeline,
            flushed: field(row.text(4))?,
        })),
        Some("f") => Ok(Promise::Refused(PromiseRefusal::Outbid(timeline))),
        _ => Err(unreadable()),
    };
    Ok((life, promise?))
}

/// Makes a promise, to another node at `address` or, without one, to this node itself.
///
/// # Errors
/// Disk errors; nothing was promised then.
pub(crate) async fn make(
    core: &Arc<Core>,
    request: PromiseRequest,
    address: Option<&str>,
) -> Result<Promise> {
    let _one_at_a_time = core.promising.lock().await;
    let mut acceptor = acceptor(core);
    let timeline = request.timeline;
    let mut actions = Vec::new();
    acceptor.on(AcceptorEvent::Asked(request), &mut actions);
    while let Some(action) = actions.pop() {
        match action {
            AcceptorAction::Persist(promises) | AcceptorAction::Save(promises) => {
                save(core, promises).await?;
                leave_older(core, timeline, address).await?;
                acceptor.on(AcceptorEvent::Persisted(log_end(&core.wal)), &mut actions);
            }
            AcceptorAction::Reply { promise, .. } => return Ok(promise),
        }
    }
    Err(Error::Invalid("the acceptor gave no answer".to_owned()))
}

/// Stops receiving and acknowledging on anything older than `timeline`.
async fn leave_older(core: &Arc<Core>, timeline: Timeline, address: Option<&str>) -> Result<()> {
    let candidacy = core.candidacy.lock().clone().filter(|_| address.is_some());
    if let Some(candidacy) = candidacy {
        let (known, knows) = oneshot::channel();
        let told = timeout(OVERTAKE_TIMEOUT, async {
            if candidacy.send((timeline, known)).await.is_ok() {
                // It ended instead, which is as good.
                let _ = knows.await;
            }
        });
        let busy = |_| Error::Refused("this node is about to open a timeline itself".to_owned());
        told.await.map_err(busy)?;
    }
    if core.role() == Role::Primary {
        core.suspend(Standstill::Outbid);
    }
    if let (Some(orders), Some(address)) = (core.orders(), address) {
        follower::leave(&orders, timeline, address.to_owned()).await;
    }
    // What was received before is ours; its end is told, so it must be on disk.
    let flushed = core.wal.flushed().wait(core.wal.appended()).await;
    flushed
        .map(|_| ())
        .map_err(|_| Error::Storage(mainstay_storage::Error::Closed))
}

fn only_row(set: &RowSet, width: usize) -> Result<&Row> {
    match &set.rows[..] {
        [row] if row.0.len() == width => Ok(row),
        _ => Err(unreadable()),
    }
}

fn timeline(row: &Row, at: usize) -> Result<Timeline> {
    Ok(Timeline {
        number: field(row.text(at))?,
        id: field(row.text(at + 1))?,
    })
}

fn field<T: std::str::FromStr>(text: Option<&str>) -> Result<T> {
    text.and_then(|text| text.parse().ok())
        .ok_or_else(unreadable)
}

fn unreadable() -> Error {
    Error::Invalid("the node's answer cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::strict::{any_answer, received};

    fn any_timeline() -> impl Strategy<Value = Timeline> {
        any::<(u32, u128)>().prop_map(|(number, id)| Timeline {
            number,
            id: Uuid::from_u128(id),
        })
    }

    fn any_end() -> impl Strategy<Value = LogEnd> {
        (any_timeline(), any::<u64>()).prop_map(|(timeline, flushed)| LogEnd {
            timeline,
            flushed: Lsn::new(flushed),
        })
    }

    /// Whether it is still read without one of its values, or without its last column.
    fn read_without(set: &RowSet, gone: usize, read: impl Fn(&RowSet) -> bool) -> (bool, bool) {
        let (mut lacks, mut narrow) = (set.clone(), set.clone());
        lacks.rows[0].0[gone] = None;
        narrow.rows[0].0.pop();
        (read(&lacks), read(&narrow))
    }

    proptest! {
        #[test]
        fn a_probe_is_read_as_it_was_answered(
            (role, probed_as) in prop::sample::select(vec![
                (Role::Primary, ProbedRole::Primary),
                (Role::Standby, ProbedRole::Standby),
                (Role::Fenced, ProbedRole::Fenced),
            ]),
            end in any_end(),
            highest: u32,
            silence in prop::option::of(any::<u64>().prop_map(Duration::from_micros)),
            unfit in prop::option::of("\\PC{0,20}"),
            gone in 0..7usize,
        ) {
            let set = received(probed(role, end, highest, silence, unfit.clone()));
            let answer = ProbeAnswer { role: probed_as, end, highest, primary_heard: silence };
            prop_assert_eq!(read_probe(&set).unwrap(), answer);
            prop_assert_eq!(read_unfit(&set), unfit);
            let read = read_without(&set, gone, |set| read_probe(set).is_ok());
            prop_assert_eq!(read, (gone >= 5, false));
        }

        #[test]
        fn a_promise_is_read_as_it_was_made(
            end in any_end(),
            newest in any_timeline(),
            life in any::<u128>().prop_map(Uuid::from_u128),
            gone in 0..6usize,
        ) {
            let answer = |promise| received(promised(life, promise).unwrap());
            let made = answer(Promise::Accepted(end));
            prop_assert_eq!(read_promise(&made).unwrap(), (life, Promise::Accepted(end)));
            let read = read_without(&made, gone, |set| read_promise(set).is_ok());
            prop_assert_eq!(read, (gone == 1, false));
            // A candidate goes on above what is in its way, whatever the reason.
            for why in [PromiseRefusal::Outbid(newest), PromiseRefusal::NotContinued(newest)] {
                let answered = answer(Promise::Refused(why));
                let refused = Promise::Refused(PromiseRefusal::Outbid(newest));
                prop_assert_eq!(read_promise(&answered).unwrap(), (life, refused));
            }
            for why in [PromiseRefusal::NoVote, PromiseRefusal::Busy] {
                let answered = promised(life, Promise::Refused(why)).unwrap_err();
                prop_assert_eq!(answered.message, why.to_string());
            }
        }

        #[test]
        fn any_answer_is_read_or_refused_but_never_panics(set in any_answer()) {
            let _ = (read_probe(&set), read_unfit(&set), read_promise(&set));
        }
    }
}
