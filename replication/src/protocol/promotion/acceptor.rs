//! The member's side: which timeline it promised, and to whom it promises the next.
//!
//! At most one id per number, durable before it is answered. The order of things matters: the
//! driver carries out `Persist`, stops acknowledging to and receiving from anything older, reads
//! where its log ends now, and only then brings `Persisted`. So nothing older is acknowledged after
//! the end of the log was told.

use mainstay_storage::{Timeline, TimelineHistory, canary};

use super::{LogEnd, Purpose};
use crate::protocol::name::NodeName;

/// What a member is bound by beyond what its log opened; durable.
#[derive(Debug, Copy, Clone, PartialEq, Eq, Default)]
pub struct Promises {
    /// The highest timeline promised to another node.
    pub others: Option<Timeline>,
    /// The timeline that this node itself tried to open; it alone may give that up.
    pub own: Option<Timeline>,
}

impl Promises {
    /// The newest timeline bound by, `opened` being the newest in the node's own log.
    pub fn newest(&self, opened: Timeline) -> Timeline {
        let promised = [self.others, self.own].into_iter().flatten();
        promised.fold(opened, |newest, other| match other.number > newest.number {
            true => other,
            false => newest,
        })
    }
}

/// What a candidate asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromiseRequest {
    /// Who asks.
    pub candidate: NodeName,
    /// For which timeline.
    pub timeline: Timeline,
    /// Why.
    pub purpose: Purpose,
    /// All timelines opened in the candidate's log.
    pub opened: TimelineHistory,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Promise {
    /// Promised: nothing older is acknowledged, streamed or accepted from now on.
    Accepted(LogEnd),
    /// Not promised.
    Refused(PromiseRefusal),
}

/// Why not.
#[derive(Debug, Copy, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromiseRefusal {
    /// A higher number was promised or opened, or this one with another id.
    #[error("timeline {0} was promised or opened already")]
    Outbid(Timeline),
    /// The restarted primary's log does not have what was accepted here since.
    #[error("timeline {0} was accepted here and is not in the restarted primary's history")]
    NotContinued(Timeline),
    /// This node's data are a copy that has not caught up: it does not know what it confirmed.
    #[error(
        "this node's data are a copy that had not caught up yet, so it has no vote; let it follow \
         the primary, or give the policy up (--without-policy)"
    )]
    NoVote,
    /// Another promise is being made durable.
    #[error("another promise is being made; ask again")]
    Busy,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A candidate asks.
    Asked(PromiseRequest),
    /// The promise is durable, nothing older is acknowledged any more, and the log ends here.
    Persisted(LogEnd),
    /// A timeline is opened in this node's log or adopted by its history; that is durable.
    Opened(Timeline),
    /// This node gives up the timeline that it tried to open; it never will.
    GivenUp,
    /// This node was the primary, and learned that a timeline newer than all in its log is open
    /// elsewhere. It is bound as if it had promised that one.
    Replaced(Timeline),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make this durable, stop everything older than its newest (streams in and out,
    /// acknowledgements, own candidacy), then bring `Persisted`.
    Persist(Promises),
    /// Make this durable; nobody waits for an answer.
    Save(Promises),
    /// Answer.
    Reply {
        /// Whom.
        candidate: NodeName,
        /// About which timeline.
        timeline: Timeline,
        /// What.
        promise: Promise,
    },
}

/// The machine. Invariant: the newest timeline it is bound by never falls, but for one of its own
/// that it gives up.
#[derive(Debug, Clone)]
pub struct Acceptor {
    name: NodeName,
    promises: Promises,
    opened: Timeline,
    pending: Option<PromiseRequest>,
}

impl Acceptor {
    /// The member `name` with its durable promises, whose log opened `opened` last.
    pub const fn new(name: NodeName, promises: Promises, opened: Timeline) -> Self {
        Self {
            name,
            promises,
            opened,
            pending: None,
        }
    }

    /// Takes one event and appends what it leads to.
    ///
    /// # Panics
    /// When the driver brings a `Persisted` that no `Persist` asked for.
    pub fn on(&mut self, event: Event, out: &mut Vec<Action>) {
        let before = self.newest();
        let mut lapsed = false;
        match event {
            Event::Asked(request) => match self.refusal(&request) {
                Some(refusal) => reply(request, Promise::Refused(refusal), out),
                None => {
                    out.push(Action::Persist(self.with(&request)));
                    self.pending = Some(request);
                }
            },
            Event::Persisted(end) => {
                let request = self.pending.take().expect("Persisted without Persist");
                self.promises = self.with(&request);
                // What was opened meanwhile may be newer than what was asked for.
                let newest = self.newest();
                let promise = match newest == request.timeline {
                    true => Promise::Accepted(end),
                    false => Promise::Refused(PromiseRefusal::Outbid(newest)),
                };
                reply(request, promise, out);
            }
            Event::Opened(timeline) => {
                if timeline.number >= self.opened.number {
                    self.opened = timeline;
                }
            }
            Event::GivenUp => {
                if self
                    .promises
                    .own
                    .take()
                    .is_some_and(|own| own != self.opened)
                {
                    lapsed = true;
                    out.push(Action::Save(self.promises));
                }
            }
            Event::Replaced(by) => {
                if by.number > before.number && !canary("forget-the-fence") {
                    self.promises.others = Some(by);
                    out.push(Action::Save(self.promises));
                }
            }
        }
        let after = self.newest();
        assert!(
            lapsed || after.number >= before.number,
            "{before} fell to {after}"
        );
    }

    /// The promises with that of `request`.
    fn with(&self, request: &PromiseRequest) -> Promises {
        let mut promises = self.promises;
        if request.candidate == self.name {
            promises.own = Some(request.timeline);
        } else {
            promises.others = Some(request.timeline);
        }
        promises
    }

    /// Whether and why `request` is refused at this moment.
    pub fn refusal(&self, request: &PromiseRequest) -> Option<PromiseRefusal> {
        let (newest, asked) = (self.newest(), request.timeline);
        let restart = request.purpose == Purpose::Restart;
        if self.pending.is_some() {
            Some(PromiseRefusal::Busy)
        } else if newest == asked
            || (canary("two-ids-for-a-number") && newest.number == asked.number)
        {
            // Asked again: the answer may have been lost.
            None
        } else if asked.number <= newest.number {
            Some(PromiseRefusal::Outbid(newest))
        } else if restart && !request.opened.contains(newest) {
            Some(PromiseRefusal::NotContinued(newest))
        } else {
            None
        }
    }

    /// The newest timeline this node is bound by: nothing older is acknowledged, streamed or
    /// accepted.
    pub fn newest(&self) -> Timeline {
        self.promises.newest(self.opened)
    }

    /// What is durably promised.
    pub const fn promises(&self) -> Promises {
        self.promises
    }
}

fn reply(request: PromiseRequest, promise: Promise, out: &mut Vec<Action>) {
    out.push(Action::Reply {
        candidate: request.candidate,
        timeline: request.timeline,
        promise,
    });
}
