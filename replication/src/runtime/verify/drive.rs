//! The standby's side of a comparison: moves bytes as the machine says, and keeps the verdict.
//!
//! A mismatch marks this node on disk before anybody hears of it; only a comparison of everything
//! that finds nothing, or one of what was mended, takes the mark away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_storage::{BrokenMark, Error as StorageError, Lsn};
use tokio::time::timeout_at;

use super::sides::{self, Sides, blocking, is_too_old};
use super::{cut, mend};
use crate::config::Role;
use crate::error::{Error, Result};
use crate::protocol::verify::{Action, Event, Findings, Grain, Kind, Own, Part, Span, Verify};
use crate::runtime::applicator::Holder;
use crate::runtime::core::{Busy, Core};

/// What came of comparing this standby's rows with its primary's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// The position at which the last ranges were compared; all of them, unless the store gave up
    /// an earlier one meanwhile.
    pub at: Lsn,
    /// What was found.
    pub findings: Findings,
    /// How long it took.
    pub took: Duration,
}

/// What came of mending ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mended {
    /// The position that the mended rows belong to.
    pub at: Lsn,
    /// Ranges that were shipped.
    pub ranges: u64,
    /// Rows that were shipped, right ones among them.
    pub shipped_rows: u64,
    /// Bytes of their keys and values.
    pub shipped_bytes: u64,
    /// Rows that were set or removed here.
    pub mended_rows: u64,
}

/// A comparison that this standby drives; nobody begins another while it lives.
pub(crate) struct Verification {
    core: Arc<Core>,
    holder: Holder,
    _busy: Busy,
}

impl Verification {
    /// # Errors
    /// [`Error::Refused`] on a node that is no standby, and while another one runs.
    pub(crate) fn new(core: Arc<Core>, holder: Option<Holder>) -> Result<Self> {
        let refused = |text: &str| Err(Error::Refused(text.to_owned()));
        if core.role() != Role::Standby {
            return refused(
                "standbys are compared with their primary; ask a standby to verify itself",
            );
        }
        let Some(holder) = holder else {
            return refused("this node applies no log, so there is nothing to compare");
        };
        let Some(busy) = core.verdict.verifying() else {
            return refused("this node is being verified already; wait until that has ended");
        };
        Ok(Self {
            core,
            holder,
            _busy: busy,
        })
    }

    /// Compares everything, and marks this node, or takes its mark away, by what is found.
    ///
    /// # Errors
    /// [`Error::Refused`], connection errors; own rows that cannot be read mark this node too.
    pub(crate) async fn compare(&self) -> Result<Compared> {
        self.judged(Verify::whole(self.core.clock.now())).await
    }

    /// Compares `mended` ranges again, after which nothing else is known to be wrong.
    ///
    /// # Errors
    /// As [`compare`](Self::compare).
    pub(crate) async fn again(&self, mended: Vec<Span>) -> Result<Compared> {
        let machine = Verify::again(mended, self.core.clock.now());
        self.judged(machine).await
    }

    /// Ships the rows of `bad` ranges from the primary and sets those that differ, durably. The
    /// replay stands still meanwhile.
    ///
    /// # Errors
    /// As [`compare`](Self::compare); nothing was set then.
    pub(crate) async fn mend(&self, bad: &[Span]) -> Result<Mended> {
        let sides = sides::hold(&self.core, &self.holder, true).await?;
        mend::run(sides, bad).await
    }

    async fn judged(&self, machine: Verify) -> Result<Compared> {
        let timeline = self.core.wal.timeline();
        let begun = self.core.clock.now();
        let (at, findings) = match self.run(machine).await {
            Err(Error::Storage(error @ StorageError::Corrupt { .. })) => {
                let why = format!("they cannot be read: {error}");
                self.judge(Some(BrokenMark { at: Lsn::ZERO, why })).await?;
                return Err(Error::Storage(error));
            }
            done => done?,
        };
        if self.core.wal.timeline() != timeline || self.core.role() != Role::Standby {
            let text = "this node turned to another timeline meanwhile; verify again";
            return Err(Error::Refused(text.to_owned()));
        }
        let mark = match findings.is_clean() {
            true => None,
            false => Some(BrokenMark {
                at,
                why: self.describe(&findings, at).await?,
            }),
        };
        self.judge(mark).await?;
        Ok(Compared {
            at,
            findings,
            took: self.core.clock.now() - begun,
        })
    }

    async fn judge(&self, mark: Option<BrokenMark>) -> Result<()> {
        let core = self.core.clone();
        let judged = tokio::task::spawn_blocking(move || core.judge(mark)).await;
        judged.map_err(|error| Error::Invalid(error.to_string()))?
    }

    async fn describe(&self, findings: &Findings, at: Lsn) -> Result<String> {
        let ranges = match findings.bad_ranges {
            1 => "1 range differs".to_owned(),
            more => format!("{more} ranges differ"),
        };
        let (Some(first), Some(contents)) = (findings.first.clone(), self.core.verdict.contents())
        else {
            return Ok(format!("{ranges} from the primary's at {at}"));
        };
        let how = match first.kind {
            Kind::Missing => "is missing here",
            Kind::Extra => "is not there",
            Kind::Changed => "has another value here",
        };
        let row = blocking(move || Ok(contents.describe(&first.key, at))).await?;
        Ok(format!(
            "{ranges} from the primary's at {at}, first {row}, which {how}"
        ))
    }

    /// Runs the machine to its end.
    async fn run(&self, mut machine: Verify) -> Result<(Lsn, Findings)> {
        let core = &self.core;
        let mut sides = sides::hold(core, &self.holder, false).await?;
        let mut event = Event::Held;
        loop {
            let mut actions = Vec::new();
            machine.on(event, core.clock.now(), &mut actions);
            event = match actions.pop() {
                Some(Action::Done(findings)) => return Ok((sides.pin.at, findings)),
                Some(Action::Refuse(refusal)) => return Err(Error::Refused(refusal.to_string())),
                Some(Action::Move) => {
                    tracing::info!(at = %sides.pin.at, "comparing at a later position from here on");
                    drop(sides);
                    sides = sides::hold(core, &self.holder, false).await?;
                    Event::Held
                }
                Some(Action::Look { ask, digest }) => {
                    let deadline = machine.deadline().map(|at| core.clock.instant(at));
                    let deadline = deadline.unwrap_or_else(|| core.clock.instant(core.clock.now()));
                    let seen = timeout_at(deadline, look(&mut sides, ask, digest)).await;
                    match seen {
                        Ok(Ok((theirs, ours))) => Event::Seen { theirs, ours },
                        Ok(Err(error)) if is_too_old(&error) => Event::TooOld,
                        Ok(Err(error)) => return Err(error),
                        Err(_) => Event::Tick,
                    }
                }
                // It was not late after all, and what it waited for was given up.
                None => Event::TooOld,
            };
        }
    }
}

type Ends = (Option<Bytes>, Vec<Option<Bytes>>);

/// What the primary answers and what is here, at the same time.
async fn look(
    sides: &mut Sides,
    ask: Option<(Span, Grain)>,
    digest: Option<Ends>,
) -> Result<(Vec<Part>, Vec<Own>)> {
    let (client, pin) = (&mut sides.client, &sides.pin);
    let theirs = async {
        match ask {
            Some((span, grain)) => sides::ranges(client, span, grain).await,
            None => Ok(Vec::new()),
        }
    };
    let ours = async {
        let Some((after, ends)) = digest else {
            return Ok(Vec::new());
        };
        let (contents, at) = (pin.contents.clone(), pin.at);
        blocking(move || cut::own(&*contents, at, after.as_ref(), &ends)).await
    };
    tokio::try_join!(theirs, ours)
}
