//! Replacing a primary that is gone: who is there, and ordering another node to take over.
//!
//! ```text
//! the node that is asked                      the node that is chosen
//!   PROBE_TIMELINE to every member
//!   chooses
//!   FAIL_OVER options, why            ───▶    promotes itself, as if it were asked itself
//!                                     ◀───    what it opened, or why not
//! ```
//!
//! The promotion is the ordinary one, with all of its checks: nobody is bound by having been asked.

use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::name::NodeName;
use crate::protocol::promotion::{Contender, PossibleLoss, Role as ProbedRole};
use crate::replicator::Promotion;
use crate::runtime::core::Core;
use crate::runtime::handover::{self, TakeOverRequest};
use crate::runtime::promise;
use crate::runtime::promote::{ASK_TIMEOUT, PromoteOptions, connect};
use crate::runtime::slots::Answer;
use crate::wire::command::{Command, FailOver};
use crate::wire::result::{ResultSet, RowSet};
use crate::wire::{Column, ErrorFields, Row, sqlstate};

/// Columns of the answer to FAIL_OVER.
const COLUMNS: [&str; 9] = [
    "timeline",
    "promotion_id",
    "fork",
    "lsn",
    "notices",
    "bytes",
    "transactions",
    "primary_last_seen_us",
    "ruled_out",
];

/// All members that answer, this node included.
pub(crate) async fn survey(core: &Arc<Core>) -> Result<Vec<Contender>> {
    let bound = core.policies()?;
    let counted = bound.last().map(|policy| policy.counted().to_vec());
    let counted = counted.unwrap_or_default();
    let place = |name: &NodeName| {
        let place = counted.iter().position(|counted| counted == name);
        place.unwrap_or(usize::MAX)
    };
    let mut asked = JoinSet::new();
    for (name, address) in core.others()? {
        let (core, place) = (core.clone(), place(&name));
        asked.spawn(async move {
            let address = address.as_deref();
            match timeout(ASK_TIMEOUT, probe(&core, &name, address, place)).await {
                Ok(Ok(contender)) => Some(contender),
                Ok(Err(error)) => {
                    tracing::info!(%name, %error, "does not answer a probe");
                    None
                }
                Err(_) => None,
            }
        });
    }
    let mut answered = asked
        .join_all()
        .await
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    answered.push(Contender {
        name: core.name.clone(),
        role: match core.role() {
            Role::Primary => ProbedRole::Primary,
            Role::Standby => ProbedRole::Standby,
            Role::Fenced => ProbedRole::Fenced,
        },
        end: promise::log_end(&core.wal),
        unfit: core.passed_over(),
        place: place(&core.name),
    });
    Ok(answered)
}

async fn probe(
    core: &Core,
    name: &NodeName,
    address: Option<&str>,
    place: usize,
) -> Result<Contender> {
    let mut client = connect(core, name, address).await?;
    let answer = client.rows(&Command::ProbeTimeline).await?;
    let set = answer.sets.first();
    let set = set.ok_or_else(|| client.broken("it gave no answer"))?;
    let (probed, unfit) = (promise::read_probe(set)?, promise::read_unfit(set));
    Ok(Contender {
        name: name.clone(),
        role: probed.role,
        end: probed.end,
        unfit,
        place,
    })
}

/// Orders the node at `address` to become the primary.
///
/// # Errors
/// [`Error::Refused`] with its reason; nothing was opened then. Connection errors, after which
/// nobody knows.
pub(crate) async fn order(
    core: &Core,
    name: &NodeName,
    address: &str,
    options: &PromoteOptions,
    why: &str,
) -> Result<Promotion> {
    let mut client = connect(core, name, Some(address)).await?;
    let command = Command::FailOver(FailOver {
        why: why.to_owned(),
        force: options.force,
        without_policy: options.without_policy,
        max_lag: options.max_lag,
    });
    let answer = client.rows(&command).await.map_err(|error| match error {
        Error::Answer { message, .. } => Error::Refused(message),
        error => error,
    })?;
    let read = answer.sets.first().and_then(read);
    read.ok_or_else(|| client.broken("its answer cannot be read; see its status"))
}

/// The chosen node's side.
pub(crate) async fn serve(core: &Arc<Core>, asked: FailOver) -> Answer {
    let refused = |text: String| {
        let error = ErrorFields::error(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
        Box::new(error)
    };
    let options = PromoteOptions {
        force: asked.force,
        without_policy: asked.without_policy,
        max_lag: asked.max_lag,
    };
    let (answer, answered) = oneshot::channel();
    let request = TakeOverRequest::new(options, Some(asked.why), answer);
    let promoted = handover::promoted(core, request, answered).await;
    Ok(written(&promoted.map_err(refused)?))
}

pub(super) fn written(promotion: &Promotion) -> ResultSet {
    let loss = promotion.possible_loss;
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let seen = loss
        .primary_last_seen
        .map(|ago| ago.as_micros().to_string());
    let row = [
        Some(promotion.timeline.number.to_string()),
        Some(promotion.timeline.id.to_string()),
        Some(promotion.fork.to_string()),
        Some(promotion.end.to_string()),
        Some(promotion.notices.join("\n")),
        number(loss.bytes),
        number(loss.transactions),
        seen,
        Some(loss.ruled_out.to_string()),
    ];
    let columns = COLUMNS.map(Column::text).to_vec();
    ResultSet::new(columns, "FAIL_OVER").with_row(Row::new(row))
}

pub(super) fn read(set: &RowSet) -> Option<Promotion> {
    let [row] = &set.rows[..] else { return None };
    let optional = |at: usize| match row.text(at) {
        Some(text) => text.parse::<u64>().ok().map(Some),
        None => Some(None),
    };
    let position = |at: usize| row.text(at)?.parse::<Lsn>().ok();
    let notices = row.text(4)?.lines().map(str::to_owned);
    Some(Promotion {
        timeline: Timeline {
            number: row.text(0)?.parse().ok()?,
            id: row.text(1)?.parse().ok()?,
        },
        fork: position(2)?,
        end: position(3)?,
        notices: notices.collect(),
        possible_loss: PossibleLoss {
            bytes: optional(5)?,
            transactions: optional(6)?,
            primary_last_seen: optional(7)?.map(Duration::from_micros),
            ruled_out: row.text(8)?.parse().ok()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::strict::{any_answer, received};

    fn any_promotion() -> impl Strategy<Value = Promotion> {
        let notices = prop::collection::vec("[a-zé;: ]{1,20}", 0..4);
        let loss = any::<([Option<u32>; 3], bool)>().prop_map(|(numbers, ruled_out)| {
            let [bytes, transactions, seen] = numbers.map(|number| number.map(u64::from));
            PossibleLoss {
                bytes,
                transactions,
                primary_last_seen: seen.map(Duration::from_micros),
                ruled_out,
            }
        });
        let timeline = any::<(u32, u128)>().prop_map(|(number, id)| Timeline {
            number,
            id: uuid::Uuid::from_u128(id),
        });
        (timeline, any::<[u64; 2]>(), notices, loss).prop_map(
            |(timeline, [fork, end], notices, possible_loss)| Promotion {
                timeline,
                fork: Lsn::new(fork),
                end: Lsn::new(end),
                notices,
                possible_loss,
            },
        )
    }

    proptest! {
        #[test]
        fn an_answer_reads_back_as_what_was_written(promotion in any_promotion(), gone in 0..9usize) {
            let set = received(written(&promotion));
            prop_assert_eq!(read(&set), Some(promotion.clone()));
            // What is not known is left out; everything else has to be there.
            let mut lacks = set.clone();
            lacks.rows[0].0[gone] = None;
            let read_without = read(&lacks);
            prop_assert_eq!(read_without.is_some(), (5..8).contains(&gone));
            lacks.rows[0].0.truncate(8);
            prop_assert_eq!(read(&lacks), None);
            lacks.rows.clear();
            prop_assert_eq!(read(&lacks), None);
        }

        #[test]
        fn any_answer_is_read_or_refused_but_never_panics(set in any_answer()) {
            let _ = read(&set);
        }
    }
}
