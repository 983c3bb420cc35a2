//! Driving a [`Candidate`]: asks the members, fetches log, opens the timeline.

mod fetch;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use mainstay_storage::{Lsn, Timeline, TimelineHistory, WalEntry, WalEntryType};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use uuid::Uuid;

use crate::config::Role;
use crate::error::{Error, Result};
use crate::event::ReplicationEvent;
use crate::protocol::level::OnMiss;
use crate::protocol::name::NodeName;
use crate::protocol::promotion::{
    Candidate, CandidateAction as Action, CandidateConfig, CandidateEvent as Event, Phase,
    PromiseRequest, Purpose, Standstill,
};
use crate::replicator::Promotion;
use crate::runtime::client::Client;
use crate::runtime::core::Core;
use crate::runtime::follower::Follower;
use crate::runtime::promise;
use crate::wire::command::{Command, PromiseTimeline};

/// Longest time for each phase of a promotion.
const PHASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for one node to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers that may wait.
const EVENTS_MAX: usize = 128;

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
    force: bool,
    follower: &mut Option<Follower>,
) -> Result<Opened> {
    let _changing = core.changing.lock().await;
    let config = config(core, Purpose::Promote, force)?;
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
    let mut config = config(core, purpose, false)?;
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
        candidate: Candidate::new(config),
        follower,
        opened: None,
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
    candidate: Candidate,
    follower: &'a mut Option<Follower>,
    opened: Option<Opened>,
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
            Action::AskOwn(request) => {
                if let Some(follower) = self.follower.take() {
                    follower.stop(core.config.stop_timeout).await;
                    core.set_orders(None);
                    core.set_upstream(None);
                }
                let promise = promise::make(core, request, None).await?;
                let policies = core.policies()?;
                return Ok(Some(Event::OwnAnswered { promise, policies }));
            }
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
                return Ok(Some(fetch::run(core, self.address_of(&name), end).await));
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
                };
                self.opened = Some(Opened {
                    promotion,
                    overtaken: overtaken.is_some(),
                });
            }
            Action::Refuse(refusal) => return Err(Error::Refused(refusal.to_string())),
        }
        Ok(None)
    }

    /// As the log says now: what was received or fetched meanwhile may name more nodes.
    fn address_of(&self, name: &NodeName) -> Option<String> {
        let cluster = self.core.cluster();
        cluster.address_of(name).map(str::to_owned)
    }
}

fn config(core: &Core, purpose: Purpose, force: bool) -> Result<CandidateConfig> {
    let (cluster, policies) = (core.cluster(), core.policies()?);
    let mut also_probe = vec![cluster.primary.name];
    if purpose == Purpose::Restart {
        // Some need not agree, but one of them may be the primary by now.
        also_probe.extend(cluster.standbys.into_iter().map(|member| member.name));
    }
    also_probe.retain(|name| *name != core.name);
    Ok(CandidateConfig {
        name: core.name.clone(),
        purpose,
        end: promise::log_end(&core.wal),
        opened: (*core.wal.history()).clone(),
        policies,
        also_probe,
        highest_seen: core.wal.control().highest_number(),
        number: None,
        id: Uuid::new_v4(),
        primary_heard: core.primary_silence(),
        heartbeat_timeout: core.timeout(),
        lag_max: None,
        force,
        without_policy: false,
        may_degrade: core.config.on_miss != OnMiss::Block,
        phase_timeout: PHASE_TIMEOUT,
    })
}

async fn connect(core: &Core, address: Option<String>) -> Result<Client> {
    let address = address.ok_or_else(|| Error::Invalid("its address is not known".to_owned()))?;
    Client::connect(&core.config, &address).await
}

async fn probe(core: Arc<Core>, name: NodeName, address: Option<String>, to: mpsc::Sender<Event>) {
    let asked = timeout(ASK_TIMEOUT, async {
        let mut client = connect(&core, address).await?;
        let answer = client.rows(&Command::ProbeTimeline).await?;
        let set = answer
            .sets
            .first()
            .ok_or_else(|| client.broken("it gave no answer"))?;
        promise::read_probe(set)
    });
    let event = match asked.await {
        Ok(Ok(answer)) => Event::ProbeAnswered(name, answer),
        Ok(Err(error)) => {
            tracing::info!(%name, %error, "cannot probe");
            Event::ProbeFailed(name)
        }
        Err(_) => Event::ProbeFailed(name),
    };
    // The attempt may be over.
    let _ = to.send(event).await;
}

async fn ask_promise(
    core: Arc<Core>,
    name: NodeName,
    address: Option<String>,
    request: PromiseRequest,
    to: mpsc::Sender<Event>,
) {
    let timeline = request.timeline;
    let asked = timeout(ASK_TIMEOUT, async {
        let mut client = connect(&core, address).await?;
        let command = Command::PromiseTimeline(PromiseTimeline {
            timeline,
            candidate: core.name.as_str().to_owned(),
            address: core.address(),
            continues: match request.purpose {
                Purpose::Restart => timelines(&request.opened),
                _ => Vec::new(),
            },
        });
        let answer = client.rows(&command).await?;
        let set = answer
            .sets
            .first()
            .ok_or_else(|| client.broken("it gave no answer"))?;
        promise::read_promise(set)
    });
    let event = match asked.await {
        Ok(Ok(promise)) => Event::PromiseAnswered(name, timeline, promise),
        Ok(Err(error)) => {
            tracing::info!(%name, %error, "cannot ask for a promise");
            Event::PromiseFailed(name)
        }
        Err(_) => Event::PromiseFailed(name),
    };
    // The attempt may be over.
    let _ = to.send(event).await;
}

fn timelines(history: &TimelineHistory) -> Vec<Timeline> {
    let spans = history.spans().iter();
    spans.map(|span| span.timeline).collect()
}

/// Opens the timeline in this node's log, together with the configuration that goes with it.
async fn open(core: &Arc<Core>, timeline: Timeline) -> Result<(Lsn, Lsn)> {
    let mut new = core.cluster();
    new.standbys.retain(|member| member.name != core.name);
    new.primary = core.me();
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
