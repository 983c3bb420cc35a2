//! Driving a [`Candidate`]: asks the members, fetches log, opens the timeline.

mod ask;
mod fetch;
mod outlook;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, WalEntry, WalEntryType};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::config::Role;
use crate::error::{Error, Result};
use crate::event::ReplicationEvent;
use crate::protocol::level::OnMiss;
use crate::protocol::name::NodeName;
use crate::protocol::promotion::{
    Candidate, CandidateAction as Action, CandidateConfig, CandidateEvent as Event, LagLimit,
    Phase, Promise, PromiseRefusal, PromiseRequest, Purpose, Standstill,
};
use crate::replicator::Promotion;
use crate::runtime::core::Core;
use crate::runtime::follower::Follower;
use crate::runtime::promise;

pub(crate) use ask::connect;
use ask::{ask_promise, probe};
pub use outlook::Outlook;
pub(crate) use outlook::run as look;

/// Longest time for each phase of a promotion.
const PHASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for one node to answer.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers that may wait.
const EVENTS_MAX: usize = 128;

/// How a standby is made the primary.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq)]
pub struct PromoteOptions {
    /// Skip the checks for a living primary and for lag; never the rule that enough members agree.
    pub force: bool,
    /// Give the policy up: ask nobody, and accept that commits which only the old primary and other
    /// members have are lost.
    pub without_policy: bool,
    /// The most log that this node may lack, in bytes; what is configured if `None`.
    pub max_lag: Option<u64>,
}

/// A newer timeline was promised to another candidate; answered when this one knows.
pub(crate) type Overtaken = (Timeline, oneshot::Sender<()>);

/// An opened timeline.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) promotion: Promotion,
    /// A newer timeline was promised to another candidate: nothing may be confirmed.
    pub(crate) overtaken: bool,
}

/// Runs one attempt to become primary.
///
/// # Errors
/// [`Error::Refused`] when nothing was opened, with the reason; the log's errors.
pub(crate) async fn run(
    core: &Arc<Core>,
    options: &PromoteOptions,
    follower: &mut Option<Follower>,
) -> Result<Opened> {
    let _changing = core.changing.lock().await;
    let config = config(core, Purpose::Promote, options)?;
    attempt(core, config, follower).await
}

/// Runs one attempt of a primary to go on, and serves on the timeline that it opened.
///
/// # Errors
/// As [`run`].
pub(crate) async fn go_on(core: &Arc<Core>, purpose: Purpose) -> Result<()> {
    resume(core, purpose, false).await
}

/// As [`go_on`], for a primary that crashed and whose owner gives up the members that its policy
/// would have to ask: only a living primary among the nodes it knows, or a promise, holds it back.
///
/// # Errors
/// As [`run`].
pub(crate) async fn go_on_alone(core: &Arc<Core>) -> Result<()> {
    resume(core, Purpose::Restart, true).await
}

async fn resume(core: &Arc<Core>, purpose: Purpose, alone: bool) -> Result<()> {
    let _changing = core.changing.lock().await;
    if !core.is_primary() || core.standstill.borrow().is_none() {
        core.standstill.send_if_modified(|why| why.take().is_some());
        return Ok(());
    }
    let mut config = config(core, purpose, &PromoteOptions::default())?;
    config.without_policy = alone;
    let opened = attempt(core, config, &mut None).await?;
    core.become_primary(&Role::Primary, opened.promotion.end)?;
    let timeline = opened.promotion.timeline;
    core.observer.tell(ReplicationEvent::WentOn { timeline });
    if opened.overtaken {
        core.suspend(Standstill::Outbid);
    }
    core.switched.send_modify(|count| *count += 1);
    Ok(())
}

async fn attempt(
    core: &Arc<Core>,
    config: CandidateConfig,
    follower: &mut Option<Follower>,
) -> Result<Opened> {
    let (tell, overtaken) = mpsc::channel(1);
    *core.candidacy.lock() = Some(tell);
    let (to, events) = mpsc::channel(EVENTS_MAX);
    let mut attempt = Attempt {
        core,
        to,
        purpose: config.purpose,
        by_votes: by_votes(&config),
        candidate: Candidate::new(config),
        follower,
        opened: None,
        looks_only: false,
        outlook: None,
    };
    let opened = attempt.drive(overtaken, events).await;
    *core.candidacy.lock() = None;
    if attempt.candidate.status().phase == Phase::Refused {
        promise::give_up(core, attempt.candidate.status().timeline).await?;
    }
    opened
}

/// One attempt to become primary, or to go on as one.
struct Attempt<'a> {
    core: &'a Arc<Core>,
    /// For answers of other nodes.
    to: mpsc::Sender<Event>,
    purpose: Purpose,
    /// The policy decides, and this node does not go on as the primary that it was.
    by_votes: bool,
    candidate: Candidate,
    follower: &'a mut Option<Follower>,
    opened: Option<Opened>,
    /// It ends when it would ask for the first promise.
    looks_only: bool,
    outlook: Option<Outlook>,
}

impl Attempt<'_> {
    async fn drive(
        &mut self,
        mut overtaken: mpsc::Receiver<Overtaken>,
        mut events: mpsc::Receiver<Event>,
    ) -> Result<Opened> {
        self.bring(Event::Begin).await?;
        loop {
            if let Some(opened) = self.opened.take() {
                return Ok(opened);
            }
            let deadline = self.candidate.deadline();
            let deadline = deadline.map(|at| self.core.clock.instant(at));
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                Some((by, known)) = overtaken.recv() => {
                    self.bring(Event::Overtaken(by)).await?;
                    // Whoever asked may have given up waiting.
                    let _ = known.send(());
                    continue;
                }
                event = events.recv() => event.unwrap_or(Event::Tick),
                _ = timer => Event::Tick,
            };
            self.meet(&event)?;
            self.bring(event).await?;
        }
    }

    /// A primary that goes on heeds what a member's log tells of others.
    ///
    /// # Errors
    /// [`Error::Refused`] when this node is fenced.
    fn meet(&self, event: &Event) -> Result<()> {
        if self.purpose == Purpose::Promote {
            return Ok(());
        }
        if let Event::ProbeAnswered(_, answer) = event {
            self.core.claimed(answer.end.timeline, true);
        }
        match self.core.is_primary() {
            true => Ok(()),
            false => Err(Error::Refused("this node is fenced".to_owned())),
        }
    }

    /// Brings an event to the machine, and everything that it leads to.
    async fn bring(&mut self, event: Event) -> Result<()> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut actions = Vec::new();
            self.candidate
                .on(event, self.core.clock.now(), &mut actions);
            for action in actions {
                events.extend(self.perform(action).await?);
            }
        }
        Ok(())
    }

    /// Carries out an action, and returns the event that it ends with, if it ends at once.
    async fn perform(&mut self, action: Action) -> Result<Option<Event>> {
        let core = self.core;
        match action {
            Action::AskProbe(name) => {
                let address = self.address_of(&name);
                tokio::spawn(probe(core.clone(), name, address, self.to.clone()));
            }
            Action::AskOwn(_) if self.looks_only => {
                self.outlook = Some(self.look());
                return Err(Error::Refused("it was only to look".to_owned()));
            }
            Action::AskOwn(request) => return self.ask_own(request).await.map(Some),
            Action::AskPromise(name, request) => {
                let address = self.address_of(&name);
                tokio::spawn(ask_promise(
                    core.clone(),
                    name,
                    address,
                    request,
                    self.to.clone(),
                ));
            }
            Action::FetchFrom { name, end, .. } => {
                let address = self.address_of(&name);
                return Ok(Some(fetch::run(core, &name, address, end).await));
            }
            Action::OpenTimeline(timeline) => {
                let (fork, end) = open(core, timeline).await?;
                return Ok(Some(Event::Opened { fork, end }));
            }
            Action::Done {
                timeline,
                fork,
                end,
                overtaken,
                notices,
            } => {
                if let Some(by) = overtaken {
                    tracing::warn!(%by, "a newer timeline was promised meanwhile");
                }
                let notices = notices.iter().map(ToString::to_string).collect();
                let promotion = Promotion {
                    timeline,
                    fork,
                    end,
                    notices,
                    possible_loss: self.loss(fork),
                };
                self.opened = Some(Opened {
                    promotion,
                    overtaken: overtaken.is_some(),
                });
            }
            Action::Refuse(refusal) => return Err(self.refused(&refusal)),
        }
        Ok(None)
    }

    /// Asks this node itself, which follows nobody from then on.
    async fn ask_own(&mut self, request: PromiseRequest) -> Result<Event> {
        let core = self.core;
        // Asking others took a while. From here on members are bound.
        if self.purpose == Purpose::Promote {
            core.check_applied()?;
        }
        if let Some(follower) = self.follower.take() {
            follower.stop(core.config.stop_timeout).await;
            core.set_orders(None);
            core.set_upstream(None);
        }
        let promise = self.own_promise(request).await?;
        let policies = core.policies()?;
        Ok(Event::OwnAnswered {
            promise,
            policies,
            lives: core.lives(),
        })
    }

    /// This node's own promise, which counts for as little as any of its life's.
    async fn own_promise(&self, request: PromiseRequest) -> Result<Promise> {
        match self.by_votes && self.core.lacks_vote() {
            true => Ok(Promise::Refused(PromiseRefusal::NoVote)),
            false => promise::make(self.core, request, None).await,
        }
    }

    /// As the log says now: what was received or fetched meanwhile may name more nodes.
    fn address_of(&self, name: &NodeName) -> Option<String> {
        self.core.address_of(name)
    }
}

fn by_votes(config: &CandidateConfig) -> bool {
    config.purpose == Purpose::Promote && !config.without_policy
}

fn config(core: &Core, purpose: Purpose, options: &PromoteOptions) -> Result<CandidateConfig> {
    let (cluster, policies) = (core.cluster(), core.policies()?);
    let lives = core.lives();
    let mut also_probe = vec![cluster.primary.name];
    // Some need not agree, but one of them may be the primary by now. Whoever is forced does not
    // heed what they say, and neither does a running primary.
    if purpose != Purpose::Raise && !options.force {
        also_probe.extend(cluster.standbys.into_iter().map(|member| member.name));
    }
    also_probe.retain(|name| *name != core.name);
    // A primary that goes on has all that it confirmed.
    let lag_max = options.max_lag.or(core.config.max_lag);
    let lag_max = lag_max.filter(|_| purpose == Purpose::Promote);
    Ok(CandidateConfig {
        name: core.name.clone(),
        purpose,
        end: promise::log_end(&core.wal),
        opened: (*core.wal.history()).clone(),
        policies,
        lives,
        life: core.wal.identity().incarnation,
        also_probe,
        highest_seen: core.wal.control().highest_number(),
        number: None,
        id: Uuid::new_v4(),
        primary_heard: core.primary_silence(),
        heartbeat_timeout: core.timeout(),
        lag_max: lag_max.map(|bytes| LagLimit {
            bytes,
            primary: core.primary_end(),
        }),
        force: options.force,
        without_policy: options.without_policy,
        may_degrade: matches!(core.config.on_miss, OnMiss::Degrade { .. }),
        phase_timeout: PHASE_TIMEOUT,
    })
}

/// Opens the timeline in this node's log, together with the configuration that goes with it.
async fn open(core: &Arc<Core>, timeline: Timeline) -> Result<(Lsn, Lsn)> {
    let mut new = core.cluster();
    new.take_over(core.me());
    if let Some(chosen) = core.chosen_policy() {
        new.policy = chosen;
    }
    let config = WalEntry::new(WalEntryType::Config, None, new.encode()?);
    let (opening, reason) = (core.clone(), format!("promoted {}", core.name));
    let opened = tokio::task::spawn_blocking(move || {
        let _appending = opening.appending()?;
        let begun = opening.wal.begin_timeline(timeline, &reason, &[config]);
        begun.map_err(Error::from)
    });
    let (fork, end) = opened
        .await
        .map_err(|error| Error::Invalid(error.to_string()))??;
    let flushed = core.wal.flushed().wait(end).await;
    flushed.map_err(|_| Error::Storage(mainstay_storage::Error::Closed))?;
    tracing::warn!(%timeline, %fork, "opened a new timeline");
    Ok((fork, end))
}
