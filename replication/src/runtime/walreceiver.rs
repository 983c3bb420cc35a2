//! Driving a [`Receiver`]: dials the primary, writes its bytes to our log, reports back.
//!
//! One task follows one upstream at a time and tries the configured addresses in turn. Incoming
//! bytes go to the log as they are, whole records at a time; what is incomplete waits for the rest.
//! A new upstream, a promise, or the end of this node reach it over a channel of [`Order`]s.

mod approach;
mod incoming;
mod interrupt;
mod lost_slot;
mod messages;
mod orders;
mod upstreams;
mod weigh;
mod writing;

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mainstay_storage::{Lsn, TimelineHistory, WaitError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::protocol::commit::Event as Commits;
use crate::protocol::receiver::{Action, Event, GiveUp, Receiver, ReceiverConfig, newest_known};
use crate::runtime::client::Client;
use crate::runtime::core::Core;
use crate::runtime::link::Turn;
use crate::wire::FrontendMessage;
use crate::wire::replication::{Fence, NativeStatus, ReceiverMessage};
use incoming::Incoming;
pub(crate) use orders::Order;
use upstreams::Upstreams;
use weigh::Telling;
pub use weigh::{Way, WayChosen};
use writing::DiskSpeed;

/// Bytes that may be on their way to our disk before we stop taking in more.
const UNFLUSHED_BYTES_MAX: u64 = 32 << 20;

/// How long an upstream that is left may take to accept the news.
const FENCE_FLUSH_MAX: Duration = Duration::from_millis(100);

/// Why following ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// This log cannot follow those addresses; the reason says what to do.
    GaveUp(GiveUp, Vec<String>),
    /// The log or disk failed.
    Failed(Error),
}

struct Driver {
    core: Arc<Core>,
    receiver: Receiver,
    orders: mpsc::Receiver<Order>,
    upstreams: Upstreams,
    client: Option<Client>,
    /// Whether the upstream was the primary when the session began, not a standby itself.
    from_primary: bool,
    incoming: Incoming,
    /// There is log in the queue that nobody was told to write.
    unwritten: bool,
    disk: DiskSpeed,
    written: Lsn,
    flushed: Lsn,
    applied: Lsn,
    /// Nothing is applied any more, because the store failed.
    replay_ended: bool,
    events: VecDeque<Event>,
    /// The upstream has ended the stream, and says what comes next.
    ending: bool,
    /// To be told when the upstream that a promise made old is left.
    left: Option<oneshot::Sender<()>>,
    telling: Telling,
    ended: Option<Ended>,
}

/// Follows until told otherwise.
pub(crate) async fn run(
    core: Arc<Core>,
    upstreams: Vec<String>,
    orders: mpsc::Receiver<Order>,
) -> Ended {
    let wal = &core.wal;
    // What an earlier one received may still be on its way to the disk, and is not asked for again.
    if wal.flushed().wait(wal.appended()).await.is_err() {
        return Ended::Failed(mainstay_storage::Error::Closed.into());
    }
    let (flushed, applied) = (wal.flushed().get(), core.applied.get());
    let control = wal.control();
    let accepted = control.promised().into_iter().chain(control.attempted());
    let accepted = accepted.max_by_key(|timeline| timeline.number);
    let config = ReceiverConfig {
        system_id: wal.identity().system_id,
        history: (*wal.history()).clone(),
        flushed,
        applied: applied.min(flushed),
        commit: wal.replayable().get(),
        accepted,
        heartbeat_timeout: core.timeout(),
        status_interval: core.config.heartbeat_interval,
    };
    let mut driver = Driver {
        receiver: Receiver::new(config, core.clock.now()),
        orders,
        upstreams: Upstreams::new(upstreams),
        client: None,
        from_primary: false,
        incoming: Incoming::new(flushed),
        unwritten: false,
        disk: DiskSpeed::default(),
        written: flushed,
        flushed,
        applied,
        replay_ended: false,
        events: VecDeque::new(),
        ending: false,
        left: None,
        telling: Telling::new(core.config.weighs_copy),
        ended: None,
        core,
    };
    loop {
        if let Some(ended) = driver.ended.take() {
            return ended;
        }
        if let Err(error) = driver.step().await {
            match error.remedy() {
                mainstay_storage::Remedy::Stop => return Ended::Failed(error),
                _ => driver.disconnected(&error).await,
            }
        }
    }
}

impl Driver {
    /// One event, and everything it leads to.
    async fn step(&mut self) -> Result<()> {
        let event = match self.events.pop_front() {
            Some(event) => Some(event),
            None => self.wait().await?,
        };
        let Some(event) = event else { return Ok(()) };
        let mut actions = Vec::new();
        self.receiver.on(event, self.core.clock.now(), &mut actions);
        let mut performed = Ok(true);
        for action in actions {
            performed = self.perform(action).await;
            if !matches!(performed, Ok(true)) {
                break;
            }
        }
        if let Some(done) = self.left.take() {
            self.leave(done);
            return Ok(());
        }
        performed.map(|_| ())
    }

    async fn disconnected(&mut self, error: &Error) {
        let now = self.core.clock.now();
        match self.upstreams.awaits_candidate(now) {
            true => tracing::debug!(%error, "the candidate is not the primary yet"),
            false => tracing::info!(%error, "lost the upstream; dialling again"),
        }
        self.core.set_upstream(None);
        self.client = None;
        let random = self.upstreams.redial(now);
        self.events.clear();
        let event = self.hung_up(random);
        self.events.push_back(event);
    }

    /// What the machine is told when the connection is gone.
    fn hung_up(&mut self, random: u64) -> Event {
        let appended = self.drop_incoming();
        Event::Disconnected { random, appended }
    }

    /// Forgets what is not in the log's queue, and returns where that ends.
    fn drop_incoming(&mut self) -> Lsn {
        let appended = self.core.wal.appended();
        self.incoming.restart(appended);
        appended
    }

    /// Waits for what comes first.
    async fn wait(&mut self) -> Result<Option<Event>> {
        if let Some(event) = self.take_message()? {
            return Ok(Some(event));
        }
        self.write_queued();
        let core = self.core.clone();
        let deadline = self.receiver.deadline().map(|at| core.clock.instant(at));
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => pending().await,
            }
        };
        let busy = core.wal.appended().bytes_since(self.flushed) > UNFLUSHED_BYTES_MAX;
        let turn = async {
            match &mut self.client {
                Some(client) if !busy => client.link.turn().await,
                _ => pending().await,
            }
        };
        let shown = core.shown(self.applied + 1);
        tokio::select! {
            biased;
            order = self.orders.recv() => Ok(self.obey(order)),
            flushed = core.wal.flushed().wait(self.flushed + 1) => {
                let Some(to) = self.unless_cut(flushed)? else {
                    return Ok(None);
                };
                core.commit_event(Commits::Flushed(to));
                // Flushed is written too.
                (self.flushed, self.written) = (to, self.written.max(to));
                Ok(Some(Event::Flushed(to)))
            }
            written = core.wal.written().wait(self.written + 1) => {
                let Some(to) = self.unless_cut(written)? else {
                    return Ok(None);
                };
                self.written = to;
                Ok(Some(Event::Written(to)))
            }
            shown = shown, if !self.replay_ended => {
                let Ok(to) = shown else {
                    // The log is still received and confirmed; only the store stands still.
                    self.replay_ended = true;
                    core.set_trouble(Some("the log cannot be applied here; see the log".to_owned()));
                    return Ok(None);
                };
                self.applied = to.min(self.flushed);
                Ok(Some(Event::Applied(self.applied)))
            }
            turn = turn => match turn? {
                Turn::Moved => self.take_message(),
                Turn::Ended => {
                    let client = self.client.as_ref().expect("it just ended");
                    Err(client.broken("the primary closed the connection"))
                }
            },
            _ = timer => Ok(Some(Event::Tick)),
        }
    }

    /// The position that was reached; `None` where log was cut, which is then known here.
    fn unless_cut(&mut self, waited: Result<Lsn, WaitError>) -> Result<Option<Lsn>> {
        match waited {
            Ok(to) => Ok(Some(to)),
            Err(WaitError::SetBack) => {
                let wal = &self.core.wal;
                (self.written, self.flushed) = (wal.written().get(), wal.flushed().get());
                Ok(None)
            }
            Err(_) => Err(mainstay_storage::Error::Closed.into()),
        }
    }

    async fn carry_out(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Connect => self.connect().await?,
            Action::Identify => self.identify().await?,
            Action::FetchHistory(timeline) => self.fetch_history(timeline).await?,
            Action::CutLog(to) => {
                match self.cut(to) {
                    Ok(()) => self.events.push_front(Event::LogCut),
                    // Nothing comes before the log has its new end.
                    Err(error) => self.ended = Some(Ended::Failed(error)),
                }
            }
            Action::AdoptHistory(history) => self.adopt(&history)?,
            Action::Start { from, timeline } => self.start(from, timeline).await?,
            Action::WriteWal(_) => self.write()?,
            Action::ApplyUpTo(to) => self.core.wal.follow_commit(to),
            Action::SendStatus {
                positions,
                timeline,
                reply_requested,
            } => {
                let status = NativeStatus {
                    write: positions.write,
                    flush: positions.flush,
                    apply: positions.apply,
                    timeline,
                    oldest_snapshot: Lsn::ZERO,
                    time_us: self.core.clock.wall_us(),
                    reply_requested,
                };
                self.send(&ReceiverMessage::NativeStatus(status));
            }
            Action::SendCopyDone => {
                let mut out = BytesMut::new();
                FrontendMessage::CopyDone.encode(&mut out);
                if let Some(client) = &mut self.client {
                    client.link.queue(out.freeze());
                }
            }
            Action::SendFence { timeline, opened } => {
                let reason = "this node knows a newer timeline".to_owned();
                self.send(&ReceiverMessage::Fence(Fence {
                    timeline,
                    opened,
                    reason,
                }));
                if let Some(client) = &mut self.client {
                    // One that takes nothing in any more is not waited for.
                    if let Ok(flushed) = timeout(FENCE_FLUSH_MAX, client.link.flush()).await {
                        flushed?;
                    }
                }
            }
            Action::TimelineClaimed { timeline, opened } => {
                tracing::warn!(%timeline, opened, "the upstream tells of a timeline not known here");
            }
            Action::CaughtUp => self.caught_up(),
            Action::Close(reason) => {
                tracing::info!(%reason, "closing the connection to the upstream");
                self.client = None;
                self.core.set_upstream(None);
                let random = self.upstreams.redial(self.core.clock.now());
                let event = self.hung_up(random);
                self.events.push_back(event);
            }
            Action::GiveUp(GiveUp::Stopped) => self.ended = Some(Ended::Stopped),
            Action::GiveUp(why) => self.gives_up(why),
        }
        Ok(())
    }

    fn cut(&mut self, to: Lsn) -> Result<()> {
        self.drop_incoming();
        let torn = self.core.wal.cut(to)?;
        self.telling.cut = torn.as_ref().map(|torn| torn.at);
        if let Some(torn) = torn {
            self.core.log_was_cut(torn);
        }
        (self.written, self.flushed) = (to, to);
        self.drop_incoming();
        Ok(())
    }

    fn adopt(&mut self, history: &TimelineHistory) -> Result<()> {
        self.core.wal.adopt_history(history)?;
        self.core.switched.send_modify(|count| *count += 1);
        self.core.follows_timeline(newest_known(history, None));
        Ok(())
    }

    fn send(&mut self, message: &ReceiverMessage) {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        if let Some(client) = &mut self.client {
            client.link.queue(out.freeze());
        }
    }
}
