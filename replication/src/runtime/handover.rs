//! Handing the primary's place to a standby while both are well.
//!
//! ```text
//! primary                                     standby
//!   writes held, nothing is appended
//!   waits until the standby has flushed it all
//!   TAKE_OVER timeline, end of its log  ───▶  checks both, promotes itself
//!                                       ◀───  the timeline it opened, or why not
//! ```
//!
//! The promotion is an ordinary one: enough members must agree. What is spared is the wait until
//! the old primary counts as dead, since it says itself that it gives way.

use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::protocol::name::NodeName;
use crate::replicator::Promotion;
use crate::runtime::client::Client;
use crate::runtime::core::Core;
use crate::runtime::promote::PromoteOptions;
use crate::runtime::slots::Answer;
use crate::wire::command::{Command, TakeOver};
use crate::wire::result::ResultSet;
use crate::wire::{Column, ErrorFields, Row, sqlstate};

/// How long the standby may take until it has flushed everything, and to answer.
pub(crate) const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests to take over that may wait.
pub(crate) const REQUESTS_MAX: usize = 1;

/// A request that this node become the primary: of the primary, whose log is here whole, or of
/// another member because the primary is gone.
#[derive(Debug)]
pub struct TakeOverRequest {
    options: PromoteOptions,
    why: Option<String>,
    answer: oneshot::Sender<Promoted>,
}

/// What was opened, or why nothing was.
type Promoted = std::result::Result<Promotion, String>;

impl TakeOverRequest {
    pub(crate) fn new(
        options: PromoteOptions,
        why: Option<String>,
        answer: oneshot::Sender<Promoted>,
    ) -> Self {
        Self {
            options,
            why,
            answer,
        }
    }

    /// How this node is to be promoted.
    pub fn options(&self) -> PromoteOptions {
        self.options
    }

    /// Why this node was chosen to replace a primary that is gone; `None` when the primary itself
    /// hands its place over.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Answers with what was opened, or why nothing was.
    pub fn answer(self, promoted: std::result::Result<Promotion, String>) {
        // Whoever asked may have given up waiting; it finds out what happened.
        let _ = self.answer.send(promoted);
    }
}

/// What came of asking a standby to take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandedOver {
    /// It opened a timeline.
    Opened {
        /// The timeline.
        timeline: Timeline,
        /// Where it can be reached.
        address: String,
    },
    /// It did not, and will not: this node may go on.
    Refused(String),
    /// Nobody knows. This node must not go on as if nothing had happened.
    Unknown(String),
}

/// The standby's side: takes the primary's place, if it has all of its log.
pub(crate) async fn serve(core: &Arc<Core>, asked: &TakeOver) -> Answer {
    let refused = |text: String| {
        let error = ErrorFields::error(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
        Box::new(error)
    };
    if core.wal.timeline() != asked.timeline {
        let ours = core.wal.timeline();
        return Err(refused(format!("this node is on timeline {ours}")));
    }
    if let Err(error) = core.check_rows() {
        return Err(refused(error.to_string()));
    }
    let flushed = timeout(HANDOVER_TIMEOUT, core.wal.flushed().wait(asked.end)).await;
    if !matches!(flushed, Ok(Ok(_))) {
        let at = core.wal.flushed().get();
        let end = asked.end;
        return Err(refused(format!("this node is at {at}, below {end}")));
    }
    // The primary says itself that it gives way; enough members must agree all the same.
    let options = PromoteOptions {
        force: true,
        ..PromoteOptions::default()
    };
    let (answer, answered) = oneshot::channel();
    let request = TakeOverRequest::new(options, None, answer);
    let promoted = promoted(core, request, answered).await;
    let timeline = promoted.map_err(refused)?.timeline;
    let columns = ["timeline", "promotion_id"].map(Column::text).to_vec();
    let row = [
        Some(timeline.number.to_string()),
        Some(timeline.id.to_string()),
    ];
    Ok(ResultSet::new(columns, "TAKE_OVER").with_row(Row::new(row)))
}

/// Hands a request to whoever promotes this node, and waits for the answer.
pub(crate) async fn promoted(
    core: &Core,
    request: TakeOverRequest,
    answered: oneshot::Receiver<Promoted>,
) -> Promoted {
    let taker = core.take_over.lock().clone();
    let taker = taker.ok_or_else(|| "nobody here can promote this node".to_owned())?;
    let busy = || "this node is about to take over already".to_owned();
    taker.try_send(request).map_err(|_| busy())?;
    answered.await.unwrap_or_else(|_| Err(busy()))
}

/// Waits until the standby `name` has flushed everything below `end`.
///
/// # Errors
/// [`Error::Refused`] when that takes too long.
pub(crate) async fn until_flushed(core: &Core, name: &NodeName, end: Lsn) -> Result<()> {
    let flushed = async {
        loop {
            // Before looking, so that no report is missed.
            let reported = core.reported.notified();
            if core.flushed_by(name).is_some_and(|flushed| flushed >= end) {
                return;
            }
            reported.await;
        }
    };
    timeout(HANDOVER_TIMEOUT, flushed).await.map_err(|_| {
        let seconds = HANDOVER_TIMEOUT.as_secs();
        Error::Refused(format!(
            "standby {name} did not get everything within {seconds} s; this node goes on as primary"
        ))
    })
}

/// Asks the standby at `address` to take over from this node, to whose log nothing is appended
/// meanwhile.
pub(crate) async fn ask(core: &Core, address: &str, end: Lsn) -> HandedOver {
    let timeline = core.wal.timeline();
    let taken = |timeline| HandedOver::Opened {
        timeline,
        address: address.to_owned(),
    };
    let mut client = match Client::connect(&core.config, address).await {
        Ok(client) => client,
        // It was not asked, so it does nothing.
        Err(error) => return HandedOver::Refused(error.to_string()),
    };
    let command = Command::TakeOver(TakeOver { timeline, end });
    let why = match client.rows(&command).await {
        Ok(answer) => match opened(answer.sets.first()) {
            Some(timeline) => return taken(timeline),
            None => "its answer cannot be read".to_owned(),
        },
        Err(Error::Answer { message, .. }) => return HandedOver::Refused(message),
        Err(error) => error.to_string(),
    };
    // A session that begins now tells the timeline that the standby is on.
    match Client::connect(&core.config, address).await {
        Ok(again) if again.server.timeline.number > timeline.number => taken(again.server.timeline),
        _ => HandedOver::Unknown(why),
    }
}

pub(super) fn opened(set: Option<&crate::wire::result::RowSet>) -> Option<Timeline> {
    let [row] = &set?.rows[..] else { return None };
    Some(Timeline {
        number: row.text(0)?.parse().ok()?,
        id: row.text(1)?.parse().ok()?,
    })
}

/// A channel on which requests to take over arrive.
pub(crate) fn requests() -> (
    mpsc::Sender<TakeOverRequest>,
    mpsc::Receiver<TakeOverRequest>,
) {
    mpsc::channel(REQUESTS_MAX)
}
