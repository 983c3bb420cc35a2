//! Comparing two stores that ought to be alike: what to look at next, and what differs.
//!
//! ```text
//! coarse ranges of all rows ──differs──▶ fine ranges of it ──the first that differs──▶ its rows
//! ```
//!
//! The other side cuts its rows into [`Part`]s by count and size and sends where each ends and its
//! digest; this side cuts its own rows at the same keys, so a row that only one of them has falls
//! into some part. Ranges are looked at in the order of their keys, depth first: the first row
//! found to differ is the smallest. While this side digests one answer, the next is asked for.
//!
//! Both sides look at one position of the log. When one of them cannot read it any more, both move
//! to a later one, and what was not compared by then is compared there: each range is compared at
//! one position, and what was overwritten meanwhile is no difference any more.
//!
//! What is held: one answer in hand and one asked for at each grain, and where the ranges that
//! differ begin and end, within [`BAD_RANGES_MAX`] and [`BAD_BYTES_MAX`].
//!
//! It reads no row and makes no digest; what a peer says is checked and refused.

mod digest;
mod event;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

use crate::time::Moment;
use mainstay_storage::canary;

pub use digest::{Cutter, Digest};
pub use event::*;

/// Most parts of one answer.
pub const PARTS_MAX: usize = 64;

/// Most ranges that differ and are kept; more are counted only.
pub const BAD_RANGES_MAX: usize = 1024;

/// Most bytes of keys that are kept of ranges that differ.
pub const BAD_BYTES_MAX: usize = 4 << 20;

/// How often in a row both sides may have to move to a later position without having compared
/// anything in between.
pub const MOVES_MAX: u32 = 10;

/// Longest time without progress.
pub const STALL_MAX: Duration = Duration::from_secs(60);

/// What is still to be looked at, the next on top.
#[derive(Debug)]
enum Todo {
    Ask(Span, Grain),
    Digest(Batch),
}

/// An answer that is not compared yet.
#[derive(Debug, Clone)]
struct Batch {
    after: Option<Bytes>,
    parts: Vec<Part>,
    grain: Grain,
}

impl Batch {
    fn span(&self) -> Span {
        Span {
            after: self.after.clone(),
            upto: self.parts.last().and_then(|part| part.upto.clone()),
        }
    }
}

/// One comparison.
#[derive(Debug)]
pub struct Verify {
    todo: Vec<Todo>,
    asked: Option<(Span, Grain)>,
    digesting: Option<Batch>,
    moves: u32,
    seen_at: Moment,
    kept_bytes: usize,
    /// The coarsest grain of this comparison, at which rows are counted.
    widest: Grain,
    findings: Findings,
    over: bool,
}

impl Verify {
    /// A comparison of everything.
    pub fn whole(now: Moment) -> Self {
        Self::new(vec![Span::default()], Grain::Coarse, now)
    }

    /// A comparison of `spans` alone, which are in order and of the finer ranges' size.
    pub fn again(spans: Vec<Span>, now: Moment) -> Self {
        Self::new(spans, Grain::Fine, now)
    }

    fn new(spans: Vec<Span>, grain: Grain, now: Moment) -> Self {
        let todo = spans.into_iter().rev().map(|span| Todo::Ask(span, grain));
        Self {
            todo: todo.collect(),
            asked: None,
            digesting: None,
            moves: 0,
            seen_at: now,
            kept_bytes: 0,
            widest: grain,
            findings: Findings::default(),
            over: false,
        }
    }

    /// Brings an event. Nothing happens after the end.
    ///
    /// # Panics
    /// When the driver brings what nothing asked for: that many digests, or a position twice.
    pub fn on(&mut self, event: Event, now: Moment, actions: &mut Vec<Action>) {
        if self.over {
            return;
        }
        match event {
            Event::Held => {
                assert!(self.idle(), "a position is held while one is looked at");
                self.seen_at = now;
                self.look(actions);
            }
            Event::Seen { theirs, ours } => {
                self.seen_at = now;
                match self.take(theirs, &ours) {
                    Ok(()) => self.look(actions),
                    Err(what) => self.end(Action::Refuse(Refusal::Nonsense(what)), actions),
                }
            }
            Event::TooOld => self.too_old(actions),
            Event::Tick => {
                if self.deadline().is_some_and(|at| now >= at) {
                    self.end(Action::Refuse(Refusal::Stalled), actions);
                }
            }
        }
    }

    /// When nothing came for too long.
    pub fn deadline(&self) -> Option<Moment> {
        (!self.over).then(|| self.seen_at + STALL_MAX)
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        Status {
            findings: self.findings.clone(),
            waiting: self.todo.len(),
        }
    }

    fn idle(&self) -> bool {
        self.asked.is_none() && self.digesting.is_none()
    }

    fn end(&mut self, action: Action, actions: &mut Vec<Action>) {
        self.over = true;
        actions.push(action);
    }

    /// Looks at what is on top, and asks for what comes after an answer meanwhile.
    fn look(&mut self, actions: &mut Vec<Action>) {
        match self.todo.pop() {
            None => {
                let findings = std::mem::take(&mut self.findings);
                return self.end(Action::Done(findings), actions);
            }
            Some(Todo::Ask(span, grain)) => self.asked = Some((span, grain)),
            Some(Todo::Digest(batch)) => {
                let next = |todo: &mut Todo| matches!(todo, Todo::Ask(_, of) if *of == batch.grain);
                if let Some(Todo::Ask(span, grain)) = self.todo.pop_if(next) {
                    self.asked = Some((span, grain));
                }
                self.digesting = Some(batch);
            }
        }
        let digest = self.digesting.as_ref().map(|batch| {
            let ends = batch.parts.iter().map(|part| part.upto.clone());
            (batch.after.clone(), ends.collect())
        });
        let ask = self.asked.clone();
        actions.push(Action::Look { ask, digest });
    }

    fn take(&mut self, theirs: Vec<Part>, ours: &[Own]) -> Result<(), &'static str> {
        let batch = self.digesting.take();
        if let Some((span, grain)) = self.asked.take() {
            check(&span, grain, &theirs)?;
            let answered = Batch {
                after: span.after,
                parts: theirs,
                grain,
            };
            let after = answered.span().upto;
            if after != span.upto {
                let upto = span.upto;
                self.todo.push(Todo::Ask(Span { after, upto }, grain));
            }
            self.todo.push(Todo::Digest(answered));
        }
        if let Some(batch) = batch {
            self.moves = 0;
            assert_eq!(batch.parts.len(), ours.len(), "a digest for each part");
            self.compare(batch, ours);
        }
        Ok(())
    }

    fn compare(&mut self, batch: Batch, ours: &[Own]) {
        let grain = batch.grain;
        let mut after = batch.after;
        let mut closer = Vec::new();
        for (part, own) in batch.parts.into_iter().zip(ours) {
            let span = Span {
                after: after.take(),
                upto: part.upto.clone(),
            };
            after = span.upto.clone();
            if grain == self.widest {
                // What the other side says of its rows is not looked at before this.
                let Findings { rows, bytes, .. } = &mut self.findings;
                *rows = rows.saturating_add(part.digest.rows);
                *bytes = bytes.saturating_add(part.digest.bytes);
            }
            self.findings.ranges += u64::from(grain != Grain::Row);
            let same_count = part.digest.rows == own.digest.rows;
            if part.digest == own.digest || (same_count && canary("compare-counts-alone")) {
                continue;
            }
            match grain {
                Grain::Coarse => closer.push(Todo::Ask(span, Grain::Fine)),
                Grain::Fine => {
                    if self.findings.first.is_none() {
                        closer.push(Todo::Ask(span.clone(), Grain::Row));
                    }
                    self.keep(span);
                }
                Grain::Row => {
                    self.findings.first = difference(&part, own);
                    // No other row is smaller.
                    self.todo.retain(|todo| todo.grain() != Grain::Row);
                    break;
                }
            }
        }
        self.todo.extend(closer.into_iter().rev());
    }

    fn keep(&mut self, span: Span) {
        self.findings.bad_ranges += 1;
        let size = self.kept_bytes + span.size();
        // Those that are kept are the first ones, without a gap.
        let all = self.findings.bad.len() as u64 + 1 == self.findings.bad_ranges;
        if all && self.findings.bad.len() < BAD_RANGES_MAX && size <= BAD_BYTES_MAX {
            self.kept_bytes = size;
            self.findings.bad.push(span);
        }
    }

    /// What was answered at the old position is asked again.
    fn too_old(&mut self, actions: &mut Vec<Action>) {
        if let Some((span, grain)) = self.asked.take() {
            self.todo.push(Todo::Ask(span, grain));
        }
        if let Some(batch) = self.digesting.take() {
            self.todo.push(Todo::Digest(batch));
        }
        for todo in &mut self.todo {
            if let Todo::Digest(batch) = todo {
                *todo = Todo::Ask(batch.span(), batch.grain);
            }
        }
        self.moves += 1;
        self.findings.moves += 1;
        match self.moves > MOVES_MAX {
            true => self.end(Action::Refuse(Refusal::Moved), actions),
            false => actions.push(Action::Move),
        }
    }
}

impl Todo {
    fn grain(&self) -> Grain {
        match self {
            Self::Ask(_, grain) => *grain,
            Self::Digest(batch) => batch.grain,
        }
    }
}

/// Whether `parts` are an answer to the question for `span`.
fn check(span: &Span, grain: Grain, parts: &[Part]) -> Result<(), &'static str> {
    if parts.is_empty() || parts.len() > PARTS_MAX {
        return Err("it has no ranges, or too many");
    }
    let mut after = span.after.as_ref();
    for (at, part) in parts.iter().enumerate() {
        match (&part.upto, &span.upto) {
            (None, None) if at + 1 == parts.len() => {}
            (None, _) => return Err("a range goes beyond what was asked for"),
            (Some(upto), within) => {
                if after.is_some_and(|after| upto <= after) {
                    return Err("its ranges do not climb");
                }
                if within.as_ref().is_some_and(|within| upto > within) {
                    return Err("a range goes beyond what was asked for");
                }
                after = Some(upto);
            }
        }
        if part.digest.rows > grain.rows() {
            return Err("a range has more rows than were asked for");
        }
    }
    Ok(())
}

/// The smallest key that differs in a part of one row at most.
fn difference(part: &Part, own: &Own) -> Option<Difference> {
    let theirs = part.upto.as_ref().filter(|_| part.digest.rows > 0);
    let (key, kind) = match (theirs, &own.first) {
        (None, None) => return None,
        (Some(theirs), None) => (theirs, Kind::Missing),
        (Some(theirs), Some(own)) if own == theirs => (theirs, Kind::Changed),
        (_, Some(own)) => (own, Kind::Extra),
    };
    Some(Difference {
        key: key.clone(),
        kind,
    })
}
